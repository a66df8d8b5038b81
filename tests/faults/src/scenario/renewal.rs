//! Tokens that renew.

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential},
    domain::clock::Clock,
};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::{Drive, credential, token_with, tokens::by_then};
use crate::{
    run::Run,
    space::{Outcome, Space},
};

pub(super) const ALL: &[(&str, Drive)] = &[
    ("renew", |run| renew(run).boxed()),
    ("renew-while-down", |run| renew_while_down(run).boxed()),
    ("renew-suspended", |run| renew_suspended(run).boxed()),
    ("renew-and-lose", |run| renew_and_lose(run).boxed()),
];

/// A value lives for thirty days and has a successor after twenty.
const EVERY: SignedDuration = SignedDuration::from_hours(20 * 24);

/// A token that renews, with something of others in its Secret. When it was created is the answer.
async fn renewing(run: &Run<'_>) -> Outcome<Timestamp> {
    let spec = "expiresIn: 30d, renewBefore: 10d";
    run.space.apply(&(credential("c") + "---\n" + &token_with("t", spec))).await?;
    let issued = run.space.token("t", ApiTokenState::Active).await?;
    let extra = json!({"metadata": {"labels": {"seen-by": "somebody"}}, "data": {"extra": "a2VwdA=="}});
    run.space.patch::<Secret>("t-token", extra).await?;
    Ok(issued.metadata.creation_timestamp.map_or_else(|| run.clock.now(), |created| created.0))
}

/// Waits until the value has that number, and is of that term.
async fn number(space: &Space, serial: i64, term: i64) -> Outcome {
    let there = move |token: Option<&ApiToken>| {
        token.and_then(|token| token.status.as_ref()).is_some_and(|status| {
            (status.serial, status.term) == (Some(serial), Some(term)) && status.digest.is_some()
        })
    };
    space.until::<ApiToken>("t", there).await.map(drop)
}

/// The time in the middle of a term, so that no plan's clock leaves it.
fn middle(created_at: Timestamp, term: i32) -> Timestamp {
    created_at + EVERY * term + EVERY / 4
}

async fn renew(run: &Run<'_>) -> Outcome {
    let created_at = renewing(run).await?;
    for term in 1..3 {
        by_then(run, middle(created_at, term), number(&run.space, term.into(), term.into())).await?;
    }
    Ok(())
}

async fn renew_while_down(run: &Run<'_>) -> Outcome {
    let created_at = renewing(run).await?;
    run.stop_operators();
    run.clock.advance_to(middle(created_at, 4));
    run.start_operator();
    number(&run.space, 1, 4).await
}

async fn renew_suspended(run: &Run<'_>) -> Outcome {
    let created_at = renewing(run).await?;
    let set = async |state: &str| run.space.patch::<Credential>("c", json!({"spec": {"state": state}})).await;
    set("Inactive").await?;
    run.space.token("t", ApiTokenState::Suspended).await?;
    by_then(run, middle(created_at, 1), number(&run.space, 1, 1)).await?;
    set("Active").await?;
    run.space.token("t", ApiTokenState::Active).await.map(drop)
}

async fn renew_and_lose(run: &Run<'_>) -> Outcome {
    let created_at = renewing(run).await?;
    by_then(run, middle(created_at, 1), number(&run.space, 1, 1)).await?;
    run.space.delete::<Secret>("t-token").await?;
    number(&run.space, 2, 1).await?;
    by_then(run, middle(created_at, 2), number(&run.space, 3, 2)).await
}
