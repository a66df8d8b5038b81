//! Whether a presented value is accepted, and for what. Pure: the time is passed in.

use std::sync::Arc;

use super::{
    index::Index,
    record::{Facts, Id, Kind, Nanoseconds, Record, SharedRecord},
};
use crate::domain::{
    digest,
    keyring::{Key, Keyring},
    token::Parts,
};

/// More characters than any token has: what is longer is none, and nothing of it is looked at.
const MAX_TOKEN_LENGTH: usize = 128;

/// How a value was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented<'a> {
    /// As a bearer token, RFC 6750.
    Bearer(&'a str),
    /// As the password of HTTP Basic, RFC 7617: client secrets only, and the user must be the client id.
    Basic {
        /// The user.
        user: &'a str,
        /// The password.
        password: &'a str,
    },
}

/// What a value must be good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// One of these audiences.
    pub audiences: Vec<String>,
    /// All of these scopes.
    pub scopes: Vec<String>,
    /// A credential of one of these namespaces; `None`: of any.
    pub namespaces: Option<Vec<String>>,
}

/// A value that is accepted now.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The value.
    pub record: SharedRecord,
    /// What its credential says.
    pub facts: Arc<Facts>,
}

/// Why a value is not accepted. The bearer is told no more than whether he is known and lacks a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Not of the form of a token, or mistyped.
    Malformed,
    /// No such value, or it ended in whatever way.
    Invalid,
    /// Valid, and not for any of the audiences.
    Audience,
    /// Valid, and of a credential in a namespace that is not accepted here.
    Namespace,
    /// Valid, and without a scope that is needed.
    Scope,
}

/// Judges a value.
///
/// What looks like a token costs one HMAC whether or not it is known, more only where its id was copied; the comparison
/// is constant-time.
///
/// # Errors
/// When it is not accepted.
pub fn judge(
    index: &Index,
    keyring: &Keyring,
    presented: Presented<'_>,
    demand: &Demand,
    now: Nanoseconds,
) -> Result<Accepted, Refusal> {
    let (Presented::Bearer(text) | Presented::Basic { password: text, .. }) = presented;
    if text.len() > MAX_TOKEN_LENGTH {
        return Err(Refusal::Malformed);
    }
    let token = Parts::of(text).map_err(|_| Refusal::Malformed)?;
    let id = Id::new(token.id).ok_or(Refusal::Malformed)?;
    let mut hashed = false;
    let found = index.find(id, |record| {
        let key = keyring.get(record.key())?;
        hashed = true;
        is_of(record, key, token).then(|| record.clone())
    });
    if !hashed {
        miss(keyring, token);
    }
    let record = found.ok_or(Refusal::Invalid)?;
    if let Presented::Basic { user, .. } = presented
        && (record.kind != Kind::ClientSecret || user != token.id)
    {
        return Err(Refusal::Invalid);
    }
    let facts = record.credential.facts.load_full().filter(|facts| facts.is_active(now));
    let facts = facts.filter(|_| !record.is_over(now)).ok_or(Refusal::Invalid)?;
    if !record.audiences(&facts).any(|audience| demand.audiences.iter().any(|wanted| wanted == audience)) {
        return Err(Refusal::Audience);
    }
    let namespace = &*record.credential.namespace;
    if demand.namespaces.as_ref().is_some_and(|accepted| !accepted.iter().any(|one| one == namespace)) {
        return Err(Refusal::Namespace);
    }
    if !demand.scopes.iter().all(|needed| record.scopes(&facts).any(|scope| scope == needed)) {
        return Err(Refusal::Scope);
    }
    Ok(Accepted { record, facts })
}

fn is_of(record: &Record, key: &Key, token: Parts<'_>) -> bool {
    let mut buffer = uuid::Uuid::encode_buffer();
    let uid = record.uid().hyphenated().encode_lower(&mut buffer);
    digest::is_code_of(key, record.code(), uid, record.number(), token)
}

/// The work of a hit, so that an unknown id takes no less time than a known one.
fn miss(keyring: &Keyring, token: Parts<'_>) {
    if let Some(key) = keyring.keys().last() {
        let mut buffer = uuid::Uuid::encode_buffer();
        let uid = uuid::Uuid::nil().hyphenated().encode_lower(&mut buffer);
        std::hint::black_box(digest::is_code_of(key, &[0; 32], uid, (0, None), token));
    }
}
