//! The command `credential-operator uninstall`: deletes bindings outside the namespaces of their credentials, and removes the
//! finalizers of these credentials. Without the operator, these bindings would never be deleted, and a user who creates a
//! `ServiceAccount` of the same name would get its roles.
//!
//! Everything else stays: credentials, tokens, their Secrets and accounts, and the bindings in their own namespace, which
//! garbage collection deletes with them. If the operator is installed again, it creates the bindings again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{api::ListParams, core::PartialObjectMeta};
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{
    Candidate, Context, Place,
    credential::{
        apply::{delete_binding, remove_finalizer},
        observe::{look, out_of_reach},
        plan::{is_held, owner_of},
    },
    election::ElectionError,
    sweep, watch,
    write::{RequestError, Trouble, send},
};
use crate::{
    api::{Credential, credential::Grant},
    client::{Objects, Watched},
    domain::binding::{BindingKey, Owner, Ownership},
};

/// The time during which no controller leads, so that Helm or the user can delete the controllers.
const NONE_LEADS_FOR: Duration = Duration::from_mins(5);
/// The time after which the last requests of the previous leader are completed.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// The timeout for reading all objects.
const SEEN_WITHIN: Duration = Duration::from_mins(1);
/// The maximum number of rounds until no binding is found.
const ROUNDS: usize = 10;
/// The maximum number of attempts to remove a finalizer while other clients change the finalizers of the object.
const ATTEMPTS: usize = 50;
/// The reason that is reported for a binding that was deleted in the last round.
const CREATED_AGAIN: &str = "created again after each deletion; stop the client that creates it";

/// The error of `credential-operator uninstall`.
#[derive(Debug, Error)]
pub enum UninstallError {
    /// A controller may still lead.
    #[error("could not prevent controllers from leading")]
    Election(#[from] ElectionError),
    /// An object could not be read.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Roles are still bound outside the namespaces of their credentials.
    #[error(
        "roles are still bound outside the namespaces of their Credentials. Delete these bindings, or fix the reported errors, \
         and run this command again:\n{}",
        .0.join("\n")
    )]
    StillBound(Vec<String>),
    /// Not all objects could be read.
    #[error(
        "not all objects could be read in {} s. See the log for the cause: a kind that is not defined, a namespace that does not \
         exist, or a permission that is missing",
        SEEN_WITHIN.as_secs()
    )]
    Unseen,
}

/// Prevents controllers from leading, and deletes the bindings outside the credentials' namespaces. `context` returns a
/// context with empty caches, so that no round depends on a watch that lags behind.
///
/// # Errors
/// When a binding may still exist; then controllers can lead again, and the command must be run again.
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
    let mut bound = Vec::new();
    for _ in 0..ROUNDS {
        let ctx = context();
        let _watches = watch::start(&ctx);
        timeout(SEEN_WITHIN, watch::complete(&ctx)).await.map_err(|_| UninstallError::Unseen)?;
        let held = held(&ctx).await?;
        // All bindings are deleted first, so that no object of one tenant prevents the deletion of another tenant's
        // bindings.
        let mut found = Found::default();
        for credential in &held {
            unbind(&ctx, credential, &mut found).await;
        }
        sweep::unbind_orphans(&ctx, &mut found).await;
        for credential in held.iter().filter(|credential| !found.holds(credential)) {
            release(&ctx, credential).await;
        }
        if found.deleted.is_empty() && found.bound.is_empty() {
            info!("nothing is bound outside the namespaces of credentials");
            return Ok(());
        }
        found.bound.extend(found.deleted);
        bound = found.bound.into_values().collect();
    }
    Err(UninstallError::StillBound(bound))
}

/// The UID of a Credential and one of its bindings, each with a line of output.
type Bindings = BTreeMap<(String, String), String>;

/// The findings of one round.
#[derive(Default)]
pub(super) struct Found {
    /// The bindings that were deleted. In the last round, these were created again after each deletion.
    deleted: Bindings,
    /// The bindings that still grant permissions, with the reason.
    bound: Bindings,
}

impl Found {
    /// Records the outcome of a deletion.
    pub(super) fn note(&mut self, owner: &Owner, key: &BindingKey, outcome: Result<(), RequestError>) {
        let id = (owner.uid.clone(), key.to_string());
        let line = |why: &str| format!("  {key} of Credential {}/{}: {why}", owner.namespace, owner.name);
        match outcome {
            // A conflict means that no binding with this UID exists; the next round finds a new one with the same name.
            Err(RequestError::Api { source, .. }) if is_conflict(&source) => {
                self.deleted.insert(id, line(CREATED_AGAIN));
            }
            Ok(()) => {
                info!(binding = %key, "binding deleted");
                self.deleted.insert(id, line(CREATED_AGAIN));
            }
            Err(error) => {
                let why = failure(&error);
                warn!(binding = %key, why, "binding could not be deleted");
                self.bound.insert(id, line(&why));
            }
        }
    }

    /// Records that roles of a credential may be bound where the command cannot read the bindings.
    fn note_unseen(&mut self, owner: &Owner, place: &str, why: &str) {
        let line = format!("  roles of Credential {}/{}{place}: {why}", owner.namespace, owner.name);
        self.bound.insert((owner.uid.clone(), place.to_owned()), line);
    }

    /// Whether a binding of that credential still grants permissions.
    fn holds(&self, credential: &ObjectMeta) -> bool {
        self.bound.keys().any(|(uid, _)| Some(uid) == credential.uid.as_ref())
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// An error and its cause: the message of the API server if it refused the request.
fn failure(error: &RequestError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    let cause = match error.trouble() {
        Trouble::Refused { message, .. } => Some(message),
        _ => source,
    };
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// The credentials with the operator's finalizer, including those that do not match the schema.
async fn held(ctx: &Context) -> Result<Vec<ObjectMeta>, RequestError> {
    let mut held = Vec::new();
    for scope in ctx.config.reach.scopes() {
        let objects = Objects::<PartialObjectMeta<Credential>>::scoped(ctx.client.clone(), scope.as_deref());
        let what = || "list Credentials".to_owned();
        let mut page = send(what, objects.list(&ListParams::default())).await?;
        while let Some(found) = send(what, page.next()).await? {
            held.extend(Some(found.metadata().clone()).filter(is_held));
        }
    }
    Ok(held)
}

/// Deletes the bindings of a credential that are outside its namespace.
async fn unbind(ctx: &Context, credential: &ObjectMeta, found: &mut Found) {
    let owner = owner_of(credential);
    let place = Place::new(&owner.namespace, &owner.name);
    let mut bindings = ctx.bindings_for(&place);
    match roles(ctx, &place).await {
        Ok((roles, bound_in)) => {
            for unseen in out_of_reach(ctx, &bound_in) {
                let place = format!(" in namespace {unseen}");
                found.note_unseen(
                    &owner,
                    &place,
                    "the namespace is not watched; add it to --watch-namespaces",
                );
            }
            // Includes bindings whose label was removed.
            for key in owner.bindings(&roles).into_keys() {
                if bindings.contains_key(&key) || !ctx.config.reach.has_binding(&key) {
                    continue;
                }
                match look(ctx, &key).await {
                    Ok(seen) => bindings.extend(seen.map(|seen| (key, seen))),
                    Err(error) => found.note(&owner, &key, Err(error)),
                }
            }
        }
        Err(error) => found.note_unseen(&owner, "", &failure(&error)),
    }
    for (key, binding) in bindings {
        let is_outside = binding.metadata.namespace.as_ref() != Some(&owner.namespace);
        if is_outside && owner.ownership(&binding) != Ownership::Foreign {
            let uid = binding.metadata.uid.as_deref().unwrap_or_default();
            found.note(&owner, &key, delete_binding(ctx, &key, uid).await);
        }
    }
}

/// The roles of a credential, and the other namespaces in which they are bound according to its status.
async fn roles(ctx: &Context, place: &Place) -> Result<(Vec<Grant>, Vec<String>), RequestError> {
    if let Some(credential) = ctx.credentials.get(place) {
        let bound_in = credential.status.map(|status| status.bound_in).unwrap_or_default();
        return Ok((credential.spec.roles, bound_in));
    }
    let objects = Objects::<Credential>::namespaced(ctx.client.clone(), place.namespace());
    let found = send(|| format!("get Credential {place}"), objects.get_watched(place.name())).await?;
    Ok(match found {
        Some(Watched(Err(invalid))) => (invalid.roles, invalid.bound_in),
        Some(Watched(Ok(credential))) => {
            (credential.spec.roles, credential.status.map(|status| status.bound_in).unwrap_or_default())
        }
        None => (Vec::new(), Vec::new()),
    })
}

/// Removes the finalizer, also while other clients change the finalizers of the object. A finalizer grants no permissions,
/// so a failure is only logged.
async fn release(ctx: &Context, credential: &ObjectMeta) {
    let owner = owner_of(credential);
    let place = Place::new(&owner.namespace, &owner.name);
    for attempt in 1..=ATTEMPTS {
        match remove_finalizer(ctx, &owner).await {
            Ok(_) => return info!(credential = %place, "finalizer removed"),
            Err(error) if error.trouble() == Trouble::Moved && attempt < ATTEMPTS => {}
            Err(error) => {
                let (kind, name) = ("Credential", &owner.name);
                let next = format!("kubectl edit credential {name} -n {}", owner.namespace);
                return warn!(kind, name, why = failure(&error), next, "finalizer could not be removed");
            }
        }
    }
}
