//! What has to go before the operator does: bindings outside the namespace of their credential, and the finalizers that hold the
//! credentials for these. Nobody would unbind them any more, and whoever made an account of that name would have its roles.
//!
//! All else stays: credentials, tokens, their Secrets and accounts, and what is bound in their own namespace, which garbage
//! collection takes with them. An operator that is installed again binds anew.

use std::{sync::Arc, time::Duration};

use kube::{Api, ResourceExt, api::ListParams, core::PartialObjectMeta};
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{
    Candidate, Context, Place,
    credential::{
        apply::{delete_binding, let_go},
        observe::{look, out_of_reach},
        plan::owner_of,
    },
    election::ElectionError,
    sweep, watch,
    write::{RequestError, Trouble, send},
};
use crate::{
    api::Credential,
    domain::{
        binding::{Binding, Ownership},
        name,
    },
};

/// For how long no controller leads: until Helm, or whoever asked for this, has deleted them.
const NONE_LEADS_FOR: Duration = Duration::from_mins(5);
/// What a leader had sent is done by then.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// By when all that there is has been read.
const SEEN_WITHIN: Duration = Duration::from_mins(1);
/// How often it is looked again whether anything is left.
const ROUNDS: usize = 10;

/// Why not all of it is gone.
#[derive(Debug, Error)]
pub enum UninstallError {
    /// A controller may be at work.
    #[error("could not keep controllers from working")]
    Election(#[from] ElectionError),
    /// Something could not be read, deleted or let go.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// What is bound where this operator does not work.
    #[error(
        "roles of Credential {0} stand bound where this operator does not work; name these namespaces in --watch-namespaces, or \
         do what the status of the credential says"
    )]
    OutOfReach(Place),
    /// What there is was not to be read.
    #[error(
        "not all of what there is could be read in {} s, and the log says what: a kind that is not defined any more, a namespace \
         that is gone, or a right that is missing",
        SEEN_WITHIN.as_secs()
    )]
    Unseen,
    /// Somebody makes it as fast as it goes.
    #[error("there is always more to unbind: does a controller work without --leader-elect?")]
    NeverDone,
}

/// Keeps controllers that elect a leader from working, and takes away what they bound outside the credentials' namespaces.
/// `context` makes one that has seen nothing yet: nobody waits here for a watch that lags.
///
/// # Errors
/// When any of it may still be there; then it is to be run again, and controllers work on until then.
pub async fn run(candidate: &Candidate, context: impl Fn() -> Arc<Context>) -> Result<(), UninstallError> {
    candidate.keep_all_from_leading(NONE_LEADS_FOR).await?;
    let outcome = unbind_all(context).await;
    if outcome.is_err()
        && let Err(error) = candidate.let_others_lead().await
    {
        warn!(%error, "no controller leads for {} s", NONE_LEADS_FOR.as_secs());
    }
    outcome
}

async fn unbind_all(context: impl Fn() -> Arc<Context>) -> Result<(), UninstallError> {
    sleep(SETTLED_AFTER).await;
    for _ in 0..ROUNDS {
        let ctx = context();
        let _watches = watch::start(&ctx);
        timeout(SEEN_WITHIN, watch::complete(&ctx)).await.map_err(|_| UninstallError::Unseen)?;
        let held = held(&ctx).await?;
        for credential in &held {
            release(&ctx, credential).await?;
        }
        sweep::reconcile(&ctx).await?;
        if held.is_empty() {
            info!("nothing is bound that would be left behind");
            return Ok(());
        }
    }
    Err(UninstallError::NeverDone)
}

/// The credentials that are held by our finalizer, also those that cannot be read.
async fn held(ctx: &Context) -> Result<Vec<PartialObjectMeta<Credential>>, RequestError> {
    let mut held = Vec::new();
    for scope in ctx.config.reach.scopes() {
        let api: Api<Credential> = match &scope {
            Some(namespace) => Api::namespaced(ctx.client.clone(), namespace),
            None => Api::all(ctx.client.clone()),
        };
        let all = ListParams::default();
        let listed = send(|| "list Credentials".to_owned(), api.list_metadata(&all)).await?;
        held.extend(
            listed.into_iter().filter(|found| found.finalizers().iter().any(|by| by == name::FINALIZER)),
        );
    }
    Ok(held)
}

async fn release(ctx: &Context, found: &PartialObjectMeta<Credential>) -> Result<(), UninstallError> {
    let place = Place::of(found);
    let owner = owner_of(&found.metadata);
    let mut bindings = ctx.bindings_for(&place);
    if let Some(credential) = ctx.credentials.get(&place) {
        let bound_in = credential.status.map(|status| status.bound_in).unwrap_or_default();
        if !out_of_reach(ctx, &bound_in).is_empty() {
            return Err(UninstallError::OutOfReach(place));
        }
        // Also those that somebody took our label off.
        for key in owner.bindings(&credential.spec.roles).into_keys() {
            if !bindings.contains_key(&key) && ctx.config.reach.has_binding(&key) {
                bindings.extend(look(ctx, &key).await?.map(|held| (key, held)));
            }
        }
    }
    let outside = |binding: &Binding| binding.metadata.namespace.as_ref() != Some(&owner.namespace);
    for (key, binding) in bindings.into_iter().filter(|(_, binding)| outside(binding)) {
        if owner.ownership(&binding) != Ownership::Foreign {
            delete_binding(ctx, &key, binding.metadata.uid.as_deref().unwrap_or_default()).await?;
            info!(binding = %key, "unbound");
        }
    }
    match let_go(ctx, &found.metadata).await {
        // Somebody changed it meanwhile; the next round sees how it is.
        Err(error) if error.trouble() == Trouble::Moved => Ok(()),
        outcome => {
            outcome?;
            info!(credential = %place, "let go");
            Ok(())
        }
    }
}
