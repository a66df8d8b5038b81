//! What users do: many requests, so many at a time.

use std::{collections::HashMap, fmt::Debug, sync::Arc};

use credential_operator::api::ApiToken;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::api::PostParams;
use serde_json::json;
use tokio::time::Instant;

use crate::world::Space;

/// An end that no run reaches.
pub const FAR: &str = "2035-01-01T00:00:00Z";

pub fn token(name: &str, end: &str) -> ApiToken {
    serde_json::from_value(json!({
        "apiVersion": "credential-operator.io/v1alpha1",
        "kind": "ApiToken",
        "metadata": {"name": name},
        "spec": {"credentialRef": {"name": "c"}, "expiresAt": end},
    }))
    .unwrap()
}

/// The name of the token of that number.
pub fn name(number: usize) -> String {
    format!("t{number}")
}

/// Does something for each, at most `concurrency` at a time, each in a task of its own.
pub async fn each<T, F, R>(
    items: impl IntoIterator<Item = T>,
    concurrency: usize,
    work: impl Fn(T) -> F,
) -> Vec<R>
where
    F: Future<Output = R> + Send + 'static,
    R: Send + Debug + 'static,
{
    stream::iter(items)
        .map(|item| tokio::spawn(work(item)))
        .buffer_unordered(concurrency)
        .map(Result::unwrap)
        .collect()
        .await
}

/// Creates tokens, hands each to `created` as soon as the API server has answered, and tells when the request for each
/// was sent, by the name of the Secret to come.
pub async fn create(
    space: &Space,
    numbers: std::ops::Range<usize>,
    concurrency: usize,
    end: &str,
    created: impl Fn(ApiToken) + Send + Sync + 'static,
) -> HashMap<String, Instant> {
    let created = Arc::new(created);
    let create = |number| {
        let token = token(&name(number), end);
        let (tokens, created) = (space.api::<ApiToken>(), created.clone());
        async move {
            let sent_at = Instant::now();
            created(tokens.create(&PostParams::default(), &token).await.unwrap());
            (format!("{}-token", name(number)), sent_at)
        }
    };
    each(numbers, concurrency, create).await.into_iter().collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "ends, and what the audit log tells, are instants of the wall clock"
)]
pub fn now() -> Timestamp {
    Timestamp::now()
}
