//! What there is about a `Credential`. Only reads, and in the common case none: the watches have shown it all.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::api::ObjectMeta;

use super::{
    material::{self, SecretSeen},
    plan::{AccountSeen, Observed, Tokens, owner, owner_of},
};
use crate::{
    api::{ApiTokenState, Credential},
    client::Objects,
    controller::{
        Context, Key, Place,
        write::{RequestError, send},
    },
    domain::{
        binding::{Binding, BindingKey, Owner, Ownership, controller, is_of_kind},
        made_for::MadeFor,
        name,
        reach::EVERYWHERE,
    },
};

/// Looks at a credential and all that belongs to it.
///
/// # Errors
/// When a read fails.
pub async fn observe(ctx: &Context, credential: &Credential) -> Result<Observed, RequestError> {
    let account = account(ctx, credential).await?;
    // Garbage collection takes an account away whose credential is gone, and a watch that lags has us make it again.
    if account == AccountSeen::Absent && ctx.saw_vanish(&Key::credential(credential)) {
        latest(ctx, &credential.metadata).await?;
    }
    let material = material::observe::observe(ctx, credential).await?;
    let unfilled = material.as_ref().is_some_and(|seen| matches!(seen.secret, SecretSeen::Absent));
    let filled_before = credential.status.as_ref().is_some_and(|status| status.material.is_some());
    if unfilled && (filled_before || ctx.saw_vanish(&Key::credential(credential))) {
        // What is drawn now might have been drawn before, or be under another name, or not be wished any more.
        unchanged(ctx, credential).await?;
    }
    Ok(Observed {
        policy: ctx.judge(credential),
        out_of_reach: credential
            .status
            .as_ref()
            .map(|status| out_of_reach(ctx, &status.bound_in))
            .unwrap_or_default(),
        ended: ctx.has_ended(credential),
        account,
        material,
        bindings: bindings(ctx, credential).await?,
        tokens: ctx.may_count(credential).then(|| count(ctx, credential)),
        credential: credential.clone(),
    })
}

/// Of these places where roles are bound, those that cannot be seen. What was in a namespace went with it.
pub fn out_of_reach(ctx: &Context, bound_in: &[String]) -> Vec<String> {
    let unseen = bound_in.iter().filter(|place| {
        !ctx.config.reach.has_place(place)
            && (*place == EVERYWHERE || ctx.namespaces.has(&Place::new("", place.as_str())))
    });
    unseen.cloned().collect()
}

async fn account(ctx: &Context, credential: &Credential) -> Result<AccountSeen, RequestError> {
    let place = Place::of(credential);
    let place = Place::new(place.namespace(), name::service_account(place.name()));
    if let Some(held) = ctx.accounts.get(&place) {
        return Ok(judge(ctx, credential, &held.metadata));
    }
    let recorded = credential.status.as_ref().is_some_and(|status| status.service_account.is_some());
    if !recorded && !ctx.must_look(&Key::credential(credential)) {
        return Ok(AccountSeen::Absent);
    }
    let api: Objects<ServiceAccount> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let found = send(|| format!("get ServiceAccount {place}"), api.get_metadata_opt(place.name())).await?;
    Ok(found.map_or(AccountSeen::Absent, |found| judge(ctx, credential, &found.metadata)))
}

fn judge(ctx: &Context, credential: &Credential, found: &ObjectMeta) -> AccountSeen {
    if found.deletion_timestamp.is_some() {
        return AccountSeen::Terminating;
    }
    let reference = controller(found);
    let recorded = credential.status.as_ref().and_then(|status| status.service_account.as_ref());
    let owned = reference.is_some_and(|owner| Some(&owner.uid) == credential.metadata.uid.as_ref());
    let recorded = reference.is_none() && recorded.map(|account| &account.uid) == found.uid.as_ref();
    if owned || recorded {
        let labelled = found
            .labels
            .iter()
            .flatten()
            .any(|(key, value)| key == name::MANAGED_BY_LABEL && value == name::MANAGED_BY);
        // One that is not signed, as in 0.2, or by a key that is gone, is signed while it is known to be ours.
        let signed = ctx.signing_key().is_none()
            || MadeFor::is_proven(found, &super::plan::owner(credential).reference(), &ctx.keyring());
        return AccountSeen::Ours {
            uid: found.uid.clone().unwrap_or_default(),
            resource_version: found.resource_version.clone().unwrap_or_default(),
            intact: owned && labelled && signed,
        };
    }
    let predecessors = reference.is_some_and(|owner| {
        is_of_kind(owner, "Credential") && Some(&owner.name) == credential.metadata.name.as_ref()
    });
    if predecessors { AccountSeen::Predecessors } else { AccountSeen::Foreign }
}

async fn bindings(ctx: &Context, credential: &Credential) -> Result<Vec<Binding>, RequestError> {
    let place = Place::of(credential);
    let owner = owner(credential);
    let wished = owner.bindings(&credential.spec.roles);
    // Once our finalizer is off, nobody looks again; a label that was taken off meanwhile would hide a binding for good.
    let finalizers = credential.metadata.finalizers.iter().flatten();
    let last_chance = credential.metadata.deletion_timestamp.is_some()
        && finalizers.into_iter().any(|finalizer| finalizer == name::FINALIZER);
    let mut found: BTreeMap<BindingKey, Binding> = ctx.bindings_for(&place);
    for key in wished.keys() {
        if found.contains_key(key) || !ctx.config.reach.has_binding(key) {
            continue;
        }
        // One of the name, though it does not say that it is for this credential.
        let mut held = ctx.binding(key);
        if held.is_none() && (last_chance || ctx.must_look(&Key::credential(credential))) {
            held = look(ctx, key).await?;
        }
        found.extend(held.map(|held| (key.clone(), held)));
    }
    // What looks like a predecessor's, and is about to be deleted for it, might be a successor's; and what is missing
    // and is about to be made again might have been taken away for a reason that the watch has not shown yet.
    let missing = wished.keys().any(|key| !found.contains_key(key));
    let missing = missing && ctx.saw_vanish(&Key::credential(credential));
    if missing || found.values().any(|found| owner.ownership(found) == Ownership::Predecessors) {
        latest(ctx, &credential.metadata).await?;
    }
    Ok(found.into_values().collect())
}

/// The metadata of the credential; fails unless the API server has it as it was shown to us, but for its status.
///
/// # Errors
/// When it has it otherwise, or does not answer.
pub async fn latest(ctx: &Context, shown: &ObjectMeta) -> Result<ObjectMeta, RequestError> {
    let Owner { namespace, name, .. } = owner_of(shown);
    let place = Place::new(namespace, name);
    let api: Objects<Credential> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let found = send(|| format!("get Credential {place}"), api.get_metadata_opt(place.name())).await?;
    let found = found.map(|found| found.metadata).filter(|found| is_same(found, shown));
    found.ok_or_else(|| RequestError::Stale { what: format!("Credential {place}") })
}

/// Fails unless the API server has the credential as it was shown to us, its status included. Edits of other metadata do
/// not count: an author who repeats them would delay what must end. Whether a request in an annotation was answered, the
/// status says.
///
/// # Errors
/// When it has it otherwise, or does not answer.
pub async fn unchanged(ctx: &Context, credential: &Credential) -> Result<(), RequestError> {
    let place = Place::of(credential);
    let objects = Objects::<Credential>::namespaced(ctx.client.clone(), place.namespace());
    let found = send(|| format!("get Credential {place}"), objects.get_opt(place.name())).await?;
    let is_it = |found: &Credential| {
        is_same(&found.metadata, &credential.metadata) && found.status == credential.status
    };
    if found.as_ref().is_some_and(is_it) {
        return Ok(());
    }
    if let Some(found) = found {
        ctx.credentials.remember(found);
    }
    Err(RequestError::Stale { what: format!("Credential {place}") })
}

/// Whether both are of the same object, and say the same of what the controller goes by.
fn is_same(found: &ObjectMeta, shown: &ObjectMeta) -> bool {
    found.uid == shown.uid
        && found.generation == shown.generation
        && found.deletion_timestamp.is_some() == shown.deletion_timestamp.is_some()
}

/// The binding there, as the API server has it.
///
/// # Errors
/// When it does not answer.
pub async fn look(ctx: &Context, key: &BindingKey) -> Result<Option<Binding>, RequestError> {
    let what = || format!("get {key}");
    if let Some(namespace) = &key.namespace {
        let api: Objects<RoleBinding> = Objects::namespaced(ctx.client.clone(), namespace);
        Ok(send(what, api.get_opt(&key.name)).await?.map(Into::into))
    } else {
        let api: Objects<ClusterRoleBinding> = Objects::all(ctx.client.clone());
        Ok(send(what, api.get_opt(&key.name)).await?.map(Into::into))
    }
}

fn count(ctx: &Context, credential: &Credential) -> Tokens {
    let mut tokens = Tokens::default();
    ctx.tokens.each_owned_by(&Key::credential(credential), |_, token| {
        tokens.count.total += 1;
        if token.state == Some(ApiTokenState::Active) {
            tokens.count.active += 1;
            tokens.next_end = tokens.next_end.into_iter().chain(token.end).min();
        }
    });
    tokens
}
