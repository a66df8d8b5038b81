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
    support::{DEADLINE, Operator, Space, SystemClock, World, condition, install_crd},
};

crate::tests![
    policies_that_go_with_their_definition_hold_until_they_are_back,
    they_hold_also_where_it_is_back_before_anybody_looked,
];

/// How long somebody takes to put the policies back after their definition.
const PAUSE: Duration = Duration::from_secs(3);

async fn policies_that_go_with_their_definition_hold_until_they_are_back(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    let lost = Lost::set_up(&world, &space).await;
    lost.delete().await;
    lost.nothing_is_new().await;
    lost.put_back(operator).await;
}

async fn they_hold_also_where_it_is_back_before_anybody_looked(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    let lost = Lost::set_up(&world, &space).await;
    let held = operator.hold().await;
    lost.delete().await;
    install_crd(&world.admin, &lost.crd).await;
    drop(held);
    lost.nothing_is_new().await;
    lost.put_back(operator).await;
}

fn of(scope: &str) -> String {
    format!("{{scopes: ['{scope}'], roles: [{{kind: ClusterRole, name: view}}]}}")
}

/// What policies allow and refuse, and what is needed to put them back.
struct Lost<'a> {
    world: &'a World,
    space: &'a Space,
    crd: CustomResourceDefinition,
    kept: Vec<CredentialPolicy>,
    /// What the token has that is allowed.
    value: String,
}

impl<'a> Lost<'a> {
    async fn set_up(world: &'a World, space: &'a Space) -> Self {
        let mine = "scopes: ['orders:*'], tokens: {lifetimes: [1h]}";
        space.apply(&placed(&policy(mine), space)).await;
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
        Self { world, space, crd, kept, value }
    }

    /// Deletes the definition, and waits until it is gone.
    async fn delete(&self) {
        let crds: Api<CustomResourceDefinition> = Api::all(self.world.admin.clone());
        let name = self.crd.metadata.name.as_deref().unwrap();
        crds.delete(name, &DeleteParams::default()).await.unwrap();
        let deadline = Instant::now() + DEADLINE;
        while crds.get_metadata_opt(name).await.unwrap().is_some() {
            assert!(Instant::now() < deadline, "the definition stays");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn bound(&self) -> usize {
        self.space.api::<RoleBinding>().list_metadata(&ListParams::default()).await.unwrap().items.len()
    }

    async fn nothing_is_new(&self) {
        let space = self.space;
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
        assert_eq!(self.bound().await, 1);
        // What there was stays.
        space.credential("c", CredentialState::Active).await;
        assert_eq!(space.value("t-token").await, self.value);
    }

    /// Puts the definition back where it is not, and the policies some time later.
    async fn put_back(self, operator: Operator) {
        let space = self.space;
        install_crd(&self.world.admin, &self.crd).await;
        sleep(PAUSE).await;
        let policies: Api<CredentialPolicy> = Api::all(self.world.admin.clone());
        for policy in &self.kept {
            let metadata = ObjectMeta { name: policy.metadata.name.clone(), ..ObjectMeta::default() };
            let policy = CredentialPolicy { metadata, status: None, spec: policy.spec.clone() };
            policies.create(&PostParams::default(), &policy).await.unwrap();
        }
        space.credential("new", CredentialState::Active).await;
        space.token("u", ApiTokenState::Active).await;
        space.credential("refused", CredentialState::Failed).await;
        space.token("long", ApiTokenState::Failed).await;
        assert_eq!(self.bound().await, 2);
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
        clean_up(space).await;
    }
}
