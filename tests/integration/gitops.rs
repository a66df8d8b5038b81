//! What Argo CD and Flux make of our objects, by what examples/gitops tells them.

use std::sync::Arc;

use cel::{Context, Program, Value as CelValue};
use control_plane::Namespaced;
use credential_operator::api::{ApiToken, Credential, CredentialPolicy};
use mlua::{Lua, LuaSerdeExt, Table};
use serde_json::{Value, json};

use crate::{
    admission::case::{named, object, placed, policy},
    support::{Space, World, condition},
};

crate::tests![each_state_is_told_to_argo_cd_and_flux];

/// What Argo CD says: the health, and a message.
fn argo_cd(object: &Value) -> String {
    let config: Value =
        serde_yaml_ng::from_str(include_str!("../../examples/gitops/argocd-cm.yaml")).unwrap();
    let key =
        format!("resource.customizations.health.credential-operator.io_{}", object["kind"].as_str().unwrap());
    let script = config["data"][key].as_str().unwrap();
    let lua = Lua::new();
    // As Argo CD has it: what is absent is nil.
    lua.globals().set("obj", lua.to_value(&without_nulls(object.clone())).unwrap()).unwrap();
    let health: Table = lua.load(script).eval().unwrap();
    assert!(!health.get::<String>("message").unwrap().is_empty());
    health.get("status").unwrap()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let there = fields.into_iter().filter(|(_, value)| !value.is_null());
            there.map(|(key, value)| (key, without_nulls(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// What Flux says, which asks in this order.
fn flux(object: &Value) -> &'static str {
    let kustomization: Value =
        serde_yaml_ng::from_str(include_str!("../../examples/gitops/flux-kustomization.yaml")).unwrap();
    let checks = kustomization["spec"]["healthCheckExprs"].as_array().unwrap();
    let check = checks.iter().find(|check| check["kind"] == object["kind"]).unwrap();
    let mut context = Context::default();
    for part in ["metadata", "spec", "status"] {
        context.add_variable(part, without_nulls(object[part].clone())).unwrap();
    }
    let holds = |expression: &str| {
        let program = Program::compile(check[expression].as_str().unwrap()).unwrap();
        match program.execute(&context).unwrap() {
            CelValue::Bool(holds) => holds,
            other => panic!("{expression}: {other:?}"),
        }
    };
    let known = [("inProgress", "InProgress"), ("failed", "Failed"), ("current", "Current")];
    known.into_iter().find(|(expression, _)| holds(expression)).map_or("InProgress", |(_, said)| said)
}

/// The name, what is applied, what `Ready` gives for a reason, and what is made of it.
type Row = (&'static str, String, &'static str, &'static str, &'static str);

async fn told<K: Namespaced>(space: &Space, (name, manifest, reason, health, status): Row) {
    space.apply(&manifest).await;
    let is_there = |found: Option<&K>| found.is_some_and(|found| condition(found, "Ready").1 == reason);
    let found = json!(space.until::<K>(name, is_there).await.unwrap());
    assert_eq!((argo_cd(&found).as_str(), flux(&found)), (health, status), "{name}: {found:#}");
}

fn credential(
    name: &'static str,
    spec: &str,
    reason: &'static str,
    told: (&'static str, &'static str),
) -> Row {
    (name, named(name, spec), reason, told.0, told.1)
}

fn token(name: &'static str, spec: &str, reason: &'static str, told: (&'static str, &'static str)) -> Row {
    (name, object("ApiToken", &format!("{{name: {name}}}"), spec), reason, told.0, told.1)
}

const FINE: (&str, &str) = ("Healthy", "Current");
const WAITS: (&str, &str) = ("Progressing", "InProgress");
const STUCK: (&str, &str) = ("Degraded", "Failed");

async fn each_state_is_told_to_argo_cd_and_flux(_: Arc<World>, space: Space) {
    let taken = object("Secret", "{name: taken}", "").replace("credential-operator.io/v1alpha1", "v1");
    space.apply(&taken.replace("spec: ", "")).await;
    space.apply(&placed(&policy("scopes: ['orders:*']"), &space)).await;
    for row in [
        credential("active", "{roles: [{kind: ClusterRole, name: view}]}", "Published", FINE),
        credential("inactive", "{state: Inactive}", "CredentialInactive", FINE),
        credential("expired", "{expiresAt: '2020-01-01T00:00:00Z'}", "Expired", FINE),
        credential("published", "{type: Opaque, opaque: {fields: [{name: key}]}}", "Published", FINE),
        credential("no-role", "{roles: [{kind: ClusterRole, name: no-such-role}]}", "RoleNotFound", STUCK),
        credential(
            "too-strong",
            "{roles: [{kind: ClusterRole, name: cluster-admin}]}",
            "RoleNotBindable",
            STUCK,
        ),
        credential("refused", "{scopes: [stock]}", "PolicyViolation", STUCK),
        credential("conflict", "{type: ClientSecret, secret: {name: taken}}", "Conflict", STUCK),
        credential(
            "unprovided",
            "{type: Vpn, provided: {secretRef: {name: nowhere}}}",
            "MaterialInvalid",
            STUCK,
        ),
    ] {
        told::<Credential>(&space, row).await;
    }
    for row in [
        token("issued", "{credentialRef: {name: active}, expiresIn: 1h}", "Issued", FINE),
        token("suspended", "{credentialRef: {name: inactive}, expiresIn: 1h}", "CredentialInactive", FINE),
        token("revoked", "{credentialRef: {name: active}, expiresIn: 1h, revoked: true}", "Revoked", FINE),
        token("over", "{credentialRef: {name: active}, expiresAt: '2020-01-01T00:00:00Z'}", "Expired", FINE),
        token("alone", "{credentialRef: {name: nobody}, expiresIn: 1h}", "CredentialNotFound", WAITS),
        token(
            "in-the-way",
            "{credentialRef: {name: active}, expiresIn: 1h, secret: {name: taken}}",
            "Conflict",
            STUCK,
        ),
        token("of-none", "{credentialRef: {name: refused}, expiresIn: 1h}", "PolicyViolation", STUCK),
    ] {
        told::<ApiToken>(&space, row).await;
    }
    // Before the first answer, and after an edit that is not answered yet.
    let mut found = json!(space.api::<Credential>().get("active").await.unwrap());
    found["metadata"]["generation"] = json!(2);
    assert_eq!((argo_cd(&found).as_str(), flux(&found)), WAITS);
    found["status"] = json!({"observedGeneration": -1});
    assert_eq!((argo_cd(&found).as_str(), flux(&found)), WAITS);
    let mut policy =
        json!(CredentialPolicy::new("p", serde_json::from_value(json!({"namespaceSelector": {}})).unwrap()));
    policy["metadata"]["generation"] = json!(1);
    assert_eq!(
        argo_cd(&policy),
        "Healthy",
        "nobody tells of it where the operator sees a part of the cluster"
    );
}
