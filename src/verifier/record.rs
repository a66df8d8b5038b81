//! What is kept of a value that may be accepted, and of the credential that it belongs to.
//!
//! There is one record a value, so it is as small as it can be; what many of them share is shared.

use std::sync::{Arc, atomic::AtomicBool};

use arc_swap::ArcSwapOption;
use compact_str::CompactString;
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    api::{
        ApiToken, ApiTokenState, Credential, CredentialState, CredentialStatus, CredentialType,
        DEFAULT_AUDIENCE, Instant, credential::DesiredState,
    },
    domain::{
        digest::{self, Code},
        expiry::Terms,
        token::ID_LENGTH,
    },
};

/// The public id of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id([u8; ID_LENGTH]);

impl Id {
    /// The id that is written so; `None` when none is.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        text.as_bytes()
            .try_into()
            .ok()
            .filter(|id: &[u8; _]| id.iter().all(u8::is_ascii_alphanumeric))
            .map(Self)
    }
}

impl Id {
    /// The id as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // All of it is ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Which kind of object a value belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An `ApiToken`.
    ApiToken,
    /// A `Credential` of type `ClientSecret`.
    ClientSecret,
}

/// One value that may be accepted.
#[derive(Debug)]
pub struct Record {
    /// The public id inside the value.
    pub id: Id,
    /// What it belongs to.
    pub kind: Kind,
    /// Whether its object was met since the last reading of all objects began.
    pub(super) met: AtomicBool,
    code: Code,
    uid: Uuid,
    pub(super) serial: u32,
    issued_at: u32,
    end: Nanoseconds,
    // Names are short: most need no allocation of their own.
    name: CompactString,
    // One word where a fat `Arc<str>` has two.
    key: Arc<Box<str>>,
    /// The credential that it was issued for.
    pub credential: Arc<Slot>,
    particulars: Option<Box<Particulars>>,
}

/// A record as index and requests share it. There is one a value, so it has no count of weak references.
pub type SharedRecord = triomphe::Arc<Record>;

/// Since 1970, negative before. All instants of the API are before the year 2200, so that they fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanoseconds(i64);

impl From<Timestamp> for Nanoseconds {
    fn from(at: Timestamp) -> Self {
        Self(at.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into()).try_into().unwrap_or(i64::MIN))
    }
}

/// What most values do not have.
#[derive(Debug, PartialEq, Eq)]
struct Particulars {
    /// Of a token that renews.
    term: Option<i64>,
    /// Where a token has less than its credential.
    scopes: Option<Vec<String>>,
    audiences: Option<Vec<String>>,
}

/// The place of one very credential: whether it exists, and what holds for its values.
#[derive(Debug)]
pub struct Slot {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its UID; a later credential of the name has another slot.
    pub uid: Uuid,
    pub(super) facts: ArcSwapOption<Facts>,
}

impl Slot {
    pub(super) fn new(namespace: Arc<str>, name: &str, uid: Uuid) -> Self {
        Self { namespace, name: name.into(), uid, facts: ArcSwapOption::empty() }
    }
}

/// What holds for the values of a credential.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    active: bool,
    end: Option<Nanoseconds>,
    audiences: Vec<String>,
    scopes: Vec<String>,
    /// `scopes` as RFC 6749 writes them, since most tokens have all.
    scope: String,
}

impl Facts {
    /// What a credential says of its values.
    #[must_use]
    pub fn of(credential: &Credential) -> Self {
        let spec = &credential.spec;
        let state = credential.status.as_ref().and_then(|status| status.state);
        let end = spec.expires_at.as_ref().map(Instant::timestamp);
        // Once expired, always expired: a clock that was set back brings nothing back.
        let over = state == Some(CredentialState::Expired) && end.is_some();
        let refused = credential.status.as_ref().is_some_and(CredentialStatus::is_refused_by_policy);
        let active = spec.state == DesiredState::Active
            && credential.metadata.deletion_timestamp.is_none()
            && !over
            && !refused
            && !matches!(end, Some(Err(_)));
        let scopes = spec.scopes.clone().unwrap_or_default();
        Self {
            active,
            end: end.and_then(Result::ok).map(Into::into),
            audiences: spec.audiences.clone().unwrap_or_else(|| vec![DEFAULT_AUDIENCE.to_owned()]),
            scope: scopes.join(" "),
            scopes,
        }
    }

    /// Whether values are accepted at that time, as far as the credential goes.
    #[must_use]
    pub fn is_active(&self, now: Nanoseconds) -> bool {
        self.active && self.end.is_none_or(|end| now < end)
    }
}

/// A value as an object states it, before it has a place in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    /// What it belongs to.
    pub kind: Kind,
    /// The name of that object.
    pub name: String,
    /// The name of the credential that it was issued for.
    pub credential: String,
    /// The UID of the credential that it was issued for.
    pub credential_uid: Uuid,
    /// The id of the key of its digest.
    pub key: String,
    uid: Uuid,
    id: Id,
    code: Code,
    serial: u32,
    term: Option<i64>,
    issued_at: u32,
    end: Nanoseconds,
    scopes: Option<Vec<String>>,
    audiences: Option<Vec<String>>,
}

impl Stated {
    /// The values of a token that could be accepted, now or later: one, or two while a renewed one goes on.
    #[must_use]
    pub fn of_token(token: &ApiToken) -> Vec<Self> {
        let (spec, metadata) = (&token.spec, &token.metadata);
        let Some(status) = &token.status else { return Vec::new() };
        let over = matches!(status.state, Some(ApiTokenState::Expired | ApiTokenState::Revoked));
        if over || spec.revoked == Some(true) || metadata.deletion_timestamp.is_some() {
            return Vec::new();
        }
        let value = |serial: i64, term: Option<i64>, id: &str, text: &str, issued_at: u32| {
            let (key, code) = digest::parse(text)?;
            let terms = Terms::of(spec, metadata.creation_timestamp.as_ref()?.0).ok()?;
            let renews = spec.renew_before.is_some();
            // By the spec alone: a status that was forged or put back must not make a value live longer. The term is in
            // the digest.
            let term = if renews { Some(term?) } else { None };
            Some(Self {
                kind: Kind::ApiToken,
                name: metadata.name.clone()?,
                credential: spec.credential_ref.name.clone(),
                credential_uid: uid(status.credential_uid.as_ref()?)?,
                key: key.to_owned(),
                uid: uid(metadata.uid.as_ref()?)?,
                id: Id::new(id)?,
                code,
                serial: serial.try_into().ok()?,
                term,
                issued_at,
                end: terms.end(term).into(),
                scopes: spec.scopes.clone(),
                audiences: spec.audiences.clone(),
            })
        };
        let current = match (status.serial, &status.token_id, &status.digest) {
            (Some(serial), Some(id), Some(digest)) => {
                value(serial, status.term, id, digest, seconds(status.issued_at.as_ref()))
            }
            _ => None,
        };
        // When it was drawn is no longer known.
        let previous =
            status.previous.as_ref().filter(|_| spec.renew_before.is_some()).and_then(|previous| {
                value(previous.serial, Some(previous.term), &previous.token_id, &previous.digest, 0)
            });
        current.into_iter().chain(previous).collect()
    }

    /// The values of a credential's own material: none, but for type `ClientSecret`, where it is one, or two during a
    /// declared overlap.
    #[must_use]
    pub fn of_credential(credential: &Credential) -> Vec<Self> {
        let status = credential.status.as_ref().and_then(|status| status.material.as_ref());
        let Some(material) =
            status.filter(|_| credential.spec.credential_type == CredentialType::ClientSecret)
        else {
            return Vec::new();
        };
        let end = |end: Option<&Instant>| match end.map(Instant::timestamp) {
            None => Some(Nanoseconds(i64::MAX)),
            Some(Ok(end)) => Some(end.into()),
            Some(Err(_)) => None,
        };
        let value = |serial: i64, id: &str, text: &str, end: Option<Nanoseconds>| {
            let (key, code) = digest::parse(text)?;
            let own = uid(credential.metadata.uid.as_ref()?)?;
            let name = credential.metadata.name.clone()?;
            Some(Self {
                kind: Kind::ClientSecret,
                credential: name.clone(),
                name,
                credential_uid: own,
                key: key.to_owned(),
                uid: own,
                id: Id::new(id)?,
                code,
                serial: serial.try_into().ok()?,
                term: None,
                issued_at: seconds(material.issued_at.as_ref()),
                end: end?,
                scopes: None,
                audiences: None,
            })
        };
        let current = match (material.serial, &material.id, &material.digest) {
            (Some(serial), Some(id), Some(digest)) => {
                value(serial, id, digest, end(material.expires_at.as_ref()))
            }
            _ => None,
        };
        let previous = material.previous.as_ref().and_then(|previous| {
            let mut previous_value =
                value(previous.serial, &previous.id, &previous.digest, end(Some(&previous.expires_at)))?;
            // When it was drawn is no longer known.
            previous_value.issued_at = 0;
            Some(previous_value)
        });
        current.into_iter().chain(previous).collect()
    }

    pub(super) fn record(self, key: Arc<Box<str>>, credential: Arc<Slot>) -> Record {
        let particulars = Particulars { term: self.term, scopes: self.scopes, audiences: self.audiences };
        let none = Particulars { term: None, scopes: None, audiences: None };
        Record {
            id: self.id,
            kind: self.kind,
            met: AtomicBool::new(true),
            code: self.code,
            uid: self.uid,
            serial: self.serial,
            issued_at: self.issued_at,
            end: self.end,
            name: self.name.into(),
            key,
            credential,
            particulars: (particulars != none).then(|| Box::new(particulars)),
        }
    }
}

impl Record {
    /// The name of the object that it belongs to.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The UID of the object that it belongs to.
    #[must_use]
    pub const fn uid(&self) -> Uuid {
        self.uid
    }

    /// The id of the key of its digest.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The code that the key made of the value.
    #[must_use]
    pub const fn code(&self) -> &Code {
        &self.code
    }

    /// The number of the value, and its term where the token renews.
    #[must_use]
    pub fn number(&self) -> (i64, Option<i64>) {
        (self.serial.into(), self.particulars.as_ref().and_then(|particulars| particulars.term))
    }

    /// When the value was drawn, in seconds since 1970; `None` where that is not known.
    #[must_use]
    pub fn issued_at(&self) -> Option<u32> {
        Some(self.issued_at).filter(|at| *at > 0)
    }

    /// The end of the value, as far as it goes by itself: exclusive.
    #[must_use]
    pub fn is_over(&self, now: Nanoseconds) -> bool {
        now >= self.end
    }

    /// The earlier of its own end and its credential's, in whole seconds since 1970, rounded down; `None` for no end.
    #[must_use]
    pub fn ends_at(&self, facts: &Facts) -> Option<i64> {
        let Nanoseconds(end) = facts.end.map_or(self.end, |end| end.min(self.end));
        (end != i64::MAX).then(|| end.div_euclid(1_000_000_000))
    }

    /// The audiences that it is for.
    pub fn audiences<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = &'a str> {
        let mine = self.particulars.as_ref().and_then(|particulars| particulars.audiences.as_ref());
        within(&facts.audiences, mine)
    }

    /// The scopes that it has.
    pub fn scopes<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = &'a str> {
        let mine = self.particulars.as_ref().and_then(|particulars| particulars.scopes.as_ref());
        within(&facts.scopes, mine)
    }

    /// The scopes that it has as one text, RFC 6749, section 3.3.
    #[must_use]
    pub fn scope<'a>(&self, facts: &'a Facts) -> std::borrow::Cow<'a, str> {
        match self.particulars.as_ref().and_then(|particulars| particulars.scopes.as_ref()) {
            None => facts.scope.as_str().into(),
            Some(_) => self.scopes(facts).collect::<Vec<_>>().join(" ").into(),
        }
    }
}

fn within<'a>(all: &'a [String], narrowed: Option<&'a Vec<String>>) -> impl Iterator<Item = &'a str> {
    all.iter().filter(move |one| narrowed.is_none_or(|narrowed| narrowed.contains(one))).map(String::as_str)
}

/// A UID as the API server writes it. Any other spelling would have another digest.
pub(super) fn uid(text: &str) -> Option<Uuid> {
    let uid = Uuid::try_parse(text).ok()?;
    (uid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text).then_some(uid)
}

fn seconds(at: Option<&Instant>) -> u32 {
    let at = at.and_then(|at| at.timestamp().ok());
    at.and_then(|at| at.as_second().try_into().ok()).unwrap_or_default()
}
