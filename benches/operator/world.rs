//! A control plane with the operator's kinds and rights, and namespaces on it.

use std::{fs, path::Path, thread::available_parallelism};

use control_plane::{ControlPlane, Identity};
use credential_operator::{
    admission::{self, Account},
    api::{self, ApiToken, ApiTokenState, Credential},
    domain::name::{self, MANAGED_BY_SELECTOR},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, Secret, ServiceAccount},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::{measure::Processes, operator::Operator};

/// Longer than anything takes that goes on at all.
pub const DEADLINE: Duration = Duration::from_mins(3);

pub const OPERATOR_NAMESPACE: &str = "credential-operator";
/// Whom the audit log names for the operator.
const OPERATOR_USER: &str = "system:serviceaccount:credential-operator:credential-operator";

/// The floor has an account and rights like the operator's, so the API server has the same work with its requests.
const FLOOR: &str = r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: floor, namespace: credential-operator}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: floor}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: credential-operator}
subjects: [{kind: ServiceAccount, name: floor, namespace: credential-operator}]
";

/// A control plane, ready for the operator.
pub struct World {
    control_plane: ControlPlane,
    /// Who creates tokens and looks on; not in the audit log.
    pub admin: Client,
    /// Who does the floor's writes.
    pub floor: Client,
    operator: Identity,
}

impl World {
    pub async fn start() -> Self {
        let control_plane = ControlPlane::start().await.unwrap();
        let admin = control_plane.admin().client().unwrap();
        for crd in api::crds() {
            install_crd(&admin, &crd).await;
        }
        let deployed = [
            include_str!("../../deploy/namespace.yaml"),
            include_str!("../../deploy/controller.yaml"),
            FLOOR,
        ];
        for document in deployed.into_iter().flat_map(|documents| documents.split("\n---\n")) {
            apply(&admin, serde_yaml_ng::from_str(document).unwrap()).await;
        }
        // Who does the floor's writes, writes statuses.
        let controllers = [Account::default(), format!("{OPERATOR_NAMESPACE}:floor").parse().unwrap()];
        for policy in admission::policies(&controllers, name::KEYRING) {
            apply(&admin, json!(policy)).await;
            apply(&admin, json!(admission::binding(&policy))).await;
        }
        let operator =
            control_plane.service_account(OPERATOR_NAMESPACE, "credential-operator").await.unwrap();
        let mut floor = control_plane.service_account(OPERATOR_NAMESPACE, "floor").await.unwrap().config();
        floor.default_retry = false;
        let floor = Client::try_from(floor).unwrap();
        Self { control_plane, admin, floor, operator }
    }

    /// The machine, in one line.
    pub async fn machine(&self) -> String {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib =
            memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default();
        format!(
            "{} cores, {} GiB of memory, Kubernetes {}; etcd and the benches on the same machine",
            available_parallelism().map_or(0, std::num::NonZero::get),
            (kib + (1 << 19)) >> 20,
            self.admin.apiserver_version().await.unwrap().git_version,
        )
    }

    /// Starts the operator and returns at once.
    pub fn operator(&self) -> Operator {
        Operator::start(&self.operator, self.directory())
    }

    /// Starts the operator and waits until it has issued a token.
    pub async fn working_operator(&self) -> Operator {
        let operator = self.operator();
        let space = self.space("ready").await;
        space.issue_one("ready").await;
        // Nobody waits for the garbage collector, who takes the Secret.
        space.api::<ApiToken>().delete("ready", &DeleteParams::default()).await.unwrap();
        operator
    }

    /// A `ServiceAccount` of the operator's namespace, which exists.
    pub async fn service_account(&self, name: &str) -> Identity {
        self.control_plane.service_account(OPERATOR_NAMESPACE, name).await.unwrap()
    }

    /// The folder of the control plane, which goes with it.
    pub fn directory(&self) -> &Path {
        self.control_plane.directory()
    }

    /// The processes of the control plane.
    pub fn process_ids(&self) -> Vec<u32> {
        self.control_plane.process_ids()
    }

    /// The processes whose CPU time is counted; `operator` where one runs.
    pub fn processes(&self, operator: Option<&Operator>) -> Processes {
        Processes::new(&self.process_ids(), operator.map(Operator::id))
    }

    /// What the operator asked of the API server in `namespace` (empty: in all) since `since`, by verb and resource.
    /// Lists and watches are left out.
    pub fn requests(&self, namespace: &str, since: jiff::Timestamp) -> Vec<(String, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for event in self.control_plane.audit_log().unwrap() {
            let Some(object) = event.object_ref else { continue };
            let counted = event.user.username == OPERATOR_USER
                && event.request_received_timestamp >= since
                && (namespace.is_empty() || object.namespace == namespace)
                && !["list", "watch"].contains(&event.verb.as_str());
            if counted {
                let subresource = if object.subresource.is_empty() { "" } else { "/status" };
                *counts.entry(format!("{} {}{subresource}", event.verb, object.resource)).or_default() += 1;
            }
        }
        counts.into_iter().collect()
    }

    /// A namespace with the credential `c`.
    pub async fn space(&self, name: &str) -> Space {
        // Names are never used twice: a namespace takes its time to go.
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"generateName": format!("{name}-")}})).unwrap();
        let namespace =
            Api::all(self.admin.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        let space = Space { admin: self.admin.clone(), namespace: namespace.metadata.name.unwrap() };
        space.create_credential().await;
        space
    }
}

/// A namespace with the credential `c`.
#[derive(Clone)]
pub struct Space {
    admin: Client,
    pub namespace: String,
}

impl Space {
    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        self.api_of(&self.admin)
    }

    pub fn api_of<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
        &self,
        client: &Client,
    ) -> Api<K> {
        Api::namespaced(client.clone(), &self.namespace)
    }

    async fn create_credential(&self) {
        let credential: Credential = serde_json::from_value(json!({
            "apiVersion": "credential-operator.io/v1alpha1",
            "kind": "Credential",
            "metadata": {"name": "c"},
            "spec": {"displayName": "Bench"},
        }))
        .unwrap();
        self.api().create(&PostParams::default(), &credential).await.unwrap();
    }

    /// Creates a token and waits for its Secret.
    pub async fn issue_one(&self, name: &str) {
        let token = crate::load::token(name, crate::load::FAR);
        self.api::<ApiToken>().create(&PostParams::default(), &token).await.unwrap();
        let secrets = self.api::<Secret>();
        let deadline = Instant::now() + DEADLINE;
        while secrets.get_metadata_opt(&format!("{name}-token")).await.unwrap().is_none() {
            assert!(Instant::now() < deadline, "the operator issues nothing");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until that many tokens are in that state.
    pub async fn all_are(&self, state: ApiTokenState, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let tokens = self.api::<ApiToken>().list(&ListParams::default()).await.unwrap();
            let states = tokens.items.iter().filter_map(|token| token.status.as_ref()?.state);
            let found = states.filter(|found| *found == state).count();
            if found == count {
                return;
            }
            assert!(Instant::now() < deadline, "{found} of {count} tokens are {state:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the credential's status counts that many active tokens: then the operator has nothing left to do.
    pub async fn counted(&self, active: usize) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = self.api::<Credential>().get("c").await.unwrap();
            let counted = found.status.and_then(|status| status.tokens).map(|tokens| tokens.active);
            if counted.is_some_and(|counted| usize::try_from(counted) == Ok(active)) {
                return;
            }
            assert!(Instant::now() < deadline, "{counted:?} tokens were counted instead of {active}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Takes all of it away, the Secrets first, so that the garbage collector has nothing to do afterwards. To be
    /// called while no operator runs that would replace them.
    pub async fn remove(self) {
        let all = (DeleteParams::default(), ListParams::default());
        self.api::<Secret>().delete_collection(&all.0, &all.1).await.unwrap();
        self.api::<ApiToken>().delete_collection(&all.0, &all.1).await.unwrap();
        self.api::<Credential>().delete_collection(&all.0, &all.1).await.unwrap();
        let ours = ListParams::default().labels(MANAGED_BY_SELECTOR);
        self.api::<ServiceAccount>().delete_collection(&all.0, &ours).await.unwrap();
        let first = ListParams::default().limit(1);
        let deadline = Instant::now() + DEADLINE;
        while self.api::<Secret>().list_metadata(&first).await.unwrap().items.len()
            + self.api::<ApiToken>().list_metadata(&first).await.unwrap().items.len()
            > 0
        {
            assert!(Instant::now() < deadline, "{} cannot be emptied", self.namespace);
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn install_crd(admin: &Client, crd: &CustomResourceDefinition) {
    let crds: Api<CustomResourceDefinition> = Api::all(admin.clone());
    let name = crd.metadata.name.clone().unwrap();
    crds.create(&PostParams::default(), crd).await.unwrap();
    let established = kube::runtime::conditions::is_crd_established();
    let wait = kube::runtime::wait::await_condition(crds, &name, established);
    tokio::time::timeout(DEADLINE, wait).await.unwrap().unwrap();
}

pub async fn apply(client: &Client, object: Value) {
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let kind = kube::core::GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = object.metadata.name.clone().unwrap();
    api.patch(&name, &PatchParams::apply("benches").force(), &Patch::Apply(&object)).await.unwrap();
}
