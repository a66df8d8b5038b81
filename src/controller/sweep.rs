//! Deletes bindings outside the namespace of their credential when the credential no longer exists: a new `ServiceAccount` of that
//! name would have their permissions. A finalizer prevents this, unless a user removes it.

use std::time::Duration;

use tracing::info;

use super::{
    Context, Key, Place,
    credential::apply::delete_binding,
    uninstall::Found,
    write::{RequestError, send},
};
use crate::{
    api::Credential,
    client::Objects,
    domain::binding::{Binding, Owner, Ownership},
};

const SWEEP_EVERY: Duration = Duration::from_mins(10);

/// Deletes every orphaned binding. A failed deletion does not prevent the others.
///
/// # Errors
/// The first failure, after all deletions were tried.
pub async fn reconcile(ctx: &Context) -> Result<(), RequestError> {
    ctx.queue.add_after(&Key::Sweep, SWEEP_EVERY);
    let mut failed = Ok(());
    for (_, binding) in candidates(ctx) {
        failed = failed.and(unbind_orphan(ctx, &binding).await.map(drop));
    }
    failed
}

/// Deletes every orphaned binding for `credential-operator uninstall`, and records each deletion and each failure.
pub(super) async fn unbind_orphans(ctx: &Context, found: &mut Found) {
    for (owner, binding) in candidates(ctx) {
        match unbind_orphan(ctx, &binding).await {
            Ok(false) => {}
            outcome => found.note(&owner, &binding.key(), outcome.map(drop)),
        }
    }
}

/// The managed bindings outside the namespace of their credential, if the credential is not in the cache. Garbage collection
/// deletes the bindings inside the namespace.
fn candidates(ctx: &Context) -> impl Iterator<Item = (Owner, Binding)> {
    let within = ctx.role_bindings.all().map(Binding::from);
    let everywhere = ctx.cluster_role_bindings.all().map(Binding::from);
    within.chain(everywhere).filter_map(|binding| {
        let owner = binding.claimed_owner()?;
        let place = Place::new(&owner.namespace, &owner.name);
        let alive =
            ctx.credentials.get(&place).is_some_and(|held| held.metadata.uid.as_deref() == Some(&owner.uid));
        let outside = binding.metadata.namespace.as_ref() != Some(&owner.namespace);
        // Only an operator that watches the namespace of the credential deletes the binding.
        let known = ctx.config.reach.has(&owner.namespace);
        let is_candidate = !alive && outside && known && owner.ownership(&binding) == Ownership::Ours;
        is_candidate.then_some((owner, binding))
    })
}

/// Deletes the binding if its credential does not exist, and returns whether it did.
async fn unbind_orphan(ctx: &Context, binding: &Binding) -> Result<bool, RequestError> {
    let Some(owner) = binding.claimed_owner() else { return Ok(false) };
    let place = Place::new(&owner.namespace, &owner.name);
    let objects = Objects::<Credential>::namespaced(ctx.client.clone(), &owner.namespace);
    let found = send(|| format!("get Credential {place}"), objects.get_metadata_opt(&owner.name)).await?;
    if found.is_some_and(|found| found.metadata.uid.as_deref() == Some(&owner.uid)) {
        return Ok(false);
    }
    info!(binding = %binding.key(), "orphaned binding deleted: its credential no longer exists");
    delete_binding(ctx, &binding.key(), binding.metadata.uid.as_deref().unwrap_or_default()).await?;
    Ok(true)
}
