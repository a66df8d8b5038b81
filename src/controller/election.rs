//! Which of several controllers works: the one that holds a `Lease`. The others have their caches ready, and take over.
//!
//! A lease does not fence: who was suspended while he held it writes on for a moment after another has taken it. So nothing rests
//! on there being one; it keeps two from doing all work twice.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream::BoxStream};
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::{
    Client,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use rand::{CryptoRng, RngExt, distr::Alphanumeric};
use serde_json::json;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, service_fn};
use tracing::{debug, info, warn};

use super::write::FIELD_MANAGER;
use crate::{client::Objects, domain::clock::Clock};

/// The name of the `Lease`, in the operator's own namespace.
pub const LEASE: &str = "credential-operator";
/// For how long the lease is held after it was renewed: how long after a crash of its holder another waits.
const HELD_FOR: Duration = Duration::from_secs(12);
/// How long before its end it is renewed.
const RENEWED_BEFORE: Duration = Duration::from_secs(8);
/// Whoever has not seen his lease renewed for so long stops, before another may take it.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// How long a failure is waited out.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// No request may take longer.
const DEADLINE: Duration = Duration::from_secs(5);
/// How many random characters tell one process from another of the same host.
const SUFFIX: usize = 8;

/// Why the lease could not be taken.
#[derive(Debug, Error)]
pub enum ElectionError {
    /// The API server said no, or could not be reached.
    #[error(transparent)]
    Request(#[from] kube::Error),
    /// The same, of a lease that could not be made.
    #[error(transparent)]
    Lease(#[from] LeaseManagerError),
}

type Seen<'a> = BoxStream<'a, watcher::Result<Option<Lease>>>;

/// A controller that would work.
pub struct Candidate {
    client: Client,
    /// The same, for requests that must be answered soon: the manager waits for as long as it takes, and a connection that is
    /// half open would keep it from ever leading.
    hurried: Client,
    clock: Arc<dyn Clock>,
    namespace: String,
    identity: String,
}

impl Candidate {
    /// One that is to be found as `host`, among those of a namespace.
    pub fn new(
        client: Client,
        clock: Arc<dyn Clock>,
        namespace: &str,
        host: &str,
        random: &mut impl CryptoRng,
    ) -> Self {
        let suffix: String = random.sample_iter(Alphanumeric).take(SUFFIX).map(char::from).collect();
        let patient = client.clone();
        let hurried = service_fn(move |request| {
            let client = patient.clone();
            async move { Ok::<_, BoxError>(timeout(DEADLINE, client.send(request)).await??) }
        });
        let hurried = Client::new(hurried, namespace);
        Self { client, hurried, clock, namespace: namespace.to_owned(), identity: format!("{host}_{suffix}") }
    }

    /// Waits until it leads. It may be dropped at any time.
    #[expect(
        clippy::disallowed_types,
        reason = "as the lease manager reads the Lease, which only those can poison who may write in the operator's own namespace"
    )]
    pub async fn lead(&self) -> Leader {
        let api = kube::Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let mut seen = watcher::watch_object(api, LEASE).default_backoff().boxed();
        info!(identity = self.identity, "waiting to lead");
        loop {
            match self.stand(&mut seen).await {
                Ok(Some(manager)) => {
                    info!(identity = self.identity, "leading");
                    return Leader { manager, seen, identity: self.identity.clone() };
                }
                Ok(None) => {}
                Err(error) => {
                    warn!(%error, "the lease is not to be had, and tried for again");
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Takes the lease, whoever holds it, and holds it for so long without renewing it: whoever led stops, and nobody leads.
    ///
    /// # Errors
    /// When the API server refuses that, or does not answer.
    pub async fn keep_all_from_leading(&self, hold_for: Duration) -> Result<(), ElectionError> {
        // What it does first is to make the lease where there is none.
        LeaseManagerBuilder::new(self.hurried.clone(), LEASE).with_namespace(&self.namespace).build().await?;
        let api: Objects<Lease> = Objects::namespaced(self.hurried.clone(), &self.namespace);
        let now = MicroTime(self.clock.now());
        let held = Patch::Merge(json!({ "spec": {
            "holderIdentity": self.identity,
            "acquireTime": now,
            "renewTime": now,
            "leaseDurationSeconds": hold_for.as_secs(),
        }}));
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        api.patch(LEASE, &params, &held).await?;
        info!(identity = self.identity, "no controller leads for {} s", hold_for.as_secs());
        Ok(())
    }

    /// Gives a lease back that was taken so.
    ///
    /// # Errors
    /// When the API server refuses that, or does not answer.
    pub async fn let_others_lead(&self) -> Result<(), ElectionError> {
        let api: Objects<Lease> = Objects::namespaced(self.hurried.clone(), &self.namespace);
        let lease = api.get(LEASE).await?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder == Some(&self.identity) {
            let free = Patch::Merge(json!({
                "metadata": {"resourceVersion": lease.metadata.resource_version},
                "spec": {"holderIdentity": null},
            }));
            let params =
                PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            api.patch(LEASE, &params, &free).await?;
        }
        Ok(())
    }

    /// Stands until it is elected, or somebody has let go: a manager keeps what it knew of a lease until that has run out, so it
    /// takes another one to look at once.
    async fn stand(&self, seen: &mut Seen<'_>) -> Result<Option<LeaseManager>, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(self.hurried.clone(), LEASE)
            .with_namespace(&self.namespace)
            .with_identity(&self.identity)
            .with_field_manager(format!("credential-operator-{}", self.identity))
            .with_grace(RENEWED_BEFORE.as_secs())
            .with_duration(HELD_FOR.as_secs())
            .build()
            .await?;
        let elected = tokio::select! {
            elected = manager.changed() => elected?,
            () = let_go(seen) => false,
        };
        Ok(elected.then_some(manager))
    }
}

/// The controller that works.
pub struct Leader {
    manager: LeaseManager,
    seen: Seen<'static>,
    identity: String,
}

impl Leader {
    /// Renews the lease, and resolves once it is another's, or was not seen to be renewed in time.
    pub async fn lost(&mut self) {
        let mut renewing = std::pin::pin!(renew(&self.manager));
        let mut renewed_at = Instant::now();
        // That nobody held it may be told late, of the moment before it was elected.
        let mut elected = false;
        loop {
            tokio::select! {
                () = &mut renewing => return,
                holder = holder(&mut self.seen) => {
                    match holder {
                        Some(holder) if holder == self.identity => (elected, renewed_at) = (true, Instant::now()),
                        None if !elected => {}
                        Some(_) | None => return,
                    }
                }
                () = tokio::time::sleep_until(renewed_at + STALE_AFTER) => return,
            }
        }
    }

    /// Lets another take over at once.
    pub async fn let_go(self) {
        match self.manager.release().await {
            Ok(()) => info!("the lease is free"),
            Err(error) => warn!(%error, "the lease runs out by itself"),
        }
    }
}

/// Resolves once the lease is another's.
async fn renew(manager: &LeaseManager) {
    loop {
        match manager.changed().await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                warn!(%error, "the lease was not renewed, which is tried again");
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Resolves once nobody holds the lease.
async fn let_go(seen: &mut Seen<'_>) {
    while holder(seen).await.is_some() {}
}

/// Who holds the lease, whenever that or its end changes.
async fn holder(seen: &mut (impl Stream<Item = watcher::Result<Option<Lease>>> + Unpin)) -> Option<String> {
    loop {
        match seen.next().await {
            Some(Ok(lease)) => return lease?.spec?.holder_identity,
            Some(Err(error)) => debug!(%error, "the lease is not to be seen"),
            None => std::future::pending().await,
        }
    }
}
