//! How often a lost value is replaced: once an incident, at most once a minute, and the fourth time within ten minutes
//! not without a human, or an hour.

use jiff::{SignedDuration, Timestamp};

use super::Live;
use crate::api::{
    Reason,
    condition::{ConditionType, seconds},
};

/// A lost value is replaced at most this often.
pub const REPLACE_EVERY: SignedDuration = SignedDuration::from_mins(1);
/// How many replacements within [`REPLACE_WINDOW`] are made; the next loss waits for a human.
pub const REPLACE_AT_MOST: usize = 3;
/// See [`REPLACE_AT_MOST`].
pub const REPLACE_WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// How long a token that lost its value too often waits when no human acts.
pub const REPLACE_AGAIN_AFTER: SignedDuration = SignedDuration::from_hours(1);
impl Live<'_> {
    pub(super) fn note_replacement(&mut self) {
        if self.status.serial.is_some() {
            self.forgive();
            self.status.replaced_at.push(seconds(self.now).into());
            let excess = self.status.replaced_at.len().saturating_sub(REPLACE_AT_MOST);
            self.status.replaced_at.drain(..excess);
        }
    }

    fn replaced(&self) -> Vec<Timestamp> {
        let replaced = self.status.replaced_at.iter();
        replaced.filter_map(|at| at.timestamp().ok()).collect()
    }

    /// Since when it waits for a human because of a Secret.
    fn stalled_since(&self) -> Option<Timestamp> {
        let conditions = self.observed.token.status.iter().flat_map(|status| &status.conditions);
        let stalled = conditions.into_iter().find(|condition| {
            condition.kind == ConditionType::Stalled.as_str()
                && condition.status == "True"
                && condition.reason == Reason::Conflict.as_str()
        });
        stalled?.last_transition_time.timestamp().ok()
    }

    /// Whether this loss is one too many, and an hour has not passed.
    fn lost_too_often(&self) -> bool {
        let replaced = self.replaced();
        let (Some(first), Some(last)) = (replaced.first(), replaced.last()) else {
            return false;
        };
        // Long after, the loss is as old as the wait for a human; and a wait for something else that stood in the
        // way does not make a loss of today one of many back then.
        let lost_at = self.stalled_since().unwrap_or(self.now);
        replaced.len() >= REPLACE_AT_MOST
            && self.now.duration_since(*last) < REPLACE_AGAIN_AFTER
            && last.duration_since(*first) < REPLACE_WINDOW
            && lost_at.duration_since(*first) < REPLACE_WINDOW
    }

    /// A human acted, so the count begins anew.
    fn forgive(&mut self) {
        if self.observed.touched && self.stalled_since().is_some() && self.lost_too_often() {
            self.status.replaced_at.clear();
        }
    }

    /// Why and until when a lost value is not replaced yet, and whether a human must act.
    pub(super) fn too_often(&mut self) -> Option<(String, Option<Timestamp>, bool)> {
        self.forgive();
        let last = *self.replaced().last()?;
        let now = self.now;
        if self.lost_too_often() {
            let say = format!(
                "the token's Secret was deleted or replaced {} times within 10 minutes; find out by whom, then change an \
                 annotation of this ApiToken for a new value at once, or wait an hour",
                REPLACE_AT_MOST + 1
            );
            return Some((say, last.checked_add(REPLACE_AGAIN_AFTER).ok(), true));
        }
        let again = last.checked_add(REPLACE_EVERY).ok()?;
        // A clock that was set back must not make the wait longer than it was meant to be.
        let wait = now < again && now >= last;
        wait.then(|| {
            let say = "the token's Secret was deleted or replaced again; a new value is issued at most once a minute";
            (say.to_owned(), Some(again), false)
        })
    }
}
