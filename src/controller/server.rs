//! Whether the API server is one that the controller can work with.
//!
//! Knows nothing of that work.

use std::time::Duration;

use kube::Client;
use thiserror::Error;
use tokio::time::timeout;
use tracing::{info, warn};

/// The first with `ValidatingAdmissionPolicies` in v1, without which nothing is made. docs/install.md tells which are tried.
pub const OLDEST: (u32, u32) = (1, 30);
/// A server that is silent for so long is left to the watches, which ask again and again.
const PATIENCE: Duration = Duration::from_secs(5);

/// The API server is too old.
#[derive(Debug, Error)]
#[error(
    "the API server is Kubernetes {version}; the admission policies, without which nothing is made, need {}.{} or newer: upgrade the \
     cluster",
    OLDEST.0,
    OLDEST.1
)]
pub struct TooOld {
    /// What it calls itself.
    version: String,
}

/// Asks the API server for its version. Where it does not say, what it can do will show.
///
/// # Errors
/// When it is older than what is needed.
pub async fn ask(client: &Client) -> Result<(), TooOld> {
    match timeout(PATIENCE, client.apiserver_version()).await {
        Ok(Ok(told)) => {
            let version = told.git_version.clone();
            if is_too_old(&told.major, &told.minor) {
                return Err(TooOld { version });
            }
            info!(version, "the API server");
        }
        Ok(Err(error)) => warn!(%error, "the API server does not tell its version"),
        Err(_) => warn!("the API server does not answer"),
    }
    Ok(())
}

/// Whether it is, as far as its numbers can be read.
fn is_too_old(major: &str, minor: &str) -> bool {
    // Some providers write 30+.
    let number = |text: &str| text.trim_end_matches('+').parse().ok();
    number(major).zip(number(minor)).is_some_and(|version| version < OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_told_from_others() {
        for (major, minor) in [("1", "30"), ("1", "30+"), ("1", "36"), ("1", "100"), ("2", "0"), ("", "")] {
            assert!(!is_too_old(major, minor), "{major}.{minor}");
        }
        for (major, minor) in [("1", "29"), ("1", "29+"), ("1", "9"), ("0", "36")] {
            assert!(is_too_old(major, minor), "{major}.{minor}");
        }
    }

    #[test]
    fn what_is_too_old_is_told_with_what_to_do() {
        let said = TooOld { version: "v1.29.3".to_owned() }.to_string();
        assert!(
            said.contains("Kubernetes v1.29.3;") && said.contains("need 1.30 or newer: upgrade"),
            "{said}"
        );
    }
}
