//! What the API server refuses, and what it says.

use std::sync::Arc;

use age::{secrecy::ExposeSecret, x25519};
use credential_operator::api::{ApiToken, ApiTokenState, CredentialState};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams},
};
use serde_json::json;

use crate::support::{Space, World, condition, credential, token};

crate::tests![
    credentials_that_make_no_sense,
    material_that_makes_no_sense,
    material_that_cannot_be_made,
    tokens_that_make_no_sense,
    lives_and_ends_that_make_no_sense,
    deliveries_that_make_no_sense,
    what_is_no_recipient_is_not_repeated,
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
        (with_spec("type: Certificate"), "supported values: \"Token\", \"ClientSecret\""),
        (with_spec("state: Paused"), "supported values: \"Active\", \"Inactive\""),
        (with_spec("expiresAt: 2200-01-01T00:00:00Z"), "must be before the year 2200"),
        (with_spec(&format!("displayName: {}", "x".repeat(129))), "Too long"),
    ];
    for (manifest, expected) in cases {
        let message = space.refused(&manifest).await;
        assert!(message.contains(expected), "{manifest}: {message}");
    }
}

async fn material_that_makes_no_sense(_: Arc<World>, space: Space) {
    let cases = [
        // A block of another type.
        ("type: SshKey, tls: {dnsNames: [a.example]}", "tls goes with type Tls only"),
        ("basicAuth: {}", "basicAuth goes with type BasicAuth only"),
        ("type: BasicAuth, basicAuth: {}, totp: {}", "totp goes with type Totp only"),
        ("rotation: {every: 30d}", "a credential of type Token holds no material"),
        ("secret: {name: a}", "a credential of type Token holds no material"),
        ("delivery: {mode: Once}", "a credential of type Token holds no material"),
        (
            "type: SshKey, delivery: {mode: Once}, provided: {secretRef: {name: a}}",
            "provided material is neither drawn nor rotated",
        ),
        (
            "type: SshKey, rotation: {every: 1h}, delivery: {mode: Once, window: 61m}",
            "delivery.window is longer than rotation.every",
        ),
        ("type: SshKey, delivery: {mode: Sealed}", "mode Sealed needs recipients"),
        ("type: SshKey, rotation: {overlap: 1d}", "overlap goes with type ClientSecret only"),
        (
            "type: ClientSecret, rotation: {every: 1h, overlap: 61m}",
            "overlap is longer than every, but at most two values are valid at a time",
        ),
        ("type: Azure", "set provided.secretRef"),
        ("type: Registry", "set registry.server"),
        ("type: Opaque", "set opaque.fields"),
        (
            "type: SshKey, sshKey: {}, provided: {secretRef: {name: a}}",
            "provided material is neither drawn nor rotated",
        ),
        (
            "type: Tls, rotation: {every: 30d}, provided: {secretRef: {name: a}}",
            "provided material is neither drawn nor rotated",
        ),
        // Lengths and alphabets.
        ("type: BasicAuth, basicAuth: {alphabet: a}", "should be at least 2 chars long"),
        ("type: BasicAuth, basicAuth: {length: 0}", "should be greater than or equal to 8"),
        ("type: BasicAuth, basicAuth: {length: 1000000}", "should be less than or equal to 1024"),
        ("type: Tls, tls: {dnsNames: [10.0.0.1]}", "put it into ipAddresses"),
        ("type: ObjectStore, objectStore: {endpoint: s3.example}", "should match"),
        ("type: ObjectStore, objectStore: {bucket: 'a b'}", "should match"),
        ("type: Opaque, opaque: {fields: [{name: a}]}, secret: {labels: {a..b/c: d}}", "not a label"),
        (
            "type: Opaque, opaque: {fields: [{name: a}]}, secret: {annotations: {a-.b/c: d}}",
            "not an annotation",
        ),
        ("type: BasicAuth, basicAuth: {length: 73}", "looks at 72 characters only"),
        ("type: BasicAuth, basicAuth: {username: 'a:b'}", "should match"),
        ("type: Opaque, opaque: {fields: []}", "should have at least 1 items"),
        ("type: Opaque, opaque: {fields: [{name: a, length: 0}]}", "should be greater than or equal to 8"),
        ("type: Opaque, opaque: {fields: [{name: a}, {name: a}]}", "duplicate entries"),
        ("type: Opaque, opaque: {fields: [{name: a, alphabet: ab, encoding: Hex}]}", "set alphabet"),
        ("type: Opaque, opaque: {fields: [{name: a/b}]}", "should match"),
        ("type: Opaque, opaque: {fields: [{name: ..a}]}", "not the key of a Secret"),
        ("type: Opaque, opaque: {fields: [{name: .}]}", "not the key of a Secret"),
        // Keys and certificates.
        (
            "type: SshKey, sshKey: {algorithm: Rsa, size: 1024}",
            "size goes with algorithm Rsa (2048, 3072 or 4096)",
        ),
        ("type: SshKey, sshKey: {size: 256}", "remove it for Ed25519"),
        ("type: Tls, tls: {dnsNames: [not_a_name]}", "should match"),
        ("type: Tls, tls: {dnsNames: ['*.*.example']}", "should match"),
        ("type: Tls, tls: {ipAddresses: ['1.2.3']}", "not an IP address"),
        ("type: Tls, tls: {ipAddresses: ['10.0.0.256']}", "not an IP address"),
        ("type: Tls, tls: {ipAddresses: ['10.0.0.7', orders]}", "not an IP address"),
        ("type: Tls, tls: {duration: 90}", "expected string"),
        ("type: Tls, tls: {issuer: {secretRef: {name: a, namespace: b}}}", "field not declared in schema"),
        (
            "type: HashedPassword, hashedPassword: {algorithm: Argon2id, cost: 12}",
            "cost goes with algorithm Bcrypt",
        ),
        ("type: HashedPassword, hashedPassword: {cost: 4}", "should be greater than or equal to 10"),
        ("type: Totp, totp: {digits: 7}", "supported values: \"6\", \"8\""),
        // What the Secret wears.
        ("type: SshKey, secret: {labels: {kubernetes.io/a: b}}", "are reserved"),
        ("type: SshKey, secret: {labels: {app.kubernetes.io/managed-by: b}}", "are reserved"),
        ("type: SshKey, secret: {labels: {app.kubernetes.io/created-by: b}}", "are reserved"),
        ("type: SshKey, secret: {annotations: {app.kubernetes.io/part-of: b}}", "are reserved"),
        ("type: SshKey, secret: {annotations: {x.credential-operator.io/a: b}}", "are reserved"),
        ("type: SshKey, secret: {name: Upper}", "should match"),
    ];
    for (spec, expected) in cases {
        let message = space.refused(&with_spec(spec)).await;
        assert!(message.contains(expected), "{spec}: {message}");
    }
}

/// What no schema can tell, the status does; nothing is made.
async fn material_that_cannot_be_made(_: Arc<World>, space: Space) {
    let cases = [
        ("weak", "type: BasicAuth, basicAuth: {length: 8, alphabet: '01'}", "8 bits and could be guessed"),
        ("twice", "type: HelmRepository, helmRepository: {alphabet: aabbcc}", "names a character twice"),
    ];
    for (name, spec, expected) in cases {
        space.apply(&with_spec(spec).replace("name: c}", &format!("name: {name}}}"))).await;
        let failed = space.credential(name, CredentialState::Failed).await;
        let (ready, reason, message) = condition(&failed, "Ready");
        assert!(
            (ready, &*reason) == (false, "InvalidSpec") && message.contains(expected),
            "{reason}: {message}"
        );
        assert!(condition(&failed, "Stalled").0);
        assert!(space.api::<Secret>().get_opt(&format!("{name}-credential")).await.unwrap().is_none());
    }
}

async fn tokens_that_make_no_sense(_: Arc<World>, space: Space) {
    let cases = [
        ("", "set exactly one of expiresIn (a span of time, such as 30d) and expiresAt"),
        ("expiresIn: 1h, expiresAt: 2030-01-01T00:00:00Z", "set exactly one of expiresIn"),
        (
            "expiresAt: 2030-01-01T00:00:00Z, renewBefore: 1d",
            "renewBefore needs expiresIn, the life of each value",
        ),
        ("renewBefore: 1d", "renewBefore needs expiresIn, the life of each value; set expiresIn"),
        ("expiresIn: 1h, renewBefore: 31m", "renewBefore is more than half of expiresIn"),
        ("expiresIn: 2w, renewBefore: 8d", "shorten renewBefore, or give the values a longer life"),
        ("expiresIn: 10y, renewBefore: 522w", "must be at most ten years"),
        ("expiresIn: 1h, renewBefore: 90s", "spec.renewBefore"),
        (
            "type: ServiceAccount, expiresIn: 5m",
            "the API server mints no token for less than ten minutes; set expiresIn to 10m or more",
        ),
        ("type: ServiceAccount, expiresIn: 1h, scopes: [a]", "scopes go with type Opaque"),
        (
            "type: ServiceAccount, expiresIn: 1h, audiences: []",
            "name the audiences, or remove audiences for the API server's own",
        ),
        ("type: Jwt, expiresIn: 1h", "supported values: \"Opaque\", \"ServiceAccount\""),
        ("expiresIn: 1h, ttlAfterExpired: 1h", "ttlAfterExpired needs expiresAt"),
        ("expiresIn: 1h, renewBefore: 5m, ttlAfterExpired: 1h", "set expiresAt too or instead"),
        ("expiresAt: 2030-01-01T00:00:00Z, ttlAfterExpired: 0h", "spec.ttlAfterExpired"),
        ("expiresAt: 2030-01-01T00:00:00Z, ttlAfterExpired: 11y", "must be at most ten years"),
        ("expiresIn: 1h, revoked: false", "revoked is true or absent; remove the field"),
        ("expiresIn: 1h, secret: {name: Not_A_Name}", "should match"),
        (
            "expiresIn: 1h, secret: {labels: {app.kubernetes.io/managed-by: a}}",
            "labels of kubernetes.io, k8s.io",
        ),
        ("expiresIn: 1h, secret: {labels: {k8s.io/a: b}}", "labels of kubernetes.io, k8s.io"),
        (
            "expiresIn: 1h, secret: {annotations: {credential-operator.io/a: b}}",
            "annotations of kubernetes.io",
        ),
        ("expiresIn: 1h, secret: {labels: {app: 'no label value!'}}", "not a label"),
        ("expiresIn: 1h, scopes: [a, a]", "a scope is named twice; name it once"),
        ("expiresIn: 1h, audiences: [a, a]", "an audience is named twice; name it once"),
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
        assert!(message.contains("at most ten years") || message.contains("Too long"), "{life}: {message}");
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

async fn deliveries_that_make_no_sense(_: Arc<World>, space: Space) {
    let recipient = x25519::Identity::generate().to_public().to_string();
    let sealed = format!("{{mode: Sealed, recipients: [{recipient}]}}");
    let many = vec![recipient.as_str(); 17].join(", ");
    let window = "window is longer than expiresIn, the life of the value; shorten it";
    let cases = [
        ("{}", "spec.delivery.mode: Required value"),
        ("{mode: Mail}", "supported values: \"Secret\", \"Once\", \"Sealed\""),
        ("{mode: Once, window: 61m}", window),
        ("{mode: Once, window: 1d}", window),
        ("{mode: Once, window: 30s}", "spec.delivery.window"),
        ("{mode: Once, window: 0m}", "spec.delivery.window"),
        ("{mode: Secret, window: 5m}", "window goes with mode Once only"),
        (&sealed.replace("Sealed", "Sealed, window: 5m"), "window goes with mode Once only"),
        (&sealed.replace("Sealed", "Once"), "recipients go with mode Sealed only"),
        ("{mode: Sealed}", "mode Sealed needs recipients: the public keys that the value is sealed for"),
        ("{mode: Sealed, recipients: []}", "mode Sealed needs recipients"),
        (&format!("{{mode: Sealed, recipients: [{many}]}}"), "must have at most 16 items"),
    ];
    for (delivery, expected) in cases {
        let message = space.refused(&token("t", &format!("expiresIn: 1h, delivery: {delivery}"))).await;
        assert!(message.contains(expected), "{delivery}: {message}");
    }
    let once = "{mode: Once, window: 1h}";
    let changes =
        [("{mode: Secret}", once), (once, "{mode: Secret}"), (once, ""), ("", &sealed), (&sealed, "")];
    for (number, (before, after)) in changes.into_iter().enumerate() {
        let spec = |delivery: &str| {
            let delivery =
                if delivery.is_empty() { String::new() } else { format!(", delivery: {delivery}") };
            token(&format!("t{number}"), &format!("expiresIn: 1h{delivery}"))
        };
        space.apply(&spec(before)).await;
        let message = space.refused(&spec(after)).await;
        assert!(message.contains("delivery.mode is immutable"), "{before} to {after}: {message}");
    }
    // To write out what holds anyway is no change.
    space.apply(&token("plain", "expiresIn: 1h")).await;
    space.apply(&token("plain", "expiresIn: 1h, delivery: {mode: Secret}")).await;
    space.apply(&token("plain", "expiresIn: 1h")).await;
}

/// Somebody puts in a private key, in whatever way.
async fn what_is_no_recipient_is_not_repeated(_: Arc<World>, space: Space) {
    let mut random = ssh_key::rand_core::OsRng;
    let ssh = ssh_key::PrivateKey::random(&mut random, ssh_key::Algorithm::Ed25519).unwrap();
    let ssh = ssh.to_openssh(ssh_key::LineEnding::LF).unwrap();
    let age = x25519::Identity::generate().to_string().expose_secret().to_owned();
    let rsa = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n", "Zm9vYmFy".repeat(400));
    let recipient = x25519::Identity::generate().to_public().to_string();
    let tokens: Api<DynamicObject> =
        Api::namespaced_with(space.client.clone(), &space.namespace, &ApiResource::erase::<ApiToken>(&()));
    let mut object: DynamicObject = serde_yaml_ng::from_str(&token("t", "expiresIn: 1h")).unwrap();
    for private in [age.as_str(), ssh.as_str(), ssh.lines().nth(1).unwrap(), rsa.as_str()] {
        for recipients in [
            json!([private]),
            json!([recipient, private]),
            json!([private, private]),
            json!([format!("{recipient} {private}")]),
            json!([format!("ssh-ed25519 {private}")]),
            json!(private),
            json!([{"key": private}]),
        ] {
            object.data["spec"]["delivery"] = json!({"mode": "Sealed", "recipients": recipients});
            // Not by server-side apply: of a list that is none, that repeats what it is, whatever the schema.
            let refused = tokens.create(&PostParams::default(), &object).await.unwrap_err();
            let message = refused.to_string();
            let part = &private[private.len() / 2..][..12];
            assert!(!message.contains(part), "{message}");
            let wrong_type = !recipients.is_array() || recipients[1].is_null() && recipients[0].is_object();
            let too_long = private.len() > 1_000;
            assert!(
                wrong_type || too_long || message.contains("a recipient is no public key of age or SSH"),
                "{message}"
            );
        }
    }
}

async fn credentials_change_only_in_some_ways(_: Arc<World>, space: Space) {
    space.apply(&with_spec("expiresAt: 2030-01-01T00:00:00Z")).await;
    for changed in ["expiresAt: 2031-01-01T00:00:00Z", "displayName: without an end"] {
        let message = space.refused(&with_spec(changed)).await;
        assert!(message.contains("expiresAt can only be brought forward"), "{changed}: {message}");
    }
    space.apply(&with_spec("expiresAt: 2029-12-31T23:00:00-01:00, displayName: sooner")).await;
    let shown = with_spec("type: SshKey, delivery: {mode: Once}").replace("name: c}", "name: shown}");
    space.apply(&shown).await;
    let message = space.refused(&shown.replace(", delivery: {mode: Once}", "")).await;
    assert!(message.contains("delivery.mode is immutable"), "{message}");
}

async fn tokens_change_only_in_some_ways(_: Arc<World>, space: Space) {
    space.apply(&token("in", "expiresIn: 1h, scopes: [a, b], secret: {name: s}")).await;
    space.apply(&token("at", "expiresAt: 2030-01-01T00:00:00Z")).await;
    space.apply(&token("on", "expiresIn: 1h, renewBefore: 30m")).await;
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
        (
            "in",
            "expiresIn: 1h, renewBefore: 30m, scopes: [a, b], secret: {name: s}",
            "renewBefore is immutable",
        ),
        ("on", "expiresIn: 1h, renewBefore: 20m", "renewBefore is immutable"),
        ("on", "expiresIn: 1h", "renewBefore is immutable"),
        ("on", "expiresIn: 2h, renewBefore: 30m", "expiresIn is immutable"),
    ];
    for (name, rest, expected) in cases {
        let message = space.refused(&token(name, rest)).await;
        assert!(message.contains(expected), "{name} {rest}: {message}");
    }
    let other = token("at", "expiresAt: 2030-01-01T00:00:00Z").replace("{name: c}", "{name: d}");
    assert!(space.refused(&other).await.contains("credentialRef is immutable"));
    space.apply(&token("in", "expiresIn: 1h, scopes: [a], secret: {name: s}")).await;
    space.apply(&token("at", "expiresAt: 2029-01-01T00:00:00Z, scopes: []")).await;
    // What went on and on is given an end, and a nearer one.
    for year in [2031, 2030] {
        let end = format!("expiresIn: 1h, renewBefore: 30m, expiresAt: {year}-01-01T00:00:00Z");
        space.apply(&token("on", &end)).await;
    }
    // How long the object stays after that is for its user to change.
    for ttl in ["ttlAfterExpired: 1h, ", "ttlAfterExpired: 3y, ", ""] {
        let end = format!("{ttl}expiresIn: 1h, renewBefore: 30m, expiresAt: 2030-01-01T00:00:00Z");
        space.apply(&token("on", &end)).await;
    }
    let message = space.refused(&token("on", "expiresIn: 1h, renewBefore: 30m")).await;
    assert!(message.contains("expiresAt can only be brought forward"), "{message}");
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
