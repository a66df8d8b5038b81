//! When values end, and when each is followed by the next. Computed from the immutable spec alone, never from a status,
//! so that no restored or forged status makes a value live longer.

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use crate::api::{ApiTokenSpec, lifetime::LifetimeError};

/// Why a spec has no end.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EndError {
    /// `expiresIn` is no span of time.
    #[error("spec.expiresIn is {0}")]
    ExpiresIn(#[source] LifetimeError),
    /// `expiresAt` is no instant.
    #[error("spec.expiresAt is not an instant: write RFC 3339 with an offset, such as 2027-01-01T00:00:00Z")]
    ExpiresAt,
    /// Neither or both are set.
    #[error("exactly one of spec.expiresIn and spec.expiresAt must be set; both only with spec.renewBefore")]
    NotOne,
    /// `renewBefore` is no span of time.
    #[error("spec.renewBefore is {0}")]
    RenewBefore(#[source] LifetimeError),
    /// There is nothing to renew.
    #[error("spec.renewBefore needs spec.expiresIn, the life of each value")]
    NothingToRenew,
    /// Three values would be valid at a time.
    #[error("spec.renewBefore is more than half of spec.expiresIn")]
    TooEarly,
    /// The end lies after the last representable instant.
    #[error("the end lies beyond the year 9999")]
    TooLate,
}

/// The terms of a token: one value each.
///
/// A token that does not renew has one term, without a number. One that does has terms from 0: value `n` appears at
/// `creation + n * (expiresIn - renewBefore)` and lives for `expiresIn`, until the token itself is over. A value that is
/// lost is replaced within its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    first_end: Timestamp,
    renewal: Option<Renewal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Renewal {
    created_at: Timestamp,
    every: SignedDuration,
    until: Option<Timestamp>,
}

impl Terms {
    /// The terms of a token that was created at `created_at`.
    ///
    /// # Errors
    /// When the spec states none; only a spec that was stored before the schema refused it does not.
    pub fn of(spec: &ApiTokenSpec, created_at: Timestamp) -> Result<Self, EndError> {
        let until = spec.expires_at.as_ref().map(|at| at.timestamp().map_err(|_| EndError::ExpiresAt));
        let life = spec.expires_in.as_ref().map(|life| life.duration().map_err(EndError::ExpiresIn));
        let (until, life) = (until.transpose()?, life.transpose()?);
        let end = |life| created_at.checked_add(life).map_err(|_| EndError::TooLate);
        let Some(before) = &spec.renew_before else {
            let first_end = match (life, until) {
                (Some(life), None) => end(life)?,
                (None, Some(at)) => at,
                (None, None) | (Some(_), Some(_)) => return Err(EndError::NotOne),
            };
            return Ok(Self { first_end, renewal: None });
        };
        let before = before.duration().map_err(EndError::RenewBefore)?;
        let life = life.ok_or(EndError::NothingToRenew)?;
        if before > life / 2 {
            return Err(EndError::TooEarly);
        }
        let renewal = Renewal { created_at, every: life - before, until };
        Ok(Self { first_end: end(life)?, renewal: Some(renewal) })
    }

    /// From when on the token has no value any more; `None` where it goes on and on.
    #[must_use]
    pub fn over_at(&self) -> Option<Timestamp> {
        self.renewal.map_or(Some(self.first_end), |renewal| renewal.until)
    }

    /// The term whose value is the current one; `None` where the token does not renew.
    #[must_use]
    pub fn current(&self, now: Timestamp) -> Option<i64> {
        let renewal = self.renewal?;
        let begun = now.duration_since(renewal.created_at).as_nanos().div_euclid(renewal.every.as_nanos());
        let begun = i64::try_from(begun).unwrap_or(i64::MAX);
        Some(begun.min(self.last(&renewal)).max(0))
    }

    /// When the value of a term ends.
    #[must_use]
    pub fn end(&self, term: Option<i64>) -> Timestamp {
        let Some(renewal) = self.renewal else { return self.first_end };
        // What cannot be told is over: a term like that is made up.
        let end = after(self.first_end, &renewal, term.unwrap_or_default()).unwrap_or(Timestamp::MIN);
        renewal.until.map_or(end, |until| until.min(end))
    }

    /// When the value of a term is followed by the next; `None` for the last.
    #[must_use]
    pub fn followed_at(&self, term: Option<i64>) -> Option<Timestamp> {
        let renewal = self.renewal?;
        let next = term.unwrap_or_default().checked_add(1)?;
        if next > self.last(&renewal) { None } else { after(renewal.created_at, &renewal, next) }
    }

    /// The first term whose value lives to the end of the token: a value after it would have nothing to add.
    fn last(&self, renewal: &Renewal) -> i64 {
        let Some(until) = renewal.until else { return i64::MAX };
        let rest = until.duration_since(self.first_end).as_nanos();
        i64::try_from(-(-rest).div_euclid(renewal.every.as_nanos())).unwrap_or(i64::MAX).max(0)
    }
}

fn after(start: Timestamp, renewal: &Renewal, terms: i64) -> Option<Timestamp> {
    let span = renewal.every.as_secs().checked_mul(terms)?;
    start.checked_add(SignedDuration::from_secs(span)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CREATED: &str = "2026-01-01T00:00:00Z";

    fn spec(life: Option<&str>, at: Option<&str>, before: Option<&str>) -> ApiTokenSpec {
        ApiTokenSpec {
            expires_in: life.map(Into::into),
            expires_at: at.map(Into::into),
            renew_before: before.map(Into::into),
            ..ApiTokenSpec::default()
        }
    }

    fn terms(life: &str, at: Option<&str>, before: &str) -> Terms {
        Terms::of(&spec(Some(life), at, Some(before)), day(0)).unwrap()
    }

    fn day(n: i64) -> Timestamp {
        CREATED.parse::<Timestamp>().unwrap() + SignedDuration::from_hours(24 * n)
    }

    #[test]
    fn values_follow_each_other_by_formula() {
        let terms = terms("30d", None, "7d");
        assert_eq!(terms.over_at(), None);
        for (term, appears, end) in [(0, 0, 30), (1, 23, 53), (2, 46, 76), (10, 230, 260)] {
            assert_eq!(terms.end(Some(term)), day(end), "the end of {term}");
            assert_eq!(terms.current(day(appears)), Some(term));
            assert_eq!(terms.current(day(appears) - SignedDuration::from_nanos(1)), Some((term - 1).max(0)));
            assert_eq!(terms.followed_at(Some(term)), Some(day(appears + 23)));
        }
    }

    #[test]
    fn the_last_value_lives_to_the_end_of_the_token() {
        for (at, last) in
            [("2026-01-20T00:00:00Z", 0), ("2026-01-31T00:00:00Z", 0), ("2026-02-01T00:00:00Z", 1)]
        {
            let terms = terms("30d", Some(at), "7d");
            assert_eq!(terms.over_at(), at.parse().ok());
            assert_eq!(terms.end(Some(last)), at.parse().unwrap());
            assert_eq!(terms.current(day(1000)), Some(last), "{at}");
            assert_eq!(terms.followed_at(Some(last)), None);
        }
    }

    #[test]
    fn what_does_not_renew_has_one_value() {
        let terms = Terms::of(&spec(Some("30d"), None, None), day(0)).unwrap();
        assert_eq!((terms.over_at(), terms.end(None), terms.end(Some(7))), (Some(day(30)), day(30), day(30)));
        assert_eq!((terms.current(day(90)), terms.followed_at(None)), (None, None));
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (spec, error) in [
            (spec(None, None, None), EndError::NotOne),
            (spec(Some("1h"), Some(CREATED), None), EndError::NotOne),
            (spec(None, Some(CREATED), Some("1h")), EndError::NothingToRenew),
            (spec(Some("1h"), None, Some("31m")), EndError::TooEarly),
            (spec(Some("1h"), None, Some("1.5m")), EndError::RenewBefore(LifetimeError)),
            (spec(Some("1.5h"), None, None), EndError::ExpiresIn(LifetimeError)),
            (spec(None, Some("tomorrow"), None), EndError::ExpiresAt),
        ] {
            assert_eq!(Terms::of(&spec, day(0)), Err(error));
        }
        assert_eq!(terms("1h", None, "30m").end(Some(i64::MAX)), Timestamp::MIN, "a number that is made up");
    }

    proptest! {
        #[test]
        fn at_most_two_values_are_valid_and_always_one(
            life in 2..10_000_i64, before in 1..5_000_i64, until in prop::option::of(0..40_000_i64), now in 0..40_000_i64,
        ) {
            prop_assume!(before <= life / 2);
            let minute = |n| day(0) + SignedDuration::from_mins(n);
            let at = until.map(|until| minute(until).to_string());
            let terms = terms(&format!("{life}m"), at.as_deref(), &format!("{before}m"));
            let now = minute(now);
            let over = terms.over_at().is_some_and(|over| over <= now);
            let current = terms.current(now).unwrap();
            let there = |term: i64| term == 0 || terms.followed_at(Some(term - 1)).is_some_and(|at| at <= now);
            let valid: Vec<_> =
                (0..current + 3).filter(|term| there(*term) && now < terms.end(Some(*term))).collect();
            if over {
                prop_assert!(valid.is_empty());
            } else {
                prop_assert!(valid.len() <= 2 && valid.last() == Some(&current), "{valid:?} with {current}");
            }
        }
    }
}
