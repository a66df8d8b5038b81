//! The definition of policies is deleted while the operator runs, and every policy goes with it.

use std::{sync::Arc, time::Duration};

use credential_operator::api::{ApiToken, ApiTokenState, Credential, CredentialPolicy, CredentialState};
use k8s_openapi::{
    api::{core::v1::ServiceAccount, rbac::v1::RoleBinding},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    admission::{
        case::{credential, named, object, placed, policy, token},
        clean_up,
    },
    support::{DEADLINE, Space, SystemClock, World, condition, install_crd},
};

crate::tests![policies_that_go_with_their_definition_hold_until_they_are_back];

/// How long somebody takes to put the policies back after their definition.
const PAUSE: Duration = Duration::from_secs(3);

async fn policies_that_go_with_their_definition_hold_until_they_are_back(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    let of = |scope: &str| format!("{{scopes: ['{scope}'], roles: [{{kind: ClusterRole, name: view}}]}}");
    let mine = "scopes: ['orders:*'], tokens: {lifetimes: [1h]}";
    space.apply(&placed(&policy(mine), &space)).await;
    let refused = object("ApiToken", "{name: long}", "{credentialRef: {name: c}, expiresIn: 2h}");
    space.apply(&(credential(&of("orders:read")) + &token("expiresIn: 1h") + &refused)).await;
    space.apply(&named("refused", &of("stock"))).await;
    space.token("t", ApiTokenState::Active).await;
    space.token("long", ApiTokenState::Failed).await;
    space.credential("refused", CredentialState::Failed).await;
    let value = space.value("t-token").await;

    let policies: Api<CredentialPolicy> = Api::all(world.admin.clone());
    let kept = policies.list(&ListParams::default()).await.unwrap().items;
    let [_, _, crd] = <[_; 3]>::try_from(credential_operator::api::crds()).unwrap();
    let crds: Api<CustomResourceDefinition> = Api::all(world.admin.clone());
    let name = crd.metadata.name.clone().unwrap();
    crds.delete(&name, &DeleteParams::default()).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while crds.get_metadata_opt(&name).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "the definition stays");
        sleep(Duration::from_millis(50)).await;
    }
    // Nothing new, also of what every policy allowed.
    let waits = async |name: &str| {
        let waits = space.until::<Credential>(name, |found| {
            found.is_some_and(|found| condition(found, "Ready").1 == "Pending")
        });
        condition(&waits.await.unwrap(), "Ready").2
    };
    space.apply(&(named("new", &of("orders:read")) + &named("stock", &of("stock")))).await;
    let message = waits("new").await;
    let expected = "the CustomResourceDefinition credentialpolicies.credential-operator.io was deleted, and all policies with it";
    assert!(message.starts_with(expected), "{message}");
    let new = object("ApiToken", "{name: u}", "{credentialRef: {name: c}, expiresIn: 1h}");
    space.apply(&new).await;
    space.token("u", ApiTokenState::Pending).await;
    // What was refused stays so, also when somebody has it looked at.
    for name in ["refused", "stock"] {
        space.patch::<Credential>(name, json!({"spec": {"description": "looked at"}})).await.unwrap();
        let failed = space.credential(name, CredentialState::Failed).await;
        let message = condition(&failed, "Ready").2;
        assert!(message.contains("does not allow the scope stock"), "{name}: {message}");
    }
    space.patch::<ApiToken>("long", json!({"spec": {"description": "looked at"}})).await.unwrap();
    let bound =
        async || space.api::<RoleBinding>().list_metadata(&ListParams::default()).await.unwrap().items.len();
    assert_eq!(bound().await, 1);
    // What there was stays.
    space.credential("c", CredentialState::Active).await;
    assert_eq!(space.value("t-token").await, value);

    install_crd(&world.admin, &crd).await;
    sleep(PAUSE).await;
    for policy in kept {
        let metadata = ObjectMeta { name: policy.metadata.name, ..ObjectMeta::default() };
        let policy = CredentialPolicy { metadata, status: None, spec: policy.spec };
        policies.create(&PostParams::default(), &policy).await.unwrap();
    }
    space.credential("new", CredentialState::Active).await;
    space.token("u", ApiTokenState::Active).await;
    space.credential("refused", CredentialState::Failed).await;
    space.token("long", ApiTokenState::Failed).await;
    assert_eq!(bound().await, 2);
    // One that had been allowed for a moment would have an account.
    for name in ["refused-credential", "stock-credential"] {
        assert!(space.api::<ServiceAccount>().get_opt(name).await.unwrap().is_none(), "{name}");
    }
    // One that is deleted by itself is gone.
    policies.delete(&space.namespace, &DeleteParams::default()).await.unwrap();
    for name in ["refused", "stock"] {
        assert_eq!(space.credential(name, CredentialState::Active).await.name_any(), name);
    }
    space.token("long", ApiTokenState::Active).await;
    operator.stop().await;
    clean_up(&space).await;
}
