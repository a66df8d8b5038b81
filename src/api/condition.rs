//! Conditions as kstatus reads them, and the reasons that are part of the contract.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Instant;

/// One aspect of the state of an object.
///
/// The fields are those of `metav1.Condition`. It is a type of our own because that one parses
/// `lastTransitionTime` strictly, and a single odd instant must not hide an object from its controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Ready, Usable, Reconciling or Stalled. Reconciling and Stalled are present only while they are True.
    #[schemars(length(max = 316))]
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// The generation of the spec that this condition speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the status last changed.
    pub last_transition_time: Instant,
    /// One word that says why.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// A sentence that says why and, where something is wrong, what to do. Never contains a secret value.
    #[schemars(length(max = 32768))]
    pub message: String,
}

/// The condition types of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// The cluster matches the spec.
    Ready,
    /// A verifier accepts it now.
    Usable,
    /// Work is under way.
    Reconciling,
    /// A human must act.
    Stalled,
}

impl ConditionType {
    /// The type as it stands in the object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Usable => "Usable",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }
}

/// Why a condition is as it is. The names are a contract: manifests and alerts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each name says what it says in the object")]
pub enum Reason {
    Issued,
    Published,
    Pending,
    CredentialNotFound,
    CredentialInactive,
    CredentialDeleted,
    Expired,
    Revoked,
    Delivered,
    Conflict,
    MaterialInvalid,
    PolicyViolation,
    QuotaExceeded,
    RoleNotFound,
    RoleNotBindable,
    InvalidSpec,
    KeyringMissing,
    AdmissionMissing,
    InternalError,
}

impl Reason {
    /// The reason as it stands in the object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "Issued",
            Self::Published => "Published",
            Self::Pending => "Pending",
            Self::CredentialNotFound => "CredentialNotFound",
            Self::CredentialInactive => "CredentialInactive",
            Self::CredentialDeleted => "CredentialDeleted",
            Self::Expired => "Expired",
            Self::Revoked => "Revoked",
            Self::Delivered => "Delivered",
            Self::Conflict => "Conflict",
            Self::MaterialInvalid => "MaterialInvalid",
            Self::PolicyViolation => "PolicyViolation",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::RoleNotFound => "RoleNotFound",
            Self::RoleNotBindable => "RoleNotBindable",
            Self::InvalidSpec => "InvalidSpec",
            Self::KeyringMissing => "KeyringMissing",
            Self::AdmissionMissing => "AdmissionMissing",
            Self::InternalError => "InternalError",
        }
    }
}

/// What a condition should say, before it is known whether that is news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which condition.
    pub kind: ConditionType,
    /// Whether it holds.
    pub holds: bool,
    /// Why.
    pub reason: Reason,
    /// Why, as a sentence for a person.
    pub message: String,
}

/// The conditions that state `findings`, keeping the transition times of `before` where the status is the same.
///
/// Reconciling and Stalled are left out unless they hold, as kstatus advises for conditions that are bad news.
#[must_use]
pub fn conditions(
    before: &[Condition],
    findings: Vec<Finding>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .into_iter()
        .filter(|finding| {
            finding.holds || matches!(finding.kind, ConditionType::Ready | ConditionType::Usable)
        })
        .map(|finding| {
            let status = if finding.holds { "True" } else { "False" };
            let unchanged_since = before
                .iter()
                .find(|old| old.kind == finding.kind.as_str() && old.status == status)
                .map(|old| old.last_transition_time.clone())
                .filter(|at| at.timestamp().is_ok());
            Condition {
                kind: finding.kind.as_str().to_owned(),
                status: status.to_owned(),
                observed_generation: generation,
                last_transition_time: unchanged_since.unwrap_or_else(|| seconds(now).into()),
                reason: finding.reason.as_str().to_owned(),
                message: finding.message,
            }
        })
        .collect()
}

/// The instant without its fraction, as the API server writes its own.
#[must_use]
pub fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
