//! The same for what a credential itself holds.

use std::sync::Arc;

use age::x25519;
use credential_operator::api::{Credential, credential::MaterialStatus};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use super::{HashSet, Stage, holds_any, open, windows};
use crate::support::{Space, World, condition};

crate::tests![
    a_client_secret_is_shown_once_and_otherwise_drawn_anew,
    what_is_deleted_is_drawn_anew_only_by_rotation,
    each_type_is_sealed_but_for_what_is_public,
    the_first_ciphertext_of_material_is_the_one_that_counts,
];

impl Stage {
    async fn apply(&self, name: &str, spec: &Value) {
        let manifest = json!({
            "apiVersion": "credential-operator.io/v1alpha1",
            "kind": "Credential",
            "metadata": {"name": name},
            "spec": spec,
        });
        self.space.apply(&manifest.to_string()).await;
    }

    async fn credential(&self, spec: &Value) -> MaterialStatus {
        self.apply("m", spec).await;
        self.material(0).await
    }

    /// Waits until there is a Secret with the value of that number.
    async fn material(&self, serial: i64) -> MaterialStatus {
        let there = self
            .space
            .until::<Credential>("m", |found| found.is_some_and(|found| Space::is_published(found, serial)));
        there.await.unwrap().status.unwrap().material.unwrap()
    }

    async fn material_delivered(&self, serial: i64) -> Credential {
        self.space.until::<Secret>("m-credential", |secret| secret.is_none()).await;
        let there = self.space.until::<Credential>("m", |found| {
            let status = found.and_then(|found| found.status.as_ref());
            let material = status.and_then(|status| status.material.as_ref());
            status.is_some_and(|status| status.secret.is_none())
                && material.is_some_and(|it| it.serial == Some(serial) && it.delivered_at.is_some())
        });
        there.await.unwrap()
    }

    async fn annotate(&self, name: &str, value: &str) {
        let annotations = json!({format!("credential-operator.io/{name}"): value});
        let patch = json!({"metadata": {"annotations": annotations}});
        self.space.patch::<Credential>("m", patch).await.unwrap();
    }

    async fn client_secret(&self) -> String {
        String::from_utf8(self.space.data("m-credential").await["client-secret"].clone()).unwrap()
    }
}

const ONCE: &str = r#"{
    "type": "ClientSecret",
    "rotation": {"every": "10d", "overlap": "1d"},
    "delivery": {"mode": "Once", "window": "1h"}
}"#;

async fn a_client_secret_is_shown_once_and_otherwise_drawn_anew(world: Arc<World>, space: Space) {
    let mut stage = Stage::start(world, space).await;
    let issued = stage.credential(&serde_json::from_str(ONCE).unwrap()).await;
    let first = stage.client_secret().await;
    stage.verifier.until("", &first, 200).await;
    stage.step(61);
    let delivered = stage.material_delivered(0).await;
    assert_eq!(condition(&delivered, "Ready").1, "Delivered");
    assert_eq!(delivered.status.unwrap().material.unwrap().digest, issued.digest);
    stage.restart_operator().await;
    stage.verifier.until("", &first, 200).await;

    stage.annotate("rotate-requested-at", "now").await;
    let next = stage.material(1).await;
    let second = stage.client_secret().await;
    assert_ne!(first, second);
    for value in [&first, &second] {
        stage.verifier.until("", value, 200).await;
    }
    stage.annotate("acknowledged", &issued.id.unwrap()).await;
    stage.annotate("acknowledged", "1").await;
    assert_eq!(stage.client_secret().await, second);
    stage.annotate("acknowledged", &next.id.unwrap()).await;
    stage.material_delivered(1).await;
    stage.step(26 * 60);
    stage.verifier.until("", &first, 401).await;
    stage.verifier.until("", &second, 200).await;
    // By time, too.
    stage.step(10 * 24 * 60);
    stage.material(2).await;
    let third = stage.client_secret().await;
    stage.verifier.until("", &third, 200).await;
    stage.end().await;
}

async fn what_is_deleted_is_drawn_anew_only_by_rotation(world: Arc<World>, space: Space) {
    let stage = Stage::start(world, space).await;
    let spec = json!({"type": "BasicAuth", "basicAuth": {}, "delivery": {"mode": "Once"}});
    stage.credential(&spec).await;
    let first = stage.space.data("m-credential").await;
    stage.space.api::<Secret>().delete("m-credential", &DeleteParams::default()).await.unwrap();
    stage.material_delivered(0).await;
    stage.space.patch::<Credential>("m", json!({"spec": {"rotation": {"revision": 1}}})).await.unwrap();
    stage.material(1).await;
    assert_ne!(stage.space.data("m-credential").await["password"], first["password"]);
    // It has no public id, so its number stands for it.
    stage.annotate("acknowledged", "1").await;
    stage.material_delivered(1).await;
    stage.end().await;
}

async fn each_type_is_sealed_but_for_what_is_public(world: Arc<World>, space: Space) {
    let stage = Stage::start(world, space).await;
    let key = x25519::Identity::generate();
    let delivery = json!({"mode": "Sealed", "recipients": [key.to_public().to_string()]});
    let sealed: [(&str, Value, &[&str]); 8] = [
        ("ClientSecret", json!({}), &["client-id", "client-secret.age"]),
        ("BasicAuth", json!({"basicAuth": {}}), &["auth.age", "password.age", "username"]),
        ("SshKey", json!({"sshKey": {}}), &["ssh-privatekey.age", "ssh-publickey"]),
        ("Tls", json!({"tls": {"dnsNames": ["a.example"]}}), &["ca.crt", "tls.crt", "tls.key.age"]),
        (
            "ObjectStore",
            json!({"objectStore": {"bucket": "b"}}),
            &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY.age", "BUCKET_NAME"],
        ),
        ("Registry", json!({"registry": {"server": "r.example"}}), &[".dockerconfigjson.age"]),
        ("Opaque", json!({"opaque": {"fields": [{"name": "username"}]}}), &["username.age"]),
        ("Totp", json!({"totp": {}}), &["secret.age", "uri.age"]),
    ];
    let mut secrets = HashSet::new();
    for (kind, options, keys) in sealed {
        let name = format!("m-{}", kind.to_lowercase());
        let mut spec = options;
        spec["type"] = json!(kind);
        spec["delivery"] = delivery.clone();
        stage.apply(&name, &spec).await;
        stage.space.published(&name, 0).await;
        let data = stage.space.data(&format!("{name}-credential")).await;
        assert_eq!(data.keys().collect::<Vec<_>>(), keys, "{kind}");
        for (_, value) in data.iter().filter(|(key, _)| {
            // The address of a TOTP seed has much in it that is none.
            key.strip_suffix(".age").is_some_and(|key| key != "uri")
        }) {
            let opened = open(&key, value).unwrap();
            let hidden = if kind == "ClientSecret" { &opened[17..60] } else { opened.as_str() };
            if !["SshKey", "Tls", "Registry", "BasicAuth"].contains(&kind) {
                secrets.extend(windows(hidden.as_bytes()));
            }
            if kind == "ClientSecret" {
                stage.verifier.until("", &opened, 200).await;
            }
        }
        let secret: Secret = stage.space.api().get(&format!("{name}-credential")).await.unwrap();
        assert_eq!(secret.type_.as_deref(), Some("Opaque"), "{kind}");
    }
    let etcd = stage.world.control_plane.directory().join("etcd");
    assert!(!holds_any(&etcd, &secrets), "etcd has a value in the clear");
    stage.end().await;
}

async fn the_first_ciphertext_of_material_is_the_one_that_counts(world: Arc<World>, space: Space) {
    let mut stage = Stage::start(world, space).await;
    let [key, other] = [(); 2].map(|()| x25519::Identity::generate());
    let delivery =
        |key: &x25519::Identity| json!({"mode": "Sealed", "recipients": [key.to_public().to_string()]});
    let spec = json!({
        "type": "ClientSecret",
        "rotation": {"every": "10d", "overlap": "1d"},
        "delivery": delivery(&key),
    });
    let issued = stage.credential(&spec).await;
    let before = stage.space.data("m-credential").await;
    let first = open(&key, &before["client-secret.age"]).unwrap();
    stage.verifier.until("", &first, 200).await;
    stage.stop_operator().await;
    let mut unsaid: Credential = stage.space.api().get("m").await.unwrap();
    unsaid.status = None;
    stage.space.api::<Credential>().replace_status("m", &PostParams::default(), &unsaid).await.unwrap();
    stage.verifier.until("", &first, 401).await;
    stage.restart_operator().await;
    let adopted = stage.material(0).await;
    assert_eq!((adopted.id, adopted.digest), (issued.id, issued.digest));
    assert_eq!(stage.space.data("m-credential").await, before);
    stage.verifier.until("", &first, 200).await;

    // Others get another one, and there is no overlap with what they cannot open.
    stage.space.patch::<Credential>("m", json!({"spec": {"delivery": delivery(&other)}})).await.unwrap();
    let next = stage.material(1).await;
    assert_eq!(next.previous, None);
    let sealed = stage.space.data("m-credential").await["client-secret.age"].clone();
    assert_eq!(open(&key, &sealed), None);
    stage.verifier.until("", &open(&other, &sealed).unwrap(), 200).await;
    stage.verifier.until("", &first, 401).await;

    // What somebody edits is told, as everywhere, and taken for nothing.
    let planted = json!({"data": {"client-secret.age": "cGxhbnRlZA=="}});
    stage.space.patch::<Secret>("m-credential", planted).await.unwrap();
    let told = stage.space.until::<Credential>("m", |found| {
        found.is_some_and(|found| condition(found, "Ready").1 == "MaterialInvalid")
    });
    assert!(condition(&told.await.unwrap(), "Ready").2.contains("m-credential"));
    stage.end().await;
}
