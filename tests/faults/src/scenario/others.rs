//! What others put in the way, or edit.

use credential_operator::{
    api::{ApiToken, ApiTokenState},
    domain::name,
};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::json;

use super::{Drive, credential, credential_with, token, tokens::issued};
use crate::{run::Run, space::Outcome};

pub(super) const ALL: &[(&str, Drive)] = &[
    ("foreign-secret", |run| foreign_secret(run).boxed()),
    ("foreign-secret-goes", |run| foreign_secret_goes(run).boxed()),
    ("foreign-account-goes", |run| foreign_account_goes(run).boxed()),
    ("edit-secret", |run| edit_secret(run).boxed()),
];

const FOREIGN: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: t-token}\nstringData: {token: mine}\n";

async fn foreign_secret(run: &Run<'_>) -> Outcome {
    run.space.apply(FOREIGN).await?;
    run.space.apply(&(credential("c") + "---\n" + &token("t"))).await?;
    run.space.token("t", ApiTokenState::Failed).await.map(drop)
}

async fn foreign_secret_goes(run: &Run<'_>) -> Outcome {
    foreign_secret(run).await?;
    run.space.delete::<Secret>("t-token").await?;
    run.space.token("t", ApiTokenState::Active).await.map(drop)
}

async fn foreign_account_goes(run: &Run<'_>) -> Outcome {
    run.space.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: c-credential}\n").await?;
    run.space.apply(&credential_with("c", "roles: [{kind: ClusterRole, name: view}]")).await?;
    run.space.credential("c", credential_operator::api::CredentialState::Failed).await?;
    run.space.delete::<ServiceAccount>("c-credential").await?;
    run.space.credential("c", credential_operator::api::CredentialState::Active).await.map(drop)
}

async fn edit_secret(run: &Run<'_>) -> Outcome {
    issued(&run.space).await?;
    let attestation = name::ATTESTATION_ANNOTATION;
    for edit in [
        json!({"metadata": {"annotations": {attestation: null}}}),
        json!({"metadata": {"ownerReferences": null}}),
        json!({"metadata": {"labels": {name::MANAGED_BY_LABEL: null}}}),
    ] {
        run.space.patch::<Secret>("t-token", edit).await?;
        let mended = |secret: Option<&Secret>| {
            secret.is_some_and(|secret| {
                let metadata = &secret.metadata;
                let has = |map: &Option<std::collections::BTreeMap<String, String>>, key: &str| {
                    map.as_ref().is_some_and(|map| map.contains_key(key))
                };
                metadata.owner_references.is_some()
                    && has(&metadata.annotations, name::ATTESTATION_ANNOTATION)
                    && has(&metadata.labels, name::MANAGED_BY_LABEL)
            })
        };
        run.space.until::<Secret>("t-token", mended).await?;
    }
    run.space.token("t", ApiTokenState::Active).await?;
    run.space.patch::<ApiToken>("t", json!({"spec": {"description": "edited"}})).await?;
    run.space.token("t", ApiTokenState::Active).await.map(drop)
}
