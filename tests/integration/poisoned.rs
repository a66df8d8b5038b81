//! Objects whose metadata somebody has written so that no typed reader takes them: what ends access, ends all the same.

use std::{sync::Arc, time::Duration};

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential, CredentialState},
    client::{
        Objects, Readable, Watched,
        informer::{self, Selector},
    },
    domain::clock::Clock,
};
use jiff::SignedDuration;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Secret, ServiceAccount},
        rbac::v1::RoleBinding,
    },
};
use kube::{Resource, core::PartialObjectMeta, runtime::watcher::Event};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    support::{DEADLINE, Operator, Space, SystemClock, World, token},
    verifier::Asked,
};

crate::tests![
    a_poisoned_credential_is_unbound_when_it_is_switched_off_expires_or_is_deleted,
    poisoned_tokens_and_secrets_end_when_they_are_to,
    every_field_of_the_metadata_may_be_hostile,
    an_object_too_large_to_be_revoked_grants_nothing,
    full_secrets_and_bindings_are_deleted_although_a_finalizer_keeps_them,
];

/// An instant that the API server takes and jiff cannot hold.
const LATE: &str = "9999-12-31T23:59:59Z";

/// What somebody who may edit an object may put into each field of its metadata.
fn hostile() -> Vec<(&'static str, Value)> {
    let deep = (0..60).fold(json!({}), |inner, _| json!({ "f:a": inner }));
    let fields = |time: &str, fields: Value| {
        json!([{
            "manager": "x", "operation": "Update", "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        }])
    };
    let many = |count: usize| -> Value {
        (0..count)
            .map(|n| (format!("example.com/k{n}"), json!("v")))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    vec![
        ("managedFields", fields(LATE, json!({"f:metadata": {"f:labels": {"f:q": {}}}}))),
        ("managedFields", fields("0001-01-01T00:00:00Z", json!({"f:metadata": {"f:labels": {"f:q": {}}}}))),
        ("managedFields", fields(LATE, deep)),
        ("generateName", json!("x-")),
        ("selfLink", json!("/nowhere")),
        ("labels", many(60)),
        ("annotations", json!({"example.com/long": "x".repeat(100_000)})),
        (
            "annotations",
            json!({"credential-operator.io/rotate-requested-at": LATE, "credential-operator.io/x": "y".repeat(9_000)}),
        ),
    ]
}

/// The objects of a kind, read leniently.
fn objects<K>(space: &Space) -> Objects<K>
where
    K: Readable + Resource<Scope = NamespaceResourceScope>,
{
    Objects::namespaced(space.client.clone(), &space.namespace)
}

/// Waits until the object of that name is so; `None`: it is not there.
async fn until<K>(space: &Space, name: &str, is_so: impl Fn(Option<&K>) -> bool)
where
    K: Readable + Resource<Scope = NamespaceResourceScope> + Send + 'static,
{
    let (events, mut shown) = mpsc::channel(10);
    let selector = Selector { fields: Some(format!("metadata.name={name}")), ..Selector::default() };
    let watching = tokio::spawn(informer::run(objects::<K>(space), selector, events));
    let wait = async {
        let mut there: Option<K> = None;
        while let Some(event) = shown.recv().await {
            match event {
                Event::Init => {
                    there = None;
                    continue;
                }
                Event::InitApply(Watched(found)) => {
                    there = found.ok();
                    continue;
                }
                Event::Apply(Watched(found)) => there = found.ok(),
                Event::Delete(_) => there = None,
                Event::InitDone => {}
            }
            if is_so(there.as_ref()) {
                return;
            }
        }
    };
    let outcome = timeout(DEADLINE, wait).await;
    watching.abort();
    assert!(outcome.is_ok(), "{} {name} is not as it should be", K::kind(&()));
}

async fn is_gone<K>(space: &Space, name: &str)
where
    K: Readable + Resource<Scope = NamespaceResourceScope> + Send + 'static,
{
    until::<K>(space, name, |found| found.is_none()).await;
}

/// Sends a request as the API server takes it, and returns what it answers.
async fn send(space: &Space, method: &str, path: &str, body: &Value) -> kube::Result<Value> {
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    space.client.request(request.body(body).unwrap()).await
}

/// Merges values into an object.
async fn patch<K>(space: &Space, name: &str, patch: &Value)
where
    K: Readable + Resource<Scope = NamespaceResourceScope>,
{
    send(space, "PATCH", &format!("{}/{name}", K::url_path(&(), Some(&space.namespace))), patch)
        .await
        .unwrap();
}

/// Deletes what others could not list, and waits until it is gone.
async fn delete_all<K>(space: &Space)
where
    K: Readable + Resource<Scope = NamespaceResourceScope>,
{
    let all = K::url_path(&(), Some(&space.namespace));
    send(space, "DELETE", &all, &Value::Null).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while send(space, "GET", &all, &Value::Null).await.unwrap()["items"]
        .as_array()
        .is_some_and(|all| !all.is_empty())
    {
        assert!(Instant::now() < deadline, "{all} is not empty");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Ends a test. Garbage collection may come after it, and takes the poisoned Secrets, accounts and bindings.
async fn end(operator: Operator, space: &Space) {
    delete_all::<ApiToken>(space).await;
    delete_all::<Credential>(space).await;
    operator.stop().await;
    for all in
        [Secret::url_path(&(), Some(&space.namespace)), RoleBinding::url_path(&(), Some(&space.namespace))]
    {
        send(space, "DELETE", &all, &Value::Null).await.unwrap();
    }
}

/// Puts values into the metadata of an object, again where somebody else has changed it meanwhile.
async fn put<K>(space: &Space, name: &str, field: &str, value: &Value)
where
    K: Readable + Resource<Scope = NamespaceResourceScope>,
{
    let path = format!("{}/{name}", K::url_path(&(), Some(&space.namespace)));
    loop {
        let mut object = send(space, "GET", &path, &Value::Null).await.unwrap();
        let api_version = object["apiVersion"].clone();
        let metadata = &mut object["metadata"];
        match (&mut metadata[field], value) {
            (Value::Object(there), Value::Object(more)) => there.extend(more.clone()),
            (there, value) => *there = value.clone(),
        }
        // What is of another version is dropped by the API server.
        for entry in metadata["managedFields"].as_array_mut().into_iter().flatten() {
            entry["apiVersion"] = api_version.clone();
        }
        match send(space, "PUT", &path, &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            written => {
                written.unwrap();
                return;
            }
        }
    }
}

/// Poisons an object, and makes sure that it is: a typed reader fails on it.
async fn poison<K>(space: &Space, name: &str)
where
    K: Readable + Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug,
{
    let (field, value) = hostile().swap_remove(0);
    put::<K>(space, name, field, &value).await;
    let typed = kube::Api::<K>::namespaced(space.client.clone(), &space.namespace).get(name).await;
    assert!(matches!(typed, Err(kube::Error::SerdeError(_))), "it is to be poisoned: {typed:?}");
}

fn bound(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: {name}}}\nspec: {{roles: [{{kind: ClusterRole, name: view}}]{rest}}}\n"
    )
}

/// The name of the binding of a credential in its own namespace.
async fn binding(space: &Space, credential: &str) -> String {
    let mut page = objects::<RoleBinding>(space).list(&kube::api::ListParams::default()).await.unwrap();
    while let Some(found) = page.next().await.unwrap() {
        let name = found.metadata().name.clone().unwrap();
        if name.starts_with(&format!("{credential}-credential-")) {
            return name;
        }
    }
    panic!("{credential} is not bound")
}

async fn a_poisoned_credential_is_unbound_when_it_is_switched_off_expires_or_is_deleted(
    world: Arc<World>,
    space: Space,
) {
    let operator = world.operator(SystemClock::shared()).await;
    for name in ["off", "ends", "goes", "account", "bindings"] {
        space.apply(&bound(name, "")).await;
    }
    let mut bindings = Vec::new();
    for name in ["off", "ends", "goes", "account", "bindings"] {
        space.credential(name, CredentialState::Active).await;
        bindings.push(binding(&space, name).await);
    }
    for name in ["off", "ends", "goes"] {
        poison::<Credential>(&space, name).await;
    }
    poison::<ServiceAccount>(&space, "account-credential").await;
    poison::<RoleBinding>(&space, &bindings[4]).await;

    let off = json!({"spec": {"state": "Inactive"}});
    for name in ["off", "account", "bindings"] {
        patch::<Credential>(&space, name, &off.clone()).await;
    }
    let soon = SystemClock::shared().now() + SignedDuration::from_secs(3);
    patch::<Credential>(&space, "ends", &json!({"spec": {"expiresAt": soon.to_string()}})).await;
    let path = format!("{}/goes", Credential::url_path(&(), Some(&space.namespace)));
    send(&space, "DELETE", &path, &Value::Null).await.unwrap();
    for binding in &bindings {
        is_gone::<RoleBinding>(&space, binding).await;
    }
    for (name, state) in [("off", CredentialState::Inactive), ("ends", CredentialState::Expired)] {
        until::<Credential>(&space, name, |found| {
            found.and_then(|found| found.status.as_ref()?.state) == Some(state)
        })
        .await;
    }
    end(operator, &space).await;
}

async fn poisoned_tokens_and_secrets_end_when_they_are_to(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&bound("c", "")).await;
    let names = ["token", "secret", "minted-token", "minted-secret"];
    for name in names {
        let kind = if name.starts_with("minted") { "type: ServiceAccount, " } else { "" };
        space.apply(&token(name, &format!("{kind}expiresIn: 1h"))).await;
    }
    for name in names {
        space.token(name, ApiTokenState::Active).await;
    }
    for name in ["token", "minted-token"] {
        poison::<ApiToken>(&space, name).await;
    }
    for name in ["secret-token", "minted-secret-token"] {
        poison::<Secret>(&space, name).await;
    }
    for name in names {
        patch::<ApiToken>(&space, name, &json!({"spec": {"revoked": true}})).await;
    }
    for name in names {
        is_gone::<PartialObjectMeta<Secret>>(&space, &format!("{name}-token")).await;
        until::<ApiToken>(&space, name, |found| {
            found.and_then(|found| found.status.as_ref()?.state) == Some(ApiTokenState::Revoked)
        })
        .await;
    }
    end(operator, &space).await;
}

/// A credential, a token of each type, their Secrets, the account and the binding, each with each hostile field.
async fn every_field_of_the_metadata_may_be_hostile(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    let rows = hostile();
    for (n, _) in rows.iter().enumerate() {
        space.apply(&bound(&format!("c{n}"), "")).await;
    }
    for (n, (field, value)) in rows.iter().enumerate() {
        let credential = format!("c{n}");
        space.credential(&credential, CredentialState::Active).await;
        for (name, kind) in [(format!("o{n}"), ""), (format!("m{n}"), "type: ServiceAccount, ")] {
            space
                .apply(
                    &token(&name, &format!("{kind}expiresIn: 1h"))
                        .replace("{name: c}", &format!("{{name: {credential}}}")),
                )
                .await;
            space.token(&name, ApiTokenState::Active).await;
            put::<ApiToken>(&space, &name, field, value).await;
            put::<Secret>(&space, &format!("{name}-token"), field, value).await;
        }
        let binding = binding(&space, &credential).await;
        put::<Credential>(&space, &credential, field, value).await;
        put::<ServiceAccount>(&space, &format!("{credential}-credential"), field, value).await;
        put::<RoleBinding>(&space, &binding, field, value).await;
        patch::<ApiToken>(&space, &format!("o{n}"), &json!({"spec": {"revoked": true}})).await;
        patch::<Credential>(&space, &credential, &json!({"spec": {"state": "Inactive"}})).await;
        is_gone::<RoleBinding>(&space, &binding).await;
        is_gone::<PartialObjectMeta<Secret>>(&space, &format!("o{n}-token")).await;
        is_gone::<PartialObjectMeta<Secret>>(&space, &format!("m{n}-token")).await;
    }
    end(operator, &space).await;
}

/// Adds labels and an annotation to an object until etcd refuses a few bytes more.
async fn fill<K>(space: &Space, name: &str)
where
    K: Readable + Resource<Scope = NamespaceResourceScope>,
{
    let label = |n: usize| (format!("{}.x/n{n}", "a".repeat(63)), json!("v".repeat(63)));
    let labels: serde_json::Map<_, _> = (0..9_600).map(label).collect();
    let path = format!("{}/{name}", K::url_path(&(), Some(&space.namespace)));
    let merged = json!({"metadata": {"labels": labels, "managedFields": [{}]}});
    send(space, "PATCH", &path, &merged).await.unwrap();
    let (mut fits, mut too_large) = (0, 250_000);
    while too_large - fits > 16 {
        let size = usize::midpoint(fits, too_large);
        let annotations = json!({"example.com/filled": "x".repeat(size)});
        let merged = json!({"metadata": {"annotations": annotations, "managedFields": [{}]}});
        match send(space, "PATCH", &path, &merged).await {
            Ok(_) => fits = size,
            Err(refused) => {
                assert!(refused.to_string().contains("too large"), "{refused}");
                too_large = size;
            }
        }
    }
}

/// Managed fields of more than 1 MiB, which no admission policy can bound.
fn many_fields() -> Value {
    let fields: serde_json::Map<_, _> =
        (0..18_000).map(|n| (format!("f:{}{n}", "x".repeat(60)), json!({}))).collect();
    json!([{
        "manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": fields}},
    }])
}

/// The first is filled before the policy `metadata` is in force, to the last byte; the others with managed fields, which no
/// policy can bound. A finalizer prevents the deletion of such an object, since its deletion timestamp does not fit.
async fn an_object_too_large_to_be_revoked_grants_nothing(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    let kubeconfig = format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: kube}}\nspec: {{type: Kubeconfig, \
         kubeconfig: {{server: '{}'}}}}\n",
        world.control_plane.server()
    );
    let named =
        |name: &str, of: &str, rest: &str| token(name, rest).replace("{name: c}", &format!("{{name: {of}}}"));
    space.apply(&[bound("full", ""), bound("fat", ""), bound("slim", ""), kubeconfig].join("---\n")).await;
    space
        .apply(
            &[
                named("opaque", "full", "expiresIn: 1h"),
                named("minted", "fat", "type: ServiceAccount, expiresIn: 1h"),
                named("fat-opaque", "slim", "expiresIn: 1h"),
                named("fat-minted", "slim", "type: ServiceAccount, expiresIn: 1h"),
            ]
            .join("---\n"),
        )
        .await;
    let (mut bindings, tokens) = (Vec::new(), ["opaque", "minted", "fat-opaque", "fat-minted"]);
    for name in ["full", "fat"] {
        space.credential(name, CredentialState::Active).await;
        bindings.push(binding(&space, name).await);
    }
    space.published("kube", 0).await;
    for name in tokens {
        space.token(name, ApiTokenState::Active).await;
    }
    let values = [space.value("opaque-token").await, space.value("fat-opaque-token").await];
    let verifier = Asked::timed(&world, SystemClock::shared()).await;
    for value in &values {
        verifier.until("", value, 200).await;
    }

    fill::<Credential>(&space, "full").await;
    let managed = many_fields();
    for name in ["fat", "kube"] {
        put::<Credential>(&space, name, "managedFields", &managed).await;
    }
    for name in ["fat-opaque", "fat-minted"] {
        put::<ApiToken>(&space, name, "managedFields", &managed).await;
    }
    for binding in &bindings {
        is_gone::<RoleBinding>(&space, binding).await;
    }
    for secret in ["minted-token", "fat-minted-token", "kube-credential"] {
        is_gone::<PartialObjectMeta<Secret>>(&space, secret).await;
    }
    for value in &values {
        verifier.until("", value, 401).await;
    }
    // No value is lost.
    assert_eq!(values, [space.value("opaque-token").await, space.value("fat-opaque-token").await]);

    let path = |kind: &str, name: &str| format!("{kind}/{name}");
    let credentials = Credential::url_path(&(), Some(&space.namespace));
    let tokens = ApiToken::url_path(&(), Some(&space.namespace));
    for (path, kind, name) in [
        (path(&credentials, "fat"), "credential", "fat"),
        (path(&credentials, "kube"), "credential", "kube"),
        (path(&tokens, "fat-opaque"), "apitoken", "fat-opaque"),
        (path(&tokens, "fat-minted"), "apitoken", "fat-minted"),
    ] {
        let command = format!(
            "kubectl patch {kind} {name} --type=json -p '[{{\"op\":\"replace\",\"path\":\"/metadata/managedFields\",\"value\":[{{}}]}}]'"
        );
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = send(&space, "GET", &path, &Value::Null).await.unwrap();
            let ready = &found["status"]["conditions"][0];
            let message = ready["message"].as_str().unwrap_or_default();
            if ready["reason"] == "InvalidSpec" && message.contains(&command) {
                break;
            }
            assert!(Instant::now() < deadline, "{kind} {name}: {ready}");
            sleep(Duration::from_millis(100)).await;
        }
        send(&space, "PATCH", &path, &json!({"metadata": {"managedFields": [{}]}})).await.unwrap();
    }
    // The controller issues a kubeconfig again at most once a minute.
    clock.step(SignedDuration::from_secs(61));
    space.credential("fat", CredentialState::Active).await;
    binding(&space, "fat").await;
    space.published("kube", 0).await;
    for name in ["minted", "fat-opaque", "fat-minted"] {
        space.token(name, ApiTokenState::Active).await;
    }
    verifier.until("", &values[1], 200).await;
    assert_eq!(values[1], space.value("fat-opaque-token").await);
    verifier.stop().await;
    // The deletion of an object without finalizers needs no room.
    end(operator, &space).await;
}

/// The deletion timestamp of an object with a finalizer does not fit into such an object.
async fn full_secrets_and_bindings_are_deleted_although_a_finalizer_keeps_them(
    world: Arc<World>,
    space: Space,
) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&bound("c", "")).await;
    space.credential("c", CredentialState::Active).await;
    space.apply(&token("t", "type: ServiceAccount, expiresIn: 1h")).await;
    space.token("t", ApiTokenState::Active).await;
    let binding = binding(&space, "c").await;
    let finalizers = json!(["example.com/keep"]);
    put::<Secret>(&space, "t-token", "finalizers", &finalizers).await;
    put::<RoleBinding>(&space, &binding, "finalizers", &finalizers).await;
    fill::<Secret>(&space, "t-token").await;
    fill::<RoleBinding>(&space, &binding).await;
    let path = format!("{}/t-token", Secret::url_path(&(), Some(&space.namespace)));
    let refused = send(&space, "DELETE", &path, &Value::Null).await.unwrap_err();
    assert!(refused.to_string().contains("too large"), "{refused}");
    patch::<ApiToken>(&space, "t", &json!({"spec": {"revoked": true}})).await;
    is_gone::<PartialObjectMeta<Secret>>(&space, "t-token").await;
    patch::<Credential>(&space, "c", &json!({"spec": {"state": "Inactive"}})).await;
    is_gone::<RoleBinding>(&space, &binding).await;
    an_orphan_that_cannot_be_deleted_keeps_no_access(&space).await;
    end(operator, &space).await;
}

/// The Secret of an earlier token of the name is too large to be deleted, and the later token is too large to be revoked.
async fn an_orphan_that_cannot_be_deleted_keeps_no_access(space: &Space) {
    patch::<Credential>(space, "c", &json!({"spec": {"state": "Active"}})).await;
    space.apply(&token("again", "expiresIn: 1h")).await;
    space.token("again", ApiTokenState::Active).await;
    put::<Secret>(space, "again-token", "ownerReferences", &Value::Null).await;
    put::<Secret>(space, "again-token", "finalizers", &json!(["example.com/keep"])).await;
    fill::<Secret>(space, "again-token").await;
    space.api::<ApiToken>().delete("again", &kube::api::DeleteParams::orphan()).await.unwrap();
    is_gone::<ApiToken>(space, "again").await;
    space.apply(&token("again", "type: ServiceAccount, expiresIn: 1h, secret: {name: later}")).await;
    space.token("again", ApiTokenState::Active).await;
    put::<ApiToken>(space, "again", "managedFields", &many_fields()).await;
    is_gone::<PartialObjectMeta<Secret>>(space, "later").await;
    put::<Secret>(space, "again-token", "finalizers", &Value::Null).await;
}
