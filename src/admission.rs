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
mod canary;
mod check;
mod controllers;
mod deletion;
mod draft;
mod grants;
mod issue;
mod limits;
mod managed_secrets;
mod metadata;
mod minting;
mod secrets;
mod status;
mod token_limits;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};

pub use self::{
    account::{Account, InvalidAccount},
    canary::{CANARY_ANNOTATION, refusal_of_canary},
    check::{Kept, flaw, names},
};
use crate::api::GROUP;

/// The variable that names the accounts which policies were made for.
const CONTROLLERS: &str = "controllers";

/// Every `ValidatingAdmissionPolicy`, in the order in which they are printed.
///
/// `controllers` are the accounts that controllers run as: only they write statuses, and beside that they write only what the
/// operator creates. `keyring` is the name of the keyring's Secret in the namespace of each.
#[must_use]
pub fn policies(controllers: &[Account], keyring: &str) -> Vec<ValidatingAdmissionPolicy> {
    let grants = grants::drafts();
    let others = [
        issue::draft(),
        secrets::draft(),
        status::draft(controllers),
        minting::draft(controllers),
        deletion::draft(),
        limits::draft(),
        token_limits::draft(),
        metadata::draft(),
        managed_secrets::draft(controllers),
    ];
    let of_controllers = controllers::drafts(controllers, keyring);
    grants.into_iter().chain(others).chain(of_controllers).map(draft::Draft::into_policy).collect()
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
pub fn yaml(controllers: &[Account], keyring: &str) -> Result<String, serde_yaml_ng::Error> {
    let mut documents = Vec::new();
    for policy in policies(controllers, keyring) {
        documents.push(serde_yaml_ng::to_string(&policy)?);
        documents.push(serde_yaml_ng::to_string(&binding(&policy))?);
    }
    Ok(documents.join("---\n"))
}

/// The full name of a policy.
fn full_name(name: &str) -> String {
    format!("{name}.{GROUP}")
}
