//! What the API server refuses by the admission policies, and what it does not.
//!
//! Every case has a namespace of its own, and somebody whose rights are those that the case names, and no others.

mod allowed;
mod attacks;
pub mod case;
mod deletion;
mod election;
mod grants;
mod issue;
pub mod limits;
mod managed_secrets;
mod metadata;
mod missing;
mod namespaced;
mod others;
mod parity;
mod person;
pub mod process;
mod roles;
mod secrets;
mod stolen;
mod working;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use control_plane::Namespaced;
use credential_operator::{
    admission::{self, Account, CANARY_ANNOTATION},
    api::{ApiToken, Credential, CredentialPolicy},
};
use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::{DEADLINE, KEYRING, OPERATOR_NAMESPACE, Space, World};

pub fn tests() -> Vec<crate::support::Test> {
    [
        roles::tests(),
        attacks::tests(),
        allowed::tests(),
        parity::tests(),
        working::tests(),
        metadata::tests(),
        missing::tests(),
        namespaced::tests(),
        election::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Another controller than that of deploy/controller.yaml.
const SECOND_CONTROLLER: (&str, &str) = ("kube-public", "second-controller");

/// The policies, in force.
struct Admission {
    admin: Client,
    policies: Vec<ValidatingAdmissionPolicy>,
}

impl Admission {
    async fn start(world: &World) -> Self {
        let (namespace, name) = SECOND_CONTROLLER;
        let second: Account = format!("{namespace}:{name}").parse().unwrap();
        Self::of(world, &[Account::default(), second]).await
    }

    /// Made for these controllers.
    async fn of(world: &World, controllers: &[Account]) -> Self {
        let policies = admission::policies(controllers, KEYRING);
        let installed = Self { admin: world.admin.clone(), policies };
        installed.apply().await;
        for policy in &installed.policies {
            installed.until_in_force(&policy.name_any()).await;
        }
        installed
    }

    /// Installs them, or puts them back.
    async fn apply(&self) {
        let params = PatchParams::apply("tests").force();
        for policy in &self.policies {
            let name = policy.name_any();
            let policies = self.api::<ValidatingAdmissionPolicy>();
            policies.patch(&name, &params, &Patch::Apply(policy)).await.unwrap();
            let binding = admission::binding(policy);
            let bindings = self.api::<ValidatingAdmissionPolicyBinding>();
            bindings.patch(&name, &params, &Patch::Apply(&binding)).await.unwrap();
        }
    }

    fn api<K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>>(&self) -> Api<K> {
        Api::all(self.admin.clone())
    }

    /// What the API server says of a credential that the policy is to refuse.
    async fn canary(&self, policy: &str) -> Option<String> {
        let canary = json!({
            "apiVersion": "credential-operator.io/v1alpha1",
            "kind": "Credential",
            "metadata": {"name": "canary", "annotations": {CANARY_ANNOTATION: policy}},
            "spec": {"state": "Inactive"},
        });
        let credentials: Api<Credential> = Api::namespaced(self.admin.clone(), OPERATOR_NAMESPACE);
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        match credentials.create(&dry_run, &serde_json::from_value(canary).unwrap()).await {
            Ok(_) => None,
            Err(kube::Error::Api(status)) => Some(status.message),
            Err(error) => panic!("{error}"),
        }
    }

    async fn until_in_force(&self, policy: &str) {
        let deadline = Instant::now() + DEADLINE;
        let expected = format!("{policy} is in force");
        loop {
            let said = self.canary(policy).await;
            if said.as_ref().is_some_and(|said| said.ends_with(&expected)) {
                return;
            }
            assert!(Instant::now() < deadline, "{policy} is not in force: {said:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Takes the policies away, and waits until they are.
    async fn stop(self) {
        let params = DeleteParams::default();
        for policy in &self.policies {
            let name = policy.name_any();
            self.api::<ValidatingAdmissionPolicyBinding>().delete(&name, &params).await.unwrap();
            self.api::<ValidatingAdmissionPolicy>().delete(&name, &params).await.unwrap();
        }
        let deadline = Instant::now() + DEADLINE;
        for policy in &self.policies {
            while self.canary(&policy.name_any()).await.is_some() {
                assert!(Instant::now() < deadline, "{} stays in force", policy.name_any());
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// How many cases run at a time.
const AT_A_TIME: usize = 8;

/// Something to be tried in a namespace of its own.
trait Case: Send + Sync {
    fn name(&self) -> &'static str;
    fn run(&self, world: &World, space: &Space) -> impl Future<Output = ()> + Send;
}

/// Runs all cases with the policies in force, and tells which failed.
async fn each<C: Case>(world: Arc<World>, cases: Vec<C>) {
    let admission = Admission::start(&world).await;
    let run = stream::iter(cases).map(|case| {
        let world = world.clone();
        async move {
            let space = world.space(&case.name().replace(' ', "_").to_lowercase()).await;
            let passed = AssertUnwindSafe(case.run(&world, &space)).catch_unwind().await.is_ok();
            (case.name(), space, passed)
        }
    });
    let run: Vec<_> = run.buffer_unordered(AT_A_TIME).collect().await;
    admission.stop().await;
    let failed: Vec<_> = run.iter().filter(|(_, _, passed)| !passed).map(|(name, _, _)| name).collect();
    assert!(failed.is_empty(), "{} of {} cases failed: {failed:#?}", failed.len(), run.len());
    for (_, space, _) in run {
        clean_up(&space).await;
    }
}

/// Deletes what a case has left, whatever holds it.
pub async fn clean_up(space: &Space) {
    async fn let_go<K>(space: &Space)
    where
        K: Namespaced,
    {
        for object in space.api::<K>().list_metadata(&ListParams::default()).await.unwrap() {
            let patch = json!({"metadata": {"finalizers": null}});
            match space.patch::<K>(&object.name_any(), patch).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    let_go::<Credential>(space).await;
    let_go::<ApiToken>(space).await;
    let policies: Api<CredentialPolicy> = Api::all(space.client.clone());
    for name in [space.namespace.clone(), format!("second.{}", space.namespace)] {
        let _ = policies.delete(&name, &DeleteParams::default()).await;
    }
    space.clean_up().await;
}
