//! What is left when something is deleted: every way to delete, and everything that there is to delete. The table in
//! docs/ends.md says what is expected; each of its cells is tried in a namespace of its own, all of a column at once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use control_plane::Namespaced;
use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential, CredentialState},
    domain::clock::Clock,
};
use jiff::SignedDuration;
use k8s_openapi::api::{
    core::v1::{Namespace, Secret, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PropagationPolicy},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{DEADLINE, Space, SystemClock, Test, World, credential, token};

/// Where the roles elsewhere are granted.
const ELSEWHERE: &str = "kube-public";

/// A column of the table.
#[derive(Clone)]
struct Way {
    name: &'static str,
    how: How,
    /// Whether the operator is away meanwhile.
    away: bool,
}

#[derive(Clone, PartialEq)]
enum How {
    By(PropagationPolicy),
    Namespace,
    /// Each object of an application in the foreground.
    Each {
        credential_first: bool,
    },
}

impl Way {
    fn read(name: &'static str) -> Self {
        let (how, away) = name.strip_suffix(", operator away").map_or((name, false), |how| (how, true));
        let how = match how {
            "background" => How::By(PropagationPolicy::Background),
            "foreground" => How::By(PropagationPolicy::Foreground),
            "orphan" => How::By(PropagationPolicy::Orphan),
            "namespace" => How::Namespace,
            "Argo CD, credential first" => How::Each { credential_first: true },
            "Argo CD, tokens first" => How::Each { credential_first: false },
            other => panic!("no such way: {other}"),
        };
        Self { name, how, away }
    }
}

/// The lines of the table, cut into cells.
fn table() -> Vec<Vec<&'static str>> {
    let is_line = |line: &&str| line.starts_with('|');
    let lines = include_str!("../../docs/ends.md").lines();
    let lines = lines.skip_while(|line| !is_line(line)).take_while(is_line);
    let cut = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    lines.filter(|line| !line.starts_with("|---")).map(cut).collect()
}

fn of_ways(away: bool) -> Vec<Test> {
    let columns = table().remove(0).into_iter().enumerate().skip(1);
    columns
        .map(|(column, name)| (column, Way::read(name)))
        .filter(|(_, way)| way.away == away)
        .map(|(column, way)| {
            let name = way.name.to_lowercase().replace(", ", "_").replace(' ', "_");
            Test::new(&format!("ends::{name}"), move |world, _| deleted(world, column, way))
        })
        .collect()
}

pub fn tests() -> Vec<Test> {
    of_ways(false)
}

/// Those that need an operator to themselves.
pub mod ends_alone {
    pub fn tests() -> Vec<crate::support::Test> {
        super::of_ways(true)
    }
}

async fn deleted(world: Arc<World>, column: usize, way: Way) {
    let operator = if way.away { Some(world.operator(SystemClock::shared()).await) } else { None };
    let mut cells = JoinSet::new();
    for row in table().into_iter().skip(1) {
        let (world, way) = (world.clone(), way.clone());
        cells.spawn(async move { Cell::make(&world, way, row[0], row[column]).await });
    }
    let cells = cells.join_all().await;
    if let Some(operator) = operator {
        operator.stop().await;
    }
    for cell in &cells {
        cell.delete().await;
    }
    let operator = if way.away { Some(world.operator(SystemClock::shared()).await) } else { None };
    let mut wrong = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    for cell in &cells {
        wrong.extend(cell.settled(deadline).await);
    }
    // Nor does anything come back.
    for cell in &cells {
        if cell.left().await != cell.expected && wrong.is_empty() {
            wrong.push(format!("{}: {:?} came back", cell.shape, cell.left().await));
        }
        if cell.way.how != How::Namespace {
            cell.space.clean_up().await;
        }
    }
    if let Some(operator) = operator {
        operator.stop().await;
    }
    assert!(wrong.is_empty(), "{}:\n{}", way.name, wrong.join("\n"));
}

struct Cell {
    shape: &'static str,
    way: Way,
    space: Space,
    expected: BTreeSet<String>,
    /// What is others', and the version in which it must stay.
    others: Vec<(String, Option<String>)>,
}

impl Cell {
    async fn make(world: &World, way: Way, shape: &'static str, left: &'static str) -> Self {
        let space = world
            .space(&format!("ends-{}", way.name.replace(|c: char| !c.is_alphabetic(), "-").to_lowercase()))
            .await;
        make(&space, shape).await;
        let mut expected: BTreeSet<String> = BTreeSet::new();
        for left in left.split(", ") {
            expected.extend(match left {
                "nothing" => None,
                "the provided Secret" => Some("Secret mine".to_owned()),
                "the other's Secret" => Some("Secret t-token".to_owned()),
                "its Secret" => Some("Secret c-credential".to_owned()),
                other => panic!("nobody knows {other}"),
            });
        }
        let is_others = |object: &&String| *object != "Secret c-credential";
        let mut others: Vec<_> = expected.iter().filter(is_others).cloned().collect();
        if way.how != How::Namespace {
            others.extend(["Secret bystander".to_owned(), "ServiceAccount bystander".to_owned()]);
            others.push("RoleBinding bystander".to_owned());
        }
        expected.extend(others.clone());
        if matches!(way.how, How::By(_)) && shape.contains("token") && !shape.starts_with("a credential") {
            let stays = ["Credential c".to_owned(), "ServiceAccount c-credential".to_owned()];
            expected.extend(stays.into_iter().filter(|_| shape != "a token without a credential"));
        }
        let mut versions = Vec::new();
        for other in others {
            let version = version(&space, &other).await;
            versions.push((other, version));
        }
        Self { shape, way, space, expected, others: versions }
    }

    async fn delete(&self) {
        let space = &self.space;
        let params = |policy| DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        let has_credential = self.shape != "a token without a credential";
        match self.way.how.clone() {
            How::By(policy) if self.shape.starts_with("a credential") => {
                space.api::<Credential>().delete("c", &params(policy)).await.unwrap();
            }
            How::By(policy) => {
                space.api::<ApiToken>().delete("t", &params(policy)).await.unwrap();
            }
            How::Namespace => {
                let namespaces: Api<Namespace> = Api::all(space.client.clone());
                namespaces.delete(&space.namespace, &DeleteParams::default()).await.unwrap();
            }
            How::Each { credential_first } => {
                let foreground = params(PropagationPolicy::Foreground);
                let credential = async || {
                    if has_credential {
                        space.api::<Credential>().delete("c", &foreground).await.unwrap();
                    }
                };
                if credential_first {
                    credential().await;
                }
                for token in names::<ApiToken>(&space.api()).await {
                    // The operator may have been there before.
                    let _ = space.api::<ApiToken>().delete(&token, &foreground).await;
                }
                if !credential_first {
                    credential().await;
                }
            }
        }
    }

    async fn left(&self) -> BTreeSet<String> {
        let space = &self.space;
        let of = |kind: &'static str, names: Vec<String>| {
            names.into_iter().map(move |name| format!("{kind} {name}")).collect::<Vec<_>>()
        };
        let ours = |names: Vec<String>| {
            names.into_iter().filter(|name| name.starts_with(&format!("{}.", space.namespace))).collect()
        };
        let elsewhere: Api<RoleBinding> = Api::namespaced(space.client.clone(), ELSEWHERE);
        let everywhere: Api<ClusterRoleBinding> = Api::all(space.client.clone());
        let mut left: BTreeSet<String> = [
            of("Credential", names::<Credential>(&space.api()).await),
            of("ApiToken", names::<ApiToken>(&space.api()).await),
            of("Secret", names::<Secret>(&space.api()).await),
            of("ServiceAccount", names::<ServiceAccount>(&space.api()).await),
            of("RoleBinding", names::<RoleBinding>(&space.api()).await),
            of("RoleBinding", ours(names(&elsewhere).await)),
            of("ClusterRoleBinding", ours(names(&everywhere).await)),
        ]
        .into_iter()
        .flatten()
        .collect();
        left.remove("ServiceAccount default");
        if self.way.how == How::Namespace {
            let namespaces: Api<Namespace> = Api::all(space.client.clone());
            let there = namespaces.get_opt(&space.namespace).await.unwrap();
            left.extend(there.map(|_| "the namespace".to_owned()));
        }
        left
    }

    /// Waits until only that is left which should be; tells what is wrong.
    async fn settled(&self, deadline: Instant) -> Option<String> {
        loop {
            let left = self.left().await;
            if left == self.expected {
                break;
            }
            if Instant::now() >= deadline {
                let more: Vec<_> = left.difference(&self.expected).collect();
                let less: Vec<_> = self.expected.difference(&left).collect();
                return Some(format!("{}: {more:?} is left, and {less:?} is not", self.shape));
            }
            sleep(Duration::from_millis(100)).await;
        }
        for (other, before) in &self.others {
            if version(&self.space, other).await != *before {
                return Some(format!("{}: {other} was touched", self.shape));
            }
        }
        None
    }
}

async fn names<K>(api: &Api<K>) -> Vec<String>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let found = api.list_metadata(&ListParams::default()).await.unwrap();
    found.items.iter().map(ResourceExt::name_any).collect()
}

/// The version of an object of others, by its kind and name.
async fn version(space: &Space, other: &str) -> Option<String> {
    async fn of<K>(space: &Space, name: &str) -> Option<String>
    where
        K: Namespaced,
    {
        space.api::<K>().get_metadata_opt(name).await.unwrap()?.resource_version()
    }
    match other.split_once(' ').unwrap() {
        ("Secret", name) => of::<Secret>(space, name).await,
        ("ServiceAccount", name) => of::<ServiceAccount>(space, name).await,
        (_, name) => of::<RoleBinding>(space, name).await,
    }
}

/// What wears the operator's label though it is another's.
const BYSTANDERS: &str = "apiVersion: v1
kind: Secret
metadata: {name: bystander, labels: {app.kubernetes.io/managed-by: credential-operator}}
stringData: {token: mine}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: bystander, labels: {app.kubernetes.io/managed-by: credential-operator}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bystander, labels: {app.kubernetes.io/managed-by: credential-operator}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: c-credential}]
";

fn credential_with(spec: &str) -> String {
    credential("c").replace("displayName: Test", spec)
}

/// Makes it, and waits until it is as it should be.
async fn make(space: &Space, shape: &str) {
    space.apply(BYSTANDERS).await;
    // Soon, but not before it was issued.
    let soon = SystemClock::shared().now() + SignedDuration::from_secs(5);
    let role = |more: &str| credential_with(&format!("roles: [{{kind: ClusterRole, name: view{more}}}]"));
    let day = token("t", "expiresIn: 1d");
    match shape {
        "a credential with tokens" => {
            space.apply(&(role("") + "---\n" + &day)).await;
            space.apply(&token("renews", "expiresIn: 1d, renewBefore: 1h")).await;
            space.apply(&token("ends", &format!("expiresAt: '{soon}'"))).await;
            space.apply(&token("revoked", "expiresIn: 1d")).await;
            for name in ["t", "renews", "revoked"] {
                space.token(name, ApiTokenState::Active).await;
            }
            space.patch::<ApiToken>("revoked", json!({"spec": {"revoked": true}})).await.unwrap();
            space.token("revoked", ApiTokenState::Revoked).await;
            space.token("ends", ApiTokenState::Expired).await;
        }
        "a credential with a role elsewhere" => {
            space.apply(&(role(&format!(", namespace: {ELSEWHERE}")) + "---\n" + &day)).await;
        }
        "a credential with a role in the whole cluster" => {
            space.apply(&(role(", clusterWide: true") + "---\n" + &day)).await;
        }
        "a credential with generated material" => {
            space.apply(&(credential_with("type: BasicAuth") + "---\n" + &day)).await;
            space.published("c", 0).await;
        }
        "a credential with a client secret" => {
            space.apply(&(credential_with("type: ClientSecret") + "---\n" + &day)).await;
            space.published("c", 0).await;
        }
        "a credential with provided material" => {
            let mine = "apiVersion: v1\nkind: Secret\nmetadata: {name: mine, labels: {credential-operator.io/provided: 'true'}}\n\
                        stringData: {username: a, password: b}\n";
            let spec = "type: HelmRepository, provided: {secretRef: {name: mine}}";
            space.apply(&(mine.to_owned() + "---\n" + &credential_with(spec) + "---\n" + &day)).await;
            space.published("c", 0).await;
        }
        "a credential that is a kubeconfig" => {
            let spec = "type: Kubeconfig, kubeconfig: {server: 'https://api.example:6443'}";
            space.apply(&(credential_with(spec) + "---\n" + &day)).await;
            space.published("c", 0).await;
        }
        "a credential that has ended" => {
            let spec = format!(
                "type: ClientSecret, expiresAt: '{soon}', roles: [{{kind: ClusterRole, name: view}}]"
            );
            space.apply(&(credential_with(&spec) + "---\n" + &day)).await;
            space.token("t", ApiTokenState::Expired).await;
            space.credential("c", CredentialState::Expired).await;
        }
        "a token alone" => space.apply(&(credential("c") + "---\n" + &day)).await,
        "a token that renews" => {
            space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1d, renewBefore: 1h"))).await;
        }
        "a token of the Kubernetes API" => {
            space
                .apply(&(credential("c") + "---\n" + &token("t", "type: ServiceAccount, expiresIn: 1d")))
                .await;
        }
        "a suspended token" => {
            space.apply(&(credential_with("state: Inactive") + "---\n" + &day)).await;
            space.token("t", ApiTokenState::Suspended).await;
        }
        "a revoked token" => {
            space.apply(&(credential("c") + "---\n" + &day)).await;
            space.token("t", ApiTokenState::Active).await;
            space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
            space.token("t", ApiTokenState::Revoked).await;
        }
        "an expired token" => {
            space.apply(&(credential("c") + "---\n" + &token("t", &format!("expiresAt: '{soon}'")))).await;
            space.token("t", ApiTokenState::Expired).await;
        }
        "a token whose Secret is another's" => {
            space
                .apply("apiVersion: v1\nkind: Secret\nmetadata: {name: t-token}\nstringData: {token: mine}\n")
                .await;
            space.apply(&(credential("c") + "---\n" + &day)).await;
            space.token("t", ApiTokenState::Failed).await;
        }
        "a token without a credential" => {
            space.apply(&day).await;
            space.token("t", ApiTokenState::Pending).await;
        }
        other => panic!("no such shape: {other}"),
    }
    let over = ["ended", "suspended", "revoked", "expired", "another's", "without a credential"];
    if !over.iter().any(|word| shape.contains(word)) {
        space.token("t", ApiTokenState::Active).await;
    }
    if shape != "a token without a credential" && !shape.contains("ended") {
        let state =
            if shape.contains("suspended") { CredentialState::Inactive } else { CredentialState::Active };
        space.credential("c", state).await;
    }
}
