//! The verifier: tells services and gateways whether a token is accepted now, and for what.
//!
//! Stateless: it follows the objects, holds digests alone, and writes nothing. Who asks, and how, is the business of one
//! module a protocol; all of them ask [`Verifier::check`]. What it does not know for certain any more it does not answer.

mod authorization;
mod callers;
mod follow;
mod forward_auth;
mod health;
pub mod index;
mod introspection;
pub mod judge;
mod metrics;
pub mod pulse;
pub mod record;
pub mod routes;
mod server;
pub mod service;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::future::join_all;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Client, ResourceExt};

pub use self::server::{Listen, ServeError, TlsFiles, run};
use self::{
    follow::{Follow, Sink},
    index::{Index, Reading},
    judge::{Accepted, Demand, Presented, Refusal},
    pulse::{Moment, Pulse},
    record::{Facts, Kind, Stated, uid},
};
use crate::{
    api::{ApiToken, Credential},
    client::Objects,
    domain::{clock::Clock, keyring::Keyring, reach::Reach},
};

/// For how long a watch may be silent at most until it is asked whether that is all.
const MAX_QUIET: Duration = Duration::from_secs(10);

/// What a verifier is to know of the cluster.
#[derive(Clone, Debug)]
pub struct Source {
    /// The namespace of the keyring's Secret.
    pub namespace: String,
    /// The name of the keyring's Secret.
    pub keyring_secret: String,
    /// Which namespaces it knows the values of.
    pub reach: Reach,
    /// How old the knowledge may be that answers are given by.
    pub max_staleness: Duration,
}

/// The judge of presented values, and all that it knows.
pub struct Verifier {
    source: Source,
    clock: Arc<dyn Clock>,
    index: Index,
    keyring: ArcSwap<Keyring>,
    /// Whether its Secret was met since the last reading began.
    keyring_met: AtomicBool,
    /// Of each namespace that is followed for itself, in the order of [`Reach::scopes`].
    tokens: Vec<Pulse>,
    credentials: Vec<Pulse>,
    keys: Pulse,
}

/// Why there is no acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The value is not accepted.
    Refused(Refusal),
    /// Nobody can tell now: the verifier is not up to date, or has no key to check with.
    Unavailable,
}

impl Verifier {
    /// A verifier that knows nothing yet.
    #[must_use]
    pub fn new(source: Source, clock: Arc<dyn Clock>) -> Self {
        let pulses = || source.reach.scopes().iter().map(|_| Pulse::default()).collect();
        Self {
            tokens: pulses(),
            credentials: pulses(),
            source,
            clock,
            index: Index::default(),
            keyring: ArcSwap::default(),
            keyring_met: AtomicBool::default(),
            keys: Pulse::default(),
        }
    }

    /// The time, by which all of one request is judged.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::now(&*self.clock)
    }

    /// Whether a value is accepted.
    ///
    /// # Errors
    /// When it is not, or nobody can tell.
    pub fn check(&self, presented: Presented<'_>, demand: &Demand, now: Moment) -> Result<Accepted, Denial> {
        let keyring = self.keyring.load();
        if !self.is_fresh(now) || keyring.keys().next().is_none() {
            return Err(Denial::Unavailable);
        }
        judge::judge(&self.index, &keyring, presented, demand, now.wall().into()).map_err(Denial::Refused)
    }

    /// Whether it answers at all: it knows everything, as it was not too long ago.
    #[must_use]
    pub fn is_fresh(&self, now: Moment) -> bool {
        self.staleness(now).is_some_and(|age| age <= self.source.max_staleness)
    }

    /// For how long it may have been behind; `None` before it has read everything once.
    #[must_use]
    pub fn staleness(&self, now: Moment) -> Option<Duration> {
        let mut pulses = self.tokens.iter().chain(&self.credentials).chain([&self.keys]);
        pulses.try_fold(Duration::ZERO, |oldest, pulse| Some(oldest.max(pulse.age(now)?)))
    }

    /// Whether it can tell accepted from refused.
    #[must_use]
    pub fn is_ready(&self, now: Moment) -> bool {
        self.is_fresh(now) && self.keyring.load().keys().next().is_some()
    }

    /// All values that it knows.
    #[must_use]
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// Follows the cluster until it is dropped.
    pub async fn follow(&self, client: Client) {
        let clock = &*self.clock;
        // Early enough that an answer comes before it would count as too old.
        let quiet = MAX_QUIET.min(self.source.max_staleness / 3);
        let scopes = self.source.reach.scopes();
        let tokens = scopes.iter().zip(&self.tokens).map(async |(scope, pulse)| {
            let objects = Objects::scoped(client.clone(), scope.as_deref());
            Follow::<ApiToken> { objects, fields: None, pulse, clock, quiet }.run(self).await;
        });
        let credentials = scopes.iter().zip(&self.credentials).map(async |(scope, pulse)| {
            let objects = Objects::scoped(client.clone(), scope.as_deref());
            Follow::<Credential> { objects, fields: None, pulse, clock, quiet }.run(self).await;
        });
        let keyring = Follow::<Secret> {
            objects: Objects::namespaced(client.clone(), &self.source.namespace),
            fields: Some(format!("metadata.name={}", self.source.keyring_secret)),
            pulse: &self.keys,
            clock,
            quiet,
        };
        tokio::join!(join_all(tokens), join_all(credentials), keyring.run(self));
    }
}

impl Sink<ApiToken> for Verifier {
    fn begin(&self, scope: Option<&str>) {
        self.index.begin(Reading::ApiTokens, scope);
    }

    fn put(&self, token: &ApiToken) {
        let (namespace, name) = (token.namespace().unwrap_or_default(), token.name_any());
        self.index.put(Kind::ApiToken, &namespace, &name, Stated::of_token(token));
    }

    fn remove(&self, metadata: &ObjectMeta) {
        let (namespace, name) = place(metadata);
        self.index.put(Kind::ApiToken, namespace, name, None);
    }

    fn end(&self, scope: Option<&str>) {
        self.index.end(Reading::ApiTokens, scope);
    }
}

impl Sink<Credential> for Verifier {
    fn begin(&self, scope: Option<&str>) {
        self.index.begin(Reading::Credentials, scope);
    }

    fn put(&self, credential: &Credential) {
        let (namespace, name) = (credential.namespace().unwrap_or_default(), credential.name_any());
        match credential.metadata.uid.as_deref().and_then(uid) {
            Some(uid) => self.index.put_facts(&namespace, &name, uid, Facts::of(credential)),
            None => self.index.remove_facts(&namespace, &name),
        }
        self.index.put(Kind::ClientSecret, &namespace, &name, Stated::of_credential(credential));
    }

    fn remove(&self, metadata: &ObjectMeta) {
        let (namespace, name) = place(metadata);
        self.index.remove_facts(namespace, name);
        self.index.put(Kind::ClientSecret, namespace, name, None);
    }

    fn end(&self, scope: Option<&str>) {
        self.index.end(Reading::Credentials, scope);
    }
}

impl Sink<Secret> for Verifier {
    fn begin(&self, _: Option<&str>) {
        self.keyring_met.store(false, Ordering::Relaxed);
    }

    fn put(&self, secret: &Secret) {
        self.keyring_met.store(true, Ordering::Relaxed);
        let entries = secret.data.iter().flatten().map(|(id, bytes)| (id, bytes.0.as_slice()));
        self.keyring.store(Arc::new(Keyring::read(entries)));
    }

    fn remove(&self, _: &ObjectMeta) {
        self.keyring.store(Arc::default());
    }

    fn end(&self, _: Option<&str>) {
        if !self.keyring_met.load(Ordering::Relaxed) {
            self.keyring.store(Arc::default());
        }
    }
}

fn place(metadata: &ObjectMeta) -> (&str, &str) {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}
