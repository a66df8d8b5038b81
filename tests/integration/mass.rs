//! Many at once, counted exactly. Each test has an operator of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use credential_operator::api::{ApiToken, ApiTokenState};
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use tokio::time::{Instant, sleep};

use crate::support::{DEADLINE, Space, SystemClock, World, credential, token};

crate::tests![
    two_thousand_at_once_cost_two_requests_each,
    a_thousand_due_at_one_instant_while_running,
    a_thousand_due_while_stopped,
    a_restart_and_a_quiet_minute_write_nothing,
    what_cannot_succeed_is_not_tried_again_and_again,
];

/// Creates that many tokens, 32 at a time.
async fn create(space: &Space, count: usize, spec: serde_json::Value) {
    let tokens = space.api::<ApiToken>();
    let create = |n: usize| {
        let token: ApiToken = serde_json::from_value(serde_json::json!({
            "apiVersion": "credential-operator.io/v1alpha1",
            "kind": "ApiToken",
            "metadata": {"name": format!("t{n}")},
            "spec": spec,
        }))
        .unwrap();
        let tokens = tokens.clone();
        async move {
            tokens.create(&PostParams::default(), &token).await.unwrap();
        }
    };
    stream::iter(0..count).map(create).buffer_unordered(32).collect::<Vec<()>>().await;
}

async fn in_state(space: &Space, state: ApiTokenState) -> usize {
    let tokens = space.api::<ApiToken>().list(&ListParams::default()).await.unwrap();
    tokens
        .items
        .iter()
        .filter(|token| token.status.as_ref().and_then(|status| status.state) == Some(state))
        .count()
}

async fn wait_for(space: &Space, state: ApiTokenState, count: usize) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = in_state(space, state).await;
        if found == count {
            return;
        }
        assert!(Instant::now() < deadline, "{found} of {count} are {state:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

fn spec(end: &str) -> serde_json::Value {
    serde_json::json!({"credentialRef": {"name": "c"}, "expiresAt": end})
}

#[expect(clippy::disallowed_methods, reason = "the time by which the API server writes its log")]
fn now() -> Timestamp {
    Timestamp::now()
}

async fn two_thousand_at_once_cost_two_requests_each(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&credential("c")).await;
    space.credential("c", credential_operator::api::CredentialState::Active).await;
    create(&space, 2_000, spec("2035-01-01T00:00:00Z")).await;
    wait_for(&space, ApiTokenState::Active, 2_000).await;
    let secrets = space.api::<Secret>().list(&ListParams::default()).await.unwrap();
    assert_eq!(secrets.items.len(), 2_000);
    let values: BTreeSet<_> =
        secrets.items.iter().map(|secret| secret.data.as_ref().unwrap()["token"].0.clone()).collect();
    assert_eq!(values.len(), 2_000);
    // Beside them the status of the credential, gathered to one write in ten seconds.
    let requests = operator.requests(&space);
    let counts = requests["replace_status credentials"];
    let expected = [
        ("create secrets", 2_000),
        ("create serviceaccounts", 1),
        ("patch_metadata serviceaccounts", 1),
        ("replace_status apitokens", 2_000),
        ("replace_status credentials", counts),
    ];
    assert_eq!(requests, expected.map(|(call, count)| (call.to_owned(), count)).into());
    assert!(counts <= 6, "{counts} status writes of the credential");
    let log = world.control_plane.audit_log().unwrap();
    let ours = |resource: &str, subresource: &str, verb: &str| {
        log.iter()
            .filter(|event| event.user.username == crate::support::OPERATOR_USER && event.verb == verb)
            .filter_map(|event| event.object_ref.as_ref().map(|object| (event, object)))
            .filter(|(_, object)| object.namespace == space.namespace)
            .filter(|(_, object)| {
                (object.resource.as_str(), object.subresource.as_str()) == (resource, subresource)
            })
            .map(|(event, _)| event.response_status.as_ref().unwrap().code)
            .collect::<Vec<_>>()
    };
    assert_eq!(ours("secrets", "", "create"), [201; 2_000]);
    assert_eq!(ours("apitokens", "status", "update"), [200; 2_000]);
    assert!(ours("secrets", "", "get").is_empty());
    operator.stop().await;
}

/// Issues 1,000 tokens and returns the instant at which all of them end: late enough for any machine, so clocks are stepped.
async fn a_thousand(space: &Space) -> Timestamp {
    let end = now() + SignedDuration::from_hours(1);
    create(space, 1_000, spec(&end.to_string())).await;
    wait_for(space, ApiTokenState::Active, 1_000).await;
    end
}

async fn a_thousand_due_at_one_instant_while_running(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    space.apply(&credential("c")).await;
    let end = a_thousand(&space).await;
    // By its own clock; the API server's log has the true time.
    let due = now();
    clock.step(end.duration_since(due));
    let late = gone(&space, due).await;
    println!("1,000 due at one instant: the last Secret was gone {late:?} after the end");
    wait_for(&space, ApiTokenState::Expired, 1_000).await;
    // Never one early, by the API server's own clock.
    let log = world.control_plane.audit_log().unwrap();
    let deletions = log.iter().filter(|event| {
        let object = event.object_ref.clone().unwrap_or_default();
        event.verb == "delete" && object.resource == "secrets" && object.namespace == space.namespace
    });
    assert_eq!(deletions.clone().count(), 1_000);
    assert!(deletions.map(|event| event.request_received_timestamp).all(|at| at >= due));
    operator.stop().await;
}

async fn a_thousand_due_while_stopped(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    space.apply(&credential("c")).await;
    let end = a_thousand(&space).await;
    operator.stop().await;
    let started = now();
    clock.step(end.duration_since(started));
    let operator = world.operator(clock).await;
    let late = gone(&space, started).await;
    println!("1,000 due while stopped: the last Secret was gone {late:?} after the start");
    wait_for(&space, ApiTokenState::Expired, 1_000).await;
    operator.stop().await;
}

/// How long after `since` the last Secret was gone. The time is told, not asserted: machines differ.
async fn gone(space: &Space, since: Timestamp) -> SignedDuration {
    let secrets: Api<Secret> = space.api();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = secrets.list_metadata(&ListParams::default().limit(1)).await.unwrap().items.len();
        if left == 0 {
            return now().duration_since(since);
        }
        assert!(Instant::now() < deadline, "Secrets are left long after their end");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn a_restart_and_a_quiet_minute_write_nothing(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&credential("c")).await;
    create(&space, 1_000, spec("2035-01-01T00:00:00Z")).await;
    wait_for(&space, ApiTokenState::Active, 1_000).await;
    // The count of the tokens follows within its ten seconds.
    let counted = space.until::<credential_operator::api::Credential>("c", |found| {
        let status = found.and_then(|found| found.status.as_ref());
        status.and_then(|status| status.tokens).is_some_and(|tokens| tokens.active == 1_000)
    });
    counted.await;
    operator.stop().await;

    let since = now();
    let operator = world.operator(SystemClock::shared()).await;
    sleep(Duration::from_mins(1)).await;
    assert_eq!(operator.requests(&space), BTreeMap::new());
    let log = world.control_plane.audit_log().unwrap();
    let writes = log.iter().filter(|event| {
        event.user.username == crate::support::OPERATOR_USER
            && event.request_received_timestamp >= since
            && !["get", "list", "watch"].contains(&event.verb.as_str())
            && event.object_ref.as_ref().is_some_and(|object| object.namespace == space.namespace)
    });
    assert_eq!(writes.count(), 0);
    operator.stop().await;
}

async fn what_cannot_succeed_is_not_tried_again_and_again(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space
        .apply("apiVersion: v1\nkind: Secret\nmetadata: {name: taken-token}\nstringData: {token: mine}\n")
        .await;
    space
        .apply(
            "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {name: c}\n\
             spec: {roles: [{kind: ClusterRole, name: cluster-admin}]}\n",
        )
        .await;
    space.apply(&token("taken", "expiresIn: 1h")).await;
    space.apply(&token("orphan", "expiresIn: 1h").replace("{name: c}", "{name: none}")).await;
    space.token("taken", ApiTokenState::Failed).await;
    space.token("orphan", ApiTokenState::Pending).await;
    sleep(Duration::from_secs(30)).await;
    let requests = operator.requests(&space);
    let at_most = [
        // One create that met the foreign Secret, then a read every ten seconds and after each change of the credential.
        ("create secrets", 1),
        ("get secrets", 6),
        // One for the foreign Secret, and no other however often it is met.
        ("create events", 1),
        // Tried again after 5, 10, 20 s and so on, to a minute.
        ("create rolebindings", 8),
        ("create serviceaccounts", 1),
        // The proof of the account.
        ("patch_metadata serviceaccounts", 1),
        ("get rolebindings", 0),
        ("replace_status apitokens", 3),
        ("replace_status credentials", 4),
    ];
    for (call, count) in &requests {
        let most = at_most.iter().find(|(known, _)| known == call).map_or(0, |(_, most)| *most);
        assert!(*count <= most, "{call}: {count}, more than {most}, in {requests:?}");
    }
    operator.stop().await;
}
