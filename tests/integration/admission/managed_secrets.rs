//! Secrets of the operator keep what marks them, and other Secrets are not given it.

use serde_json::{Value, json};

use super::case::{Act, Allowed, Attack, Kind, Remedy, Who};

const MADE_FOR: &str = "credential-operator.io/made-for";
const ATTESTATION: &str = "credential-operator.io/attestation";
/// The annotation of a Secret at its own place, and that of a copy.
const OWN: &str = "{\"as\":\"$ns/t-token\"}";
const COPY: &str = "{\"as\":\"$other/t-token\"}";
const LABEL: &str = "app.kubernetes.io/managed-by";
const EDITS: &[&str] = &["get secrets", "create secrets", "update secrets", "patch secrets"];

fn marked() -> String {
    secret(&format!(
        "name: t-token, labels: {{{LABEL}: credential-operator, a: b}}, annotations: {{{MADE_FOR}: '{OWN}', {ATTESTATION}: '{{}}', a: b}}"
    ))
}

fn secret(metadata: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{{metadata}}}\nstringData: {{token: a}}\n---\n")
}

fn metadata(patch: &Value) -> Value {
    json!({ "metadata": patch })
}

pub fn attacks() -> Vec<Attack> {
    let attack = |name, given: String, act, says| Attack {
        name,
        given,
        who: Who::User("credential-operator-editor"),
        may: EDITS,
        act,
        refused_by: "managed-secrets",
        says,
        remedy: Remedy::Instead(Act::Create(secret("name: copy"))),
    };
    let annotation = "user $user may not add, change or remove annotation credential-operator.io/made-for of Secret \"t-token\": only \
                      the controller of credentials may. To keep the values of the Secret, copy them to another Secret.";
    let both = "may not add, change or remove annotation credential-operator.io/made-for, credential-operator.io/attestation of Secret";
    let none = json!({MADE_FOR: null, ATTESTATION: null, "a": null});
    let label =
        "user $user may not change or remove label app.kubernetes.io/managed-by of Secret \"t-token\"";
    let merge = |patch: Value| Act::Merge(Kind::Secret, "t-token", metadata(&patch));
    let replace = |patch: Value| Act::Replace(Kind::Secret, "t-token", metadata(&patch));
    vec![
        attack("the owner forgotten", marked(), merge(json!({"annotations": {MADE_FOR: null}})), annotation),
        attack("another owner", marked(), replace(json!({"annotations": {MADE_FOR: "{ }"}})), annotation),
        attack("all annotations removed", marked(), replace(json!({"annotations": none})), both),
        attack(
            "all marks removed",
            marked(),
            replace(json!({"annotations": none, "labels": null, "ownerReferences": null})),
            both,
        ),
        attack("the label removed", marked(), merge(json!({"labels": {LABEL: null}})), label),
        attack("all labels removed", marked(), replace(json!({"labels": null})), label),
        attack("another label", marked(), merge(json!({"labels": {LABEL: "Helm"}})), label),
        attack(
            "a foreign Secret marked",
            secret("name: t-token"),
            merge(json!({"annotations": {MADE_FOR: OWN}, "labels": {LABEL: "credential-operator"}})),
            annotation,
        ),
        attack(
            "a copy moved to this place",
            secret(&format!("name: t-token, annotations: {{{MADE_FOR}: '{COPY}', {ATTESTATION}: '{{}}'}}")),
            merge(json!({"annotations": {MADE_FOR: OWN}})),
            annotation,
        ),
        attack(
            "a Secret moved to another place",
            marked(),
            merge(json!({"annotations": {MADE_FOR: COPY}})),
            annotation,
        ),
        attack(
            "a foreign Secret attested",
            secret("name: t-token, annotations: {a: b}"),
            replace(json!({"annotations": {ATTESTATION: "{}"}})),
            "annotation credential-operator.io/attestation of Secret \"t-token\"",
        ),
    ]
}

pub fn allowed() -> Vec<Allowed> {
    let allowed = |name, given: String, may, act| Allowed {
        name,
        given,
        who: Who::User("credential-operator-editor"),
        may,
        act,
    };
    let change =
        |name, given, patch: Value| allowed(name, given, EDITS, Act::Replace(Kind::Secret, "t-token", patch));
    vec![
        change("another value", marked(), json!({"stringData": {"token": "b"}})),
        change(
            "other labels and annotations",
            marked(),
            json!({"metadata": {"labels": {"a": null, "c": "d"}, "annotations": {"a": null, "c": "d"}}}),
        ),
        change(
            "a copy changed",
            secret(&format!(
                "name: t-token, labels: {{{LABEL}: credential-operator}}, annotations: {{{MADE_FOR}: '{COPY}', {ATTESTATION}: '{{}}'}}"
            )),
            json!({"metadata": {"annotations": {ATTESTATION: "{ }"}, "labels": {LABEL: "Helm"}}}),
        ),
        change(
            "a copy unmarked",
            secret(&format!("name: t-token, annotations: {{{MADE_FOR}: '{COPY}'}}")),
            json!({"metadata": {"annotations": {MADE_FOR: null}}}),
        ),
        change("no owner", marked(), json!({"metadata": {"ownerReferences": null}})),
        change(
            "a foreign label on a foreign Secret",
            secret(&format!("name: t-token, labels: {{{LABEL}: credential-operator}}")),
            json!({"metadata": {"labels": {LABEL: "Helm"}}}),
        ),
        allowed("a backup restored", String::new(), &["create secrets"], Act::Create(marked())),
        allowed("deleted", marked(), &["delete secrets"], Act::Delete(Kind::Secret, "t-token", None)),
    ]
}
