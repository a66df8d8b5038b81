//! The life of material.

use credential_operator::{
    api::{Credential, CredentialState},
    domain::{clock::Clock, name},
};
use futures::FutureExt;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tokio::time::{Duration, sleep};

use super::{Drive, credential_with};
use crate::{
    run::Run,
    space::{Outcome, Space},
};

pub(super) const ALL: &[(&str, Drive)] = &[
    ("generate", |run| generate(run).boxed()),
    ("provide-and-mend", |run| provide_and_mend(run).boxed()),
    ("rotate", |run| rotate(run).boxed()),
    ("rename-secret", |run| rename_secret(run).boxed()),
    ("material-ends", |run| material_ends(run).boxed()),
];

/// Waits until the credential is ready in its latest generation, with material of that serial.
pub(super) async fn published(space: &Space, name: &str, serial: i64) -> Outcome {
    let ready = move |credential: Option<&Credential>| {
        credential.is_some_and(|credential| {
            let status = credential.status.clone().unwrap_or_default();
            status.state == Some(CredentialState::Active)
                && status.observed_generation == credential.metadata.generation
                && status.secret.is_some()
                && status.material.and_then(|material| material.serial) == Some(serial)
        })
    };
    space.until::<Credential>(name, ready).await.map(drop)
}

async fn generate(run: &Run<'_>) -> Outcome {
    let fields = "type: Opaque, opaque: {fields: [{name: a}, {name: b}]}";
    run.space.apply(&credential_with("c", fields)).await?;
    run.space.apply(&credential_with("d", "type: BasicAuth")).await?;
    published(&run.space, "c", 0).await?;
    published(&run.space, "d", 0).await
}

async fn provide_and_mend(run: &Run<'_>) -> Outcome {
    let mine = |password: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "mine", "labels": {name::PROVIDED_LABEL: "true"}},
            "stringData": {"username": "svc", "password": password},
        })
        .to_string()
    };
    run.space.apply(&mine("")).await?;
    run.space
        .apply(&credential_with("c", "type: HelmRepository, provided: {secretRef: {name: mine}}"))
        .await?;
    run.space.credential("c", CredentialState::Failed).await?;
    run.space.apply(&mine("first")).await?;
    published(&run.space, "c", 0).await?;
    run.space.apply(&mine("second")).await?;
    published(&run.space, "c", 1).await
}

async fn rotate(run: &Run<'_>) -> Outcome {
    let spec = |revision| {
        format!("type: ClientSecret, rotation: {{every: 90d, overlap: 24h, revision: {revision}}}")
    };
    for revision in 0..3 {
        run.space.apply(&credential_with("c", &spec(revision))).await?;
        published(&run.space, "c", revision).await?;
    }
    Ok(())
}

async fn rename_secret(run: &Run<'_>) -> Outcome {
    run.space.apply(&credential_with("c", "type: HelmRepository")).await?;
    published(&run.space, "c", 0).await?;
    run.space.patch::<Credential>("c", json!({"spec": {"secret": {"name": "elsewhere"}}})).await?;
    run.space.gone::<Secret>("c-credential").await?;
    published(&run.space, "c", 0).await
}

async fn material_ends(run: &Run<'_>) -> Outcome {
    let end = run.clock.now() + SignedDuration::from_hours(5);
    run.space.apply(&credential_with("c", &format!("type: ClientSecret, expiresAt: '{end}'"))).await?;
    published(&run.space, "c", 0).await?;
    let time_passes = async {
        loop {
            run.clock.advance_to(end);
            sleep(Duration::from_millis(200)).await;
        }
    };
    let ended = async {
        run.space.credential("c", CredentialState::Expired).await?;
        run.space.gone::<Secret>("c-credential").await
    };
    tokio::select! {
        ended = ended => ended,
        () = time_passes => Ok(()),
    }
}
