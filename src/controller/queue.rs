//! What is to be reconciled, and when.
//!
//! One queue for all kinds: first come, first served within a namespace, and namespaces in turn, so that nobody
//! waits behind somebody else's thousands. Nor behind somebody else's slow requests: a namespace never holds more
//! places of work than are left free. A key is worked on by one worker at a time; what arrives meanwhile is done once
//! more afterwards. Two schedules feed it: ends, in wall time, compared with the clock every half second
//! so that a suspended machine or a stepped clock delays none; and retries, in monotonic time, which no step moves.
//!
//! Knows nothing of what the keys stand for.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::{sync::Notify, time::Instant};

use crate::domain::clock::Clock;

/// How often the wall clock is compared with the schedule at the least.
const TICK: Duration = Duration::from_millis(500);

/// A clock that is slewed goes back by less.
const SET_BACK: SignedDuration = SignedDuration::from_secs(1);

const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_mins(1);

/// What can be queued.
pub trait Key: Clone + Eq + Hash + Ord {
    /// What it is served fairly against: its namespace.
    fn lane(&self) -> &str;
}

/// The queue. Cheap to share by reference; every method but [`Queue::next`] returns at once.
pub struct Queue<K> {
    clock: Arc<dyn Clock>,
    state: Mutex<State<K>>,
    news: Notify,
}

struct State<K> {
    lanes: HashMap<String, VecDeque<K>>,
    turns: VecDeque<String>,
    /// How many more keys may be worked on now.
    free: usize,
    /// How many keys of a lane are being worked on.
    working: HashMap<String, usize>,
    standing: HashMap<K, Standing>,
    ends: Schedule<Timestamp, K>,
    /// The wall clock when it was last looked at.
    clock_showed: Option<Timestamp>,
    retries: Schedule<Instant, K>,
    attempts: HashMap<K, u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Waiting,
    Working,
    /// Something arrived while it was worked on.
    WorkingWithNews,
}

/// At most one instant a key, and the earliest first.
struct Schedule<T, K> {
    order: BTreeSet<(T, K)>,
    by_key: HashMap<K, T>,
}

impl<T: Copy + Ord, K: Key> Schedule<T, K> {
    fn new() -> Self {
        Self { order: BTreeSet::new(), by_key: HashMap::new() }
    }

    fn set(&mut self, key: &K, at: Option<T>) {
        if let Some(old) = self.by_key.remove(key) {
            self.order.remove(&(old, key.clone()));
        }
        if let Some(at) = at {
            self.by_key.insert(key.clone(), at);
            self.order.insert((at, key.clone()));
        }
    }

    fn set_earlier(&mut self, key: &K, at: T) {
        if self.by_key.get(key).is_none_or(|old| at < *old) {
            self.set(key, Some(at));
        }
    }

    fn pop_due(&mut self, now: T) -> Option<K> {
        let due = self.order.first().is_some_and(|(at, _)| *at <= now);
        due.then(|| self.order.pop_first()).flatten().map(|(_, key)| {
            self.by_key.remove(&key);
            key
        })
    }

    fn next(&self) -> Option<T> {
        self.order.first().map(|(at, _)| *at)
    }
}

impl<K: Key> State<K> {
    fn add(&mut self, key: K) {
        match self.standing.get_mut(&key) {
            Some(Standing::Waiting | Standing::WorkingWithNews) => {}
            Some(standing @ Standing::Working) => *standing = Standing::WorkingWithNews,
            None => self.enqueue(key),
        }
    }

    fn enqueue(&mut self, key: K) {
        self.standing.insert(key.clone(), Standing::Waiting);
        let lane = self.lanes.entry(key.lane().to_owned()).or_default();
        if lane.is_empty() {
            self.turns.push_back(key.lane().to_owned());
        }
        lane.push_back(key);
    }

    fn take(&mut self) -> Option<K> {
        // The dynamic threshold of shared buffers (Choudhury and Hahne, 1998): however many lanes are stuck, the next
        // one finds a place.
        let held = |lane: &String| self.working.get(lane).copied().unwrap_or_default();
        let next = self.turns.iter().position(|lane| held(lane) < self.free)?;
        let turn = self.turns.remove(next)?;
        let lane = self.lanes.get_mut(&turn)?;
        let key = lane.pop_front()?;
        let more = !lane.is_empty();
        self.free -= 1;
        *self.working.entry(turn.clone()).or_default() += 1;
        self.standing.insert(key.clone(), Standing::Working);
        if more {
            self.turns.push_back(turn);
        } else {
            self.lanes.remove(&turn);
        }
        Some(key)
    }

    fn take_due(&mut self, now: Timestamp, instant: Instant) {
        // What was put down for ten seconds later, by a clock that has been set back by an hour since, is planned anew.
        if self.clock_showed.is_some_and(|before| before.duration_since(now) > SET_BACK) {
            while let Some(key) = self.ends.pop_due(Timestamp::MAX) {
                self.add(key);
            }
        }
        self.clock_showed = Some(now);
        while let Some(key) = self.ends.pop_due(now) {
            self.add(key);
        }
        while let Some(key) = self.retries.pop_due(instant) {
            self.add(key);
        }
    }
}

impl<K: Key> Queue<K> {
    /// An empty queue that reads ends by `clock` and has at most `places` keys worked on at a time.
    pub fn new(clock: Arc<dyn Clock>, places: usize) -> Self {
        let state = State {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            free: places,
            working: HashMap::new(),
            standing: HashMap::new(),
            ends: Schedule::new(),
            clock_showed: None,
            retries: Schedule::new(),
            attempts: HashMap::new(),
        };
        Self { clock, state: Mutex::new(state), news: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        // No method panics half-way through a change, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for work on `key` as soon as its turn comes.
    pub fn add(&self, key: K) {
        self.state().add(key);
        self.news.notify_one();
    }

    /// Asks for work on `key` after `delay`, or earlier if that was asked for before.
    pub fn add_after(&self, key: &K, delay: Duration) {
        self.state().retries.set_earlier(key, Instant::now() + delay);
        self.news.notify_one();
    }

    /// Asks for work on `key` at `at` by the wall clock, instead of whenever it was asked for so far.
    pub fn wake(&self, key: &K, at: Option<Timestamp>) {
        self.state().ends.set(key, at);
        self.news.notify_one();
    }

    /// The next key to work on, once there is a place; [`Queue::done`] or [`Queue::failed`] must follow and give it
    /// back.
    pub async fn next(&self) -> K {
        loop {
            let until = {
                let mut state = self.state();
                let (now, instant) = (self.clock.now(), Instant::now());
                state.take_due(now, instant);
                if let Some(key) = state.take() {
                    return key;
                }
                let end = state.ends.next().and_then(|at| Duration::try_from(at.duration_since(now)).ok());
                let retry = state.retries.next().map(|at| at.saturating_duration_since(instant));
                [end, retry].into_iter().flatten().min().unwrap_or(TICK).min(TICK)
            };
            // Either somebody has news, or it is time to look again.
            let _ = tokio::time::timeout(until, self.news.notified()).await;
        }
    }

    /// Whether any key waits for a place.
    pub fn has_waiting(&self) -> bool {
        !self.state().lanes.is_empty()
    }

    /// How many keys wait for a place.
    pub fn waiting(&self) -> usize {
        self.state().lanes.values().map(VecDeque::len).sum()
    }

    /// How many keys' work failed the last time.
    pub fn failing(&self) -> usize {
        self.state().attempts.len()
    }

    /// How often work on `key` failed since it last succeeded.
    pub fn attempts(&self, key: &K) -> u32 {
        self.state().attempts.get(key).copied().unwrap_or_default()
    }

    /// The work on `key` is done.
    pub fn done(&self, key: &K) {
        let mut state = self.state();
        state.attempts.remove(key);
        Self::release(&mut state, key);
        drop(state);
        self.news.notify_one();
    }

    /// The work on `key` failed, to be tried again after a delay that doubles from attempt to attempt, to a minute.
    pub fn failed(&self, key: &K, at_least: Duration) {
        let mut state = self.state();
        let attempts = state.attempts.entry(key.clone()).or_default();
        let delay = FIRST_RETRY.saturating_mul(1 << (*attempts).min(16)).clamp(at_least, LAST_RETRY);
        *attempts += 1;
        state.retries.set(key, Some(Instant::now() + delay));
        Self::release(&mut state, key);
        drop(state);
        self.news.notify_one();
    }

    fn release(state: &mut State<K>, key: &K) {
        let Some(standing) = state.standing.remove(key) else { return };
        state.free += 1;
        if let Entry::Occupied(mut held) = state.working.entry(key.lane().to_owned()) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        if standing == Standing::WorkingWithNews {
            state.enqueue(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    struct Item(&'static str, u32);

    impl Key for Item {
        fn lane(&self) -> &str {
            self.0
        }
    }

    #[derive(Default)]
    struct SetClock(Mutex<Timestamp>);

    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    fn queue() -> (Arc<SetClock>, Queue<Item>) {
        let clock = Arc::new(SetClock::default());
        (clock.clone(), Queue::new(clock, 8))
    }

    async fn soon(queue: &Queue<Item>) -> Option<Item> {
        tokio::time::timeout(Duration::from_secs(2), queue.next()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_are_served_in_turn_and_each_in_order() {
        let (_, queue) = queue();
        for n in 0..3 {
            queue.add(Item("many", n));
        }
        queue.add(Item("one", 0));
        let mut served = Vec::new();
        while let Some(item) = soon(&queue).await {
            queue.done(&item);
            served.push(item);
        }
        assert_eq!(served, [Item("many", 0), Item("one", 0), Item("many", 1), Item("many", 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_is_stuck_leaves_places_to_the_others() {
        let (_, queue) = queue();
        for lane in ["stuck", "stuck too"] {
            for n in 0..100 {
                queue.add(Item(lane, n));
            }
        }
        let mut held = Vec::new();
        while let Some(item) = soon(&queue).await {
            held.push(item);
        }
        assert_eq!(held.len(), 6);
        queue.add(Item("new", 0));
        assert_eq!(soon(&queue).await, Some(Item("new", 0)));
        queue.add(Item("newer", 0));
        assert_eq!(soon(&queue).await, Some(Item("newer", 0)));
        assert_eq!(soon(&queue).await, None);
        for done in [&held[0], &Item("new", 0), &Item("newer", 0)] {
            queue.done(done);
        }
        assert_eq!(soon(&queue).await, Some(Item("stuck", 3)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_once_at_a_time_and_again_for_what_arrived_meanwhile() {
        let (_, queue) = queue();
        queue.add(Item("a", 0));
        let item = soon(&queue).await.unwrap();
        queue.add(Item("a", 0));
        queue.add(Item("a", 0));
        assert_eq!(soon(&queue).await, None);
        queue.done(&item);
        assert_eq!(soon(&queue).await, Some(Item("a", 0)));
        queue.done(&item);
        assert_eq!(soon(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_follow_the_wall_clock_when_it_is_stepped() {
        let (clock, queue) = queue();
        let hour = Timestamp::from_second(3600).unwrap();
        queue.wake(&Item("a", 0), Some(hour));
        assert_eq!(soon(&queue).await, None);
        *clock.0.lock().unwrap() = hour;
        assert_eq!(soon(&queue).await, Some(Item("a", 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_has_everything_planned_anew() {
        let (clock, queue) = queue();
        let hour = Timestamp::from_second(3600).unwrap();
        *clock.0.lock().unwrap() = hour;
        queue.wake(&Item("a", 0), Some(hour + SignedDuration::from_secs(10)));
        assert_eq!(soon(&queue).await, None);
        *clock.0.lock().unwrap() = Timestamp::UNIX_EPOCH;
        assert_eq!(soon(&queue).await, Some(Item("a", 0)));
        queue.done(&Item("a", 0));
        assert_eq!(soon(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn retries_follow_monotonic_time_and_slow_down_to_a_minute() {
        let (_, queue) = queue();
        queue.add(Item("a", 0));
        let mut waits = Vec::new();
        for _ in 0..12 {
            let before = Instant::now();
            let item = queue.next().await;
            waits.push(before.elapsed().as_millis());
            queue.failed(&item, Duration::ZERO);
        }
        assert_eq!(waits[..4], [0, 250, 500, 1000]);
        assert_eq!(*waits.last().unwrap(), 60_000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_again_and_again_is_tried_67_times_an_hour() {
        let (_, queue) = queue();
        queue.add(Item("poison", 0));
        let hour = Instant::now() + Duration::from_hours(1);
        let mut attempts = 0;
        loop {
            let item = queue.next().await;
            if Instant::now() >= hour {
                break;
            }
            attempts += 1;
            queue.failed(&item, Duration::from_secs(5));
        }
        assert_eq!(attempts, 67);
    }
}
