//! Deletes a Secret that the operator created, and overwrites or invalidates its value if a finalizer delays the deletion.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{api::PatchParams, core::PartialObjectMetaExt};
use serde_json::json;
use tracing::info;

use super::{
    Context, Place,
    write::{FIELD_MANAGER, RequestError, delete_only, send, unless_gone},
};
use crate::{
    client::{Deleted, Objects, Watched},
    domain::material::registry,
};

/// Replaces each value of a Secret whose deletion is delayed by finalizers.
const OVERWRITTEN: &[u8] = b"deleted";
/// Replaces the value of such a Secret of type `kubernetes.io/dockerconfigjson`, which must be JSON.
const OVERWRITTEN_JSON: &[u8] = b"{}";

/// Deletes the Secret at `place` if it has this UID and, if one is given, this resource version.
///
/// The API server accepts a token that it `minted` for another 60 s if a finalizer delays the deletion of its Secret. The
/// operator owns the Secret, so all finalizers are removed from a minted Secret. The values of any other Secret are
/// overwritten, unless it is immutable.
///
/// # Errors
/// When a request fails, and [`RequestError::Held`] while finalizers delay the deletion of the Secret.
pub async fn delete(
    ctx: &Context,
    place: &Place,
    uid: &str,
    resource_version: Option<&str>,
    minted: bool,
) -> Result<(), RequestError> {
    let secrets: Objects<Secret> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let params = delete_only(uid, resource_version);
    let delete =
        || async { send(|| format!("delete Secret {place}"), secrets.delete(place.name(), &params)).await };
    let mut deleted = delete().await;
    if minted && deleted.as_ref().is_err_and(RequestError::is_too_large) {
        // The time of deletion that a Secret with finalizers gets does not fit into it.
        release(&secrets, place, uid).await?;
        deleted = delete().await;
    }
    let held = match unless_gone(deleted)? {
        Some(Deleted::Held(held)) => held,
        Some(Deleted::Gone) | None => {
            ctx.secrets.forget(place, uid);
            return Ok(());
        }
    };
    let released = if minted { release(&secrets, place, uid).await } else { Ok(false) };
    if let Ok(true) = released {
        ctx.secrets.forget(place, uid);
        return Ok(());
    }
    let finalizers = held.metadata().finalizers.clone().unwrap_or_default();
    if let Watched(Ok(held)) = *held {
        overwrite(&secrets, place, uid, &held).await?;
        // The watch may lag behind and show the Secret as not being deleted.
        ctx.secrets.remember(held.metadata.into_response_partial());
    }
    released?;
    Err(RequestError::Held { place: place.to_string(), finalizers, minted })
}

/// Removes every finalizer of the Secret with this UID, so that the API server deletes it. Returns whether it did.
async fn release(secrets: &Objects<Secret>, place: &Place, uid: &str) -> Result<bool, RequestError> {
    let operations = json!([
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "add", "path": "/metadata/finalizers", "value": []},
    ]);
    let what = || format!("remove the finalizers of Secret {place}");
    unless_gone(send(what, secrets.json_patch(place.name(), &patching(), &operations)).await)?;
    info!(%place, "removed the finalizers of a Secret that must be deleted");
    Ok(true)
}

/// Overwrites the values of a Secret that is being deleted, unless they are already overwritten or the Secret is immutable.
async fn overwrite(
    secrets: &Objects<Secret>,
    place: &Place,
    uid: &str,
    held: &Secret,
) -> Result<(), RequestError> {
    let values = held.data.iter().flatten();
    let overwritten: BTreeMap<_, _> =
        values.clone().map(|(key, _)| (key.clone(), ByteString(replacement(key).to_vec()))).collect();
    if held.immutable == Some(true) || values.eq(&overwritten) {
        return Ok(());
    }
    let operations = json!([
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "add", "path": "/data", "value": overwritten},
    ]);
    let what = || format!("overwrite the values of Secret {place}");
    unless_gone(send(what, secrets.json_patch(place.name(), &patching(), &operations)).await).map(drop)
}

fn replacement(key: &str) -> &'static [u8] {
    if key == registry::KEY { OVERWRITTEN_JSON } else { OVERWRITTEN }
}

fn patching() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}
