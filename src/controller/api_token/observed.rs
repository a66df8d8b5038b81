//! What a decision about an `ApiToken` is made from. Only data: it neither reads nor decides.

use std::collections::BTreeMap;

use kube::api::ObjectMeta;

use crate::{
    api::{ApiToken, Credential, CredentialStatus, credential::ObjectReference},
    client::InvalidObject,
    controller::mint::Native,
    domain::{
        digest::Attestation,
        mint::MintAttestation,
        policy::{Breach, Severity},
        token::Token,
    },
};

/// All that a decision is made from.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The token as it is stored.
    pub token: ApiToken,
    /// Its credential.
    pub credential: CredentialSeen,
    /// The Secret of its name.
    pub secret: SecretSeen,
    /// What a token goes by that the API server mints; `None` for one that the operator draws.
    pub native: Option<Native>,
    /// What was issued to be delivered once, and went before the status told of it.
    pub unsaid: Option<Attestation>,
    /// What policies have against it, or against its credential.
    pub policy: Option<Breach>,
    /// Whether the keyring has the key that the status' digest names; true without a digest.
    pub key_known: bool,
    /// Whether spec or annotations changed since the token lost its value too often.
    pub touched: bool,
}

impl Observed {
    /// Whether a policy has the credential's values refused. All else keeps new ones from being issued alone.
    #[must_use]
    pub fn is_refused_by_policy(&self) -> bool {
        let status = self.credential.present().and_then(|credential| credential.status.as_ref());
        self.policy.as_ref().is_some_and(|breach| match breach.severity {
            Severity::Refused => true,
            // What was refused stays so while nobody knows what is allowed.
            Severity::Unknown => status.is_some_and(CredentialStatus::is_refused_by_policy),
            Severity::Unguarded | Severity::Count | Severity::Terms => false,
        })
    }
}

/// The credential of a token.
#[derive(Clone, Debug)]
pub enum CredentialSeen {
    /// The API server has none of that name.
    Absent,
    /// The one that the token was issued for, or will be.
    Present(Box<Credential>),
    /// The same, but what it says cannot be read: it was stored before a rule existed that would have refused it.
    Unreadable(Box<InvalidObject>),
    /// The one that the token was issued for is gone, as an uncached read confirmed.
    Gone,
}

impl CredentialSeen {
    /// What it says, where that can be read.
    #[must_use]
    pub fn present(&self) -> Option<&Credential> {
        match self {
            Self::Present(credential) => Some(credential),
            Self::Absent | Self::Unreadable(_) | Self::Gone => None,
        }
    }

    /// What can be read of it, where that is not all.
    #[must_use]
    pub fn unread(&self) -> Option<&InvalidObject> {
        match self {
            Self::Unreadable(unread) => Some(unread),
            Self::Absent | Self::Present(_) | Self::Gone => None,
        }
    }

    /// Which one it is, where it is there.
    #[must_use]
    pub fn metadata(&self) -> Option<&ObjectMeta> {
        match self {
            Self::Present(credential) => Some(&credential.metadata),
            Self::Unreadable(unread) => Some(&unread.metadata),
            Self::Absent | Self::Gone => None,
        }
    }
}

/// The Secret of a token's name.
#[derive(Clone, Debug)]
pub enum SecretSeen {
    /// None; where the status names one, an uncached read confirmed it.
    Absent,
    /// Being deleted; which one, if it is this token's.
    Terminating(Option<ObjectReference>),
    /// Of an earlier `ApiToken` of the same name; garbage collection will take it.
    Predecessors,
    /// Somebody else's.
    Foreign,
    /// Ours.
    Ours(Box<OwnSecret>),
}

impl SecretSeen {
    /// Whether something is in the way that no watch need show.
    #[must_use]
    pub fn waits_for_others(&self) -> bool {
        matches!(self, Self::Terminating(_) | Self::Predecessors | Self::Foreign)
    }
}

/// A Secret of this `ApiToken`.
#[derive(Clone, Debug)]
pub struct OwnSecret {
    /// Its name and UID.
    pub reference: ObjectReference,
    /// The version that was looked at.
    pub resource_version: String,
    /// Whom its value is sealed for, as far as what it says of its value is true.
    pub sealed_for: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether the controller owner reference is there.
    pub owned: bool,
    /// What it holds.
    pub content: Content,
}

/// What a Secret of ours holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// What the status says.
    Recorded,
    /// What the status says, but the attestation does not: it was edited. The value proved itself by the digest.
    Unattested(Token),
    /// A value of ours that the status does not say: the status was not written, or was overwritten.
    Attested(Box<Attestation>),
    /// A token that the API server minted, and what we said of it.
    Minted(MintAttestation),
    /// Nothing yet, and nothing was minted that would die with this Secret.
    Empty,
    /// Nothing that we put there, or nothing that we know of.
    Strange,
}
