//! Writes the status of an invalid object.

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use serde_json::{Value, json};
use tracing::warn;

use crate::{
    api::{
        CredentialStatus, Reason,
        condition::{Condition, ConditionType, Finding, conditions},
    },
    client::{Flaw, InvalidObject, Objects, Readable},
    controller::{
        Context, Place, status,
        write::{RequestError, Trouble},
    },
};

/// Writes the status if it differs; `why`: what else somebody has to act upon.
pub(super) async fn tell<K>(
    ctx: &Context,
    place: &Place,
    found: &InvalidObject,
    why: Option<&str>,
    now: Timestamp,
) -> Result<(), RequestError>
where
    K: Readable + Resource<Scope = NamespaceResourceScope>,
{
    let kind = K::kind(&());
    let say = match &found.flaw {
        Flaw::Field(path) => format!(
            "{path} does not fit the schema, so nothing is done for this object; mend it (kubectl explain {}.{path}), or \
             delete the object and create it anew",
            kind.to_lowercase()
        ),
        Flaw::Size { is, allowed } => format!(
            "{kind} \"{}\" takes {is} bytes, more than {allowed}, so it grants nothing. Remove labels, annotations and managed fields: \
             kubectl patch {} {0} --type=json -p '[{{\"op\":\"replace\",\"path\":\"/metadata/managedFields\",\"value\":[{{}}]}}]'",
            place.name(),
            kind.to_lowercase()
        ),
    };
    let say = why.iter().fold(say, |say, why| format!("{say}; {why}"));
    let status = status(found, &say, now);
    if found.status == status {
        return Ok(());
    }
    let objects = Objects::<K>::namespaced(ctx.client.clone(), place.namespace());
    match status::replace_of_invalid(&objects, &found.metadata, &found.status, &status).await {
        // What is wrong with it may keep it from getting a status, too; the log has said it.
        Err(error) if let Trouble::Refused { message, .. } = error.trouble() => {
            warn!(%place, %kind, message, "and it can have no status");
            Ok(())
        }
        written => written.map(drop),
    }
}

fn status(found: &InvalidObject, say: &str, now: Timestamp) -> Value {
    let before = &found.status;
    let generation = found.metadata.generation;
    let known: Vec<Condition> = serde_json::from_value(before["conditions"].clone()).unwrap_or_default();
    let findings =
        [(ConditionType::Ready, false), (ConditionType::Usable, false), (ConditionType::Stalled, true)];
    let findings = findings.map(|(kind, holds)| Finding {
        kind,
        holds,
        reason: Reason::InvalidSpec,
        message: say.to_owned(),
    });
    let mut said = conditions(&known, findings.into(), generation, now);
    let is_usable = |said: &Condition| said.kind == ConditionType::Usable.as_str();
    let judged = CredentialStatus { conditions: known, ..CredentialStatus::default() };
    // The verifier goes by it once the credential can be read, until somebody has judged what it says then.
    if judged.is_refused_by_policy() {
        said.retain(|said| !is_usable(said));
        said.extend(judged.conditions.into_iter().filter(is_usable));
    }
    let mut status = if before.is_object() { before.clone() } else { json!({}) };
    // Once ended, always ended: a clock that is set back must not bring anything back.
    status["state"] = json!(if found.has_ended(now) { "Expired" } else { "Failed" });
    status["observedGeneration"] = json!(generation);
    status["conditions"] = json!(said);
    status
}
