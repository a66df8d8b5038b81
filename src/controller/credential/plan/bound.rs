//! Where roles are bound outside the namespace of a credential, and where they may be bound although the operator does not watch the
//! namespace any more. Such bindings keep the credential: without it, a user who creates a ServiceAccount of the same name would get
//! these roles.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Observed, Step, is_held, owner};
use crate::{
    api::{
        CredentialState, CredentialStatus, Reason,
        condition::{ConditionType, Finding, conditions},
    },
    domain::{binding::BindingKey, name, reach::EVERYWHERE},
};

/// Where roles are bound.
pub(super) struct Bound<'a> {
    observed: &'a Observed,
    /// Where they are to be, beside the own namespace.
    wished: BTreeSet<String>,
    /// Where they may be, out of the operator's reach.
    stranded: BTreeSet<String>,
}

impl<'a> Bound<'a> {
    pub(super) fn of<'b>(observed: &'a Observed, wished: impl Iterator<Item = &'b BindingKey>) -> Self {
        let credential = &observed.credential;
        let owner = owner(credential);
        let outside = |key: &BindingKey| Some(place(key)).filter(|place| *place != owner.namespace);
        // Whoever takes our finalizer off by hand says that there is nothing any more.
        let stranded =
            observed.out_of_reach.iter().filter(|_| is_held(&credential.metadata)).cloned().collect();
        Self { observed, wished: wished.filter_map(outside).collect(), stranded }
    }

    /// Where any are, or may be, beside the own namespace.
    pub(super) fn elsewhere(&self) -> BTreeSet<String> {
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

    /// The status, where roles may be bound in namespaces that the operator does not watch. Whether values are accepted stays as it
    /// is.
    pub(super) fn told(&self, status: CredentialStatus, now: Timestamp) -> CredentialStatus {
        let metadata = &self.observed.credential.metadata;
        let Some(message) = out_of_reach(metadata, &self.stranded) else { return status };
        let reason = Reason::RoleNotBindable;
        let finding = |kind, holds| Finding { kind, holds, reason, message: message.clone() };
        let findings = vec![finding(ConditionType::Ready, false), finding(ConditionType::Stalled, true)];
        let before = self.observed.credential.status.as_ref().map(|status| status.conditions.clone());
        let said = conditions(&before.unwrap_or_default(), findings, metadata.generation, now);
        let usable = status.conditions.iter().filter(|said| said.kind == ConditionType::Usable.as_str());
        let mut conditions: Vec<_> = usable.cloned().chain(said).collect();
        conditions.sort_by_key(|said| said.kind != ConditionType::Ready.as_str());
        let ended = status.state == Some(CredentialState::Expired);
        CredentialStatus {
            observed_generation: metadata.generation,
            conditions,
            state: if ended { status.state } else { Some(CredentialState::Failed) },
            bound_in: self.elsewhere().into_iter().collect(),
            ..status
        }
    }
}

/// What is to be done where roles of a credential stand bound in places that the operator does not work in; nothing, where there
/// are none.
#[must_use]
pub fn out_of_reach<'a>(
    metadata: &ObjectMeta,
    places: impl IntoIterator<Item = &'a String>,
) -> Option<String> {
    let places: Vec<_> = places
        .into_iter()
        .map(|place| match place.as_str() {
            EVERYWHERE => "the whole cluster".to_owned(),
            namespace => format!("namespace {namespace}"),
        })
        .collect();
    if places.is_empty() {
        return None;
    }
    Some(format!(
        "roles of it stand bound in {}, where this operator does not work, so it cannot unbind them; have its \
         --watch-namespaces and rights extended, or delete the bindings there whose annotation {} is {}/{} and then take \
         the finalizer {} off",
        places.join(" and "),
        name::OWNER_ANNOTATION,
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
        name::FINALIZER
    ))
}

/// The namespace of a binding, or that it is of the whole cluster.
fn place(key: &BindingKey) -> String {
    key.namespace.clone().unwrap_or_else(|| EVERYWHERE.to_owned())
}
