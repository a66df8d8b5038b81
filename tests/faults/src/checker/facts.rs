//! What was seen in a namespace, and what of it must never have been.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential, Instant, Lifetime, credential_policy::TokenType},
    controller::api_token::observe::{SEALED_KEY, attestation},
    domain::{
        binding::controller, clock::Clock, digest::MaterialAttestation, keyring::Keyring, mint::Claims, name,
        token::Token,
    },
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tokio::time;

use super::violation;
use crate::{
    acceptance::Seen,
    deliveries::{self, Deliveries},
    minted,
    run::{KEYRING, Violation},
};

/// Creation times have whole seconds, and a watch takes a moment.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);
const OPERATOR: &str = "credential-operator";
/// By how much a plan may have set the clock back since it let a token go.
const SET_BACK: SignedDuration = SignedDuration::from_mins(90);

pub(super) struct Facts {
    pub(super) clock: Arc<dyn Clock>,
    keys: BTreeMap<String, Vec<u8>>,
    secrets: HashMap<String, Known>,
    /// Which values became readable, by token and serial.
    values: HashMap<(String, i64), BTreeSet<String>>,
    /// Which material became readable, by credential and serial: its digests, of which each is of one value.
    material: HashMap<(String, i64), BTreeSet<String>>,
    /// The ids of values that a status ever named. No other is ever accepted.
    named: HashSet<String>,
    tokens: HashMap<String, TokenSeen>,
    /// Values that came too late, and what is to be said of them.
    late: Vec<(String, String)>,
    pub(super) found: Vec<Violation>,
    pub(super) slowest_end: Duration,
    /// What a verifier may accept.
    pub(super) acceptance: Seen,
    pub(super) deliveries: Deliveries,
}

/// A Secret that was seen.
enum Known {
    /// It holds a value of that token, until that end.
    Value { token: String, value: String, end: Option<Timestamp> },
    /// It is none of the operator's.
    Foreign,
    /// It is the keyring, or something of the operator's that somebody edited.
    Other,
}

#[derive(Default)]
struct TokenSeen {
    /// The ends of its values, by their ids.
    ends: BTreeMap<String, Timestamp>,
    /// The Secret, the value and its term that its status last told of.
    held: Option<(String, String, Option<i64>)>,
    over: Option<ApiTokenState>,
    /// Its Secret went at its end.
    ended: bool,
    /// When it goes by its `ttlAfterExpired`.
    goes_at: Option<Timestamp>,
    /// Where the API server mints it: its end.
    minted_until: Option<Timestamp>,
}

impl Facts {
    /// Of a namespace of which nothing was seen yet; `clock` is that of the operator.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            keys: BTreeMap::new(),
            secrets: HashMap::new(),
            values: HashMap::new(),
            material: HashMap::new(),
            named: HashSet::new(),
            late: Vec::new(),
            tokens: HashMap::new(),
            found: Vec::new(),
            slowest_end: Duration::ZERO,
            acceptance: Seen::default(),
            deliveries: Deliveries::default(),
        }
    }

    /// Reports what the verifier accepted though it was dead; `all`: nothing is under way any more.
    pub(super) fn find_certain(&mut self, all: bool) {
        for (law, what) in self.acceptance.certain(time::Instant::now(), all) {
            self.report(law, what);
        }
    }

    pub(super) fn holder_gone(&mut self, uid: &str, _: Option<u64>) {
        self.deliveries.owner_gone(uid);
        self.acceptance.gone(uid, time::Instant::now());
    }

    pub(super) fn token_gone(&mut self, uid: &str, version: Option<u64>) {
        let goes_at = self.tokens.get(uid).and_then(|seen| seen.goes_at);
        if let Some(at) = goes_at.filter(|at| self.clock.now() + SET_BACK < *at) {
            self.report("S15", format!("an ApiToken that was to go at {at} went before"));
        }
        self.holder_gone(uid, version);
    }

    pub(super) fn report(&mut self, law: &'static str, what: String) {
        let violation = violation(law, what);
        if !self.found.contains(&violation) {
            self.found.push(violation);
        }
    }

    /// How many values became readable that no status ever named.
    pub(super) fn never_named(&self) -> usize {
        self.values.values().flatten().filter(|value| !self.is_named(value)).count()
    }

    fn is_named(&self, value: &str) -> bool {
        if let Some(claims) = Claims::read(value) {
            return claims.jti.is_some_and(|id| self.named.contains(&id));
        }
        Token::parse(value).is_ok_and(|value| self.named.contains(value.id()))
    }

    /// S4 and S10.
    pub(super) fn values_seen_twice(&self, race: bool) -> Vec<Violation> {
        let counts = |value: &String| !race || self.is_named(value);
        let twice =
            self.values.iter().filter(|(_, values)| values.iter().filter(|value| counts(value)).count() > 1);
        let twice = twice.map(|((_, serial), values)| {
            violation("S4", format!("there were {} values of one token and serial {serial}", values.len()))
        });
        let late = self.late.iter().filter(|(value, _)| counts(value));
        let named = |digest: &&String| !race || self.named.contains(*digest);
        let material = self.material.iter().filter(|(_, digests)| digests.iter().filter(named).count() > 1);
        let material = material.map(|((_, serial), digests)| {
            violation(
                "S4",
                format!("there were {} values of one material and serial {serial}", digests.len()),
            )
        });
        twice.chain(material).chain(late.map(|(_, what)| violation("S10", what.clone()))).collect()
    }

    pub(super) fn secret_seen(&mut self, secret: &Secret) {
        let metadata = &secret.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let uid = metadata.uid.clone().unwrap_or_default();
        if name == KEYRING {
            let data = secret.data.iter().flatten();
            self.keys.extend(data.map(|(id, bytes)| (id.clone(), bytes.0.clone())));
            return;
        }
        self.acceptance.secret(secret, time::Instant::now());
        self.deliveries.secret(secret);
        self.material_seen(secret);
        let now = self.judge(secret);
        let renewed = match (self.secrets.get(&uid), &now) {
            // It is made before the token that it takes.
            (Some(Known::Other), Known::Value { .. }) => minted::found(secret).is_some(),
            (Some(Known::Value { value: before, .. }), Known::Value { value, .. }) => value != before,
            _ => false,
        };
        if let Some(known) = self.secrets.get(&uid).filter(|_| !renewed) {
            let managers = metadata.managed_fields.iter().flatten();
            let touched = managers.into_iter().any(|entry| entry.manager.as_deref() == Some(OPERATOR));
            if matches!(known, Known::Foreign) && touched {
                self.report("S5", format!("Secret {name} of others was changed"));
            }
            return;
        }
        self.secrets.remove(&uid);
        if let Known::Value { token, value, end } = &now {
            let minted = minted::found(secret);
            if minted.as_ref().is_some_and(|minted| !minted.bound) {
                self.report("S18", format!("the token in Secret {name} does not die with it"));
            }
            let serial = minted.map(|minted| minted.serial);
            let serial =
                serial.or_else(|| attestation(metadata).map(|attestation| attestation.serial)).unwrap_or(0);
            self.values.entry((token.clone(), serial)).or_default().insert(value.clone());
            let another = self.secrets.values().any(|other| {
                matches!(other, Known::Value { token: of, value: held, .. } if of == token && held != value)
            });
            if another {
                self.report("S4", format!("two values of Secret {name} are there at one time"));
            }
            let late = self.clock.now().checked_sub(TOLERANCE).ok();
            let ended = self.tokens.get(token).is_some_and(|seen| seen.ended);
            if let (Some(end), Some(late)) = (end, late)
                && (ended || *end < late)
            {
                self.late.push((value.clone(), format!("Secret {name} was created after the end {end}")));
            }
        }
        self.secrets.insert(uid, now);
    }

    /// Whether a Secret was seen that is none of the operator's.
    pub(super) fn is_foreign(&self, uid: &str) -> bool {
        matches!(self.secrets.get(uid), Some(Known::Foreign))
    }

    fn keyring(&self) -> Keyring {
        Keyring::read(self.keys.iter().map(|(id, bytes)| (id, bytes.as_slice())))
    }

    fn material_seen(&mut self, secret: &Secret) {
        let metadata = &secret.metadata;
        let said = metadata.annotations.as_ref().and_then(|said| said.get(name::ATTESTATION_ANNOTATION));
        if let (Some(owner), Some(said)) = (controller(metadata), said)
            && owner.kind == "Credential"
            && let Ok(said) = MaterialAttestation::read(said, &self.keyring(), &owner.uid)
        {
            let digests = self.material.entry((owner.uid.clone(), said.serial())).or_default();
            digests.extend(said.material.digest);
        }
    }

    pub(super) fn credential_seen(&mut self, credential: &Credential) {
        self.acceptance.credential(credential, time::Instant::now());
        self.deliveries.credential(credential);
        let Some(material) = credential.status.as_ref().and_then(|status| status.material.as_ref()) else {
            return;
        };
        self.named.extend(material.digest.clone());
        let uid = credential.metadata.uid.clone().unwrap_or_default();
        let serial = material.serial.unwrap_or_default();
        let readable = self.material.get(&(uid, serial)).is_none_or(|digests| {
            material.digest.as_ref().is_none_or(|digest| digests.is_empty() || digests.contains(digest))
        });
        // The watch of Secrets may lag behind this one, so only what contradicts it counts.
        if !readable {
            let name = credential.metadata.name.as_deref().unwrap_or_default();
            self.report(
                "S4",
                format!("the status of Credential {name} tells of other material than its Secret"),
            );
        }
    }

    fn judge(&self, secret: &Secret) -> Known {
        let metadata = &secret.metadata;
        let owner = controller(metadata).filter(|owner| owner.kind == "ApiToken");
        let ours =
            metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_deref() == Some(OPERATOR));
        let text = deliveries::value(secret);
        let sealed = secret.data.as_ref().and_then(|data| data.get(SEALED_KEY));
        let value = text.as_deref().and_then(|text| Token::parse(text).ok());
        let keyring = self.keyring();
        if let (Some(owner), Some(attestation), Some(value), Some(text)) =
            (owner, attestation(metadata), value, text)
            && match sealed {
                Some(sealed) => attestation.verify_sealed(&keyring, &owner.uid, &sealed.0).is_ok(),
                None => attestation.verify(&keyring, &owner.uid, &value).is_ok(),
            }
        {
            return Known::Value {
                token: owner.uid.clone(),
                value: text,
                end: attestation.end.timestamp().ok(),
            };
        }
        if let Some(minted) = minted::found(secret) {
            let end = self.tokens.get(&minted.token).and_then(|seen| seen.minted_until);
            return Known::Value { token: minted.token, value: minted.value, end };
        }
        if ours { Known::Other } else { Known::Foreign }
    }

    pub(super) fn secret_gone(&mut self, uid: &str, since: Option<u64>) {
        self.deliveries.secret_gone(uid, since);
        if let Some(Known::Value { token, end: Some(end), .. }) = self.secrets.get(uid) {
            let late = self.clock.now().duration_since(*end);
            self.tokens.entry(token.clone()).or_default().ended |= !late.is_negative();
            // An hour and more is a stepped clock, not a slow operator.
            if late.is_positive() && late < SignedDuration::from_mins(30) {
                let late = Duration::try_from(late).unwrap_or_default();
                self.slowest_end = self.slowest_end.max(late);
            }
        }
        if !matches!(self.secrets.get(uid), Some(Known::Foreign)) {
            self.secrets.remove(uid);
        }
    }

    pub(super) fn token_seen(&mut self, token: &ApiToken) {
        self.acceptance.token(token, time::Instant::now());
        self.deliveries.token(token);
        let uid = token.metadata.uid.clone().unwrap_or_default();
        let name = token.metadata.name.clone().unwrap_or_default();
        let created = token.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |at| at.0);
        let ttl = token.spec.ttl_after_expired.as_ref().map(Lifetime::duration).and_then(Result::ok);
        let end = token.spec.expires_at.as_ref().map(Instant::timestamp).and_then(Result::ok);
        self.tokens.entry(uid.clone()).or_default().goes_at =
            end.zip(ttl).map(|(end, ttl)| end.max(created) + ttl);
        self.tokens.entry(uid.clone()).or_default().minted_until = minted::end(token);
        let Some(status) = &token.status else { return };
        self.named.extend(status.token_id.clone());
        let text = json!(status).to_string();
        if self.values.values().flatten().any(|value| text.contains(value.as_str())) {
            self.report("S9", format!("the status of ApiToken {name} holds the value"));
        }
        let now = self.clock.now();
        let seen = self.tokens.entry(uid).or_default();
        let over = seen.over;
        if matches!(status.state, Some(ApiTokenState::Expired | ApiTokenState::Revoked)) {
            seen.over = status.state;
        }
        let previous = status.previous.as_ref().map(|previous| (&previous.token_id, &previous.expires_at));
        let current = status.token_id.as_ref().zip(status.expires_at.as_ref());
        let mut told = Vec::new();
        for (id, end) in current.into_iter().chain(previous) {
            let Ok(end) = end.timestamp() else { continue };
            let before = *seen.ends.entry(id.clone()).or_insert(end);
            if end > before {
                told.push((
                    "S11",
                    format!("the end of a value of ApiToken {name} moved from {before} to {end}"),
                ));
            }
            seen.ends.insert(id.clone(), end);
        }
        // In the same Secret it was renewed, not lost; within a term it is for others by now.
        let holds = status.secret.as_ref().zip(status.token_id.clone());
        let holds = holds.map(|(secret, id)| (secret.uid.clone(), id, status.term));
        if let (Some((secret, before, term)), Some((same, id, _))) = (&seen.held, &holds)
            && token.spec.token_type == TokenType::Opaque
            && secret == same
            && before != id
            && *term != status.term
            && previous.is_none_or(|(previous, _)| previous != before)
            && seen.ends.get(before).is_some_and(|end| now.checked_add(TOLERANCE).is_ok_and(|now| now < *end))
        {
            told.push((
                "S14",
                format!("a value of ApiToken {name} was renewed and is refused before its end"),
            ));
        }
        seen.held = holds;
        for (law, what) in told {
            self.report(law, what);
        }
        if over.is_some_and(|over| status.state != Some(over) && status.state != Some(ApiTokenState::Revoked))
        {
            self.report("S10", format!("ApiToken {name} was {over:?} and is {:?}", status.state));
        }
    }
}
