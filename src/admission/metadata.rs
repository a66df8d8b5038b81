//! The policy that limits the metadata of Credentials, ApiTokens and CredentialPolicies, so that a status fits beside it and
//! every reader has enough memory. The API server limits annotations (256 KiB); labels, finalizers and owner references only
//! by its storage.
//!
//! The policy refuses only growth: an object that already exceeds a limit can be revoked, finalized and garbage-collected.

use super::draft::{Draft, Law, Rule, Scope};
use crate::domain::name::FINALIZER;

const MAX_LABELS: usize = 64;
const MAX_FINALIZERS: usize = 16;
const MAX_OWNERS: usize = 16;
/// The number of characters of one owner reference. The API server does not limit it.
const MAX_OWNER_SIZE: usize = 1024;
/// The number of owner references up to which they are compared one by one. More would exceed the API server's CEL cost
/// limit.
const COMPARED: usize = 64;

pub(super) fn draft() -> Draft {
    let list = |object: &str, field: &str| {
        format!("({object} != null && has({object}.metadata.{field}) ? {object}.metadata.{field} : [])")
    };
    // The controller's own finalizer does not count, so that it can always be added.
    let finalizers = |object: &str| {
        let all = list(object, "finalizers");
        format!("{all}.size() - ('{FINALIZER}' in {all} ? 1 : 0)")
    };
    let labels = |object: &str| {
        format!("{object} != null && has({object}.metadata.labels) ? {object}.metadata.labels.size() : 0")
    };
    Draft {
        name: "metadata".to_owned(),
        about: "Labels, finalizers and owner references of credentials, tokens and policies are bounded.",
        rules: vec![Rule::writes(&["credentials", "apitokens", "credentialpolicies"])],
        variables: vec![
            ("labels", labels("object")),
            ("labelsBefore", labels("oldObject")),
            ("finalizers", finalizers("object")),
            ("finalizersBefore", finalizers("oldObject")),
            ("owners", list("object", "ownerReferences")),
            ("ownersBefore", list("oldObject", "ownerReferences")),
        ],
        laws: vec![
            count("labels", "variables.labels", "variables.labelsBefore", MAX_LABELS),
            count("finalizers", "variables.finalizers", "variables.finalizersBefore", MAX_FINALIZERS),
            count("owner references", "variables.owners.size()", "variables.ownersBefore.size()", MAX_OWNERS),
            Law {
                holds: format!(
                    "variables.ownersBefore.size() > {COMPARED} || variables.owners.all(r, \
                     r.apiVersion.size() + r.kind.size() + r.name.size() + r.uid.size() <= {MAX_OWNER_SIZE} || \
                     r in variables.ownersBefore)"
                ),
                message: "an owner reference is too long",
                says: format!(
                    "{OBJECT} + ' has an owner reference with more than {MAX_OWNER_SIZE} characters. Remove it from \
                     metadata.ownerReferences.'"
                ),
            },
        ],
        scope: Scope::Everyone,
    }
}

const OBJECT: &str = "object.kind + ' \"' + object.metadata.name + '\"'";

fn count(what: &str, now: &str, before: &str, max: usize) -> Law {
    Law {
        holds: format!("{now} <= {max} || {now} <= {before}"),
        message: "an object has too many labels, finalizers or owner references",
        says: format!("{OBJECT} + ' has ' + string({now}) + ' {what}, and {max} are allowed. Remove some.'"),
    }
}
