//! S16 and S17: what is delivered once is readable until it is said to be delivered, and what is sealed is never readable.
//!
//! What was sealed for the key pair of the scenarios can be opened here, so that all else can be checked of it, too.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::Read,
    iter,
    str::FromStr,
};

use age::{Decryptor, x25519::Identity};
use control_plane::AuditEvent;
use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential, CredentialState, DeliveryMode},
    controller::api_token::observe::{SEALED_KEY, TOKEN_KEY},
    domain::{
        binding::controller, delivery, digest::MaterialAttestation, material::SECRET_KEY, name, token::Token,
    },
};
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;

use crate::scenario::delivery::IDENTITY;

/// What is known of values by how they are delivered. Versions are those of the API server, which are one sequence.
#[derive(Default)]
pub struct Deliveries {
    /// Secrets with a value, by UID.
    readable: HashMap<String, Readable>,
    /// In which version of its owner a value was first said to be delivered, by its id, or the digest of material.
    said: BTreeMap<String, u64>,
    modes: HashMap<String, DeliveryMode>,
    /// Tokens and credentials that have ended in whatever way.
    over: BTreeSet<String>,
    /// Owners of Secrets with something in them that is not sealed.
    plain: BTreeSet<(String, String)>,
}

struct Readable {
    name: String,
    owner: String,
    id: String,
    since: u64,
    until: Option<u64>,
}

/// The value in a token's Secret, sealed or not.
#[must_use]
pub fn value(secret: &Secret) -> Option<String> {
    let data = secret.data.as_ref()?;
    let bytes = match data.get(SEALED_KEY) {
        Some(sealed) => open(&sealed.0)?,
        None => data.get(TOKEN_KEY)?.0.clone(),
    };
    String::from_utf8(bytes).ok()
}

fn open(sealed: &[u8]) -> Option<Vec<u8>> {
    let identity = Identity::from_str(IDENTITY).ok()?;
    let mut opened = Vec::new();
    let mut reader = Decryptor::new(sealed).ok()?.decrypt(iter::once(&identity as _)).ok()?;
    reader.read_to_end(&mut opened).ok()?;
    Some(opened)
}

/// The version of an object.
#[must_use]
pub fn version(object: &impl Resource) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

impl Deliveries {
    /// A Secret is there.
    pub fn secret(&mut self, secret: &Secret) {
        let Some(owner) = controller(&secret.metadata) else { return };
        let name = secret.metadata.name.clone().unwrap_or_default();
        if secret.data.iter().flatten().any(|(key, _)| key == TOKEN_KEY || key == SECRET_KEY) {
            self.plain.insert((owner.uid.clone(), name.clone()));
        }
        let said = secret.metadata.annotations.as_ref().and_then(|all| all.get(name::ATTESTATION_ANNOTATION));
        let said = said.and_then(|said| serde_json::from_str::<MaterialAttestation>(said).ok());
        let id = match owner.kind.as_str() {
            "ApiToken" => {
                value(secret).and_then(|text| Token::parse(&text).ok()).map(|value| value.id().to_owned())
            }
            _ => said.and_then(|said| said.material.digest),
        };
        let Some(id) = id else { return };
        let uid = secret.metadata.uid.clone().unwrap_or_default();
        let (since, owner) = (version(secret), owner.uid.clone());
        self.readable.entry(uid).or_insert(Readable { name, owner, id, since, until: None });
    }

    /// A Secret is gone since that version, where it is known.
    pub fn secret_gone(&mut self, uid: &str, since: Option<u64>) {
        if let Some(readable) = self.readable.get_mut(uid) {
            readable.until = since;
        }
    }

    /// An `ApiToken` is there.
    pub fn token(&mut self, token: &ApiToken) {
        let uid = token.metadata.uid.clone().unwrap_or_default();
        self.modes.insert(uid.clone(), delivery::mode(token.spec.delivery.as_ref()));
        let status = token.status.clone().unwrap_or_default();
        let ended = matches!(status.state, Some(ApiTokenState::Expired | ApiTokenState::Revoked));
        if ended || token.spec.revoked == Some(true) || token.metadata.deletion_timestamp.is_some() {
            self.over.insert(uid);
        }
        if let (Some(_), Some(id)) = (status.delivered_at, status.token_id) {
            self.said.entry(id).or_insert_with(|| version(token));
        }
    }

    /// A `Credential` is there.
    pub fn credential(&mut self, credential: &Credential) {
        let uid = credential.metadata.uid.clone().unwrap_or_default();
        self.modes.insert(uid.clone(), delivery::mode(credential.spec.delivery.as_ref()));
        let status = credential.status.clone().unwrap_or_default();
        if status.state == Some(CredentialState::Expired) || credential.metadata.deletion_timestamp.is_some()
        {
            self.over.insert(uid);
        }
        let material = status.material.unwrap_or_default();
        if let (Some(_), Some(digest)) = (material.delivered_at, material.digest) {
            self.said.entry(digest).or_insert_with(|| version(credential));
        }
    }

    /// An owner is gone.
    pub fn owner_gone(&mut self, uid: &str) {
        self.over.insert(uid.to_owned());
    }

    /// What must never be and was. `audit` tells what the operator deleted.
    #[must_use]
    pub fn violations(&self, audit: &[AuditEvent]) -> Vec<(&'static str, String)> {
        let mode = |owner: &String| self.modes.get(owner).copied().unwrap_or_default();
        let deleted: BTreeSet<_> = audit
            .iter()
            .filter(|event| event.verb == "delete")
            .filter_map(|event| event.request_object.as_ref()?["preconditions"]["uid"].as_str())
            .collect();
        let mut found = Vec::new();
        for (uid, readable) in &self.readable {
            let Readable { name, owner, id, since, until } = readable;
            if mode(owner) != DeliveryMode::Once {
                continue;
            }
            let said = self.said.get(id);
            if said.is_some_and(|said| said < since) {
                found.push((
                    "S16",
                    format!("Secret {name} held the value {id} after it was said to be delivered"),
                ));
            }
            let Some(until) = until.filter(|_| deleted.contains(uid.as_str()) && !self.over.contains(owner))
            else {
                continue;
            };
            if said.is_none_or(|said| *said > until) {
                found.push((
                    "S16",
                    format!("Secret {name} was deleted before its value {id} was said to be delivered"),
                ));
            }
        }
        let plain = self.plain.iter().filter(|(owner, _)| mode(owner) == DeliveryMode::Sealed);
        found.extend(plain.map(|(_, name)| ("S17", format!("Secret {name} holds what is not sealed"))));
        found
    }
}
