//! What somebody claims in a status, or in an annotation of ours.

use std::sync::Arc;

use control_plane::Namespaced;
use credential_operator::api::{ApiToken, ApiTokenState, Credential};
use k8s_openapi::api::{core::v1::Secret, rbac::v1::RoleBinding};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::case::{Seen, seen as versions};
use crate::{
    admission::{
        case::{credential, object, token},
        clean_up,
    },
    support::{Space, SystemClock, World, apply, condition},
    verifier::Asked,
};

crate::tests![
    a_forged_status_of_a_credential_is_put_right,
    a_secret_that_a_credential_seems_to_own_changes_nothing,
    annotations_of_ours_say_nothing_by_themselves,
];

/// Tests that need an operator to themselves.
pub mod forged_alone {
    use super::{Arc, Space, World};

    crate::tests![a_copied_digest_opens_nothing_while_nobody_looks];

    async fn a_copied_digest_opens_nothing_while_nobody_looks(world: Arc<World>, space: Space) {
        super::copied(&world, &space).await;
    }
}

async fn forge<K>(space: &Space, name: &str, status: &Value)
where
    K: Namespaced,
{
    let patch = Patch::Merge(json!({"status": status}));
    space.api::<K>().patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

/// A credential's status without times and counts.
fn told(credential: &Credential) -> Value {
    let mut status = json!(credential.status);
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        condition["lastTransitionTime"] = Value::Null;
    }
    status["tokens"] = Value::Null;
    status["nextExpiryAt"] = Value::Null;
    status
}

async fn a_forged_status_of_a_credential_is_put_right(_: Arc<World>, space: Space) {
    space
        .apply(
            &(credential(
                "{type: ClientSecret, roles: [{kind: ClusterRole, name: view}], scopes: ['orders:read']}",
            ) + &object("Credential", "{name: d}", "{type: ClientSecret}")),
        )
        .await;
    let other = json!(space.published("d", 0).await.status);
    let before = told(&space.published("c", 0).await);
    let (made, data) = (versions(&space).await, space.data("c-credential").await);
    let uids =
        |seen: &Seen| -> Vec<_> { seen.iter().map(|(name, (uid, _))| (name.clone(), uid.clone())).collect() };
    let nobody = "00000000-0000-4000-8000-000000000000";
    for forged in [
        json!({"material": {"digest": other["material"]["digest"], "id": other["material"]["id"]}}),
        json!({"material": other["material"], "secret": other["secret"]}),
        json!({"material": {"expiresAt": "2100-01-01T00:00:00Z", "rotatesAt": "2020-01-01T00:00:00Z"}}),
        json!({"material": {"serial": 0, "revision": 7, "options": "0000000000000000"}}),
        json!({"material": {"previous": {"serial": 0, "id": other["material"]["id"], "digest": other["material"]["digest"],
               "expiresAt": "2100-01-01T00:00:00Z"}}}),
        json!({"material": null, "secret": null}),
        json!({"secret": {"name": "d-credential", "uid": other["secret"]["uid"]}}),
        json!({"serviceAccount": other["serviceAccount"]}),
        json!({"serviceAccount": null}),
        json!({"roles": "cluster-admin"}),
        json!({"state": "Inactive"}),
        json!({"state": "Expired"}),
        json!({"conditions": null}),
        json!({"serviceAccount": {"name": "c-credential", "uid": nobody}, "state": "Failed"}),
    ] {
        forge::<Credential>(&space, "c", &forged).await;
        space.until::<Credential>("c", |found| found.is_some_and(|found| told(found) == before)).await;
        // What the status seemed to say of another Secret may have its own mended.
        assert_eq!(uids(&versions(&space).await), uids(&made), "after {forged}");
        assert_eq!(
            versions(&space).await["Secret d-credential"],
            made["Secret d-credential"],
            "after {forged}"
        );
        assert_eq!(space.data("c-credential").await, data, "after {forged}");
    }
}

async fn a_secret_that_a_credential_seems_to_own_changes_nothing(_: Arc<World>, space: Space) {
    space.apply(&credential("{type: ClientSecret}")).await;
    let published = space.published("c", 0).await;
    let before = published.status.clone().unwrap().material;
    let made = versions(&space).await;
    let planted = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "mine",
            "labels": {"app.kubernetes.io/managed-by": "credential-operator"},
            "ownerReferences": [{
                "apiVersion": "credential-operator.io/v1alpha1", "kind": "Credential", "name": "c",
                "uid": published.uid(), "controller": true,
            }],
        },
        "stringData": {"client-id": "planted", "client-secret": "planted"},
    });
    // A copy of the credential's own Secret under another name belongs to the user, too.
    let mut copied = json!(space.api::<Secret>().get("c-credential").await.unwrap());
    let metadata = copied["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| ["labels", "annotations", "ownerReferences"].contains(&field.as_str()));
    metadata.insert("name".to_owned(), json!("copy"));
    for secret in [planted, copied] {
        let secret = apply(&space.client, &space.namespace, secret).await.unwrap();
        let generation = json!({"spec": {"description": format!("beside {}", secret.name_any())}});
        let generation = space.patch::<Credential>("c", generation).await.unwrap().metadata.generation;
        space
            .until::<Credential>("c", |found| {
                let status = found.and_then(|found| found.status.as_ref());
                status.is_some_and(|status| status.observed_generation == generation)
            })
            .await;
        let after = space.api::<Secret>().get(&secret.name_any()).await.unwrap();
        assert_eq!(after.resource_version(), secret.resource_version());
        space.api::<Secret>().delete(&secret.name_any(), &DeleteParams::default()).await.unwrap();
    }
    let published = |found: &Credential| found.status.clone().unwrap().material;
    assert_eq!(versions(&space).await["Secret c-credential"], made["Secret c-credential"]);
    assert_eq!(published(&space.published("c", 0).await), before);
}

async fn annotations_of_ours_say_nothing_by_themselves(_: Arc<World>, space: Space) {
    space
        .apply(
            &(credential("{type: ClientSecret, roles: [{kind: ClusterRole, name: view}]}")
                + &token("expiresIn: 1h, delivery: {mode: Once, window: 1h}")
                + &object("ApiToken", "{name: u}", "{credentialRef: {name: c}, expiresIn: 1h}")),
        )
        .await;
    space.published("c", 0).await;
    let once = space.token("t", ApiTokenState::Active).await.status;
    space.token("u", ApiTokenState::Active).await;
    let (made, other) = (versions(&space).await, space.api::<Secret>().get("u-token").await.unwrap());
    // On the objects: a wrong id acknowledges nothing, and nobody reads what else there may be.
    let claims = json!({
        "credential-operator.io/acknowledged": "AAAAAAAAAAAA",
        "credential-operator.io/rotate-answered": "now",
        "credential-operator.io/made-for": "{}",
        "credential-operator.io/attestation": other.annotations()["credential-operator.io/attestation"],
        "credential-operator.io/owner-uid": "somebody",
    });
    let claim = json!({"metadata": {"annotations": claims}, "spec": {"description": "looked at"}});
    let generation = space.patch::<Credential>("c", claim.clone()).await.unwrap().metadata.generation;
    space
        .until::<Credential>("c", |found| {
            let status = found.and_then(|found| found.status.as_ref());
            status.is_some_and(|status| status.observed_generation == generation)
        })
        .await;
    let generation = space.patch::<ApiToken>("t", claim).await.unwrap().metadata.generation;
    let told = space.until::<ApiToken>("t", |found| {
        let status = found.and_then(|found| found.status.as_ref());
        status.is_some_and(|status| status.observed_generation == generation)
    });
    let told = told.await.unwrap().status;
    assert_eq!(versions(&space).await, made);
    let id =
        |status: Option<credential_operator::api::ApiTokenStatus>| status.and_then(|status| status.token_id);
    assert_eq!(id(told), id(once));
    // On what was made: the one that says what it holds is put back, the others change nothing, and the value stays.
    let value = space.value("u-token").await;
    let attestation = "credential-operator.io/attestation";
    for claims in [
        json!({attestation: "{}"}),
        json!({attestation: null}),
        json!({attestation: null, "credential-operator.io/made-for":
               "{\"kind\":\"ApiToken\",\"name\":\"u\",\"uid\":\"gone\",\"as\":\"x/u-token\"}"}),
        json!({attestation: null, "credential-operator.io/made-for": null}),
        json!({attestation: null, "credential-operator.io/published": "{\"labels\":[\"app.kubernetes.io/managed-by\"]}"}),
    ] {
        space.patch::<Secret>("u-token", json!({"metadata": {"annotations": claims}})).await.unwrap();
        let put_back = |found: Option<&Secret>| {
            found.is_some_and(|found| {
                found.annotations().get(attestation) == other.annotations().get(attestation)
            })
        };
        let after = space.until::<Secret>("u-token", put_back).await.unwrap();
        assert_eq!(after.uid(), other.uid(), "after {claims}");
        assert_eq!(space.value("u-token").await, value, "after {claims}");
    }
    let bindings = space.api::<RoleBinding>();
    let bound = bindings.list(&ListParams::default()).await.unwrap().items.remove(0);
    let claim = json!({"metadata": {"annotations": {"credential-operator.io/owner-uid": "gone"}}});
    space.patch::<RoleBinding>(&bound.name_any(), claim).await.unwrap();
    space
        .until::<RoleBinding>(&bound.name_any(), |found| {
            found.is_some_and(|found| found.annotations() == bound.annotations())
        })
        .await;
}

/// Whoever may write statuses copies the digest of a value they have onto a token with more scopes.
async fn copied(world: &Arc<World>, space: &Space) {
    let operator = world.operator(SystemClock::shared()).await;
    let of = |name: &str, spec: &str| {
        object("Credential", &format!("{{name: {name}}}"), spec)
            + &object(
                "ApiToken",
                &format!("{{name: {name}}}"),
                &format!("{{credentialRef: {{name: {name}}}, expiresIn: 1h}}"),
            )
    };
    space.apply(&(of("own", "{}") + &of("strong", "{audiences: [orders], scopes: ['orders:read']}"))).await;
    let own = json!(space.token("own", ApiTokenState::Active).await.status);
    let strong = json!(space.token("strong", ApiTokenState::Active).await.status);
    let (mine, theirs) = (space.value("own-token").await, space.value("strong-token").await);
    operator.stop().await;
    let verifier = Asked::start(world).await;
    verifier.until("", &mine, 200).await;
    verifier.until("/orders", &theirs, 200).await;
    assert_eq!(verifier.bearer("/orders", &mine).await, 401);
    let claim = json!({"tokenId": own["tokenId"], "digest": own["digest"], "serial": own["serial"]});
    forge::<ApiToken>(space, "strong", &claim).await;
    // The value that it had is refused, once the forged status is known; the copied one opens nothing.
    verifier.until("/orders", &theirs, 401).await;
    assert_eq!(verifier.bearer("/orders", &mine).await, 401);
    assert_eq!(verifier.bearer("", &mine).await, 200);
    // A credential by whose UID it would be accepted, and one before it that had it.
    let uid = space.api::<Credential>().get("own").await.unwrap().uid();
    let previous = json!({"tokenId": own["tokenId"], "digest": own["digest"], "expiresAt": own["expiresAt"],
                          "serial": own["serial"], "term": 0});
    let claim = json!({"tokenId": strong["tokenId"], "digest": strong["digest"], "credentialUid": uid, "previous": previous});
    forge::<ApiToken>(space, "strong", &claim).await;
    verifier.stop().await;
    // One that reads it so from the start.
    let verifier = Asked::start(world).await;
    verifier.until("", &mine, 200).await;
    assert_eq!(verifier.bearer("/orders", &mine).await, 401);
    let operator = world.operator(SystemClock::shared()).await;
    verifier.until("/orders", &theirs, 200).await;
    let mended = space.token("strong", ApiTokenState::Active).await;
    assert!(condition(&mended, "Usable").0);
    assert_eq!(json!(mended.status)["credentialUid"], strong["credentialUid"]);
    assert_eq!(verifier.bearer("/orders", &mine).await, 401);
    operator.stop().await;
    verifier.stop().await;
    clean_up(space).await;
}
