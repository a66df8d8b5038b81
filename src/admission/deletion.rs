//! The policy that prevents the deletion of a credential with `deletionProtection` unless an annotation confirms it.

use super::draft::{Draft, Law, Rule, Scope};
use crate::{api::GROUP, domain::name::CONFIRM_DELETE_ANNOTATION};

pub(super) fn draft() -> Draft {
    Draft {
        name: "deletion".to_owned(),
        about: "A credential with deletionProtection is deleted only once an annotation confirms that.",
        rules: vec![Rule { group: GROUP, resources: &["credentials"], operations: &["DELETE"] }],
        variables: Vec::new(),
        laws: vec![Law {
            // Allowed if the namespace is being deleted, or the credential is already terminating.
            holds: format!(
                "request.operation != 'DELETE' || !has(dyn(oldObject.spec).deletionProtection) || \
                 !dyn(oldObject.spec).deletionProtection || has(oldObject.metadata.deletionTimestamp) || \
                 (namespaceObject != null && has(namespaceObject.metadata.deletionTimestamp)) || \
                 (has(oldObject.metadata.annotations) && '{CONFIRM_DELETE_ANNOTATION}' in oldObject.metadata.annotations && \
                 oldObject.metadata.annotations['{CONFIRM_DELETE_ANNOTATION}'] == oldObject.metadata.name)"
            ),
            message: "the credential has deletionProtection",
            says: format!(
                "'Credential ' + oldObject.metadata.name + ' has deletionProtection; if it is to go: kubectl annotate credential \
                 -n ' + request.namespace + ' ' + oldObject.metadata.name + ' {CONFIRM_DELETE_ANNOTATION}=' + \
                 oldObject.metadata.name + ', and delete it then'"
            ),
        }],
        scope: Scope::Everyone,
    }
}
