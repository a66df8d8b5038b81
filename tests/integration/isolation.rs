//! What one tenant does to their objects prevents nothing for the objects of others: neither the sweep of orphaned bindings, nor
//! policies, nor unbinding, nor `credential-operator uninstall`.

use std::{sync::Arc, time::Duration};

use credential_operator::{
    api::{ApiToken, Credential, CredentialPolicy, CredentialState},
    controller::election::LEASE,
};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::Secret,
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    admission::process::{Process, led_by},
    support::{DEADLINE, OPERATOR_NAMESPACE, OPERATOR_USER, Space, SystemClock, World, token},
};

crate::tests![
    orphaned_bindings_are_swept_beside_a_poisoned_credential_and_a_binding_that_cannot_be_deleted,
    a_policy_and_a_revocation_hold_beside_poisoned_objects,
    a_role_is_unbound_beside_a_binding_that_cannot_be_deleted,
    uninstall_completes_beside_poisoned_and_changing_credentials,
    uninstall_reports_what_still_grants_permissions_and_deletes_the_rest,
];

const MANAGED: &str = "app.kubernetes.io/managed-by=credential-operator";
const FINALIZER: &str = "credential-operator.io/bindings";

/// A Credential with the ClusterRole `view` in each of these namespaces; in the whole cluster for an empty name.
fn bound(name: &str, namespaces: &[&str]) -> Value {
    let role = |namespace: &&str| match *namespace {
        "" => json!({"kind": "ClusterRole", "name": "view", "clusterWide": true}),
        namespace => json!({"kind": "ClusterRole", "name": "view", "namespace": namespace}),
    };
    json!({
        "apiVersion": "credential-operator.io/v1alpha1", "kind": "Credential", "metadata": {"name": name},
        "spec": {"roles": namespaces.iter().map(role).collect::<Vec<_>>()},
    })
}

fn path<K: Resource<DynamicType = ()>>(space: &Space, name: &str) -> String {
    let all = K::url_path(&(), Some(&space.namespace));
    if name.is_empty() { all } else { format!("{all}/{name}") }
}

/// Sends a request and reads the answer without a type, since typed answers about poisoned objects cannot be read.
async fn send(space: &Space, method: &str, path: &str, body: &Value) -> kube::Result<Value> {
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let answer = space.client.request_text(request.body(body).unwrap()).await?;
    Ok(serde_json::from_str(&answer).unwrap())
}

async fn create(space: &Space, object: &Value) {
    send(space, "POST", &path::<Credential>(space, ""), object).await.unwrap();
}

/// Writes an instant into the managed fields that typed clients cannot read, again where somebody else changes the object meanwhile.
async fn poison<K: Resource<DynamicType = ()>>(space: &Space, name: &str) {
    let path = path::<K>(space, name);
    loop {
        let mut object = send(space, "GET", &path, &Value::Null).await.unwrap();
        let api_version = object["apiVersion"].clone();
        object["metadata"]["managedFields"] = json!([{
            "manager": "x", "operation": "Update", "apiVersion": api_version, "time": "9999-12-31T23:59:59Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {"f:q": {}}}},
        }]);
        match send(space, "PUT", &path, &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            written => {
                let written = written.unwrap();
                assert!(written.to_string().contains("9999-12-31T23:59:59Z"), "{name} is not poisoned");
                return;
            }
        }
    }
}

/// The managed bindings: of one namespace, or those in the whole cluster for the credentials of one namespace.
async fn bindings(space: &Space) -> usize {
    let params = ListParams::default().labels(MANAGED);
    space.api::<RoleBinding>().list_metadata(&params).await.unwrap().items.len()
}

async fn cluster_bindings(world: &World, space: &Space) -> usize {
    let all: Api<ClusterRoleBinding> = Api::all(world.admin.clone());
    let own = format!("{}.", space.namespace);
    let params = ListParams::default().labels(MANAGED);
    all.list_metadata(&params)
        .await
        .unwrap()
        .iter()
        .filter(|found| found.name_any().starts_with(&own))
        .count()
}

async fn until<F: Future<Output = usize>>(what: &str, expected: usize, count: impl Fn() -> F) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = count().await;
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {found} instead of {expected}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Deletes a Credential while no controller runs, as somebody who removes its finalizer.
async fn strip_and_delete(space: &Space, name: &str) {
    let path = path::<Credential>(space, name);
    send(space, "PATCH", &path, &json!({"metadata": {"finalizers": null}})).await.unwrap();
    send(space, "DELETE", &path, &Value::Null).await.unwrap();
}

/// Deletes what a typed client cannot list.
async fn remove_all(world: &World, spaces: &[&Space]) {
    for space in spaces {
        let found = send(space, "GET", &path::<Credential>(space, ""), &Value::Null).await.unwrap();
        for credential in found["items"].as_array().unwrap() {
            strip_and_delete(space, credential["metadata"]["name"].as_str().unwrap()).await;
        }
        for all in [path::<ApiToken>(space, ""), path::<Secret>(space, ""), path::<RoleBinding>(space, "")] {
            send(space, "DELETE", &all, &Value::Null).await.unwrap();
        }
        let all: Api<ClusterRoleBinding> = Api::all(world.admin.clone());
        for found in all.list_metadata(&ListParams::default().labels(MANAGED)).await.unwrap() {
            if found.name_any().starts_with(&format!("{}.", space.namespace)) {
                // An admission policy that was deleted is in force for a moment longer.
                let deadline = Instant::now() + DEADLINE;
                while let Err(error) = all.delete(&found.name_any(), &DeleteParams::default()).await {
                    assert!(Instant::now() < deadline, "{error}");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn delete_lease(world: &World) {
    let leases: Api<Lease> = Api::namespaced(world.admin.clone(), OPERATOR_NAMESPACE);
    if leases.get_opt(LEASE).await.unwrap().is_some() {
        leases.delete(LEASE, &DeleteParams::default()).await.unwrap();
    }
}

async fn orphaned_bindings_are_swept_beside_a_poisoned_credential_and_a_binding_that_cannot_be_deleted(
    world: Arc<World>,
    attacker: Space,
) {
    let (victim, elsewhere) = (world.space("victim").await, world.space("elsewhere").await);
    let operator = world.operator(SystemClock::shared()).await;
    for (space, name) in [(&attacker, "a"), (&attacker, "b"), (&victim, "v")] {
        create(space, &bound(name, &[&elsewhere.namespace, ""])).await;
        space.credential(name, CredentialState::Active).await;
    }
    operator.stop().await;
    assert_eq!((bindings(&elsewhere).await, cluster_bindings(&world, &attacker).await), (3, 2));

    let denial = world.deny_deletions(&attacker, "rbac.authorization.k8s.io", "clusterrolebindings").await;
    strip_and_delete(&victim, "v").await;
    for name in ["a", "b"] {
        strip_and_delete(&attacker, name).await;
        create(&attacker, &bound(name, &[])).await;
        poison::<Credential>(&attacker, name).await;
    }
    delete_lease(&world).await;
    let controller = Process::controller(&world, "sweeping").await;
    led_by(&world, "sweeping").await;
    until("bindings in the whole cluster", 0, || cluster_bindings(&world, &victim)).await;
    until("bindings elsewhere", 0, || bindings(&elsewhere)).await;
    assert_eq!(cluster_bindings(&world, &attacker).await, 2, "they could not be deleted");
    denial.lift().await;
    drop(controller);
    delete_lease(&world).await;
    remove_all(&world, &[&attacker, &victim]).await;
}

async fn a_policy_and_a_revocation_hold_beside_poisoned_objects(world: Arc<World>, attacker: Space) {
    let victim = world.space("victim").await;
    let operator = world.operator(SystemClock::shared()).await;
    for space in [&attacker, &victim] {
        create(space, &bound("c", &[""])).await;
        space.credential("c", CredentialState::Active).await;
        space.apply(&token("t", "type: ServiceAccount, expiresIn: 1h")).await;
        space.token("t", credential_operator::api::ApiTokenState::Active).await;
    }
    poison::<Credential>(&attacker, "c").await;
    poison::<ApiToken>(&attacker, "t").await;
    poison::<Secret>(&attacker, "t-token").await;
    let policies: Api<CredentialPolicy> = Api::all(world.admin.clone());
    let policy = json!({
        "apiVersion": "credential-operator.io/v1alpha1", "kind": "CredentialPolicy",
        "metadata": {"name": victim.namespace},
        "spec": {
            "namespaceSelector": {"matchExpressions": [{
                "key": "kubernetes.io/metadata.name", "operator": "In", "values": [attacker.namespace, victim.namespace],
            }]},
            "types": ["Opaque"],
        },
    });
    policies.create(&PostParams::default(), &serde_json::from_value(policy).unwrap()).await.unwrap();
    for space in [&attacker, &victim] {
        until("bindings under the policy", 0, || cluster_bindings(&world, space)).await;
        let revoked = json!({"spec": {"revoked": true}});
        send(space, "PATCH", &path::<ApiToken>(space, "t"), &revoked).await.unwrap();
        until("Secrets of revoked tokens", 0, || async {
            let found = send(space, "GET", &path::<Secret>(space, ""), &Value::Null).await.unwrap();
            found["items"].as_array().unwrap().len()
        })
        .await;
    }
    policies.delete(&victim.namespace, &DeleteParams::default()).await.unwrap();
    operator.stop().await;
    remove_all(&world, &[&attacker, &victim]).await;
}

async fn a_role_is_unbound_beside_a_binding_that_cannot_be_deleted(world: Arc<World>, space: Space) {
    let elsewhere = world.space("elsewhere").await;
    let operator = world.operator(SystemClock::shared()).await;
    create(&space, &bound("c", &[&elsewhere.namespace, "", &space.namespace])).await;
    space.credential("c", CredentialState::Active).await;
    let denial = world.deny_deletions(&space, "rbac.authorization.k8s.io", "clusterrolebindings").await;
    let off = json!({"spec": {"state": "Inactive"}});
    send(&space, "PATCH", &path::<Credential>(&space, "c"), &off).await.unwrap();
    until("bindings elsewhere", 0, || bindings(&elsewhere)).await;
    until("bindings in the own namespace", 0, || bindings(&space)).await;
    assert_eq!(cluster_bindings(&world, &space).await, 1);
    denial.lift().await;
    operator.stop().await;
    remove_all(&world, &[&space]).await;
}

/// An author who puts a finalizer before the one of the controller and removes it again, 50 times a second.
fn churn(space: &Space, name: &str) -> JoinHandle<()> {
    let (space, path) = (space.clone(), path::<Credential>(space, name));
    tokio::spawn(async move {
        let (first, author) = ("/metadata/finalizers/0", "example.com/author");
        let add = json!([{"op": "add", "path": first, "value": author}]);
        let remove = json!([{"op": "test", "path": first, "value": author}, {"op": "remove", "path": first}]);
        for operations in [add, remove].iter().cycle() {
            let request = http::Request::patch(&path).header("content-type", "application/json-patch+json");
            let request = request.body(serde_json::to_vec(operations).unwrap()).unwrap();
            // There is no list any more once all finalizers are removed.
            let _ = space.client.request_text(request).await;
            sleep(Duration::from_millis(20)).await;
        }
    })
}

async fn finalizers(space: &Space, name: &str) -> usize {
    let found = send(space, "GET", &path::<Credential>(space, name), &Value::Null).await.unwrap();
    let all = found["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    all.iter().filter(|finalizer| *finalizer == FINALIZER).count()
}

async fn uninstall_completes_beside_poisoned_and_changing_credentials(world: Arc<World>, attacker: Space) {
    let (victim, elsewhere) = (world.space("victim").await, world.space("elsewhere").await);
    let operator = world.operator(SystemClock::shared()).await;
    let names = ["poisoned", "changing", "repeated", "large"];
    for (space, name) in names.map(|name| (&attacker, name)).into_iter().chain([(&victim, "v")]) {
        create(space, &bound(name, &[&elsewhere.namespace, ""])).await;
        space.credential(name, CredentialState::Active).await;
    }
    operator.stop().await;
    poison::<Credential>(&attacker, "poisoned").await;
    let repeated = json!({"metadata": {"finalizers": vec![FINALIZER; 10_000]}});
    send(&attacker, "PATCH", &path::<Credential>(&attacker, "repeated"), &repeated).await.unwrap();
    assert_eq!(finalizers(&attacker, "repeated").await, 10_000, "the API server stores all of them");
    let labels: serde_json::Map<_, _> =
        (0..9_000).map(|n| (format!("{}.x/n{n}", "a".repeat(63)), json!("v".repeat(63)))).collect();
    let large = json!({"metadata": {"labels": labels}});
    send(&attacker, "PATCH", &path::<Credential>(&attacker, "large"), &large).await.unwrap();
    let churn = churn(&attacker, "changing");
    delete_lease(&world).await;

    let mut uninstall = Process::start(&world, "uninstall-beside", &["uninstall"]).await;
    assert!(uninstall.ended().await.success(), "{}", uninstall.log());
    churn.abort();
    for space in [&attacker, &victim] {
        assert_eq!(cluster_bindings(&world, space).await, 0, "{}", space.namespace);
    }
    assert_eq!(bindings(&elsewhere).await, 0);
    for name in names {
        assert_eq!(finalizers(&attacker, name).await, 0, "{name}");
    }
    assert_eq!(finalizers(&victim, "v").await, 0);

    // All bindings first, then finalizers.
    let events = world.control_plane.audit_log().unwrap().into_iter();
    let ours = events.filter(|event| event.user.username == OPERATOR_USER).filter_map(|event| {
        let object = event.object_ref?;
        let is_ours = [&attacker.namespace, &victim.namespace].iter().any(|namespace| {
            object.namespace == **namespace || object.name.starts_with(&format!("{namespace}."))
        });
        is_ours.then_some((event.request_received_timestamp, event.verb, object.resource))
    });
    let (mut deleted, mut released) = (Vec::new(), Vec::new());
    for (at, verb, resource) in ours {
        match (verb.as_str(), resource.as_str()) {
            ("delete", "clusterrolebindings") => deleted.push(at),
            ("patch", "credentials") => released.push(at),
            _ => {}
        }
    }
    // The first patches added the finalizers.
    assert_eq!(deleted.len(), 5);
    assert!(
        released
            .iter()
            .filter(|at| *at > deleted.iter().min().unwrap())
            .all(|at| at > deleted.iter().max().unwrap())
    );
    delete_lease(&world).await;
    remove_all(&world, &[&attacker, &victim]).await;
}

async fn uninstall_reports_what_still_grants_permissions_and_deletes_the_rest(
    world: Arc<World>,
    locked: Space,
) {
    let (victim, elsewhere) = (world.space("victim").await, world.space("elsewhere").await);
    let operator = world.operator(SystemClock::shared()).await;
    for space in [&locked, &victim] {
        create(space, &bound("c", &[&elsewhere.namespace, ""])).await;
        space.credential("c", CredentialState::Active).await;
    }
    create(&locked, &bound("other", &[&elsewhere.namespace])).await;
    locked.credential("other", CredentialState::Active).await;
    operator.stop().await;
    let denial = world.deny_deletions(&locked, "rbac.authorization.k8s.io", "clusterrolebindings").await;
    delete_lease(&world).await;
    let mut uninstall = Process::start(&world, "uninstall-denied", &["uninstall"]).await;
    assert!(!uninstall.ended().await.success(), "{}", uninstall.log());
    let log = uninstall.log();
    let listed: Vec<_> = log.lines().filter(|line| line.starts_with("  ClusterRoleBinding ")).collect();
    assert_eq!(listed.len(), 1, "{log}");
    let of = format!(" of Credential {}/c: ", locked.namespace);
    assert!(listed[0].contains(&of) && listed[0].ends_with("no deletions here"), "{}", listed[0]);
    assert_eq!((bindings(&elsewhere).await, cluster_bindings(&world, &victim).await), (0, 0));
    assert_eq!((finalizers(&victim, "c").await, finalizers(&locked, "other").await), (0, 0));
    assert_eq!(finalizers(&locked, "c").await, 1, "its binding still grants permissions");

    denial.lift().await;
    let mut again = Process::start(&world, "uninstall-again", &["uninstall"]).await;
    assert!(again.ended().await.success(), "{}", again.log());
    assert_eq!((cluster_bindings(&world, &locked).await, finalizers(&locked, "c").await), (0, 0));
    delete_lease(&world).await;
    remove_all(&world, &[&locked, &victim]).await;
}
