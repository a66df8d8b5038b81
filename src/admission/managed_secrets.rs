//! The policy that protects the annotations and the label by which the controller recognizes the Secrets that it created.
//!
//! Without it, a user who can update Secrets could hide the Secret of a ServiceAccount token from the controller, so that the
//! API server accepts the token after its revocation, or could have the controller delete a foreign Secret. A Secret can be
//! created with these annotations, so that backups can be restored. A copy of such a Secret names the place of the original in its
//! annotation, and is not protected.

use super::{
    Account, CONTROLLERS, account,
    draft::{Draft, Law, Rule, Scope},
};
use crate::domain::name::{ATTESTATION_ANNOTATION, MADE_FOR_ANNOTATION, MANAGED_BY, MANAGED_BY_LABEL};

pub(super) fn draft(controllers: &[Account]) -> Draft {
    let annotations = |object: &str| {
        format!(
            "variables.isSecret && has({object}.metadata.annotations) ? dyn({object}.metadata.annotations) : dyn({{}})"
        )
    };
    let is_labelled = |object: &str| {
        format!(
            "(has({object}.metadata.labels) && '{MANAGED_BY_LABEL}' in {object}.metadata.labels && \
             {object}.metadata.labels['{MANAGED_BY_LABEL}'] == '{MANAGED_BY}')"
        )
    };
    Draft {
        name: "managed-secrets".to_owned(),
        about: "Only controllers change the annotations and the label that mark the Secrets of credentials and tokens.",
        rules: vec![Rule { group: "", resources: &["secrets"], operations: &["UPDATE"] }],
        variables: vec![
            (CONTROLLERS, account::users(controllers)),
            ("isSecret", "request.resource.resource == 'secrets'".to_owned()),
            (
                "isExempt",
                "!variables.isSecret || request.userInfo.username in variables.controllers".to_owned(),
            ),
            ("before", annotations("oldObject")),
            ("after", annotations("object")),
            ("marks", format!("['{MADE_FOR_ANNOTATION}', '{ATTESTATION_ANNOTATION}']")),
            // Of this very Secret: of a copy, the annotation names another place. Version 0.1 wrote only the attestation.
            ("place", "'\"as\":\"' + request.namespace + '/' + object.metadata.name + '\"'".to_owned()),
            ("isMarked", format!("({}) || ({})", is_marked("before"), is_marked("after"))),
            (
                "changed",
                "variables.marks.filter(k, k in variables.before || k in variables.after)\
                 .filter(k, !(k in variables.before && k in variables.after && variables.before[k] == variables.after[k]))"
                    .to_owned(),
            ),
        ],
        laws: vec![
            Law {
                holds: "variables.isExempt || !variables.isMarked || variables.changed.size() == 0".to_owned(),
                message: "only controllers change the annotations of the operator on Secrets",
                says: says("'add, change or remove annotation ' + variables.changed.join(', ')"),
            },
            Law {
                holds: format!(
                    "variables.isExempt || !({}) || !{} || {}",
                    is_marked("before"),
                    is_labelled("oldObject"),
                    is_labelled("object")
                ),
                message: "only controllers remove the label of the operator from Secrets of credentials and tokens",
                says: says(&format!("'change or remove label {MANAGED_BY_LABEL}'")),
            },
        ],
        scope: Scope::Everyone,
    }
}

/// A CEL expression that is true if the annotations mark the Secret as created by the operator at its own place.
fn is_marked(annotations: &str) -> String {
    format!(
        "'{MADE_FOR_ANNOTATION}' in variables.{annotations} ? \
         string(variables.{annotations}['{MADE_FOR_ANNOTATION}']).contains(variables.place) : \
         '{ATTESTATION_ANNOTATION}' in variables.{annotations}"
    )
}

fn says(change: &str) -> String {
    format!(
        "'user ' + request.userInfo.username + ' may not ' + {change} + ' of Secret \"' + object.metadata.name + '\": only the \
         controller of credentials may. To keep the values of the Secret, copy them to another Secret.'"
    )
}
