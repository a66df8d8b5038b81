//! What there is in the end, less what differs from run to run: UIDs, times, random parts, the namespace's name.

use std::{collections::BTreeMap, fmt::Debug};

use control_plane::{AuditEvent, Namespaced};
use credential_operator::{
    api::{ApiToken, Credential, CredentialPolicy},
    domain::name,
};
use k8s_openapi::api::{
    core::v1::{Secret, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    run::{KEYRING, Violation},
    space::{ELSEWHERE, Space},
};

/// What counts how often the API server minted a token.
pub const MINTED: &str = "serviceaccounts/token";

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// By kind and name.
    pub objects: BTreeMap<String, Value>,
    /// How often the operator created or deleted something, by verb and resource.
    pub counts: BTreeMap<String, usize>,
}

impl State {
    /// Reads it.
    pub async fn read(space: &Space, audit: &[AuditEvent]) -> Self {
        let mut objects = BTreeMap::new();
        let credentials = space.api::<Credential>().list(&ListParams::default()).await;
        let credentials: Vec<_> = credentials.into_iter().flatten().filter_map(|found| found.uid()).collect();
        list::<Credential>(space, space, &mut objects).await;
        list::<ApiToken>(space, space, &mut objects).await;
        for (_, token) in objects.iter_mut().filter(|(key, _)| key.starts_with("ApiToken")) {
            // Whether the one that it was issued for is there matters, its UID does not.
            let uid = &mut token["status"]["credentialUid"];
            let there = credentials.iter().any(|there| uid.as_str() == Some(there));
            *uid = json!(if there { "of a credential that is there" } else { "of none" });
        }
        list::<Secret>(space, space, &mut objects).await;
        list::<ServiceAccount>(space, space, &mut objects).await;
        list::<RoleBinding>(space, space, &mut objects).await;
        for binding in elsewhere(space).await {
            insert(&binding, space, &mut objects);
        }
        for binding in everywhere(space).await {
            insert(&binding, space, &mut objects);
        }
        let mut counts = BTreeMap::new();
        for event in audit {
            let done = event.response_status.as_ref().is_some_and(|status| status.code < 300);
            let object = event.object_ref.clone().unwrap_or_default();
            // Trouble is what plans make, and events tell of it.
            if done && ["create", "delete"].contains(&event.verb.as_str()) && object.resource != "events" {
                let minted = object.subresource == "token";
                let resource = if minted { MINTED.to_owned() } else { object.resource };
                *counts.entry(format!("{} {resource}", event.verb)).or_default() += 1;
            }
        }
        Self { objects, counts }
    }

    /// What is otherwise in `other`, which may have created and deleted as much more as is `spare`.
    ///
    /// Less was done nowhere if the end is the same: of a request whose sender died the API server may tell nothing.
    #[must_use]
    pub fn differences(&self, other: &Self, spare: &Spare) -> Vec<Violation> {
        let mut found = Vec::new();
        let keys: std::collections::BTreeSet<_> = self.objects.keys().chain(other.objects.keys()).collect();
        for key in keys {
            let (expected, is) = (self.objects.get(key), other.objects.get(key));
            if expected != is {
                let what = match (expected, is) {
                    (Some(expected), Some(is)) => format!("{key}: {}", difference("", expected, is)),
                    (None, _) => format!("{key} is there, and is not when nothing goes wrong"),
                    (_, None) => format!("{key} is missing"),
                };
                found.push(Violation { law: "state", what });
            }
        }
        let more = other.counts.iter().any(|(what, count)| {
            let spare = match what.split(' ').next_back() {
                Some("secrets") => spare.secrets + spare.mints,
                Some(MINTED) => spare.mints,
                Some("rolebindings" | "clusterrolebindings") if spare.two_leaders => usize::MAX / 2,
                _ => 0,
            };
            *count > self.counts.get(what).copied().unwrap_or_default() + spare
        });
        if more {
            let what = format!("{:?}, and {:?} when nothing goes wrong", other.counts, self.counts);
            found.push(Violation { law: "counts", what });
        }
        found
    }
}

/// What may have been created and deleted more often than when nothing goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spare {
    /// Secrets of which no status ever told.
    pub secrets: usize,
    /// Secrets that were begun anew because nobody could know any more whether a token was minted for them.
    pub mints: usize,
    /// Of two leaders as many bindings as they like: what one has taken away, the other may be about to make, and a lease
    /// would not fence it. In the end they are as they should be all the same.
    pub two_leaders: bool,
}

/// The first place where two values differ.
fn difference(path: &str, expected: &Value, is: &Value) -> String {
    match (expected, is) {
        (Value::Object(expected), Value::Object(is)) => {
            let mut keys = expected.keys().chain(is.keys());
            let key = keys.find(|key| expected.get(*key) != is.get(*key)).cloned().unwrap_or_default();
            let (expected, is) = (expected.get(&key), is.get(&key));
            difference(&format!("{path}.{key}"), expected.unwrap_or(&Value::Null), is.unwrap_or(&Value::Null))
        }
        (Value::Array(expected), Value::Array(is)) if expected.len() == is.len() => {
            let at = expected.iter().zip(is).position(|(expected, is)| expected != is).unwrap_or_default();
            difference(&format!("{path}[{at}]"), &expected[at], &is[at])
        }
        _ => format!("{path} is {is}, and {expected} when nothing goes wrong"),
    }
}

/// The bindings of this space that are in no namespace.
pub async fn everywhere(space: &Space) -> Vec<ClusterRoleBinding> {
    let api: Api<ClusterRoleBinding> = Api::all(space.client.clone());
    let params = ListParams::default().labels(name::MANAGED_BY_SELECTOR);
    let found = api.list(&params).await.map(|list| list.items).unwrap_or_default();
    let prefix = space.prefix();
    found.into_iter().filter(|binding| binding.name_any().starts_with(&prefix)).collect()
}

/// The bindings of this space that are in the other namespace.
pub async fn elsewhere(space: &Space) -> Vec<RoleBinding> {
    let api: Api<RoleBinding> = Api::namespaced(space.client.clone(), ELSEWHERE);
    let params = ListParams::default().labels(name::MANAGED_BY_SELECTOR);
    let found = api.list(&params).await.map(|list| list.items).unwrap_or_default();
    let prefix = space.prefix();
    found.into_iter().filter(|binding| binding.name_any().starts_with(&prefix)).collect()
}

/// Takes away what operators of later runs would see. The rest goes with the control plane: to delete a namespace costs
/// the API server more than a run.
pub async fn release(space: &Space) {
    let ours = ListParams::default().labels(name::MANAGED_BY_SELECTOR);
    let _ = space.api::<RoleBinding>().delete_collection(&DeleteParams::default(), &ours).await;
    let bindings: Api<RoleBinding> = Api::namespaced(space.client.clone(), ELSEWHERE);
    for binding in elsewhere(space).await {
        let _ = bindings.delete(&binding.name_any(), &DeleteParams::default()).await;
    }
    let policies: Api<CredentialPolicy> = Api::all(space.client.clone());
    let _ = policies.delete(&space.namespace, &DeleteParams::default()).await;
    let bindings: Api<ClusterRoleBinding> = Api::all(space.client.clone());
    for binding in everywhere(space).await {
        let _ = bindings.delete(&binding.name_any(), &DeleteParams::default()).await;
    }
}

async fn list<K>(from: &Space, space: &Space, objects: &mut BTreeMap<String, Value>)
where
    K: Namespaced,
{
    let found = from.api::<K>().list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    for object in found {
        if object.name_any() != "default" {
            insert(&object, space, objects);
        }
    }
}

fn insert<K: Resource<DynamicType = ()> + Serialize>(
    object: &K,
    space: &Space,
    objects: &mut BTreeMap<String, Value>,
) {
    let mut value = json!(object);
    let role = value["roleRef"]["name"].as_str().map(|role| format!("of {role}"));
    // A binding's name has a hash in it, over the namespace among other things.
    let name = role.unwrap_or_else(|| object.name_any());
    value["metadata"]["name"] = json!(name);
    if name == KEYRING {
        let keys = value["data"].as_object().map_or(0, serde_json::Map::len);
        value["data"] = json!(keys);
    }
    let status = &mut value["status"];
    if let Some(status) = status.as_object_mut() {
        // Counted at most once in ten seconds.
        status.remove("tokens");
        status.remove("nextExpiryAt");
    }
    simplify(&mut value, &space.namespace);
    let namespace = object.meta().namespace.clone().unwrap_or_default().replace(&space.namespace, "");
    objects.insert(format!("{}{namespace} {name}", K::kind(&())), value);
}

/// Replaces what differs from run to run.
fn simplify(value: &mut Value, namespace: &str) {
    match value {
        Value::Object(fields) => {
            for random in [
                "uid",
                "resourceVersion",
                "creationTimestamp",
                "managedFields",
                "generation",
                "observedGeneration",
                "lastTransitionTime",
            ] {
                fields.remove(random);
            }
            for (key, value) in fields.iter_mut() {
                let random = [
                    "digest",
                    "tokenId",
                    "id",
                    "fingerprint",
                    "source",
                    "serviceAccountUid",
                    // With the UID of an account, where a token is minted for it.
                    "options",
                    name::ATTESTATION_ANNOTATION,
                    name::MADE_FOR_ANNOTATION,
                    name::ACKNOWLEDGED_ANNOTATION,
                    name::OWNER_UID_ANNOTATION,
                ];
                if random.contains(&key.as_str()) || key == "data" && value.is_object() {
                    *value = match value {
                        Value::Object(data) => json!(data.keys().collect::<Vec<_>>()),
                        Value::Null => Value::Null,
                        // An account is signed in a write of its own, which may be due still.
                        Value::String(text) if text.contains("\"proof\"") => json!("signed"),
                        _ => json!("set"),
                    };
                } else {
                    simplify(value, namespace);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| simplify(item, namespace)),
        Value::String(text) => {
            *text = text.replace(namespace, "NAMESPACE");
            let words = text.split(' ').map(|word| {
                let (stem, end) = word.strip_suffix(';').map_or((word, ""), |stem| (stem, ";"));
                if stem.parse::<jiff::Timestamp>().is_ok() { format!("TIME{end}") } else { word.to_owned() }
            });
            *text = words.collect::<Vec<_>>().join(" ");
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
