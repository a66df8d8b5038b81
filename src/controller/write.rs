//! Writes with a deadline, and what their failure means.
//!
//! Decides nothing about objects; it only tells a refusal from a mishap.

use std::{future::Future, time::Duration};

use kube::{api::DeleteParams, core::params::Preconditions};
use thiserror::Error;

use crate::{
    api::Reason,
    domain::{material::Problem, sealed::SealError},
};

/// No request of ours may hold a worker longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// The maximum number of finalizers in a message.
const FINALIZERS_SHOWN: usize = 3;

/// The field manager of every write of ours.
pub const FIELD_MANAGER: &str = "credential-operator";

/// A request that did not succeed.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The API server said no, or could not be reached.
    #[error("could not {what}")]
    Api {
        /// What was tried: verb, kind, place.
        what: String,
        /// What the client says.
        #[source]
        source: Box<kube::Error>,
    },
    /// A binding could not be created.
    #[error("could not bind {role}")]
    NotBound {
        /// Kind and name of the role.
        role: String,
        /// What the client says; the API server names the binding's kind and the role's name there.
        #[source]
        source: Box<kube::Error>,
    },
    /// What the watches have shown is not the latest, and what was to be done must not be done by less.
    #[error("{what} is not as the watch has shown it")]
    Stale {
        /// Kind and place.
        what: String,
    },
    /// There can be no such material.
    #[error("no material for Credential {place}")]
    Material {
        /// Namespace and name.
        place: String,
        /// Why, without any value.
        #[source]
        problem: Problem,
    },
    /// A value could not be sealed.
    #[error("could not seal the value of {place}")]
    Sealing {
        /// Kind, namespace and name.
        place: String,
        /// Why, without any recipient.
        #[source]
        source: SealError,
    },
    /// Finalizers delay the deletion of a Secret.
    #[error("Secret {place} is being deleted, but finalizers delay the deletion: {}", named(finalizers))]
    Held {
        /// Namespace and name.
        place: String,
        /// The finalizers of the Secret when its deletion was requested.
        finalizers: Vec<String>,
        /// Whether the API server minted the token in it.
        minted: bool,
    },
    /// There was no answer in time; the write may or may not have happened.
    #[error("no answer within {} s to: {what}", DEADLINE.as_secs())]
    Late {
        /// What was tried: verb, kind, place.
        what: String,
    },
}

/// What a failed request asks of us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Something of that name exists already.
    Exists,
    /// The object changed under our hands, or is another by now: look again.
    Moved,
    /// There is no such object.
    Gone,
    /// It was refused; more of the same will not help until somebody changes something.
    Refused {
        /// Why, for a condition.
        reason: Reason,
        /// The server's own words.
        message: String,
    },
    /// It may work the next time.
    Passing,
}

impl RequestError {
    /// Says which role it was about: the API server tells what rights that role has, or nothing.
    #[must_use]
    pub fn into_not_bound(self, role: String) -> Self {
        match self {
            Self::Api { source, .. } => Self::NotBound { role, source },
            other @ (Self::NotBound { .. }
            | Self::Stale { .. }
            | Self::Material { .. }
            | Self::Sealing { .. }
            | Self::Held { .. }
            | Self::Late { .. }) => other,
        }
    }

    /// Whether the API server, or etcd behind it, refused the object for its size.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        let Self::Api { source, .. } = self else { return false };
        let kube::Error::Api(status) = &**source else { return false };
        status.code == 413 || status.message.contains("request is too large")
    }

    /// Tells what kind of failure it is.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Api { source, .. } => Trouble::of(source),
            Self::NotBound { role, source } => match Trouble::of(source) {
                // Nothing else can be missing: a namespace that is not there has a kind of its own.
                Trouble::Gone => {
                    Trouble::Refused { reason: Reason::RoleNotFound, message: format!("there is no {role}") }
                }
                Trouble::Refused { reason: reason @ Reason::RoleNotBindable, message } => {
                    Trouble::Refused { reason, message: format!("{role} is not bound: {message}") }
                }
                trouble => trouble,
            },
            Self::Stale { .. } => Trouble::Moved,
            Self::Material { problem, .. } => {
                let reason = match problem {
                    Problem::Options(_) => Reason::InvalidSpec,
                    Problem::Material(_) => Reason::MaterialInvalid,
                };
                Trouble::Refused { reason, message: problem.to_string() }
            }
            Self::Sealing { source, .. } => {
                Trouble::Refused { reason: Reason::InvalidSpec, message: source.to_string() }
            }
            Self::Held { minted, .. } => {
                let accepted = if *minted {
                    ". The API server may accept its token until 60 s after the deletion began"
                } else {
                    ""
                };
                let next = "Ask the owners of the finalizers to remove them";
                Trouble::Refused { reason: Reason::Pending, message: format!("{self}{accepted}. {next}") }
            }
            Self::Late { .. } => Trouble::Passing,
        }
    }
}

impl Trouble {
    fn of(error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Passing;
        };
        let refused = |reason| Self::Refused { reason, message: status.message.clone() };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let ending = causes.map(|cause| cause.reason.as_str()).any(|reason| reason == "NamespaceTerminating");
        let kind = status.details.as_ref().map(|details| details.kind.as_str()).unwrap_or_default();
        match (status.code, status.reason.as_str()) {
            (409, "AlreadyExists") => Self::Exists,
            (409, _) => Self::Moved,
            (404, _) if kind == "namespaces" => refused(Reason::Pending),
            (404, _) => Self::Gone,
            (403, _) if ending => refused(Reason::Pending),
            (403, _) if status.message.contains("exceeded quota") => refused(Reason::QuotaExceeded),
            (403, _) if status.message.contains("\"serviceaccounts/token\"") => Self::Refused {
                reason: Reason::Pending,
                message: format!(
                    "{}; apply deploy/service-account-tokens/rights.yaml, which has that right",
                    status.message
                ),
            },
            (403, _) if kind == "rolebindings" || kind == "clusterrolebindings" => {
                refused(Reason::RoleNotBindable)
            }
            (422, _) if status.message.contains("field is immutable when `immutable` is set") => {
                Self::Refused {
                    reason: Reason::Pending,
                    message: format!("{}; delete the Secret, and another one is filled", status.message),
                }
            }
            (400 | 401 | 403 | 405 | 413 | 422, _) => refused(Reason::Pending),
            _ => Self::Passing,
        }
    }
}

/// The first of these finalizers, and the number of further ones.
fn named(finalizers: &[String]) -> String {
    let shown = finalizers.len().min(FINALIZERS_SHOWN);
    let names = finalizers[..shown].join(", ");
    match finalizers.len() - shown {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

/// Sends a request and waits for its answer until the deadline.
///
/// # Errors
/// When it is refused, fails, or is late; `what` names it.
pub async fn send<T>(
    what: impl FnOnce() -> String,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, RequestError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(RequestError::Api { what: what(), source: Box::new(source) }),
        Err(_) => Err(RequestError::Late { what: what() }),
    }
}

/// The answer, or `None` where the object is gone already.
///
/// # Errors
/// Every other failure, unchanged.
pub fn unless_gone<T>(answer: Result<T, RequestError>) -> Result<Option<T>, RequestError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.trouble() == Trouble::Gone => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes this very object, and only in this very version where one is given.
#[must_use]
pub fn delete_only(uid: &str, resource_version: Option<&str>) -> DeleteParams {
    DeleteParams::background().preconditions(Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: resource_version.map(ToOwned::to_owned),
    })
}
