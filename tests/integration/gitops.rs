//! What Argo CD and Flux make of our objects, by what examples/gitops tells them. What kstatus makes of the same objects is a
//! matter of tests/external.rs, for which they are recorded here, each with what is expected.

mod states;

use std::{env, fs, path::Path, sync::Arc};

use cel::{Context, Program, Value as CelValue};
use credential_operator::{
    api::{CredentialPolicy, credential::Grant},
    domain::name,
};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    runtime::watcher,
};
use mlua::{Lua, LuaSerdeExt, Table};
use serde::Deserialize;
use serde_json::{Value, json};

use states::{STATES, State, When};

use crate::{
    admission::case::placed,
    support::{Space, World, apply, condition, dynamic, until},
};

crate::tests![each_state_is_told_as_the_table_says];

/// Whoever sets this has the objects recorded anew.
const REWRITE: &str = "REWRITE_STATES";
/// Where they are recorded, in the order of the table, as an operator left them, less what differs from run to run.
const FILE: &str = "tests/states.yaml";
const RECORDED: &str = include_str!("../states.yaml");

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

/// What Flux says, which asks in this order; nothing of kinds that it is told nothing of, which it leaves to kstatus.
fn flux(object: &Value) -> Option<&'static str> {
    let kustomization: Value =
        serde_yaml_ng::from_str(include_str!("../../examples/gitops/flux-kustomization.yaml")).unwrap();
    let checks = kustomization["spec"]["healthCheckExprs"].as_array().unwrap();
    let check = checks.iter().find(|check| check["kind"] == object["kind"])?;
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
    Some(known.into_iter().find(|(expression, _)| holds(expression)).map_or("InProgress", |(_, said)| said))
}

const API_VERSION: &str = "credential-operator.io/v1alpha1";
/// What keeps the deleted ones.
const HOLD: &str = "tests.credential-operator.io/hold";

impl State {
    /// Brings it about, and returns the object.
    async fn reach(&self, space: &Space) -> Value {
        let spec: Value = serde_yaml_ng::from_str(&placed(self.spec, space)).unwrap();
        let mut asked = json!({
            "apiVersion": API_VERSION, "kind": self.kind, "metadata": {"name": self.name}, "spec": spec,
        });
        if matches!(self.when, When::Deleted) {
            asked["metadata"]["finalizers"] = json!([HOLD]);
        }
        let created = apply(&space.client, &space.namespace, asked).await.unwrap();
        let api = dynamic(&space.client, &created);
        match self.when {
            When::New => json!(created),
            When::Says(reason) => {
                json!(self.once(&api, |found| condition(found, "Ready").1 == reason).await)
            }
            When::Edited(change) => {
                self.once(&api, |found| condition(found, "Ready").0).await;
                let change: Value = serde_yaml_ng::from_str(change).unwrap();
                let patch = Patch::Merge(json!({"spec": change}));
                json!(api.patch(self.name, &PatchParams::default(), &patch).await.unwrap())
            }
            When::Deleted => {
                self.once(&api, |found| condition(found, "Ready").0).await;
                json!(api.delete(self.name, &DeleteParams::default()).await.unwrap().left().unwrap())
            }
        }
    }

    /// Takes away what the namespace's own end would not.
    async fn leave(&self, space: &Space) {
        if self.kind == "CredentialPolicy" {
            let policies: Api<CredentialPolicy> = Api::all(space.client.clone());
            policies.delete(self.name, &DeleteParams::default()).await.unwrap();
        } else if matches!(self.when, When::Deleted) {
            let object = json!({"apiVersion": API_VERSION, "kind": self.kind, "metadata": {"namespace": space.namespace}});
            let api = dynamic(&space.client, &serde_json::from_value(object).unwrap());
            let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            api.patch(self.name, &PatchParams::default(), &patch).await.unwrap();
        }
    }

    async fn once(
        &self,
        api: &Api<DynamicObject>,
        expected: impl Fn(&DynamicObject) -> bool,
    ) -> DynamicObject {
        let events =
            watcher(api.clone(), watcher::Config::default().fields(&format!("metadata.name={}", self.name)));
        until(self.name, events, |found| found.is_some_and(&expected)).await.unwrap()
    }
}

/// The object, less what differs from run to run, and less what nobody waits by.
fn record(object: &Value, kstatus: &str, space: &Space) -> String {
    const INSTANT: &str = "2026-01-01T00:00:00Z";
    const ELSEWHERE: &str = "orders";
    const EXCEEDED: &str = "is exceeded by ";
    let part = |part: &str, keys: &[&str]| -> Value {
        let Some(there) = object[part].as_object() else { return Value::Null };
        there
            .iter()
            .filter(|(key, _)| keys.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let mut kept = json!({
        "apiVersion": object["apiVersion"],
        "kind": object["kind"],
        "metadata": part("metadata", &["name", "generation", "deletionTimestamp"]),
        "spec": object["spec"],
        "status": part("status", &["observedGeneration", "state", "conditions"]),
    });
    if let Some(deleted) = kept["metadata"].get_mut("deletionTimestamp") {
        *deleted = json!(INSTANT);
    }
    let conditions = kept.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        condition["lastTransitionTime"] = json!(INSTANT);
        // How many credentials of the other states are there by then differs.
        if let Some((before, after)) =
            condition["message"].as_str().and_then(|text| text.split_once(EXCEEDED))
        {
            let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
            condition["message"] = json!(format!("{before}{EXCEEDED}9{after}"));
        }
    }
    let record = json!({"kstatus": kstatus, "object": without_nulls(kept)});
    let mut text = serde_yaml_ng::to_string(&record).unwrap();
    // The names of bindings have a digest of the namespace in them.
    let name = object["metadata"]["name"].as_str().unwrap();
    for grant in Vec::<Grant>::deserialize(&object["spec"]["roles"]).unwrap_or_default() {
        let [here, recorded] =
            [&space.namespace, ELSEWHERE].map(|namespace| name::binding(namespace, name, &grant));
        text = text.replace(&here, &recorded);
    }
    text.replace(&space.namespace, ELSEWHERE)
}

async fn each_state_is_told_as_the_table_says(_: Arc<World>, space: Space) {
    let taken = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "taken"}});
    apply(&space.client, &space.namespace, taken).await.unwrap();
    let mut recorded = Vec::new();
    for state in STATES {
        let found = state.reach(&space).await;
        assert_eq!(argo_cd(&found), state.told.argo_cd, "Argo CD: {found:#}");
        if let Some(said) = flux(&found) {
            assert_eq!(said, state.told.flux, "Flux: {found:#}");
        }
        recorded.push(record(&found, state.told.kstatus, &space));
    }
    for state in STATES {
        state.leave(&space).await;
    }
    let fresh = recorded.join("---\n");
    if env::var_os(REWRITE).is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE), fresh).unwrap();
        return;
    }
    let stale = fresh.lines().zip(RECORDED.lines()).find(|(fresh, recorded)| fresh != recorded);
    assert!(
        fresh == RECORDED,
        "{FILE} is stale ({stale:?}): run `{REWRITE}=1 cargo test --test integration -- gitops`"
    );
}
