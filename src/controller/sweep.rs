//! Bindings outside the namespace of their credential, whose credential is gone: whoever made a `ServiceAccount` of
//! that name again would have its rights. A finalizer keeps this from happening; somebody may strip it.

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

/// Deletes every orphaned binding of ours. One that cannot be judged or deleted does not keep the others.
///
/// # Errors
/// The first failure.
pub async fn reconcile(ctx: &Context) -> Result<(), RequestError> {
    ctx.queue.add_after(&Key::Sweep, SWEEP_EVERY);
    let mut failed = Ok(());
    for (_, binding) in candidates(ctx) {
        failed = failed.and(unbind_orphan(ctx, &binding).await.map(drop));
    }
    failed
}

/// The same for whoever uninstalls: notes what is deleted, and what could not be.
pub(super) async fn unbind_orphans(ctx: &Context, found: &mut Found) {
    for (owner, binding) in candidates(ctx) {
        match unbind_orphan(ctx, &binding).await {
            Ok(false) => {}
            outcome => found.note(&owner, &binding.key(), outcome.map(drop)),
        }
    }
}

/// The bindings of ours outside the namespace of their credential, which no watch shows. Inside it garbage collection deletes them.
fn candidates(ctx: &Context) -> impl Iterator<Item = (Owner, Binding)> {
    let within = ctx.role_bindings.all().map(Binding::from);
    let everywhere = ctx.cluster_role_bindings.all().map(Binding::from);
    within.chain(everywhere).filter_map(|binding| {
        let owner = binding.claimed_owner()?;
        let place = Place::new(&owner.namespace, &owner.name);
        let alive =
            ctx.credentials.get(&place).is_some_and(|held| held.metadata.uid.as_deref() == Some(&owner.uid));
        let outside = binding.metadata.namespace.as_ref() != Some(&owner.namespace);
        // A binding of a namespace that is not watched is for the operator that watches it.
        let known = ctx.config.reach.has(&owner.namespace);
        let is_candidate = !alive && outside && known && owner.ownership(&binding) == Ownership::Ours;
        is_candidate.then_some((owner, binding))
    })
}

/// Deletes the binding if its credential is gone; tells whether it was.
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
