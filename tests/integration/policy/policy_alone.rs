//! What needs to be without an operator, or concerns every namespace.

use std::sync::Arc;

use credential_operator::api::{ApiTokenState, Credential, CredentialPolicy, CredentialState};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject},
};
use serde_json::json;

use super::{Policy, bindings, not_ready, with};
use crate::{
    support::{Space, SystemClock, World, condition, credential, install_crd, token},
    unreadable::{UntypedCredential, spoil_credentials},
    verifier::Asked,
};

crate::tests![
    what_was_refused_stays_so_while_nobody_looks,
    what_was_refused_stays_so_while_its_policy_cannot_be_read,
    what_was_refused_stays_so_while_it_cannot_be_read,
    one_that_cannot_be_read_stops_what_is_new,
];

/// A value that was issued, and the policy by which it is refused since.
async fn refused(space: &Space) -> (String, Policy) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    let value = space.value("t-token").await;
    let policy = Policy::of(space, "p", json!({"types": []})).await;
    space.credential("c", CredentialState::Failed).await;
    (value, policy)
}

async fn what_was_refused_stays_so_while_nobody_looks(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    let (value, policy) = refused(&space).await;
    operator.stop().await;
    // Nor does it help to edit the credential, or to take the policy away, until somebody has judged that.
    let verifier = Asked::start(&world).await;
    verifier.until("", &value, 401).await;
    space.patch::<Credential>("c", json!({"spec": {"description": "edited"}})).await.unwrap();
    policy.delete().await;
    space.apply(&credential("d")).await;
    space.until::<Credential>("d", |found| found.is_some()).await;
    verifier.until("", &value, 401).await;
    let operator = world.operator(SystemClock::shared()).await;
    verifier.until("", &value, 200).await;
    operator.stop().await;
    verifier.stop().await;
}

async fn what_was_refused_stays_so_while_its_policy_cannot_be_read(world: Arc<World>, space: Space) {
    let [_, _, crd] = <[_; 3]>::try_from(credential_operator::api::crds()).unwrap();
    let operator = world.operator(SystemClock::shared()).await;
    let verifier = Asked::start(&world).await;
    let (value, policy) = refused(&space).await;
    verifier.until("", &value, 401).await;
    // What it says of types is as it was, and nobody can read it.
    install_crd(&world.admin, &crate::keyring::without_rules(crd.clone())).await;
    let odd = format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: CredentialPolicy\nmetadata: {{name: {}}}\n\
         spec: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {}}}}}, types: [], scopes: {{not: a list}}}}\n",
        policy.name, space.namespace
    );
    space.apply(&odd).await;
    install_crd(&world.admin, &crd).await;
    let unknown = |found: Option<&Credential>| {
        found.is_some_and(|found| condition(found, "Usable").2.contains("cannot be read"))
    };
    let found = space.until::<Credential>("c", unknown).await.unwrap();
    assert_eq!(condition(&found, "Usable"), condition(&found, "Ready"));
    assert_eq!(found.status.unwrap().state, Some(CredentialState::Failed));
    verifier.until("", &value, 401).await;
    let policies: Api<DynamicObject> =
        Api::all_with(space.client.clone(), &ApiResource::erase::<CredentialPolicy>(&()));
    policies.delete(&policy.name, &DeleteParams::default()).await.unwrap();
    verifier.until("", &value, 200).await;
    operator.stop().await;
    verifier.stop().await;
}

async fn what_was_refused_stays_so_while_it_cannot_be_read(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    let (value, policy) = refused(&space).await;
    spoil_credentials(&world, &space, &["c"]).await;
    operator.stop().await;
    // It can be read again, and nobody has judged what it says now.
    space.patch::<UntypedCredential>("c", json!({"spec": {"description": "a text"}})).await.unwrap();
    let verifier = Asked::start(&world).await;
    verifier.until("", &value, 401).await;
    policy.delete().await;
    let operator = world.operator(SystemClock::shared()).await;
    verifier.until("", &value, 200).await;
    operator.stop().await;
    verifier.stop().await;
}

async fn one_that_cannot_be_read_stops_what_is_new(world: Arc<World>, space: Space) {
    let [_, _, crd] = <[_; 3]>::try_from(credential_operator::api::crds()).unwrap();
    let operator = world.operator(SystemClock::shared()).await;
    space
        .apply(
            &(with("c", "roles: [{kind: ClusterRole, name: view}]") + "---\n" + &token("t", "expiresIn: 1h")),
        )
        .await;
    space.token("t", ApiTokenState::Active).await;
    space.credential("c", CredentialState::Active).await;
    install_crd(&world.admin, &crate::keyring::without_rules(crd.clone())).await;
    let odd = format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: CredentialPolicy\nmetadata: {{name: {}}}\n\
         spec: {{namespaceSelector: {{}}, scopes: {{not: a list}}}}\n",
        space.namespace
    );
    space.apply(&odd).await;
    install_crd(&world.admin, &crd).await;
    space.apply(&token("u", "expiresIn: 1h")).await;
    let waiting = space.token("u", ApiTokenState::Pending).await;
    let message = condition(&waiting, "Ready").2;
    assert!(
        message.starts_with(&format!("CredentialPolicy {} cannot be read", space.namespace)),
        "{message}"
    );
    space.apply(&credential("d")).await;
    not_ready(&space, "d", "Pending").await;
    space.token("t", ApiTokenState::Active).await;
    space.credential("c", CredentialState::Active).await;
    assert_eq!(bindings(&space).await, 1);
    let policies: Api<DynamicObject> =
        Api::all_with(space.client.clone(), &ApiResource::erase::<CredentialPolicy>(&()));
    policies.delete(&space.namespace, &DeleteParams::default()).await.unwrap();
    space.token("u", ApiTokenState::Active).await;
    space.credential("d", CredentialState::Active).await;
    operator.stop().await;
}
