//! An informer: lists all objects of a kind, then watches them.

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

/// The number of objects in one page of a list.
const PAGE: u32 = 100;
/// The timeout for the beginning of a response, and for each further object of a list.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The time without an event or a bookmark after which a watch is restarted. Bookmarks arrive about every minute.
const SILENT_FOR: Duration = Duration::from_mins(4);
/// The delay after a failure: the first and the longest.
const WAIT: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];

/// Which objects of a kind are watched.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// The label selector.
    pub labels: Option<String>,
    /// The field selector.
    pub fields: Option<String>,
}

/// Lists and watches until the receiver of the events is closed.
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
        // The receiver is closed when the controller stops; the loop in `run` checks that.
        let _ = self.events.send(event).await;
    }

    /// Lists all objects and returns the resource version of the list.
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

    /// Watches from this resource version until the objects must be listed again.
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
                    // After a permanent refusal, a retry from the same version cannot succeed.
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
                    // The API server ends each watch from time to time. The delay prevents a busy loop if it ends each at
                    // once.
                    Ok(Ok(None)) => break self.failures.wait().await,
                    Ok(Err(error)) => {
                        debug!(kind = %K::kind(&()), %error, "the watch was interrupted and is resumed");
                        break self.failures.wait().await;
                    }
                    Err(_) => break warn!(kind = %K::kind(&()), "the watch shows no events and is restarted"),
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
                        debug!(kind = %K::kind(&()), %status, "the watch ended and the objects are listed again");
                        return self.failures.wait().await;
                    }
                }
            }
        }
    }
}

/// The resource version of an object that a watch has shown.
pub(crate) fn version_of<K: Readable>(shown: &Watched<K>, before: String) -> String {
    shown.metadata().resource_version.clone().unwrap_or(before)
}

async fn within<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|late| Err(Error::Service(late.into())))
}

/// An exponential backoff: each failure doubles the delay.
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
