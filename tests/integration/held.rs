//! Secrets that a finalizer of somebody else keeps while access must end.

use std::{sync::Arc, time::Duration};

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential, CredentialState},
    domain::name,
};
use futures::future::join_all;
use k8s_openapi::api::{
    core::v1::Secret,
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    bearer,
    minted::{self, REFUSED_WITHIN, issued},
    support::{DEADLINE, Space, World, condition, credential, token},
};

crate::tests![
    minted_token_is_rejected_although_a_finalizer_keeps_its_secret,
    kubeconfig_secret_is_deleted_although_a_finalizer_keeps_it,
    revoked_is_reported_only_when_the_secret_is_deleted,
    held_secret_of_an_expired_credential_is_overwritten_and_reported,
    binding_is_deleted_although_a_finalizer_keeps_it,
];

/// A finalizer that no controller removes.
const FINALIZER: &str = "example.com/keep";

async fn hold(space: &Space, secret: &str, finalizers: &[&str]) {
    space.patch::<Secret>(secret, json!({"metadata": {"finalizers": finalizers}})).await.unwrap();
}

/// Each way to end a token, with finalizers added before the end, or to a Secret that its reader has deleted already.
async fn minted_token_is_rejected_although_a_finalizer_keeps_its_secret(world: Arc<World>, space: Space) {
    let ways = ["revoked", "inactive", "deleted", "unlabelled", "expired", "deleting"];
    join_all(ways.map(async |way| {
        let life = if way == "expired" { "expiresAt: 2035-01-01T00:00:00Z" } else { "expiresIn: 1h" };
        let objects = minted::credential(way) + "---\n" + &minted::token(way, way, life);
        space.apply(&objects).await;
        let (_, value) = issued(&space, way, 0).await;
        bearer::until(&world, &space, &value, 200, DEADLINE).await;
        let secret = format!("{way}-token");
        hold(&space, &secret, &[FINALIZER, "example.com/keep-too", "foregroundDeletion"]).await;
        if way == "unlabelled" {
            let label = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}});
            space.patch::<Secret>(&secret, label).await.unwrap();
        }
        if way == "deleting" {
            space.api::<Secret>().delete(&secret, &DeleteParams::default()).await.unwrap();
        }
        match way {
            "inactive" => {
                drop(space.patch::<Credential>(way, json!({"spec": {"state": "Inactive"}})).await.unwrap());
            }
            "deleted" => drop(space.api::<ApiToken>().delete(way, &DeleteParams::default()).await.unwrap()),
            "expired" => {
                let end = json!({"spec": {"expiresAt": "2021-01-01T00:00:00Z"}});
                drop(space.patch::<ApiToken>(way, end).await.unwrap());
            }
            _ => drop(space.patch::<ApiToken>(way, json!({"spec": {"revoked": true}})).await.unwrap()),
        }
        // The API server accepts the token of a Secret that is being deleted for 60 s.
        bearer::until(&world, &space, &value, 401, REFUSED_WITHIN).await;
        space.until::<Secret>(&secret, |secret| secret.is_none()).await;
    }))
    .await;
    for (name, state) in [
        ("revoked", ApiTokenState::Revoked),
        ("unlabelled", ApiTokenState::Revoked),
        ("deleting", ApiTokenState::Revoked),
        ("inactive", ApiTokenState::Suspended),
        ("expired", ApiTokenState::Expired),
    ] {
        space.token(name, state).await;
    }
}

async fn kubeconfig_secret_is_deleted_although_a_finalizer_keeps_it(world: Arc<World>, space: Space) {
    let server = world.control_plane.server();
    let kubeconfig = format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: c}}\nspec:\n  type: Kubeconfig\n  \
         kubeconfig: {{server: '{server}'}}\n",
    );
    space.apply(&kubeconfig).await;
    space.published("c", 0).await;
    hold(&space, "c-credential", &[FINALIZER]).await;
    space.patch::<Credential>("c", json!({"spec": {"state": "Inactive"}})).await.unwrap();
    space.until::<Secret>("c-credential", |secret| secret.is_none()).await;
    space.credential("c", CredentialState::Inactive).await;
}

async fn revoked_is_reported_only_when_the_secret_is_deleted(_: Arc<World>, space: Space) {
    // One is immutable, the other can be edited.
    let tokens =
        token("fixed", "expiresIn: 1h") + "---\n" + &token("renews", "expiresIn: 1h, renewBefore: 10m");
    space.apply(&(credential("c") + "---\n" + &tokens)).await;
    join_all([("fixed", false), ("renews", true)].map(async |(name, is_editable)| {
        space.token(name, ApiTokenState::Active).await;
        let secret = format!("{name}-token");
        let value = space.value(&secret).await;
        hold(&space, &secret, &[FINALIZER]).await;
        space.patch::<ApiToken>(name, json!({"spec": {"revoked": true}})).await.unwrap();
        let held = space.token(name, ApiTokenState::Suspended).await;
        let (ready, reason, message) = condition(&held, "Ready");
        assert!(!ready && reason == "Pending" && message.contains(FINALIZER), "{reason}: {message}");
        assert!(!condition(&held, "Usable").0, "no verifier accepts it");
        assert_eq!(held.status.unwrap().digest, None);
        assert_eq!(space.value(&secret).await != value, is_editable, "{name}");
        hold(&space, &secret, &[]).await;
        let revoked = space.token(name, ApiTokenState::Revoked).await;
        assert!(condition(&revoked, "Ready").0);
        assert!(space.api::<Secret>().get_opt(&secret).await.unwrap().is_none());
    }))
    .await;
}

/// Secrets of the types of Kubernetes, which must keep a form while their values are overwritten.
async fn held_secret_of_an_expired_credential_is_overwritten_and_reported(_: Arc<World>, space: Space) {
    let types = [
        ("basic", "type: BasicAuth, basicAuth: {username: ci}"),
        ("ssh", "type: SshKey"),
        ("registry", "type: Registry, registry: {server: registry.example.com, username: ci}"),
        ("tls", "type: Tls, tls: {dnsNames: [a.example.com]}"),
        ("client", "type: ClientSecret"),
    ];
    join_all(types.map(async |(name, spec)| {
        let credential = format!(
            "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        );
        space.apply(&credential).await;
        space.published(name, 0).await;
        let secret = format!("{name}-credential");
        let before = space.data(&secret).await;
        hold(&space, &secret, &[FINALIZER]).await;
        let end = json!({"spec": {"expiresAt": "2021-01-01T00:00:00Z"}});
        space.patch::<Credential>(name, end).await.unwrap();
        let reported = space.until::<Credential>(name, |found| {
            found.is_some_and(|found| condition(found, "Ready").2.contains(FINALIZER))
        });
        let reported = reported.await.unwrap();
        assert_eq!(reported.status.as_ref().unwrap().state, Some(CredentialState::Expired), "{name}");
        assert!(!condition(&reported, "Ready").0 && !condition(&reported, "Usable").0, "{name}");
        let after = space.data(&secret).await;
        assert!(before.iter().all(|(key, value)| after.get(key) != Some(value)), "{name} is overwritten");
        hold(&space, &secret, &[]).await;
        space.until::<Secret>(&secret, |secret| secret.is_none()).await;
        let expired = space.until::<Credential>(name, |found| {
            found.is_some_and(|found| condition(found, "Ready").1 == "Expired")
        });
        assert!(condition(&expired.await.unwrap(), "Ready").0, "{name}");
    }))
    .await;
}

/// Each way to end access, with finalizers added before the end, or to bindings that a user has deleted already.
async fn binding_is_deleted_although_a_finalizer_keeps_it(world: Arc<World>, space: Space) {
    let other = world.space("held-elsewhere").await;
    let ways = ["inactive", "deleted", "recreated", "expired", "removed", "deleting"];
    join_all(ways.map(async |way| {
        let role = |place: &str| format!("{{kind: ClusterRole, name: view{place}}}");
        let elsewhere = format!(", namespace: {}", other.namespace);
        space
            .apply(&format!(
                "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: {way}}}\nspec: {{roles: [{}, {}, {}]}}\n",
                role(""),
                role(&elsewhere),
                role(", clusterWide: true")
            ))
            .await;
        space.credential(way, CredentialState::Active).await;
        let bindings = bindings(&world, &format!("{}/{way}", space.namespace)).await;
        assert_eq!(bindings.len(), 3);
        let owner = json!([{
            "apiVersion": "example.com/v1", "kind": "Unknown", "name": "n", "uid": "another", "controller": true,
        }]);
        for (api, name) in &bindings {
            let hold = json!({"finalizers": [FINALIZER, "example.com/keep-too"], "ownerReferences": owner});
            let hold = Patch::Merge(json!({ "metadata": hold }));
            api.patch(name, &PatchParams::default(), &hold).await.unwrap();
            if way == "deleting" {
                // It may be created again at this moment.
                drop(api.delete(name, &DeleteParams::default()).await);
            }
        }
        match way {
            "deleted" => drop(space.api::<Credential>().delete(way, &DeleteParams::default()).await.unwrap()),
            "recreated" => {
                space.api::<Credential>().delete(way, &DeleteParams::default()).await.unwrap();
                space.until::<Credential>(way, |found| found.is_none()).await;
                space.apply(&credential(way)).await;
            }
            "expired" => {
                let end = json!({"spec": {"expiresAt": "2021-01-01T00:00:00Z"}});
                drop(space.patch::<Credential>(way, end).await.unwrap());
            }
            "removed" => drop(space.patch::<Credential>(way, json!({"spec": {"roles": []}})).await.unwrap()),
            _ => drop(space.patch::<Credential>(way, json!({"spec": {"state": "Inactive"}})).await.unwrap()),
        }
        let deadline = Instant::now() + DEADLINE;
        while !self::bindings(&world, &format!("{}/{way}", space.namespace)).await.is_empty() {
            assert!(Instant::now() < deadline, "{way}: roles are still bound");
            sleep(Duration::from_millis(50)).await;
        }
    }))
    .await;
    other.clean_up().await;
}

/// The bindings of a Credential in all namespaces and of the whole cluster.
async fn bindings(world: &World, credential: &str) -> Vec<(Api<DynamicObject>, String)> {
    let mut found = Vec::new();
    for resource in [ApiResource::erase::<RoleBinding>(&()), ApiResource::erase::<ClusterRoleBinding>(&())] {
        let all: Api<DynamicObject> = Api::all_with(world.admin.clone(), &resource);
        for object in all.list(&ListParams::default()).await.unwrap() {
            if object.annotations().get(name::OWNER_ANNOTATION).is_some_and(|owner| owner == credential) {
                let api = match object.namespace() {
                    Some(namespace) => Api::namespaced_with(world.admin.clone(), &namespace, &resource),
                    None => all.clone(),
                };
                found.push((api, object.name_any()));
            }
        }
    }
    found
}
