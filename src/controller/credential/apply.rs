//! Carries a plan out. Only writes; what to write was decided before.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ServiceAccount,
        rbac::v1::{ClusterRoleBinding, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    api::{Patch, PatchParams, PostParams},
    core::{PartialObjectMeta, PartialObjectMetaExt},
};
use serde_json::json;

use super::{
    material::{self, apply::Done},
    plan::{Observed, Plan, Step, owner, refused},
};
use crate::{
    api::{Credential, CredentialStatus, CredentialType, Reason, credential::ObjectReference},
    client::{Objects, Watched},
    controller::{
        Context, Key, Place,
        cache::Kept,
        events, release, status,
        write::{FIELD_MANAGER, RequestError, Trouble, send, unless_gone},
    },
    domain::{
        binding::{Binding, BindingKey, Owner},
        made_for::MadeFor,
        name,
    },
};

/// Carries out the steps in their order, then writes the status if it differs; tells whether all of it is done. A binding
/// that is refused does not keep the others from being made.
///
/// # Errors
/// The first failure, after all was done that could be.
pub async fn apply(
    ctx: &Context,
    observed: &Observed,
    plan: Plan,
    now: Timestamp,
) -> Result<Done, RequestError> {
    let credential = &observed.credential;
    let mut status = plan.status;
    let mut current = credential.clone();
    let mut refusal = None;
    let mut later = false;
    let mut failed = Ok(());
    for step in plan.steps {
        let ends_access = step.ends_access();
        if !ends_access {
            // Nothing is made or repaired before access has ended.
            std::mem::replace(&mut failed, Ok(()))?;
        }
        match step {
            Step::Say(status) => current = write_status(ctx, &current, *status).await?.unwrap_or(current),
            Step::Refuse(status) => match refuse(ctx, &current, &status).await {
                Ok(written) => current = written.unwrap_or(current),
                Err(error) => failed = failed.and(Err(error)),
            },
            Step::CreateAccount => {
                let account = create_account(ctx, credential).await?;
                if let Some(status) = &mut status {
                    status.service_account = Some(account);
                }
            }
            Step::MendAccount { uid, resource_version } => {
                mend_account(ctx, credential, &uid, &resource_version).await?;
            }
            Step::Material(step) => {
                let issuer = observed.material.as_ref().and_then(|seen| seen.issuer.as_ref());
                match material::apply::apply(ctx, credential, issuer, step, status.as_mut()).await {
                    Ok(Done::Yes) => {}
                    // What was planned to be said speaks of what is not there yet.
                    Ok(Done::Later) => later = true,
                    // It is reported. Waiting for the finalizers of others must not delay the rest.
                    Err(error @ RequestError::Held { .. }) => {
                        refusal.get_or_insert(error);
                    }
                    Err(error) if ends_access => failed = failed.and(Err(error)),
                    Err(error) if matches!(error.trouble(), Trouble::Refused { .. }) => {
                        refusal.get_or_insert(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            Step::AddFinalizer => current = add_finalizer(ctx, &current).await?.unwrap_or(current),
            Step::RemoveFinalizer => {
                current = remove_finalizer(ctx, &owner(credential)).await?.unwrap_or(current);
            }
            Step::DeleteBinding { key, uid } => failed = failed.and(delete_binding(ctx, &key, &uid).await),
            Step::CreateBinding(binding) => match create_binding(ctx, *binding).await {
                Err(error) if matches!(error.trouble(), Trouble::Refused { .. }) => {
                    refusal.get_or_insert(error);
                }
                other => other?,
            },
        }
    }
    failed?;
    if later && let Some(status) = &mut status {
        super::plan::put_off(credential, status, now);
    }
    if let (Some(planned), Some(Trouble::Refused { reason, message })) =
        (status.take_if(|_| refusal.is_some()), refusal.as_ref().map(RequestError::trouble))
    {
        status = Some(refused(credential, planned, reason, &what_to_do(reason, &message), now));
    }
    if let Some(status) = status {
        let written = write_status(ctx, &current, status).await?;
        // What is still being drawn has not failed.
        if let Some(written) = written.filter(|_| !later) {
            events::of_credential(ctx, &current, &written, now).await;
        }
    }
    refusal.map_or(Ok(if later { Done::Later } else { Done::Yes }), Err)
}

/// The server's words, and what a person can do about them.
#[must_use]
pub fn what_to_do(reason: Reason, message: &str) -> String {
    let advice = match reason {
        Reason::RoleNotBindable => {
            "give the operator the verb bind on that role, or remove the role from the credential"
        }
        Reason::RoleNotFound => "create the role, or remove it from the credential",
        Reason::InvalidSpec | Reason::MaterialInvalid => "nothing was changed",
        Reason::QuotaExceeded => "raise the quota or delete what is not needed",
        _ => "it is tried again at least once a minute",
    };
    format!("{message}; {advice}")
}

/// Writes the status if it differs from what is stored; returns what was written.
///
/// # Errors
/// When the write fails, also because the object changed meanwhile.
pub async fn write_status(
    ctx: &Context,
    credential: &Credential,
    status: CredentialStatus,
) -> Result<Option<Credential>, RequestError> {
    if credential.status.as_ref() == Some(&status) {
        return Ok(None);
    }
    let counted = credential.status.as_ref().is_none_or(|before| before.tokens != status.tokens);
    let api: Objects<Credential> = Objects::namespaced(ctx.client.clone(), Place::of(credential).namespace());
    let written = status::replace(&api, &credential.metadata, &credential.status, &status).await?;
    Ok(note_status(ctx, credential, written, counted))
}

/// Reports in the status that a policy refuses the values of the credential. Returns what was written.
async fn refuse(
    ctx: &Context,
    credential: &Credential,
    status: &CredentialStatus,
) -> Result<Option<Credential>, RequestError> {
    let api: Objects<Credential> = Objects::namespaced(ctx.client.clone(), Place::of(credential).namespace());
    let written = status::refuse(&api, &credential.metadata, &credential.status, status).await?;
    Ok(note_status(ctx, credential, written, false))
}

fn note_status(
    ctx: &Context,
    credential: &Credential,
    written: Option<Credential>,
    counted: bool,
) -> Option<Credential> {
    if let Some(written) = &written {
        if counted {
            ctx.counted(written);
        }
        // The echo of this write is no change to the cache, so nobody else asks for the count.
        let place = Place::of(credential);
        ctx.count_policies_soon(place.namespace(), Some(&credential.brief()), Some(&written.brief()));
        ctx.credentials.remember(written.clone());
    }
    written
}

async fn create_account(ctx: &Context, credential: &Credential) -> Result<ObjectReference, RequestError> {
    let owner = owner(credential);
    let place = Place::new(&owner.namespace, name::service_account(&owner.name));
    let made_for = MadeFor::new(&owner.reference(), place.to_string());
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(place.name().to_owned()),
            namespace: Some(place.namespace().to_owned()),
            annotations: Some([(name::MADE_FOR_ANNOTATION.to_owned(), made_for.text())].into()),
            labels: Some([(name::MANAGED_BY_LABEL.to_owned(), name::MANAGED_BY.to_owned())].into()),
            owner_references: Some(vec![owner.reference()]),
            ..ObjectMeta::default()
        },
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    };
    let api: Objects<ServiceAccount> = Objects::namespaced(ctx.client.clone(), &owner.namespace);
    let created = send(|| format!("create ServiceAccount {place}"), api.create(&post(), &account)).await?;
    let uid = created.metadata.uid.clone().unwrap_or_default();
    let version = created.metadata.resource_version.clone().unwrap_or_default();
    ctx.accounts.remember(created.metadata.into_response_partial());
    // The proof names the UID. Without it the account is still used, but never deleted as an orphan.
    mend_account(ctx, credential, &uid, &version).await?;
    ctx.wake_minted(&Key::credential(credential));
    if credential.spec.credential_type == CredentialType::Kubeconfig {
        ctx.queue.add(Key::credential(credential));
    }
    Ok(ObjectReference { name: place.name().to_owned(), uid })
}

async fn mend_account(
    ctx: &Context,
    credential: &Credential,
    uid: &str,
    resource_version: &str,
) -> Result<(), RequestError> {
    let owner = owner(credential);
    let place = Place::new(&owner.namespace, name::service_account(&owner.name));
    let mut metadata = json!({
        "uid": uid,
        "resourceVersion": resource_version,
        "labels": { name::MANAGED_BY_LABEL: name::MANAGED_BY },
        "ownerReferences": [owner.reference()],
    });
    if let Some(key) = ctx.signing_key() {
        let made_for = MadeFor::new(&owner.reference(), place.to_string()).signed_as(&key, uid);
        metadata["annotations"] = json!({ name::MADE_FOR_ANNOTATION: made_for.text() });
    }
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let api: Objects<ServiceAccount> = Objects::namespaced(ctx.client.clone(), &owner.namespace);
    let mended: PartialObjectMeta<ServiceAccount> = send(
        || format!("repair ServiceAccount {place}"),
        api.patch_metadata(place.name(), &patching(), &patch),
    )
    .await?;
    ctx.accounts.remember(mended);
    ctx.wake_minted(&Key::credential(credential));
    Ok(())
}

/// Holds the credential's deletion, whatever else of it is edited meanwhile. `None` where it is gone.
async fn add_finalizer(ctx: &Context, credential: &Credential) -> Result<Option<Credential>, RequestError> {
    let Owner { namespace, name, uid } = owner(credential);
    let objects = Objects::<Credential>::namespaced(ctx.client.clone(), &namespace);
    let what = || format!("add the finalizer of Credential {namespace}/{name}");
    let has_any = credential.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty());
    let test = |path: &str, value| json!({ "op": "test", "path": path, "value": value });
    let patch = if has_any {
        json!([
            test("/metadata/uid", json!(uid)),
            {"op": "add", "path": "/metadata/finalizers/-", "value": name::FINALIZER},
        ])
    } else {
        json!([
            test("/metadata/uid", json!(uid)),
            test("/metadata/finalizers", json!(null)),
            {"op": "add", "path": "/metadata/finalizers", "value": [name::FINALIZER]},
        ])
    };
    let patched = unless_gone(send(what, objects.json_patch(&name, &patching(), &patch)).await)?;
    Ok(remember(ctx, patched))
}

/// The credential as it is after a write, if it is readable.
fn remember(ctx: &Context, written: Option<Watched<Credential>>) -> Option<Credential> {
    let Watched(Ok(written)) = written? else { return None };
    if written.metadata.deletion_timestamp.is_none() {
        ctx.credentials.remember(written.clone());
    }
    Some(written)
}

async fn create_binding(ctx: &Context, binding: Binding) -> Result<(), RequestError> {
    let key = binding.key();
    let what = || format!("create {key}");
    let role = format!("{} {}", binding.role_ref.kind, binding.role_ref.name);
    let created = if let Some(namespace) = &key.namespace {
        let api: Objects<RoleBinding> = Objects::namespaced(ctx.client.clone(), namespace);
        send(what, api.create(&post(), &binding.into()))
            .await
            .map(|created| ctx.role_bindings.remember(created))
    } else {
        let api: Objects<ClusterRoleBinding> = Objects::all(ctx.client.clone());
        send(what, api.create(&post(), &binding.into()))
            .await
            .map(|created| ctx.cluster_role_bindings.remember(created))
    };
    created.map_err(|error| error.into_not_bound(role))
}

/// Deletes the binding with this UID, also if finalizers keep it, and evicts it from the cache.
///
/// # Errors
/// When a request fails, also because another binding has the name.
pub async fn delete_binding(ctx: &Context, key: &BindingKey, uid: &str) -> Result<(), RequestError> {
    unbind(ctx, key, uid).await?;
    let place = Place::new(key.namespace.clone().unwrap_or_default(), key.name.clone());
    match key.namespace {
        Some(_) => ctx.role_bindings.forget(&place, uid),
        None => ctx.cluster_role_bindings.forget(&place, uid),
    }
    Ok(())
}

/// The same, but leaves it to the watch to evict the binding.
///
/// # Errors
/// When a request fails, also because another binding has the name.
pub async fn unbind(ctx: &Context, key: &BindingKey, uid: &str) -> Result<(), RequestError> {
    let (client, name, what) = (ctx.client.clone(), key.name.as_str(), key.to_string());
    match &key.namespace {
        Some(namespace) => {
            let bindings: Objects<RoleBinding> = Objects::namespaced(client, namespace);
            release::delete(&bindings, name, uid, &what).await
        }
        None => release::delete(&Objects::<ClusterRoleBinding>::all(client), name, uid, &what).await,
    }
}

/// How many finalizers one patch removes. The API server takes 10,000 operations in a patch.
const REMOVED_AT_ONCE: usize = 4_000;

/// Removes our finalizer from the credential of this UID, which need not be readable, while others edit its other fields. The API
/// server stores a finalizer as often as somebody writes it, so all of them are removed.
///
/// # Errors
/// When a request fails, also because other finalizers changed meanwhile.
pub async fn remove_finalizer(ctx: &Context, owner: &Owner) -> Result<Option<Credential>, RequestError> {
    let Owner { namespace, name, uid } = owner;
    let objects = Objects::<Credential>::namespaced(ctx.client.clone(), namespace);
    let what = || format!("remove the finalizer of Credential {namespace}/{name}");
    let mut left = None;
    loop {
        let all = send(what, objects.finalizers(name, uid)).await?;
        let ours = all.iter().enumerate().filter(|(_, finalizer)| *finalizer == name::FINALIZER);
        let ours: Vec<_> = ours.map(|(index, _)| index).collect();
        if ours.is_empty() {
            return Ok(left);
        }
        // From the last to the first, so that no removal moves the next one.
        let remove = ours.iter().rev().take(REMOVED_AT_ONCE).flat_map(|index| {
            let path = format!("/metadata/finalizers/{index}");
            [
                json!({"op": "test", "path": path, "value": name::FINALIZER}),
                json!({"op": "remove", "path": path}),
            ]
        });
        let test = json!({"op": "test", "path": "/metadata/uid", "value": uid});
        let operations: Vec<_> = std::iter::once(test).chain(remove).collect();
        let patched = send(what, objects.json_patch(name, &patching(), &json!(operations))).await;
        left = remember(ctx, unless_gone(patched)?);
        if ours.len() <= REMOVED_AT_ONCE {
            return Ok(left);
        }
    }
}

fn patching() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}
