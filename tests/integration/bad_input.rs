//! What the API server refuses, and what it says.

use std::sync::Arc;

use credential_operator::api::{ApiTokenState, CredentialState};
use kube::api::DeleteParams;

use crate::support::{Space, World, condition, credential, token};

crate::tests![
    credentials_that_make_no_sense,
    tokens_that_make_no_sense,
    lives_and_ends_that_make_no_sense,
    credentials_change_only_in_some_ways,
    tokens_change_only_in_some_ways,
    a_credential_that_is_being_deleted_issues_nothing,
];

fn with_spec(spec: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: c}}\nspec: {{{spec}}}\n"
    )
}

async fn credentials_that_make_no_sense(_: Arc<World>, space: Space) {
    let seventeen: Vec<_> = (0..17).map(|n| format!("{{kind: ClusterRole, name: r{n}}}")).collect();
    let cases = [
        (credential(&"a".repeat(53)), "the name must have at most 52 characters"),
        (with_spec(&format!("roles: [{}]", seventeen.join(", "))), "must have at most 16 items"),
        (
            with_spec("roles: [{kind: Role, name: a}, {kind: Role, name: a}]"),
            "a role is granted twice with the same target; remove one of the two",
        ),
        (
            with_spec("roles: [{kind: Role, name: a, clusterWide: true}]"),
            "clusterWide needs kind ClusterRole",
        ),
        (
            with_spec("roles: [{kind: ClusterRole, name: a, namespace: b, clusterWide: true}]"),
            "remove either clusterWide or namespace",
        ),
        (with_spec("roles: [{kind: ClusterRole, name: a/b}]"), "not the name of a role"),
        (with_spec("roles: [{kind: ClusterRole, name: '..'}]"), "not the name of a role"),
        (with_spec("roles: [{kind: ClusterRole, name: ''}]"), "should be at least 1 chars long"),
        (with_spec("roles: [{kind: User, name: a}]"), "supported values: \"Role\", \"ClusterRole\""),
        (with_spec("roles: [{kind: Role, name: a, namespace: A_B}]"), "should match"),
        (with_spec("scopes: ['with space']"), "should match"),
        (with_spec("type: Tls"), "supported values: \"Token\""),
        (with_spec("state: Paused"), "supported values: \"Active\", \"Inactive\""),
        (with_spec("expiresAt: 2200-01-01T00:00:00Z"), "must be before the year 2200"),
        (with_spec(&format!("displayName: {}", "x".repeat(129))), "may not be more than 128"),
    ];
    for (manifest, expected) in cases {
        let message = space.refused(&manifest).await;
        assert!(message.contains(expected), "{manifest}: {message}");
    }
}

async fn tokens_that_make_no_sense(_: Arc<World>, space: Space) {
    let cases = [
        ("", "set exactly one of expiresIn (a span of time, such as 30d) and expiresAt"),
        ("expiresIn: 1h, expiresAt: 2030-01-01T00:00:00Z", "set exactly one of expiresIn"),
        ("expiresIn: 1h, revoked: false", "revoked is true or absent; remove the field"),
        ("expiresIn: 1h, secret: {name: Not_A_Name}", "should match"),
        ("expiresIn: 1h, secret: {labels: {app.kubernetes.io/name: a}}", "labels of kubernetes.io, k8s.io"),
        ("expiresIn: 1h, secret: {labels: {k8s.io/a: b}}", "labels of kubernetes.io, k8s.io"),
        (
            "expiresIn: 1h, secret: {annotations: {credential-operator.io/a: b}}",
            "annotations of kubernetes.io",
        ),
        ("expiresIn: 1h, secret: {labels: {app: 'no label value!'}}", "not a label"),
        ("expiresIn: 1h, scopes: [a, a]", "duplicate entries"),
    ];
    for (rest, expected) in cases {
        let message = space.refused(&token("t", rest)).await;
        assert!(message.contains(expected), "{rest}: {message}");
    }
}

async fn lives_and_ends_that_make_no_sense(_: Arc<World>, space: Space) {
    for life in ["0d", "-1h", "1.5h", "", "1mo", "1h30m", "01d"] {
        let message = space.refused(&token("t", &format!("expiresIn: '{life}'"))).await;
        assert!(message.contains("spec.expiresIn"), "{life}: {message}");
    }
    for life in ["99999999y", "9999999y", "11y", "3651d", "522w", "87601h"] {
        let message = space.refused(&token("t", &format!("expiresIn: '{life}'"))).await;
        assert!(
            message.contains("at most ten years") || message.contains("may not be more than 8"),
            "{life}: {message}"
        );
    }
    for end in [
        "9999-12-31T23:59:59Z",
        "2200-01-01T00:00:00Z",
        "2030-02-30T00:00:00Z",
        "2030-13-01T00:00:00Z",
        "2030-01-01T00:00:00",
        "2030-01-01",
        "2030-01-01T00:00:00+02:60",
        "2030-01-01T00:00:00+24:00",
        "2030-01-01T00:00:00.0123456789Z",
        "2030-01-01t00:00:00z",
        "tomorrow",
    ] {
        let message = space.refused(&token("t", &format!("expiresAt: '{end}'"))).await;
        assert!(message.contains("spec.expiresAt"), "{end}: {message}");
    }
}

async fn credentials_change_only_in_some_ways(_: Arc<World>, space: Space) {
    space.apply(&with_spec("expiresAt: 2030-01-01T00:00:00Z")).await;
    for changed in ["expiresAt: 2031-01-01T00:00:00Z", "displayName: without an end"] {
        let message = space.refused(&with_spec(changed)).await;
        assert!(message.contains("expiresAt can only be brought forward"), "{changed}: {message}");
    }
    space.apply(&with_spec("expiresAt: 2029-12-31T23:00:00-01:00, displayName: sooner")).await;
}

async fn tokens_change_only_in_some_ways(_: Arc<World>, space: Space) {
    space.apply(&token("in", "expiresIn: 1h, scopes: [a, b], secret: {name: s}")).await;
    space.apply(&token("at", "expiresAt: 2030-01-01T00:00:00Z")).await;
    let cases = [
        ("in", "expiresIn: 2h, scopes: [a, b], secret: {name: s}", "expiresIn is immutable"),
        (
            "in",
            "expiresAt: 2030-01-01T00:00:00Z, scopes: [a, b], secret: {name: s}",
            "expiresIn is immutable",
        ),
        ("in", "expiresIn: 1h, scopes: [a, b]", "secret.name is immutable"),
        ("in", "expiresIn: 1h, scopes: [a, b], secret: {name: other}", "secret.name is immutable"),
        ("in", "expiresIn: 1h, scopes: [a, c], secret: {name: s}", "scopes may only shrink"),
        ("in", "expiresIn: 1h, secret: {name: s}", "scopes may only shrink"),
        ("at", "expiresAt: 2030-01-01T00:00:01Z", "expiresAt can only be brought forward"),
        ("at", "expiresIn: 1h", "expiresIn is immutable"),
    ];
    for (name, rest, expected) in cases {
        let message = space.refused(&token(name, rest)).await;
        assert!(message.contains(expected), "{name} {rest}: {message}");
    }
    let other = token("at", "expiresAt: 2030-01-01T00:00:00Z").replace("{name: c}", "{name: d}");
    assert!(space.refused(&other).await.contains("credentialRef is immutable"));
    space.apply(&token("in", "expiresIn: 1h, scopes: [a], secret: {name: s}")).await;
    space.apply(&token("at", "expiresAt: 2029-01-01T00:00:00Z, scopes: []")).await;
}

async fn a_credential_that_is_being_deleted_issues_nothing(_: Arc<World>, space: Space) {
    space.apply(&credential("c").replace("{name: c}", "{name: c, finalizers: [example.com/hold]}")).await;
    space.credential("c", CredentialState::Active).await;
    space.apply(&token("before", "expiresIn: 1h")).await;
    space.token("before", ApiTokenState::Active).await;
    let credentials = space.api::<credential_operator::api::Credential>();
    credentials.delete("c", &DeleteParams::default()).await.unwrap();
    let suspended = space.token("before", ApiTokenState::Suspended).await;
    assert_eq!(condition(&suspended, "Usable").1, "CredentialDeleted");
    space.apply(&token("after", "expiresIn: 1h")).await;
    let pending = space.token("after", ApiTokenState::Pending).await;
    assert_eq!(condition(&pending, "Ready").1, "CredentialDeleted");
    let release = serde_json::json!({"metadata": {"finalizers": null}});
    space.patch::<credential_operator::api::Credential>("c", release).await.unwrap();
    space.until::<credential_operator::api::ApiToken>("before", |token| token.is_none()).await;
    space.apply(&credential("c")).await;
    space.token("after", ApiTokenState::Active).await;
}
