//! Deletes objects that grant access and that the operator owns, also if finalizers of other controllers keep them.

use kube::api::PatchParams;
use serde_json::json;
use tracing::info;

use super::write::{FIELD_MANAGER, RequestError, delete_only, send, unless_gone};
use crate::client::{Deleted, Objects, Readable};

/// Deletes the object with this name and UID, and removes its finalizers if they delay or prevent the deletion. `what` is its
/// kind, namespace and name.
///
/// # Errors
/// When a request fails, also because another object has the name, or another client adds a finalizer meanwhile.
pub async fn delete<K: Readable>(
    objects: &Objects<K>,
    name: &str,
    uid: &str,
    what: &str,
) -> Result<(), RequestError> {
    match delete_once(objects, name, uid, what).await {
        Ok(Some(Deleted::Held(_))) => return remove_finalizers(objects, name, uid, what).await,
        // The deletion timestamp that an object with finalizers gets does not fit into it.
        Err(error) if error.is_too_large() => remove_finalizers(objects, name, uid, what).await?,
        deleted => return deleted.map(drop),
    }
    match delete_once(objects, name, uid, what).await? {
        Some(Deleted::Held(_)) => Err(RequestError::Stale { what: what.to_owned() }),
        Some(Deleted::Gone) | None => Ok(()),
    }
}

async fn delete_once<K: Readable>(
    objects: &Objects<K>,
    name: &str,
    uid: &str,
    what: &str,
) -> Result<Option<Deleted<K>>, RequestError> {
    let params = delete_only(uid, None);
    unless_gone(send(|| format!("delete {what}"), objects.delete(name, &params)).await)
}

async fn remove_finalizers<K: Readable>(
    objects: &Objects<K>,
    name: &str,
    uid: &str,
    what: &str,
) -> Result<(), RequestError> {
    let operations = json!([
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "add", "path": "/metadata/finalizers", "value": []},
    ]);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = objects.json_patch(name, &params, &operations);
    unless_gone(send(|| format!("remove the finalizers of {what}"), patched).await)?;
    info!(object = what, "removed the finalizers of an object that must be deleted");
    Ok(())
}
