//! Follows all objects of a kind, and knows at each moment for how long it may have been behind.
//!
//! kube's own watcher keeps bookmarks to itself and cannot tell a quiet watch from a dead one. A verifier must: what it
//! does not know of any more it must not accept.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::pulse::{Moment, Pulse};
use crate::{api::lean::Lean, domain::clock::Clock};

/// How many objects a list asks for at a time.
const PAGE: u32 = 500;
/// How often silence is looked at: a clock that jumps is noticed within that.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a request may take to begin its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long is waited after a failure, at first and at most.
const WAIT: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// Takes in what is there.
pub trait Sink<K> {
    /// All objects are about to be read: of that namespace, or of all.
    fn begin(&self, scope: Option<&str>);
    /// An object, new or changed.
    fn put(&self, object: &K);
    /// An object that is gone, or that nobody can read.
    fn remove(&self, metadata: &ObjectMeta);
    /// All of these have been read: what was not among them is gone.
    fn end(&self, scope: Option<&str>);
}

/// One kind that is followed.
pub struct Follow<'a, K> {
    /// Where its objects are.
    pub api: Api<Lean<K>>,
    /// Which of them, as a field selector.
    pub fields: Option<String>,
    /// When they were last known to be up to date.
    pub pulse: &'a Pulse,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// After so much silence it is asked whether there is anything that the watch should have shown.
    pub quiet: Duration,
}

/// Why a watch cannot be taken up where it was left.
struct TooOld;

impl<K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static> Follow<'_, K> {
    /// Follows until it is dropped.
    pub async fn run(&self, sink: &impl Sink<K>) {
        let mut failures = Failures::default();
        loop {
            let asked = self.now();
            match self.list(sink).await {
                Ok(version) => {
                    self.pulse.beat(asked);
                    let TooOld = self.watch(version, sink, &mut failures).await;
                }
                Err(error) => {
                    warn!(kind = %K::kind(&()), %error, "the list failed and is tried again");
                    failures.wait().await;
                }
            }
        }
    }

    /// Reads all objects; their common version is the answer.
    async fn list(&self, sink: &impl Sink<K>) -> Result<String, FollowError> {
        sink.begin(self.api.namespace());
        let mut params =
            ListParams { field_selector: self.fields.clone(), ..ListParams::default() }.limit(PAGE);
        loop {
            let page = timeout(ANSWER_WITHIN, self.api.list(&params)).await??;
            for Lean(object) in &page.items {
                match object {
                    Ok(object) => sink.put(object),
                    Err(unread) => sink.remove(&unread.metadata),
                }
            }
            let Some(more) = page.metadata.continue_.filter(|token| !token.is_empty()) else {
                sink.end(self.api.namespace());
                return page.metadata.resource_version.ok_or(FollowError::Versionless);
            };
            params = params.continue_token(&more);
        }
    }

    async fn watch(&self, mut version: String, sink: &impl Sink<K>, failures: &mut Failures) -> TooOld {
        let params = WatchParams { field_selector: self.fields.clone(), ..WatchParams::default() };
        // When a list last said what is true now; that counts once a watch shows all up to then.
        let mut asked = None;
        loop {
            let events = match timeout(ANSWER_WITHIN, self.api.watch(&params, &version)).await {
                Ok(Ok(events)) => events,
                Ok(Err(kube::Error::Api(status))) => {
                    debug!(kind = %K::kind(&()), %status, "the watch is refused and everything read anew");
                    failures.wait().await;
                    return TooOld;
                }
                Ok(Err(error)) => {
                    warn!(kind = %K::kind(&()), %error, "the watch failed and is tried again");
                    failures.wait().await;
                    continue;
                }
                Err(error) => {
                    warn!(kind = %K::kind(&()), %error, "the watch failed and is tried again");
                    continue;
                }
            };
            if let Some(asked) = asked.take() {
                failures.none();
                self.pulse.beat(asked);
            }
            let mut events = std::pin::pin!(events.into_stream());
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    // What the watch shows meanwhile is not held up by an answer that is slow to come.
                    answered = self.ask_after_silence() => {
                        asked = answered;
                        if asked.is_none() {
                            failures.wait().await;
                        }
                        break;
                    }
                };
                if matches!(event, Some(Ok(_))) {
                    failures.none();
                }
                match event {
                    Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                        version = version_of(object.meta(), version);
                        match &object.0 {
                            Ok(object) => sink.put(object),
                            Err(unread) => sink.remove(&unread.metadata),
                        }
                        self.pulse.beat(self.now());
                    }
                    Some(Ok(WatchEvent::Deleted(object))) => {
                        version = version_of(object.meta(), version);
                        sink.remove(object.meta());
                        self.pulse.beat(self.now());
                    }
                    Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                        version = bookmark.metadata.resource_version;
                        self.pulse.beat(self.now());
                    }
                    Some(Ok(WatchEvent::Error(status))) => {
                        debug!(kind = %K::kind(&()), %status, "the watch ended and everything is read anew");
                        failures.wait().await;
                        return TooOld;
                    }
                    Some(Err(error)) => {
                        debug!(kind = %K::kind(&()), %error, "the watch was interrupted and is taken up again");
                        failures.wait().await;
                        break;
                    }
                    // The API server ends each watch now and then; one that ends it at once is not asked in a loop.
                    None => {
                        failures.wait().await;
                        break;
                    }
                }
            }
        }
    }

    /// Once nothing has been heard for too long, has the API server make sure that it is up to date itself, by a consistent
    /// list. A watch that is taken up after that shows all that was true when it was asked.
    async fn ask_after_silence(&self) -> Option<Moment> {
        while self.pulse.age(self.now()).is_some_and(|age| age < self.quiet) {
            sleep(LOOK_EVERY).await;
        }
        let asked = self.now();
        let params = ListParams { field_selector: self.fields.clone(), ..ListParams::default() }.limit(1);
        match timeout(ANSWER_WITHIN, self.api.list(&params)).await {
            Ok(Ok(_)) => Some(asked),
            Ok(Err(error)) => {
                warn!(kind = %K::kind(&()), %error, "the API server does not answer");
                None
            }
            Err(error) => {
                warn!(kind = %K::kind(&()), %error, "the API server does not answer");
                None
            }
        }
    }

    fn now(&self) -> Moment {
        Moment::now(self.clock)
    }
}

fn version_of(metadata: &ObjectMeta, before: String) -> String {
    metadata.resource_version.clone().unwrap_or(before)
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Request(#[from] kube::Error),
    #[error("no answer in time")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("the list has no version")]
    Versionless,
}

/// Waits longer with each failure.
#[derive(Default)]
struct Failures(u32);

impl Failures {
    fn none(&mut self) {
        self.0 = 0;
    }

    async fn wait(&mut self) {
        let [first, most] = WAIT;
        sleep(first.saturating_mul(1 << self.0.min(8)).min(most)).await;
        self.0 += 1;
    }
}
