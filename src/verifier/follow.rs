//! Follows all objects of a kind, and knows at each moment for how long it may have been behind.
//!
//! kube's own watcher keeps bookmarks to itself and cannot tell a quiet watch from a dead one. A verifier must: what it
//! does not know of any more it must not accept.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, WatchParams};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::pulse::{Moment, Pulse};
use crate::{
    client::{
        Objects, Readable, WatchEvent, Watched,
        informer::{Failures, version_of},
    },
    domain::clock::Clock,
};

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
    pub objects: Objects<K>,
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

impl<K: Readable> Follow<'_, K> {
    /// Follows until it is dropped.
    pub async fn run(&self, sink: &impl Sink<K>) {
        let mut failures = Failures::new(WAIT);
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
        sink.begin(self.objects.namespace());
        let mut params =
            ListParams { field_selector: self.fields.clone(), ..ListParams::default() }.limit(PAGE);
        loop {
            let mut page = timeout(ANSWER_WITHIN, self.objects.list(&params)).await??;
            while let Some(object) = timeout(ANSWER_WITHIN, page.next()).await?? {
                take_in(sink, &object);
            }
            let metadata = page.metadata();
            let Some(more) = metadata.continue_.filter(|token| !token.is_empty()) else {
                sink.end(self.objects.namespace());
                return metadata.resource_version.ok_or(FollowError::Versionless);
            };
            params = params.continue_token(&more);
        }
    }

    async fn watch(&self, mut version: String, sink: &impl Sink<K>, failures: &mut Failures) -> TooOld {
        let params = WatchParams { field_selector: self.fields.clone(), ..WatchParams::default() };
        // When a list last said what is true now; that counts once a watch shows all up to then.
        let mut asked = None;
        loop {
            let mut events = match timeout(ANSWER_WITHIN, self.objects.watch(&params, &version)).await {
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
                if matches!(event, Ok(Some(_))) {
                    failures.none();
                }
                match event {
                    Ok(Some(WatchEvent::Applied(object))) => {
                        version = version_of(&object, version);
                        take_in(sink, &object);
                        self.pulse.beat(self.now());
                    }
                    Ok(Some(WatchEvent::Deleted(object))) => {
                        version = version_of(&object, version);
                        sink.remove(object.metadata());
                        self.pulse.beat(self.now());
                    }
                    Ok(Some(WatchEvent::Bookmark(shown))) => {
                        version = shown;
                        self.pulse.beat(self.now());
                    }
                    Ok(Some(WatchEvent::Error(status))) => {
                        debug!(kind = %K::kind(&()), %status, "the watch ended and everything is read anew");
                        failures.wait().await;
                        return TooOld;
                    }
                    Err(error) => {
                        debug!(kind = %K::kind(&()), %error, "the watch was interrupted and is taken up again");
                        failures.wait().await;
                        break;
                    }
                    // The API server ends each watch now and then; one that ends it at once is not asked in a loop.
                    Ok(None) => {
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
        let answered = async { self.objects.list(&params).await?.end().await };
        match timeout(ANSWER_WITHIN, answered).await {
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

/// Takes in an object. An invalid one is taken out: it could be too large for a status that refuses its values.
fn take_in<K: Readable>(sink: &impl Sink<K>, object: &Watched<K>) {
    match &object.0 {
        Ok(object) => sink.put(object),
        Err(invalid) => {
            let (kind, metadata) = (K::kind(&()), &invalid.metadata);
            let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
            warn!(%kind, namespace, name, flaw = %invalid.flaw, "object is invalid; its values are rejected");
            sink.remove(metadata);
        }
    }
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
