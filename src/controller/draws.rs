//! Draws that take long, such as RSA keys and slow hashes: a few at a time, in threads of their own, while their objects
//! wait in nobody's way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tokio::sync::{Semaphore, mpsc};

use super::Key;
use crate::domain::material::{Drawn, Problem};

/// How many are under way at a time.
const AT_ONCE: usize = 2;

type Outcome = Result<Drawn, Problem>;

/// The draws that are under way or done and not fetched yet, at most one for each object.
pub struct Draws {
    pool: Arc<Semaphore>,
    jobs: Mutex<HashMap<Key, Job>>,
    report: mpsc::UnboundedSender<Key>,
    reports: tokio::sync::Mutex<mpsc::UnboundedReceiver<Key>>,
}

struct Job {
    /// What it draws for: of another wish it is of no use.
    wish: String,
    outcome: Arc<OnceLock<Outcome>>,
}

impl Default for Draws {
    fn default() -> Self {
        let (report, reports) = mpsc::unbounded_channel();
        Self {
            pool: Arc::new(Semaphore::new(AT_ONCE)),
            jobs: Mutex::default(),
            report,
            reports: tokio::sync::Mutex::new(reports),
        }
    }
}

impl Draws {
    /// What was drawn for `key` and this wish, or `None` while that is under way; the first call starts it.
    pub fn fetch(
        &self,
        key: &Key,
        wish: String,
        draw: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Option<Outcome> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = jobs.get(key).filter(|job| job.wish == wish) {
            let outcome = job.outcome.get().cloned()?;
            jobs.remove(key);
            return Some(outcome);
        }
        let outcome = Arc::new(OnceLock::new());
        jobs.insert(key.clone(), Job { wish, outcome: outcome.clone() });
        drop(jobs);
        let (pool, report, key) = (self.pool.clone(), self.report.clone(), key.clone());
        tokio::spawn(async move {
            let permit = pool.acquire_owned().await;
            let drawn = tokio::task::spawn_blocking(draw).await;
            drop(permit);
            // A draw that panics is drawn again.
            if let Ok(drawn) = drawn {
                // It is set here alone.
                let _ = outcome.set(drawn);
            }
            // Nobody listens any more when the controller stops.
            let _ = report.send(key);
        });
        None
    }

    /// What was drawn for `key` is not wanted any more.
    pub fn forget(&self, key: &Key) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// The next object whose draw is done.
    pub async fn done(&self) -> Key {
        match self.reports.lock().await.recv().await {
            Some(key) => key,
            // The sender lives as long as this does.
            None => std::future::pending().await,
        }
    }
}
