//! How often all credentials of a namespace are evaluated, counted exactly. The operator is the test's own.

use std::{sync::Arc, time::Duration};

use credential_operator::api::{Credential, CredentialState};
use futures::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Policy;
use crate::support::{DEADLINE, Operator, Space, SystemClock, World, credential};

crate::tests![a_change_costs_one_pass_over_its_namespace];

const PASSES: &str = "credential_operator_controller_policy_passes_total";
/// A pass follows a change within ten seconds.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(12);
const CREDENTIALS: usize = 60;

/// How many passes there were once no further one follows.
async fn settled(operator: &Operator) -> u64 {
    let deadline = Instant::now() + DEADLINE;
    let (mut passes, mut since) = (operator.metric(PASSES), Instant::now());
    while since.elapsed() < FOLLOWS_WITHIN {
        assert!(Instant::now() < deadline, "there are {passes} passes, and more");
        sleep(Duration::from_millis(100)).await;
        let now = operator.metric(PASSES);
        if now != passes {
            (passes, since) = (now, Instant::now());
        }
    }
    passes
}

async fn a_change_costs_one_pass_over_its_namespace(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    let other = world.space("other").await;
    let policy = Policy::of(&space, "p", json!({"maxCredentials": 2})).await;
    for space in [&space, &other] {
        let manifests: Vec<_> = (0..CREDENTIALS).map(|n| credential(&format!("c{n:02}"))).collect();
        join_all(manifests.iter().map(|manifest| space.apply(manifest))).await;
    }
    let last = format!("c{:02}", CREDENTIALS - 1);
    other.credential(&last, CredentialState::Active).await;
    let mut passes = settled(&operator).await;
    // Fifty edits of one that waits, in a burst: of its spec, and of its metadata only.
    for (what, expected) in [("spec", 1), ("metadata", 0)] {
        for n in 0..50 {
            let edit = match what {
                "spec" => json!({"spec": {"description": n.to_string()}}),
                _ => json!({"metadata": {"annotations": {"a": n.to_string()}}}),
            };
            space.patch::<Credential>(&last, edit).await.unwrap();
        }
        let now = settled(&operator).await;
        assert_eq!(now - passes, expected, "{what}");
        passes = now;
    }
    // Created and deleted again and again: not more than one a second, however many.
    let started = Instant::now();
    for _ in 0..30 {
        space.apply(&credential("z")).await;
        space.api::<Credential>().delete("z", &kube::api::DeleteParams::default()).await.unwrap();
        space.until::<Credential>("z", |found| found.is_none()).await;
    }
    let seconds = started.elapsed().as_secs() + 1;
    let now = settled(&operator).await;
    assert!(now - passes <= seconds + 1, "{} passes in {seconds} s", now - passes);
    passes = now;
    // A policy that is changed is evaluated for all: once for each namespace.
    policy.set(&space, json!({"maxCredentials": 2, "scopes": ["*"]})).await;
    assert_eq!(settled(&operator).await - passes, 2);
    policy.delete().await;
    other.clean_up().await;
    operator.stop().await;
}
