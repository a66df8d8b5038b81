//! The probes of a container: when it has started, when it is ready, and when it has to be restarted.
//!
//! Knows nothing of what a probe does, nor of how a container ends.

use std::time::Duration;

use futures::future::pending;
use k8s_openapi::api::core::v1::Probe;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{
    action::{Action, act},
    container::Inside,
    pod::Place,
};

/// Probes a container that runs. Returns when it has to be restarted, with the time that it has to end.
pub(super) async fn attend(within: &Inside<'_>, place: Place) -> Duration {
    let container = within.container;
    if let Some(startup) = &container.startup_probe
        && !turns(within, startup, |_| true).await
    {
        return grace(within, startup);
    }
    within.life.tell(place, |run| {
        run.status.started = Some(true);
        run.status.ready = container.readiness_probe.is_none();
    });
    tokio::select! {
        grace = live(within) => grace,
        () = ready(within, place) => pending().await,
    }
}

async fn live(within: &Inside<'_>) -> Duration {
    let Some(probe) = &within.container.liveness_probe else { return pending().await };
    turns(within, probe, |good| !good).await;
    grace(within, probe)
}

async fn ready(within: &Inside<'_>, place: Place) {
    let Some(probe) = &within.container.readiness_probe else { return pending().await };
    turns(within, probe, |good| {
        within.life.tell(place, |run| run.status.ready = good);
        false
    })
    .await;
}

/// Probes until what came of it is enough, and tells what came of it.
async fn turns(within: &Inside<'_>, probe: &Probe, mut enough: impl FnMut(bool) -> bool) -> bool {
    sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut ticks = interval(seconds(probe.period_seconds, 10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut streak = Streak::default();
    loop {
        ticks.tick().await;
        let passed = timeout(seconds(probe.timeout_seconds, 1), act(within, Action::from(probe))).await;
        if let Some(good) = streak.add(passed == Ok(true), probe)
            && enough(good)
        {
            return good;
        }
    }
}

/// How often in a row a probe has passed, or failed.
#[derive(Debug, Default)]
struct Streak {
    good: bool,
    length: i32,
}

impl Streak {
    /// Counts one more, and tells what is to be thought now; nothing while it may be chance.
    fn add(&mut self, passed: bool, probe: &Probe) -> Option<bool> {
        self.length = if self.good == passed { self.length.saturating_add(1) } else { 1 };
        self.good = passed;
        let threshold =
            if passed { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        (self.length >= threshold).then_some(passed)
    }
}

fn grace(within: &Inside<'_>, probe: &Probe) -> Duration {
    let said = probe.termination_grace_period_seconds;
    let said = said.or(within.life.spec().termination_grace_period_seconds);
    Duration::from_secs(said.unwrap_or(30).unsigned_abs())
}

fn seconds(said: Option<i32>, otherwise: u32) -> Duration {
    Duration::from_secs(said.map_or(otherwise, i32::unsigned_abs).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_takes_as_many_in_a_row_as_the_probe_says() {
        let probe = Probe { failure_threshold: Some(2), success_threshold: Some(2), ..Probe::default() };
        let mut streak = Streak::default();
        let verdicts =
            [false, true, true, true, false, true, false, false].map(|passed| streak.add(passed, &probe));
        let (good, bad) = (Some(true), Some(false));
        assert_eq!(verdicts, [None, None, good, good, None, None, None, bad]);
    }
}
