//! Material: the secret bytes of a credential, by type. What is drawn, from which options, under which keys it is
//! published, and how provided material is checked.
//!
//! One file for each type that can be generated, one table for those that are only checked. Nothing here knows of
//! clients, clocks or the cluster; randomness and the time are passed in.

mod basic_auth;
mod client_secret;
pub mod cost;
mod hashed_password;
mod helm_repository;
pub mod kubeconfig;
mod object_store;
mod opaque;
mod password;
mod provided;
pub mod registry;
mod ssh_key;
mod tls;
mod totp;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use rand::CryptoRng;
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{
    delivery,
    name::hex,
    redacted::Redacted,
    sealed::{self, Recipients},
    token::Prefix,
};
use crate::api::{CredentialSpec, CredentialType};

pub use client_secret::{ID_KEY, SECRET_KEY};

/// The entries of a Secret.
pub type Entries = BTreeMap<String, Redacted<Vec<u8>>>;

/// What one type of credential is.
pub struct Kind {
    /// The type of the Secret that is published, from Kubernetes' own list.
    pub secret_type: &'static str,
    /// How it is generated; `None` where only the user can provide it.
    pub generated: Option<Generated>,
    /// How provided material is checked.
    pub provided: Provided,
    /// What `Inactive` means to whoever holds the material.
    pub when_inactive: &'static str,
}

/// How material is generated.
pub struct Generated {
    /// The options with their defaults in place, as far as the material depends on them.
    pub options: fn(&Request<'_>) -> Result<Value, Problem>,
    /// Draws it.
    pub draw: fn(&Request<'_>, &mut dyn CryptoRng) -> Result<Drawn, Problem>,
    /// How long it lasts of itself.
    pub lasts: fn(&CredentialSpec) -> Option<SignedDuration>,
    /// Whether it is a bearer token that the verifier knows.
    pub bearer: bool,
    /// The keys whose values are no secrets, and nothing to guess one by. They stay readable where the rest is sealed.
    pub public: &'static [&'static str],
}

/// How provided material is taken.
pub struct Provided {
    /// The keys that must be there and not be empty. A type that names no keys at all takes whatever there is.
    pub required: &'static [&'static str],
    /// The keys that are published, too, where they are there.
    pub optional: &'static [&'static str],
    /// What must hold beyond that.
    pub check: fn(&Entries, Timestamp) -> Result<Facts, Problem>,
    /// What is published of it, where that is not what was provided.
    pub publish: Option<Publish>,
}

type Publish = fn(&Request<'_>, &Entries, &mut dyn CryptoRng) -> Result<Entries, Problem>;

/// For whom material is made, and from what.
pub struct Request<'a> {
    /// What the user wishes.
    pub spec: &'a CredentialSpec,
    /// The namespace of the credential.
    pub namespace: &'a str,
    /// The name of the credential.
    pub name: &'a str,
    /// What time it is.
    pub now: Timestamp,
    /// What tokens start with.
    pub prefix: &'a Prefix,
    /// The entries of the Secret of the certificate authority, where one is to sign.
    pub issuer: Option<&'a Entries>,
}

/// What was drawn.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The entries of the Secret.
    pub entries: Entries,
    /// What may be said of it.
    pub facts: Facts,
}

/// What may be said of material in public.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// A public id, such as a client id or an access key id.
    pub id: Option<String>,
    /// A fingerprint of the public part.
    pub fingerprint: Option<String>,
    /// When it ends of itself, as a certificate does.
    pub expires_at: Option<Timestamp>,
}

/// Why there can be no such material. Names keys and options and never a value.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
    /// What was provided is not what it should be.
    #[error("{0}")]
    Material(String),
}

/// What that type of credential is; `None` for one that holds no material.
#[must_use]
pub const fn kind(credential_type: CredentialType) -> Option<&'static Kind> {
    Some(match credential_type {
        CredentialType::Token => return None,
        CredentialType::ClientSecret => &client_secret::KIND,
        CredentialType::BasicAuth => &basic_auth::KIND,
        CredentialType::SshKey => &ssh_key::KIND,
        CredentialType::Tls => &tls::KIND,
        CredentialType::ObjectStore => &object_store::KIND,
        CredentialType::Registry => &registry::KIND,
        CredentialType::HelmRepository => &helm_repository::KIND,
        CredentialType::Kubeconfig => &kubeconfig::KIND,
        CredentialType::Opaque => &opaque::KIND,
        CredentialType::HashedPassword => &hashed_password::KIND,
        CredentialType::Totp => &totp::KIND,
        CredentialType::GpgKey => &provided::GPG_KEY,
        CredentialType::SwarmToken => &provided::SWARM_TOKEN,
        CredentialType::DockerSwarm => &provided::DOCKER_SWARM,
        CredentialType::KubernetesApi => &provided::KUBERNETES_API,
        CredentialType::Vpn => &provided::VPN,
        CredentialType::AmazonEc2 => &provided::AMAZON_EC2,
        CredentialType::Azure => &provided::AZURE,
        CredentialType::Exoscale => &provided::EXOSCALE,
        CredentialType::GoogleCloud => &provided::GOOGLE_CLOUD,
        CredentialType::OpenStack => &provided::OPEN_STACK,
    })
}

/// The type of Secrets with tokens or sealed material, and of the keyring.
pub const OPAQUE: &str = "Opaque";

/// The types of all Secrets that the operator creates.
#[must_use]
pub fn secret_types() -> BTreeSet<&'static str> {
    let of_material = CredentialType::ALL.into_iter().filter_map(kind).map(|kind| kind.secret_type);
    of_material.chain([OPAQUE]).collect()
}

/// A short digest of the options that the material depends on. It changes when, and only when, one of them does.
///
/// # Errors
/// When the options make no sense.
pub fn options(kind: &Kind, request: &Request<'_>) -> Result<String, Problem> {
    let options = match (&kind.generated, &request.spec.provided) {
        (Some(generated), None) => (generated.options)(request)?,
        // What is provided depends on what was provided, and its hash on how it is hashed.
        (_, Some(_)) => hashed_password::hashing(request),
        (None, None) => {
            return Err(Problem::Options(
                "material of this type is not generated: set spec.provided.secretRef to a Secret that has it"
                    .to_owned(),
            ));
        }
    };
    let options = hex(&Sha256::digest(options.to_string())[..8]);
    // Nobody here could seal for others what was sealed for some, so others get another value.
    let Some(recipients) = delivery::recipients(request.spec.delivery.as_ref()) else { return Ok(options) };
    let recipients = Recipients::new(recipients).map_err(|error| Problem::Options(error.to_string()))?;
    Ok(format!("{options}-{}", &recipients.mark()[..16]))
}

/// The entries as they are published for those recipients: a secret under its key and `.age`, sealed.
///
/// # Errors
/// When they cannot be sealed.
pub fn seal(kind: &Kind, entries: &Entries, recipients: &Recipients) -> Result<Entries, Problem> {
    let public = kind.generated.as_ref().map(|generated| generated.public).unwrap_or_default();
    let sealed = entries.iter().map(|(key, value)| {
        if public.contains(&key.as_str()) {
            return Ok((key.clone(), value.clone()));
        }
        let sealed = recipients.seal(value.expose()).map_err(|error| Problem::Options(error.to_string()))?;
        Ok((format!("{key}{}", sealed::SUFFIX), Redacted::new(sealed)))
    });
    sealed.collect()
}

/// The entries that are no secrets and follow the spec without anything being drawn.
#[must_use]
pub fn plain(spec: &CredentialSpec) -> BTreeMap<String, String> {
    object_store::plain(spec)
}

/// Checks what was provided, and tells what may be said of it.
///
/// # Errors
/// When a key is missing or its content is not what it should be; names the key.
pub fn check(kind: &Kind, spec: &CredentialSpec, found: &Entries, now: Timestamp) -> Result<Facts, Problem> {
    for key in kind.provided.required {
        if found.get(*key).is_none_or(|value| value.expose().iter().all(u8::is_ascii_whitespace)) {
            return Err(Problem::Material(format!("the key {key} is missing or empty")));
        }
    }
    // They are all listed in an annotation of the published Secret.
    let names: usize = taken(kind, found).keys().map(|name| name.len() + SEPARATOR).sum();
    if names > MAX_NAMES {
        return Err(Problem::Material(format!(
            "the names of its keys take {names} bytes in the annotation of the published Secret, and {MAX_NAMES} are allowed; use \
             fewer or shorter names"
        )));
    }
    if spec.credential_type == CredentialType::HashedPassword {
        hashed_password::check(spec, found)?;
    }
    (kind.provided.check)(found, now)
}

/// How many bytes the names of keys may take in an annotation; [`crate::client`] reads no longer one.
pub(crate) const MAX_NAMES: usize = 60_000;
/// How many bytes a name takes beside its characters: quotation marks and a comma, escaped.
pub(crate) const SEPARATOR: usize = 5;

/// The entries that material is taken from; whatever else is provided does not matter.
#[must_use]
pub fn taken(kind: &Kind, found: &Entries) -> Entries {
    let Provided { required, optional, .. } = kind.provided;
    if required.is_empty() && optional.is_empty() {
        return found.clone();
    }
    let keys = required.iter().chain(optional);
    keys.filter_map(|key| Some(((*key).to_owned(), found.get(*key)?.clone()))).collect()
}

/// What is published of checked material.
///
/// # Errors
/// When it cannot be made from that.
pub fn publish(
    kind: &Kind,
    request: &Request<'_>,
    found: &Entries,
    random: &mut dyn CryptoRng,
) -> Result<Entries, Problem> {
    kind.provided.publish.map_or_else(|| Ok(taken(kind, found)), |publish| publish(request, found, random))
}

fn entry(key: &str, value: impl Into<Vec<u8>>) -> (String, Redacted<Vec<u8>>) {
    (key.to_owned(), Redacted::new(value.into()))
}

fn text<'a>(entries: &'a Entries, key: &str) -> Result<&'a str, Problem> {
    let bytes = entries.get(key).map(|value| value.expose().as_slice()).unwrap_or_default();
    std::str::from_utf8(bytes).map_err(|_| Problem::Material(format!("the key {key} is not text")))
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of a check")]
fn anything(_: &Entries, _: Timestamp) -> Result<Facts, Problem> {
    Ok(Facts::default())
}

const fn forever(_: &CredentialSpec) -> Option<SignedDuration> {
    None
}

/// Nobody asks us whether it may be used.
const READERS_GO_ON: &str =
    "whoever has read the Secret can go on using what is in it, until it is refused where it is used";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_types_that_nobody_acts_on() {
        let types: Vec<_> = secret_types().into_iter().collect();
        assert_eq!(
            types,
            [
                "Opaque",
                "kubernetes.io/basic-auth",
                "kubernetes.io/dockerconfigjson",
                "kubernetes.io/ssh-auth",
                "kubernetes.io/tls",
            ]
        );
    }

    #[test]
    fn every_type_is_listed_once() {
        let schema = serde_json::json!(schemars::schema_for!(CredentialType));
        let all: BTreeSet<_> =
            CredentialType::ALL.into_iter().map(|each| serde_json::json!(each).to_string()).collect();
        assert_eq!(all.len(), CredentialType::ALL.len());
        let text = schema.to_string();
        assert!(all.iter().all(|name| text.contains(name.as_str())), "{text}");
        assert_eq!(all.len(), schema["enum"].as_array().or(schema["oneOf"].as_array()).unwrap().len());
    }
}
