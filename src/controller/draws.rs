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
    jobs: Arc<Jobs>,
    report: mpsc::UnboundedSender<Key>,
    reports: tokio::sync::Mutex<mpsc::UnboundedReceiver<Key>>,
}

type Jobs = Mutex<HashMap<Key, Job>>;

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
            jobs: Arc::default(),
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
        let (pool, jobs) = (self.pool.clone(), self.jobs.clone());
        let (report, key) = (self.report.clone(), key.clone());
        tokio::spawn(async move {
            let permit = pool.acquire_owned().await;
            let drawn = tokio::task::spawn_blocking(draw).await;
            drop(permit);
            if let Ok(drawn) = drawn {
                // It is set here alone.
                let _ = outcome.set(drawn);
            } else {
                // It panicked. Whoever asks the next time has it drawn again.
                let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
                if jobs.get(&key).is_some_and(|job| Arc::ptr_eq(&job.outcome, &outcome)) {
                    jobs.remove(&key);
                }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{controller::Place, domain::material::Facts};

    #[tokio::test]
    async fn a_draw_is_fetched_once_and_only_for_its_wish_and_done_again_after_a_panic() {
        let draws = Draws::default();
        let key = Key::Credential(Place::new("n", "c"));
        let result = |id: &str| {
            let facts = Facts { id: Some(id.to_owned()), ..Facts::default() };
            move || Ok(Drawn { entries: BTreeMap::new(), facts })
        };
        let id = |fetched: Option<Outcome>| fetched.map(|outcome| outcome.unwrap().facts.id.unwrap());

        assert!(draws.fetch(&key, "w".to_owned(), || panic!("a draw that fails")).is_none());
        assert_eq!(draws.done().await, key);
        assert!(draws.fetch(&key, "w".to_owned(), result("1")).is_none(), "drawn again");
        assert_eq!(draws.done().await, key);
        assert_eq!(id(draws.fetch(&key, "w".to_owned(), result("2"))).as_deref(), Some("1"));

        assert!(draws.fetch(&key, "w".to_owned(), result("3")).is_none(), "fetched before");
        assert_eq!(draws.done().await, key);
        assert!(draws.fetch(&key, "another".to_owned(), result("4")).is_none(), "of another wish");
        assert_eq!(draws.done().await, key);
        assert_eq!(id(draws.fetch(&key, "another".to_owned(), result("5"))).as_deref(), Some("4"));
    }
}
