//! Policies, tightened and loosened.

use credential_operator::api::{ApiToken, ApiTokenState, Credential, CredentialState};
use futures::FutureExt;

use super::{Drive, credential, credential_with, token};
use crate::{
    run::Run,
    space::{ELSEWHERE, Outcome, ROLES_EVERYWHERE},
};

pub(super) const ALL: &[(&str, Drive)] = &[
    ("tighten-policy", |run| tighten_policy(run).boxed()),
    ("stay-refused", |run| stay_refused(run).boxed()),
    ("over-count", |run| over_count(run).boxed()),
];

/// A client secret and a token, and roles that a policy may take away.
async fn in_use(run: &Run<'_>) -> Outcome {
    let roles = format!(
        "roles: [{{kind: ClusterRole, name: view}}, {{kind: ClusterRole, name: view, namespace: {ELSEWHERE}}}, \
         {{kind: ClusterRole, name: view, clusterWide: true}}]"
    );
    let spec = format!("type: ClientSecret, scopes: [a], {roles}");
    run.space.apply(&(credential_with("c", &spec) + "---\n" + &token("t"))).await?;
    run.space.credential("c", CredentialState::Active).await?;
    run.space.token("t", ApiTokenState::Active).await.map(drop)
}

async fn refused(run: &Run<'_>) -> Outcome {
    run.space.policy(&format!("scopes: [], {ROLES_EVERYWHERE}")).await?;
    run.space.credential("c", CredentialState::Failed).await?;
    run.space.token("t", ApiTokenState::Suspended).await.map(drop)
}

/// What was refused, and what was not issued, is as it was and is issued.
async fn tighten_policy(run: &Run<'_>) -> Outcome {
    in_use(run).await?;
    refused(run).await?;
    run.space.apply(&token("u")).await?;
    run.space.token("u", ApiTokenState::Failed).await?;
    run.space.policy(ROLES_EVERYWHERE).await?;
    run.space.credential("c", CredentialState::Active).await?;
    for name in ["t", "u"] {
        run.space.token(name, ApiTokenState::Active).await?;
    }
    Ok(())
}

async fn stay_refused(run: &Run<'_>) -> Outcome {
    in_use(run).await?;
    refused(run).await
}

/// The last in the row gets a place once one is left.
async fn over_count(run: &Run<'_>) -> Outcome {
    run.space
        .policy(&format!("maxCredentials: 1, tokens: {{maxPerCredential: 1}}, {ROLES_EVERYWHERE}"))
        .await?;
    run.space.apply(&(credential("c") + "---\n" + &token("t"))).await?;
    run.space.token("t", ApiTokenState::Active).await?;
    run.space.apply(&token("u")).await?;
    run.space.token("u", ApiTokenState::Pending).await?;
    run.space.delete::<ApiToken>("t").await?;
    run.space.token("u", ApiTokenState::Active).await?;
    run.space.apply(&credential("d")).await?;
    run.space.credential("d", CredentialState::Pending).await?;
    run.space.delete::<Credential>("c").await?;
    run.space.credential("d", CredentialState::Active).await.map(drop)
}
