//! Draws that take long, such as RSA keys and slow hashes: a few at a time, in threads of their own, while their objects
//! wait in nobody's way.

use std::{
    collections::{HashMap, VecDeque},
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::Key;
use crate::domain::material::{Drawn, Problem};

/// How many are under way at a time.
const AT_ONCE: usize = 2;

type Outcome = Result<Drawn, Problem>;

/// Filled once; with `None` when it panicked.
type Slot = Arc<OnceLock<Option<Outcome>>>;

/// The draws that wait, are under way, or are done and not published yet, at most one for each object.
pub struct Draws {
    desk: Arc<Desk>,
    reports: tokio::sync::Mutex<mpsc::UnboundedReceiver<Key>>,
}

struct Desk {
    state: Mutex<State>,
    report: mpsc::UnboundedSender<Key>,
}

#[derive(Default)]
struct State {
    jobs: HashMap<Key, Job>,
    /// What waits, by namespace, in the order in which the namespaces get their turns.
    waiting: VecDeque<(String, VecDeque<Waiting>)>,
    running: usize,
}

struct Waiting {
    key: Key,
    outcome: Slot,
    draw: Box<dyn FnOnce() -> Outcome + Send>,
}

struct Job {
    /// What it draws for: of another wish it is of no use.
    wish: String,
    requested_at: Timestamp,
    outcome: Slot,
}

impl Default for Draws {
    fn default() -> Self {
        let (report, reports) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk { state: Mutex::default(), report });
        Self { desk, reports: tokio::sync::Mutex::new(reports) }
    }
}

impl State {
    fn is_wanted(&self, key: &Key, outcome: &Slot) -> bool {
        self.jobs.get(key).is_some_and(|job| Arc::ptr_eq(&job.outcome, outcome))
    }

    /// The next that is still wanted. One of each namespace in turn: who asks for a thousand keys does not hold up who asks
    /// for one.
    fn next(&mut self) -> Option<Waiting> {
        while let Some((namespace, mut queue)) = self.waiting.pop_front() {
            let next = queue.pop_front();
            if !queue.is_empty() {
                self.waiting.push_back((namespace, queue));
            }
            if let Some(next) = next.filter(|next| self.is_wanted(&next.key, &next.outcome)) {
                return Some(next);
            }
        }
        None
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts as many as may be under way.
    fn advance(self: &Arc<Self>) {
        let mut state = self.state();
        while state.running < AT_ONCE
            && let Some(Waiting { key, outcome, draw }) = state.next()
        {
            state.running += 1;
            let desk = self.clone();
            tokio::spawn(async move {
                let drawn = tokio::task::spawn_blocking(draw).await;
                {
                    desk.state().running -= 1;
                    // It is set here alone.
                    let _ = outcome.set(drawn.ok());
                }
                // Nobody listens any more when the controller stops.
                let _ = desk.report.send(key);
                desk.advance();
            });
        }
    }
}

impl Draws {
    /// What was drawn for `key` and this wish, or `None` while that is under way; the first call starts it, in the turn of
    /// `namespace`. It stays until [`Self::forget`], so that a write that failed is tried again with the same.
    ///
    /// # Panics
    /// When the draw panicked; the next call starts it again.
    pub fn fetch(
        &self,
        key: &Key,
        namespace: &str,
        wish: String,
        now: Timestamp,
        draw: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Option<Outcome> {
        let mut state = self.desk.state();
        if let Some(job) = state.jobs.get(key).filter(|job| job.wish == wish) {
            let outcome = job.outcome.get().cloned()?;
            if !matches!(outcome, Some(Ok(_))) {
                // It is tried again: what it failed by, such as the certificate of an authority, may be another then.
                state.jobs.remove(key);
            }
            drop(state);
            // What panicked in another thread did so for this reconcile, which is reported and held back for it.
            return outcome.or_else(|| resume_unwind(Box::new("a draw panicked")));
        }
        let outcome = Arc::new(OnceLock::new());
        state.jobs.insert(key.clone(), Job { wish, requested_at: now, outcome: outcome.clone() });
        let next = Waiting { key: key.clone(), outcome, draw: Box::new(draw) };
        match state.waiting.iter_mut().find(|(waiting, _)| waiting == namespace) {
            Some((_, queue)) => queue.push_back(next),
            None => state.waiting.push_back((namespace.to_owned(), [next].into())),
        }
        drop(state);
        self.desk.advance();
        None
    }

    /// What is drawn for `key`, or was and is not forgotten: for which wish, and since when.
    pub fn requested(&self, key: &Key) -> Option<(String, Timestamp)> {
        self.desk.state().jobs.get(key).map(|job| (job.wish.clone(), job.requested_at))
    }

    /// What was drawn for `key` is not wanted any more.
    pub fn forget(&self, key: &Key) {
        self.desk.state().jobs.remove(key);
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
    use std::{
        collections::BTreeMap,
        panic::{AssertUnwindSafe, catch_unwind},
    };

    use super::*;
    use crate::{controller::Place, domain::material::Facts};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[tokio::test]
    async fn a_draw_is_kept_for_its_wish_only_and_done_again_after_a_panic() {
        let draws = Draws::default();
        let key = Key::Credential(Place::new("n", "c"));
        let result = |id: &str| {
            let facts = Facts { id: Some(id.to_owned()), ..Facts::default() };
            move || Ok(Drawn { entries: BTreeMap::new(), facts })
        };
        let id = |fetched: Option<Outcome>| fetched.map(|outcome| outcome.unwrap().facts.id.unwrap());

        assert!(draws.fetch(&key, "n", "w".to_owned(), NOW, || panic!("a draw that fails")).is_none());
        assert_eq!(draws.done().await, key);
        let again = AssertUnwindSafe(|| draws.fetch(&key, "n", "w".to_owned(), NOW, result("1")));
        assert!(catch_unwind(again).is_err(), "the panic is the reconcile's own");
        assert!(draws.fetch(&key, "n", "w".to_owned(), NOW, result("1")).is_none(), "drawn again");
        assert_eq!(draws.done().await, key);
        assert_eq!(draws.requested(&key), Some(("w".to_owned(), NOW)));
        for again in ["2", "3"] {
            assert_eq!(id(draws.fetch(&key, "n", "w".to_owned(), NOW, result(again))).as_deref(), Some("1"));
        }

        draws.forget(&key);
        assert_eq!(draws.requested(&key), None);
        assert!(draws.fetch(&key, "n", "w".to_owned(), NOW, result("3")).is_none(), "forgotten");
        assert_eq!(draws.done().await, key);
        assert!(draws.fetch(&key, "n", "another".to_owned(), NOW, result("4")).is_none(), "of another wish");
        assert_eq!(draws.done().await, key);
        assert_eq!(id(draws.fetch(&key, "n", "another".to_owned(), NOW, result("5"))).as_deref(), Some("4"));
    }

    #[tokio::test]
    async fn namespaces_take_turns_and_what_is_not_wanted_any_more_is_not_drawn() {
        let draws = Draws::default();
        let key = |namespace: &str, n: usize| Key::Credential(Place::new(namespace, n));
        let nothing = || Ok(Drawn { entries: BTreeMap::new(), facts: Facts::default() });
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for n in 0..20 {
            let gate = gate.clone();
            let wait = move || {
                // Each waits for a word, or until there is nobody to say it.
                let _ = gate.lock().unwrap_or_else(PoisonError::into_inner).recv();
                nothing()
            };
            assert!(draws.fetch(&key("many", n), "many", "w".to_owned(), NOW, wait).is_none());
        }
        for n in 10..20 {
            draws.forget(&key("many", n));
        }
        assert!(draws.fetch(&key("one", 0), "one", "w".to_owned(), NOW, nothing).is_none());
        // One at a time is let go. Who comes next may be told of a little later than one of those after.
        let mut order = Vec::new();
        while order.len() < AT_ONCE + 3 && !order.contains(&key("one", 0)) {
            open.send(()).unwrap();
            order.push(draws.done().await);
        }
        assert!(order.contains(&key("one", 0)), "{order:?}");
        drop(open);
        for _ in order.len()..11 {
            draws.done().await;
        }
        assert_eq!(draws.desk.state().running, 0);
    }
}
