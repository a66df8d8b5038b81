//! The life of a token, from issue to its end.

use std::sync::Arc;

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential},
    domain::token::Token,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PropagationPolicy};
use serde_json::json;

use crate::support::{Space, World, condition, credential, token};

crate::tests![
    a_manifest_becomes_a_token_in_a_secret,
    the_end_deletes_the_secret_and_keeps_the_object,
    an_end_in_the_past_is_born_expired,
    bringing_the_end_forward_counts,
    revoking_deletes_the_secret_for_good,
    a_token_waits_for_its_credential,
    an_inactive_credential_suspends_and_gives_back_the_same_value,
    a_deleted_secret_is_followed_by_another_value,
    an_edited_secret_is_mended_and_keeps_its_value,
    deleting_a_credential_takes_its_tokens,
    a_token_never_attaches_to_a_new_credential,
    deleting_a_token_takes_its_secret,
    the_credentials_end_ends_its_tokens,
    labels_follow_the_spec_and_those_of_others_stay,
    what_ends_is_over_though_its_secret_cannot_be_deleted,
    the_examples_are_issued,
];

async fn a_manifest_becomes_a_token_in_a_secret(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 30d"))).await;
    let issued = space.token("t", ApiTokenState::Active).await;
    let status = issued.status.as_ref().unwrap();
    let value = Token::parse(&space.value("t-token").await).unwrap();
    assert_eq!(Some(value.id()), status.token_id.as_deref());
    assert!(value.expose().starts_with("cop_"));
    let created = issued.metadata.creation_timestamp.as_ref().unwrap().0;
    let end = status.expires_at.as_ref().unwrap().timestamp().unwrap();
    assert_eq!(end, created + SignedDuration::from_hours(30 * 24));
    assert!(status.digest.as_ref().unwrap().starts_with("hmac-sha256:"));
    let secret: Secret = space.api().get("t-token").await.unwrap();
    assert_eq!(secret.immutable, Some(true));
    assert_eq!(secret.metadata.owner_references.unwrap()[0].uid, issued.metadata.uid.clone().unwrap());
    assert_eq!(condition(&issued, "Ready"), (true, "Issued".into(), "Secret t-token holds the token".into()));
    assert!(condition(&issued, "Usable").0);
}

async fn the_end_deletes_the_secret_and_keeps_the_object(_: Arc<World>, space: Space) {
    #[expect(clippy::disallowed_methods, reason = "an end a few seconds from now")]
    let end = Timestamp::now() + SignedDuration::from_secs(6);
    space.apply(&(credential("c") + "---\n" + &token("t", &format!("expiresAt: '{end}'")))).await;
    space.token("t", ApiTokenState::Active).await;
    let secret = space.until::<Secret>("t-token", |secret| secret.is_none());
    assert!(secret.await.is_none());
    #[expect(clippy::disallowed_methods, reason = "never early")]
    let gone = Timestamp::now();
    assert!(gone >= end, "the Secret was gone at {gone}, before the end at {end}");
    let expired = space.token("t", ApiTokenState::Expired).await;
    assert_eq!(condition(&expired, "Usable").1, "Expired");
    assert!(condition(&expired, "Ready").0, "a normal expiry must not turn a sync red");
    assert_eq!(expired.status.unwrap().digest, None);
}

async fn an_end_in_the_past_is_born_expired(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresAt: 2020-01-01T00:00:00Z"))).await;
    let expired = space.token("t", ApiTokenState::Expired).await;
    assert_eq!(expired.status.as_ref().unwrap().token_id, None);
    assert_eq!(
        condition(&expired, "Usable").2,
        "the token ended at 2020-01-01T00:00:00Z; create another ApiToken for a later end"
    );
    assert!(space.api::<Secret>().get_opt("t-token").await.unwrap().is_none());
}

async fn bringing_the_end_forward_counts(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresAt: 2035-01-01T00:00:00Z"))).await;
    space.token("t", ApiTokenState::Active).await;
    space.patch::<ApiToken>("t", json!({"spec": {"expiresAt": "2021-01-01T00:00:00Z"}})).await.unwrap();
    space.token("t", ApiTokenState::Expired).await;
    space.until::<Secret>("t-token", |secret| secret.is_none()).await;
}

async fn revoking_deletes_the_secret_for_good(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    let revoked = space.token("t", ApiTokenState::Revoked).await;
    assert_eq!(condition(&revoked, "Usable").1, "Revoked");
    space.until::<Secret>("t-token", |secret| secret.is_none()).await;
    let refused = space.patch::<ApiToken>("t", json!({"spec": {"revoked": null}})).await.unwrap_err();
    assert!(
        refused.to_string().contains("a revoked token stays revoked; create another ApiToken"),
        "{refused}"
    );
}

async fn a_token_waits_for_its_credential(_: Arc<World>, space: Space) {
    space.apply(&token("t", "expiresIn: 1h")).await;
    let pending = space.token("t", ApiTokenState::Pending).await;
    let (ready, reason, message) = condition(&pending, "Ready");
    assert_eq!((ready, reason.as_str()), (false, "CredentialNotFound"));
    assert_eq!(
        message,
        "there is no Credential c in this namespace; create it, and the token follows by itself"
    );
    space.apply(&credential("c")).await;
    space.token("t", ApiTokenState::Active).await;
}

async fn an_inactive_credential_suspends_and_gives_back_the_same_value(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    let before = space.value("t-token").await;
    for (state, expected) in [("Inactive", ApiTokenState::Suspended), ("Active", ApiTokenState::Active)] {
        let patch = json!({"spec": {"state": state}});
        space.patch::<credential_operator::api::Credential>("c", patch).await.unwrap();
        let token = space.token("t", expected).await;
        assert_eq!(condition(&token, "Usable").0, state == "Active");
        assert!(condition(&token, "Ready").0);
        assert_eq!(space.value("t-token").await, before);
    }
}

async fn a_deleted_secret_is_followed_by_another_value(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    let first = space.token("t", ApiTokenState::Active).await.status.unwrap();
    let value = space.value("t-token").await;
    space.api::<Secret>().delete("t-token", &DeleteParams::default()).await.unwrap();
    let again = space.until::<ApiToken>("t", |token| {
        token.and_then(|token| token.status.as_ref()).is_some_and(|status| status.serial == Some(1))
    });
    let again = again.await.unwrap().status.unwrap();
    assert_ne!(space.value("t-token").await, value);
    assert_ne!((first.token_id, first.digest), (again.token_id, again.digest));
    assert_eq!(first.expires_at, again.expires_at, "a replaced value ends when the lost one would have");

    space.api::<Secret>().delete("t-token", &DeleteParams::default()).await.unwrap();
    let waiting = space.token("t", ApiTokenState::Pending).await;
    assert_eq!(
        condition(&waiting, "Ready").2,
        "the token's Secret was deleted or replaced again; a new value is issued at most once a minute"
    );
    assert_eq!(waiting.status.unwrap().digest, None, "nothing accepts the lost value");
}

async fn an_edited_secret_is_mended_and_keeps_its_value(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    let value = space.value("t-token").await;
    let whole: Secret = space.api().get("t-token").await.unwrap();
    let attestation = "credential-operator.io/attestation";
    for edit in [
        json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}}),
        json!({"metadata": {"annotations": {attestation: null}}}),
        json!({"metadata": {"ownerReferences": null}}),
    ] {
        space.patch::<Secret>("t-token", edit.clone()).await.unwrap();
        space
            .until::<Secret>("t-token", |secret| {
                secret.is_some_and(|secret| {
                    let (found, before) = (&secret.metadata, &whole.metadata);
                    found.labels == before.labels
                        && found.annotations == before.annotations
                        && found.owner_references == before.owner_references
                })
            })
            .await;
        assert_eq!(space.value("t-token").await, value, "after {edit}");
    }
    let token = space.token("t", ApiTokenState::Active).await;
    assert_eq!(token.status.unwrap().serial, Some(0));
}

async fn deleting_a_credential_takes_its_tokens(_: Arc<World>, space: Space) {
    space.apply(&credential("c")).await;
    for n in 0..5 {
        space.apply(&token(&format!("t{n}"), "expiresIn: 1h")).await;
    }
    for n in 0..5 {
        space.token(&format!("t{n}"), ApiTokenState::Active).await;
    }
    space.api::<credential_operator::api::Credential>().delete("c", &DeleteParams::default()).await.unwrap();
    for n in 0..5 {
        space.until::<ApiToken>(&format!("t{n}"), |token| token.is_none()).await;
        space.until::<Secret>(&format!("t{n}-token"), |secret| secret.is_none()).await;
    }
}

async fn a_token_never_attaches_to_a_new_credential(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    let token = space.token("t", ApiTokenState::Active).await;
    space.api::<credential_operator::api::Credential>().delete("c", &DeleteParams::default()).await.unwrap();
    space.apply(&credential("c")).await;
    space
        .until::<ApiToken>("t", |found| found.is_none_or(|found| found.metadata.uid != token.metadata.uid))
        .await;
}

async fn deleting_a_token_takes_its_secret(_: Arc<World>, space: Space) {
    space.apply(&credential("c")).await;
    let policies = [PropagationPolicy::Background, PropagationPolicy::Foreground];
    for (n, policy) in policies.into_iter().enumerate() {
        let name = format!("t{n}");
        space.apply(&token(&name, "expiresIn: 1h")).await;
        space.token(&name, ApiTokenState::Active).await;
        let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        space.api::<ApiToken>().delete(&name, &params).await.unwrap();
        space.until::<ApiToken>(&name, |token| token.is_none()).await;
        space.until::<Secret>(&format!("{name}-token"), |secret| secret.is_none()).await;
    }
}

async fn the_credentials_end_ends_its_tokens(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    #[expect(clippy::disallowed_methods, reason = "an end a few seconds from now")]
    let end = Timestamp::now() + SignedDuration::from_secs(3);
    let patch = json!({"spec": {"expiresAt": end.to_string()}});
    space.patch::<credential_operator::api::Credential>("c", patch).await.unwrap();
    let expired = space.token("t", ApiTokenState::Expired).await;
    assert_eq!(expired.status.unwrap().expires_at.unwrap().timestamp().unwrap(), end);
    space.until::<Secret>("t-token", |secret| secret.is_none()).await;
}

async fn labels_follow_the_spec_and_those_of_others_stay(_: Arc<World>, space: Space) {
    // Argo CD reads only Secrets with this label.
    let spec = "expiresIn: 1h, secret: {labels: {app: orders, app.kubernetes.io/part-of: argocd}, \
                annotations: {example.com/team: night}}";
    space.apply(&(credential("c") + "---\n" + &token("t", spec))).await;
    space.token("t", ApiTokenState::Active).await;
    let secret = space.api::<Secret>().get("t-token").await.unwrap();
    let labels = secret.metadata.labels.unwrap();
    assert_eq!(labels["app.kubernetes.io/part-of"], "argocd");
    assert_eq!(labels["app.kubernetes.io/managed-by"], "credential-operator");
    space.patch::<Secret>("t-token", json!({"metadata": {"labels": {"seen-by": "somebody"}}})).await.unwrap();
    let api = space.api::<ApiToken>();
    let json_patch =
        json!({"spec": {"secret": {"labels": {"app": null, "tier": "back"}, "annotations": null}}});
    api.patch("t", &PatchParams::default(), &Patch::Merge(json_patch)).await.unwrap();
    space
        .until::<Secret>("t-token", |secret| {
            let Some(secret) = secret else { return false };
            let labels = secret.metadata.labels.clone().unwrap_or_default();
            let annotations = secret.metadata.annotations.clone().unwrap_or_default();
            let label = |key: &str| labels.get(key).map(String::as_str);
            (label("app"), label("tier"), label("seen-by")) == (None, Some("back"), Some("somebody"))
                && !annotations.contains_key("example.com/team")
        })
        .await;
}

async fn what_ends_is_over_though_its_secret_cannot_be_deleted(world: Arc<World>, space: Space) {
    let ends = |credential: &str| credential.replace("name: c}", "name: ends}");
    let goes = |credential: &str| credential.replace("name: c}", "name: goes}");
    space.apply(&(credential("c") + "---\n" + &credential("ends") + "---\n" + &credential("goes"))).await;
    space.apply(&token("t", "expiresIn: 1h")).await;
    space.apply(&ends(&token("u", "expiresIn: 1h"))).await;
    space.apply(&goes(&token("v", "expiresIn: 1h"))).await;
    for name in ["t", "u", "v"] {
        space.token(name, ApiTokenState::Active).await;
    }
    let denial = world.deny_deletions(&space, "", "secrets").await;
    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    space.patch::<Credential>("ends", json!({"spec": {"expiresAt": "2021-01-01T00:00:00Z"}})).await.unwrap();
    space.api::<Credential>().delete("goes", &DeleteParams::default()).await.unwrap();

    let revoked = space.token("t", ApiTokenState::Suspended).await;
    let expired = space.token("u", ApiTokenState::Expired).await;
    for over in [revoked, expired] {
        assert!(!condition(&over, "Usable").0 && !condition(&over, "Ready").0);
        assert!(condition(&over, "Ready").2.contains("no deletions here"));
        assert_eq!(over.status.unwrap().digest, None);
    }
    let refused = |token: Option<&ApiToken>| {
        token.is_some_and(|token| {
            !condition(token, "Usable").0 && condition(token, "Ready").2.contains("no deletions here")
        })
    };
    space.until::<ApiToken>("v", refused).await;
    denial.lift().await;
    for name in ["t-token", "u-token", "v-token"] {
        space.until::<Secret>(name, |secret| secret.is_none()).await;
    }
    assert!(condition(&space.token("t", ApiTokenState::Revoked).await, "Ready").0);
    space.until::<ApiToken>("v", |token| token.is_none()).await;
}

async fn the_examples_are_issued(_: Arc<World>, space: Space) {
    for example in [
        include_str!("../../examples/credential.yaml"),
        include_str!("../../examples/api-token.yaml"),
        include_str!("../../examples/api-token-for-git.yaml"),
        include_str!("../../examples/api-token-renewed.yaml"),
        include_str!("../../examples/api-token-kubernetes.yaml"),
        include_str!("../../examples/api-token-with-ttl.yaml"),
        include_str!("../../examples/api-token-once.yaml"),
        include_str!("../../examples/api-token-sealed.yaml"),
        include_str!("../../examples/client-secret-once.yaml"),
    ] {
        space.apply(example).await;
    }
    space.token("night-shift", ApiTokenState::Active).await;
    space.token("nightly-export", ApiTokenState::Active).await;
    space.token("metrics-reader", ApiTokenState::Active).await;
    space.token("wall-screen", ApiTokenState::Active).await;
    space.token("migration", ApiTokenState::Active).await;
    space.token("build-server", ApiTokenState::Active).await;
    space.token("partner", ApiTokenState::Active).await;
    space.published("billing", 0).await;
    Token::parse(&space.value("nightly-export-credentials").await).unwrap();
    // The operator writes neither spec nor the user's metadata, so what a user applied once applies again unchanged.
    let before = space.api::<ApiToken>().get("night-shift").await.unwrap();
    space.apply(include_str!("../../examples/api-token.yaml")).await;
    let after = space.api::<ApiToken>().get("night-shift").await.unwrap();
    assert_eq!(before.metadata.resource_version, after.metadata.resource_version);
}
