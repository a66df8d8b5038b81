//! Takes away what an object must not grant any more that cannot be read.

use std::collections::BTreeSet;

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::{
    client::InvalidObject,
    controller::{
        Context, Key, Place,
        api_token::observe::is_minted,
        credential::{
            apply,
            observe::{latest, look},
            plan::{is_held, owner_of},
        },
        orphans, owned_secret,
        write::RequestError,
    },
    domain::{
        binding::{Binding, BindingKey, controller},
        made_for::MadeFor,
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
        failed = failed.and(apply::unbind(ctx, key, uid).await.map(drop));
    }
    failed
}

/// Deletes every Secret of the token, whichever of them cannot be deleted: of the names that it may have, also where its label or its owner was taken off, and of
/// those that the watch shows.
pub(super) async fn take_secrets(
    ctx: &Context,
    place: &Place,
    unread: &InvalidObject,
) -> Result<(), RequestError> {
    let shown = ctx.secrets.places_owned_by(&Key::ApiToken(place.clone()));
    let shown = shown.iter().map(|secret| secret.name().to_owned());
    let names = shown.chain(unread.secrets.iter().cloned()).chain([name::token_secret(place.name())]);
    let mut failed = Ok(());
    for name in names.collect::<BTreeSet<_>>() {
        failed = failed.and(take_secret(ctx, &Place::new(place.namespace(), &name), unread).await);
    }
    failed
}

async fn take_secret(ctx: &Context, place: &Place, unread: &InvalidObject) -> Result<(), RequestError> {
    let Some(found) = orphans::read(ctx, place).await? else { return Ok(()) };
    if !is_its(ctx, unread, &found) {
        return Ok(());
    }
    let uid = found.metadata.uid.as_deref().unwrap_or_default();
    owned_secret::delete(ctx, place, uid, None, is_minted(&found.metadata)).await
}

/// Whether a Secret is this very token's: by its owner, or, where it has none, by what the operator has signed.
fn is_its(ctx: &Context, unread: &InvalidObject, found: &Secret) -> bool {
    let uid = unread.metadata.uid.as_ref();
    if let Some(owner) = controller(&found.metadata) {
        return Some(&owner.uid) == uid;
    }
    MadeFor::of_orphan(&found.metadata)
        .is_some_and(|made| Some(&made.uid) == uid && made.is_proven_of(found, &ctx.keyring()))
}
