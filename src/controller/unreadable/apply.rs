//! Takes away what an object must not grant any more that cannot be read.

use std::collections::BTreeSet;

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::{
    client::InvalidObject,
    controller::{
        Context, Key, Place,
        credential::{
            apply,
            observe::{latest, look},
            plan::{is_held, owner_of},
        },
        orphans, owned_secret,
        write::RequestError,
    },
    domain::{
        binding::{Binding, BindingKey},
        made_for::{MadeFor, is_minted, is_owned_by},
        name,
    },
};

/// All bindings that are for the credential, as far as that can be known.
pub(super) async fn bindings(ctx: &Context, unread: &InvalidObject) -> Result<Vec<Binding>, RequestError> {
    let owner = owner_of(&unread.metadata);
    let mut found = ctx.bindings_for(&Place::new(&owner.namespace, &owner.name));
    // Once our finalizer is off, nobody looks again; a label that was taken off meanwhile would hide a binding for good.
    if unread.is_terminating() && is_held(&unread.metadata) {
        for key in owner.bindings(&unread.roles).into_keys() {
            if !found.contains_key(&key) && ctx.config.reach.has_binding(&key) {
                found.extend(look(ctx, &key).await?.map(|held| (key, held)));
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Deletes these bindings of the credential. One that cannot be deleted does not keep the others.
pub(super) async fn unbind(
    ctx: &Context,
    shown: &ObjectMeta,
    bindings: &[(BindingKey, String)],
) -> Result<(), RequestError> {
    if bindings.is_empty() {
        return Ok(());
    }
    // Another leader may have bound it again since.
    latest(ctx, shown).await?;
    let mut failed = Ok(());
    for (key, uid) in bindings {
        failed = failed.and(apply::unbind(ctx, key, uid).await);
    }
    failed
}

/// Deletes every Secret of the object with this key, or only those of tokens that the API server accepts by itself: the Secrets with
/// the names that it can have, also if their label or owner was removed, and those that the watch shows. A failed deletion does
/// not prevent the others.
pub(super) async fn take_secrets(
    ctx: &Context,
    key: &Key,
    unread: &InvalidObject,
    only_minted: bool,
) -> Result<(), RequestError> {
    let (place, default) = match key {
        Key::ApiToken(place) => (place, name::token_secret(place.name())),
        Key::Credential(place) => (place, name::material_secret(place.name())),
        Key::Keyring | Key::Sweep | Key::Policies | Key::Admission => return Ok(()),
    };
    let shown = ctx.secrets.places_owned_by(key);
    let shown = shown.iter().map(|secret| secret.name().to_owned());
    let names = shown.chain(unread.secrets.iter().cloned()).chain([default]);
    let mut failed = Ok(());
    for name in names.collect::<BTreeSet<_>>() {
        let place = Place::new(place.namespace(), &name);
        failed = failed.and(take_secret(ctx, &place, unread, only_minted).await);
    }
    failed
}

async fn take_secret(
    ctx: &Context,
    place: &Place,
    unread: &InvalidObject,
    only_minted: bool,
) -> Result<(), RequestError> {
    let Some(found) = orphans::read(ctx, place).await? else { return Ok(()) };
    let minted = is_minted(&found.metadata);
    if only_minted && !minted || !is_its(ctx, unread, &found) {
        return Ok(());
    }
    let uid = found.metadata.uid.as_deref().unwrap_or_default();
    owned_secret::delete(ctx, place, uid, None, minted).await
}

/// Whether a Secret is this very token's: by its owner, or, where it has none, by what the operator has signed.
fn is_its(ctx: &Context, unread: &InvalidObject, found: &Secret) -> bool {
    let uid = unread.metadata.uid.as_deref();
    is_owned_by(&found.metadata, uid)
        || MadeFor::of(&found.metadata)
            .is_some_and(|made| Some(made.uid.as_str()) == uid && made.is_proven_of(found, &ctx.keyring()))
}
