//! One world for all tests, and what they say to it.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use control_plane::{ControlPlane, Identity, Namespaced};
use credential_operator::{
    api::{self, ApiToken, ApiTokenState, Credential, CredentialState},
    controller::{self, Config, Context, ControllerError},
    domain::{clock::Clock, name, reach::Reach, token::Prefix},
    telemetry::health::Probe,
};
use futures::{Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        core::v1::{Namespace, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    client::ClientBuilder,
    runtime::{WatchStreamExt, watcher},
};
use libtest_mimic::Trial;
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    runtime::Runtime,
    sync::{OwnedRwLockWriteGuard, RwLock, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// Generous: it only has to tell a hang from work.
pub const DEADLINE: Duration = Duration::from_secs(40);

pub const OPERATOR_NAMESPACE: &str = "credential-operator";
pub const KEYRING: &str = "credential-operator-keyring";
/// Whom the audit log names for the operator.
pub const OPERATOR_USER: &str = "system:serviceaccount:credential-operator:credential-operator";

/// Rights beyond deploy/controller.yaml, as its own comment tells users to add them.
const MORE_BINDABLE: &str = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: more-bindable}
rules:
- {apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles, roles], verbs: [bind], resourceNames: [edit, deployer]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: more-bindable}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: more-bindable}
subjects: [{kind: ServiceAccount, name: credential-operator, namespace: credential-operator}]
";

/// Roles elsewhere and for the whole cluster, in every namespace but those whose test has policies of its own for that.
const EVERYTHING: &str = r"
apiVersion: credential-operator.io/v1alpha1
kind: CredentialPolicy
metadata: {name: everything}
spec:
  namespaceSelector: {matchExpressions: [{key: tests/strict, operator: DoesNotExist}]}
  roles:
  - {kind: ClusterRole, name: '*', clusterWide: true, namespaces: ['*']}
  - {kind: Role, name: '*', namespaces: ['*']}
";

type Run = Box<dyn FnOnce(Arc<World>, Space) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A named test.
pub struct Test {
    name: String,
    run: Run,
}

impl Test {
    pub fn new<F: Future<Output = ()> + Send + 'static>(
        name: &str,
        run: impl FnOnce(Arc<World>, Space) -> F + Send + 'static,
    ) -> Self {
        Self { name: name.to_owned(), run: Box::new(move |world, space| Box::pin(run(world, space))) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn trial(self, runtime: Arc<Runtime>, world: Option<Arc<World>>) -> Trial {
        let Self { name, run } = self;
        Trial::test(name.clone(), move || {
            let world = world.ok_or("listed, not run")?;
            runtime.block_on(async {
                let space = world.space(&name).await;
                run(world, space.clone()).await;
                space.clean_up().await;
            });
            Ok(())
        })
    }
}

/// Lists the tests of a module by the names of their functions.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub fn tests() -> Vec<$crate::support::Test> {
            let module = module_path!().rsplit("::").next().unwrap_or_default();
            vec![$($crate::support::Test::new(&format!("{module}::{}", stringify!($name)), $name)),*]
        }
    };
}

/// The control plane, and the operator that tests share.
pub struct World {
    pub control_plane: ControlPlane,
    pub admin: Client,
    shared: Mutex<Option<Operator>>,
    spaces: AtomicU32,
}

impl World {
    pub async fn start() -> Self {
        // As managed control planes do: whoever asks for more is given this.
        let cap = "--service-account-max-token-expiration=1h";
        let control_plane = ControlPlane::builder().api_server_arg(cap).start().await.unwrap();
        let admin = control_plane.admin().client().unwrap();
        crate::canary::listen();
        for crd in api::crds() {
            install_crd(&admin, &crd).await;
        }
        let deployed = [
            include_str!("../../deploy/namespace.yaml"),
            include_str!("../../deploy/controller.yaml"),
            include_str!("../../deploy/service-account-tokens/rights.yaml"),
            include_str!("../../deploy/verifier.yaml"),
            include_str!("../../deploy/verifier-introspection/rights.yaml"),
            include_str!("../../deploy/roles.yaml"),
            MORE_BINDABLE,
            EVERYTHING,
        ];
        for document in deployed.into_iter().flat_map(|documents| documents.split("\n---\n")) {
            apply(&admin, "", serde_yaml_ng::from_str(document).unwrap()).await.unwrap();
        }
        let world = Self { control_plane, admin, shared: Mutex::default(), spaces: AtomicU32::new(0) };
        let operator = world.operator(SystemClock::shared()).await;
        *world.shared.lock().unwrap() = Some(operator);
        world
    }

    pub async fn stop_shared_operator(&self) {
        let operator = self.shared.lock().unwrap().take();
        if let Some(operator) = operator {
            operator.stop().await;
        }
    }

    /// Starts an operator as its own `ServiceAccount`, with the rights of deploy/controller.yaml.
    pub async fn operator(&self, clock: Arc<dyn Clock>) -> Operator {
        self.operator_that(true, false, clock).await
    }

    /// Starts an operator that has no tokens minted.
    pub async fn operator_without_minting(&self, clock: Arc<dyn Clock>) -> Operator {
        self.operator_that(false, false, clock).await
    }

    /// Starts an operator that makes something new only while the admission policies are in force.
    pub async fn guarded_operator(&self, clock: Arc<dyn Clock>) -> Operator {
        self.operator_that(true, true, clock).await
    }

    /// Starts an operator that works in some namespaces alone, and makes something new only while the admission policies
    /// are in force.
    pub async fn operator_within(&self, namespace: &str, reach: Reach, clock: Arc<dyn Clock>) -> Operator {
        let config = Config { namespace: namespace.to_owned(), reach, ..config(false) };
        self.operator_by(config, true, clock).await
    }

    async fn operator_that(&self, mints: bool, guarded: bool, clock: Arc<dyn Clock>) -> Operator {
        self.operator_by(config(mints), guarded, clock).await
    }

    async fn operator_by(&self, config: Config, guarded: bool, clock: Arc<dyn Clock>) -> Operator {
        let account = self.control_plane.service_account(&config.namespace, "credential-operator");
        Operator::start(&account.await.unwrap(), config, guarded, clock)
    }

    /// Has the API server refuse every deletion of such objects in the namespace (empty for those in none: there, of
    /// such objects as bear its name).
    pub async fn deny_deletions(&self, space: &Space, group: &str, resource: &str) -> Denial {
        let name = format!("no-{resource}-deletions-in-{}", space.namespace);
        let mine = format!(
            "has(oldObject.metadata.namespace) || oldObject.metadata.name.startsWith('{}.')",
            space.namespace
        );
        let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [
                    {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": [resource]},
                ]},
                "matchConditions": [{"name": "mine", "expression": mine}],
                "validations": [{"expression": "false", "message": "no deletions here"}],
            },
        }))
        .unwrap();
        let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "policyName": name,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.namespace}}},
            },
        }))
        .unwrap();
        // Whether it bites is tried on an object that is none of the test's.
        let metadata = json!({"name": format!("{}.bait", space.namespace)});
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "none"});
        let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
        let kind = if resource == "secrets" { "Secret" } else { "ClusterRoleBinding" };
        let mut bait = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
        if kind != "Secret" {
            bait["roleRef"] = role;
        }
        let bait = apply(&self.admin, &space.namespace, bait).await.unwrap();
        Api::all(self.admin.clone()).create(&PostParams::default(), &policy).await.unwrap();
        Api::all(self.admin.clone()).create(&PostParams::default(), &binding).await.unwrap();
        let deadline = Instant::now() + DEADLINE;
        let dry_run = DeleteParams { dry_run: true, ..DeleteParams::default() };
        while dynamic(&self.admin, &bait).delete(&bait.name_any(), &dry_run).await.is_ok() {
            assert!(Instant::now() < deadline, "the policy does not bite");
            sleep(Duration::from_millis(100)).await;
        }
        Denial { admin: self.admin.clone(), name }
    }

    /// A namespace of its own.
    pub async fn space(&self, test: &str) -> Space {
        let number = self.spaces.fetch_add(1, Ordering::Relaxed);
        let name = test.rsplit("::").next().unwrap_or_default().replace('_', "-");
        let namespace = format!("t{number}-{}", &name[..name.len().min(37)]).trim_end_matches('-').to_owned();
        let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
        let object = Namespace { metadata, ..Namespace::default() };
        Api::all(self.admin.clone()).create(&PostParams::default(), &object).await.unwrap();
        Space { client: self.admin.clone(), namespace }
    }
}

pub fn config(mints: bool) -> Config {
    Config {
        namespace: OPERATOR_NAMESPACE.to_owned(),
        keyring_secret: KEYRING.to_owned(),
        token_prefix: Prefix::default(),
        service_account_tokens: mints,
        reach: Reach::default(),
    }
}

/// Something that an admission policy denies.
pub struct Denial {
    admin: Client,
    name: String,
}

impl Denial {
    pub async fn lift(self) {
        let params = DeleteParams::default();
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.admin.clone());
        bindings.delete(&self.name, &params).await.unwrap();
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.admin);
        policies.delete(&self.name, &params).await.unwrap();
    }
}

pub async fn install_crd(admin: &Client, crd: &CustomResourceDefinition) {
    let crds: Api<CustomResourceDefinition> = Api::all(admin.clone());
    let name = crd.metadata.name.clone().unwrap();
    crds.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(crd)).await.unwrap();
    let established = kube::runtime::conditions::is_crd_established();
    let wait = kube::runtime::wait::await_condition(crds, &name, established);
    timeout(DEADLINE, wait).await.unwrap().unwrap();
}

/// The wall clock, set off by as much as a test likes.
pub struct SystemClock {
    offset: Mutex<SignedDuration>,
}

impl SystemClock {
    pub fn shared() -> Arc<Self> {
        Arc::new(Self { offset: Mutex::default() })
    }

    pub fn step(&self, by: SignedDuration) {
        *self.offset.lock().unwrap() += by;
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the tests' main is where their clock comes from")]
    fn now(&self) -> Timestamp {
        Timestamp::now() + *self.offset.lock().unwrap()
    }
}

/// A running operator.
pub struct Operator {
    /// By call (`create`, `patch`, `replace_status`, ...) and path, as the client sends them.
    requests: Arc<Mutex<Vec<(&'static str, String)>>>,
    gate: Arc<RwLock<()>>,
    ctx: Arc<Context>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ControllerError>>,
}

impl Operator {
    fn start(identity: &Identity, settings: Config, guarded: bool, clock: Arc<dyn Clock>) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let mut config = identity.config();
        config.default_retry = false;
        let counted = requests.clone();
        let layer = tower::util::MapRequestLayer::new(move |request: http::Request<_>| {
            let call = request.extensions().get::<&'static str>().copied().unwrap_or("watch or list");
            counted.lock().unwrap().push((call, request.uri().path().to_owned()));
            request
        });
        let gate = Arc::new(RwLock::new(()));
        let shut = gate.clone();
        let waits = tower::util::MapFutureLayer::new(move |sent| once_open(shut.clone(), sent));
        let client = ClientBuilder::try_from(config).unwrap().with_layer(&layer).with_layer(&waits).build();
        let random = Box::new(UnwrapErr(SysRng));
        let ctx = Context::new(client, clock, random, settings);
        let ctx = Arc::new(if guarded { ctx.guarded() } else { ctx });
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(controller::run(ctx.clone(), stopped));
        Self { requests, gate, ctx, stop, task }
    }

    /// Has its requests wait until what is returned is dropped. Watches that run go on.
    pub async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        self.gate.clone().write_owned().await
    }

    /// How many requests in the namespace there were so far, by call and resource. Some requests are about other
    /// namespaces, or none.
    pub fn requests(&self, space: &Space) -> BTreeMap<String, usize> {
        let within = format!("/namespaces/{}/", space.namespace);
        let mut counts = BTreeMap::new();
        for (call, path) in self.requests.lock().unwrap().iter() {
            if let Some((_, rest)) = path.split_once(&within) {
                let resource = rest.split('/').next().unwrap_or_default();
                *counts.entry(format!("{call} {resource}")).or_default() += 1;
            }
        }
        counts
    }

    /// What it counts under a name without labels.
    pub fn metric(&self, name: &str) -> u64 {
        let metrics = self.ctx.metrics();
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        metrics.lines().find_map(value).unwrap()
    }

    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap();
    }
}

async fn once_open<F: Future>(gate: Arc<RwLock<()>>, sent: F) -> F::Output {
    drop(gate.read().await);
    sent.await
}

/// The entries of a Secret.
pub type Data = BTreeMap<String, Vec<u8>>;

/// A namespace of a test's own.
#[derive(Clone)]
pub struct Space {
    pub client: Client,
    pub namespace: String,
}

impl Space {
    pub fn api<K: Namespaced>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Deletes what would keep the operators of later tests busy.
    pub async fn clean_up(&self) {
        let params = ListParams::default();
        let all = DeleteParams::default();
        self.api::<Credential>().delete_collection(&all, &params).await.unwrap();
        self.api::<ApiToken>().delete_collection(&all, &params).await.unwrap();
        let left = async || {
            let credentials = self.api::<Credential>().list_metadata(&params).await.unwrap().items.len();
            credentials + self.api::<ApiToken>().list_metadata(&params).await.unwrap().items.len()
        };
        let deadline = Instant::now() + DEADLINE;
        while left().await > 0 {
            assert!(Instant::now() < deadline, "{} cannot be cleaned up", self.namespace);
            sleep(Duration::from_millis(100)).await;
        }
        // No key of the keyring is deleted that a Secret names.
        let managed = params.labels(&format!("{}={}", name::MANAGED_BY_LABEL, name::MANAGED_BY));
        self.api::<Secret>().delete_collection(&all, &managed).await.unwrap();
    }

    /// Applies documents of YAML by server-side apply. For a moment after a definition was changed the API server goes by the one
    /// before.
    pub async fn apply(&self, yaml: &str) {
        let deadline = Instant::now() + DEADLINE;
        for document in documents(yaml) {
            while let Err(error) = apply(&self.client, &self.namespace, document.clone()).await {
                let stale = matches!(&error, kube::Error::Api(status) if [422, 500].contains(&status.code));
                assert!(stale && Instant::now() < deadline, "{error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Applies a document that the API server must refuse, and returns what it says.
    pub async fn refused(&self, yaml: &str) -> String {
        let documents = documents(yaml);
        let refused = apply(&self.client, &self.namespace, documents[0].clone()).await;
        match refused.map(|accepted| accepted.metadata.name).unwrap_err() {
            kube::Error::Api(status) => status.message,
            error => panic!("{error}"),
        }
    }

    /// A merge patch, by the admin.
    pub async fn patch<K>(&self, name: &str, patch: Value) -> kube::Result<K>
    where
        K: Namespaced,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    /// Waits until an object is as `expected`; `None` stands for its absence.
    pub async fn until<K>(&self, name: &str, expected: impl Fn(Option<&K>) -> bool) -> Option<K>
    where
        K: Namespaced,
    {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let events = watcher(self.api::<K>(), config).default_backoff();
        until(&format!("{} {}/{name}", K::kind(&()), self.namespace), events, expected).await
    }

    pub async fn token(&self, name: &str, state: ApiTokenState) -> ApiToken {
        let there = self.until::<ApiToken>(name, |token| {
            token.is_some_and(|token| {
                let status = token.status.as_ref();
                status.and_then(|status| status.state) == Some(state)
                    && status.and_then(|status| status.observed_generation) == token.metadata.generation
            })
        });
        there.await.unwrap()
    }

    pub async fn credential(&self, name: &str, state: CredentialState) -> Credential {
        let there = self.until::<Credential>(name, |credential| {
            credential.is_some_and(|credential| {
                let status = credential.status.as_ref();
                status.and_then(|status| status.state) == Some(state)
                    && status.and_then(|status| status.observed_generation) == credential.metadata.generation
            })
        });
        there.await.unwrap()
    }

    /// Waits until the credential is Ready in its latest generation and has material of at least that serial.
    pub async fn published(&self, name: &str, serial: i64) -> Credential {
        let there = self.until::<Credential>(name, |credential| {
            credential.is_some_and(|credential| Self::is_published(credential, serial))
        });
        there.await.unwrap()
    }

    pub fn is_published(credential: &Credential, serial: i64) -> bool {
        let status = credential.status.clone().unwrap_or_default();
        let found = status.material.and_then(|material| material.serial);
        condition(credential, "Ready").0
            && status.observed_generation == credential.metadata.generation
            && status.secret.is_some()
            && found.is_some_and(|found| found >= serial)
    }

    /// The entries of a Secret.
    pub async fn data(&self, secret: &str) -> Data {
        let secret: Secret = self.api().get(secret).await.unwrap();
        secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
    }

    /// The value in a Secret.
    pub async fn value(&self, secret: &str) -> String {
        let secret: Secret = self.api().get(secret).await.unwrap();
        String::from_utf8(secret.data.unwrap()["token"].0.clone()).unwrap()
    }
}

pub async fn until<K: Resource + Clone + Debug>(
    what: &str,
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    expected: impl Fn(Option<&K>) -> bool,
) -> Option<K> {
    let mut events = std::pin::pin!(events);
    let mut last: Option<K> = None;
    let found = timeout(DEADLINE, async {
        let mut listed: Option<K> = None;
        while let Some(event) = events.next().await {
            match event.unwrap() {
                watcher::Event::Apply(object) => last = Some(object),
                watcher::Event::Delete(_) => last = None,
                watcher::Event::Init => {
                    listed = None;
                    continue;
                }
                watcher::Event::InitApply(object) => {
                    listed = Some(object);
                    continue;
                }
                watcher::Event::InitDone => last = listed.take(),
            }
            if expected(last.as_ref()) {
                return;
            }
        }
    });
    let in_time = found.await.is_ok();
    assert!(in_time, "{what} did not become what was expected; it is {last:#?}");
    last
}

pub fn documents(yaml: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(yaml)
        .map(|document| Value::deserialize(document).unwrap())
        // What comes after the last line that parts documents is none.
        .filter(|document| !document.is_null())
        .collect()
}

/// Server-side apply of anything.
pub async fn apply(client: &Client, namespace: &str, object: Value) -> kube::Result<DynamicObject> {
    let mut object: DynamicObject = serde_json::from_value(object).unwrap();
    object.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
    let name = object.metadata.name.clone().unwrap();
    dynamic(client, &object).patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(&object)).await
}

/// The API of an object's kind, in its namespace where it has one.
pub fn dynamic(client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
    let types = object.types.clone().unwrap();
    let (group, version) = types.api_version.rsplit_once('/').unwrap_or(("", &types.api_version));
    let kind = kube::core::GroupVersionKind::gvk(group, version, &types.kind);
    let resource = ApiResource::from_gvk(&kind);
    let cluster_scoped =
        ["Namespace", "ClusterRole", "ClusterRoleBinding", "CredentialPolicy"].contains(&types.kind.as_str());
    match &object.metadata.namespace {
        Some(namespace) if !cluster_scoped => Api::namespaced_with(client.clone(), namespace, &resource),
        _ => Api::all_with(client.clone(), &resource),
    }
}

/// The reason and message of a condition, and whether it holds.
pub fn condition(object: &impl serde::Serialize, kind: &str) -> (bool, String, String) {
    let object = json!(object);
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (found["status"] == "True", text("reason"), text("message"))
}

/// A valid credential.
pub fn credential(name: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: {name}}}\nspec: {{displayName: Test}}\n"
    )
}

/// A valid token of the credential `c`.
pub fn token(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: ApiToken\nmetadata: {{name: {name}}}\nspec: {{credentialRef: {{name: c}}, {rest}}}\n"
    )
}
