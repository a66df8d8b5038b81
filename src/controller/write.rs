//! Sends requests with a deadline, and classifies their failures. Makes no decisions about objects.

use std::{future::Future, time::Duration};

use kube::{api::DeleteParams, core::params::Preconditions};
use thiserror::Error;

use crate::{
    api::Reason,
    domain::{material::Problem, sealed::SealError},
};

/// The timeout of each request, so that none occupies a worker longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// The maximum number of finalizers in a message.
const FINALIZERS_SHOWN: usize = 3;

/// The field manager of all writes of the operator.
pub const FIELD_MANAGER: &str = "credential-operator";

/// A request that did not succeed.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The API server refused the request, or could not be reached.
    #[error("could not {what}")]
    Api {
        /// The request: verb, kind, place.
        what: String,
        /// The error of the client.
        #[source]
        source: Box<kube::Error>,
    },
    /// A binding could not be created.
    #[error("could not bind {role}")]
    NotBound {
        /// Kind and name of the role.
        role: String,
        /// The error of the client, in which the API server names the binding's kind and the role's name.
        #[source]
        source: Box<kube::Error>,
    },
    /// The cached object is not the latest version, which the step requires.
    #[error("{what} is not as the watch has shown it")]
    Stale {
        /// Kind and place.
        what: String,
    },
    /// There is no valid material for the Credential.
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
    },
    /// The request timed out; the write may or may not have happened.
    #[error("no answer within {} s to: {what}", DEADLINE.as_secs())]
    Late {
        /// The request: verb, kind, place.
        what: String,
    },
}

/// The class of a request failure, which determines how the controller reacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// An object of that name already exists.
    Exists,
    /// The object was changed or replaced in the meantime, and must be reconciled again.
    Moved,
    /// The object does not exist.
    Gone,
    /// The request was refused. A retry fails until something changes.
    Refused {
        /// Why, for a condition.
        reason: Reason,
        /// The message of the API server.
        message: String,
    },
    /// A transient failure: a retry may succeed.
    Passing,
}

impl RequestError {
    /// Adds the name of the role: the API server's message has only the permissions of the role, or nothing.
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

    /// Classifies the failure.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Api { source, .. } => Trouble::of(source),
            Self::NotBound { role, source } => match Trouble::of(source) {
                // Only the role can be missing: for a missing namespace, the API server reports the kind `namespaces`.
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
            Self::Held { .. } => {
                let next = "Ask the owners of the finalizers to remove them";
                Trouble::Refused { reason: Reason::Pending, message: format!("{self}. {next}") }
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
/// When the request is refused, fails or times out; `what` describes the request.
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

/// Returns the answer, or `None` if the object does not exist.
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

/// Parameters to delete only the object with this UID and, if one is given, this resource version.
#[must_use]
pub fn delete_only(uid: &str, resource_version: Option<&str>) -> DeleteParams {
    DeleteParams::background().preconditions(Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: resource_version.map(ToOwned::to_owned),
    })
}
