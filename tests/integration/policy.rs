//! What policies allow, refuse and count.

pub mod counts;
pub mod passes;
pub mod policy_alone;

use std::{sync::Arc, time::Duration};

use credential_operator::api::{ApiToken, ApiTokenState, Credential, CredentialPolicy, CredentialState};
use k8s_openapi::api::{
    core::v1::{Namespace, Secret, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    support::{Space, World, condition, credential, token},
    verifier::Asked,
};

crate::tests![
    tightened_it_refuses_in_time_and_destroys_nothing,
    a_relabelled_namespace_is_judged_by_what_selects_it_now,
    each_rule_refuses_and_says_what_to_do,
    grants_elsewhere_need_a_policy_that_names_them,
    tokens_are_issued_as_far_as_policies_allow,
    absent_and_empty_lists_are_kept_apart,
    policies_that_make_no_sense,
];

/// How soon a changed policy holds everywhere.
const HOLDS_WITHIN: Duration = Duration::from_secs(5);
/// A namespace with this label has no policy but those of its test.
const STRICT: &str = "tests/strict";

/// A policy for the namespace of a test.
struct Policy {
    api: Api<CredentialPolicy>,
    name: String,
}

impl Policy {
    async fn of(space: &Space, name: &str, spec: Value) -> Self {
        let name = format!("{}-{name}", space.namespace);
        let policy = Self { api: Api::all(space.client.clone()), name };
        policy.set(space, spec).await;
        policy
    }

    async fn set(&self, space: &Space, mut spec: Value) {
        let here = json!({"matchLabels": {"kubernetes.io/metadata.name": space.namespace}});
        spec.as_object_mut().unwrap().entry("namespaceSelector").or_insert(here);
        let policy = json!({
            "apiVersion": "credential-operator.io/v1alpha1",
            "kind": "CredentialPolicy",
            "metadata": {"name": self.name},
            "spec": spec,
        });
        let params = PatchParams::apply("tests").force();
        self.api.patch(&self.name, &params, &Patch::Apply(&policy)).await.unwrap();
    }

    async fn delete(self) {
        self.api.delete(&self.name, &DeleteParams::default()).await.unwrap();
    }
}

async fn label(space: &Space, key: &str, value: Option<&str>) {
    let namespaces: Api<Namespace> = Api::all(space.client.clone());
    let patch = Patch::Merge(json!({"metadata": {"labels": {key: value}}}));
    namespaces.patch(&space.namespace, &PatchParams::default(), &patch).await.unwrap();
}

async fn bindings(space: &Space) -> usize {
    space.api::<RoleBinding>().list_metadata(&ListParams::default()).await.unwrap().items.len()
}

/// UID and version of every Secret of the namespace.
async fn secrets(space: &Space) -> Vec<[Option<String>; 3]> {
    let secrets = space.api::<Secret>().list_metadata(&ListParams::default()).await.unwrap();
    let told = |secret: kube::api::ObjectMeta| [secret.name, secret.uid, secret.resource_version];
    secrets.into_iter().map(|secret| told(secret.metadata)).collect()
}

/// With that in its spec.
fn with(name: &str, spec: &str) -> String {
    credential(name).replace("displayName: Test", spec)
}

/// Waits until the credential gives that reason for not being ready, and returns the message.
async fn not_ready(space: &Space, name: &str, reason: &str) -> (Credential, String) {
    let found = space.until::<Credential>(name, |found| {
        found.is_some_and(|found| {
            let said = condition(found, "Ready");
            !said.0 && said.1 == reason
        })
    });
    let found = found.await.unwrap();
    let message = condition(&found, "Ready").2;
    (found, message)
}

async fn tightened_it_refuses_in_time_and_destroys_nothing(world: Arc<World>, space: Space) {
    let verifier = Asked::start(&world).await;
    let policy = Policy::of(&space, "p", json!({})).await;
    let spec = "type: ClientSecret, scopes: ['orders:read'], audiences: [credential-operator, orders], \
                roles: [{kind: ClusterRole, name: view}]";
    space.apply(&(with("c", spec) + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.published("c", 0).await;
    space.token("t", ApiTokenState::Active).await;
    let secret = String::from_utf8(space.data("c-credential").await["client-secret"].clone()).unwrap();
    let values = [space.value("t-token").await, secret];
    for value in &values {
        verifier.until("/orders", value, 200).await;
    }
    let before = secrets(&space).await;
    for tight in [
        json!({"scopes": ["stock:*"]}),
        json!({"types": ["Token"]}),
        json!({"audiences": ["credential-operator"]}),
        json!({"roles": []}),
    ] {
        let tightened_at = Instant::now();
        policy.set(&space, tight.clone()).await;
        for value in &values {
            verifier.until("/orders", value, 401).await;
        }
        let failed = space.credential("c", CredentialState::Failed).await;
        assert!(tightened_at.elapsed() < HOLDS_WITHIN, "{tight} took {:?}", tightened_at.elapsed());
        assert_eq!(bindings(&space).await, 0, "{tight}");
        for kind in ["Ready", "Usable"] {
            let (holds, reason, message) = condition(&failed, kind);
            assert_eq!((holds, reason.as_str()), (false, "PolicyViolation"));
            assert!(
                message.starts_with(&format!("CredentialPolicy {}-p does not allow", space.namespace)),
                "{message}"
            );
        }
        let suspended = space.token("t", ApiTokenState::Suspended).await;
        assert_eq!(condition(&suspended, "Usable").1, "PolicyViolation");
        space.apply(&token("u", "expiresIn: 1h")).await;
        assert_eq!(condition(&space.token("u", ApiTokenState::Failed).await, "Ready").1, "PolicyViolation");
        assert_eq!(secrets(&space).await, before, "{tight}");
        // Who claims otherwise is not believed for long.
        let forged = Patch::Merge(json!({"status": {"conditions": []}}));
        space.api::<Credential>().patch_status("c", &PatchParams::default(), &forged).await.unwrap();
        not_ready(&space, "c", "PolicyViolation").await;
        verifier.until("/orders", &values[0], 401).await;

        let loosened_at = Instant::now();
        policy.set(&space, json!({})).await;
        for value in &values {
            verifier.until("/orders", value, 200).await;
        }
        space.credential("c", CredentialState::Active).await;
        assert!(loosened_at.elapsed() < HOLDS_WITHIN, "{tight} took {:?}", loosened_at.elapsed());
        space.token("t", ApiTokenState::Active).await;
        space.token("u", ApiTokenState::Active).await;
        assert_eq!(bindings(&space).await, 1);
        // Revoked first, so that its Secret does not wait for garbage collection.
        space.patch::<ApiToken>("u", json!({"spec": {"revoked": true}})).await.unwrap();
        space.token("u", ApiTokenState::Revoked).await;
        space.api::<ApiToken>().delete("u", &DeleteParams::default()).await.unwrap();
        space.until::<ApiToken>("u", |token| token.is_none()).await;
        assert_eq!(secrets(&space).await, before, "{tight}");
    }
    policy.delete().await;
    verifier.stop().await;
}

async fn a_relabelled_namespace_is_judged_by_what_selects_it_now(world: Arc<World>, space: Space) {
    let verifier = Asked::start(&world).await;
    let key = format!("{}/tier", space.namespace);
    let policy = Policy::of(
        &space,
        "p",
        json!({"namespaceSelector": {"matchLabels": {&key: "tin"}}, "types": ["SshKey"]}),
    )
    .await;
    space
        .apply(
            &(with("c", "roles: [{kind: ClusterRole, name: view}]") + "---\n" + &token("t", "expiresIn: 1h")),
        )
        .await;
    space.token("t", ApiTokenState::Active).await;
    let value = space.value("t-token").await;
    for (tier, status, state, bound) in [
        (Some("gold"), 200, CredentialState::Active, 1),
        (Some("tin"), 401, CredentialState::Failed, 0),
        (None, 200, CredentialState::Active, 1),
    ] {
        let changed_at = Instant::now();
        label(&space, &key, tier).await;
        verifier.until("", &value, status).await;
        space.credential("c", state).await;
        assert!(changed_at.elapsed() < HOLDS_WITHIN, "{tier:?} took {:?}", changed_at.elapsed());
        assert_eq!(bindings(&space).await, bound);
    }
    policy.delete().await;
    verifier.stop().await;
}

async fn each_rule_refuses_and_says_what_to_do(_: Arc<World>, space: Space) {
    let policy = Policy::of(
        &space,
        "p",
        json!({
            "types": ["Token", "SshKey"],
            "roles": [{"kind": "ClusterRole", "name": "vi*"}, {"kind": "ClusterRole", "name": "edit", "namespaces": ["kube-public"]}],
            "scopes": ["orders:*"],
            "audiences": ["credential-operator", "https://orders.example/*"],
        }),
    )
    .await;
    let allowed = [
        "scopes: ['orders:read', 'orders:write']",
        "audiences: ['https://orders.example/a']",
        "roles: [{kind: ClusterRole, name: view}, {kind: ClusterRole, name: edit, namespace: kube-public}]",
    ];
    let refused = [
        ("scopes: ['orders:read', stock]", "does not allow the scope stock; remove it from spec.scopes"),
        (
            "audiences: [https://orders.example]",
            "does not allow the audience https://orders.example; set spec.audiences",
        ),
        (
            "roles: [{kind: Role, name: view}]",
            "does not allow the grant of Role view; remove it from spec.roles",
        ),
        ("roles: [{kind: ClusterRole, name: admin}]", "does not allow the grant of ClusterRole admin"),
        (
            "roles: [{kind: ClusterRole, name: view, namespace: kube-public}]",
            "of ClusterRole view in namespace kube-public",
        ),
        (
            "roles: [{kind: ClusterRole, name: view, clusterWide: true}]",
            "of ClusterRole view in the whole cluster",
        ),
    ];
    for (refused, expected) in refused {
        space.apply(&with("c", refused)).await;
        let (failed, message) = not_ready(&space, "c", "PolicyViolation").await;
        assert_eq!(failed.status.as_ref().unwrap().state, Some(CredentialState::Failed));
        assert!(condition(&failed, "Stalled").0 && message.contains(expected), "{refused}: {message}");
        assert_eq!(bindings(&space).await, 0, "{refused}");
        for allowed in allowed {
            space.apply(&with("c", allowed)).await;
            space.credential("c", CredentialState::Active).await;
        }
    }
    // What is of a type that is not allowed is not made.
    space.apply(&with("password", "type: BasicAuth")).await;
    let (_, message) = not_ready(&space, "password", "PolicyViolation").await;
    assert!(message.contains("does not allow type BasicAuth, only [Token, SshKey]"), "{message}");
    for made in ["password-credential"] {
        assert!(space.api::<Secret>().get_opt(made).await.unwrap().is_none());
        assert!(space.api::<ServiceAccount>().get_opt(made).await.unwrap().is_none());
    }
    policy.delete().await;
    space.published("password", 0).await;
}

async fn grants_elsewhere_need_a_policy_that_names_them(_: Arc<World>, space: Space) {
    label(&space, STRICT, Some("")).await;
    let everywhere =
        "roles: [{kind: ClusterRole, name: view}, {kind: ClusterRole, name: view, clusterWide: true}]";
    space.apply(&with("c", everywhere)).await;
    let (_, message) = not_ready(&space, "c", "PolicyViolation").await;
    assert!(message.starts_with("no CredentialPolicy selects this namespace"), "{message}");
    // One that says nothing of roles allows those here.
    let silent = Policy::of(&space, "silent", json!({"maxCredentials": 9})).await;
    let names_it = |found: Option<&Credential>| {
        found.is_some_and(|found| condition(found, "Ready").2.starts_with("CredentialPolicy"))
    };
    space.until::<Credential>("c", names_it).await;
    silent
        .set(&space, json!({"roles": [{"kind": "ClusterRole", "name": "view", "clusterWide": true}]}))
        .await;
    space.credential("c", CredentialState::Active).await;
    assert_eq!(bindings(&space).await, 1);
    // Every policy must allow.
    let another =
        Policy::of(&space, "another", json!({"roles": [{"kind": "ClusterRole", "name": "view"}]})).await;
    not_ready(&space, "c", "PolicyViolation").await;
    another.delete().await;
    space.credential("c", CredentialState::Active).await;
    space.patch::<Credential>("c", json!({"spec": {"roles": []}})).await.unwrap();
    space
        .until::<Credential>("c", |found| found.is_some_and(|found| found.metadata.finalizers.is_none()))
        .await;
    silent.delete().await;
}

async fn tokens_are_issued_as_far_as_policies_allow(_: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("long", "expiresIn: 1y"))).await;
    space.token("long", ApiTokenState::Active).await;
    let value = space.value("long-token").await;
    let policy =
        Policy::of(&space, "p", json!({"tokens": {"maxLifetime": "30d", "lifetimes": ["1h", "30d", "1y"]}}))
            .await;
    space.apply(&token("allowed", "expiresIn: 720h")).await;
    space.token("allowed", ApiTokenState::Active).await;
    for (name, spec, expected) in [
        ("longer", "expiresIn: 1y", "allows a value to live 30d"),
        ("unlisted", "expiresIn: 2h", "allows tokens these lifetimes alone: [1h, 30d, 1y]"),
        ("late", "expiresAt: 2199-01-01T00:00:00Z", "allows a value to live 30d"),
    ] {
        space.apply(&token(name, spec)).await;
        let failed = space.token(name, ApiTokenState::Failed).await;
        let (ready, reason, message) = condition(&failed, "Ready");
        assert!(!ready && reason == "PolicyViolation" && message.contains(expected), "{name}: {message}");
        assert!(condition(&failed, "Stalled").0);
        assert!(space.api::<Secret>().get_opt(&format!("{name}-token")).await.unwrap().is_none());
    }
    // What was issued before lives on; a client secret that would live too long is not drawn.
    space.token("long", ApiTokenState::Active).await;
    assert_eq!(space.value("long-token").await, value);
    space.apply(&with("client", "type: ClientSecret, rotation: {every: 31d}")).await;
    let (_, message) = not_ready(&space, "client", "PolicyViolation").await;
    assert!(message.contains("set rotation.every"), "{message}");
    assert!(space.api::<Secret>().get_opt("client-credential").await.unwrap().is_none());
    space.patch::<Credential>("client", json!({"spec": {"rotation": {"every": "30d"}}})).await.unwrap();
    space.published("client", 0).await;
    for tokens in [json!({"deliveries": ["Sealed"]}), json!({"types": ["ServiceAccount"]})] {
        policy.set(&space, json!({"tokens": tokens})).await;
        let name = format!("by-{}", tokens.as_object().unwrap().keys().next().unwrap().to_lowercase());
        space.apply(&token(&name, "expiresIn: 1h")).await;
        assert_eq!(condition(&space.token(&name, ApiTokenState::Failed).await, "Ready").1, "PolicyViolation");
    }
    policy.delete().await;
    for name in ["longer", "unlisted", "late", "by-deliveries", "by-types"] {
        space.token(name, ApiTokenState::Active).await;
    }
}

async fn absent_and_empty_lists_are_kept_apart(_: Arc<World>, space: Space) {
    let none = json!({"namespaceSelector": {"matchLabels": {"no/namespace": "has-it"}}});
    let mut empty = none.clone();
    for list in ["types", "roles", "scopes", "audiences"] {
        empty[list] = json!([]);
    }
    empty["tokens"] = json!({"lifetimes": [], "deliveries": [], "types": []});
    let mut one = empty.clone();
    for (list, item) in [("types", "Token"), ("scopes", "a"), ("audiences", "b")] {
        one[list] = json!([item]);
    }
    one["roles"] = json!([{"kind": "Role", "name": "a", "namespaces": ["b"]}]);
    one["tokens"] = json!({"lifetimes": ["1h"], "deliveries": ["Secret"], "types": ["Opaque"]});
    for (name, spec) in [("absent", none), ("empty", empty)] {
        let policy = Policy::of(&space, name, one.clone()).await;
        // Nor does taking away the last item make one of the other.
        policy.set(&space, spec.clone()).await;
        // Nor does writing back what was read; the operator may have written the status meanwhile.
        let written = loop {
            let read = policy.api.get(&policy.name).await.unwrap();
            assert_eq!(json!(read.spec), spec);
            match policy.api.replace(&policy.name, &PostParams::default(), &read).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                written => break written.unwrap(),
            }
        };
        assert_eq!((json!(written.spec), written.metadata.generation), (spec, Some(2)));
        policy.delete().await;
    }
    space.apply(include_str!("../../examples/credential-policy.yaml")).await;
    let policies: Api<CredentialPolicy> = Api::all(space.client.clone());
    let example = policies.get("orders").await.unwrap();
    assert_eq!(example.spec.roles.unwrap().len(), 2);
    policies.delete("orders", &DeleteParams::default()).await.unwrap();
}

async fn policies_that_make_no_sense(_: Arc<World>, space: Space) {
    let policy = |spec: &str| {
        format!(
            "apiVersion: credential-operator.io/v1alpha1\nkind: CredentialPolicy\nmetadata: {{name: {}}}\nspec: {{{spec}}}\n",
            space.namespace
        )
    };
    let cases = [
        ("types: [Token]", "spec.namespaceSelector: Required value"),
        ("namespaceSelector: {}, types: [Certificate]", "supported values: \"Token\""),
        (
            "namespaceSelector: {}, roles: [{kind: User, name: a}]",
            "supported values: \"Role\", \"ClusterRole\"",
        ),
        (
            "namespaceSelector: {}, roles: [{kind: Role, name: a, clusterWide: true}]",
            "clusterWide needs kind ClusterRole",
        ),
        ("namespaceSelector: {}, roles: [{kind: Role, name: 'a*b'}]", "write view-* or view"),
        ("namespaceSelector: {}, roles: [{kind: Role, name: a, namespaces: ['team-*']}]", "should match"),
        ("namespaceSelector: {}, scopes: ['*:read']", "write orders:* or orders:read"),
        ("namespaceSelector: {}, scopes: ['with space']", "should match"),
        ("namespaceSelector: {}, audiences: ['https://*.example']", "a * stands for anything at the end"),
        ("namespaceSelector: {}, maxCredentials: -1", "should be greater than or equal to 0"),
        ("namespaceSelector: {}, tokens: {maxLifetime: 1mo}", "should match"),
        ("namespaceSelector: {}, tokens: {lifetimes: [11y]}", "at most ten years"),
        (
            "namespaceSelector: {}, tokens: {deliveries: [Mail]}",
            "supported values: \"Secret\", \"Once\", \"Sealed\"",
        ),
        ("namespaceSelector: {}, tokens: {types: [Jwt]}", "supported values: \"Opaque\", \"ServiceAccount\""),
        ("namespaceSelector: {matchLabels: {a..b/c: d}}", "not a label, so that no namespace could have it"),
        ("namespaceSelector: {matchLabels: {a: 'b c'}}", "not a label, so that no namespace could have it"),
        ("namespaceSelector: {matchExpressions: [{key: a, operator: In}]}", "In and NotIn need values"),
        (
            "namespaceSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
            "Exists and DoesNotExist take none",
        ),
        ("namespaceSelector: {matchExpressions: [{key: 'a b', operator: Exists}]}", "should match"),
    ];
    for (spec, expected) in cases {
        let message = space.refused(&policy(spec)).await;
        assert!(message.contains(expected), "{spec}: {message}");
    }
}
