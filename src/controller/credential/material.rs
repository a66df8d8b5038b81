//! The material of a `Credential`: published in a Secret, rotated, and never lost by accident.
//!
//! Here is what a decision is made from. Only data: it neither reads nor decides.

pub mod apply;
pub mod observe;
pub mod plan;

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    api::{Credential, credential::ObjectReference},
    controller::mint::Native,
    domain::{
        digest::MaterialAttestation,
        material::{Entries, Facts, Problem},
        name,
    },
};

/// What there is of a credential's material.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The Secret of the name that is wished now.
    pub secret: SecretSeen,
    /// The Secret that the status names, where another name is wished now and that one is not there yet.
    pub former: Option<(OwnSecret, Entries)>,
    /// Other Secrets that were made for this credential under other names, each in the version that was seen.
    pub strays: Vec<(ObjectReference, String)>,
    /// The Secret that the user provides.
    pub source: SourceSeen,
    /// The entries of the authority's Secret, where one is named, there and consenting.
    pub issuer: Option<Entries>,
    /// A digest of the options that the material depends on; or why there can be no material.
    pub options: Result<String, Problem>,
    /// What decides whether a kubeconfig can be minted; `None` for all other material.
    pub native: Option<Native>,
    /// Whether the keyring has the key that the status' digest names; true without a digest.
    pub key_known: bool,
    /// What is being generated, or was and is not published yet: for which wish, and since when.
    pub generating: Option<(String, Timestamp)>,
}

/// The Secret of a credential's choice.
#[derive(Clone, Debug)]
pub enum SecretSeen {
    /// None; where the status names one, an uncached read confirmed it.
    Absent,
    /// Being deleted; which one, if it is this credential's.
    Terminating(Option<ObjectReference>),
    /// Of an earlier Credential of the same name; garbage collection will take it.
    Predecessors,
    /// Somebody else's.
    Foreign,
    /// Ours.
    Ours(Box<OwnSecret>),
}

/// A Secret of this credential.
#[derive(Clone, Debug)]
pub struct OwnSecret {
    /// Its name and UID.
    pub reference: ObjectReference,
    /// The version that was looked at.
    pub resource_version: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether the controller owner reference is there.
    pub owned: bool,
    /// What the operator said of the material in it, as far as the material is still that; `None` when somebody changed
    /// either.
    pub attested: Option<MaterialAttestation>,
    /// Whether the entries that are no secrets are as the operator said.
    pub plain_intact: bool,
    /// Whether it was made for a kubeconfig, holds nothing yet, and nothing was minted that would die with it.
    pub empty: bool,
}

/// The Secret that a credential takes its material from.
#[derive(Clone, Debug)]
pub enum SourceSeen {
    /// The spec names none.
    Unasked,
    /// There is none of that name that consents.
    Missing,
    /// It holds what is published.
    Published,
    /// It holds something else.
    Changed {
        /// UID and resourceVersion.
        version: String,
        /// What it holds, as far as material is taken from it.
        entries: Entries,
        /// What may be told of it, or what is wrong.
        checked: Result<Facts, Problem>,
    },
}

/// The name of the Secret that the material is published in.
#[must_use]
pub fn secret_name(credential: &Credential) -> String {
    let chosen = credential.spec.secret.as_ref().and_then(|secret| secret.name.clone());
    chosen.unwrap_or_else(|| name::material_secret(credential.metadata.name.as_deref().unwrap_or_default()))
}
