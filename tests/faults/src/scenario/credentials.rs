//! The life of credentials.

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential, CredentialState},
    domain::clock::Clock,
};
use futures::FutureExt;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PropagationPolicy};
use serde_json::json;
use tokio::time::{Duration, sleep};

use super::{Drive, credential, credential_with, token, tokens::issued};
use crate::{
    run::Run,
    space::{ELSEWHERE, Outcome},
};

pub(super) const ALL: &[(&str, Drive)] = &[
    ("change-roles", |run| change_roles(run).boxed()),
    ("grant-too-much", |run| grant_too_much(run).boxed()),
    ("suspend", |run| suspend(run).boxed()),
    ("cascade", |run| cascade(run).boxed()),
    ("orphan", |run| orphan(run).boxed()),
    ("recreate", |run| recreate(run).boxed()),
    ("credential-ends", |run| credential_ends(run).boxed()),
    ("lose-account", |run| lose_account(run).boxed()),
];

/// Here, elsewhere, and for the whole cluster.
fn roles() -> String {
    format!(
        "roles: [{{kind: ClusterRole, name: view}}, {{kind: ClusterRole, name: view, namespace: {ELSEWHERE}}}, \
         {{kind: ClusterRole, name: view, clusterWide: true}}]"
    )
}

async fn change_roles(run: &Run<'_>) -> Outcome {
    run.space.apply(&credential_with("c", &roles())).await?;
    run.space.credential("c", CredentialState::Active).await?;
    let fewer = json!([{"kind": "ClusterRole", "name": "view", "namespace": ELSEWHERE}]);
    run.space.patch::<Credential>("c", json!({"spec": {"roles": fewer}})).await?;
    run.space.credential("c", CredentialState::Active).await?;
    run.space.patch::<Credential>("c", json!({"spec": {"roles": []}})).await?;
    run.space.credential("c", CredentialState::Active).await.map(drop)
}

/// Somebody asks for a role that they may not bind, by way of a credential that they may edit.
async fn grant_too_much(run: &Run<'_>) -> Outcome {
    run.space.apply(&credential_with("c", &roles())).await?;
    run.space.credential("c", CredentialState::Active).await?;
    let more = json!({"spec": {"roles": [{"kind": "ClusterRole", "name": "edit"}]}});
    let missing = "the verb bind on clusterroles/edit";
    let refused = run.space.is_refused::<Credential>("c", more, missing).await?;
    run.space.credential("c", CredentialState::Active).await?;
    if refused { Ok(()) } else { Err("a role was granted by who may not bind it".to_owned()) }
}

async fn suspend(run: &Run<'_>) -> Outcome {
    run.space.apply(&(credential_with("c", &roles()) + "---\n" + &token("t"))).await?;
    run.space.token("t", ApiTokenState::Active).await?;
    run.space.credential("c", CredentialState::Active).await?;
    for (desired, credential, token) in [
        ("Inactive", CredentialState::Inactive, ApiTokenState::Suspended),
        ("Active", CredentialState::Active, ApiTokenState::Active),
    ] {
        run.space.patch::<Credential>("c", json!({"spec": {"state": desired}})).await?;
        run.space.credential("c", credential).await?;
        run.space.token("t", token).await?;
    }
    Ok(())
}

async fn cascade(run: &Run<'_>) -> Outcome {
    let names: Vec<_> = (0..20).map(|n| format!("t{n}")).collect();
    let tokens = names.iter().map(|name| token(name)).collect::<Vec<_>>().join("---\n");
    run.space.apply(&(credential_with("c", &roles()) + "---\n" + &tokens)).await?;
    for name in &names {
        run.space.token(name, ApiTokenState::Active).await?;
    }
    run.space.credential("c", CredentialState::Active).await?;
    run.space.delete::<Credential>("c").await?;
    run.space.gone::<Credential>("c").await?;
    for name in &names {
        run.space.gone::<ApiToken>(name).await?;
        run.space.gone::<Secret>(&format!("{name}-token")).await?;
    }
    run.space.gone::<ServiceAccount>("c-credential").await
}

/// Garbage collection leaves what it would take otherwise.
async fn orphan(run: &Run<'_>) -> Outcome {
    let material = format!("type: ClientSecret, {}", roles());
    run.space
        .apply(&(credential_with("c", &material) + "---\n" + &token("t") + "---\n" + &token("u")))
        .await?;
    for name in ["t", "u"] {
        run.space.token(name, ApiTokenState::Active).await?;
    }
    run.space.credential("c", CredentialState::Active).await?;
    let orphan =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    run.space.delete_by::<ApiToken>("t", &orphan).await?;
    run.space.gone::<Secret>("t-token").await?;
    run.space.delete_by::<Credential>("c", &orphan).await?;
    run.space.gone::<Credential>("c").await?;
    for name in ["u-token", "c-credential"] {
        run.space.gone::<Secret>(name).await?;
    }
    run.space.gone::<ApiToken>("u").await?;
    run.space.gone::<ServiceAccount>("c-credential").await
}

/// A token never attaches to a new credential of the same name.
async fn recreate(run: &Run<'_>) -> Outcome {
    issued(&run.space).await?;
    run.space.delete::<Credential>("c").await?;
    run.space.gone::<Credential>("c").await?;
    run.space.apply(&credential("c")).await?;
    // Creation times have whole seconds; what is not younger than the credential is not its own.
    sleep(Duration::from_millis(1_100)).await;
    run.space.apply(&token("u")).await?;
    run.space.gone::<ApiToken>("t").await?;
    run.space.gone::<Secret>("t-token").await?;
    run.space.token("u", ApiTokenState::Active).await?;
    run.space.credential("c", CredentialState::Active).await.map(drop)
}

async fn credential_ends(run: &Run<'_>) -> Outcome {
    let end = run.clock.now() + SignedDuration::from_hours(5);
    let spec = format!("expiresAt: '{end}', {}", roles());
    run.space.apply(&(credential_with("c", &spec) + "---\n" + &token("t"))).await?;
    run.space.token("t", ApiTokenState::Active).await?;
    run.space.credential("c", CredentialState::Active).await?;
    let time_passes = async {
        loop {
            run.clock.advance_to(end);
            sleep(Duration::from_millis(200)).await;
        }
    };
    let ended = async {
        run.space.credential("c", CredentialState::Expired).await?;
        run.space.token("t", ApiTokenState::Expired).await?;
        run.space.gone::<Secret>("t-token").await
    };
    tokio::select! {
        ended = ended => ended,
        () = time_passes => Ok(()),
    }
}

async fn lose_account(run: &Run<'_>) -> Outcome {
    run.space.apply(&credential_with("c", &roles())).await?;
    let before = run.space.credential("c", CredentialState::Active).await?;
    let before = before.status.and_then(|status| status.service_account).map(|account| account.uid);
    run.space.delete::<ServiceAccount>("c-credential").await?;
    let again = move |credential: Option<&Credential>| {
        let status = credential.and_then(|credential| credential.status.as_ref());
        let account = status.and_then(|status| status.service_account.as_ref());
        account.is_some_and(|account| Some(&account.uid) != before.as_ref())
    };
    run.space.until::<Credential>("c", again).await.map(drop)
}
