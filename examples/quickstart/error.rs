//! What can go wrong, in words that say what was being done.

use std::time::Duration;

/// Whatever was behind a failure.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the quickstart stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something was refused, or did not work.
    #[error("could not {what}")]
    Failed {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Cause,
    },
    /// Something did not happen in time.
    #[error("waited {} s in vain for {what}", within.as_secs())]
    TooLate {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
    },
    /// kubectl said no; its own words are on the screen.
    #[error("this command failed: {0}")]
    Kubectl(String),
    /// A Secret outlived its token.
    #[error("Secret {0} is there though its token has ended")]
    StillThere(String),
    /// A token was taken after its end, or refused before it.
    #[error("the service answered {0} on the wrong side of the token's end")]
    Inexact(http::StatusCode),
    /// The operator ended while it was still needed.
    #[error("the operator stopped by itself")]
    Operator(#[source] Option<Cause>),
}

/// Adds what was being done to an error.
pub trait While<T> {
    /// `what` completes "could not".
    fn or_could_not(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: Into<Cause>> While<T> for Result<T, E> {
    fn or_could_not(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|source| Error::Failed { what: what.into(), source: source.into() })
    }
}

/// How long something may take that is usually there at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `future`, but not for ever.
pub async fn within<T>(
    within: Duration,
    what: impl Into<String>,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(within, future).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::TooLate { what: what.into(), within }),
    }
}
