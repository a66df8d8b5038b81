//! What others put where ours should be: never touched, never trusted, and gone on from when it goes.

use std::sync::Arc;

use credential_operator::api::{
    ApiToken, ApiTokenState, Credential, CredentialState,
    credential::{Grant, RoleKind},
};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{Secret, ServiceAccount},
        rbac::v1::{ClusterRoleBinding, RoleBinding},
    },
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::support::{Space, World, condition, credential, token};

crate::tests![
    a_foreign_secret_is_left_alone_and_waited_for,
    a_foreign_account_gets_no_rights,
    a_foreign_binding_is_left_alone,
    a_foreign_binding_for_the_whole_cluster_is_left_alone,
    a_foreign_secret_that_goes_slowly_is_waited_for,
    a_planted_secret_is_not_trusted,
    a_copy_under_another_uid_is_not_trusted,
    two_tokens_of_one_secret_name,
    a_forged_status_is_put_right,
];

async fn a_foreign_secret_is_left_alone_and_waited_for(_: Arc<World>, space: Space) {
    space.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: t-token}\nstringData: {token: mine}\n").await;
    let before: Secret = space.api().get("t-token").await.unwrap();
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    let failed = space.token("t", ApiTokenState::Failed).await;
    assert_eq!(condition(&failed, "Stalled"), (true, "Conflict".into(), condition(&failed, "Ready").2));
    assert!(
        condition(&failed, "Ready").2.starts_with("Secret t-token exists and is not this token's; delete it")
    );
    let after: Secret = space.api().get("t-token").await.unwrap();
    assert_eq!(before, after);
    space.api::<Secret>().delete("t-token", &DeleteParams::default()).await.unwrap();
    let issued = space.token("t", ApiTokenState::Active).await;
    assert!(!condition(&issued, "Stalled").0);
}

async fn a_foreign_account_gets_no_rights(_: Arc<World>, space: Space) {
    space.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: c-credential}\n").await;
    let before: ServiceAccount = space.api().get("c-credential").await.unwrap();
    space
        .apply(
            "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {name: c}\n\
             spec: {roles: [{kind: ClusterRole, name: view}]}\n",
        )
        .await;
    let failed = space.credential("c", CredentialState::Failed).await;
    assert_eq!(condition(&failed, "Ready").1, "Conflict");
    let after: ServiceAccount = space.api().get("c-credential").await.unwrap();
    assert_eq!(before, after);
    assert!(space.api::<RoleBinding>().list(&ListParams::default()).await.unwrap().items.is_empty());
    space.api::<ServiceAccount>().delete("c-credential", &DeleteParams::default()).await.unwrap();
    space.credential("c", CredentialState::Active).await;
    assert_eq!(space.api::<RoleBinding>().list(&ListParams::default()).await.unwrap().items.len(), 1);
}

async fn a_foreign_binding_is_left_alone(_: Arc<World>, space: Space) {
    let manifest = "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {name: c}\n\
                    spec: {roles: [{kind: ClusterRole, name: view}]}\n";
    space.apply(manifest).await;
    space.credential("c", CredentialState::Active).await;
    let bindings = space.api::<RoleBinding>();
    let name = bindings.list(&ListParams::default()).await.unwrap().items[0].name_any();
    space.patch::<Credential>("c", json!({"spec": {"state": "Inactive"}})).await.unwrap();
    space.credential("c", CredentialState::Inactive).await;

    let foreign = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: {name}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}}\nsubjects: []\n"
    );
    space.apply(&foreign).await;
    let before = bindings.get(&name).await.unwrap();
    space.patch::<Credential>("c", json!({"spec": {"state": "Active"}})).await.unwrap();
    let failed = space.credential("c", CredentialState::Failed).await;
    assert_eq!(condition(&failed, "Ready").1, "Conflict");
    assert_eq!(bindings.get(&name).await.unwrap(), before);
    bindings.delete(&name, &DeleteParams::default()).await.unwrap();
    space.credential("c", CredentialState::Active).await;
}

async fn a_foreign_binding_for_the_whole_cluster_is_left_alone(_: Arc<World>, space: Space) {
    let grant =
        Grant { kind: RoleKind::ClusterRole, name: "view".to_owned(), namespace: None, cluster_wide: true };
    let name = credential_operator::domain::name::binding(&space.namespace, "c", &grant);
    let foreign = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: {name}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}}\nsubjects: []\n"
    );
    space.apply(&foreign).await;
    let bindings: Api<ClusterRoleBinding> = Api::all(space.client.clone());
    let before = bindings.get(&name).await.unwrap();
    space
        .apply(
            "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {name: c}\n\
             spec: {roles: [{kind: ClusterRole, name: view, clusterWide: true}]}\n",
        )
        .await;
    let failed = space.credential("c", CredentialState::Failed).await;
    assert_eq!(condition(&failed, "Ready").1, "Conflict");
    assert!(condition(&failed, "Ready").2.starts_with(&format!("ClusterRoleBinding {name} exists")));
    assert_eq!(bindings.get(&name).await.unwrap(), before);
    bindings.delete(&name, &DeleteParams::default()).await.unwrap();
    space.credential("c", CredentialState::Active).await;
}

/// Without our label no watch shows that it goes.
async fn a_foreign_secret_that_goes_slowly_is_waited_for(_: Arc<World>, space: Space) {
    let foreign = "apiVersion: v1\nkind: Secret\nmetadata: {name: t-token, finalizers: [example.com/hold]}\n";
    space.apply(foreign).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Failed).await;
    space.api::<Secret>().delete("t-token", &DeleteParams::default()).await.unwrap();
    space.token("t", ApiTokenState::Pending).await;
    space.patch::<Secret>("t-token", json!({"metadata": {"finalizers": null}})).await.unwrap();
    space.token("t", ApiTokenState::Active).await;
}

/// With our labels, our annotation as another token has it, and the owner reference of this very token.
async fn a_planted_secret_is_not_trusted(_: Arc<World>, space: Space) {
    space
        .apply(
            &(credential("c")
                + "---\n"
                + &token("model", "expiresIn: 1h")
                + "---\n"
                + &token("t", "expiresIn: 1h")),
        )
        .await;
    space.token("model", ApiTokenState::Active).await;
    let issued = space.token("t", ApiTokenState::Active).await.status.unwrap();
    let secrets = space.api::<Secret>();
    let mut planted = secrets.get("model-token").await.unwrap();
    let own = secrets.get("t-token").await.unwrap();
    planted.metadata.name = Some("t-token".to_owned());
    planted.metadata.owner_references = own.metadata.owner_references;
    planted.metadata.uid = None;
    planted.metadata.resource_version = None;
    let evil = space.value("model-token").await;
    secrets.delete("t-token", &DeleteParams::default()).await.unwrap();
    // Its annotation names another Secret, so it belongs to who created it, if the operator was not first.
    let planted = secrets.create(&PostParams::default(), &planted).await;
    if let Ok(planted) = planted {
        let conflict =
            |found: Option<&ApiToken>| found.is_some_and(|found| condition(found, "Stalled").1 == "Conflict");
        space.until::<ApiToken>("t", conflict).await;
        assert_eq!(secrets.get("t-token").await.unwrap(), planted);
        secrets.delete("t-token", &DeleteParams::default()).await.unwrap();
    }
    let again = space.until::<ApiToken>("t", |token| {
        let status = token.and_then(|token| token.status.as_ref());
        status.is_some_and(|status| status.digest.is_some() && status.serial > Some(0))
    });
    let again = again.await.unwrap().status.unwrap();
    assert_ne!(again.token_id, issued.token_id);
    assert_ne!(space.value("t-token").await, evil);
}

async fn a_copy_under_another_uid_is_not_trusted(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    let secrets = space.api::<Secret>();
    let mut copy = secrets.get("t-token").await.unwrap();
    copy.metadata.uid = None;
    copy.metadata.resource_version = None;
    copy.data.get_or_insert_default().insert("more".to_owned(), ByteString(b"data".to_vec()));
    let value = space.value("t-token").await;
    secrets.delete("t-token", &DeleteParams::default()).await.unwrap();
    let _ = secrets.create(&PostParams::default(), &copy).await;
    let again = space.until::<ApiToken>("t", |token| {
        let status = token.and_then(|token| token.status.as_ref());
        status.is_some_and(|status| status.digest.is_some() && status.serial > Some(0))
    });
    again.await;
    assert_ne!(space.value("t-token").await, value);
}

async fn two_tokens_of_one_secret_name(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("a", "expiresIn: 1h, secret: {name: same}"))).await;
    space.token("a", ApiTokenState::Active).await;
    let value = space.value("same").await;
    space.apply(&token("b", "expiresIn: 1h, secret: {name: same}")).await;
    let failed = space.token("b", ApiTokenState::Failed).await;
    assert_eq!(condition(&failed, "Ready").1, "Conflict");
    assert_eq!(space.value("same").await, value);
    space.token("a", ApiTokenState::Active).await;
    space.api::<ApiToken>().delete("a", &DeleteParams::default()).await.unwrap();
    space.token("b", ApiTokenState::Active).await;
    assert_ne!(space.value("same").await, value);
}

async fn a_forged_status_is_put_right(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    let issued = space.token("t", ApiTokenState::Active).await.status.unwrap();
    let value = space.value("t-token").await;
    for forged in [
        json!({"digest": format!("hmac-sha256:{}:{}", "x", "0".repeat(64))}),
        json!({"digest": null}),
        json!({"tokenId": "AAAAAAAAAAAA"}),
        json!({"expiresAt": "2100-01-01T00:00:00Z"}),
        json!({"state": "Suspended"}),
        json!({"credentialUid": "00000000-0000-4000-8000-000000000000"}),
        json!({"serial": null, "digest": null, "tokenId": null, "secret": null, "conditions": null}),
        json!({"conditions": [{"type": "Ready", "status": "True", "reason": "x", "message": "", "lastTransitionTime": "2020-01-01T00:00:00+02:00"}]}),
    ] {
        let patch = Patch::Merge(json!({"status": forged}));
        space.api::<ApiToken>().patch_status("t", &PatchParams::default(), &patch).await.unwrap();
        let healed = space.until::<ApiToken>("t", |token| {
            let Some(token) = token else { return false };
            let status = token.status.clone().unwrap_or_default();
            status.state == Some(ApiTokenState::Active)
                && (&status.expires_at, &status.digest) == (&issued.expires_at, &issued.digest)
                && status.token_id == issued.token_id
                && condition(token, "Usable").0
                && condition(token, "Ready").1 == "Issued"
        });
        healed.await;
        assert_eq!(space.value("t-token").await, value, "after {forged}");
    }
    // A UID that is another's: to us the Secret was replaced, and a replaced value is not trusted.
    let foreign = space.api::<ServiceAccount>().get("default").await.unwrap().metadata.uid;
    let patch = Patch::Merge(json!({"status": {"secret": {"name": "t-token", "uid": foreign}}}));
    space.api::<ApiToken>().patch_status("t", &PatchParams::default(), &patch).await.unwrap();
    let again = space.until::<ApiToken>("t", |token| {
        token.and_then(|token| token.status.as_ref()).is_some_and(|status| status.serial == Some(1))
    });
    again.await;
    assert_ne!(space.value("t-token").await, value);
}
