//! Restored backups, and Credentials that are created again after `kubectl delete --cascade=orphan`.

use std::{collections::BTreeMap, sync::Arc};

use credential_operator::api::{ApiToken, ApiTokenState, Credential};
use futures::future::join_all;
use k8s_openapi::api::{
    core::v1::{Secret, ServiceAccount},
    events::v1::Event,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};

use crate::support::{Data, Space, World, token};

crate::tests![
    restored_material_is_adopted,
    material_of_a_credential_that_was_deleted_without_it_is_adopted,
    values_that_are_accepted_are_issued_again,
];

/// A name and a spec for each class of types.
fn specs() -> Vec<(&'static str, &'static str)> {
    vec![
        ("basic", "type: BasicAuth"),
        ("opaque", "type: Opaque, opaque: {fields: [{name: k}, {name: l}]}"),
        ("store", "type: ObjectStore"),
        ("registry", "type: Registry, registry: {server: registry.example.com, username: ci}"),
        ("ssh", "type: SshKey"),
        ("tls", "type: Tls, tls: {dnsNames: [a.example.com]}"),
        ("hashed", "type: HashedPassword"),
        ("rotates", "type: BasicAuth, rotation: {every: 30d, revision: 4}"),
        ("once", "type: BasicAuth, delivery: {mode: Once, window: 1h}"),
        (
            "sealed",
            "type: BasicAuth, delivery: {mode: Sealed, recipients: \
             [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]}",
        ),
    ]
}

fn manifest(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// What a backup tool restores of a Secret.
fn restored(found: Secret) -> Secret {
    let ObjectMeta { name, labels, annotations, .. } = found.metadata;
    Secret { metadata: ObjectMeta { name, labels, annotations, ..ObjectMeta::default() }, ..found }
}

async fn secret(space: &Space, name: &str) -> Secret {
    space.api::<Secret>().get(&format!("{name}-credential")).await.unwrap()
}

/// Deletes a Credential with everything that belongs to it.
async fn delete(space: &Space, name: &str) {
    space.api::<Credential>().delete(name, &DeleteParams::foreground()).await.unwrap();
    space.until::<Credential>(name, |found| found.is_none()).await;
    space.until::<Secret>(&format!("{name}-credential"), |found| found.is_none()).await;
    space.until::<ServiceAccount>(&format!("{name}-credential"), |found| found.is_none()).await;
}

/// Creates the Credential again, and checks that its material is as before, with the same serial.
async fn is_adopted(space: &Space, name: &str, spec: &str, before: &Data) {
    space.apply(&manifest(name, spec)).await;
    let found = space.published(name, 0).await;
    assert_eq!(found.status.as_ref().unwrap().material.as_ref().unwrap().serial, Some(0), "{name}");
    assert!(space.data(&format!("{name}-credential")).await == *before, "{name} has another value");
    let owner = secret(space, name).await.metadata.owner_references.unwrap();
    assert_eq!(owner[0].uid, found.uid().unwrap(), "{name}");
    assert_eq!(reasons(space, name, "Credential").await, ["AdoptedSecret"], "{name}");
    // As every other: a reason for new material is one.
    let is_delayed = name == "hashed";
    if !spec.contains("Once") && !is_delayed {
        let rotate = serde_json::json!({"spec": {"rotation": {"revision": 9}}});
        space.patch::<Credential>(name, rotate).await.unwrap();
        space.published(name, 1).await;
        assert!(space.data(&format!("{name}-credential")).await != *before, "{name} is not rotated");
    }
}

/// The reasons of the events that regard an object.
async fn reasons(space: &Space, name: &str, kind: &str) -> Vec<String> {
    let events = space.api::<Event>().list(&ListParams::default()).await.unwrap();
    let regards = |event: &Event| {
        let regarding = event.regarding.clone().unwrap_or_default();
        regarding.name.as_deref() == Some(name) && regarding.kind.as_deref() == Some(kind)
    };
    events.items.into_iter().filter(regards).filter_map(|event| event.reason).collect()
}

async fn restored_material_is_adopted(_: Arc<World>, space: Space) {
    join_all(specs().into_iter().map(async |(name, spec)| {
        space.apply(&manifest(name, spec)).await;
        space.published(name, 0).await;
        let (backup, before) =
            (restored(secret(&space, name).await), space.data(&format!("{name}-credential")).await);
        delete(&space, name).await;
        let made = space.api::<Secret>().create(&PostParams::default(), &backup).await.unwrap();
        let orphaned = |found: &BTreeMap<String, usize>| found.contains_key("Orphaned");
        until_reported(&space, &format!("{name}-credential"), orphaned).await;
        let kept = secret(&space, name).await;
        assert_eq!(kept.resource_version(), made.resource_version(), "{name} is kept as it is");
        is_adopted(&space, name, spec, &before).await;
    }))
    .await;
}

/// Waits until the events of a Secret are so.
async fn until_reported(space: &Space, secret: &str, is_so: impl Fn(&BTreeMap<String, usize>) -> bool) {
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    loop {
        let mut found = BTreeMap::new();
        for reason in reasons(space, secret, "Secret").await {
            *found.entry(reason).or_default() += 1;
        }
        if is_so(&found) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{secret}: {found:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

async fn material_of_a_credential_that_was_deleted_without_it_is_adopted(_: Arc<World>, space: Space) {
    join_all(specs().into_iter().map(async |(name, spec)| {
        space.apply(&manifest(name, spec)).await;
        space.published(name, 0).await;
        let before = space.data(&format!("{name}-credential")).await;
        space.api::<Credential>().delete(name, &DeleteParams::orphan()).await.unwrap();
        space.until::<Credential>(name, |found| found.is_none()).await;
        space.until::<ServiceAccount>(&format!("{name}-credential"), |found| found.is_none()).await;
        is_adopted(&space, name, spec, &before).await;
    }))
    .await;
}

/// A value could have been revoked since the backup.
async fn values_that_are_accepted_are_issued_again(_: Arc<World>, space: Space) {
    space.apply(&manifest("client", "type: ClientSecret")).await;
    space.published("client", 0).await;
    space.apply(&token("t", "expiresAt: 2035-01-01T00:00:00Z").replace("{name: c}", "{name: client}")).await;
    space.token("t", ApiTokenState::Active).await;
    let secrets = space.api::<Secret>();
    let backups = [secret(&space, "client").await, secrets.get("t-token").await.unwrap()].map(restored);
    let before = [space.data("client-credential").await, space.data("t-token").await];
    delete(&space, "client").await;
    space.until::<ApiToken>("t", |found| found.is_none()).await;
    space.until::<Secret>("t-token", |found| found.is_none()).await;
    for backup in &backups {
        secrets.create(&PostParams::default(), backup).await.unwrap();
    }
    space.apply(&manifest("client", "type: ClientSecret")).await;
    space.apply(&token("t", "expiresAt: 2035-01-01T00:00:00Z").replace("{name: c}", "{name: client}")).await;
    space.published("client", 0).await;
    space.token("t", ApiTokenState::Active).await;
    let after = [space.data("client-credential").await, space.data("t-token").await];
    assert!(before[0] != after[0] && before[1] != after[1]);
}
