//! Writes statuses, and shortens a status that the API server refuses because the object is too large.

use kube::api::{ObjectMeta, PatchParams, PostParams};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tracing::warn;

use super::{
    Place,
    write::{FIELD_MANAGER, RequestError, send, unless_gone},
};
use crate::{
    api::Condition,
    client::{Objects, Readable},
};

/// The status fields that report to verifiers, users and GitOps tools that a value is refused.
const REFUSAL: [&str; 3] = ["conditions", "state", "observedGeneration"];

/// Replaces the status of the object if its resource version is the latest. Returns the object, or `None` if it does not
/// exist.
///
/// If the API server refuses the status as too large, a status that is no larger than the `stored` one is written.
///
/// # Errors
/// When the request fails, for example because the object has changed.
pub async fn replace<K: Readable>(
    objects: &Objects<K>,
    metadata: &ObjectMeta,
    stored: &impl Serialize,
    status: &impl Serialize,
) -> Result<Option<K>, RequestError> {
    let place = &Place::of_metadata(metadata);
    let put = |status: Value| async move {
        let (object, params) = (object::<K>(metadata, &status), PostParams::default());
        send(|| what::<K>(place), objects.replace_status(place.name(), &params, &object)).await
    };
    shortened::<K, _, _>(place, &json!(stored), json!(status), put).await
}

/// The same for an object that is invalid. Returns nothing.
///
/// # Errors
/// When the request fails.
pub async fn replace_of_invalid<K: Readable>(
    objects: &Objects<K>,
    metadata: &ObjectMeta,
    stored: &Value,
    status: &Value,
) -> Result<(), RequestError> {
    let place = &Place::of_metadata(metadata);
    let put = |status: Value| async move {
        let (object, params) = (object::<K>(metadata, &status), PostParams::default());
        send(|| what::<K>(place), objects.replace_status_of_invalid(place.name(), &params, &object)).await
    };
    shortened::<K, _, _>(place, stored, status.clone(), put).await.map(drop)
}

/// Replaces only the fields that report a refusal, if the UID, the generation and these fields are as in `metadata` and
/// `stored`. So edits of the metadata do not delay a refusal, and a stale leader cannot overwrite a later status.
///
/// # Errors
/// When the request fails, for example because one of these has changed.
pub async fn refuse<K: Readable>(
    objects: &Objects<K>,
    metadata: &ObjectMeta,
    stored: &impl Serialize,
    status: &impl Serialize,
) -> Result<Option<K>, RequestError> {
    let place = &Place::of_metadata(metadata);
    let (stored, wanted) = (&json!(stored), json!(status));
    // A status without conditions reads like one with an empty list of them, which no test tells apart.
    if stored["conditions"].as_array().is_none_or(Vec::is_empty) {
        return replace(objects, metadata, stored, &wanted).await;
    }
    let patch = |status: Value| async move {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let operations = refusal(metadata, stored, &status);
        send(|| what::<K>(place), objects.json_patch_status(place.name(), &params, &operations)).await
    };
    shortened::<K, _, _>(place, stored, wanted, patch).await
}

/// Writes the status, and again no larger than the stored one if the API server refuses it as too large.
async fn shortened<K: Readable, T, F>(
    place: &Place,
    stored: &Value,
    wanted: Value,
    write: impl Fn(Value) -> F,
) -> Result<Option<T>, RequestError>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let mut written = write(wanted.clone()).await;
    if written.as_ref().is_err_and(RequestError::is_too_large) {
        warn!(%place, kind = %K::kind(&()), "the object is too large, so its status is shortened");
        written = write(no_larger(stored, &wanted)).await;
    }
    unless_gone(written)
}

/// The body of a request that replaces a status.
fn object<K: Readable>(metadata: &ObjectMeta, status: &Value) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
        "status": status,
    })
}

/// The operations of a JSON patch (RFC 6902) that reports a refusal.
fn refusal(metadata: &ObjectMeta, stored: &Value, status: &Value) -> Value {
    let test = |path: &str, value: &Value| json!({"op": "test", "path": path, "value": value});
    let mut operations = vec![
        test("/metadata/uid", &json!(metadata.uid)),
        test("/metadata/generation", &json!(metadata.generation)),
    ];
    for field in REFUSAL {
        operations.push(test(&format!("/status/{field}"), &stored[field]));
    }
    for field in REFUSAL.iter().filter(|field| !status[*field].is_null()) {
        let path = format!("/status/{field}");
        operations.push(json!({"op": "add", "path": path, "value": status[*field]}));
    }
    Value::Array(operations)
}

fn what<K: Readable>(place: &Place) -> String {
    format!("update the status of {} {place}", K::kind(&()))
}

/// Shortens `wanted` to the size of `stored`: no field or condition is added, and the messages of the conditions are
/// truncated.
fn no_larger(stored: &Value, wanted: &Value) -> Value {
    let none = Map::new();
    let before = stored.as_object().unwrap_or(&none);
    let kept = before.iter().filter(|(field, _)| wanted.get(field).is_some());
    let mut status: Map<_, _> = kept.map(|(field, value)| (field.clone(), value.clone())).collect();
    for field in ["state", "observedGeneration"] {
        if status.contains_key(field) {
            status.insert(field.to_owned(), wanted[field].clone());
        }
    }
    let read = |status: &Value| -> Vec<Condition> {
        serde_json::from_value(status["conditions"].clone()).unwrap_or_default()
    };
    let (mut conditions, wanted) = (read(stored), read(wanted));
    for condition in &mut conditions {
        if let Some(wanted) = wanted.iter().find(|wanted| wanted.kind == condition.kind) {
            *condition = wanted.clone();
        }
    }
    let size = |status: &Map<String, Value>| json!(status).to_string().len();
    let room = size(before);
    status.insert("conditions".to_owned(), json!(conditions));
    for index in 0..conditions.len() {
        let excess = size(&status).saturating_sub(room);
        cut(&mut conditions[index].message, excess);
        status.insert("conditions".to_owned(), json!(conditions));
    }
    status.into()
}

/// Removes at least this number of bytes from the end of a message, or all of them if it is shorter.
fn cut(message: &mut String, bytes: usize) {
    let end = message.floor_char_boundary(message.len().saturating_sub(bytes));
    message.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(conditions: &[(&str, &str, &str, &str)], more: &Value) -> Value {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status, reason, message)| {
                json!({
                    "type": kind, "status": status, "reason": reason, "message": message,
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                })
            })
            .collect();
        let mut status = json!({ "conditions": conditions });
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        status
    }

    #[test]
    fn shortened_status_refuses_and_is_no_larger() {
        let accepted = "its tokens are accepted, each until its end";
        let stored = status(
            &[
                ("Ready", "True", "Published", "the roles are bound"),
                ("Usable", "True", "Published", accepted),
            ],
            &json!({"state": "Active", "digest": "hmac-sha256:k:00"}),
        );
        let long = "the policy \"ä\" allows none of its roles. ".repeat(100);
        let wanted = status(
            &[
                ("Ready", "False", "PolicyViolation", &long),
                ("Usable", "False", "PolicyViolation", &long),
                ("Stalled", "True", "PolicyViolation", &long),
            ],
            &json!({"state": "Failed", "boundIn": ["a", "b"]}),
        );
        let written = no_larger(&stored, &wanted);
        assert!(written.to_string().len() <= stored.to_string().len(), "{written}");
        let usable = &written["conditions"][1];
        assert_eq!((&usable["type"], &usable["status"]), (&json!("Usable"), &json!("False")));
        assert_eq!(usable["reason"], "PolicyViolation");
        assert_eq!(written["state"], "Failed");
        assert!(written.get("digest").is_none() && written.get("boundIn").is_none());
    }

    #[test]
    fn status_that_fits_is_not_shortened() {
        let stored = status(&[("Ready", "False", "Pending", &"x".repeat(200))], &json!({}));
        let wanted = status(&[("Ready", "False", "Pending", "waiting for the Credential")], &json!({}));
        assert_eq!(no_larger(&stored, &wanted), wanted);
    }
}
