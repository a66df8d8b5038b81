//! What is left of a token that is gone. Garbage collection takes its Secret, in time; but as long as that is there, the API
//! server accepts what it minted for it, so such a Secret does not wait.

use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;

use super::observe::is_minted;
use crate::{
    api::ApiToken,
    client::Objects,
    controller::{
        Context, Key, Place, owned_secret,
        write::{RequestError, send},
    },
    domain::binding::controller,
};

/// Deletes the Secrets of a token that the API server minted, once it is certain that the token is gone.
///
/// # Errors
/// When a request fails.
pub async fn reconcile(ctx: &Context, place: &Place) -> Result<(), RequestError> {
    let left: Vec<PartialObjectMeta<Secret>> = ctx.secrets.owned_by(&Key::ApiToken(place.clone())).collect();
    let mut failed = Ok(());
    for secret in left.iter().filter(|secret| is_minted(&secret.metadata)) {
        failed = failed.and(delete(ctx, place, secret).await);
    }
    failed
}

/// Deletes the Secret if the token that it is owned by is gone.
async fn delete(
    ctx: &Context,
    place: &Place,
    secret: &PartialObjectMeta<Secret>,
) -> Result<(), RequestError> {
    let (Some(owner), Some(name), Some(uid)) =
        (controller(&secret.metadata), &secret.metadata.name, &secret.metadata.uid)
    else {
        return Ok(());
    };
    // A watch that lags is not enough to go by.
    let tokens = Objects::<ApiToken>::namespaced(ctx.client.clone(), place.namespace());
    let there = send(|| format!("get ApiToken {place}"), tokens.get_metadata_opt(place.name())).await?;
    if there.is_some_and(|there| there.metadata.uid.as_ref() == Some(&owner.uid)) {
        return Ok(());
    }
    let held = Place::new(place.namespace(), name);
    owned_secret::delete(ctx, &held, uid, None, true).await
}
