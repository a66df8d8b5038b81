//! Handles deleted policies: a policy that a user deleted no longer applies; one that was deleted with its definition does.
//!
//! When a `CustomResourceDefinition` is deleted, the API server deletes its objects first, one by one. Reinstalling the
//! definition must not allow anything that the policies refused. So a deleted policy applies until the definition is known
//! to exist with the same UID, and nothing new is created while it does not.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, ResourceExt, api::ListParams, core::PartialObjectMeta};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Context, Judgements, Key, Place};
use crate::{
    api::CredentialPolicy,
    client::Objects,
    controller::write::{RequestError, send},
    domain::policy::{Breach, Policies},
};

/// The interval at which the definition is checked.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The time after which the policies count as complete once the definition exists again. Policies can only be created after
/// it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The deleted policies, and the state of their definition.
#[derive(Default)]
pub(super) struct Lost {
    /// The UIDs of deleted policies that still apply because the reason of their deletion is not known.
    in_doubt: Vec<String>,
    /// The UID of the definition of the policies, once it was checked.
    definition: Option<String>,
    /// The time at which the definition was last missing, or first had another UID.
    missing_at: Option<Instant>,
}

impl Lost {
    /// Records the UID of the definition, if it exists, and returns whether it is the same as before. A new definition does
    /// not have the policies of the previous one, however soon it was created.
    fn see(&mut self, found: Option<String>, now: Instant) -> bool {
        // If policies were deleted before the first check, for example after a change of the leader, their definition is not
        // known.
        let is_first = self.definition.is_none() && self.in_doubt.is_empty();
        let is_it = found.is_some() && (is_first || self.definition == found);
        if !is_it {
            self.missing_at = Some(now);
        }
        self.definition = found.or_else(|| self.definition.take());
        is_it
    }
}

impl Judgements {
    /// Updates the policies. Deleted policies apply until the reason of their deletion is known.
    pub(super) fn take_in(&mut self, policies: Vec<CredentialPolicy>, unreadable: Vec<String>) {
        if self.policies.is_empty() {
            // While there were no policies, the definition was not checked and may have been replaced.
            self.lost.definition = None;
        }
        self.hold(policies, unreadable);
    }

    fn hold(&mut self, mut policies: Vec<CredentialPolicy>, unreadable: Vec<String>) {
        let is_there = |held: &CredentialPolicy| {
            let name = held.name_any();
            unreadable.contains(&name) || policies.iter().any(|policy| policy.name_any() == name)
        };
        let gone: Vec<_> = self.policies.all().iter().filter(|held| !is_there(held)).cloned().collect();
        self.lost.in_doubt = gone.iter().map(|gone| uid(gone).to_owned()).collect();
        policies.extend(gone);
        self.policies = Policies::new(policies, unreadable).into();
        self.changed = true;
    }

    /// Drops the deleted policies with these UIDs: a user deleted them, or they would exist again. Other deleted policies
    /// were deleted after the check, so they stay.
    fn let_go(&mut self, of: &[String], (policies, unreadable): (Vec<CredentialPolicy>, Vec<String>)) {
        let stays = |held: &&CredentialPolicy| !of.iter().any(|of| of == uid(held));
        let held = self.policies.all().iter().filter(stays).cloned().collect();
        self.policies = Policies::new(held, Vec::new()).into();
        self.lost.missing_at = None;
        self.hold(policies, unreadable);
    }

    /// Returns the UIDs of the policies whose reason of deletion must be checked; `None` if no check is needed.
    fn asked(&self) -> Option<Vec<String>> {
        let Lost { in_doubt, definition, missing_at } = &self.lost;
        let unknown = definition.is_none() && !self.policies.is_empty();
        (unknown || !in_doubt.is_empty() || missing_at.is_some()).then(|| in_doubt.clone())
    }

    /// The violation that applies to all credentials while the definition is missing.
    pub(super) fn while_lost(&self) -> Option<Breach> {
        self.lost.missing_at.map(|_| {
            Breach::unknown(format!(
                "the CustomResourceDefinition {} was deleted, and all policies with it, so nobody knows what they allow, and \
                 nothing new is made; put it and them back",
                CredentialPolicy::crd_name()
            ))
        })
    }
}

impl Context {
    /// Records the UID of the definition. Returns whether it is the same as before, and when it was missing.
    fn see_definition(&self, found: Option<String>) -> (bool, Option<Instant>) {
        let judgements = &mut self.memory().policy;
        let before = judgements.lost.missing_at;
        let is_it = judgements.lost.see(found, Instant::now());
        if !is_it && before.is_none() {
            warn!("the definition of policies was deleted; nothing new is made");
            judgements.changed = true;
        }
        (is_it, judgements.lost.missing_at)
    }
}

/// Checks why policies were deleted, if any were.
///
/// # Errors
/// When a read fails; then the policies still apply.
pub(super) async fn reconcile(ctx: &Context) -> Result<(), RequestError> {
    // The check below is not valid for policies that are deleted after this line.
    let Some(asked) = ctx.memory().policy.asked() else { return Ok(()) };
    let (is_it, missing_at) = ctx.see_definition(definition(ctx).await?);
    if let Some(at) = missing_at {
        if !(is_it && at.elapsed() >= PATIENCE && has_seen_all(ctx).await?) {
            ctx.queue.add_after(&Key::Policies, LOOK_AGAIN);
            return Ok(());
        }
        info!("the definition of policies is there again");
    } else if asked.is_empty() {
        return Ok(());
    }
    let judgements = &mut ctx.memory().policy;
    judgements.let_go(&asked, ctx.policies_there());
    Ok(())
}

/// The UID of the definition, if it exists and is not being deleted.
async fn definition(ctx: &Context) -> Result<Option<String>, RequestError> {
    let api: Objects<CustomResourceDefinition> = Objects::all(ctx.client.clone());
    let name = CredentialPolicy::crd_name();
    let what = || format!("get CustomResourceDefinition {name}");
    let found = send(what, api.get_metadata_opt(name)).await?;
    Ok(found.filter(|found| found.metadata.deletion_timestamp.is_none()).and_then(|found| found.uid()))
}

/// Whether the watch has shown all policies. It may take some time before the watch is resumed.
async fn has_seen_all(ctx: &Context) -> Result<bool, RequestError> {
    let objects = Objects::<PartialObjectMeta<CredentialPolicy>>::all(ctx.client.clone());
    let what = || "list CredentialPolicies".to_owned();
    let mut page = send(what, objects.list(&ListParams::default())).await?;
    let mut listed = Vec::new();
    while let Some(found) = send(what, page.next()).await? {
        listed.push(Place::new("", found.metadata().name.clone().unwrap_or_default()));
    }
    let mut seen = [ctx.policies.places(), ctx.policies.unreadable()].concat();
    listed.sort_unstable();
    seen.sort_unstable();
    Ok(listed == seen)
}

fn uid(policy: &CredentialPolicy) -> &str {
    policy.metadata.uid.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::CredentialPolicySpec;

    fn policy(name: &str, uid: &str) -> CredentialPolicy {
        let mut policy = CredentialPolicy::new(name, CredentialPolicySpec::default());
        policy.metadata.uid = Some(uid.to_owned());
        policy
    }

    fn of<const N: usize>(policies: [(&str, &str); N]) -> Vec<CredentialPolicy> {
        policies.into_iter().map(|(name, uid)| policy(name, uid)).collect()
    }

    fn held(judgements: &Judgements) -> Vec<&str> {
        judgements.policies.all().iter().map(uid).collect()
    }

    fn sees(lost: &mut Lost, found: Option<&str>, now: Instant) -> (bool, Option<Instant>) {
        (lost.see(found.map(ToOwned::to_owned), now), lost.missing_at)
    }

    #[test]
    fn another_definition_is_as_good_as_none() {
        let now = Instant::now();
        let [first, second, third] = [1, 2, 3].map(|seconds| now + Duration::from_secs(seconds));
        let mut lost = Lost::default();
        assert_eq!(sees(&mut lost, Some("a"), now), (true, None), "what is seen at the start is the one");
        assert_eq!(sees(&mut lost, Some("a"), first), (true, None));
        assert_eq!(sees(&mut lost, Some("b"), first), (false, Some(first)));
        assert_eq!(sees(&mut lost, Some("b"), second), (true, Some(first)), "from then on it is the one");
        assert_eq!(sees(&mut lost, Some("c"), second), (false, Some(second)));
        let mut lost = Lost { in_doubt: vec!["p".to_owned()], ..Lost::default() };
        assert_eq!(
            sees(&mut lost, Some("a"), now),
            (false, Some(now)),
            "policies went before anybody looked"
        );
        assert_eq!(sees(&mut lost, Some("a"), first), (true, Some(now)));
        let mut lost = Lost { definition: Some("a".to_owned()), ..Lost::default() };
        assert_eq!(sees(&mut lost, None, now), (false, Some(now)));
        assert_eq!(sees(&mut lost, None, first), (false, Some(first)));
        assert_eq!(
            sees(&mut lost, Some("b"), second),
            (false, Some(second)),
            "the time counts from its return"
        );
        assert_eq!(sees(&mut lost, Some("b"), third), (true, Some(second)));
    }

    #[test]
    fn only_those_that_were_asked_about_are_let_go() {
        let mut judgements = Judgements::default();
        judgements.take_in(of([("p", "p1"), ("q", "q1"), ("r", "r1")]), Vec::new());
        assert_eq!(judgements.asked().as_deref(), Some(&[][..]), "which definition they are of");
        judgements.lost.see(Some("a".to_owned()), Instant::now());
        assert_eq!(judgements.asked(), None);
        judgements.take_in(of([("q", "q1"), ("r", "r1")]), Vec::new());
        let asked = judgements.asked().unwrap();
        assert_eq!(asked, ["p1"]);
        // Meanwhile q is deleted, and p is created and deleted again.
        judgements.take_in(of([("p", "p2"), ("r", "r1")]), Vec::new());
        judgements.take_in(of([("r", "r1")]), Vec::new());
        judgements.let_go(&asked, (of([("r", "r1")]), Vec::new()));
        assert_eq!(held(&judgements), ["p2", "q1", "r1"]);
        let asked = judgements.asked().unwrap();
        assert_eq!(asked, ["p2", "q1"]);
        // A policy that the watch shows again applies, whatever was checked.
        judgements.let_go(&asked, (of([("q", "q1"), ("r", "r1")]), Vec::new()));
        assert_eq!((held(&judgements), judgements.asked()), (vec!["q1", "r1"], None));
    }

    #[test]
    fn the_first_policy_has_the_definition_looked_at_again() {
        let mut judgements = Judgements::default();
        assert_eq!(judgements.asked(), None);
        judgements.lost.see(Some("a".to_owned()), Instant::now());
        judgements.take_in(of([("p", "p1")]), Vec::new());
        assert!(judgements.asked().is_some());
        judgements.lost.see(Some("b".to_owned()), Instant::now());
        assert_eq!((judgements.asked(), judgements.lost.missing_at), (None, None));
        judgements.take_in(of([("p", "p1"), ("q", "q1")]), Vec::new());
        assert_eq!(judgements.asked(), None);
    }
}
