//! The identity, and the roles bound to it.

use std::sync::Arc;

use credential_operator::api::{ApiTokenState, Credential, CredentialState};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::{Pod, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, Role, RoleBinding},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};
use serde_json::{Value, json};

use crate::support::{Space, World, condition, credential, token};

crate::tests![
    roles_are_bound_while_active_and_no_longer,
    a_changed_role_is_another_binding,
    a_tampered_binding_is_made_anew,
    roles_in_other_namespaces_and_everywhere_go_with_the_credential,
    a_stripped_finalizer_leaves_no_binding,
    the_account_is_mended,
    a_role_that_the_operator_may_not_bind_is_said_and_heals,
    a_missing_namespace_is_said_and_heals,
    tokens_are_counted,
    an_ended_credential_is_unbound_for_good,
];

fn roles(name: &str, roles: &Value) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: {name}}}\nspec: {{roles: {roles}}}\n"
    )
}

/// Whether the identity of the credential `c` may do this; the API server says so.
async fn may(space: &Space, namespace: Option<&str>, verb: &str, resource: &str) -> bool {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{}:c-credential", space.namespace)),
            resource_attributes: Some(ResourceAttributes {
                namespace: namespace.map(str::to_owned),
                verb: Some(verb.to_owned()),
                resource: Some(resource.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = Api::all(space.client.clone()).create(&PostParams::default(), &review).await.unwrap();
    answer.status.unwrap().allowed
}

async fn eventually_may(space: &Space, namespace: Option<&str>, verb: &str, resource: &str, expected: bool) {
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    while may(space, namespace, verb, resource).await != expected {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{verb} {resource} in {namespace:?} is not {expected}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

async fn bindings(space: &Space) -> Vec<RoleBinding> {
    space.api::<RoleBinding>().list(&ListParams::default()).await.unwrap().items
}

async fn roles_are_bound_while_active_and_no_longer(world: Arc<World>, space: Space) {
    let role =
        Role { metadata: ObjectMeta { name: Some("deployer".into()), ..ObjectMeta::default() }, rules: None };
    space.api::<Role>().create(&PostParams::default(), &role).await.unwrap();
    space
        .apply(&roles(
            "c",
            &json!([{"kind": "ClusterRole", "name": "view"}, {"kind": "Role", "name": "deployer"}]),
        ))
        .await;
    let active = space.credential("c", CredentialState::Active).await;
    assert_eq!(active.status.as_ref().unwrap().roles.as_deref(), Some("view, deployer"));
    assert_eq!(bindings(&space).await.len(), 2);
    eventually_may(&space, Some(&space.namespace), "list", "pods", true).await;

    let account = world.control_plane.service_account(&space.namespace, "c-credential").await.unwrap();
    let pods: Api<Pod> = Api::namespaced(account.client().unwrap(), &space.namespace);
    pods.list(&ListParams::default()).await.unwrap();

    space.patch::<Credential>("c", json!({"spec": {"state": "Inactive"}})).await.unwrap();
    space.credential("c", CredentialState::Inactive).await;
    assert!(bindings(&space).await.is_empty());
    eventually_may(&space, Some(&space.namespace), "list", "pods", false).await;

    space.patch::<Credential>("c", json!({"spec": {"state": "Active"}})).await.unwrap();
    space.credential("c", CredentialState::Active).await;
    assert_eq!(bindings(&space).await.len(), 2);
}

async fn a_changed_role_is_another_binding(_: Arc<World>, space: Space) {
    space.apply(&roles("c", &json!([{"kind": "ClusterRole", "name": "view"}]))).await;
    space.credential("c", CredentialState::Active).await;
    space.apply(&roles("c", &json!([{"kind": "ClusterRole", "name": "edit"}]))).await;
    space.credential("c", CredentialState::Active).await;
    let bound: Vec<_> = bindings(&space).await.into_iter().map(|binding| binding.role_ref.name).collect();
    assert_eq!(bound, ["edit"]);
}

async fn a_tampered_binding_is_made_anew(_: Arc<World>, space: Space) {
    space.apply(&roles("c", &json!([{"kind": "ClusterRole", "name": "view"}]))).await;
    space.credential("c", CredentialState::Active).await;
    let binding = bindings(&space).await.remove(0);
    let name = binding.metadata.name.clone().unwrap();
    let subjects =
        json!({"subjects": [{"kind": "User", "name": "mallory", "apiGroup": "rbac.authorization.k8s.io"}]});
    space.patch::<RoleBinding>(&name, subjects).await.unwrap();
    space
        .until::<RoleBinding>(&name, |found| found.is_some_and(|found| found.subjects == binding.subjects))
        .await;
    space.patch::<RoleBinding>(&name, json!({"metadata": {"labels": null}})).await.unwrap();
    let labelled = |found: Option<&RoleBinding>| {
        found.is_some_and(|found| found.metadata.labels == binding.metadata.labels)
    };
    space.until::<RoleBinding>(&name, labelled).await;
}

async fn roles_in_other_namespaces_and_everywhere_go_with_the_credential(_: Arc<World>, space: Space) {
    let grants = json!([
        {"kind": "ClusterRole", "name": "view", "namespace": "kube-public"},
        {"kind": "ClusterRole", "name": "view", "clusterWide": true},
    ]);
    space.apply(&roles("c", &grants)).await;
    let bound = space.credential("c", CredentialState::Active).await;
    assert_eq!(bound.metadata.finalizers.unwrap(), ["credential-operator.io/bindings"]);
    eventually_may(&space, Some("kube-public"), "list", "configmaps", true).await;
    eventually_may(&space, None, "list", "services", true).await;
    assert!(bindings(&space).await.is_empty());

    space.apply(&roles("c", &json!([]))).await;
    let unbound = space
        .until::<Credential>("c", |found| found.is_some_and(|found| found.metadata.finalizers.is_none()));
    unbound.await;
    eventually_may(&space, None, "list", "services", false).await;

    space.apply(&roles("c", &grants)).await;
    space.credential("c", CredentialState::Active).await;
    eventually_may(&space, None, "list", "services", true).await;
    space.api::<Credential>().delete("c", &DeleteParams::default()).await.unwrap();
    space.until::<Credential>("c", |found| found.is_none()).await;
    eventually_may(&space, None, "list", "services", false).await;
    eventually_may(&space, Some("kube-public"), "list", "configmaps", false).await;
}

async fn a_stripped_finalizer_leaves_no_binding(_: Arc<World>, space: Space) {
    space.apply(&roles("c", &json!([{"kind": "ClusterRole", "name": "view", "clusterWide": true}]))).await;
    space.credential("c", CredentialState::Active).await;
    let everywhere: Api<ClusterRoleBinding> = Api::all(space.client.clone());
    // Both at once, so that the operator has no time to let the credential go properly.
    let patch = json!({"metadata": {"finalizers": null}});
    let (_, _) = tokio::join!(space.patch::<Credential>("c", patch), async {
        space.api::<Credential>().delete("c", &DeleteParams::default()).await.unwrap()
    });
    space.until::<Credential>("c", |found| found.is_none()).await;
    let prefix = format!("{}.c-credential-", space.namespace);
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    loop {
        let left = everywhere.list(&ListParams::default()).await.unwrap().items;
        if !left
            .iter()
            .any(|binding| binding.metadata.name.as_ref().is_some_and(|name| name.starts_with(&prefix)))
        {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "an orphaned binding is still there");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

async fn the_account_is_mended(_: Arc<World>, space: Space) {
    space.apply(&credential("c")).await;
    let before =
        space.credential("c", CredentialState::Active).await.status.unwrap().service_account.unwrap();
    let account: ServiceAccount = space.api().get("c-credential").await.unwrap();
    assert_eq!(account.automount_service_account_token, Some(false));
    space
        .patch::<ServiceAccount>("c-credential", json!({"metadata": {"ownerReferences": null}}))
        .await
        .unwrap();
    let owned =
        |found: Option<&ServiceAccount>| found.is_some_and(|found| found.metadata.owner_references.is_some());
    space.until::<ServiceAccount>("c-credential", owned).await;

    space.api::<ServiceAccount>().delete("c-credential", &DeleteParams::default()).await.unwrap();
    space
        .until::<Credential>("c", |found| {
            let status = found.and_then(|found| found.status.as_ref());
            status
                .and_then(|status| status.service_account.as_ref())
                .is_some_and(|account| account.uid != before.uid)
        })
        .await;
}

async fn a_role_that_the_operator_may_not_bind_is_said_and_heals(_: Arc<World>, space: Space) {
    let strong =
        json!([{"kind": "ClusterRole", "name": "cluster-admin"}, {"kind": "ClusterRole", "name": "view"}]);
    space.apply(&roles("c", &strong)).await;
    let failed = space.credential("c", CredentialState::Failed).await;
    let (ready, reason, message) = condition(&failed, "Ready");
    assert_eq!((ready, reason.as_str()), (false, "RoleNotBindable"));
    let advice = "give the operator the verb bind on that role, or remove the role from the credential";
    assert!(
        message.starts_with("ClusterRole cluster-admin is not bound: ") && message.ends_with(advice),
        "{message}"
    );
    assert!(condition(&failed, "Stalled").0);
    assert_eq!(bindings(&space).await.len(), 1, "the other role is bound all the same");

    space.apply(&roles("c", &json!([{"kind": "ClusterRole", "name": "no-such-role"}]))).await;
    let missing = space.until::<Credential>("c", |found| {
        found.is_some_and(|found| condition(found, "Ready").1 == "RoleNotFound")
    });
    missing.await;
    space.apply(&roles("c", &json!([{"kind": "ClusterRole", "name": "view"}]))).await;
    space.credential("c", CredentialState::Active).await;
}

async fn a_missing_namespace_is_said_and_heals(_: Arc<World>, space: Space) {
    let later = format!("{}-later", space.namespace);
    space.apply(&roles("c", &json!([{"kind": "ClusterRole", "name": "view", "namespace": later}]))).await;
    let pending = space.credential("c", CredentialState::Pending).await;
    assert!(condition(&pending, "Ready").2.contains(&format!("namespaces \"{later}\" not found")));
    space.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {later}}}\n")).await;
    space.credential("c", CredentialState::Active).await;
}

async fn tokens_are_counted(_: Arc<World>, space: Space) {
    space.apply(&credential("c")).await;
    for n in 0..3 {
        space.apply(&token(&format!("t{n}"), &format!("expiresIn: {}h", n + 1))).await;
    }
    let first = space.token("t0", ApiTokenState::Active).await.status.unwrap().expires_at;
    let counted = space.until::<Credential>("c", |found| {
        let status = found.and_then(|found| found.status.as_ref());
        status.and_then(|status| status.tokens).is_some_and(|tokens| (tokens.active, tokens.total) == (3, 3))
    });
    assert_eq!(counted.await.unwrap().status.unwrap().next_expiry_at, first);
}

async fn an_ended_credential_is_unbound_for_good(_: Arc<World>, space: Space) {
    space.apply(&roles("c", &json!([{"kind": "ClusterRole", "name": "view"}]))).await;
    space.credential("c", CredentialState::Active).await;
    space.patch::<Credential>("c", json!({"spec": {"expiresAt": "2021-01-01T00:00:00Z"}})).await.unwrap();
    let ended = space.credential("c", CredentialState::Expired).await;
    assert_eq!(condition(&ended, "Usable").1, "Expired");
    assert!(bindings(&space).await.is_empty());
}
