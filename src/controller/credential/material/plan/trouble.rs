//! Why material is not as it should be, and what to do.

use super::{Decision, SourceSeen};
use crate::{
    api::{
        Credential, Reason,
        credential::{DesiredState, MaterialStatus, Validity},
    },
    domain::{material::Problem, name},
};

/// Why the material is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Why, in one word.
    pub reason: Reason,
    /// Why, and what to do.
    pub message: String,
    /// Whether something of others is in the way, that no watch shows.
    pub waits_for_others: bool,
}

impl Decision<'_> {
    /// What is wrong though something is published.
    pub(super) fn complaint(&self, told: &MaterialStatus) -> Option<Trouble> {
        if let Err(problem) = &self.seen.options {
            return Some(of(problem));
        }
        match &self.seen.source {
            SourceSeen::Missing => return Some(missing(self.credential)),
            SourceSeen::Changed { checked: Err(problem), .. } => {
                return Some(provided(self.credential, problem));
            }
            SourceSeen::Unasked | SourceSeen::Published | SourceSeen::Changed { .. } => {}
        }
        let end =
            told.expires_at.as_ref().and_then(|at| at.timestamp().ok()).filter(|end| *end <= self.now)?;
        let what_to_do = if self.credential.spec.provided.is_some() {
            "renew it in the provided Secret"
        } else if self.credential.spec.state == DesiredState::Inactive {
            "it is drawn anew once state is Active"
        } else {
            "it is drawn anew by rotation; see spec.rotation"
        };
        Some(Trouble {
            reason: Reason::MaterialInvalid,
            message: format!("the material ended at {end}; {what_to_do}"),
            waits_for_others: false,
        })
    }

    pub(super) fn validity(&self, told: &MaterialStatus) -> Option<Validity> {
        let ended =
            told.expires_at.as_ref().and_then(|at| at.timestamp().ok()).is_some_and(|end| end <= self.now);
        match &self.seen.source {
            SourceSeen::Unasked => ended.then_some(Validity::Invalid),
            SourceSeen::Missing => Some(Validity::Unknown),
            SourceSeen::Changed { checked: Err(_), .. } => Some(Validity::Invalid),
            SourceSeen::Published | SourceSeen::Changed { .. } => {
                Some(if ended { Validity::Invalid } else { Validity::Valid })
            }
        }
    }
}

pub(super) fn issuer(credential: &Credential) -> Option<&str> {
    Some(&credential.spec.tls.as_ref()?.issuer.as_ref()?.secret_ref.name)
}

pub(super) fn source(credential: &Credential) -> &str {
    let provided = credential.spec.provided.as_ref().map(|provided| provided.secret_ref.name.as_str());
    provided.or_else(|| issuer(credential)).unwrap_or_default()
}

pub(super) fn of(problem: &Problem) -> Trouble {
    let reason = match problem {
        Problem::Options(_) => Reason::InvalidSpec,
        Problem::Material(_) => Reason::MaterialInvalid,
    };
    Trouble { reason, message: problem.to_string(), waits_for_others: false }
}

pub(super) fn provided(credential: &Credential, problem: &Problem) -> Trouble {
    Trouble {
        reason: Reason::MaterialInvalid,
        message: format!("the provided Secret {}: {problem}", source(credential)),
        waits_for_others: false,
    }
}

pub(super) fn missing(credential: &Credential) -> Trouble {
    Trouble {
        reason: Reason::MaterialInvalid,
        message: format!(
            "there is no Secret {} with the label {}: \"true\", by which its owner consents; create it, or have it labelled",
            source(credential),
            name::PROVIDED_LABEL,
        ),
        waits_for_others: false,
    }
}

pub(super) fn edited(secret: &str) -> Trouble {
    Trouble {
        reason: Reason::MaterialInvalid,
        message: format!(
            "Secret {secret} does not hold what the status tells of: somebody changed what it holds, what the operator says \
             of it there, or the status; put it back, or, if nobody needs what it holds, delete the Secret to have it \
             filled anew"
        ),
        waits_for_others: false,
    }
}
