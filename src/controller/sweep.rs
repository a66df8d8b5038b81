//! Bindings outside the namespace of their credential, whose credential is gone: whoever made a `ServiceAccount` of
//! that name again would have its rights. A finalizer keeps this from happening; somebody may strip it.

use std::time::Duration;

use kube::Api;
use tracing::info;

use super::{
    Context, Key, Place,
    credential::apply::delete_binding,
    write::{RequestError, send},
};
use crate::{
    api::Credential,
    domain::binding::{Binding, Ownership},
};

const SWEEP_EVERY: Duration = Duration::from_mins(10);

/// Deletes every orphaned binding of ours.
///
/// # Errors
/// The first deletion that failed, after the others were tried; or the first read that failed.
pub async fn reconcile(ctx: &Context) -> Result<(), RequestError> {
    ctx.queue.add_after(&Key::Sweep, SWEEP_EVERY);
    let within = ctx.role_bindings.all().map(Binding::from);
    let everywhere = ctx.cluster_role_bindings.all().map(Binding::from);
    let mut failed = None;
    for binding in within.chain(everywhere) {
        let Some(owner) = binding.claimed_owner() else {
            continue;
        };
        let place = Place::new(&owner.namespace, &owner.name);
        let alive =
            ctx.credentials.get(&place).is_some_and(|held| held.metadata.uid.as_deref() == Some(&owner.uid));
        // Inside the namespace garbage collection does it.
        let outside = binding.metadata.namespace.as_ref() != Some(&owner.namespace);
        // What is elsewhere is for who works there to say.
        let known = ctx.config.reach.has(&owner.namespace);
        if alive || !outside || !known || owner.ownership(&binding) != Ownership::Ours {
            continue;
        }
        let api: Api<Credential> = Api::namespaced(ctx.client.clone(), &owner.namespace);
        let found = send(|| format!("get Credential {place}"), api.get_metadata_opt(&owner.name)).await?;
        if found.is_none_or(|found| found.metadata.uid.as_deref() != Some(&owner.uid)) {
            info!(binding = %binding.key(), "its credential is gone");
            let uid = binding.metadata.uid.as_deref().unwrap_or_default();
            if let Err(error) = delete_binding(ctx, &binding.key(), uid).await {
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
