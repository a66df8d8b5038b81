//! When Secrets appear and go, as a client's watch sees it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    core::PartialObjectMeta,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::world::Space;

/// How long nothing may happen.
const STUCK_AFTER: Duration = Duration::from_mins(1);

/// The Secrets of a namespace since the watch was opened.
pub struct Secrets {
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    times: Mutex<Times>,
    news: Notify,
}

#[derive(Default)]
struct Times {
    listed: bool,
    appeared: HashMap<String, Instant>,
    gone: HashMap<String, Instant>,
}

impl Secrets {
    /// Opens the watch and waits until it has shown what is there.
    pub async fn watch(space: &Space) -> Self {
        let seen = Arc::new(Seen::default());
        let task = tokio::spawn({
            let seen = seen.clone();
            let events = watcher(space.api::<PartialObjectMeta<Secret>>(), watcher::Config::default());
            async move {
                let mut events = std::pin::pin!(events);
                while let Some(event) = events.next().await {
                    seen.take_in(event.unwrap());
                }
            }
        });
        let secrets = Self { seen, task };
        secrets.until(|times| times.listed).await;
        secrets
    }

    async fn until(&self, reached: impl Fn(&Times) -> bool) {
        loop {
            // Asked for first, so that nothing goes missing between the look and the wait.
            let mut news = std::pin::pin!(self.seen.news.notified());
            news.as_mut().enable();
            if reached(&self.seen.times.lock().unwrap()) {
                return;
            }
            let news = timeout(STUCK_AFTER, news).await;
            let times = self.seen.times.lock().unwrap();
            let counts = (times.appeared.len(), times.gone.len());
            assert!(news.is_ok(), "no Secret appears or goes any more after {counts:?}");
        }
    }

    /// Waits until that many have appeared since the watch was opened, and tells when each was seen.
    pub async fn appeared(&self, count: usize) -> HashMap<String, Instant> {
        self.until(|times| times.appeared.len() >= count).await;
        self.seen.times.lock().unwrap().appeared.clone()
    }

    /// Waits until the Secret of this name has appeared since the watch was opened, and tells when it was seen.
    pub async fn appeared_as(&self, name: &str) -> Instant {
        self.until(|times| times.appeared.contains_key(name)).await;
        self.seen.times.lock().unwrap().appeared[name]
    }

    /// Waits until that many have gone, and tells when the last did.
    pub async fn gone(&self, count: usize) -> Instant {
        self.until(|times| times.gone.len() >= count).await;
        self.seen.times.lock().unwrap().gone.values().max().copied().unwrap()
    }
}

impl Seen {
    fn take_in(&self, event: Event<PartialObjectMeta<Secret>>) {
        let now = Instant::now();
        let name = |secret: PartialObjectMeta<Secret>| secret.metadata.name.unwrap_or_default();
        let mut times = self.times.lock().unwrap();
        match event {
            Event::Apply(secret) => {
                times.appeared.entry(name(secret)).or_insert(now);
            }
            Event::Delete(secret) => {
                times.gone.insert(name(secret), now);
            }
            Event::InitDone => times.listed = true,
            Event::Init | Event::InitApply(_) => {}
        }
        drop(times);
        self.news.notify_waiters();
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.task.abort();
    }
}
