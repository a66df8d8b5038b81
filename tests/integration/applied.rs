//! What is applied again and again, as GitOps does: nothing differs, and the operator writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use control_plane::Namespaced;
use credential_operator::api::{ApiToken, Credential};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::support::{OPERATOR_USER, Space, World, condition, dynamic};

crate::tests![what_was_applied_shows_no_difference, an_apply_loop_with_prune_has_the_operator_write_nothing,];

/// For how long it is applied again and again, and how often.
const LOOP: Duration = Duration::from_mins(1);
const EVERY: Duration = Duration::from_secs(4);
/// The count of a credential's tokens is written at most that late.
const COUNTED: Duration = Duration::from_secs(11);

/// The examples that users apply, by file; the policy goes by another name, since it is of the whole cluster.
fn examples(space: &Space) -> BTreeMap<PathBuf, String> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = [examples.clone(), examples.join("types")].map(|folder| fs::read_dir(folder).unwrap());
    let paths = files.into_iter().flatten().map(|file| file.unwrap().path());
    let manifests = paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let mine = format!("name: {}\nspec:\n  namespaceSelector:", space.namespace);
    manifests
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text.replace("name: orders\nspec:\n  namespaceSelector:", &mine))
        })
        .collect()
}

/// All objects of the examples.
fn objects(space: &Space) -> Vec<Value> {
    let text = examples(space).into_values().collect::<Vec<_>>().join("\n---\n");
    let documents =
        serde_yaml_ng::Deserializer::from_str(&text).map(|each| Value::deserialize(each).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

fn names(objects: &[Value], kind: &str) -> Vec<String> {
    let of_kind = objects.iter().filter(|object| object["kind"] == kind);
    of_kind.map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the operator has answered each, and there is nothing more to be done.
async fn answered(space: &Space, objects: &[Value]) {
    async fn each<K: Namespaced + serde::Serialize + DeserializeOwned>(space: &Space, names: Vec<String>) {
        for name in names {
            let ready = |found: Option<&K>| found.is_some_and(|found| condition(found, "Ready").0);
            space.until::<K>(&name, ready).await;
        }
    }
    each::<Credential>(space, names(objects, "Credential")).await;
    each::<ApiToken>(space, names(objects, "ApiToken")).await;
    sleep(COUNTED).await;
}

/// kubectl, as an administrator.
async fn kubectl(world: &World, arguments: &[&str], namespace: &str) -> Output {
    let mut command = Command::new(world.control_plane.kubectl().unwrap());
    command.args(arguments).args(["--namespace", namespace]);
    command.env("KUBECONFIG", world.control_plane.admin().kubeconfig());
    spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn versions(space: &Space, objects: &[Value]) -> Vec<String> {
    let mut versions = Vec::new();
    for object in objects {
        let mut object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        object.metadata.namespace = Some(space.namespace.clone());
        let found = dynamic(&space.client, &object).get(&object.name_any()).await.unwrap();
        versions.push(format!("{}:{}", object.name_any(), found.resource_version().unwrap()));
    }
    versions
}

async fn what_was_applied_shows_no_difference(world: Arc<World>, space: Space) {
    let other = world.space("client-side").await;
    for (space, mode) in [(&space, "--server-side=true"), (&other, "--server-side=false")] {
        let objects = objects(space);
        let folder = tempfile::TempDir::new().unwrap();
        for (path, text) in examples(space) {
            let folder = folder.path().join(path.parent().unwrap().file_name().unwrap());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(path.file_name().unwrap()), text).unwrap();
        }
        let all = ["-f", folder.path().to_str().unwrap(), "--recursive", mode];
        let apply = async || {
            let applied = kubectl(&world, &[&["apply"], &all[..]].concat(), &space.namespace).await;
            assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        };
        apply().await;
        answered(space, &objects).await;
        let diff = kubectl(&world, &[&["diff"], &all[..]].concat(), &space.namespace).await;
        let said =
            String::from_utf8_lossy(&diff.stdout).into_owned() + &String::from_utf8_lossy(&diff.stderr);
        assert!(diff.status.success() && said.is_empty(), "{mode}: {said}");
        let before = versions(space, &objects).await;
        apply().await;
        assert_eq!(versions(space, &objects).await, before, "{mode}");
        let policies: Api<DynamicObject> = policies(space);
        policies.delete(&space.namespace, &DeleteParams::default()).await.unwrap();
    }
    other.clean_up().await;
}

fn policies(space: &Space) -> Api<DynamicObject> {
    let policy = objects(space).into_iter().find(|object| object["kind"] == "CredentialPolicy").unwrap();
    dynamic(&space.client, &serde_json::from_value(policy).unwrap())
}

/// As Flux does it: what a dry run shows to differ is applied, and what is no longer in the repository is deleted.
async fn reconcile(space: &Space, objects: &[Value], inventory: &mut BTreeSet<(String, String)>) -> usize {
    let params = PatchParams::apply("kustomize-controller").force();
    let (mut differ, mut applied) = (0, BTreeSet::new());
    for object in objects {
        let mut object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        if object.types.as_ref().is_some_and(|types| types.kind != "CredentialPolicy") {
            object.metadata.namespace = Some(space.namespace.clone());
        }
        let (api, name) = (dynamic(&space.client, &object), object.name_any());
        let there = api.get_opt(&name).await.unwrap();
        let would = api.patch(&name, &params.clone().dry_run(), &Patch::Apply(&object)).await.unwrap();
        if there.is_none_or(|there| without_noise(&there) != without_noise(&would)) {
            api.patch(&name, &params, &Patch::Apply(&object)).await.unwrap();
            differ += 1;
        }
        applied.insert((object.types.unwrap().kind, name));
    }
    for (kind, name) in inventory.difference(&applied) {
        assert_eq!(kind, "ApiToken");
        space.api::<ApiToken>().delete(name, &DeleteParams::background()).await.unwrap();
    }
    *inventory = applied;
    differ
}

fn without_noise(object: &DynamicObject) -> Value {
    let mut object = json!(object);
    object["metadata"]["managedFields"] = Value::Null;
    object["metadata"]["resourceVersion"] = Value::Null;
    object
}

/// What the operator wrote in the namespace, or of it.
fn writes(world: &World, space: &Space) -> Vec<String> {
    let events = world.control_plane.audit_log().unwrap().into_iter();
    let written = events.filter(|event| {
        event.user.username == OPERATOR_USER && !["get", "list", "watch"].contains(&event.verb.as_str())
    });
    let here = written.filter(|event| event.request_uri.contains(&space.namespace));
    here.map(|event| format!("{} {}", event.verb, event.request_uri)).collect()
}

async fn an_apply_loop_with_prune_has_the_operator_write_nothing(world: Arc<World>, space: Space) {
    let mut objects = objects(&space);
    let mut inventory = BTreeSet::new();
    assert_eq!(reconcile(&space, &objects, &mut inventory).await, objects.len());
    answered(&space, &objects).await;
    let before = writes(&world, &space);
    assert!(before.len() > objects.len(), "{before:?}");
    let end = Instant::now() + LOOP;
    while Instant::now() < end {
        assert_eq!(reconcile(&space, &objects, &mut inventory).await, 0);
        sleep(EVERY).await;
    }
    assert_eq!(writes(&world, &space)[before.len()..], [""; 0]);

    objects.retain(|object| object["metadata"]["name"] != "night-shift");
    reconcile(&space, &objects, &mut inventory).await;
    assert!(space.until::<ApiToken>("night-shift", |found| found.is_none()).await.is_none());
    assert!(space.until::<Secret>("night-shift-token", |found| found.is_none()).await.is_none());
    policies(&space).delete(&space.namespace, &DeleteParams::default()).await.unwrap();
}
