//! Admission: what the policies add to a write, and what it costs the controller to see that they are in force.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use credential_operator::{
    admission::{self, Account, CANARY_ANNOTATION},
    api::{Credential, CredentialPolicy},
    controller::{Config, Context, admission as canary},
    domain::{clock::Clock, name, reach::Reach, token::Prefix},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    authentication::v1::SelfSubjectReview,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    client::ClientBuilder,
    runtime::watcher::Event,
};
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    Arguments, load,
    measure::{median, milliseconds, quantile},
    table::{Table, compared},
    world::{DEADLINE, OPERATOR_NAMESPACE, Space, World, apply},
};

/// How many credentials are created one after the other, in each round.
const CREATES: usize = 100;
/// How often the controller looks, in each round.
const LOOKS: usize = 10;
/// How many roles a credential may have.
const GRANTS: usize = 16;
/// How many policies select the namespace, and how many credentials are there, where it is about many.
const POLICIES: usize = 100;
const CREDENTIALS: usize = 1_000;

/// Who writes credentials: somebody of whom everything has to be asked.
const AUTHOR: &str = r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: author, namespace: credential-operator}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: author}
rules:
- {apiGroups: [credential-operator.io], resources: [credentials], verbs: [create, delete]}
- {apiGroups: [rbac.authorization.k8s.io], resources: [rolebindings], verbs: [create]}
- {apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], verbs: [bind], resourceNames: [view]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: author}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: author}
subjects: [{kind: ServiceAccount, name: author, namespace: credential-operator}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: floor, namespace: credential-operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: credential-operator}
subjects: [{kind: ServiceAccount, name: floor, namespace: credential-operator}]
";

/// What is measured: with the policies, and without.
#[derive(Default)]
struct Times {
    ours: Vec<[f64; 2]>,
    floor: Vec<[f64; 2]>,
}

pub async fn run(world: &World, arguments: &Arguments) {
    for document in AUTHOR.split("\n---\n") {
        apply(&world.admin, serde_yaml_ng::from_str(document).unwrap()).await;
    }
    guard(world, true).await;
    let author = world.service_account("author").await.client().unwrap();
    let rounds = arguments.rounds_or(4);
    let (few, many) = (world.space("few").await, world.space("many").await);
    load::each(0..CREDENTIALS, 32, |number| {
        let (api, credential) = (many.api::<Credential>(), credential(&format!("other{number}"), 0));
        async move { api.create(&PostParams::default(), &credential).await.map(drop).unwrap() }
    })
    .await;

    let mut table = Table::new(
        format!(
            "Admission: a credential is created, in ms; {CREATES} one by one, median of {rounds} round(s)"
        ),
        &["", "p50 with", "without", "ratio", "p99 with", "without", "ratio"],
    );
    let mut row = async |name: &str, space: &Space, grants| {
        let create = async || creates(space, &author, grants).await;
        let times = in_turn(world, rounds, create, create).await;
        table.row(name, [0, 1].into_iter().flat_map(|of| times.compared(of)));
    };
    let of_grants = format!("with {GRANTS} new roles");
    row("plain", &few, 0).await;
    row(&of_grants, &few, GRANTS).await;
    row(&format!("plain, among {CREDENTIALS} credentials"), &many, 0).await;
    row(&format!("{of_grants}, among {CREDENTIALS} credentials"), &many, GRANTS).await;
    apply(&world.admin, policy(&few, 0)).await;
    let mut looks = vec![look(world, rounds, 1).await];
    for number in 1..POLICIES {
        apply(&world.admin, policy(&few, number)).await;
    }
    row(&format!("plain, under {POLICIES} policies"), &few, 0).await;
    row(&format!("{of_grants}, under {POLICIES} policies"), &few, GRANTS).await;
    looks.push(look(world, rounds, POLICIES).await);
    table.print();

    let mut table = Table::new(
        format!(
            "Admission: the controller looks whether the policies are in force, in ms; {LOOKS} one by one, median of {rounds} round(s)"
        ),
        &["", "ours", "same requests, nothing judged", "ratio", "requests"],
    );
    for Look { policies, requests, times } in looks {
        let name = format!("{policies} CredentialPolic{}", if policies == 1 { "y" } else { "ies" });
        table.row(name, times.compared(0).into_iter().chain([requests.to_string()]));
    }
    table.print();
}

impl Times {
    fn compared(&self, of: usize) -> [String; 3] {
        let median = |times: &[[f64; 2]]| median(times.iter().map(|time| time[of]));
        compared(median(&self.ours), median(&self.floor), 1)
    }
}

/// Measures one thing with the policies in force and another without, each first in every other round.
async fn in_turn(
    world: &World,
    rounds: usize,
    ours: impl AsyncFn() -> Vec<Duration>,
    floor: impl AsyncFn() -> Vec<Duration>,
) -> Times {
    let mut times = Times::default();
    for round in 0..rounds {
        for guarded in [round % 2 == 0, round % 2 != 0] {
            guard(world, guarded).await;
            let taken = if guarded { ours().await } else { floor().await };
            let quantiles = [0.5, 0.99].map(|of| milliseconds(quantile(&taken, of)));
            if guarded { &mut times.ours } else { &mut times.floor }.push(quantiles);
        }
    }
    guard(world, true).await;
    times
}

/// Has the admission policies in force, or not.
async fn guard(world: &World, guarded: bool) {
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.admin.clone());
    let policies = admission::policies(&controllers(), name::KEYRING);
    for policy in &policies {
        if guarded {
            apply(&world.admin, json!(policy)).await;
            apply(&world.admin, json!(admission::binding(policy))).await;
        } else {
            // It may be gone already.
            let _ = bindings.delete(&policy.name_any(), &DeleteParams::default()).await;
        }
    }
    // Of one that is judged for each CredentialPolicy nothing is asked where there is none.
    let first = ListParams::default().limit(1);
    let known = Api::<CredentialPolicy>::all(world.admin.clone()).list_metadata(&first).await.unwrap();
    let for_each = !known.items.is_empty();
    let asked = policies
        .iter()
        .filter(|policy| for_each || policy.spec.as_ref().is_some_and(|spec| spec.param_kind.is_none()));
    let deadline = Instant::now() + DEADLINE;
    for policy in asked {
        until(deadline, async || refuses(world, bait(&policy.name_any())).await == guarded).await;
    }
    // Until it has read the CredentialPolicies, the API server refuses whatever is to be held to them.
    until(deadline, async || !refuses(world, credential("plain", 0)).await).await;
}

async fn until(deadline: Instant, holds: impl AsyncFn() -> bool) {
    while !holds().await {
        assert!(Instant::now() < deadline, "the policies do not come into force, or out of it");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn refuses(world: &World, credential: Credential) -> bool {
    let api: Api<Credential> = Api::namespaced(world.admin.clone(), OPERATOR_NAMESPACE);
    api.create(&dry_run(), &credential).await.is_err()
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

/// What that policy is to refuse.
fn bait(policy: &str) -> Credential {
    let mut credential = credential("bait", 0);
    credential.metadata.annotations = Some([(CANARY_ANNOTATION.to_owned(), policy.to_owned())].into());
    credential
}

/// As `World` has them.
fn controllers() -> [Account; 2] {
    [Account::default(), format!("{OPERATOR_NAMESPACE}:floor").parse().unwrap()]
}

fn credential(name: &str, grants: usize) -> Credential {
    let grants = (0..grants)
        .map(|number| json!({"kind": "ClusterRole", "name": "view", "namespace": format!("n{number}")}));
    serde_json::from_value(json!({
        "apiVersion": "credential-operator.io/v1alpha1",
        "kind": "Credential",
        "metadata": {"name": name},
        "spec": {"roles": grants.collect::<Vec<_>>(), "scopes": ["orders:read"], "audiences": ["orders"]},
    }))
    .unwrap()
}

/// A policy of many that allow what [`credential`] asks for.
fn policy(space: &Space, number: usize) -> Value {
    json!({
        "apiVersion": "credential-operator.io/v1alpha1",
        "kind": "CredentialPolicy",
        "metadata": {"name": format!("p{number}")},
        "spec": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.namespace}},
            "types": ["Token", "ClientSecret"],
            "roles": [{"kind": "ClusterRole", "name": "view", "namespaces": ["*"]}],
            "scopes": ["orders:*"],
            "audiences": ["orders"],
            "tokens": {"maxLifetime": "1y"},
        },
    })
}

/// How long it takes to create credentials, each of which is deleted before the next.
async fn creates(space: &Space, author: &Client, grants: usize) -> Vec<Duration> {
    let api: Api<Credential> = space.api_of(author);
    let credential = credential("new", grants);
    let mut taken = Vec::with_capacity(CREATES);
    for _ in 0..CREATES {
        let sent_at = Instant::now();
        api.create(&PostParams::default(), &credential).await.unwrap();
        taken.push(sent_at.elapsed());
        api.delete("new", &DeleteParams::default()).await.unwrap();
    }
    taken
}

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        load::now()
    }
}

/// What a look of the controller costs.
struct Look {
    policies: usize,
    requests: usize,
    times: Times,
}

/// Has the controller look, and sends the same requests where nothing judges them.
async fn look(world: &World, rounds: usize, policies: usize) -> Look {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let layer = tower::util::MapRequestLayer::new(move |request: http::Request<_>| {
        counted.fetch_add(1, Ordering::Relaxed);
        request
    });
    let mut config = world.service_account("floor").await.config();
    config.default_retry = false;
    let client = ClientBuilder::try_from(config).unwrap().with_layer(&layer).build();
    let config = Config {
        namespace: OPERATOR_NAMESPACE.to_owned(),
        keyring_secret: "credential-operator-keyring".to_owned(),
        token_prefix: Prefix::default(),
        service_account_tokens: false,
        reach: Reach::default(),
    };
    let random = Box::new(UnwrapErr(SysRng));
    let ctx = Context::new(client.clone(), Arc::new(SystemClock), random, config).guarded();
    // As its watch would have shown: without any, what is judged for each is not tried.
    let known = Api::<CredentialPolicy>::all(world.admin.clone()).get("p0").await.unwrap();
    ctx.policies.observe(Event::Apply(known));
    let ours = async || repeated(async || canary::reconcile(&ctx).await.unwrap()).await;
    let floor = async || repeated(async || same_requests(&client).await).await;
    let times = in_turn(world, rounds, ours, floor).await;
    sent.store(0, Ordering::Relaxed);
    canary::reconcile(&ctx).await.unwrap();
    Look { policies, requests: sent.load(Ordering::Relaxed), times }
}

async fn repeated(work: impl AsyncFn()) -> Vec<Duration> {
    let mut taken = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        let started_at = Instant::now();
        work().await;
        taken.push(started_at.elapsed());
    }
    taken
}

async fn same_requests(client: &Client) {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let credentials: Api<Credential> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
    for name in admission::names() {
        policies.get_opt(&name).await.unwrap();
        bindings.get_opt(&name).await.unwrap();
        credentials.create(&dry_run(), &bait(&name)).await.unwrap();
    }
}
