//! How long ago a watch was last known to be up to date.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::domain::clock::Clock;

const NEVER: i64 = i64::MIN;

/// An instant by both clocks: the monotonic one stands still while a machine is suspended, the other may be set back.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    monotonic: Instant,
    wall: Timestamp,
}

impl Moment {
    /// Now.
    #[must_use]
    pub fn now(clock: &dyn Clock) -> Self {
        Self { monotonic: Instant::now(), wall: clock.now() }
    }

    /// By the wall clock, which alone decides what has ended.
    #[must_use]
    pub const fn wall(&self) -> Timestamp {
        self.wall
    }

    /// How long ago that was, by the monotonic clock.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.monotonic.elapsed()
    }
}

/// When a watch was last known to be up to date.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    monotonic: AtomicI64,
    wall: AtomicI64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { start: Instant::now(), monotonic: AtomicI64::new(NEVER), wall: AtomicI64::new(NEVER) }
    }
}

impl Pulse {
    /// It was up to date then.
    pub fn beat(&self, at: Moment) {
        self.wall.store(at.wall.as_millisecond(), Ordering::Relaxed);
        // Last, since it says that there was a beat at all.
        self.monotonic.store(self.since_start(at), Ordering::Release);
    }

    /// For how long it may have been behind: the longer of what the two clocks say. `None` before the first beat.
    #[must_use]
    pub fn age(&self, now: Moment) -> Option<Duration> {
        let monotonic = self.monotonic.load(Ordering::Acquire);
        if monotonic == NEVER {
            return None;
        }
        let by_monotonic = self.since_start(now) - monotonic;
        let by_wall = now.wall.as_millisecond() - self.wall.load(Ordering::Relaxed);
        Some(Duration::from_millis(by_monotonic.max(by_wall).try_into().unwrap_or_default()))
    }

    fn since_start(&self, at: Moment) -> i64 {
        at.monotonic.saturating_duration_since(self.start).as_millis().try_into().unwrap_or(i64::MAX)
    }
}
