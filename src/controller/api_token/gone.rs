//! What is left of a token that is gone. Garbage collection takes its Secret, in time; but as long as that is there, the API
//! server accepts what it minted for it, so such a Secret does not wait.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, core::PartialObjectMeta};

use super::observe::is_minted;
use crate::{
    api::ApiToken,
    controller::{
        Context, Key, Place,
        write::{RequestError, delete_only, send, unless_gone},
    },
    domain::binding::controller,
};

/// Deletes the Secrets of a token that the API server minted, once it is certain that the token is gone.
///
/// # Errors
/// When a request fails.
pub async fn reconcile(ctx: &Context, place: &Place) -> Result<(), RequestError> {
    let left: Vec<PartialObjectMeta<Secret>> = ctx.secrets.owned_by(&Key::ApiToken(place.clone())).collect();
    for secret in left.iter().filter(|secret| is_minted(&secret.metadata)) {
        let (Some(owner), Some(name), Some(uid)) =
            (controller(&secret.metadata), &secret.metadata.name, &secret.metadata.uid)
        else {
            continue;
        };
        // A watch that lags is not enough to go by.
        let tokens: Api<ApiToken> = Api::namespaced(ctx.client.clone(), place.namespace());
        let there = send(|| format!("get ApiToken {place}"), tokens.get_metadata_opt(place.name())).await?;
        if there.is_some_and(|there| there.metadata.uid.as_ref() == Some(&owner.uid)) {
            continue;
        }
        let held = Place::new(place.namespace(), name);
        let api: Api<Secret> = Api::namespaced(ctx.client.clone(), place.namespace());
        unless_gone(
            send(|| format!("delete Secret {held}"), api.delete(name, &delete_only(uid, None))).await,
        )?;
        ctx.secrets.forget(&held, uid);
    }
    Ok(())
}
