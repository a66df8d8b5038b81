//! Tokens that the API server mints. It grants a day at a time.

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential, CredentialState},
    domain::clock::Clock,
};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::json;

use super::{Drive, credential, credential_with, material::published, token_with, tokens::by_then};
use crate::{
    run::Run,
    space::{Outcome, Space},
};

pub(super) const ALL: &[(&str, Drive)] = &[
    ("mint", |run| mint(run).boxed()),
    ("mint-revoke", |run| revoke(run).boxed()),
    ("mint-suspend", |run| suspend(run).boxed()),
    ("mint-expire", |run| expire(run).boxed()),
    ("mint-again", |run| again(run).boxed()),
    ("mint-recreated", |run| recreated(run).boxed()),
    ("mint-kubeconfig", |run| kubeconfig(run).boxed()),
];

/// A minted token. When it was created is the answer.
async fn minted(run: &Run<'_>, spec: &str) -> Outcome<Timestamp> {
    let spec = format!("type: ServiceAccount, {spec}");
    run.space.apply(&(credential("c") + "---\n" + &token_with("t", &spec))).await?;
    let issued = run.space.token("t", ApiTokenState::Active).await?;
    Ok(issued.metadata.creation_timestamp.map_or_else(|| run.clock.now(), |created| created.0))
}

/// Waits until there is a value of that number.
async fn number(space: &Space, serial: i64) -> Outcome {
    let there = move |token: Option<&ApiToken>| {
        token.and_then(|token| token.status.as_ref()).is_some_and(|status| {
            status.state == Some(ApiTokenState::Active)
                && status.serial == Some(serial)
                && status.minted.is_some()
        })
    };
    space.until::<ApiToken>("t", there).await.map(drop)
}

async fn mint(run: &Run<'_>) -> Outcome {
    minted(run, "expiresIn: 12h").await.map(drop)
}

async fn revoke(run: &Run<'_>) -> Outcome {
    mint(run).await?;
    run.space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await?;
    run.space.token("t", ApiTokenState::Revoked).await?;
    run.space.gone::<Secret>("t-token").await
}

async fn suspend(run: &Run<'_>) -> Outcome {
    mint(run).await?;
    let set = async |state: &str| run.space.patch::<Credential>("c", json!({"spec": {"state": state}})).await;
    set("Inactive").await?;
    run.space.token("t", ApiTokenState::Suspended).await?;
    run.space.gone::<Secret>("t-token").await?;
    set("Active").await?;
    number(&run.space, 1).await
}

async fn expire(run: &Run<'_>) -> Outcome {
    let created_at = minted(run, "expiresIn: 12h").await?;
    let over = async {
        run.space.token("t", ApiTokenState::Expired).await?;
        run.space.gone::<Secret>("t-token").await
    };
    by_then(run, created_at + SignedDuration::from_hours(12), over).await
}

/// Twice, each some time after two thirds of a day, so that no plan's clock leaves the term.
async fn again(run: &Run<'_>) -> Outcome {
    let created_at = minted(run, "expiresIn: 3d").await?;
    for (serial, hours) in [(1, 19), (2, 38)] {
        let at = created_at + SignedDuration::from_hours(hours);
        by_then(run, at, number(&run.space, serial)).await?;
    }
    Ok(())
}

async fn recreated(run: &Run<'_>) -> Outcome {
    mint(run).await?;
    run.space.delete::<ServiceAccount>("c-credential").await?;
    number(&run.space, 1).await
}

/// Minted, asked for anew, and suspended.
async fn kubeconfig(run: &Run<'_>) -> Outcome {
    let spec = "type: Kubeconfig, kubeconfig: {server: 'https://api.example', duration: 12h}";
    run.space.apply(&credential_with("c", spec)).await?;
    published(&run.space, "c", 0).await?;
    run.space.patch::<Credential>("c", json!({"spec": {"rotation": {"revision": 1}}})).await?;
    published(&run.space, "c", 1).await?;
    let set = async |state: &str| run.space.patch::<Credential>("c", json!({"spec": {"state": state}})).await;
    set("Inactive").await?;
    run.space.gone::<Secret>("c-credential").await?;
    // Before the status says so, it looks as if somebody had deleted it, and such a one is filled once a minute.
    run.space.credential("c", CredentialState::Inactive).await?;
    set("Active").await?;
    published(&run.space, "c", 2).await
}
