//! What needs the control plane, a clock or the keyring to itself.

use std::{sync::Arc, time::Duration};

use control_plane::Part;
use credential_operator::{
    api::{ApiToken, ApiTokenState},
    domain::clock::Clock,
};
use http::Request;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, client::Body};
use serde_json::json;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tower::service_fn;

use super::{Asked, verifiers_client};
use crate::support::{KEYRING, OPERATOR_NAMESPACE, Space, SystemClock, World, credential, token};

crate::tests![
    where_nothing_happens_it_stays_up_to_date,
    an_api_server_that_stops_is_outlived_and_then_not_trusted,
    a_slow_answer_holds_up_no_revocation,
    a_new_key_refuses_no_valid_token
];

async fn an_api_server_that_stops_is_outlived_and_then_not_trusted(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    let end = clock.now() + SignedDuration::from_secs(25);
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.apply(&token("short", &format!("expiresAt: '{end}'"))).await;
    space.token("t", ApiTokenState::Active).await;
    space.token("short", ApiTokenState::Active).await;
    let (value, short) = (space.value("t-token").await, space.value("short-token").await);
    let patient = Asked::trusting(&world, Duration::from_mins(10)).await;
    let strict = Asked::trusting(&world, Duration::from_secs(10)).await;
    patient.until("", &short, 200).await;
    strict.until("", &value, 200).await;
    operator.stop().await;

    world.control_plane.pause(Part::ApiServer).unwrap();
    let paused = Instant::now();
    assert_eq!(strict.bearer("", &value).await, 200, "it is still fresh");
    while paused.elapsed() < Duration::from_secs(30) {
        assert_eq!(patient.bearer("", &value).await, 200);
        // Nobody can be asked, and it knows when each value ends.
        let (before, told, after) = (clock.now(), patient.bearer("", &short).await, clock.now());
        assert!(told == 200 || after >= end, "{told} before the end");
        assert!(told == 401 || before < end, "{told} after the end");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(strict.bearer("", &value).await, 503, "it knows nothing for certain any more");
    assert_eq!(strict.health("/readyz").await, 503);
    assert_eq!(strict.health("/livez").await, 200, "to restart it would not help");
    world.control_plane.resume(Part::ApiServer).unwrap();
    strict.until("", &value, 200).await;
    assert_eq!(strict.health("/readyz").await, 200);
    // It follows again.
    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    for verifier in [patient, strict] {
        verifier.until("", &value, 401).await;
        verifier.stop().await;
    }
}

async fn where_nothing_happens_it_stays_up_to_date(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    let value = space.value("t-token").await;
    operator.stop().await;
    let strict = Asked::trusting(&world, Duration::from_secs(10)).await;
    strict.until("", &value, 200).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(15) {
        assert_eq!(strict.bearer("", &value).await, 200, "after {:?}", started.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    strict.stop().await;
}

async fn a_slow_answer_holds_up_no_revocation(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    let value = space.value("t-token").await;
    operator.stop().await;
    // It asks after silence, and is answered just in time.
    let asked = Arc::new(Notify::new());
    let (client, asks) = (verifiers_client(&world).await, asked.clone());
    let slow = service_fn(move |request: Request<Body>| {
        let (client, asks) = (client.clone(), asks.clone());
        async move {
            if request.uri().path().ends_with("/apitokens")
                && request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "limit=1"))
            {
                asks.notify_one();
                sleep(Duration::from_millis(4500)).await;
            }
            client.send(request).await
        }
    });
    let verifier =
        Asked::by(Client::new(slow, "default"), SystemClock::shared(), Duration::from_secs(10)).await;
    verifier.until("", &value, 200).await;
    asked.notified().await;
    let revoked = Instant::now();
    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    verifier.until("", &value, 401).await;
    assert!(revoked.elapsed() < Duration::from_secs(2), "after {:?}", revoked.elapsed());
    verifier.stop().await;
}

async fn a_new_key_refuses_no_valid_token(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    let verifiers = [Asked::start(&world).await, Asked::start(&world).await];
    space.apply(&(credential("c") + "---\n" + &token("old", "expiresIn: 1y"))).await;
    space.token("old", ApiTokenState::Active).await;
    let old = space.value("old-token").await;
    let keyring = Space { client: space.client.clone(), namespace: OPERATOR_NAMESPACE.to_owned() };
    let request =
        json!({"metadata": {"annotations": {"credential-operator.io/rotate-requested-at": space.namespace}}});
    keyring.patch::<Secret>(KEYRING, request).await.unwrap();
    for round in 0..4 {
        let name = format!("t{round}");
        space.apply(&token(&name, "expiresIn: 1y")).await;
        space.token(&name, ApiTokenState::Active).await;
        let value = space.value(&format!("{name}-token")).await;
        for verifier in &verifiers {
            verifier.until("", &value, 200).await;
            assert_eq!(verifier.bearer("", &old).await, 200);
        }
        // The new key begins to sign on the way.
        clock.step(SignedDuration::from_mins(4));
    }
    operator.stop().await;
    for verifier in verifiers {
        verifier.stop().await;
    }
}
