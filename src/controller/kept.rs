//! What is kept of each kind, and what an object of it belongs to.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Namespace, Secret, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{api::ObjectMeta, core::PartialObjectMeta};
use zeroize::Zeroize;

use super::{Key, Place, cache::Kept};
use crate::{
    api::{
        ApiToken, ApiTokenState, ConditionType, Credential, CredentialPolicy, CredentialState, Instant,
        credential_policy::TokenType,
    },
    domain::{
        binding::{Binding, controller, is_of_kind},
        keyring::{Key as SigningKey, Keyring},
        made_for::MadeFor,
        policy::Labels,
    },
};

/// What is counted of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBrief {
    /// Its state.
    pub state: Option<ApiTokenState>,
    /// Its end.
    pub end: Option<Timestamp>,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// Who draws it.
    pub token_type: TokenType,
    /// Whether it has had a value.
    pub issued: bool,
    /// Whether it does not have what it asks for.
    pub waits: bool,
    /// Whether it has ended in whatever way.
    pub over: bool,
}

impl Kept for ApiToken {
    type Brief = TokenBrief;
    type Owner = Key;

    fn brief(&self) -> TokenBrief {
        let (status, metadata) = (self.status.as_ref(), &self.metadata);
        let state = status.and_then(|status| status.state);
        let end = status.and_then(|status| status.expires_at.as_ref()).map(Instant::timestamp);
        let ended = matches!(state, Some(ApiTokenState::Expired | ApiTokenState::Revoked));
        let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let ready =
            conditions.iter().any(|said| said.kind == ConditionType::Ready.as_str() && said.status == "True");
        TokenBrief {
            state,
            end: end.and_then(Result::ok),
            created_at: metadata.creation_timestamp.as_ref().map(|created| created.0),
            token_type: self.spec.token_type,
            issued: status.is_some_and(|status| status.serial.is_some()),
            waits: !ready,
            over: ended || self.spec.revoked == Some(true) || metadata.deletion_timestamp.is_some(),
        }
    }

    fn owner(&self) -> Option<Key> {
        let namespace = self.metadata.namespace.as_ref()?;
        Some(Key::Credential(Place::new(namespace, &self.spec.credential_ref.name)))
    }
}

/// What others go by of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialBrief {
    /// UID, generation and whether it is being deleted: what its tokens go by.
    pub identity: (Option<String>, Option<i64>, bool),
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// Whether it has had an identity in the cluster.
    pub established: bool,
    /// Whether it has ended, or is being deleted.
    pub over: bool,
}

impl Kept for Credential {
    type Brief = CredentialBrief;
    /// The Secret that it takes its material from, or has its certificate signed by.
    type Owner = Place;

    const BY_NAMESPACE: bool = true;

    fn brief(&self) -> CredentialBrief {
        let (status, metadata) = (self.status.as_ref(), &self.metadata);
        let terminating = metadata.deletion_timestamp.is_some();
        let ended = status.is_some_and(|status| status.state == Some(CredentialState::Expired));
        CredentialBrief {
            identity: (metadata.uid.clone(), metadata.generation, terminating),
            created_at: metadata.creation_timestamp.as_ref().map(|created| created.0),
            established: status.is_some_and(|status| status.service_account.is_some()),
            over: ended || terminating,
        }
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

impl Kept for CredentialPolicy {
    /// The generation: of what it says, nothing changes without it.
    type Brief = (Option<String>, Option<i64>);
    type Owner = Key;

    fn brief(&self) -> Self::Brief {
        (self.metadata.uid.clone(), self.metadata.generation)
    }

    fn owner(&self) -> Option<Key> {
        None
    }
}

impl Kept for PartialObjectMeta<Namespace> {
    /// Its labels, by which policies select it.
    type Brief = Labels;
    type Owner = Key;

    fn brief(&self) -> Labels {
        self.metadata.labels.clone().unwrap_or_default()
    }

    fn owner(&self) -> Option<Key> {
        None
    }
}

/// The keys of the keyring's Secret.
#[derive(Clone, Debug)]
pub struct CachedKeyring(pub Arc<Keyring>);

/// Keys never change; equal IDs are equal keys.
impl PartialEq for CachedKeyring {
    fn eq(&self, other: &Self) -> bool {
        self.0.keys().map(SigningKey::id).eq(other.0.keys().map(SigningKey::id))
    }
}

/// The keyring's Secret. It is cached without its data.
impl Kept for Secret {
    type Brief = CachedKeyring;
    type Owner = Key;

    fn brief(&self) -> CachedKeyring {
        let entries = self.data.iter().flatten().map(|(id, bytes)| (id, bytes.0.as_slice()));
        CachedKeyring(Arc::new(Keyring::read(entries)))
    }

    fn remove_secrets(&mut self) {
        for bytes in self.data.take().iter_mut().flat_map(BTreeMap::values_mut) {
            bytes.0.zeroize();
        }
    }

    fn owner(&self) -> Option<Key> {
        None
    }
}

/// The object for which the operator created this one; without an annotation that names it, the controlling owner. Any user
/// who can update an object can replace its owner references, but only controllers can change the annotation of a Secret.
fn made_for(metadata: &ObjectMeta) -> Option<Key> {
    let (kind, name) = if let Some(made) = MadeFor::of(metadata) {
        (made.kind, made.name)
    } else {
        let owner = controller(metadata)?;
        let kind = ["ApiToken", "Credential"].into_iter().find(|kind| is_of_kind(owner, kind))?;
        (kind.to_owned(), owner.name.clone())
    };
    let place = Place::new(metadata.namespace.as_ref()?, name);
    match kind.as_str() {
        "ApiToken" => Some(Key::ApiToken(place)),
        "Credential" => Some(Key::Credential(place)),
        _ => None,
    }
}

/// The credential that a binding says it is for: by its annotation, or by its owner reference where that was edited.
fn claimed(binding: &Binding) -> Option<Key> {
    let annotated =
        binding.claimed_owner().map(|owner| Key::Credential(Place::new(owner.namespace, owner.name)));
    annotated.or_else(|| made_for(&binding.metadata))
}
