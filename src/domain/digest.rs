//! Keyed digests: what is kept at rest in place of a token, and the proof on a Secret that the operator made it.
//!
//! Both are HMAC-SHA256 (RFC 2104) over length-prefixed fields after a label of their purpose, so that no input of
//! one can be passed off as an input of the other.

use std::collections::BTreeMap;

use hmac::{Hmac, Mac};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{
    keyring::{Key, Keyring},
    material::{Entries, ID_KEY, SECRET_KEY},
    name::{self, hex},
    token::{Parts, Token},
};
use crate::api::{Instant, api_token::PreviousToken, credential::MaterialStatus};

const ALGORITHM: &str = "hmac-sha256";
const DIGEST_PURPOSE: &str = "credential-operator.io/v1/api-token-digest";
const ATTESTATION_PURPOSE: &str = "credential-operator.io/v1/api-token-secret";
const SEALED_PURPOSE: &str = "credential-operator.io/v1/api-token-sealed-secret";
const MATERIAL_DIGEST_PURPOSE: &str = "credential-operator.io/v1/material-digest";
const MATERIAL_PURPOSE: &str = "credential-operator.io/v1/material-secret";
const ORIGIN_PURPOSE: &str = "credential-operator.io/v1/made-for";
const SOURCE_PURPOSE: &str = "credential-operator.io/v1/provided-digest";

/// The code that a key makes of a value.
pub type Code = [u8; 32];

/// Which value of which `ApiToken`: the same secret under another UID, serial or term has another digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The UID of the `ApiToken`.
    pub uid: String,
    /// The number of its value.
    pub serial: i64,
    /// The term that the value is of, where the token renews: its end follows from that, so nobody can move it.
    pub term: Option<i64>,
}

/// Serial and term as they are hashed. What does not renew is hashed as it always was.
fn number(serial: i64, term: Option<i64>) -> String {
    term.map_or_else(|| serial.to_string(), |term| format!("{serial}/{term}"))
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

/// `hmac-sha256:<key id>:<hex>` over the UID, the serial (with the term of a value that is renewed), the token id and the
/// secret.
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
    parse(digest).map(|(id, _)| id)
}

/// Takes a digest apart: the id of its key, and the code that the key made. `None` when it is no digest.
#[must_use]
pub fn parse(text: &str) -> Option<(&str, Code)> {
    let (id, digits) = text.strip_prefix(ALGORITHM)?.strip_prefix(':')?.split_once(':')?;
    let mut code = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, at) in code.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some((id, code))
}

/// Whether `code` is what `key` makes of this value, number and UID; in time that does not depend on the value.
#[must_use]
pub fn is_code_of(
    key: &Key,
    code: &Code,
    uid: &str,
    (serial, term): (i64, Option<i64>),
    token: Parts<'_>,
) -> bool {
    let fields = [uid, &number(serial, term), token.id, token.secret];
    // Constant-time: `verify_slice` compares by `subtle`.
    mac(key, DIGEST_PURPOSE, &fields).verify_slice(code).is_ok()
}

/// What the annotation on a token's Secret says, and the proof that the operator said it.
///
/// It lets a Secret be taken over after a crash between the two writes of an issue, and lets nobody plant a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attestation {
    /// The number of the value.
    pub serial: i64,
    /// The term that the value is of, where the token renews.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,
    /// The public id of the value.
    pub id: String,
    /// The end that the value was issued with; it may have been brought forward since.
    pub end: Instant,
    /// When the value was issued, where it is kept for a while alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Instant>,
    /// The UID of the credential that the value was issued for.
    pub credential: String,
    /// The value before this one, where it was to go on until its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Predecessor>,
    /// Whom the value is sealed for, as [`super::sealed::Recipients::mark`] tells them apart, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_for: Option<String>,
    /// The digest of the value, as the status has it.
    pub digest: String,
    /// The keyed digest over all of this, the UID and the value.
    pub proof: String,
}

/// A value that goes on beside the one that followed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Predecessor {
    /// The number of the value.
    pub serial: i64,
    /// The term that it is of; its end follows from that.
    pub term: i64,
    /// Its public id.
    pub id: String,
    /// Its digest.
    pub digest: String,
}

impl From<PreviousToken> for Predecessor {
    fn from(previous: PreviousToken) -> Self {
        let PreviousToken { serial, term, token_id: id, digest, .. } = previous;
        Self { serial, term, id, digest }
    }
}

/// What is attested of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its end.
    pub end: Timestamp,
    /// When it was issued, where it is kept for a while alone.
    pub issued_at: Option<Timestamp>,
    /// The UID of the credential that it is for.
    pub credential: String,
    /// The value before it, where that goes on until its end.
    pub previous: Option<Predecessor>,
}

impl Attestation {
    /// Attests that `token` is the value `subject`, and all of that claim.
    #[must_use]
    pub fn new(key: &Key, subject: &Subject, token: &Token, claim: Claim) -> Self {
        let mut attestation = Self::unproven(key, subject, token, claim);
        let proof = mac(key, ATTESTATION_PURPOSE, &attestation.fields(&subject.uid, token));
        attestation.proof = encode(key, &proof.finalize().into_bytes());
        attestation
    }

    /// Attests the same of a value that is kept as `ciphertext` alone, sealed for those recipients.
    #[must_use]
    pub fn sealed(
        key: &Key,
        subject: &Subject,
        token: &Token,
        claim: Claim,
        recipients: String,
        ciphertext: &[u8],
    ) -> Self {
        let mut attestation = Self::unproven(key, subject, token, claim);
        attestation.sealed_for = Some(recipients);
        let proof = mac(key, SEALED_PURPOSE, &attestation.sealed_fields(&subject.uid, ciphertext));
        attestation.proof = encode(key, &proof.finalize().into_bytes());
        attestation
    }

    fn unproven(key: &Key, subject: &Subject, token: &Token, claim: Claim) -> Self {
        Self {
            serial: subject.serial,
            term: subject.term,
            id: token.id().to_owned(),
            end: claim.end.into(),
            issued_at: claim.issued_at.map(Into::into),
            credential: claim.credential,
            previous: claim.previous,
            sealed_for: None,
            digest: digest(key, subject, token),
            proof: String::new(),
        }
    }

    /// Checks that the operator made this attestation, for this UID and this value.
    ///
    /// # Errors
    /// When the key is gone, or anything at all differs.
    pub fn verify(&self, keyring: &Keyring, uid: &str, token: &Token) -> Result<(), DigestError> {
        let subject = Subject { uid: uid.to_owned(), serial: self.serial, term: self.term };
        check(keyring, &self.proof, ATTESTATION_PURPOSE, &self.fields(uid, token))?;
        verify(keyring, &self.digest, &subject, token)
    }

    /// Checks that the operator made this attestation, for this UID and this ciphertext. What it says of the value that is
    /// sealed is as good as the key.
    ///
    /// # Errors
    /// When the key is gone, or anything at all differs.
    pub fn verify_sealed(&self, keyring: &Keyring, uid: &str, ciphertext: &[u8]) -> Result<(), DigestError> {
        check(keyring, &self.proof, SEALED_PURPOSE, &self.sealed_fields(uid, ciphertext))
    }

    fn fields(&self, uid: &str, token: &Token) -> Vec<String> {
        self.fields_with(uid, token.id().to_owned() + token.expose_secret())
    }

    fn sealed_fields(&self, uid: &str, ciphertext: &[u8]) -> Vec<String> {
        let mut fields = self.fields_with(uid, data_encoding::BASE64.encode(ciphertext));
        fields.push(self.sealed_for.clone().unwrap_or_default());
        fields
    }

    fn fields_with(&self, uid: &str, kept: String) -> Vec<String> {
        let previous = self.previous.as_ref().map(|previous| json!(previous).to_string());
        let fields = [
            uid.to_owned(),
            number(self.serial, self.term),
            self.id.clone(),
            self.end.to_string(),
            self.credential.clone(),
            self.digest.clone(),
            kept,
        ];
        let issued_at = self.issued_at.as_ref().map(|at| format!("issued at {at}"));
        fields.into_iter().chain(issued_at).chain(previous).collect()
    }
}

/// The digest that the annotation on a Secret of ours names, proven or not.
#[must_use]
pub fn named_by(found: &ObjectMeta) -> Option<String> {
    let said: Value =
        serde_json::from_str(found.annotations.as_ref()?.get(name::ATTESTATION_ANNOTATION)?).ok()?;
    let digest = said["digest"].as_str().or_else(|| said["material"]["digest"].as_str());
    // Of what the API server minted there is a proof alone.
    digest.or_else(|| said["proof"].as_str()).map(ToOwned::to_owned)
}

/// What the annotation on a credential's Secret says of the material in it, and the proof that the operator said it.
///
/// All that the status tells of material is here, too, so that it can be taken over after a crash between the write of
/// the Secret and that of the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MaterialAttestation {
    /// The status of the material as it was when it was published; what changes without a new value is left out.
    pub material: MaterialStatus,
    /// The generation of the credential by which it was last taken up under a name that it had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_up: Option<i64>,
    /// The keys that the material takes.
    pub keys: Vec<String>,
    /// The entries that are no secrets and follow the spec.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plain: BTreeMap<String, String>,
    /// What is published, where that is sealed: then the digest of the material cannot be checked by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedMaterial>,
    /// The keyed digest over all of this and the UID; the digest of the material covers its value.
    #[serde(default)]
    pub proof: String,
}

/// Material as it is published sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedMaterial {
    /// Whom it is sealed for, as [`super::sealed::Recipients::mark`] tells them apart.
    pub recipients: String,
    /// A digest of the entries as they are published.
    pub entries: String,
}

impl SealedMaterial {
    /// What is said of these entries, sealed for those recipients.
    #[must_use]
    pub fn new(recipients: String, published: &Entries) -> Self {
        let mut hash = Sha256::new();
        for (name, value) in published {
            for field in [name.as_bytes(), value.expose().as_slice()] {
                hash.update((field.len() as u64).to_be_bytes());
                hash.update(field);
            }
        }
        Self { recipients, entries: hex(&hash.finalize()) }
    }

    /// Whether that is what was published.
    #[must_use]
    pub fn is_of(&self, published: &Entries) -> bool {
        Self::new(self.recipients.clone(), published) == *self
    }
}

impl MaterialAttestation {
    /// The number of the value.
    #[must_use]
    pub fn serial(&self) -> i64 {
        self.material.serial.unwrap_or_default()
    }

    /// Puts the digest of `entries`, that of what was provided for them, and the proof, in place.
    #[must_use]
    pub fn signed(mut self, key: &Key, uid: &str, entries: &Entries, provided: Option<&Entries>) -> Self {
        let subject = Subject { uid: uid.to_owned(), serial: self.serial(), term: None };
        self.material.digest = Some(match client_secret(entries, self.material.id.as_deref()) {
            Some(token) => digest(key, &subject, &token),
            None => encode(key, &material_mac(key, &subject, entries).finalize().into_bytes()),
        });
        let source = provided.map(|provided| source_mac(key, uid, provided).finalize().into_bytes());
        self.material.source = source.map(|source| encode(key, &source));
        self.keys = entries.keys().cloned().collect();
        self.resigned(key, uid)
    }

    /// Says that it is published as these entries, sealed for those recipients.
    #[must_use]
    pub fn sealed(self, key: &Key, uid: &str, recipients: String, published: &Entries) -> Self {
        let sealed = Some(SealedMaterial::new(recipients, published));
        Self { sealed, keys: published.keys().cloned().collect(), ..self }.resigned(key, uid)
    }

    /// Puts a new proof in place; the digest stays.
    #[must_use]
    pub fn resigned(self, key: &Key, uid: &str) -> Self {
        let mut said = json!(self);
        let proof = mac(key, MATERIAL_PURPOSE, &unsigned(&mut said, uid));
        Self { proof: encode(key, &proof.finalize().into_bytes()), ..self }
    }

    /// Reads an annotation that the operator made for the credential of this UID.
    ///
    /// # Errors
    /// When the key is gone, or anything at all differs.
    pub fn read(text: &str, keyring: &Keyring, uid: &str) -> Result<Self, DigestError> {
        // The proof is over all that was said, also by a later version that says more.
        let mut said: Value = serde_json::from_str(text).map_err(|_| DigestError::Mismatch)?;
        let proof = said["proof"].as_str().unwrap_or_default().to_owned();
        check(keyring, &proof, MATERIAL_PURPOSE, &unsigned(&mut said, uid))?;
        Ok(Self { proof, ..serde_json::from_value(said).map_err(|_| DigestError::Mismatch)? })
    }
}

fn unsigned(said: &mut Value, uid: &str) -> [String; 2] {
    if let Some(fields) = said.as_object_mut() {
        fields.remove("proof");
    }
    [uid.to_owned(), said.to_string()]
}

/// Checks material against its digest, in time that does not depend on the material.
///
/// # Errors
/// When the key is gone, or the digest is of other material, another UID or another serial.
pub fn verify_material(
    keyring: &Keyring,
    text: &str,
    subject: &Subject,
    id: Option<&str>,
    entries: &Entries,
) -> Result<(), DigestError> {
    if let Some(token) = client_secret(entries, id) {
        return verify(keyring, text, subject, &token);
    }
    verify_mac(keyring, text, |key| material_mac(key, subject, entries))
}

/// Checks whether this is what a user had provided for the credential of this UID when the digest was made.
///
/// # Errors
/// When the key is gone, or the digest is of something else.
pub fn verify_source(
    keyring: &Keyring,
    text: &str,
    uid: &str,
    provided: &Entries,
) -> Result<(), DigestError> {
    verify_mac(keyring, text, |key| source_mac(key, uid, provided))
}

/// The keyed digest over what something says of whom it was made for.
#[must_use]
pub fn origin(key: &Key, fields: &[String]) -> String {
    encode(key, &mac(key, ORIGIN_PURPOSE, fields).finalize().into_bytes())
}

/// Checks what something says of whom it was made for.
///
/// # Errors
/// When the key is gone, or it was not said by the operator.
pub fn verify_origin(keyring: &Keyring, text: &str, fields: &[String]) -> Result<(), DigestError> {
    check(keyring, text, ORIGIN_PURPOSE, fields)
}

/// A client secret that is a token of ours, so that the verifier can tell it by itself.
pub(super) fn client_secret(entries: &Entries, id: Option<&str>) -> Option<Token> {
    let text = std::str::from_utf8(entries.get(SECRET_KEY)?.expose()).ok()?;
    let named = entries.get(ID_KEY)?.expose();
    let is_it = |token: &Token| Some(token.id()) == id && token.id().as_bytes() == named.as_slice();
    Token::parse(text).ok().filter(|token| is_it(token) && entries.len() == 2)
}

fn material_mac(key: &Key, subject: &Subject, entries: &Entries) -> Hmac<Sha256> {
    let fields = [subject.uid.clone(), subject.serial.to_string()];
    with_entries(mac(key, MATERIAL_DIGEST_PURPOSE, &fields), entries)
}

fn source_mac(key: &Key, uid: &str, provided: &Entries) -> Hmac<Sha256> {
    with_entries(mac(key, SOURCE_PURPOSE, &[uid.to_owned()]), provided)
}

fn with_entries(mut mac: Hmac<Sha256>, entries: &Entries) -> Hmac<Sha256> {
    for (name, value) in entries {
        for field in [name.as_bytes(), value.expose().as_slice()] {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field);
        }
    }
    mac
}

fn token_fields(subject: &Subject, token: &Token) -> [String; 4] {
    [
        subject.uid.clone(),
        number(subject.serial, subject.term),
        token.id().to_owned(),
        token.expose_secret().to_owned(),
    ]
}

#[cfg(test)]
thread_local! {
    /// How many codes this thread has computed.
    pub static COMPUTED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

fn mac(key: &Key, purpose: &str, fields: &[impl AsRef<str>]) -> Hmac<Sha256> {
    #[cfg(test)]
    COMPUTED.set(COMPUTED.get() + 1);
    let mut mac = key.hmac();
    for field in std::iter::once(purpose).chain(fields.iter().map(AsRef::as_ref)) {
        mac.update(&(field.len() as u64).to_be_bytes());
        mac.update(field.as_bytes());
    }
    mac
}

/// A proof, under `key`, that the operator said these fields for that purpose.
pub(super) fn prove(key: &Key, purpose: &str, fields: &[String]) -> String {
    encode(key, &mac(key, purpose, fields).finalize().into_bytes())
}

fn encode(key: &Key, mac: &[u8]) -> String {
    format!("{ALGORITHM}:{}:{}", key.id(), hex(mac))
}

/// Checks a proof, in time that does not depend on the fields.
///
/// # Errors
/// When the key is gone, or the proof is of anything else.
pub(super) fn check(
    keyring: &Keyring,
    text: &str,
    purpose: &str,
    fields: &[String],
) -> Result<(), DigestError> {
    verify_mac(keyring, text, |key| mac(key, purpose, fields))
}

fn verify_mac(
    keyring: &Keyring,
    text: &str,
    mac: impl FnOnce(&Key) -> Hmac<Sha256>,
) -> Result<(), DigestError> {
    let (id, given) = parse(text).ok_or(DigestError::Mismatch)?;
    let key = keyring.get(id).ok_or(DigestError::KeyMissing)?;
    // Constant-time: `verify_slice` compares by `subtle`.
    mac(key).verify_slice(&given).map_err(|_| DigestError::Mismatch)
}
