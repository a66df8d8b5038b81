//! Thousands of credentials over a count: what one change costs the operator.

use std::time::Duration;

use credential_operator::api::{Credential, CredentialPolicy};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    Arguments, load,
    measure::float,
    operator::Operator,
    table::{Table, compared},
    world::{DEADLINE, Space, World},
};

/// How many changes of each kind are measured.
const CHANGES: usize = 5;
/// All that follows a change does so within ten seconds; then the next change is measured.
const APART: Duration = Duration::from_secs(13);
/// The operator is idle when it uses no more than a hundredth of a second in each of so many.
const IDLE: usize = 12;

pub async fn run(world: &World, arguments: &Arguments) {
    for credentials in arguments.tokens_or(&[3_000]) {
        let operator = world.working_operator().await;
        let space = world.space("policies").await;
        load::each(0..credentials, 32, |number| {
            let api = space.api::<Credential>();
            async move { drop(api.create(&PostParams::default(), &credential(number)).await.unwrap()) }
        })
        .await;
        idle(world, &operator).await;
        let floor = changes(world, &operator, &space, credentials, false).await;
        set(world, 0).await;
        idle(world, &operator).await;
        let ours = changes(world, &operator, &space, credentials, true).await;
        let title = format!(
            "Policies: {credentials} Credentials under maxCredentials: 2; CPU of the operator for a change, s, mean of {CHANGES}"
        );
        let mut table = Table::new(title, &["", "with a policy", "without", "ratio"]);
        table.row("a Credential is edited", compared(ours[0], floor[0], 3));
        table.row("the policy is edited", [format!("{:.3}", ours[1])]);
        table.print();
        drop::<Operator>(operator);
        let policies: Api<CredentialPolicy> = Api::all(world.admin.clone());
        policies.delete("bench", &kube::api::DeleteParams::default()).await.unwrap();
        space.remove().await;
    }
}

fn credential(number: usize) -> Credential {
    serde_json::from_value(json!({
        "apiVersion": "credential-operator.io/v1alpha1",
        "kind": "Credential",
        "metadata": {"name": load::name(number)},
        "spec": {},
    }))
    .unwrap()
}

/// A policy that allows the same in every round, and is another.
async fn set(world: &World, round: usize) {
    let mut spec = json!({"namespaceSelector": {}, "maxCredentials": 2});
    if round % 2 == 1 {
        spec["scopes"] = json!(["*"]);
    }
    let policy: Value = json!({
        "apiVersion": "credential-operator.io/v1alpha1",
        "kind": "CredentialPolicy",
        "metadata": {"name": "bench"},
        "spec": spec,
    });
    let policies: Api<CredentialPolicy> = Api::all(world.admin.clone());
    policies.patch("bench", &PatchParams::apply("benches").force(), &Patch::Apply(policy)).await.unwrap();
}

async fn idle(world: &World, operator: &Operator) {
    let processes = world.processes(Some(operator));
    let deadline = Instant::now() + DEADLINE;
    let mut calm = 0;
    while calm < IDLE {
        assert!(Instant::now() < deadline, "the operator is never idle");
        let before = processes.cpu();
        sleep(Duration::from_secs(1)).await;
        calm = if (processes.cpu() - before).operator <= 0.01 { calm + 1 } else { 0 };
    }
}

/// The CPU time for an edit of a credential, and, with a policy, for one of the policy.
async fn changes(
    world: &World,
    operator: &Operator,
    space: &Space,
    credentials: usize,
    under_policy: bool,
) -> [f64; 2] {
    let processes = world.processes(Some(operator));
    let name = load::name(credentials - 1);
    let before = processes.cpu();
    for round in 0..CHANGES {
        let edit = Patch::Merge(json!({"spec": {"description": format!("{under_policy} {round}")}}));
        space.api::<Credential>().patch(&name, &PatchParams::default(), &edit).await.unwrap();
        sleep(APART).await;
    }
    let edited = (processes.cpu() - before).operator / float(CHANGES);
    let before = processes.cpu();
    for round in 0..if under_policy { CHANGES } else { 0 } {
        set(world, round + 1).await;
        sleep(APART).await;
    }
    [edited, (processes.cpu() - before).operator / float(CHANGES)]
}
