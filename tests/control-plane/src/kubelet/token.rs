//! The tokens of a pod's account, each renewed before its end.
//!
//! Knows nothing of the files that they are in.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ServiceAccount, ServiceAccountTokenProjection},
};
use kube::{Api, api::PostParams};

use super::{pod::Life, wall_clock};

/// In seconds, of a token of which nothing else is said.
const LIFETIME: i64 = 3600;

/// The tokens that were asked for, by their paths, audiences and lifetimes.
#[derive(Debug, Default)]
pub(super) struct Tokens(HashMap<(String, Option<String>, i64), Token>);

#[derive(Debug)]
struct Token {
    value: String,
    asked_at: Timestamp,
    expires_at: Timestamp,
}

impl Token {
    /// Whether four fifths of its life are over, or a day.
    fn old(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.asked_at);
        age > self.expires_at.duration_since(self.asked_at) * 4 / 5 || age > SignedDuration::from_hours(24)
    }
}

impl Tokens {
    /// The token to show now.
    ///
    /// # Errors
    /// In words, when the API server gives none and there was none before.
    pub(super) async fn current(
        &mut self,
        life: &Life,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<String, String> {
        let seconds = wanted.expiration_seconds.unwrap_or(LIFETIME);
        let key = (wanted.path.clone(), wanted.audience.clone(), seconds);
        let before = self.0.get(&key);
        if let Some(token) = before.filter(|token| !token.old(wall_clock())) {
            return Ok(token.value.clone());
        }
        match (request(life, wanted.audience.clone(), seconds).await, before) {
            (Ok(token), _) => {
                let value = token.value.clone();
                self.0.insert(key, token);
                Ok(value)
            }
            // There is time left to ask again.
            (Err(_), Some(before)) => Ok(before.value.clone()),
            (Err(error), None) => Err(format!("failed to fetch token: {error}")),
        }
    }
}

async fn request(life: &Life, audience: Option<String>, seconds: i64) -> Result<Token, String> {
    let pod = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: life.pod.metadata.name.clone(),
        uid: life.pod.metadata.uid.clone(),
    };
    let spec = TokenRequestSpec {
        audiences: audience.into_iter().collect(),
        bound_object_ref: Some(pod),
        expiration_seconds: Some(seconds),
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let account = life.spec().service_account_name.as_deref().unwrap_or("default");
    let accounts: Api<ServiceAccount> = Api::namespaced(life.machine.client.clone(), life.namespace());
    let asked_at = wall_clock();
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
    let status = answer.map_err(|error| error.to_string())?.status.ok_or("an answer without a token")?;
    Ok(Token { value: status.token, asked_at, expires_at: status.expiration_timestamp.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_old_after_four_fifths_of_its_life_or_a_day() {
        let at = |minutes: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
        let token = |minutes: i64| Token { value: String::new(), asked_at: at(0), expires_at: at(minutes) };
        assert!(!token(60).old(at(47)) && token(60).old(at(49)));
        assert!(!token(60 * 100).old(at(24 * 60 - 1)) && token(60 * 100).old(at(24 * 60 + 1)));
    }
}
