//! Whether the API server is one that the controller can work with.
//!
//! Knows nothing of that work.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::version::Info;
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
            if is_too_old(&told) {
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
fn is_too_old(told: &Info) -> bool {
    // Some providers write 30+.
    let number = |text: &str| text.trim_end_matches('+').parse().ok();
    number(&told.major).zip(number(&told.minor)).is_some_and(|version| version < OLDEST)
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// What comes of an API server that answers so to whoever asks for its version.
    async fn asked(status: u16, major: &str, minor: &str) -> Result<(), TooOld> {
        let version = json!({
            "major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0"), "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
        });
        let service = tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), "/version");
            let answer =
                Response::builder().status(status).body(Body::from(version.to_string().into_bytes()));
            async move { answer }
        });
        ask(&Client::new(service, "default")).await
    }

    #[tokio::test]
    async fn an_old_server_is_told_from_others() {
        for (major, minor) in [("1", "30"), ("1", "30+"), ("1", "36"), ("1", "100"), ("2", "0"), ("", "")] {
            asked(200, major, minor).await.unwrap();
        }
        for (major, minor) in [("1", "29"), ("1", "29+"), ("1", "9"), ("0", "36")] {
            let refused = asked(200, major, minor).await.unwrap_err().to_string();
            assert!(refused.contains(&format!("Kubernetes v{major}.{minor}.0;")), "{refused}");
            assert!(refused.contains("need 1.30 or newer"), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_tell_is_taken() {
        asked(403, "1", "29").await.unwrap();
    }
}
