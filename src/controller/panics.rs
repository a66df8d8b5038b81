//! Reports a panic of a reconcile, and backs off before the object is reconciled again.
//!
//! The report is a condition, an event, a metric and a log line. The code uses no type, cache or plan that may have caused
//! the panic, and changes only the conditions.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::ObjectReference};
use kube::{Resource, api::PostParams};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{error, warn};

use super::{
    Context, Key, Place, events,
    write::{RequestError, Trouble, send},
};
use crate::{
    api::{
        ApiToken, Credential, Reason,
        condition::{ConditionType, seconds},
    },
    client::{Objects, Readable, Untyped},
};

const FIRST_DELAY: Duration = Duration::from_secs(5);
const LAST_DELAY: Duration = Duration::from_mins(1);
/// The maximum number of attempts to write the status while the object changes.
const WRITES: usize = 5;

/// The objects whose last reconcile panicked. The record is in memory only and may be lost.
#[derive(Default)]
pub struct Panics {
    held: Mutex<HashMap<Key, Held>>,
}

struct Held {
    in_a_row: u32,
    until: Instant,
}

impl Panics {
    fn held(&self) -> MutexGuard<'_, HashMap<Key, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The remaining delay before the object may be reconciled again.
    fn remaining(&self, key: &Key) -> Option<Duration> {
        let until = self.held().get(key)?.until;
        Some(until.saturating_duration_since(Instant::now())).filter(|rest| !rest.is_zero())
    }

    /// Records a panic. Returns the number of consecutive panics and the delay before the next reconcile.
    fn note(&self, key: &Key) -> (u32, Duration) {
        let mut held = self.held();
        let in_a_row = held.get(key).map_or(0, |held| held.in_a_row).saturating_add(1);
        let delay = FIRST_DELAY.saturating_mul(1 << (in_a_row - 1).min(16)).min(LAST_DELAY);
        held.insert(key.clone(), Held { in_a_row, until: Instant::now() + delay });
        (in_a_row, delay)
    }

    fn clear(&self, key: &Key) {
        self.held().remove(key);
    }
}

/// Runs one reconcile of `key`. Returns its outcome, or `None` if it panicked or the delay after a panic is not over; then
/// the key is in the queue again.
pub async fn run(
    ctx: &Context,
    key: &Key,
    reconcile: impl Future<Output = Result<(), RequestError>>,
) -> Option<Result<(), RequestError>> {
    if let Some(rest) = ctx.panics.remaining(key) {
        // A change of the object must not cause the panic again before the delay is over.
        ctx.queue.add_after(key, rest);
        ctx.queue.done(key);
        return None;
    }
    if let Ok(outcome) = AssertUnwindSafe(reconcile).catch_unwind().await {
        ctx.panics.clear(key);
        return Some(outcome);
    }
    let (in_a_row, delay) = ctx.panics.note(key);
    ctx.metrics.note_panic(key);
    error!(?key, in_a_row, retry_after = ?delay, "reconcile panicked");
    let reported = AssertUnwindSafe(report(ctx, key, in_a_row == 1)).catch_unwind().await;
    if reported.is_err() {
        error!(?key, "reporting the panic panicked, too");
    }
    ctx.queue.failed(key, delay);
    None
}

async fn report(ctx: &Context, key: &Key, is_first: bool) {
    match key {
        Key::Credential(place) => report_of::<Credential>(ctx, place, is_first).await,
        Key::ApiToken(place) => report_of::<ApiToken>(ctx, place, is_first).await,
        Key::Keyring | Key::Sweep | Key::Policies | Key::Admission if is_first => {
            let note = format!(
                "The controller panicked in the task {key:?}. Report this with the controller's log."
            );
            events::of_operator(ctx, Reason::InternalError, "Reconcile", &note).await;
        }
        Key::Keyring | Key::Sweep | Key::Policies | Key::Admission => {}
    }
}

async fn report_of<K>(ctx: &Context, place: &Place, is_first: bool)
where
    K: Readable + Resource<Scope = NamespaceResourceScope>,
{
    let kind = K::kind(&());
    let message = format!(
        "The controller panicked while it reconciled {kind} \"{}\". Report this with the controller's log; the controller tries \
         again within {} s.",
        place.name(),
        LAST_DELAY.as_secs()
    );
    let before = match write_status::<K>(ctx, place, &message).await {
        Ok(before) => before,
        Err(error) => {
            warn!(%error, "the panic could not be reported in the status");
            Some(Before { uid: None, is_news: is_first })
        }
    };
    // The object was deleted.
    let Some(before) = before else { return };
    if before.is_news {
        let regarding = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(kind.into_owned()),
            namespace: Some(place.namespace().to_owned()),
            name: Some(place.name().to_owned()),
            uid: before.uid,
            ..ObjectReference::default()
        };
        events::publish(ctx, &regarding, Reason::InternalError.as_str(), "Reconcile", &message).await;
    }
}

/// The object before its status was written.
struct Before {
    uid: Option<String>,
    is_news: bool,
}

/// Reports the panic in the conditions. Returns `None` if the object does not exist.
async fn write_status<K>(ctx: &Context, place: &Place, message: &str) -> Result<Option<Before>, RequestError>
where
    K: Readable + Resource<Scope = NamespaceResourceScope>,
{
    let kind = K::kind(&());
    let objects = Objects::<K>::namespaced(ctx.client.clone(), place.namespace());
    for attempt in 1.. {
        let what = || format!("get {kind} {place}, to report a panic");
        let Some(found) = send(what, objects.get_untyped(place.name())).await? else { return Ok(None) };
        let before = Before { uid: found.metadata.uid.clone(), is_news: !reports_panic(&found.status) };
        let Some(status) = with_report(&found, message, ctx.clock.now()) else { return Ok(Some(before)) };
        // UID and resource version make the write conditional.
        let changed = json!({
            "apiVersion": K::api_version(&()),
            "kind": kind,
            "metadata": {
                "name": place.name(),
                "namespace": place.namespace(),
                "uid": found.metadata.uid,
                "resourceVersion": found.metadata.resource_version,
            },
            "status": status,
        });
        let what = || format!("update the status of {kind} {place}, to report a panic");
        let params = PostParams::default();
        match send(what, objects.replace_status_of_invalid(place.name(), &params, &changed)).await {
            Err(error) if error.trouble() == Trouble::Gone => return Ok(None),
            Err(error) if error.trouble() == Trouble::Moved && attempt < WRITES => {}
            written => return written.map(|()| Some(before)),
        }
    }
    Ok(None)
}

fn reports_panic(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let ready = |found: &&Value| found["type"] == ConditionType::Ready.as_str();
    conditions.into_iter().find(ready).is_some_and(|found| found["reason"] == Reason::InternalError.as_str())
}

/// Returns the status with the conditions Ready, Stalled and Reconciling replaced, or `None` if nothing changes.
fn with_report(found: &Untyped, message: &str, now: Timestamp) -> Option<Value> {
    let generation = found.metadata.generation;
    let mut status = if found.status.is_object() { found.status.clone() } else { json!({}) };
    let before = status["conditions"].as_array().cloned().unwrap_or_default();
    let own =
        [ConditionType::Ready, ConditionType::Stalled, ConditionType::Reconciling].map(ConditionType::as_str);
    let is_own = |found: &&Value| own.contains(&found["type"].as_str().unwrap_or_default());
    let mut conditions: Vec<_> = before.iter().filter(|found| !is_own(found)).cloned().collect();
    for (kind, holds) in [(ConditionType::Ready, "False"), (ConditionType::Stalled, "True")] {
        let same = before.iter().find(|found| found["type"] == kind.as_str() && found["status"] == holds);
        let since = same.map(|same| same["lastTransitionTime"].clone());
        conditions.push(json!({
            "type": kind.as_str(),
            "status": holds,
            "observedGeneration": generation,
            "lastTransitionTime": since.unwrap_or_else(|| json!(seconds(now).to_string())),
            "reason": Reason::InternalError.as_str(),
            "message": message,
        }));
    }
    status["conditions"] = json!(conditions);
    status["observedGeneration"] = json!(generation);
    (status != found.status).then_some(status)
}

#[cfg(test)]
mod tests;
