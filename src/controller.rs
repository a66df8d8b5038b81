//! The controller: watches credentials and tokens, decides, and writes.
//!
//! Every reconcile is `observe` (only reads), `plan` (pure) and `apply` (only writes). What to reconcile, and when,
//! is the business of one [`queue`]; what the watches have shown is kept in one [`cache`] a kind. The clock and the
//! source of randomness are passed in.

pub mod admission;
pub mod api_token;
pub mod cache;
pub mod context;
pub mod credential;
pub mod draws;
pub mod dress;
pub mod election;
pub mod events;
mod kept;
pub mod keyring;
pub mod metrics;
pub mod mint;
pub mod orphans;
mod owned_secret;
mod packed;
pub mod panics;
mod place;
pub mod policies;
pub mod queue;
mod release;
pub mod server;
mod status;
pub mod sweep;
pub mod uninstall;
pub mod unreadable;
pub mod watch;
pub mod write;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{sync::oneshot, task::JoinSet, time::Instant};
use tracing::{Instrument, info, warn};

use self::write::{RequestError, Trouble};
pub use self::{
    context::{Config, Context, Key},
    election::Candidate,
    place::Place,
};
use crate::api::{ApiToken, Credential, CredentialState, Reason};

/// How long a refused request waits at least before it is tried again.
const REFUSED_AFTER: Duration = Duration::from_secs(5);
/// How often something fails silently before its status says so.
const QUIET_ATTEMPTS: u32 = 3;

/// Why the controller stopped.
#[derive(Debug, Error)]
pub enum ControllerError {
    /// A task ended that never should.
    #[error("the {0} ended unexpectedly")]
    TaskEnded(&'static str),
    /// Another controller may have taken over.
    #[error("the lease was lost, so that another controller may work")]
    LeaseLost,
}

/// Runs the controller until `stop` is sent or dropped. Work that is under way is finished first.
///
/// # Errors
/// When a part of it ends that never should.
pub async fn run(ctx: Arc<Context>, stop: oneshot::Receiver<()>) -> Result<(), ControllerError> {
    run_for(ctx, None, stop).await
}

/// Runs the controller for as long as it leads, and until then has its caches ready.
///
/// # Errors
/// When it does not lead any more; it is to be started anew. When a part of it ends that never should.
pub async fn run_elected(
    ctx: Arc<Context>,
    candidate: Candidate,
    stop: oneshot::Receiver<()>,
) -> Result<(), ControllerError> {
    run_for(ctx, Some(candidate), stop).await
}

async fn run_for(
    ctx: Arc<Context>,
    candidate: Option<Candidate>,
    stop: oneshot::Receiver<()>,
) -> Result<(), ControllerError> {
    let mut watches = watch::start(&ctx);
    tokio::select! {
        ended = lead(ctx, candidate, stop) => ended,
        _ = watches.join_next() => Err(ControllerError::TaskEnded("watches")),
    }
}

async fn lead(
    ctx: Arc<Context>,
    candidate: Option<Candidate>,
    mut stop: oneshot::Receiver<()>,
) -> Result<(), ControllerError> {
    tokio::select! {
        () = watch::complete(&ctx) => {}
        _ = &mut stop => return Ok(()),
    }
    let Some(candidate) = candidate else {
        work(ctx, stop).await;
        return Ok(());
    };
    let mut leader = tokio::select! {
        leader = candidate.lead() => leader,
        _ = &mut stop => return Ok(()),
    };
    tokio::select! {
        () = work(ctx, stop) => {}
        () = leader.lost() => return Err(ControllerError::LeaseLost),
    }
    leader.let_go().await;
    Ok(())
}

async fn work(ctx: Arc<Context>, mut stop: oneshot::Receiver<()>) {
    ctx.metrics.note_leading(true);
    // Before the first decision, so that a restart tells nobody of what is not known yet.
    let known = tokio::select! {
        known = admission::reconcile(&ctx) => known,
        _ = &mut stop => return,
    };
    if let Err(error) = known {
        warn!(%error, "whether the admission policies are in force is not known; to be tried again");
        ctx.queue.add(Key::Admission);
    }
    ctx.queue.add(Key::Keyring);
    ctx.queue.add(Key::Sweep);
    let mut tasks = JoinSet::new();
    loop {
        let key = tokio::select! {
            key = ctx.queue.next() => key,
            key = ctx.draws.done() => {
                ctx.queue.add(key);
                continue;
            }
            _ = &mut stop => break,
        };
        while tasks.try_join_next().is_some() {}
        let ctx = ctx.clone();
        let span = tracing::info_span!("reconcile", ?key);
        tasks.spawn(
            async move {
                let started = Instant::now();
                if let Some(outcome) = panics::run(&ctx, &key, Box::pin(reconcile(&ctx, &key))).await {
                    ctx.metrics.note(&key, &outcome, started.elapsed());
                    finish(&ctx, &key, outcome);
                }
            }
            .instrument(span),
        );
    }
    // Every request has a deadline, so this ends.
    while tasks.join_next().await.is_some() {}
}

fn finish(ctx: &Context, key: &Key, outcome: Result<(), RequestError>) {
    let Err(error) = outcome else {
        return ctx.queue.done(key);
    };
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    match error.trouble() {
        Trouble::Exists => {
            ctx.look_next_time(key);
            info!(%error, "the name is taken; looking whose it is");
            ctx.queue.failed(key, Duration::ZERO);
        }
        Trouble::Moved => ctx.queue.failed(key, Duration::ZERO),
        Trouble::Refused { message, .. } => {
            warn!(%error, message, "refused");
            ctx.queue.failed(key, REFUSED_AFTER);
        }
        Trouble::Gone | Trouble::Passing => {
            warn!(%error, source, "to be tried again");
            ctx.queue.failed(key, Duration::ZERO);
        }
    }
}

async fn reconcile(ctx: &Context, key: &Key) -> Result<(), RequestError> {
    match key {
        Key::Keyring => keyring::reconcile(ctx).await,
        Key::Sweep => sweep::reconcile(ctx).await,
        Key::Policies => policies::reconcile(ctx).await,
        Key::Admission => admission::reconcile(ctx).await,
        Key::Credential(place) => {
            if let Some(credential) = ctx.credentials.get(place) {
                return Box::pin(reconcile_credential(ctx, key, &credential)).await;
            }
            ctx.forget(key);
            // An orphan that cannot be deleted must not keep access.
            let invalid = unreadable::reconcile_credential(ctx, place).await;
            let orphans = Box::pin(orphans::reconcile(ctx, key)).await.map(drop);
            invalid.and(orphans)
        }
        Key::ApiToken(place) => {
            if let Some(token) = ctx.tokens.get(place) {
                return reconcile_api_token(ctx, key, &token).await;
            }
            ctx.forget(key);
            let invalid = unreadable::reconcile_token(ctx, place).await;
            let orphans = Box::pin(orphans::reconcile(ctx, key)).await.map(drop);
            invalid.and(orphans)
        }
    }
}

async fn reconcile_credential(ctx: &Context, key: &Key, credential: &Credential) -> Result<(), RequestError> {
    ctx.wake_waiting(key);
    let observed = credential::observe::observe(ctx, credential).await?;
    let now = ctx.clock.now();
    let plan = credential::plan::plan(&observed, now);
    if plan.destroys_material() {
        // A value is lost by it, and a watch that lags would have us undo what another leader has done.
        credential::observe::unchanged(ctx, credential).await?;
    } else if plan.unbinds() {
        // Another leader may have bound it again since, by what the watch has yet to show.
        credential::observe::latest(ctx, &credential.metadata).await?;
    }
    let ends = plan.status.as_ref().is_some_and(|status| status.state == Some(CredentialState::Expired));
    if ends && !credential::plan::is_expired(credential) {
        ctx.note_ended(credential);
    }
    let own_secret = credential::material::secret_name(credential);
    let orphans = delete_orphans(ctx, key, plan.waits_for_others, &own_secret).await;
    let (wake, again) = (plan.wake, plan.again);
    let planned = plan.status.clone();
    let plan_waits = plan.waits_for_others;
    let outcome = credential::apply::apply(ctx, &observed, plan, now).await;
    // What is still being drawn tells when it is there.
    let again = again && matches!(outcome, Ok(credential::material::apply::Done::Yes));
    ctx.queue.wake(key, if again { Some(now) } else { wake });
    let Err(error) = outcome else {
        if !plan_waits {
            ctx.memory().in_the_way.remove(key);
        }
        return orphans;
    };
    if let Some((reason, message)) = trouble_to_tell(ctx, key, &error)
        && let Some(latest) = ctx.credentials.get(&Place::of(credential))
    {
        // One that is being deleted has no status planned, and says all the same what holds it.
        let planned = planned.or_else(|| latest.status.clone()).unwrap_or_default();
        let message = credential::apply::what_to_do(reason, &message);
        let status = credential::plan::refused(&latest, planned, reason, &message, now);
        if let Some(written) = credential::apply::write_status(ctx, &latest, status).await? {
            events::of_credential(ctx, &latest, &written, now).await;
        }
    }
    Err(error)
}

async fn reconcile_api_token(ctx: &Context, key: &Key, token: &ApiToken) -> Result<(), RequestError> {
    if let Some(last_word) = ctx.last_word(token) {
        api_token::apply::write_status(ctx, token, last_word).await?;
        // The time to go may have passed while it waited, and nothing else asks again.
        if token.spec.ttl_after_expired.is_some() {
            ctx.queue.add(key.clone());
        }
        return Ok(());
    }
    let observed = api_token::observe::observe(ctx, token).await?;
    let now = ctx.clock.now();
    let plan = api_token::plan::plan(&observed, now);
    if observed.native.is_some() && plan.takes_back() {
        api_token::observe::confirm(ctx, &observed).await?;
    }
    let own_secret = api_token::plan::secret_name(token);
    let orphans = delete_orphans(ctx, key, observed.secret.waits_for_others(), &own_secret).await;
    let (wake, mints) = (plan.wake, plan.mints());
    let planned = plan.status.clone();
    ctx.note_stall(token, planned.as_ref().is_some_and(api_token::plan::is_stalled));
    let outcome = api_token::apply::apply(ctx, token, plan).await;
    // How long what was minted lives, only the API server's answer tells.
    let again = mints && outcome.is_ok() && ctx.signing_key().is_some();
    ctx.queue.wake(key, if again { Some(now) } else { wake });
    let Err(error) = outcome else {
        if !observed.secret.waits_for_others() {
            ctx.memory().in_the_way.remove(key);
        }
        return orphans;
    };
    if let Some((reason, message)) = trouble_to_tell(ctx, key, &error)
        && let Some(latest) = ctx.tokens.get(&Place::of(token))
    {
        let message = credential::apply::what_to_do(reason, &message);
        let status = api_token::plan::refused(&latest, planned.as_ref(), reason, &message, now);
        api_token::apply::write_status(ctx, &latest, status).await?;
    }
    Err(error)
}

/// Deletes the orphans of an object that exists, if there can be any. A failure must not prevent the reconcile.
async fn delete_orphans(
    ctx: &Context,
    key: &Key,
    is_blocked: bool,
    own_secret: &str,
) -> Result<(), RequestError> {
    if !is_blocked && !orphans::may_have(ctx, key, own_secret) {
        ctx.note_orphaned(key, &BTreeSet::new());
    } else if Box::pin(orphans::reconcile(ctx, key)).await? {
        // The next reconcile may no longer be blocked.
        ctx.queue.add(key.clone());
    }
    Ok(())
}

/// What the status is to say of a failure: refusals at once, mishaps once they last.
fn trouble_to_tell(ctx: &Context, key: &Key, error: &RequestError) -> Option<(Reason, String)> {
    match error.trouble() {
        Trouble::Refused { reason, message } => Some((reason, message)),
        Trouble::Gone | Trouble::Passing if ctx.queue.attempts(key) >= QUIET_ATTEMPTS => {
            Some((Reason::Pending, error.to_string()))
        }
        Trouble::Exists | Trouble::Moved | Trouble::Gone | Trouble::Passing => None,
    }
}
