//! Who may introspect: whoever Kubernetes says may `create` the endpoint's path.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Client, api::PostParams};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, timeout},
};
use tracing::warn;

use crate::client::Objects;

/// For how long an answer is believed.
const BELIEVED_FOR: Duration = Duration::from_secs(10);
/// How many answers are kept.
const KEPT: usize = 4096;
/// How many callers are asked about at a time, so that a flood of made-up tokens does not become one at the API server.
const AT_ONCE: usize = 8;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Longer than any token of a ServiceAccount.
const MAX_TOKEN_LENGTH: usize = 8 * 1024;

/// Why a caller is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAuthorized {
    /// Nobody knows him.
    Unknown,
    /// He is known, and may not.
    Forbidden,
    /// The API server could not be asked.
    Unavailable,
}

/// Knows who may introspect.
pub struct Callers {
    /// `None`: callers without a certificate are not answered.
    client: Option<Client>,
    answers: Mutex<HashMap<[u8; 32], Arc<Believed>>>,
    permits: Semaphore,
}

struct Believed {
    until: Instant,
    answer: OnceCell<Result<(), NotAuthorized>>,
}

impl Callers {
    /// Asks the API server that `client` talks to.
    pub fn new(client: Option<Client>) -> Self {
        Self { client, answers: Mutex::default(), permits: Semaphore::new(AT_ONCE) }
    }

    /// Whether the bearer of this Kubernetes token may `create` that path.
    pub async fn authorize(&self, token: &str, path: &str) -> Result<(), NotAuthorized> {
        let Some(client) = &self.client else {
            return Err(NotAuthorized::Unknown);
        };
        if token.is_empty() || token.len() > MAX_TOKEN_LENGTH {
            return Err(NotAuthorized::Unknown);
        }
        let believed = self.believed(token, path);
        match believed.answer.get() {
            Some(answer) => *answer,
            // In a box: it is seldom, and a request that needs it not would be moved about with room for it.
            None => Box::pin(self.learn(client, &believed, token, path)).await,
        }
    }

    /// Asks the API server, once however many wait for the answer.
    async fn learn(
        &self,
        client: &Client,
        believed: &Believed,
        token: &str,
        path: &str,
    ) -> Result<(), NotAuthorized> {
        let answer = believed.answer.get_or_try_init(async || {
            let _permit = self.permits.acquire().await.map_err(|_| NotAuthorized::Unavailable)?;
            ask(client, token, path).await.map_err(|error| {
                warn!(%error, "could not ask the API server about a caller");
                NotAuthorized::Unavailable
            })
        });
        // With the wait for those who asked before: a flood of them must not hold up each that comes later for longer.
        let Ok(answer) = timeout(ANSWER_WITHIN, answer).await else {
            warn!("the API server did not answer about a caller in time");
            return Err(NotAuthorized::Unavailable);
        };
        *answer?
    }

    fn believed(&self, token: &str, path: &str) -> Arc<Believed> {
        let mut hash = Sha256::new();
        hash.update(token.len().to_be_bytes());
        hash.update(token);
        hash.update(path);
        let key: [u8; 32] = hash.finalize().into();
        let now = Instant::now();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = answers.get(&key).filter(|known| now < known.until) {
            return known.clone();
        }
        if answers.len() >= KEPT {
            answers.retain(|_, known| now < known.until);
        }
        if answers.len() >= KEPT {
            answers.clear();
        }
        let fresh = Arc::new(Believed { until: now + BELIEVED_FOR, answer: OnceCell::new() });
        answers.insert(key, fresh.clone());
        fresh
    }
}

async fn ask(client: &Client, token: &str, path: &str) -> kube::Result<Result<(), NotAuthorized>> {
    let review = TokenReview {
        spec: TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() },
        ..TokenReview::default()
    };
    let reviewed = Objects::all(client.clone()).create(&PostParams::default(), &review).await?;
    let status = reviewed.status.unwrap_or_default();
    let Some(user) = status.user.filter(|_| status.authenticated == Some(true)) else {
        return Ok(Err(NotAuthorized::Unknown));
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some(path.to_owned()),
                verb: Some("create".to_owned()),
            }),
            resource_attributes: None,
        },
        ..SubjectAccessReview::default()
    };
    let reviewed = Objects::all(client.clone()).create(&PostParams::default(), &review).await?;
    let allowed = reviewed.status.is_some_and(|status| status.allowed && status.denied != Some(true));
    Ok(if allowed { Ok(()) } else { Err(NotAuthorized::Forbidden) })
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_caller_waits_for_the_callers_before_him() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // An API server that takes connections and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        let callers = Callers::new(Some(Client::try_from(kube::Config::new(url)).unwrap()));
        let started = Instant::now();
        let waits = (0..200).map(|n| {
            // Some of them are the same one.
            let token = format!("made-up-{}", n / 2);
            let callers = &callers;
            async move { callers.authorize(&token, "/introspect").await }
        });
        for answer in join_all(waits).await {
            assert_eq!(answer, Err(NotAuthorized::Unavailable));
        }
        assert!(started.elapsed() <= ANSWER_WITHIN * 2, "after {:?}", started.elapsed());
    }
}
