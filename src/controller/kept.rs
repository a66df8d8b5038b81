//! What is kept of each kind, and what an object of it belongs to.

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Secret, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{api::ObjectMeta, core::PartialObjectMeta};

use super::{Key, Place, cache::Kept};
use crate::{
    api::{ApiToken, ApiTokenState, Credential, Instant},
    domain::binding::{Binding, controller, is_of_kind},
};

impl Kept for ApiToken {
    /// The state and the end, which its credential counts.
    type Brief = (Option<ApiTokenState>, Option<Timestamp>);
    type Owner = Key;

    fn brief(&self) -> Self::Brief {
        let status = self.status.as_ref();
        let end = status.and_then(|status| status.expires_at.as_ref()).map(Instant::timestamp);
        (status.and_then(|status| status.state), end.and_then(Result::ok))
    }

    fn owner(&self) -> Option<Key> {
        let namespace = self.metadata.namespace.as_ref()?;
        Some(Key::Credential(Place::new(namespace, &self.spec.credential_ref.name)))
    }
}

impl Kept for Credential {
    /// UID, generation and whether it is being deleted: what its tokens go by.
    type Brief = (Option<String>, Option<i64>, bool);
    /// The Secret that it takes its material from, or has its certificate signed by.
    type Owner = Place;

    fn brief(&self) -> Self::Brief {
        let metadata = &self.metadata;
        (metadata.uid.clone(), metadata.generation, metadata.deletion_timestamp.is_some())
    }

    fn owner(&self) -> Option<Place> {
        let provided = self.spec.provided.as_ref().map(|provided| &provided.secret_ref);
        let issuer =
            self.spec.tls.as_ref().and_then(|tls| tls.issuer.as_ref()).map(|issuer| &issuer.secret_ref);
        Some(Place::new(self.metadata.namespace.as_ref()?, &provided.or(issuer)?.name))
    }
}

impl Kept for PartialObjectMeta<Secret> {
    type Brief = ();
    type Owner = Key;

    fn brief(&self) {}

    fn owner(&self) -> Option<Key> {
        made_for(&self.metadata)
    }
}

impl Kept for PartialObjectMeta<ServiceAccount> {
    type Brief = ();
    type Owner = Key;

    fn brief(&self) {}

    fn owner(&self) -> Option<Key> {
        made_for(&self.metadata)
    }
}

impl Kept for RoleBinding {
    type Brief = ();
    type Owner = Key;

    fn brief(&self) {}

    fn owner(&self) -> Option<Key> {
        claimed(&self.clone().into())
    }
}

impl Kept for ClusterRoleBinding {
    type Brief = ();
    type Owner = Key;

    fn brief(&self) {}

    fn owner(&self) -> Option<Key> {
        claimed(&self.clone().into())
    }
}

/// The keyring's Secret.
impl Kept for Secret {
    type Brief = ();
    type Owner = Key;

    fn brief(&self) {}

    fn owner(&self) -> Option<Key> {
        None
    }
}

/// The object of ours that is the controller of this one.
fn made_for(metadata: &ObjectMeta) -> Option<Key> {
    let owner = controller(metadata)?;
    let place = Place::new(metadata.namespace.as_ref()?, &owner.name);
    if is_of_kind(owner, "ApiToken") {
        return Some(Key::ApiToken(place));
    }
    is_of_kind(owner, "Credential").then_some(Key::Credential(place))
}

/// The credential that a binding says it is for: by its annotation, or by its owner reference where that was edited.
fn claimed(binding: &Binding) -> Option<Key> {
    let annotated =
        binding.claimed_owner().map(|owner| Key::Credential(Place::new(owner.namespace, owner.name)));
    annotated.or_else(|| made_for(&binding.metadata))
}
