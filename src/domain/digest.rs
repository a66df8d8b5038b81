//! Keyed digests: what is kept at rest in place of a token, and the proof on a Secret that the operator made it.
//!
//! Both are HMAC-SHA256 (RFC 2104) over length-prefixed fields after a label of their purpose, so that no input of
//! one can be passed off as an input of the other.

use hmac::{Hmac, Mac};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;

use super::{
    keyring::{Key, Keyring},
    name::hex,
    token::Token,
};
use crate::api::Instant;

const ALGORITHM: &str = "hmac-sha256";
const DIGEST_PURPOSE: &str = "credential-operator.io/v1/api-token-digest";
const ATTESTATION_PURPOSE: &str = "credential-operator.io/v1/api-token-secret";

/// Which value of which `ApiToken`: the same secret under another UID or serial has another digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The UID of the `ApiToken`.
    pub uid: String,
    /// The number of its value.
    pub serial: i64,
}

/// Why a value is not the one that a digest was made of.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DigestError {
    /// The digest names a key that the keyring no longer has.
    #[error("the key of the digest is not in the keyring")]
    KeyMissing,
    /// The digest is of something else, or is none.
    #[error("the digest does not match")]
    Mismatch,
}

/// `hmac-sha256:<key id>:<hex>` over the UID, the serial, the token id and the secret.
#[must_use]
pub fn digest(key: &Key, subject: &Subject, token: &Token) -> String {
    encode(key, &mac(key, DIGEST_PURPOSE, &token_fields(subject, token)).finalize().into_bytes())
}

/// Checks a value against its digest, in time that does not depend on the value.
///
/// # Errors
/// When the key is gone, or the digest is of another value, UID or serial.
pub fn verify(keyring: &Keyring, digest: &str, subject: &Subject, token: &Token) -> Result<(), DigestError> {
    check(keyring, digest, DIGEST_PURPOSE, &token_fields(subject, token))
}

/// The id of the key that a digest names; `None` when it is no digest.
#[must_use]
pub fn key_id(digest: &str) -> Option<&str> {
    decode(digest).map(|(id, _)| id)
}

/// What the annotation on a token's Secret says, and the proof that the operator said it.
///
/// It lets a Secret be taken over after a crash between the two writes of an issue, and lets nobody plant a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attestation {
    /// The number of the value.
    pub serial: i64,
    /// The public id of the value.
    pub id: String,
    /// The end that the value was issued with; it may have been brought forward since.
    pub end: Instant,
    /// The UID of the credential that the value was issued for.
    pub credential: String,
    /// The digest of the value, as the status has it.
    pub digest: String,
    /// The keyed digest over all of this, the UID and the value.
    pub proof: String,
}

impl Attestation {
    /// Attests that `token` is the value `subject`, until `end`, for the credential of that UID.
    #[must_use]
    pub fn new(key: &Key, subject: &Subject, token: &Token, end: Timestamp, credential: &str) -> Self {
        let mut attestation = Self {
            serial: subject.serial,
            id: token.id().to_owned(),
            end: end.into(),
            credential: credential.to_owned(),
            digest: digest(key, subject, token),
            proof: String::new(),
        };
        let proof = mac(key, ATTESTATION_PURPOSE, &attestation.fields(&subject.uid, token));
        attestation.proof = encode(key, &proof.finalize().into_bytes());
        attestation
    }

    /// Checks that the operator made this attestation, for this UID and this value.
    ///
    /// # Errors
    /// When the key is gone, or anything at all differs.
    pub fn verify(&self, keyring: &Keyring, uid: &str, token: &Token) -> Result<(), DigestError> {
        let subject = Subject { uid: uid.to_owned(), serial: self.serial };
        check(keyring, &self.proof, ATTESTATION_PURPOSE, &self.fields(uid, token))?;
        verify(keyring, &self.digest, &subject, token)
    }

    fn fields(&self, uid: &str, token: &Token) -> [String; 7] {
        [
            uid.to_owned(),
            self.serial.to_string(),
            self.id.clone(),
            self.end.to_string(),
            self.credential.clone(),
            self.digest.clone(),
            token.id().to_owned() + token.expose_secret(),
        ]
    }
}

fn token_fields(subject: &Subject, token: &Token) -> [String; 4] {
    [subject.uid.clone(), subject.serial.to_string(), token.id().to_owned(), token.expose_secret().to_owned()]
}

fn mac(key: &Key, purpose: &str, fields: &[String]) -> Hmac<Sha256> {
    let mut mac = key.hmac();
    for field in std::iter::once(purpose).chain(fields.iter().map(String::as_str)) {
        mac.update(&(field.len() as u64).to_be_bytes());
        mac.update(field.as_bytes());
    }
    mac
}

fn encode(key: &Key, mac: &[u8]) -> String {
    format!("{ALGORITHM}:{}:{}", key.id(), hex(mac))
}

fn decode(text: &str) -> Option<(&str, [u8; 32])> {
    let (id, digits) = text.strip_prefix(ALGORITHM)?.strip_prefix(':')?.split_once(':')?;
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some((id, bytes))
}

fn check(keyring: &Keyring, text: &str, purpose: &str, fields: &[String]) -> Result<(), DigestError> {
    let (id, given) = decode(text).ok_or(DigestError::Mismatch)?;
    let key = keyring.get(id).ok_or(DigestError::KeyMissing)?;
    // Constant-time: `verify_slice` compares by `subtle`.
    mac(key, purpose, fields).verify_slice(&given).map_err(|_| DigestError::Mismatch)
}
