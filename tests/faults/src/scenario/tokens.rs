//! The life of tokens.

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential},
    domain::clock::Clock,
};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tokio::time::{Duration, sleep};

use super::{Drive, credential, token, token_with};
use crate::{
    run::{KEYRING, Run},
    space::{Outcome, Space},
};

pub(super) const ALL: &[(&str, Drive)] = &[
    ("issue", |run| issue(run).boxed()),
    ("many", |run| many(run).boxed()),
    ("revoke", |run| revoke(run).boxed()),
    ("delete", |run| delete(run).boxed()),
    ("expire", |run| expire(run, false).boxed()),
    ("expire-while-down", |run| expire(run, true).boxed()),
    ("bring-forward", |run| bring_forward(run).boxed()),
    ("ttl", |run| ttl(run, false).boxed()),
    ("ttl-while-down", |run| ttl(run, true).boxed()),
    ("lose-secret", |run| lose_secret(run).boxed()),
    ("rotate-keyring", |run| rotate_keyring(run).boxed()),
];

pub(super) async fn issued(space: &Space) -> Outcome {
    space.apply(&(credential("c") + "---\n" + &token("t"))).await?;
    space.token("t", ApiTokenState::Active).await.map(drop)
}

async fn issue(run: &Run<'_>) -> Outcome {
    issued(&run.space).await
}

async fn many(run: &Run<'_>) -> Outcome {
    let names: Vec<_> = (0..8).map(|n| format!("t{n}")).collect();
    let tokens = names.iter().map(|name| token(name)).collect::<Vec<_>>().join("---\n");
    run.space.apply(&(credential("c") + "---\n" + &tokens)).await?;
    for name in &names {
        run.space.token(name, ApiTokenState::Active).await?;
    }
    Ok(())
}

async fn revoke(run: &Run<'_>) -> Outcome {
    issued(&run.space).await?;
    run.space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await?;
    run.space.token("t", ApiTokenState::Revoked).await?;
    run.space.gone::<Secret>("t-token").await
}

async fn delete(run: &Run<'_>) -> Outcome {
    issued(&run.space).await?;
    run.space.delete::<ApiToken>("t").await?;
    run.space.gone::<ApiToken>("t").await?;
    run.space.gone::<Secret>("t-token").await
}

/// Waits for what comes with time; a plan may set the clock back meanwhile.
pub(super) async fn by_then(run: &Run<'_>, at: Timestamp, reached: impl Future<Output = Outcome>) -> Outcome {
    let time_passes = async {
        loop {
            run.clock.advance_to(at);
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        reached = reached => reached,
        () = time_passes => Ok(()),
    }
}

async fn until_at(run: &Run<'_>, at: Timestamp, state: ApiTokenState) -> Outcome {
    let reached = async {
        run.space.token("t", state).await?;
        run.space.gone::<Secret>("t-token").await
    };
    by_then(run, at, reached).await
}

async fn expire(run: &Run<'_>, while_down: bool) -> Outcome {
    // Far enough for a clock that is put forward by an hour.
    let end = run.clock.now() + SignedDuration::from_hours(5);
    run.space.apply(&(credential("c") + "---\n" + &token_with("t", &format!("expiresAt: '{end}'")))).await?;
    run.space.token("t", ApiTokenState::Active).await?;
    if while_down {
        run.stop_operators();
        run.clock.advance_to(end);
        // Long enough for a verifier to be sure again, after such a step, that it is up to date: nobody but itself tells it
        // of the end.
        sleep(Duration::from_millis(1_500)).await;
        run.start_operator();
    }
    until_at(run, end, ApiTokenState::Expired).await
}

/// A token goes itself, half a day after its end.
async fn ttl(run: &Run<'_>, while_down: bool) -> Outcome {
    let end = run.clock.now() + SignedDuration::from_hours(5);
    let goes = end + SignedDuration::from_hours(12);
    let spec = format!("expiresAt: '{end}', ttlAfterExpired: 12h");
    run.space.apply(&(credential("c") + "---\n" + &token_with("t", &spec))).await?;
    run.space.token("t", ApiTokenState::Active).await?;
    if while_down {
        run.stop_operators();
        run.clock.advance_to(goes);
        // As for one that ends while no operator is there.
        sleep(Duration::from_millis(1_500)).await;
        run.start_operator();
    } else {
        until_at(run, end, ApiTokenState::Expired).await?;
    }
    let gone = async {
        run.space.gone::<Secret>("t-token").await?;
        run.space.gone::<ApiToken>("t").await
    };
    by_then(run, goes, gone).await
}

async fn bring_forward(run: &Run<'_>) -> Outcome {
    let end = run.clock.now() + SignedDuration::from_hours(9);
    run.space.apply(&(credential("c") + "---\n" + &token_with("t", &format!("expiresAt: '{end}'")))).await?;
    run.space.token("t", ApiTokenState::Active).await?;
    let end = end - SignedDuration::from_hours(4);
    run.space.patch::<ApiToken>("t", json!({"spec": {"expiresAt": end.to_string()}})).await?;
    run.space.token("t", ApiTokenState::Active).await?;
    until_at(run, end, ApiTokenState::Expired).await
}

async fn lose_secret(run: &Run<'_>) -> Outcome {
    issued(&run.space).await?;
    run.space.delete::<Secret>("t-token").await?;
    let again = |token: Option<&ApiToken>| {
        let status = token.and_then(|token| token.status.as_ref());
        status.is_some_and(|status| status.serial == Some(1) && status.digest.is_some())
    };
    run.space.until::<ApiToken>("t", again).await.map(drop)
}

async fn rotate_keyring(run: &Run<'_>) -> Outcome {
    issued(&run.space).await?;
    let request = json!({"metadata": {"annotations": {"credential-operator.io/rotate-requested-at": "now"}}});
    run.space.patch::<Secret>(KEYRING, request).await?;
    let answered = |secret: Option<&Secret>| {
        let annotations = secret.and_then(|secret| secret.metadata.annotations.as_ref());
        annotations.is_some_and(|all| all.contains_key("credential-operator.io/rotate-answered"))
    };
    run.space.until::<Secret>(KEYRING, answered).await?;
    // A new key signs once every verifier had time to read it.
    run.clock.step(SignedDuration::from_mins(11));
    run.space.apply(&token("u")).await?;
    run.space.token("u", ApiTokenState::Active).await?;
    run.space.token("t", ApiTokenState::Active).await?;
    run.space.patch::<Credential>("c", json!({"spec": {"description": "still there"}})).await
}
