//! Where roles are bound beside the credential's own namespace. What an operator that works in fewer namespaces than before can
//! neither see nor unbind holds the credential: without it, whoever makes its account's name again would have these roles.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Observed, Step, is_held};
use crate::{
    api::{
        Condition, CredentialState, CredentialStatus, Reason,
        condition::{ConditionType, Finding, conditions},
    },
    domain::{binding::BindingKey, name, reach::EVERYWHERE},
};

/// Where roles are bound beside the own namespace.
pub(super) struct Elsewhere<'a> {
    observed: &'a Observed,
    /// Where they are to be.
    wished: BTreeSet<String>,
    /// Where they may be, out of the operator's reach.
    stranded: BTreeSet<String>,
}

impl<'a> Elsewhere<'a> {
    pub(super) fn of<'b>(observed: &'a Observed, wished: impl Iterator<Item = &'b BindingKey>) -> Self {
        let credential = &observed.credential;
        let place = |key: &BindingKey| key.namespace.clone().unwrap_or_else(|| EVERYWHERE.to_owned());
        let own = credential.metadata.namespace.as_deref().unwrap_or_default();
        let wished = wished.map(place).filter(|place| place != own).collect();
        let out_of_reach = |place: &&String| !observed.reach.has_place(place);
        // Whoever takes our finalizer off by hand says that there is nothing any more.
        let status = credential.status.as_ref().filter(|_| is_held(credential));
        let bound_in = status.map(|status| status.bound_in.as_slice()).unwrap_or_default();
        Self { observed, wished, stranded: bound_in.iter().filter(out_of_reach).cloned().collect() }
    }

    /// Whether there is any.
    pub(super) fn is_any(&self) -> bool {
        !self.wished.is_empty() || !self.stranded.is_empty()
    }

    /// For the status.
    pub(super) fn everywhere(&self) -> Vec<String> {
        self.wished.union(&self.stranded).cloned().collect()
    }

    /// Before roles are bound anywhere, to say so, beside what was said before.
    pub(super) fn say_first(&self) -> Option<Step> {
        let mut status = self.observed.credential.status.clone().unwrap_or_default();
        let said = BTreeSet::from_iter(std::mem::take(&mut status.bound_in));
        if self.wished.is_subset(&said) {
            return None;
        }
        status.bound_in = said.union(&self.wished).cloned().collect();
        Some(Step::Say(Box::new(status)))
    }

    /// The status, where somebody has to act: what else is wrong heals, and whether values are accepted stays as it was said.
    pub(super) fn told(&self, mut status: CredentialStatus, now: Timestamp) -> Option<CredentialStatus> {
        if self.stranded.is_empty() {
            return None;
        }
        let metadata = &self.observed.credential.metadata;
        let say =
            |kind, holds| Finding { kind, holds, reason: Reason::RoleNotBindable, message: self.message() };
        let findings = vec![say(ConditionType::Ready, false), say(ConditionType::Stalled, true)];
        let before = self.observed.credential.status.as_ref().map(|status| status.conditions.clone());
        let said = conditions(&before.unwrap_or_default(), findings, metadata.generation, now);
        let usable = |said: &Condition| said.kind == ConditionType::Usable.as_str();
        status.conditions.retain(usable);
        status.conditions.extend(said);
        status.conditions.sort_by_key(|said| said.kind != ConditionType::Ready.as_str());
        status.observed_generation = metadata.generation;
        if status.state != Some(CredentialState::Expired) {
            status.state = Some(CredentialState::Failed);
        }
        status.bound_in = self.everywhere();
        Some(status)
    }

    fn message(&self) -> String {
        let places: Vec<_> = self
            .stranded
            .iter()
            .map(|place| {
                if place == EVERYWHERE {
                    "the whole cluster".to_owned()
                } else {
                    format!("namespace {place}")
                }
            })
            .collect();
        let metadata = &self.observed.credential.metadata;
        format!(
            "roles of it stand bound in {}, where this operator does not work, so it cannot unbind them; have its \
             --watch-namespaces and rights extended, or delete the bindings there whose annotation {} is {}/{} and then take \
             the finalizer {} off",
            places.join(" and "),
            name::OWNER_ANNOTATION,
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
            name::FINALIZER
        )
    }
}
