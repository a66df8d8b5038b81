//! Tokens that the API server mints (`TokenRequest`, KEP-1205): what is asked for, what was granted, when to ask again, and
//! the proof on a Secret that the operator put such a token there.
//!
//! Instants are the operator's. The API server's clock may be another, so of what it says only how long a token lives
//! counts.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    digest::{DigestError, check, prove},
    keyring::{Key, Keyring},
};
use crate::api::{ApiTokenSpec, CredentialSpec, DEFAULT_AUDIENCE, Instant, credential::ObjectReference};

const PURPOSE: &str = "credential-operator.io/v1/minted-secret";

/// The API server mints nothing that lives shorter.
pub const SHORTEST: SignedDuration = SignedDuration::from_mins(10);

/// What the API server says in a token that it minted. The signature is not checked: it comes from the API server.
#[derive(Clone, Debug, Deserialize)]
pub struct Claims {
    /// `system:serviceaccount:<namespace>:<name>`
    pub sub: String,
    iat: i64,
    exp: i64,
    /// The public id, by which the API server's audit log names the token.
    pub jti: Option<String>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

#[derive(Clone, Debug, Deserialize)]
struct Bound {
    serviceaccount: ObjectReference,
    secret: Option<ObjectReference>,
}

impl Claims {
    /// What a token says; `None` when it is none.
    #[must_use]
    pub fn read(token: &str) -> Option<Self> {
        let claims = token.split('.').nth(1)?;
        let json = Zeroizing::new(data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?);
        serde_json::from_slice(&json).ok()
    }

    /// Whether the token is this account's, and dies with this Secret.
    #[must_use]
    pub fn are_for(&self, namespace: &str, account: &ObjectReference, secret: &ObjectReference) -> bool {
        self.sub == format!("system:serviceaccount:{namespace}:{}", account.name)
            && self.kubernetes.serviceaccount == *account
            && self.kubernetes.secret.as_ref() == Some(secret)
    }

    /// Whose token it is.
    #[must_use]
    pub const fn account(&self) -> &ObjectReference {
        &self.kubernetes.serviceaccount
    }

    /// The Secret that it dies with.
    #[must_use]
    pub const fn secret(&self) -> Option<&ObjectReference> {
        self.kubernetes.secret.as_ref()
    }

    /// How long the token lives.
    #[must_use]
    pub fn life(&self) -> SignedDuration {
        // Whatever else it were, it would be asked for again and again.
        SignedDuration::from_secs(self.exp.saturating_sub(self.iat)).max(SHORTEST / 10)
    }
}

/// For how many seconds a token is to be asked for at `asked_at`, so that it lives until `end`.
#[must_use]
pub fn seconds_until(end: Timestamp, asked_at: Timestamp) -> i64 {
    let life = end.duration_since(asked_at);
    let seconds = life.as_secs().saturating_add(i64::from(life.subsec_nanos() > 0));
    seconds.max(SHORTEST.as_secs())
}

/// From when to when a minted token lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When it was asked for.
    pub issued_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

impl Life {
    fn third(&self) -> SignedDuration {
        self.expires_at.duration_since(self.issued_at) / 3
    }

    /// When another takes its place; `None` where it lives to the end. After two thirds of its life, so that whoever reads
    /// the Secret has the next one before this one ends.
    #[must_use]
    pub fn followed_at(&self, end: Timestamp) -> Option<Timestamp> {
        let last = self.expires_at.checked_sub(self.third()).ok()?;
        (self.expires_at < end).then_some(last)
    }

    /// Whether another is to take its place now. One from the future was asked for by a clock that was wrong and has been
    /// set back since: by how much it outlives what was thought of it, nobody can tell.
    #[must_use]
    pub fn is_over(&self, end: Timestamp, now: Timestamp) -> bool {
        self.followed_at(end).is_some_and(|at| at <= now) || self.issued_at.duration_since(now) > self.third()
    }
}

/// Why no audience is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAudience;

/// Whom a ServiceAccount token is for; empty: the API server's own audiences. What it names must be its credential's, too:
/// for whom a credential may have tokens, policies say of the credential.
///
/// # Errors
/// When it names none that is its credential's. An empty list would ask for the API server's own.
pub fn audiences(token: &ApiTokenSpec, credential: &CredentialSpec) -> Result<Vec<String>, NoAudience> {
    let Some(named) = &token.audiences else {
        return Ok(Vec::new());
    };
    let own = [DEFAULT_AUDIENCE.to_owned()];
    let own = credential.audiences.as_deref().unwrap_or(&own);
    let mut both: Vec<_> = named.iter().filter(|audience| own.contains(audience)).cloned().collect();
    both.sort_unstable();
    if both.is_empty() { Err(NoAudience) } else { Ok(both) }
}

/// What the annotation on a Secret says of the token in it, and the proof that the operator said it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MintAttestation {
    /// The number of the value.
    pub serial: i64,
    /// The term that the value is of, where the token renews.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,
    /// Its public id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The UID of the ServiceAccount.
    pub account: String,
    /// The UID of the credential.
    pub credential: String,
    /// Whom it is for; empty: the API server's own audiences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// When it was asked for.
    pub issued_at: Instant,
    /// When it ends by itself.
    pub expires_at: Instant,
    /// The keyed digest over all of this, the UIDs of the ApiToken and of the Secret, and the value.
    #[serde(default)]
    pub proof: String,
}

impl MintAttestation {
    /// Puts the proof in place.
    #[must_use]
    pub fn signed(self, key: &Key, uid: &str, secret: &str, value: &str) -> Self {
        let proof = prove(key, PURPOSE, &self.fields(uid, secret, value));
        Self { proof, ..self }
    }

    /// Checks that the operator said this of that value in that very Secret.
    ///
    /// # Errors
    /// When the key is gone, or anything at all differs.
    pub fn verify(&self, keyring: &Keyring, uid: &str, secret: &str, value: &str) -> Result<(), DigestError> {
        check(keyring, &self.proof, PURPOSE, &self.fields(uid, secret, value))
    }

    fn fields(&self, uid: &str, secret: &str, value: &str) -> Vec<String> {
        let said = json!(Self { proof: String::new(), ..self.clone() }).to_string();
        [uid, secret, &said, value].map(ToOwned::to_owned).into()
    }

    /// From when to when the value lives; `None` where that makes no sense.
    #[must_use]
    pub fn life(&self) -> Option<Life> {
        let (issued_at, expires_at) = (self.issued_at.timestamp().ok()?, self.expires_at.timestamp().ok()?);
        Some(Life { issued_at, expires_at })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn token(claims: &serde_json::Value) -> String {
        let encode = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
        format!("{}.{}.{}", encode("{}"), encode(&claims.to_string()), encode("signature"))
    }

    fn named(name: &str, uid: &str) -> ObjectReference {
        ObjectReference { name: name.to_owned(), uid: uid.to_owned() }
    }

    #[test]
    fn a_token_tells_whose_it_is_and_how_long_it_lives() {
        let claims = json!({
            "sub": "system:serviceaccount:edge:nodes-credential", "iat": 1000, "exp": 4600, "jti": "an-id",
            "kubernetes.io": {
                "namespace": "edge",
                "serviceaccount": {"name": "nodes-credential", "uid": "account-uid"},
                "secret": {"name": "laptop-token", "uid": "secret-uid"},
            },
        });
        let read = Claims::read(&token(&claims)).unwrap();
        let (account, secret) =
            (named("nodes-credential", "account-uid"), named("laptop-token", "secret-uid"));
        assert!(read.are_for("edge", &account, &secret));
        assert!(!read.are_for("core", &account, &secret));
        assert!(!read.are_for("edge", &named("nodes-credential", "another"), &secret));
        assert!(!read.are_for("edge", &account, &named("laptop-token", "another")));
        assert_eq!((read.life(), read.jti.as_deref()), (SignedDuration::from_hours(1), Some("an-id")));
        let mut unbound = claims.clone();
        unbound["kubernetes.io"]["secret"] = serde_json::Value::Null;
        assert!(!Claims::read(&token(&unbound)).unwrap().are_for("edge", &account, &secret));
        let mut system = claims;
        system["sub"] = json!("system:kube-controller-manager");
        assert!(!Claims::read(&token(&system)).unwrap().are_for("edge", &account, &secret));
        for none in ["", "a.b.c", "cop_000000000000_x"] {
            assert!(Claims::read(none).is_none(), "{none}");
        }
    }

    #[test]
    fn a_value_from_the_future_is_not_believed() {
        let life = Life { issued_at: at("2026-01-01T12:00:00Z"), expires_at: at("2026-01-01T13:00:00Z") };
        let end = at("2026-01-01T13:00:00Z");
        assert_eq!(life.followed_at(end), None, "it lives to the end");
        for (now, over) in
            [("2026-01-01T11:39:59Z", true), ("2026-01-01T11:40:00Z", false), ("2026-01-01T12:59:59Z", false)]
        {
            assert_eq!(life.is_over(end, at(now)), over, "{now}");
        }
        assert_eq!(life.followed_at(at("2026-01-01T15:00:00Z")), Some(at("2026-01-01T12:40:00Z")));
    }

    #[test]
    fn audiences_are_the_token_s_as_far_as_they_are_the_credential_s() {
        let list = |all: &[&str]| Some(all.iter().map(ToString::to_string).collect::<Vec<_>>());
        let of = |token: Option<Vec<String>>, credential: Option<Vec<String>>| {
            let token = ApiTokenSpec { audiences: token, ..ApiTokenSpec::default() };
            audiences(&token, &CredentialSpec { audiences: credential, ..CredentialSpec::default() })
        };
        assert_eq!(of(None, None), Ok(vec![]));
        assert_eq!(of(None, list(&["a"])), Ok(vec![]), "the API server's own");
        assert_eq!(of(list(&["b", "a", "c"]), list(&["a", "b"])), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(of(list(&["a"]), list(&["b"])), Err(NoAudience), "never the API server's own by that");
        assert_eq!(of(list(&[]), None), Err(NoAudience));
        assert_eq!(of(list(&["a"]), None), Err(NoAudience));
        assert_eq!(of(list(&[DEFAULT_AUDIENCE]), None), Ok(vec![DEFAULT_AUDIENCE.to_owned()]));
    }

    proptest! {
        /// Whatever the API server grants: one value follows the other before that ends, until the end, and none after it.
        #[test]
        fn values_follow_each_other_until_the_end(
            life in 600_000..40_000_000_i64, cap in 3_600..100_000_i64, offset in 0..1_000_i64,
        ) {
            let start = at("2026-01-01T00:00:00Z");
            let end = start + SignedDuration::from_millis(life);
            let mut now = start + SignedDuration::from_millis(offset);
            for mints in 1_i64.. {
                prop_assert!(now < end && mints <= 1 + life / 1_000 / (cap / 3 * 2));
                let asked_at = crate::api::condition::seconds(now);
                let granted = seconds_until(end, asked_at).min(cap);
                let life = Life { issued_at: asked_at, expires_at: asked_at + SignedDuration::from_secs(granted) };
                prop_assert!(!life.is_over(end, now));
                let Some(at) = life.followed_at(end) else {
                    prop_assert!(life.expires_at >= end);
                    break;
                };
                prop_assert!(now < at && at < life.expires_at && life.is_over(end, at));
                now = at;
            }
        }
    }
}
