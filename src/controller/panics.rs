//! Reports a panic of a reconcile, and holds its object back so that the panic does not repeat at full speed.
//!
//! The report is a condition, an event, a metric and a log line, by raw requests: it uses no type, cache or plan that may have
//! panicked. It changes only the conditions, and says nothing about what was done.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{error, warn};

use super::{
    Context, Key, Place, events,
    write::{RequestError, Trouble, send},
};
use crate::api::{
    GROUP, Reason,
    condition::{ConditionType, seconds},
};

const FIRST_DELAY: Duration = Duration::from_secs(5);
const LAST_DELAY: Duration = Duration::from_mins(1);
/// How often the status is written again when the object changed in the meantime.
const WRITES: usize = 5;

/// Objects whose last reconcile panicked. May be lost at any time.
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

    /// How long the object is still held back.
    fn remaining(&self, key: &Key) -> Option<Duration> {
        let until = self.held().get(key)?.until;
        Some(until.saturating_duration_since(Instant::now())).filter(|rest| !rest.is_zero())
    }

    /// Counts one more panic in a row; returns how many there were, and how long to wait.
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

/// Runs one reconcile of `key`. Returns its outcome, or `None` when it panicked or is held back; then the key was given back to
/// the queue.
pub async fn run(
    ctx: &Context,
    key: &Key,
    reconcile: impl Future<Output = Result<(), RequestError>>,
) -> Option<Result<(), RequestError>> {
    if let Some(rest) = ctx.panics.remaining(key) {
        // A change of the object must not cause the panic again at once.
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
        error!(?key, "the report of a panic panicked");
    }
    ctx.queue.failed(key, delay);
    None
}

/// An object of ours, for requests that know no type.
struct Target<'a> {
    kind: &'static str,
    plural: &'static str,
    place: &'a Place,
}

impl<'a> Target<'a> {
    fn of(key: &'a Key) -> Option<Self> {
        match key {
            Key::Credential(place) => Some(Self { kind: "Credential", plural: "credentials", place }),
            Key::ApiToken(place) => Some(Self { kind: "ApiToken", plural: "apitokens", place }),
            Key::Keyring | Key::Sweep | Key::Policies | Key::Admission => None,
        }
    }

    fn path(&self) -> String {
        let (namespace, name) = (self.place.namespace(), self.place.name());
        format!("/apis/{GROUP}/v1alpha1/namespaces/{namespace}/{}/{name}", self.plural)
    }

    fn message(&self) -> String {
        let Self { kind, place, .. } = self;
        format!(
            "The controller panicked while it reconciled {kind} \"{}\". Report this with the controller's log; the controller \
             tries again within {} s.",
            place.name(),
            LAST_DELAY.as_secs()
        )
    }
}

async fn report(ctx: &Context, key: &Key, is_first: bool) {
    let Some(target) = Target::of(key) else {
        if is_first {
            let note = format!(
                "The controller panicked in the task {key:?}. Report this with the controller's log."
            );
            events::of_operator(ctx, Reason::InternalError, "Reconcile", &note).await;
        }
        return;
    };
    let before = match write_status(&ctx.client, &target, ctx.clock.now()).await {
        Ok(before) => before,
        Err(error) => {
            warn!(%error, "the status cannot report the panic");
            Some(Before { uid: None, is_news: is_first })
        }
    };
    // It was deleted.
    let Some(before) = before else { return };
    if before.is_news {
        let regarding = ObjectReference {
            api_version: Some(format!("{GROUP}/v1alpha1")),
            kind: Some(target.kind.to_owned()),
            namespace: Some(target.place.namespace().to_owned()),
            name: Some(target.place.name().to_owned()),
            uid: before.uid,
            ..ObjectReference::default()
        };
        events::publish(ctx, &regarding, Reason::InternalError.as_str(), "Reconcile", &target.message())
            .await;
    }
}

/// What the status said before.
struct Before {
    uid: Option<String>,
    is_news: bool,
}

/// Has the conditions report the panic; `None` where the object is gone.
async fn write_status(
    client: &Client,
    target: &Target<'_>,
    now: Timestamp,
) -> Result<Option<Before>, RequestError> {
    for attempt in 1.. {
        let found = match request(client, target, "GET", &target.path(), Vec::new()).await {
            Err(error) if error.trouble() == Trouble::Gone => return Ok(None),
            found => found?,
        };
        let before = Before {
            uid: found["metadata"]["uid"].as_str().map(ToOwned::to_owned),
            is_news: !reports_panic(&found["status"]),
        };
        let Some(changed) = with_report(&found, target, now) else { return Ok(Some(before)) };
        let path = format!("{}/status", target.path());
        match request(client, target, "PUT", &path, changed.to_string().into_bytes()).await {
            Err(error) if error.trouble() == Trouble::Gone => return Ok(None),
            Err(error) if error.trouble() == Trouble::Moved && attempt < WRITES => {}
            written => return written.map(|_| Some(before)),
        }
    }
    Ok(None)
}

async fn request(
    client: &Client,
    target: &Target<'_>,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> Result<Value, RequestError> {
    let what = || format!("{method} {} {}, to report a panic", target.kind, target.place);
    let sent = async {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header(http::header::CONTENT_TYPE, "application/json").body(body);
        client.request(request.map_err(kube::Error::HttpError)?).await
    };
    send(what, sent).await
}

fn reports_panic(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let ready = |said: &&Value| said["type"] == ConditionType::Ready.as_str();
    conditions.into_iter().find(ready).is_some_and(|said| said["reason"] == Reason::InternalError.as_str())
}

/// The object for a write of its status: all of the status as it is, but for the conditions Ready, Stalled and Reconciling. Of
/// the rest of the object, a write of the status needs the metadata that makes it conditional. `None` when nothing changes.
fn with_report(found: &Value, target: &Target<'_>, now: Timestamp) -> Option<Value> {
    let metadata = &found["metadata"];
    let generation = &metadata["generation"];
    let mut status = if found["status"].is_object() { found["status"].clone() } else { json!({}) };
    let before = status["conditions"].as_array().cloned().unwrap_or_default();
    let own =
        [ConditionType::Ready, ConditionType::Stalled, ConditionType::Reconciling].map(ConditionType::as_str);
    let is_own = |said: &&Value| own.contains(&said["type"].as_str().unwrap_or_default());
    let mut conditions: Vec<_> = before.iter().filter(|said| !is_own(said)).cloned().collect();
    for (kind, holds) in [(ConditionType::Ready, "False"), (ConditionType::Stalled, "True")] {
        let same = before.iter().find(|said| said["type"] == kind.as_str() && said["status"] == holds);
        let since = same.map(|same| same["lastTransitionTime"].clone());
        conditions.push(json!({
            "type": kind.as_str(),
            "status": holds,
            "observedGeneration": generation,
            "lastTransitionTime": since.unwrap_or_else(|| json!(seconds(now).to_string())),
            "reason": Reason::InternalError.as_str(),
            "message": target.message(),
        }));
    }
    status["conditions"] = json!(conditions);
    status["observedGeneration"] = generation.clone();
    let names = ["name", "namespace", "uid", "resourceVersion"];
    let names: serde_json::Map<_, _> =
        names.map(|name| (name.to_owned(), metadata[name].clone())).into_iter().collect();
    (status != found["status"]).then(|| {
        json!({
            "apiVersion": found["apiVersion"],
            "kind": found["kind"],
            "metadata": names,
            "status": status,
        })
    })
}

#[cfg(test)]
mod tests;
