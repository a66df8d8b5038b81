//! Memory does not grow with the metadata that users write.

use std::{sync::Arc, time::Duration};

use credential_operator::api::{Credential, CredentialState};
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    admission::process::Process,
    support::{DEADLINE, Space, SystemClock, World},
};

crate::tests![one_hundred_megabytes_of_metadata_cost_controller_and_verifier_a_fixed_size_per_object];

const OBJECTS: usize = 100;
/// How many bytes of metadata each of them has.
const SIZE: usize = 1_000_000;
/// How many KiB each object may cost: what is read of its metadata is bounded in `src/client/kinds.rs`.
const EACH: u64 = 64;
/// How many KiB the buffers of connections may use: 32 workers of a controller read answers of 1 MB at a time. Metadata that is kept or
/// buffered whole takes 124 MB and exceeds it.
const BUFFERS: u64 = 72 << 10;

/// The memory limits of the chart, of the controller and of the verifier, in KiB.
fn limits() -> [u64; 2] {
    let values = include_str!("../../charts/credential-operator/values.yaml");
    let values: Value = serde_yaml_ng::from_str(values).unwrap();
    ["controller", "verifier"].map(|part| {
        let limit = values[part]["resources"]["limits"]["memory"].as_str().unwrap();
        limit.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() << 10
    })
}

/// Text that hardly compresses: a linear congruential generator.
fn text(seed: usize, size: usize) -> String {
    let mut state = seed as u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap())
    };
    (0..size).map(|_| next()).collect()
}

/// Metadata of about [`SIZE`] bytes, in another field with each number.
fn large(number: usize) -> (&'static str, Value) {
    let pool = text(number, SIZE);
    let part = |n: usize, of: usize| &pool[n * (SIZE / of)..(n + 1) * (SIZE / of)];
    match number % 4 {
        0 => {
            let label = |n| {
                let text = part(n, 3_000);
                (format!("{}.x/n{n}", &text[..200]), json!(text[200..260]))
            };
            ("labels", (0..3_000).map(label).collect::<Map<_, _>>().into())
        }
        1 => {
            let fields: Map<_, _> = (0..16).map(|n| (format!("f:{}", part(n, 16)), json!({}))).collect();
            let entry = json!({
                "manager": "x", "operation": "Update", "apiVersion": "credential-operator.io/v1alpha1",
                "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": fields},
            });
            ("managedFields", json!([entry]))
        }
        2 => {
            // With the one of the controller many times.
            let others = (0..3_000).map(|n| {
                let text = part(n, 3_000);
                format!("{}.x/{}", &text[..240], &text[240..300])
            });
            let ours = std::iter::repeat_n("credential-operator.io/bindings".to_owned(), 100);
            ("finalizers", others.chain(ours).collect())
        }
        _ => {
            // Garbage collection keeps an object that may have an owner of a kind that it does not know.
            let owner = |n| {
                json!({
                    "apiVersion": "example.com/v1", "kind": "Unknown", "name": part(n, 16), "uid": format!("u{n}"),
                    "controller": n == 15,
                })
            };
            ("ownerReferences", (0..16).map(owner).collect())
        }
    }
}

async fn send(space: &Space, method: &str, path: &str, body: &Value) -> Value {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    serde_json::from_str(&space.client.request_text(request.body(body).unwrap()).await.unwrap()).unwrap()
}

/// Starts a controller and a verifier, has them read everything and see `changes` of the Credentials, and returns the most memory
/// that each of them took, in KiB.
async fn peaks(world: &World, space: &Space, changes: usize) -> [u64; 2] {
    let name = format!("memory-{changes}");
    let verifier = Process::verifier(world, &format!("{name}-verifier")).await;
    let controller = Process::controller(world, &name).await;
    let path = Credential::url_path(&(), Some(&space.namespace));
    for n in 0..changes {
        let change = json!({"spec": {"displayName": format!("Changed {n}")}});
        send(space, "PATCH", &format!("{path}/c{n}"), &change).await;
    }
    let deadline = Instant::now() + 3 * DEADLINE;
    let expected = f64::from(u32::try_from(OBJECTS + changes).unwrap());
    while controller.metric_of("reconciles_total", "kind=\"Credential\"").await < expected {
        assert!(Instant::now() < deadline, "not everything was reconciled: {}", controller.log());
        sleep(Duration::from_millis(100)).await;
    }
    [controller.peak_memory(), verifier.peak_memory()]
}

async fn one_hundred_megabytes_of_metadata_cost_controller_and_verifier_a_fixed_size_per_object(
    world: Arc<World>,
    space: Space,
) {
    let credentials = Credential::url_path(&(), Some(&space.namespace));
    let secrets = Secret::url_path(&(), Some(&space.namespace));
    for n in 0..OBJECTS {
        let credential = json!({
            "apiVersion": "credential-operator.io/v1alpha1", "kind": "Credential", "metadata": {"name": format!("c{n}")},
            "spec": {"displayName": "Test"},
        });
        send(&space, "POST", &credentials, &credential).await;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {
                "name": format!("s{n}"), "labels": {"app.kubernetes.io/managed-by": "credential-operator"},
            },
        });
        send(&space, "POST", &secrets, &secret).await;
    }
    // It creates the keyring, too, without which no verifier is ready.
    let operator = world.operator(SystemClock::shared()).await;
    for n in 0..OBJECTS {
        space.credential(&format!("c{n}"), CredentialState::Active).await;
    }
    operator.stop().await;
    let lean = peaks(&world, &space, 0).await;

    for n in 0..OBJECTS {
        let path = format!("{credentials}/c{n}");
        let mut credential = send(&space, "GET", &path, &Value::Null).await;
        let (field, value) = large(n);
        credential["metadata"][field] = value;
        send(&space, "PUT", &path, &credential).await;
        let annotations = json!({
            "credential-operator.io/attestation": text(n, 80_000),
            "credential-operator.io/made-for": text(n, 80_000),
            "example.com/note": text(n, 80_000),
        });
        let large = json!({"metadata": {"annotations": annotations}});
        send(&space, "PATCH", &format!("{secrets}/s{n}"), &large).await;
    }
    let large = peaks(&world, &space, 8).await;

    for n in (2..OBJECTS).step_by(4) {
        send(&space, "PATCH", &format!("{credentials}/c{n}"), &json!({"metadata": {"finalizers": null}}))
            .await;
    }
    send(&space, "DELETE", &credentials, &Value::Null).await;
    send(&space, "DELETE", &secrets, &Value::Null).await;
    println!(
        "peaks of controller and verifier, in KiB: {lean:?} with small metadata, {large:?} with large metadata"
    );
    let each = EACH * u64::try_from(OBJECTS).unwrap();
    for ((lean, large), limit) in lean.into_iter().zip(large).zip(limits()) {
        assert!(large <= lean + BUFFERS + each, "{large} KiB with large metadata, {lean} KiB without");
        assert!(large <= limit, "{large} KiB, and the chart allows {limit} KiB");
    }
}
