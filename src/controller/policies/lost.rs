//! Policies that are not there any more: deleted by somebody who wants that, or gone with their definition.
//!
//! When a `CustomResourceDefinition` is deleted, the API server deletes its objects first, one by one. That somebody takes the
//! definition away to install it anew is no reason to allow what policies did not. So what a policy said holds until it is
//! known that the definition is there, and while it is not, nothing new is made.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, CustomResourceExt, ResourceExt, api::ListParams};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Context, Judgements, Key, Place};
use crate::{
    api::CredentialPolicy,
    controller::write::{RequestError, send},
    domain::policy::{Breach, Policies},
};

/// How often the definition is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long the definition is to be there again before the policies are taken for all there are: they come after it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is not known of policies that are not there any more.
#[derive(Default)]
pub(super) struct Lost {
    /// Whether any of those that hold are not there, and nobody has asked why.
    in_doubt: bool,
    /// When the definition was last seen to be missing.
    missing_at: Option<Instant>,
}

impl Judgements {
    /// Takes in what policies there are; those that were there hold until it is known why they are not.
    pub(super) fn take_in(&mut self, mut policies: Vec<CredentialPolicy>, unreadable: Vec<String>) {
        let is_there = |held: &CredentialPolicy| {
            let name = held.name_any();
            unreadable.contains(&name) || policies.iter().any(|policy| policy.name_any() == name)
        };
        let gone: Vec<_> = self.policies.all().iter().filter(|held| !is_there(held)).cloned().collect();
        self.lost.in_doubt = !gone.is_empty();
        policies.extend(gone);
        self.policies = Policies::new(policies, unreadable).into();
        self.changed = true;
    }

    /// What that is to everybody.
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
    fn lost(&self) -> (bool, Option<Instant>) {
        let lost = &self.memory().policy.lost;
        (lost.in_doubt, lost.missing_at)
    }
}

/// Finds out why policies are not there any more, where any are not.
///
/// # Errors
/// When a read fails; then they hold.
pub(super) async fn reconcile(ctx: &Context) -> Result<(), RequestError> {
    let (in_doubt, missing_at) = ctx.lost();
    if !in_doubt && missing_at.is_none() {
        return Ok(());
    }
    if !is_defined(ctx).await? {
        if missing_at.is_none() {
            warn!("the definition of policies was deleted; nothing new is made");
        }
        let judgements = &mut ctx.memory().policy;
        judgements.changed |= missing_at.is_none();
        judgements.lost.missing_at = Some(Instant::now());
        ctx.queue.add_after(&Key::Policies, LOOK_AGAIN);
        return Ok(());
    }
    let patient = missing_at.is_none_or(|at| at.elapsed() >= PATIENCE);
    if missing_at.is_some() && !(patient && has_seen_all(ctx).await?) {
        ctx.queue.add_after(&Key::Policies, LOOK_AGAIN);
        return Ok(());
    }
    if missing_at.is_some() {
        info!("the definition of policies is there again");
    }
    let judgements = &mut ctx.memory().policy;
    judgements.policies = Policies::default().into();
    judgements.lost = Lost::default();
    let (policies, unreadable) = ctx.policies_there();
    judgements.take_in(policies, unreadable);
    Ok(())
}

/// Whether the definition is there, and not being deleted.
async fn is_defined(ctx: &Context) -> Result<bool, RequestError> {
    let api: Api<CustomResourceDefinition> = Api::all(ctx.client.clone());
    let name = CredentialPolicy::crd_name();
    let what = || format!("get CustomResourceDefinition {name}");
    let found = send(what, api.get_metadata_opt(name)).await?;
    Ok(found.is_some_and(|found| found.metadata.deletion_timestamp.is_none()))
}

/// Whether the watch has shown what there is: it may be some time before it is taken up again.
async fn has_seen_all(ctx: &Context) -> Result<bool, RequestError> {
    let api: Api<CredentialPolicy> = Api::all(ctx.client.clone());
    let all = ListParams::default();
    let listed = send(|| "list CredentialPolicies".to_owned(), api.list_metadata(&all)).await?;
    let mut listed: Vec<_> = listed.iter().map(Place::of).collect();
    let mut seen = [ctx.policies.places(), ctx.policies.unreadable()].concat();
    listed.sort_unstable();
    seen.sort_unstable();
    Ok(listed == seen)
}
