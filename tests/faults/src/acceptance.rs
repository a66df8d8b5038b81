//! S1 to S3: every value that was ever readable, what was told of its holder, and whether a verifier may accept it.
//!
//! Knows neither the verifier's code nor its memory: only what the API server shows to anybody who watches.

use std::collections::{BTreeMap, HashMap};

use credential_operator::{
    api::{
        ApiToken, ApiTokenState, Credential, CredentialState, Instant as ApiInstant, credential::DesiredState,
    },
    domain::{binding::controller, mint::Claims, token::Token},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use tokio::time::{Duration, Instant};

use crate::{asked::Told, deliveries};

/// How long something may be dead before the verifier must know (S2).
pub const KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// By how much the watches of the checker may lag behind the verifier's.
const LAG: Duration = Duration::from_secs(1);

/// All values and their holders.
#[derive(Default)]
pub struct Seen {
    holders: HashMap<String, Holder>,
    values: BTreeMap<String, Value>,
    suspicions: Vec<Suspicion>,
}

/// An `ApiToken`, or a `Credential` that holds a client secret.
struct Holder {
    name: String,
    /// The UID of an `ApiToken`'s credential.
    credential: Option<String>,
    /// The public ids of the values that it holds now, each with its end.
    ids: Vec<(String, Option<Timestamp>)>,
    is_alive: bool,
    end: Option<Timestamp>,
}

#[derive(Default)]
struct Value {
    /// The UID of its holder; empty for a value that nobody issued.
    holder: String,
    id: String,
    /// `None`: it may be accepted.
    dead_since: Option<Instant>,
    ends: Vec<End>,
}

/// An end of a value.
struct End {
    at: Timestamp,
    /// When it was brought forward to that; `None`: it had this end from the beginning.
    since: Option<Instant>,
}

/// A dead value was accepted, if it is not that the checker has not heard of its revival.
struct Suspicion {
    value: String,
    dead_since: Instant,
    at: Instant,
}

/// What must be of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It must be accepted.
    Acceptance,
    /// It must be refused.
    Refusal,
    /// It must be refused in a moment.
    RefusalSoon,
}

impl Seen {
    /// A Secret is there.
    pub fn secret(&mut self, secret: &Secret, now: Instant) {
        let owner = controller(&secret.metadata).map(|owner| owner.uid.clone()).unwrap_or_default();
        let plain = secret.data.iter().flatten();
        let plain = plain.filter_map(|(_, bytes)| String::from_utf8(bytes.0.clone()).ok());
        for text in plain.chain(deliveries::value(secret)) {
            // What the API server minted is nothing that a verifier ever accepts.
            let (holder, id) = match Token::parse(&text) {
                Ok(token) => (owner.clone(), token.id().to_owned()),
                Err(_) if Claims::read(&text).is_some() => {
                    (String::new(), "that the API server minted".to_owned())
                }
                Err(_) => continue,
            };
            self.values.entry(text).or_insert_with(|| Value {
                holder,
                id,
                dead_since: Some(now),
                ends: Vec::new(),
            });
        }
        self.judge(now);
    }

    /// An `ApiToken` is there.
    pub fn token(&mut self, token: &ApiToken, now: Instant) {
        let status = token.status.clone().unwrap_or_default();
        let over = matches!(status.state, Some(ApiTokenState::Expired | ApiTokenState::Revoked));
        let is_alive =
            token.metadata.deletion_timestamp.is_none() && token.spec.revoked != Some(true) && !over;
        let previous = status.previous.map(|previous| (previous.token_id, Some(previous.expires_at)));
        let ids = status.token_id.map(|id| (id, status.expires_at)).into_iter().chain(previous);
        let holder = Holder {
            name: token.metadata.name.clone().unwrap_or_default(),
            credential: Some(status.credential_uid.unwrap_or_default()),
            ids: ids.map(|(id, end)| (id, instant(end.as_ref()))).collect(),
            is_alive,
            end: instant(token.spec.expires_at.as_ref()),
        };
        self.holders.insert(token.metadata.uid.clone().unwrap_or_default(), holder);
        self.judge(now);
    }

    /// A `Credential` is there.
    pub fn credential(&mut self, credential: &Credential, now: Instant) {
        let status = credential.status.clone().unwrap_or_default();
        let is_alive = credential.metadata.deletion_timestamp.is_none()
            && credential.spec.state == DesiredState::Active
            && status.state != Some(CredentialState::Expired)
            && !status.is_refused_by_policy();
        let material = status.material.unwrap_or_default();
        let previous = material.previous.map(|previous| (previous.id, Some(previous.expires_at)));
        let current = material.id.map(|id| (id, material.expires_at));
        let ids = current.into_iter().chain(previous);
        let holder = Holder {
            name: credential.metadata.name.clone().unwrap_or_default(),
            credential: None,
            ids: ids.map(|(id, end)| (id, instant(end.as_ref()))).collect(),
            is_alive,
            end: instant(credential.spec.expires_at.as_ref()),
        };
        self.holders.insert(credential.metadata.uid.clone().unwrap_or_default(), holder);
        self.judge(now);
    }

    /// An object is gone.
    pub fn gone(&mut self, uid: &str, now: Instant) {
        self.holders.remove(uid);
        self.judge(now);
    }

    /// All values.
    #[must_use]
    pub fn values(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }

    /// What must be of each value.
    #[must_use]
    pub fn due(&self, now: Instant, clock: Timestamp) -> Vec<(String, Due)> {
        let due = |value: &Value| match value.dead_since {
            Some(since) if now.duration_since(since) < KNOWN_WITHIN => Due::RefusalSoon,
            Some(_) => Due::Refusal,
            None if value.ends.iter().any(|end| end.at <= clock) => Due::Refusal,
            None => Due::Acceptance,
        };
        self.values.iter().map(|(text, value)| (text.clone(), due(value))).collect()
    }

    /// A verifier was asked at `sent` and gave this answer, between two readings of its clock. Returns what must not be.
    pub fn told(
        &mut self,
        text: &str,
        told: &Told,
        sent: Instant,
        [before, after]: [Timestamp; 2],
    ) -> Vec<(&'static str, String)> {
        let Some(value) = self.values.get(text).filter(|_| told.status == 200) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let known = |since: Option<Instant>| since.is_none_or(|since| since + KNOWN_WITHIN <= sent);
        let end = value.ends.iter().filter(|end| known(end.since)).map(|end| end.at).min();
        if let Some(end) = end.filter(|end| *end <= before && *end <= after) {
            found.push(("S1", format!("the value {} was accepted after its end {end}", value.id)));
        }
        if let Some(since) = value.dead_since.filter(|since| *since + KNOWN_WITHIN <= sent) {
            let suspicion = Suspicion { value: text.to_owned(), dead_since: since, at: sent };
            self.suspicions.push(suspicion);
        }
        let holder = self.holders.get(&value.holder);
        let credential_uid = holder.and_then(|holder| holder.credential.as_ref()).unwrap_or(&value.holder);
        // Whose end or birth nobody has told the checker yet is S2's business.
        if let (Some(holder), Some(credential)) = (holder, self.holders.get(credential_uid))
            && [&told.credential_uid, &told.credential, &told.holder, &told.id]
                != [credential_uid, &credential.name, &holder.name, &value.id]
        {
            found.push(("S3", format!("the value {} was accepted for {}", value.id, told.credential_uid)));
        }
        found
    }

    /// What was suspected, and is certain by now: a dead value was accepted. `all`: nothing is under way any more.
    pub fn certain(&mut self, now: Instant, all: bool) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let values = &self.values;
        self.suspicions.retain(|suspicion| {
            if !all && now < suspicion.at + LAG {
                return true;
            }
            if let Some(value) = values.get(&suspicion.value)
                && value.dead_since == Some(suspicion.dead_since)
            {
                let dead = suspicion.at.duration_since(suspicion.dead_since).as_secs_f32();
                found.push((
                    "S2",
                    format!("the value {} was accepted when it was dead for {dead:.1} s", value.id),
                ));
            }
            false
        });
        found
    }

    /// Looks anew at what each value may be accepted by.
    fn judge(&mut self, now: Instant) {
        let holders = &self.holders;
        for value in self.values.values_mut() {
            let holder = holders.get(&value.holder);
            let credential = holder.and_then(|holder| holder.credential.as_ref()).map(|uid| holders.get(uid));
            let credential_end = credential.flatten().and_then(|credential| credential.end);
            let held = holder.and_then(|holder| holder.ids.iter().find(|(id, _)| *id == value.id));
            let is_alive = held.is_some()
                && holder.is_some_and(|holder| holder.is_alive)
                && credential
                    .is_none_or(|credential| credential.is_some_and(|credential| credential.is_alive));
            let ends = [held.and_then(|(_, end)| *end), holder.and_then(|holder| holder.end), credential_end];
            if let Some(end) = ends.into_iter().flatten().min()
                && is_alive
                && value.ends.iter().all(|known| end < known.at)
            {
                let since = (!value.ends.is_empty()).then_some(now);
                value.ends.push(End { at: end, since });
            }
            value.dead_since = if is_alive { None } else { value.dead_since.or(Some(now)) };
        }
    }
}

fn instant(at: Option<&ApiInstant>) -> Option<Timestamp> {
    at.and_then(|at| at.timestamp().ok())
}
