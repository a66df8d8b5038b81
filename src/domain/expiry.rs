//! When a value ends. Computed from the immutable spec alone, never from a status, so that no restored or forged
//! status makes a value live longer.

use jiff::Timestamp;
use thiserror::Error;

use crate::api::{ApiTokenSpec, lifetime::LifetimeError};

/// Why a spec has no end.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EndError {
    /// `expiresIn` is no span of time.
    #[error("spec.expiresIn is {0}")]
    ExpiresIn(#[from] LifetimeError),
    /// `expiresAt` is no instant.
    #[error("spec.expiresAt is not an instant: write RFC 3339 with an offset, such as 2027-01-01T00:00:00Z")]
    ExpiresAt,
    /// Neither or both are set.
    #[error("exactly one of spec.expiresIn and spec.expiresAt must be set")]
    NotOne,
    /// The end lies after the last representable instant.
    #[error("the end lies beyond the year 9999")]
    TooLate,
}

/// The end of a token that was created at `created_at`.
///
/// # Errors
/// When the spec states no end; only a spec that was stored before the schema refused it does not.
pub fn token_end(spec: &ApiTokenSpec, created_at: Timestamp) -> Result<Timestamp, EndError> {
    match (&spec.expires_in, &spec.expires_at) {
        (Some(life), None) => created_at.checked_add(life.duration()?).map_err(|_| EndError::TooLate),
        (None, Some(at)) => at.timestamp().map_err(|_| EndError::ExpiresAt),
        (None, None) | (Some(_), Some(_)) => Err(EndError::NotOne),
    }
}
