//! Credentials and tokens that were stored before a rule existed and cannot be read. What is to end, ends all the same.

use std::{sync::Arc, time::Duration};

use control_plane::Namespaced;
use credential_operator::{
    api::{
        self, ApiToken, ApiTokenState, Credential, CredentialState,
        credential::{Grant, RoleKind},
    },
    domain::{clock::Clock, name},
};
use jiff::SignedDuration;
use k8s_openapi::{
    api::{core::v1::Secret, rbac::v1::RoleBinding},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::api::{DeleteParams, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    keyring::without_rules,
    support::{DEADLINE, Space, SystemClock, World, condition, credential, install_crd, token},
};

crate::tests![
    a_credential_that_cannot_be_read_holds_up_no_end,
    what_grants_nothing_any_more_is_unbound_though_it_cannot_be_read,
    a_token_that_cannot_be_read_ends_all_the_same,
];

/// One that is held by somebody else while it is deleted.
const HELD: &str = "example.com/held";

/// A credential for whoever does not know its schema.
#[derive(Clone, Debug, Deserialize, Serialize, kube::Resource)]
#[resource(inherit = Credential)]
pub struct UntypedCredential {
    metadata: ObjectMeta,
    status: Option<Value>,
}

/// A token for whoever does not know its schema.
#[derive(Clone, Debug, Deserialize, Serialize, kube::Resource)]
#[resource(inherit = ApiToken)]
struct UntypedToken {
    metadata: ObjectMeta,
    status: Option<Value>,
}

/// Stores objects in a form that cannot be read, and waits until their status says so.
async fn spoil<K: Namespaced>(world: &World, space: &Space, crd: CustomResourceDefinition, names: &[&str]) {
    install_crd(&world.admin, &without_rules(crd.clone())).await;
    let odd = json!({"spec": {"description": {"not": "a text"}}});
    // The API server goes by the schema before for a moment.
    let deadline = Instant::now() + DEADLINE;
    for name in names {
        while let Err(error) = space.patch::<K>(name, odd.clone()).await {
            assert!(Instant::now() < deadline, "{error}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    install_crd(&world.admin, &crd).await;
    for name in names {
        let said =
            |found: Option<&K>| found.is_some_and(|found| condition(found, "Stalled").1 == "InvalidSpec");
        space.until::<K>(name, said).await;
    }
}

/// Stores credentials in a form that cannot be read, and waits until their status says so.
pub async fn spoil_credentials(world: &World, space: &Space, names: &[&str]) {
    let [crd, _, _] = <[_; 3]>::try_from(api::crds()).unwrap();
    spoil::<UntypedCredential>(world, space, crd, names).await;
}

async fn mend<K: Namespaced>(space: &Space, names: &[&str]) {
    for name in names {
        space.patch::<K>(name, json!({"spec": {"description": "a text"}})).await.unwrap();
    }
}

/// Waits until the status says that it has ended.
async fn expired<K: Namespaced>(space: &Space, name: &str) {
    let says_so = |found: Option<&K>| found.is_some_and(|found| json!(found)["status"]["state"] == "Expired");
    space.until::<K>(name, says_so).await;
}

async fn a_credential_that_cannot_be_read_holds_up_no_end(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    let lives = ["revoked", "ends", "stays", "minted"];
    space.apply(&credential("c")).await;
    for (name, rest) in [("revoked", "expiresIn: 2d"), ("ends", "expiresIn: 1d"), ("stays", "expiresIn: 2d")]
    {
        space.apply(&token(name, rest)).await;
    }
    space.apply(&token("minted", "type: ServiceAccount, expiresIn: 2d")).await;
    for name in lives {
        space.token(name, ApiTokenState::Active).await;
    }
    let values = async || [space.value("stays-token").await, space.value("minted-token").await];
    let before = values().await;

    spoil_credentials(&world, &space, &["c"]).await;
    space.apply(&token("new", "expiresIn: 2d")).await;
    for name in ["stays", "new"] {
        let failed = space.token(name, ApiTokenState::Failed).await;
        let (stalled, reason, message) = condition(&failed, "Stalled");
        assert!(stalled && reason == "InvalidSpec", "{name}: {reason}");
        assert!(message.starts_with("Credential c does not fit the schema"), "{name}: {message}");
        assert!(!condition(&failed, "Usable").0, "no verifier accepts it");
    }
    let minted = space.until::<ApiToken>("minted", |token| {
        token.is_some_and(|token| condition(token, "Ready").1 == "InvalidSpec")
    });
    assert!(condition(&minted.await.unwrap(), "Usable").0, "the API server goes on accepting it");
    // What is to end does.
    space.patch::<ApiToken>("revoked", json!({"spec": {"revoked": true}})).await.unwrap();
    space.token("revoked", ApiTokenState::Revoked).await;
    clock.step(SignedDuration::from_hours(25));
    space.token("ends", ApiTokenState::Expired).await;
    for name in ["revoked-token", "ends-token", "new-token"] {
        space.until::<Secret>(name, |secret| secret.is_none()).await;
    }
    assert_eq!(values().await, before);

    mend::<UntypedCredential>(&space, &["c"]).await;
    space.credential("c", CredentialState::Active).await;
    for name in ["stays", "new", "minted"] {
        let mended = space.until::<ApiToken>(name, |token| {
            token.is_some_and(|token| condition(token, "Ready").0 && condition(token, "Usable").0)
        });
        mended.await;
    }
    assert_eq!(space.value("stays-token").await, before[0]);

    spoil_credentials(&world, &space, &["c"]).await;
    space.token("stays", ApiTokenState::Failed).await;
    space.api::<UntypedCredential>().delete("c", &DeleteParams::default()).await.unwrap();
    for name in lives {
        space.until::<ApiToken>(name, |token| token.is_none()).await;
        space.until::<Secret>(&format!("{name}-token"), |secret| secret.is_none()).await;
    }
    operator.stop().await;
}

/// Where a role of a credential of that name is bound: there, or in its own namespace.
fn binding(space: &Space, name: &str, there: Option<&Space>) -> String {
    let namespace = there.map(|there| there.namespace.clone());
    let grant =
        Grant { kind: RoleKind::ClusterRole, name: "view".to_owned(), namespace, cluster_wide: false };
    name::binding(&space.namespace, name, &grant)
}

async fn what_grants_nothing_any_more_is_unbound_though_it_cannot_be_read(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    let other = world.space("other").await;
    let end = clock.now() + SignedDuration::from_hours(24);
    let ways = ["off", "gone", "ends", "stays"];
    for way in ways {
        let roles = format!(
            "roles: [{{kind: ClusterRole, name: view}}, {{kind: ClusterRole, name: view, namespace: {}}}]",
            other.namespace
        );
        let spec = if way == "ends" { format!("expiresAt: '{end}', {roles}") } else { roles };
        space.apply(&credential(way).replace("displayName: Test", &spec)).await;
        let minted = token(way, "type: ServiceAccount, expiresIn: 2d");
        space.apply(&minted.replace("{name: c}", &format!("{{name: {way}}}"))).await;
    }
    for way in ways {
        space.credential(way, CredentialState::Active).await;
        space.token(way, ApiTokenState::Active).await;
    }
    let value = space.value("stays-token").await;
    spoil_credentials(&world, &space, &ways).await;
    let grants_nothing = async |way: &str| {
        let (here, there) = (binding(&space, way, None), binding(&space, way, Some(&other)));
        space.until::<RoleBinding>(&here, |binding| binding.is_none()).await;
        other.until::<RoleBinding>(&there, |binding| binding.is_none()).await;
        space.until::<Secret>(&format!("{way}-token"), |secret| secret.is_none()).await;
    };

    space.patch::<UntypedCredential>("off", json!({"spec": {"state": "Inactive"}})).await.unwrap();
    grants_nothing("off").await;
    // Somebody took the label off by which the watch would show it.
    let unlabelled = json!({"metadata": {"labels": null}});
    other.patch::<RoleBinding>(&binding(&space, "gone", Some(&other)), unlabelled).await.unwrap();
    space.api::<UntypedCredential>().delete("gone", &DeleteParams::default()).await.unwrap();
    grants_nothing("gone").await;
    space.until::<UntypedCredential>("gone", |found| found.is_none()).await;
    assert_eq!(space.value("stays-token").await, value);
    clock.step(SignedDuration::from_hours(25));
    grants_nothing("ends").await;
    space.token("ends", ApiTokenState::Expired).await;
    let (here, there) = (binding(&space, "stays", None), binding(&space, "stays", Some(&other)));
    assert!(space.api::<RoleBinding>().get_opt(&here).await.unwrap().is_some());
    assert!(other.api::<RoleBinding>().get_opt(&there).await.unwrap().is_some());

    // Once ended, always ended, whatever the clock says when it can be read again.
    expired::<UntypedCredential>(&space, "ends").await;
    clock.step(SignedDuration::from_hours(-25));
    mend::<UntypedCredential>(&space, &["ends", "off", "stays"]).await;
    let ended = space.credential("ends", CredentialState::Expired).await;
    assert_eq!(condition(&ended, "Usable").1, "Expired");
    // What was switched off is as it was when it is switched on.
    space.patch::<Credential>("off", json!({"spec": {"state": "Active"}})).await.unwrap();
    space.credential("off", CredentialState::Active).await;
    let again = space.token("off", ApiTokenState::Active).await;
    assert!(again.status.unwrap().replaced_at.is_empty(), "it was taken back, not lost");
    space.clean_up().await;
    operator.stop().await;
}

async fn a_token_that_cannot_be_read_ends_all_the_same(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    let end = clock.now() + SignedDuration::from_hours(24);
    space.apply(&credential("c")).await;
    space.apply("{apiVersion: v1, kind: Secret, metadata: {name: foreign-token}}").await;
    let ways = ["revoked", "unlabelled", "orphaned", "held", "ends", "stays"];
    for name in ways.into_iter().chain(["foreign"]) {
        let life = if name == "ends" { format!("expiresAt: '{end}'") } else { "expiresIn: 9d".to_owned() };
        space.apply(&token(name, &format!("type: ServiceAccount, {life}"))).await;
    }
    for name in ways {
        space.token(name, ApiTokenState::Active).await;
    }
    space.token("foreign", ApiTokenState::Failed).await;
    let [_, crd, _] = <[_; 3]>::try_from(api::crds()).unwrap();
    let spoilt: Vec<_> = ways.into_iter().chain(["foreign"]).collect();
    spoil::<UntypedToken>(&world, &space, crd, &spoilt).await;
    let gone = async |name: &str| {
        space.until::<Secret>(&format!("{name}-token"), |secret| secret.is_none()).await;
    };

    // Nor does it help to hide whose Secret it is.
    let unlabelled = json!({"metadata": {"labels": null}});
    space.patch::<Secret>("unlabelled-token", unlabelled).await.unwrap();
    let unowned = json!({"metadata": {"ownerReferences": null}, "data": {"token": "eA==", "more": "eA=="}});
    space.patch::<Secret>("orphaned-token", unowned).await.unwrap();
    for name in ["foreign", "revoked", "unlabelled", "orphaned"] {
        space.patch::<UntypedToken>(name, json!({"spec": {"revoked": true}})).await.unwrap();
    }
    space.patch::<UntypedToken>("held", json!({"metadata": {"finalizers": [HELD]}})).await.unwrap();
    space.api::<UntypedToken>().delete("held", &DeleteParams::default()).await.unwrap();
    for name in ["revoked", "unlabelled", "orphaned", "held"] {
        gone(name).await;
    }
    space.patch::<UntypedToken>("held", json!({"metadata": {"finalizers": null}})).await.unwrap();
    clock.step(SignedDuration::from_hours(25));
    gone("ends").await;
    expired::<UntypedToken>(&space, "ends").await;
    for name in ["stays", "foreign"] {
        assert!(space.api::<Secret>().get_opt(&format!("{name}-token")).await.unwrap().is_some(), "{name}");
    }
    clock.step(SignedDuration::from_hours(-25));
    mend::<UntypedToken>(&space, &["revoked", "unlabelled", "orphaned", "ends", "stays", "foreign"]).await;
    space.token("ends", ApiTokenState::Expired).await;
    space.token("stays", ApiTokenState::Active).await;
    operator.stop().await;
}
