//! Events: for trouble, and one for each incident, when a status tells of it for the first time; and for a Secret that was adopted.
//!
//! Which there are follows from the status before and the one that was just written, so an event costs no memory, and
//! neither a restart nor a second leader repeats one: of two that write the same status only one succeeds. Whoever dies
//! between the two writes leaves the event out; the status says the same.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::time::Instant;
use tracing::warn;

use super::{
    Context, Place,
    write::{FIELD_MANAGER, send},
};
use crate::{
    api::{
        ApiToken, ApiTokenStatus, Condition, Credential, CredentialStatus, Instant as ApiInstant, Reason,
        condition::ConditionType, credential::DesiredState,
    },
    domain::{expiry::Terms, name},
};

/// The API server takes no longer notes.
const LONGEST_NOTE: usize = 1024;
/// How many are sent within [`WINDOW`]: each that is sent looks through all of them. The log has the rest.
const AT_MOST: usize = 1_000;
/// As long as the recorder remembers one, to count another like it as its repetition.
const WINDOW: Duration = Duration::from_mins(6);

/// Sends events.
pub struct Events {
    recorder: Recorder,
    sent: Mutex<VecDeque<Instant>>,
}

/// Something that a person should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// One word for it.
    pub reason: &'static str,
    /// What was tried.
    pub action: &'static str,
    /// What there is to say, which is what the status says.
    pub note: String,
}

impl Events {
    /// Sends events by that client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: None };
        Self { recorder: Recorder::new(client, reporter), sent: Mutex::default() }
    }

    /// Whether one more may be sent now.
    fn may_send(&self) -> bool {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        while sent.front().is_some_and(|at| at.elapsed() >= WINDOW) {
            sent.pop_front();
        }
        let may = sent.len() < AT_MOST;
        if may {
            sent.push_back(Instant::now());
        }
        may
    }
}

/// Sends an event, if the status that was written tells of an incident of which the one before did not.
pub async fn of_token(ctx: &Context, before: &ApiToken, written: &ApiToken, now: Timestamp) {
    if let Some(incident) = token_incident(before, &written.status.clone().unwrap_or_default(), now) {
        Box::pin(tell(ctx, written, incident)).await;
    }
}

/// The same of a credential.
pub async fn of_credential(ctx: &Context, before: &Credential, written: &Credential, now: Timestamp) {
    if let Some(incident) = credential_incident(before, &written.status.clone().unwrap_or_default(), now) {
        Box::pin(tell(ctx, written, incident)).await;
    }
}

/// Sends an event about a Secret with material of a Credential that no longer exists.
pub(super) async fn of_orphan(ctx: &Context, secret: &Place, credential: &str) {
    let regarding = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Secret".to_owned()),
        namespace: Some(secret.namespace().to_owned()),
        name: Some(secret.name().to_owned()),
        ..ObjectReference::default()
    };
    let note = format!(
        "Secret \"{}\" has material of Credential \"{credential}\", which no longer exists. Create the Credential again to adopt it, or \
         delete the Secret if you do not need it.",
        secret.name()
    );
    publish(ctx, &regarding, "Orphaned", "Keep", &note).await;
}

/// Sends a Normal event: the Credential took over the material of an earlier one.
pub(super) async fn of_adoption(ctx: &Context, credential: &Credential, secret: &str) {
    let regarding = ObjectReference { resource_version: None, ..credential.object_ref(&()) };
    let name = regarding.name.as_deref().unwrap_or_default();
    let note = format!(
        "Credential \"{name}\" adopted Secret \"{secret}\" with the material of an earlier Credential of its name."
    );
    send_event(ctx, EventType::Normal, &regarding, "AdoptedSecret", "Adopt", &note).await;
}

/// Sends an event about the operator itself. It regards the operator's own namespace, where it is looked for.
pub(super) async fn of_operator(ctx: &Context, reason: Reason, action: &str, note: &str) {
    let namespace = Some(ctx.config.namespace.clone());
    let regarding = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Namespace".to_owned()),
        name: namespace.clone(),
        namespace,
        ..ObjectReference::default()
    };
    publish(ctx, &regarding, reason.as_str(), action, note).await;
}

/// Sends a Warning event; where it cannot be sent, the log says so.
pub(super) async fn publish(
    ctx: &Context,
    regarding: &ObjectReference,
    reason: &str,
    action: &str,
    note: &str,
) {
    send_event(ctx, EventType::Warning, regarding, reason, action, note).await;
}

async fn send_event(
    ctx: &Context,
    type_: EventType,
    regarding: &ObjectReference,
    reason: &str,
    action: &str,
    note: &str,
) {
    let name = regarding.name.as_deref().unwrap_or_default();
    if !ctx.events.may_send() {
        return warn!(name, reason, note, "too many events for another");
    }
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note[..note.floor_char_boundary(LONGEST_NOTE)].to_owned()),
        action: action.to_owned(),
        secondary: None,
    };
    let sent = send(|| format!("record an event of {name}"), ctx.events.recorder.publish(&event, regarding));
    if let Err(error) = sent.await {
        warn!(%error, reason, "an event could not be sent");
    }
}

async fn tell<K: Resource<DynamicType = ()>>(ctx: &Context, object: &K, incident: Incident) {
    let Incident { reason, action, note } = incident;
    let place = Place::of(object);
    // There no event can be made, and all of it is about to go.
    let namespace = ctx.namespaces.get(&Place::new("", place.namespace()));
    if namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
        return;
    }
    // Without the version: of the same object it is a repetition all the same.
    let regarding = ObjectReference { resource_version: None, ..object.object_ref(&()) };
    publish(ctx, &regarding, reason, action, &note).await;
}

fn token_incident(before: &ApiToken, after: &ApiTokenStatus, now: Timestamp) -> Option<Incident> {
    let earlier = before.status.clone().unwrap_or_default();
    let failed = failure(&after.conditions)?;
    // There is a value, and by the time there should be the next.
    let created_at = before.metadata.creation_timestamp.as_ref()?.0;
    let current = Terms::of(&before.spec, created_at).ok().and_then(|terms| terms.current(now));
    let overdue = after.digest.is_some() && current.is_some_and(|current| Some(current) > after.term);
    incident(failed, failure(&earlier.conditions), overdue.then_some(("RenewalFailed", "Renew")))
}

fn credential_incident(before: &Credential, after: &CredentialStatus, now: Timestamp) -> Option<Incident> {
    let earlier = before.status.clone().unwrap_or_default();
    let failed = failure(&after.conditions)?;
    let overdue = before.metadata.deletion_timestamp.is_none()
        && before.spec.state == DesiredState::Active
        && is_overdue(before, after, now);
    incident(failed, failure(&earlier.conditions), overdue.then_some(("RotationFailed", "Rotate")))
}

/// Whether there is material, and it should have been rotated.
fn is_overdue(credential: &Credential, after: &CredentialStatus, now: Timestamp) -> bool {
    let Some(material) = after.material.as_ref().filter(|material| material.digest.is_some()) else {
        return false;
    };
    let revision = credential.spec.rotation.as_ref().and_then(|rotation| rotation.revision);
    let annotations = credential.metadata.annotations.as_ref();
    let asked = annotations.and_then(|all| all.get(name::ROTATE_ANNOTATION));
    let rotates_at = material.rotates_at.as_ref().map(ApiInstant::timestamp).and_then(Result::ok);
    revision.is_some_and(|revision| revision != material.revision.unwrap_or_default())
        || (asked.is_some() && asked != material.rotation_answered.as_ref())
        || rotates_at.is_some_and(|at| at <= now)
}

/// What is not as it should be.
fn failure(conditions: &[Condition]) -> Option<&Condition> {
    let mut ready = conditions.iter().filter(|said| said.kind == ConditionType::Ready.as_str());
    ready.find(|said| said.status == "False")
}

/// What is to be said of a failure, if the one before was not the same already. `overdue`: what it held up.
fn incident(
    failed: &Condition,
    before: Option<&Condition>,
    overdue: Option<(&'static str, &'static str)>,
) -> Option<Incident> {
    let known = [(Reason::Conflict, "Create"), (Reason::MaterialInvalid, "Validate")];
    let known = known.into_iter().find(|(reason, _)| failed.reason == reason.as_str());
    let (reason, action) = known.map(|(reason, action)| (reason.as_str(), action)).or(overdue)?;
    let is_news = before.is_none_or(|before| before.reason != failed.reason);
    is_news.then(|| Incident { reason, action, note: failed.message.clone() })
}

#[cfg(test)]
mod tests;
