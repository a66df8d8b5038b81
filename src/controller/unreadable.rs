//! Invalid objects: they do not match the schema, because they are older than a rule of it, or are too large to be revoked.
//! Nothing is created or changed for them, and their status reports why. An invalid object that is inactive, revoked, expired,
//! being deleted or too large grants nothing: its roles are unbound, and tokens that the API server accepts by itself are
//! deleted.

mod apply;
mod plan;
mod tell;

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use tracing::warn;

use self::tell::tell;
use super::{
    Context, Key, Place,
    cache::{Cache, Kept},
    credential::{apply::remove_finalizer, observe, plan::owner_of},
    write::{RequestError, Trouble, send},
};
use crate::{
    api::{ApiToken, Credential},
    client::{InvalidObject, Objects, Readable, Watched},
};

/// Reports in the status of an invalid Credential why nothing is created for it. If it is inactive, expired, being deleted or too
/// large, its bindings and its kubeconfig are deleted.
///
/// # Errors
/// When a request fails for other reasons than that the status is refused.
pub async fn reconcile_credential(ctx: &Context, place: &Place) -> Result<(), RequestError> {
    let Some(found) = find(ctx, &ctx.credentials, place).await? else { return Ok(()) };
    let bindings = apply::bindings(ctx, &found).await?;
    let now = ctx.clock.now();
    let stranded = observe::out_of_reach(ctx, &found.bound_in);
    let plan = plan::plan(&found, &bindings, &stranded, now);
    ctx.queue.wake(&Key::Credential(place.clone()), plan.wake);
    let shown = &found.metadata;
    let unbound = apply::unbind(ctx, shown, &plan.unbind).await;
    let taken = if plan::grants_nothing(&found, now) {
        apply::take_secrets(ctx, &Key::Credential(place.clone()), &found, true).await
    } else {
        Ok(())
    };
    let ended = unbound.and(taken);
    let why = ended.as_ref().err().and_then(refusal).or(plan.held_by);
    let told = tell::<Credential>(ctx, place, &found, why.as_deref(), now).await;
    ended?;
    // Other clients may edit the object so often that no status can be written.
    if plan.release {
        observe::latest(ctx, shown).await?;
        remove_finalizer(ctx, &owner_of(shown)).await?;
    }
    told
}

/// Reports in the status of an invalid ApiToken why nothing is done for it. If it is revoked, expired or being deleted, its Secret
/// is deleted; if it is too large, only a Secret of a ServiceAccount token.
///
/// # Errors
/// When a request fails for other reasons than that the status is refused.
pub async fn reconcile_token(ctx: &Context, place: &Place) -> Result<(), RequestError> {
    let Some(found) = find(ctx, &ctx.tokens, place).await? else { return Ok(()) };
    let now = ctx.clock.now();
    ctx.queue.wake(&Key::ApiToken(place.clone()), plan::token_ends_at(&found, now));
    let key = Key::ApiToken(place.clone());
    let taken = if plan::takes_secret(&found, now) {
        apply::take_secrets(ctx, &key, &found, false).await
    } else if found.is_too_large() {
        apply::take_secrets(ctx, &key, &found, true).await
    } else {
        Ok(())
    };
    let why = taken.as_ref().err().and_then(refusal);
    tell::<ApiToken>(ctx, place, &found, why.as_deref(), now).await?;
    taken
}

/// The object at `place` as the API server has it, if it exists and is invalid.
async fn find<K>(
    ctx: &Context,
    cache: &Cache<K>,
    place: &Place,
) -> Result<Option<InvalidObject>, RequestError>
where
    K: Kept + Readable + Resource<Scope = NamespaceResourceScope>,
{
    if !cache.is_unreadable(place) {
        return Ok(None);
    }
    let kind = K::kind(&());
    let objects = Objects::<K>::namespaced(ctx.client.clone(), place.namespace());
    let found = send(|| format!("get {kind} {place}"), objects.get_watched(place.name())).await?;
    let Some(Watched(Err(invalid))) = found else { return Ok(None) };
    warn!(%place, %kind, flaw = %invalid.flaw, "object is invalid");
    Ok(Some(*invalid))
}

/// What was refused, and why.
fn refusal(error: &RequestError) -> Option<String> {
    match error.trouble() {
        Trouble::Refused { message, .. } => Some(format!("{error}: {message}")),
        _ => None,
    }
}
