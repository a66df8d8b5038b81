//! Objects of ours that cannot be read: they were stored before a rule existed that would have refused them. Nothing is
//! made or changed for them; their status says so, and what to mend. What is certain to be over grants nothing any more all
//! the same: it is unbound, and what the API server accepts by itself is taken back.

mod apply;
mod plan;
mod tell;

use kube::{
    Api,
    core::{ApiResource, DynamicObject},
};
use serde_json::json;
use tracing::warn;

use self::tell::tell;
use super::{
    Context, Key, Place,
    cache::{Cache, Kept},
    credential::{apply::let_go, observe},
    write::{RequestError, Trouble, send},
};
use crate::api::{ApiToken, Credential, unread::Unread};

/// An object that cannot be read.
struct Found {
    object: DynamicObject,
    /// What can be read of it.
    unread: Unread,
    /// Where it does not fit the schema.
    path: String,
}

/// Has the credential at `place` say why nothing is made for it, if it is there and cannot be read. Where it is inactive, at
/// its end or being deleted, its bindings go.
///
/// # Errors
/// When a request fails for other reasons than that the status is refused.
pub async fn reconcile_credential(ctx: &Context, place: &Place) -> Result<(), RequestError> {
    let Some(found) = find(ctx, &ctx.credentials, place).await? else { return Ok(()) };
    let bindings = apply::bindings(ctx, &found.unread).await?;
    let now = ctx.clock.now();
    let stranded = observe::out_of_reach(ctx, &found.unread.bound_in);
    let plan = plan::plan(&found.unread, &bindings, &stranded, now);
    ctx.queue.wake(&Key::Credential(place.clone()), plan.wake);
    let shown = &found.unread.metadata;
    let unbound = apply::unbind(ctx, shown, &plan.unbind).await;
    let why = unbound.as_ref().err().and_then(refusal).or(plan.held_by);
    tell::<Credential>(ctx, place, &found, why.as_deref(), now).await?;
    unbound?;
    if plan.release {
        let_go(ctx, &observe::latest(ctx, shown).await?).await?;
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
    ctx.queue.wake(&Key::ApiToken(place.clone()), plan::token_ends_at(&found.unread, now));
    let taken = if plan::takes_secret(&found.unread, now) {
        apply::take_secrets(ctx, place, &found.unread).await
    } else {
        Ok(())
    };
    let why = taken.as_ref().err().and_then(refusal);
    tell::<ApiToken>(ctx, place, &found, why.as_deref(), now).await?;
    taken
}

/// The object at `place` as the API server has it, if it is there and cannot be read.
async fn find<K: Kept>(
    ctx: &Context,
    cache: &Cache<K>,
    place: &Place,
) -> Result<Option<Found>, RequestError> {
    if !cache.is_unreadable(place) {
        return Ok(None);
    }
    let resource = ApiResource::erase::<K>(&());
    let kind = &resource.kind;
    let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), place.namespace(), &resource);
    let found = send(|| format!("get {kind} {place}"), api.get_opt(place.name())).await?;
    let Some(object) = found else { return Ok(None) };
    // The parser's own words may repeat what somebody put there by mistake, so only the place is told.
    let Err(error) = serde_path_to_error::deserialize::<_, K>(json!(object)) else {
        return Ok(None);
    };
    let path = error.path().to_string();
    warn!(%place, kind, path, "passed over: it does not fit the schema");
    let unread = Unread::of(object.metadata.clone(), &object.data);
    Ok(Some(Found { object, unread, path }))
}

/// What was refused, and why.
fn refusal(error: &RequestError) -> Option<String> {
    match error.trouble() {
        Trouble::Refused { message, .. } => Some(format!("{error}: {message}")),
        _ => None,
    }
}
