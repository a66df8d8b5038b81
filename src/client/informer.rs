//! Lists all objects of a kind and watches them from then on.

use std::time::Duration;

use kube::{
    Error, Result,
    api::{ListParams, WatchParams},
    runtime::watcher::Event,
};
use tokio::{
    sync::mpsc::Sender,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{Objects, Readable, WatchEvent, Watched};

/// How many objects a list asks for at a time.
const PAGE: u32 = 100;
/// How long the API server may take to begin an answer, and to go on with a list.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a watch may show nothing, not even a bookmark, before it counts as dead. Bookmarks come about every minute.
const SILENT_FOR: Duration = Duration::from_mins(4);
/// How long is waited after a failure, at first and at most.
const WAIT: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];

/// Which objects of a kind are watched.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// By their labels.
    pub labels: Option<String>,
    /// By their fields.
    pub fields: Option<String>,
}

/// Lists and watches until nobody takes the events any more.
pub async fn run<K: Readable>(objects: Objects<K>, selector: Selector, events: Sender<Event<Watched<K>>>) {
    let mut informer = Informer { objects, selector, events, failures: Failures::new(WAIT) };
    while !informer.events.is_closed() {
        match informer.list().await {
            Ok(version) => informer.watch(version).await,
            Err(error) => {
                warn!(kind = %K::kind(&()), %error, "the list failed and is tried again");
                informer.failures.wait().await;
            }
        }
    }
}

struct Informer<K> {
    objects: Objects<K>,
    selector: Selector,
    events: Sender<Event<Watched<K>>>,
    failures: Failures,
}

impl<K: Readable> Informer<K> {
    async fn send(&self, event: Event<Watched<K>>) {
        // Nobody takes it any more when the controller stops; the loop sees that.
        let _ = self.events.send(event).await;
    }

    /// Reads all objects, and returns the version that they are of.
    async fn list(&self) -> Result<String> {
        self.send(Event::Init).await;
        let mut params = ListParams {
            label_selector: self.selector.labels.clone(),
            field_selector: self.selector.fields.clone(),
            ..ListParams::default()
        }
        .limit(PAGE);
        loop {
            let mut page = within(self.objects.list(&params)).await?;
            while let Some(object) = within(page.next()).await? {
                self.send(Event::InitApply(object)).await;
            }
            let metadata = page.metadata();
            let Some(more) = metadata.continue_.filter(|token| !token.is_empty()) else {
                self.send(Event::InitDone).await;
                return Ok(metadata.resource_version.unwrap_or_default());
            };
            params = params.continue_token(&more);
        }
    }

    /// Watches from that version on, until everything has to be read again.
    async fn watch(&mut self, mut version: String) {
        let params = WatchParams {
            label_selector: self.selector.labels.clone(),
            field_selector: self.selector.fields.clone(),
            ..WatchParams::default()
        };
        while !self.events.is_closed() {
            let mut shown = match within(self.objects.watch(&params, &version)).await {
                Ok(shown) => shown,
                Err(error) => {
                    warn!(kind = %K::kind(&()), %error, "the watch failed and is tried again");
                    self.failures.wait().await;
                    // What the API server refuses for good will not be taken up where it was.
                    match error {
                        Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
                            return;
                        }
                        _ => continue,
                    }
                }
            };
            loop {
                let event = match timeout(SILENT_FOR, shown.next()).await {
                    Ok(Ok(Some(event))) => event,
                    // The API server ends each watch now and then; one that ends it at once is not asked in a loop.
                    Ok(Ok(None)) => break self.failures.wait().await,
                    Ok(Err(error)) => {
                        debug!(kind = %K::kind(&()), %error, "the watch was interrupted and is taken up again");
                        break self.failures.wait().await;
                    }
                    Err(_) => break warn!(kind = %K::kind(&()), "the watch is silent and is taken up again"),
                };
                self.failures.none();
                match event {
                    WatchEvent::Applied(object) => {
                        version = version_of(&object, version);
                        self.send(Event::Apply(object)).await;
                    }
                    WatchEvent::Deleted(object) => {
                        version = version_of(&object, version);
                        self.send(Event::Delete(object)).await;
                    }
                    WatchEvent::Bookmark(shown) => version = shown,
                    WatchEvent::Error(status) => {
                        debug!(kind = %K::kind(&()), %status, "the watch ended and everything is read again");
                        return self.failures.wait().await;
                    }
                }
            }
        }
    }
}

/// The version that a watch has shown.
pub(crate) fn version_of<K: Readable>(shown: &Watched<K>, before: String) -> String {
    shown.metadata().resource_version.clone().unwrap_or(before)
}

async fn within<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|late| Err(Error::Service(late.into())))
}

/// Waits longer with each failure.
#[derive(Debug)]
pub(crate) struct Failures {
    wait: [Duration; 2],
    count: u32,
}

impl Failures {
    pub(crate) const fn new(wait: [Duration; 2]) -> Self {
        Self { wait, count: 0 }
    }

    pub(crate) fn none(&mut self) {
        self.count = 0;
    }

    pub(crate) async fn wait(&mut self) {
        let [first, most] = self.wait;
        sleep(first.saturating_mul(1 << self.count.min(8)).min(most)).await;
        self.count += 1;
    }
}
