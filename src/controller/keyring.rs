//! The keyring's Secret: made when there is none, given a new key on request, freed of keys that nothing names.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::{
    Context, Key, Place,
    kept::CachedKeyring,
    write::{FIELD_MANAGER, RequestError, Trouble, send},
};
use crate::{
    client::Objects,
    domain::{digest, keyring::Key as SigningKey, material, name},
};

/// How often keys that nothing names are looked for.
const LOOK_EVERY: Duration = Duration::from_mins(10);
/// How many objects are looked at before others get a turn.
const AT_ONCE: usize = 256;

/// Reads the keys out of the Secret that the watch shows.
pub fn read(ctx: &Context) {
    let keyring = ctx.keyring_secret.brief(&place(ctx)).map(|CachedKeyring(keyring)| keyring);
    ctx.set_keyring(keyring.unwrap_or_default());
}

/// Sees to it that there is a key, that a rotation which was asked for happened, and that no key is kept in vain.
///
/// # Errors
/// When a write fails.
pub async fn reconcile(ctx: &Context) -> Result<(), RequestError> {
    read(ctx);
    ctx.queue.add_after(&Key::Keyring, LOOK_EVERY);
    let Some(held) = ctx.keyring_secret.get(&place(ctx)) else {
        return create(ctx).await;
    };
    let annotation =
        |key: &str| held.metadata.annotations.as_ref().and_then(|annotations| annotations.get(key)).cloned();
    let keyring = ctx.keyring();
    let requested = annotation(name::ROTATE_ANNOTATION)
        .filter(|asked| Some(asked) != annotation(name::ROTATED_ANNOTATION).as_ref());
    let now = ctx.clock.now();
    let empty = keyring.keys().next().is_none();
    // Of what cannot be read, or stands where we do not look any more, nobody knows which key it names.
    let sees_all =
        !ctx.tokens.has_unreadable() && !ctx.credentials.has_unreadable() && ctx.config.reach.is_everywhere();
    let droppable = if sees_all { keyring.droppable(&in_use(ctx).await, now) } else { Vec::new() };
    let mut data: Map<String, Value> = droppable.into_iter().map(|id| (id, Value::Null)).collect();
    if empty || requested.is_some() {
        let key = ctx.draw(|random| keyring.draw(now, random));
        data.insert(key.id().to_owned(), json!(ByteString(key.expose().to_vec())));
    }
    if data.is_empty() {
        return Ok(());
    }
    for (id, value) in &data {
        info!(key = id, action = if value.is_null() { "drop" } else { "add" }, "the keyring changes");
    }
    let mut metadata = json!({ "uid": held.metadata.uid, "resourceVersion": held.metadata.resource_version });
    if let Some(requested) = requested {
        metadata["annotations"] = json!({ name::ROTATED_ANNOTATION: requested });
    }
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), &ctx.config.namespace);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({ "metadata": metadata, "data": data }));
    let patched =
        send(|| "change the keyring".to_owned(), api.patch(&ctx.config.keyring_secret, &params, &patch))
            .await?;
    ctx.keyring_secret.remember(patched);
    read(ctx);
    Ok(())
}

/// Fails unless we have the keys just as the API server has them.
///
/// # Errors
/// When we have not, and when a read fails.
pub async fn latest(ctx: &Context) -> Result<(), RequestError> {
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), &ctx.config.namespace);
    let found = send(|| "get the keyring".to_owned(), api.get_opt(&ctx.config.keyring_secret)).await?;
    let version = |secret: &Secret| secret.metadata.resource_version.clone();
    let held = ctx.keyring_secret.get(&place(ctx));
    if found.is_some() && held.as_ref().and_then(version) == found.as_ref().and_then(version) {
        return Ok(());
    }
    if let Some(found) = found {
        ctx.keyring_secret.remember(found);
        read(ctx);
    }
    Err(RequestError::Stale { what: "the keyring".to_owned() })
}

async fn create(ctx: &Context) -> Result<(), RequestError> {
    let lost = in_use(ctx).await;
    if !lost.is_empty() {
        warn!(keys = ?lost, "the keyring is gone; tokens under its keys cannot be checked until they are put back");
    }
    let key = ctx.draw(|random| SigningKey::draw(ctx.clock.now(), random));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(ctx.config.keyring_secret.clone()),
            namespace: Some(ctx.config.namespace.clone()),
            ..ObjectMeta::default()
        },
        data: Some([(key.id().to_owned(), ByteString(key.expose().to_vec()))].into()),
        type_: Some(material::OPAQUE.to_owned()),
        ..Secret::default()
    };
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), &ctx.config.namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match send(|| "create the keyring".to_owned(), api.create(&params, &secret)).await {
        Ok(created) => {
            info!(key = key.id(), "made the keyring");
            ctx.keyring_secret.remember(created);
            read(ctx);
            Ok(())
        }
        // Another leader was first; the watch brings what it made.
        Err(error) if error.trouble() == Trouble::Exists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The keys that a status names, or a Secret: one that was just created is in no status yet.
async fn in_use(ctx: &Context) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let stated = ctx.tokens.all().filter_map(|token| token.status);
    let stated = stated.flat_map(|status| [status.digest, status.previous.map(|previous| previous.digest)]);
    let attested = ctx.secrets.all().map(|secret| digest::named_by(&secret.metadata));
    let credentials = ctx.credentials.all().filter_map(|credential| credential.status?.material);
    let material =
        credentials.flat_map(|material| [material.digest, material.previous.map(|previous| previous.digest)]);
    for (looked_at, digest) in stated.chain(attested).chain(material).enumerate() {
        keys.extend(digest.as_deref().and_then(digest::key_id).map(ToOwned::to_owned));
        if looked_at % AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
    keys
}

fn place(ctx: &Context) -> Place {
    Place::new(&ctx.config.namespace, &ctx.config.keyring_secret)
}
