//! Objects of ours that cannot be read: they were stored before a rule existed that would have refused them. Nothing is
//! made or changed for them; their status says so, and what to mend. What is certain to be over grants nothing any more all
//! the same: it is unbound, and what the API server accepts by itself is taken back.

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

/// Has the credential at `place` say why nothing is made for it, if it is there and cannot be read. Where it is inactive, at
/// its end or being deleted, its bindings go.
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
    let why = unbound.as_ref().err().and_then(refusal).or(plan.held_by);
    tell::<Credential>(ctx, place, &found, why.as_deref(), now).await?;
    unbound?;
    if plan.release {
        observe::latest(ctx, shown).await?;
        remove_finalizer(ctx, &owner_of(shown)).await?;
    }
    Ok(())
}

/// Has the token at `place` say why nothing is done for it, if it is there and cannot be read. Where it is revoked, at its end
/// or being deleted, its Secret goes.
///
/// # Errors
/// When a request fails for other reasons than that the status is refused.
pub async fn reconcile_token(ctx: &Context, place: &Place) -> Result<(), RequestError> {
    let Some(found) = find(ctx, &ctx.tokens, place).await? else { return Ok(()) };
    let now = ctx.clock.now();
    ctx.queue.wake(&Key::ApiToken(place.clone()), plan::token_ends_at(&found, now));
    let taken =
        if plan::takes_secret(&found, now) { apply::take_secrets(ctx, place, &found).await } else { Ok(()) };
    let why = taken.as_ref().err().and_then(refusal);
    tell::<ApiToken>(ctx, place, &found, why.as_deref(), now).await?;
    taken
}

/// The object at `place` as the API server has it, if it is there and does not fit its kind.
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
    warn!(%place, %kind, path = invalid.path, "passed over: it does not fit the schema");
    Ok(Some(*invalid))
}

/// What was refused, and why.
fn refusal(error: &RequestError) -> Option<String> {
    match error.trouble() {
        Trouble::Refused { message, .. } => Some(format!("{error}: {message}")),
        _ => None,
    }
}
