//! Events: of trouble, once for each incident, and never of success.

use std::{sync::Arc, time::Duration};

use credential_operator::api::{ApiToken, ApiTokenState, Credential, CredentialState};
use k8s_openapi::api::{core::v1::Secret, events::v1::Event, rbac::v1::RoleBinding};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::{DEADLINE, Space, World, condition, credential, token};

crate::tests![
    a_conflict_is_told_once_and_counted_when_it_comes_again,
    material_that_is_wrong_and_a_rotation_that_fails_are_told,
];

/// What was told of an object: the reason, and how often.
async fn told(space: &Space, object: &str) -> Vec<(String, i32)> {
    let events = space.api::<Event>().list(&ListParams::default()).await.unwrap().items;
    let of_it = |event: &Event| {
        let regarding = event.regarding.clone().unwrap_or_default();
        format!("{} {}", regarding.kind.unwrap_or_default(), regarding.name.unwrap_or_default()) == object
    };
    let events = events.into_iter().filter(of_it).map(|event| {
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.reporting_controller.as_deref(), Some("credential-operator"));
        assert!(event.note.is_some_and(|note| !note.is_empty()));
        (event.reason.unwrap_or_default(), event.series.map_or(1, |series| series.count))
    });
    events.collect()
}

/// Waits until exactly that was told of an object.
pub async fn until_told(space: &Space, object: &str, expected: &[(&str, i32)]) {
    let deadline = Instant::now() + DEADLINE;
    let expected: Vec<_> = expected.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    loop {
        let told = told(space, object).await;
        if told == expected {
            return;
        }
        assert!(Instant::now() < deadline, "of {object} was told {told:?}, not {expected:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn a_conflict_is_told_once_and_counted_when_it_comes_again(_: Arc<World>, space: Space) {
    let manifest = "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {name: c}\n\
                    spec: {roles: [{kind: ClusterRole, name: view}]}\n";
    space.apply(&(manifest.to_owned() + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    space.credential("c", CredentialState::Active).await;
    let bindings = space.api::<RoleBinding>();
    let name = bindings.list(&ListParams::default()).await.unwrap().items[0].name_any();
    let foreign = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: {name}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}}\nsubjects: []\n"
    );
    for count in [1, 2] {
        space.patch::<Credential>("c", json!({"spec": {"state": "Inactive"}})).await.unwrap();
        space.credential("c", CredentialState::Inactive).await;
        space.token("t", ApiTokenState::Suspended).await;
        space.apply(&foreign).await;
        space.patch::<Credential>("c", json!({"spec": {"state": "Active"}})).await.unwrap();
        space.credential("c", CredentialState::Failed).await;
        until_told(&space, "Credential c", &[("Conflict", count)]).await;
        // Looked at again, also for another generation, it is the same incident.
        for text in ["one", "another"] {
            space.patch::<Credential>("c", json!({"spec": {"description": text}})).await.unwrap();
            space.credential("c", CredentialState::Failed).await;
        }
        bindings.delete(&name, &DeleteParams::default()).await.unwrap();
        space.credential("c", CredentialState::Active).await;
        until_told(&space, "Credential c", &[("Conflict", count)]).await;
    }
    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    space.token("t", ApiTokenState::Revoked).await;
    assert_eq!(told(&space, "ApiToken t").await, [], "nothing went wrong with it");

    space.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: u-token}\nstringData: {token: mine}\n").await;
    space.apply(&token("u", "expiresIn: 1h")).await;
    space.token("u", ApiTokenState::Failed).await;
    until_told(&space, "ApiToken u", &[("Conflict", 1)]).await;
}

async fn material_that_is_wrong_and_a_rotation_that_fails_are_told(_: Arc<World>, space: Space) {
    let provided = "type: HelmRepository, provided: {secretRef: {name: mine}}";
    space.apply(&credential("wrong").replace("displayName: Test", provided)).await;
    space.credential("wrong", CredentialState::Failed).await;
    until_told(&space, "Credential wrong", &[("MaterialInvalid", 1)]).await;
    let canary = "canary-0123456789-canary";
    let mine = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "mine", "labels": {"credential-operator.io/provided": "true"}},
        "stringData": {"password": canary},
    });
    space.apply(&mine.to_string()).await;
    let lacks = |found: Option<&Credential>| {
        found.is_some_and(|found| condition(found, "Ready").2.contains("username"))
    };
    space.until::<Credential>("wrong", lacks).await;
    until_told(&space, "Credential wrong", &[("MaterialInvalid", 1)]).await;

    space.apply(&credential("c").replace("displayName: Test", "type: ClientSecret")).await;
    space.published("c", 0).await;
    // Nothing can be written to it any more.
    space.patch::<Secret>("c-credential", json!({"immutable": true})).await.unwrap();
    space.patch::<Credential>("c", json!({"spec": {"rotation": {"revision": 1}}})).await.unwrap();
    until_told(&space, "Credential c", &[("RotationFailed", 1)]).await;
    let failed: Credential = space.api().get("c").await.unwrap();
    assert!(!condition(&failed, "Ready").0);
    // Tried again, also for another generation, it is the same incident.
    let described = json!({"spec": {"description": "another generation"}});
    let generation = space.patch::<Credential>("c", described).await.unwrap().metadata.generation;
    let observed = |found: Option<&Credential>| {
        let status = found.and_then(|found| found.status.as_ref());
        status.is_some_and(|status| status.observed_generation == generation)
    };
    space.until::<Credential>("c", observed).await;
    until_told(&space, "Credential c", &[("RotationFailed", 1)]).await;

    let events = space.api::<Event>().list(&ListParams::default()).await.unwrap();
    assert!(!json!(events.items).to_string().contains(canary));
}
