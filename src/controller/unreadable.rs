//! Objects of ours that cannot be read: they were stored before a rule existed that would have refused them. Nothing is
//! done for them; their status says so, and what to mend.

use kube::{
    Api,
    api::PostParams,
    core::{ApiResource, DynamicObject},
};
use serde_json::json;
use tracing::warn;

use super::{
    Context, Place,
    cache::{Cache, Kept},
    write::{RequestError, Trouble, send, unless_gone},
};
use crate::api::{
    Reason,
    condition::{Condition, ConditionType, Finding, conditions},
};

/// Has the object at `place` say why nothing is done for it, if it is there and cannot be read.
///
/// # Errors
/// When it cannot be fetched, or the write fails for other reasons than that it is refused.
pub async fn reconcile<K>(ctx: &Context, cache: &Cache<K>, place: &Place) -> Result<(), RequestError>
where
    K: Kept,
{
    if !cache.is_unreadable(place) {
        return Ok(());
    }
    let resource = ApiResource::erase::<K>(&());
    let kind = &resource.kind;
    let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), place.namespace(), &resource);
    let Some(mut found) = send(|| format!("get {kind} {place}"), api.get_opt(place.name())).await? else {
        return Ok(());
    };
    // The parser's own words may repeat what somebody put there by mistake, so only the place is told.
    let Err(error) = serde_path_to_error::deserialize::<_, K>(json!(found)) else {
        return Ok(());
    };
    let path = error.path().to_string();
    warn!(%place, kind, path, "passed over: it does not fit the schema");
    let say = format!(
        "{path} does not fit the schema, so nothing is done for this object; mend it (kubectl explain {}.{path}), or \
         delete the object and create it anew",
        kind.to_lowercase()
    );
    let findings =
        [(ConditionType::Ready, false), (ConditionType::Usable, false), (ConditionType::Stalled, true)];
    let findings = findings.map(|(kind, holds)| Finding {
        kind,
        holds,
        reason: Reason::InvalidSpec,
        message: say.clone(),
    });
    let before = found.data["status"].clone();
    let known: Vec<Condition> = serde_json::from_value(before["conditions"].clone()).unwrap_or_default();
    let mut status = if before.is_object() { before.clone() } else { json!({}) };
    status["state"] = json!("Failed");
    status["observedGeneration"] = json!(found.metadata.generation);
    status["conditions"] =
        json!(conditions(&known, findings.into(), found.metadata.generation, ctx.clock.now()));
    if status == before {
        return Ok(());
    }
    found.data["status"] = status;
    let written = send(
        || format!("update the status of {kind} {place}"),
        api.replace_status(place.name(), &PostParams::default(), &found),
    )
    .await;
    match unless_gone(written) {
        // What is wrong with it may keep it from getting a status, too; the log has said it.
        Err(error) if let Trouble::Refused { message, .. } = error.trouble() => {
            warn!(%place, kind, message, "and it can have no status");
            Ok(())
        }
        written => written.map(drop),
    }
}
