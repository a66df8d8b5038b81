//! The writes that a plan is made of.

use std::collections::BTreeMap;

use super::MintRecipe;
use crate::{
    api::credential::ObjectReference,
    controller::dress::Dress,
    domain::{
        digest::MaterialAttestation,
        material::{Entries, Facts},
        sealed::Recipients,
    },
};

/// One write.
#[derive(Clone, Debug)]
pub enum Step {
    /// Put material into a Secret: into a new one, or into this one in this version.
    Publish(Box<Recipe>),
    /// Have a kubeconfig minted, likewise.
    Mint(Box<MintRecipe>),
    /// Put labels, annotations, owner reference and the entries that are no secrets right.
    Mend(Box<Mend>),
    /// Delete this Secret, in this version where one is given.
    Delete {
        /// Which.
        secret: ObjectReference,
        /// In which version.
        resource_version: Option<String>,
    },
}

/// How to publish material.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The Secret's name.
    pub name: String,
    /// The Secret that is to take it, its version, and the keys that it has; `None` makes a new one.
    pub into: Option<(ObjectReference, String, Vec<String>)>,
    /// What is published.
    pub content: Content,
    /// What it is generated for: what was generated for another wish is not published.
    pub wish: String,
    /// What is said of it, less digest and proof, and less what only drawing tells.
    pub attestation: MaterialAttestation,
    /// Labels and annotations.
    pub dress: Dress,
    /// Whom it is sealed for, where it is.
    pub recipients: Option<Recipients>,
    /// Whether it is delivered once: then nothing but the latest status tells that there was one before.
    pub once: bool,
}

/// What is published.
#[derive(Clone, Debug)]
pub enum Content {
    /// What is drawn now.
    Drawn,
    /// What the user provided.
    Provided {
        /// In which version of the Secret.
        version: String,
        /// As far as material is taken from it.
        entries: Entries,
        /// What may be said of it.
        facts: Facts,
    },
    /// What was published under another name, as it was.
    Copied(Entries),
}

/// How to mend a Secret.
#[derive(Clone, Debug)]
pub struct Mend {
    /// Which Secret.
    pub secret: ObjectReference,
    /// In which version.
    pub resource_version: String,
    /// Labels and annotations that differ.
    pub dress: Dress,
    /// Whether the owner reference is to be put back.
    pub own: bool,
    /// The entries that are no secrets, as far as they differ.
    pub plain: BTreeMap<String, Option<String>>,
    /// What the operator is to say of the material, where it says something else or nothing.
    pub attest: Option<MaterialAttestation>,
}
