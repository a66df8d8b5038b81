//! What the API server refuses for us: the `ValidatingAdmissionPolicies` that keep everybody from gaining rights by way of a
//! credential, each with its binding.
//!
//! They are built here as objects, and judged by the API server: no webhook of ours has to be up. Knows nothing of clients.
//!
//! Each judges only what a request changes. Garbage collection that takes away a finalizer, somebody who switches off what
//! violates a policy, an edit of a label: all of these pass, whoever makes them.
//!
//! Of one policy the API server spends no more than 28 questions to the authorizer, and of one expression two. So each
//! question is an expression of its own, and the grants of a credential are spread over two policies.

mod account;
mod check;
mod deletion;
mod draft;
mod grants;
mod issue;
mod limits;
mod minting;
mod secrets;
mod status;
mod token_limits;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};

pub use self::{
    account::{Account, InvalidAccount},
    check::{Kept, flaw, names},
    draft::{CANARY_ANNOTATION, refusal_of_canary},
};
use crate::api::GROUP;

/// The variable that names the accounts which policies were made for.
const CONTROLLERS: &str = "controllers";

/// Every `ValidatingAdmissionPolicy`, in the order in which they are printed.
///
/// `controllers` are the accounts that controllers run as: they alone write statuses, and they alone are kept to minting
/// for the accounts of credentials.
#[must_use]
pub fn policies(controllers: &[Account]) -> Vec<ValidatingAdmissionPolicy> {
    let grants = grants::drafts();
    let others = [
        issue::draft(),
        secrets::draft(),
        status::draft(controllers),
        minting::draft(controllers),
        deletion::draft(),
        limits::draft(),
        token_limits::draft(),
    ];
    grants.into_iter().chain(others).map(draft::Draft::into_policy).collect()
}

/// The binding of a policy, of the same name: in every namespace, and what is refused is refused.
#[must_use]
pub fn binding(policy: &ValidatingAdmissionPolicy) -> ValidatingAdmissionPolicyBinding {
    draft::binding(policy)
}

/// All policies and their bindings as documents of YAML, as `crds/` has them.
///
/// # Errors
/// Never, as far as is known: what is built here can be written.
pub fn yaml(controllers: &[Account]) -> Result<String, serde_yaml_ng::Error> {
    let mut documents = Vec::new();
    for policy in policies(controllers) {
        documents.push(serde_yaml_ng::to_string(&policy)?);
        documents.push(serde_yaml_ng::to_string(&binding(&policy))?);
    }
    Ok(documents.join("---\n"))
}

/// The full name of a policy.
fn full_name(name: &str) -> String {
    format!("{name}.{GROUP}")
}
