//! Deletes a Secret that the operator created, and overwrites its values if a finalizer delays the deletion.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{api::PatchParams, core::PartialObjectMetaExt};
use serde_json::json;

use super::{
    Context, Place, release,
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

/// Deletes the Secret at `place` if it has this UID and, if one is given and it is not `minted`, this resource version.
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
    let what = format!("Secret {place}");
    if minted {
        release::delete(&secrets, place.name(), uid, &what).await?;
        ctx.secrets.forget(place, uid);
        return Ok(());
    }
    let params = delete_only(uid, resource_version);
    let deleted = send(|| format!("delete {what}"), secrets.delete(place.name(), &params)).await;
    let Some(Deleted::Held(held)) = unless_gone(deleted)? else {
        ctx.secrets.forget(place, uid);
        return Ok(());
    };
    let finalizers = held.metadata().finalizers.clone().unwrap_or_default();
    if let Watched(Ok(held)) = *held {
        overwrite(&secrets, place, uid, &held).await?;
        // The watch may lag behind and show the Secret as not being deleted.
        ctx.secrets.remember(held.metadata.into_response_partial());
    }
    Err(RequestError::Held { place: place.to_string(), finalizers })
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
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    unless_gone(send(what, secrets.json_patch(place.name(), &params, &operations)).await).map(drop)
}

fn replacement(key: &str) -> &'static [u8] {
    if key == registry::KEY { OVERWRITTEN_JSON } else { OVERWRITTEN }
}
