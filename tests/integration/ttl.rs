//! Tokens that go after their end, by a clock that a test puts forward.

use std::sync::Arc;

use credential_operator::{
    api::{ApiToken, ApiTokenState},
    domain::clock::Clock,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::support::{Space, SystemClock, World, condition, credential, token};

crate::tests![a_token_goes_when_the_time_after_its_end_is_over, created_anew_it_is_born_expired];

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn to(clock: &SystemClock, at: Timestamp) {
    clock.step(at.duration_since(clock.now()));
}

async fn is_gone(space: &Space, name: &str) {
    space.until::<ApiToken>(name, |token| token.is_none()).await;
}

async fn is_there(space: &Space, name: &str) -> bool {
    let found = space.api::<ApiToken>().get_opt(name).await.unwrap();
    found.is_some_and(|token| token.metadata.deletion_timestamp.is_none())
}

async fn a_token_goes_when_the_time_after_its_end_is_over(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    // Two that both believe they lead.
    let operators = [world.operator(clock.clone()).await, world.operator(clock.clone()).await];
    let end = clock.now() + HOUR * 5;
    space.apply(&credential("c")).await;
    let all = [("first", "30m"), ("early", "2h"), ("late", "9h"), ("revoked", "2h"), ("kept", "2h")];
    for (name, ttl) in all {
        space.apply(&token(name, &format!("expiresAt: '{end}', ttlAfterExpired: {ttl}"))).await;
    }
    for (name, _) in all {
        space.token(name, ApiTokenState::Active).await;
    }
    space.patch::<ApiToken>("revoked", json!({"spec": {"revoked": true}})).await.unwrap();
    space.token("revoked", ApiTokenState::Revoked).await;

    to(&clock, end);
    for name in ["first", "early", "late", "kept"] {
        let expired = space.token(name, ApiTokenState::Expired).await;
        let say = condition(&expired, "Ready").2;
        assert!(say.contains("; this object is deleted at "), "{say}");
        space.until::<Secret>(&format!("{name}-token"), |secret| secret.is_none()).await;
    }
    // Whoever wants it to stay says so in time.
    space.patch::<ApiToken>("kept", json!({"spec": {"ttlAfterExpired": null}})).await.unwrap();
    space.token("kept", ApiTokenState::Expired).await;
    clock.step(HOUR * -3);
    to(&clock, end + HOUR);
    is_gone(&space, "first").await;
    for name in ["early", "late", "revoked", "kept"] {
        assert!(is_there(&space, name).await, "{name} went too early");
    }
    to(&clock, end + HOUR * 3);
    is_gone(&space, "early").await;
    is_gone(&space, "revoked").await;
    assert!(is_there(&space, "late").await, "it went too early");

    for operator in operators {
        operator.stop().await;
    }
    to(&clock, end + HOUR * 10);
    let operator = world.operator(clock.clone()).await;
    is_gone(&space, "late").await;
    assert!(is_there(&space, "kept").await);
    operator.stop().await;
}

async fn created_anew_it_is_born_expired(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    space.apply(&credential("c")).await;
    let spec = "expiresAt: 2021-01-01T00:00:00Z, ttlAfterExpired: ";
    space.apply(&(token("t", &format!("{spec}2h")) + "---\n" + &token("first", &format!("{spec}1h")))).await;
    for name in ["t", "first"] {
        let born = space.token(name, ApiTokenState::Expired).await.status.unwrap();
        assert_eq!((born.serial, born.digest, born.secret), (None, None, None));
    }
    // As long after its creation: who creates it again and again does so once in two hours.
    clock.step(HOUR + HOUR / 60);
    is_gone(&space, "first").await;
    assert!(is_there(&space, "t").await, "it went too early");
    clock.step(HOUR);
    is_gone(&space, "t").await;
    let requests = operator.requests(&space);
    assert_eq!(requests.get("create secrets"), None, "{requests:?}");
    assert_eq!(requests.get("delete apitokens"), Some(&2), "{requests:?}");
    operator.stop().await;
}
