//! Deletes orphans: objects whose owner no longer exists and that garbage collection does not delete, because
//! `kubectl delete --cascade=orphan` removed their owner reference, or a backup restored them without.
//!
//! The material of a Credential is never deleted as an orphan. It is reported, and a Credential of its name can adopt it
//! (`domain::adoption`).
//!
//! The Secret of a token that the API server accepts by itself is deleted without waiting for garbage collection, whatever
//! its owner references are. The sweep deletes orphaned bindings in other namespaces.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Resource, api::ObjectMeta, core::NamespaceResourceScope};
use tracing::info;

use super::{
    Context, Key, Place,
    credential::apply::delete_binding,
    events, owned_secret,
    write::{RequestError, delete_only, send, unless_gone},
};
use crate::{
    api::{ApiToken, Credential},
    client::{Objects, Readable},
    domain::{
        attested::is_accepted,
        binding::{Binding, controller, is_of_kind},
        keyring::Keyring,
        made_for::{MadeFor, is_minted, is_owned_by},
        name,
    },
};

/// Whether there can be orphans of the object with this key beside the Secret with this name.
#[must_use]
pub fn may_have(ctx: &Context, key: &Key, own_secret: &str) -> bool {
    ctx.secrets.places_owned_by(key).iter().any(|place| place.name() != own_secret)
}

/// Deletes the orphans of the object with this key. Returns whether there were any. Without orphans, no request is sent.
///
/// # Errors
/// When a read or a deletion fails.
pub async fn reconcile(ctx: &Context, key: &Key) -> Result<bool, RequestError> {
    let (place, kind) = match key {
        Key::ApiToken(place) => (place, "ApiToken"),
        Key::Credential(place) => (place, "Credential"),
        Key::Keyring | Key::Sweep | Key::Policies | Key::Admission => return Ok(false),
    };
    let keyring = ctx.keyring();
    let mut known = Known { ctx, key, looked: false, uid: None };
    // A failed deletion does not prevent the others.
    let (mut found, mut failed) = (false, Ok(()));
    let of_it = |metadata: &ObjectMeta| {
        MadeFor::of_orphan(metadata).filter(|made| made.kind == kind && made.name == place.name())
    };
    let mut unproven = BTreeSet::new();
    let (minted, others): (Vec<_>, Vec<_>) =
        ctx.secrets.owned_by(key).partition(|secret| is_minted(&secret.metadata));
    for secret in minted {
        let Some((uid, proven)) = owner_of_minted(&secret.metadata, key, &keyring) else { continue };
        if known.is_gone(&uid).await? {
            let own_uid = secret.metadata.uid.as_deref().unwrap_or_default();
            // Without a proof, it is deleted as by garbage collection, which respects finalizers.
            failed = failed.and(owned_secret::delete(ctx, &Place::of(&secret), own_uid, None, proven).await);
            found = true;
        }
    }
    let mut kept = BTreeSet::new();
    for secret in others {
        let Some(made) = of_it(&secret.metadata) else { continue };
        if !known.is_gone(&made.uid).await? {
            continue;
        }
        let Some(secret) = read(ctx, &Place::of(&secret)).await? else { continue };
        // Any user may have copied the annotations of one of the operator's Secrets.
        if !of_it(&secret.metadata).is_some_and(|said| said == made && said.is_proven_of(&secret, &keyring)) {
            unproven.extend(secret.metadata.uid);
        } else if kind == "Credential" && !is_accepted(&secret, &made.uid, &keyring) {
            kept.insert(Place::of_metadata(&secret.metadata));
        } else {
            failed = failed.and(delete_secret(ctx, &secret.metadata).await);
            found = true;
        }
    }
    for account in ctx.accounts.owned_by(key) {
        let is_its = account.metadata.name.as_ref() == Some(&name::service_account(place.name()));
        let Some(made) = of_it(&account.metadata).filter(|_| is_its) else { continue };
        if !known.is_gone(&made.uid).await? {
            continue;
        }
        let uid = account.metadata.uid.as_deref().unwrap_or_default();
        if made.verify_as(&keyring, uid).is_ok() {
            failed = failed.and(delete_account(ctx, &account.metadata).await);
            found = true;
        } else {
            unproven.insert(uid.to_owned());
        }
    }
    ctx.note_unproven(key, &unproven);
    for secret in ctx.note_orphaned(key, &kept) {
        events::of_orphan(ctx, &secret, place.name()).await;
    }
    if kind == "ApiToken" {
        return failed.map(|()| found);
    }
    for binding in ctx.role_bindings.owned_by(key).map(Binding::from) {
        if let Some(owner) = binding.claimed_owner()
            && (owner.namespace.as_str(), owner.name.as_str()) == (place.namespace(), place.name())
            && owner.orphaned(&binding)
            && known.is_gone(&owner.uid).await?
        {
            let uid = binding.metadata.uid.as_deref().unwrap_or_default();
            failed = failed.and(delete_binding(ctx, &binding.key(), uid).await);
            found = true;
        }
    }
    failed.map(|()| found)
}

/// The UID of the object that the Secret of a token is for, and whether the Secret proves it. Without a proof, the object with this key
/// must control the Secret.
fn owner_of_minted(found: &ObjectMeta, key: &Key, keyring: &Keyring) -> Option<(String, bool)> {
    let own_uid = found.uid.as_deref().unwrap_or_default();
    let made = MadeFor::of(found)
        .filter(|made| made.verify_as(keyring, own_uid).is_ok() || made.verify(keyring).is_ok());
    if let Some(made) = made {
        return Some((made.uid, true));
    }
    let (kind, name) = match key {
        Key::ApiToken(place) => ("ApiToken", place.name()),
        Key::Credential(place) => ("Credential", place.name()),
        Key::Keyring | Key::Sweep | Key::Policies | Key::Admission => return None,
    };
    let owner = controller(found).filter(|owner| is_of_kind(owner, kind) && owner.name == name)?;
    is_owned_by(found, Some(&owner.uid)).then(|| (owner.uid.clone(), false))
}

/// The UID of the object with this key, read at most once.
struct Known<'a> {
    ctx: &'a Context,
    key: &'a Key,
    /// Whether the UID was read.
    looked: bool,
    /// The UID, if the object exists.
    uid: Option<String>,
}

impl Known<'_> {
    /// Whether the object with this UID no longer exists. A UID is never used again.
    async fn is_gone(&mut self, uid: &str) -> Result<bool, RequestError> {
        let (cached, read) = match self.key {
            Key::ApiToken(place) => (self.ctx.tokens.get(place).and_then(|held| held.metadata.uid), place),
            Key::Credential(place) => {
                (self.ctx.credentials.get(place).and_then(|held| held.metadata.uid), place)
            }
            Key::Keyring | Key::Sweep | Key::Policies | Key::Admission => return Ok(false),
        };
        if cached.as_deref() == Some(uid) {
            return Ok(false);
        }
        if !self.looked {
            self.uid = match self.key {
                Key::ApiToken(_) => latest::<ApiToken>(self.ctx, read).await?,
                _ => latest::<Credential>(self.ctx, read).await?,
            };
            self.looked = true;
        }
        Ok(self.uid.as_deref() != Some(uid))
    }
}

async fn latest<K>(ctx: &Context, place: &Place) -> Result<Option<String>, RequestError>
where
    K: Readable + Resource<Scope = NamespaceResourceScope>,
{
    let api: Objects<K> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let what = || format!("get {} {place}", K::kind(&()));
    Ok(send(what, api.get_metadata_opt(place.name())).await?.and_then(|found| found.metadata.uid))
}

/// Gets the Secret at `place`, if it exists.
pub(super) async fn read(ctx: &Context, place: &Place) -> Result<Option<Secret>, RequestError> {
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), place.namespace());
    unless_gone(send(|| format!("get Secret {place}"), api.get(place.name())).await)
}

/// Deletes the Secret in the version that was checked, so that a Secret that is adopted in the meantime is not deleted.
async fn delete_secret(ctx: &Context, orphan: &ObjectMeta) -> Result<(), RequestError> {
    let place = Place::of_metadata(orphan);
    info!(%place, "deleting orphaned Secret: owner no longer exists");
    let uid = orphan.uid.as_deref().unwrap_or_default();
    owned_secret::delete(ctx, &place, uid, orphan.resource_version.as_deref(), false).await
}

/// Deletes the ServiceAccount in the version that was checked.
async fn delete_account(ctx: &Context, orphan: &ObjectMeta) -> Result<(), RequestError> {
    let place = Place::of_metadata(orphan);
    info!(%place, "deleting orphaned ServiceAccount: owner no longer exists");
    let uid = orphan.uid.as_deref().unwrap_or_default();
    let params = delete_only(uid, orphan.resource_version.as_deref());
    let accounts: Objects<ServiceAccount> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let deleted = send(|| format!("delete ServiceAccount {place}"), accounts.delete(place.name(), &params));
    unless_gone(deleted.await).map(drop)
}
