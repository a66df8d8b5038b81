//! How much metadata objects of our kinds may have, and what goes on with those that have more already.

use std::{sync::Arc, time::Duration};

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential, CredentialPolicy, CredentialState},
    domain::name,
};
use k8s_openapi::api::{core::v1::ConfigMap, rbac::v1::RoleBinding};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::{
    Admission,
    case::{Act, Allowed, Attack, EDITOR, Kind, Remedy, Who, credential, object, policy, token},
    clean_up, each,
};
use crate::support::{DEADLINE, Space, SystemClock, World, apply};

crate::tests![
    metadata_beyond_a_bound_is_refused,
    metadata_within_the_bounds_passes,
    objects_beyond_a_bound_are_revoked_and_released_but_do_not_grow,
    largest_old_object_can_be_revoked,
];

fn labels(count: usize) -> Value {
    (0..count).map(|n| (format!("example.com/l{n}"), json!("v"))).collect::<Map<_, _>>().into()
}

fn finalizers(count: usize) -> Value {
    (0..count).map(|n| json!(format!("example.com/f{n}"))).collect()
}

fn owner(name: &str, uid: &str) -> Value {
    json!({"apiVersion": "example.com/v0", "kind": "Any", "name": name, "uid": uid})
}

fn owners(count: usize) -> Value {
    (0..count).map(|n| owner(&format!("n{n}"), &format!("u{n}"))).collect()
}

fn with(metadata: Value) -> Value {
    Value::Object([("metadata".to_owned(), metadata)].into_iter().collect())
}

/// A credential with that metadata beside its name.
fn born_with(metadata: &Value) -> String {
    let mut all = metadata.clone();
    all["name"] = json!("c");
    object("Credential", &all.to_string(), "{}")
}

fn attack(name: &'static str, given: String, act: Act, says: &'static str, instead: Act) -> Attack {
    Attack {
        name,
        given,
        who: EDITOR,
        may: &["create credentials", "patch credentials", "patch apitokens", "patch credentialpolicies @*"],
        act,
        refused_by: "metadata",
        says,
        remedy: Remedy::Instead(instead),
    }
}

fn attacks() -> Vec<Attack> {
    let long = "n".repeat(1100);
    let created = |name, metadata: Value, says, less: Value| {
        attack(name, String::new(), Act::Create(born_with(&metadata)), says, Act::Create(born_with(&less)))
    };
    let merged = |name, kind, object, patch: Value, says, less: Value| {
        let given = credential("{}") + &token("expiresIn: 1h") + &policy("types: [Token]");
        attack(name, given, Act::Merge(kind, object, with(patch)), says, Act::Merge(kind, object, with(less)))
    };
    vec![
        created(
            "created with many labels",
            json!({"labels": labels(65)}),
            "Credential \"c\" has 65 labels, and 64 are allowed. Remove some.",
            json!({"labels": labels(64)}),
        ),
        created(
            "created with many finalizers",
            json!({"finalizers": finalizers(17)}),
            "Credential \"c\" has 17 finalizers, and 16 are allowed. Remove some.",
            json!({"finalizers": finalizers(16)}),
        ),
        created(
            "created with many owners",
            json!({"ownerReferences": owners(17)}),
            "Credential \"c\" has 17 owner references, and 16 are allowed. Remove some.",
            json!({"ownerReferences": owners(16)}),
        ),
        created(
            "created with a long owner",
            json!({"ownerReferences": [owner(&long, "u")]}),
            "Credential \"c\" has an owner reference with more than 1024 characters. Remove it from metadata.ownerReferences.",
            json!({"ownerReferences": [owner(&long[..900], "u")]}),
        ),
        merged(
            "a token given many labels",
            Kind::ApiToken,
            "t",
            json!({"labels": labels(65)}),
            "ApiToken \"t\" has 65 labels",
            json!({"labels": labels(64)}),
        ),
        merged(
            "a token given a long owner",
            Kind::ApiToken,
            "t",
            json!({"ownerReferences": [owner("n", &long)]}),
            "ApiToken \"t\" has an owner reference with more than 1024 characters.",
            json!({"ownerReferences": [owner("n", "u")]}),
        ),
        merged(
            "a policy given many finalizers",
            Kind::CredentialPolicy,
            "$ns",
            json!({"finalizers": finalizers(17)}),
            "CredentialPolicy \"$ns\" has 17 finalizers",
            json!({"labels": {"a": "b"}}),
        ),
        merged(
            "a credential given many owners",
            Kind::Credential,
            "c",
            json!({"ownerReferences": owners(17)}),
            "Credential \"c\" has 17 owner references",
            json!({"ownerReferences": owners(16)}),
        ),
    ]
}

async fn metadata_beyond_a_bound_is_refused(world: Arc<World>, _: Space) {
    each(world, attacks()).await;
}

async fn metadata_within_the_bounds_passes(world: Arc<World>, _: Space) {
    let full = json!({"labels": labels(64), "finalizers": finalizers(16), "ownerReferences": owners(16)});
    let mut ours: Vec<_> = finalizers(16).as_array().unwrap().clone();
    ours.push(json!(name::FINALIZER));
    let edit = |name, patch: Value| Allowed {
        name,
        given: born_with(&full),
        who: EDITOR,
        may: &[],
        act: Act::Merge(Kind::Credential, "c", with(patch)),
    };
    let created = Allowed {
        given: String::new(),
        act: Act::Create(born_with(&full)),
        ..edit("created with all that is allowed", json!({}))
    };
    each(
        world,
        vec![
            created,
            edit("the finalizer of the controller beside sixteen", json!({"finalizers": ours})),
            edit("another label instead", json!({"labels": {"example.com/l0": null, "other": "v"}})),
        ],
    )
    .await;
}

/// Waits until it is refused, for that reason: a policy may be known a moment later.
async fn refused(space: &Space, kind: Kind, name: &'static str, metadata: Value, says: &str) {
    let grown = Act::Merge(kind, name, with(metadata)).run(&space.client, space).await;
    match grown {
        Err(kube::Error::Api(status)) => assert!(status.message.contains(says), "{}", status.message),
        other => panic!("{says}: {other:?}"),
    }
}

async fn objects_beyond_a_bound_are_revoked_and_released_but_do_not_grow(world: Arc<World>, space: Space) {
    // Owners that there are, so that garbage collection has something to do.
    let mut owners = Vec::new();
    for number in 0..20 {
        let owner =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("owner-{number}")}});
        let owner = apply(&space.client, &space.namespace, owner).await.unwrap();
        owners.push(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid()}),
        );
    }
    let metadata = json!({"labels": labels(80), "finalizers": finalizers(20), "ownerReferences": owners});
    let other = format!("{}-other", space.namespace);
    apply(&space.client, "", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}}))
        .await
        .unwrap();
    let (mut of_credential, mut of_token, mut of_policy) = (metadata.clone(), metadata.clone(), metadata);
    of_credential["name"] = json!("c");
    of_token["name"] = json!("t");
    of_policy["name"] = json!(space.namespace);
    of_policy.as_object_mut().unwrap().remove("ownerReferences");
    let roles = format!("{{roles: [{{kind: ClusterRole, name: view, namespace: {other}}}]}}");
    space.apply(&object("Credential", &of_credential.to_string(), &roles)).await;
    space
        .apply(&object("ApiToken", &of_token.to_string(), "{credentialRef: {name: c}, expiresIn: 1h}"))
        .await;
    let allowed = "{namespaceSelector: {}, roles: [{kind: ClusterRole, name: view, namespaces: ['*']}]}";
    space.apply(&object("CredentialPolicy", &of_policy.to_string(), allowed)).await;

    let admission = Admission::start(&world).await;
    let operator = world.guarded_operator(SystemClock::shared()).await;
    // The controller adds its finalizer to twenty others.
    space.credential("c", CredentialState::Active).await;
    space.token("t", ApiTokenState::Active).await;
    let bound: Api<RoleBinding> = Api::namespaced(space.client.clone(), &other);
    let grants = async || bound.list_metadata(&ListParams::default()).await.unwrap().items.len();
    assert_eq!(grants().await, 1);
    let is_held = |found: &Credential| found.finalizers().iter().any(|held| held == name::FINALIZER);
    assert!(is_held(&space.api::<Credential>().get("c").await.unwrap()));
    for (kind, of) in [(Kind::Credential, "c"), (Kind::ApiToken, "t"), (Kind::CredentialPolicy, "$ns")] {
        refused(&space, kind, of, json!({"labels": {"one-more": ""}}), "has 81 labels, and 64 are allowed")
            .await;
        refused(
            &space,
            kind,
            of,
            json!({"finalizers": finalizers(21)}),
            "has 21 finalizers, and 16 are allowed",
        )
        .await;
        let relabelled = json!({"labels": {"example.com/l0": null, "other": "v"}});
        Act::Merge(kind, of, with(relabelled)).run(&space.client, &space).await.unwrap();
        Act::Merge(kind, of, with(json!({"labels": {"other": null}})))
            .run(&space.client, &space)
            .await
            .unwrap();
    }
    // Garbage collection takes the reference to an owner away that is gone.
    space.api::<ConfigMap>().delete("owner-0", &DeleteParams::default()).await.unwrap();
    space
        .until::<Credential>("c", |found| found.is_some_and(|found| found.owner_references().len() == 19))
        .await;
    space
        .until::<ApiToken>("t", |found| found.is_some_and(|found| found.owner_references().len() == 19))
        .await;
    let (still, one_more) = (19, owner("long", &"u".repeat(2000)));
    let mut grown: Vec<_> = json!(space.api::<Credential>().get("c").await.unwrap().owner_references())
        .as_array()
        .unwrap()
        .clone();
    grown[still - 1] = one_more;
    let says = "has an owner reference with more than 1024 characters";
    refused(&space, Kind::Credential, "c", json!({"ownerReferences": grown}), says).await;

    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    space.token("t", ApiTokenState::Revoked).await;
    space.patch::<Credential>("c", json!({"spec": {"state": "Inactive"}})).await.unwrap();
    space.credential("c", CredentialState::Inactive).await;
    assert_eq!(grants().await, 0);
    // The controller takes its finalizer away while twenty others stay.
    space.until::<Credential>("c", |found| found.is_some_and(|found| !is_held(found))).await;
    operator.stop().await;
    for (kind, of) in [(Kind::Credential, "c"), (Kind::ApiToken, "t"), (Kind::CredentialPolicy, "$ns")] {
        Act::Merge(kind, of, with(json!({"finalizers": null}))).run(&space.client, &space).await.unwrap();
    }
    let policies: Api<CredentialPolicy> = Api::all(space.client.clone());
    policies.delete(&space.namespace, &DeleteParams::default()).await.unwrap();
    admission.stop().await;
    clean_up(&space).await;
}

/// As large as storage takes, so that no expression costs more than the API server allows.
async fn largest_old_object_can_be_revoked(world: Arc<World>, space: Space) {
    space.apply(&credential("{}")).await;
    let fields = [
        ("labels", (0..60_000).map(|n| (format!("l{n}"), json!(""))).collect::<Map<_, _>>().into()),
        ("finalizers", (0..60_000).map(|n| json!(format!("a/{n}"))).collect::<Value>()),
        ("ownerReferences", owners(12_000)),
    ];
    for (number, (field, value)) in fields.iter().enumerate() {
        let mut metadata = json!({"name": format!("t{number}")});
        metadata[*field] = value.clone();
        let token = object("ApiToken", &metadata.to_string(), "{credentialRef: {name: c}, expiresIn: 1h}");
        Act::Create(token)
            .run(&space.client, &space)
            .await
            .unwrap_or_else(|error| panic!("{field}: {error}"));
    }
    let admission = Admission::start(&world).await;
    let admin = Who::Admin.person(&world, &space).await;
    let deadline = Instant::now() + DEADLINE;
    for (number, (field, _)) in fields.iter().enumerate() {
        let name = ["t0", "t1", "t2"][number];
        let revoke = Act::Merge(Kind::ApiToken, name, json!({"spec": {"revoked": true}}));
        if let Err(error) = revoke.run(&admin.client, &space).await {
            panic!("{field}: {error}");
        }
        let release = Act::Merge(Kind::ApiToken, name, with(json!({ *field: null })));
        while let Err(error) = release.run(&admin.client, &space).await {
            assert!(Instant::now() < deadline, "{field}: {error}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    admission.stop().await;
    clean_up(&space).await;
}
