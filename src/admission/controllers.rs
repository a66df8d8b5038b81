//! Policies that restrict which Secrets, `ServiceAccount`s and role bindings the accounts of controllers can write: only
//! those that the operator creates. RBAC cannot distinguish these from others, so without the policies the holder of a
//! stolen controller token could get a token of any ServiceAccount by creating a Secret of type
//! `kubernetes.io/service-account-token`.
//!
//! UPDATE and DELETE are checked against the stored object. One label, annotation or owner reference of the operator is
//! enough, so that a user who removes the label does not keep a revoked token valid.

use super::{
    Account, account,
    draft::{Draft, Law, Rule, Scope},
};
use crate::{
    api::GROUP,
    domain::{
        material,
        name::{
            self, ATTESTATION_ANNOTATION, MADE_FOR_ANNOTATION, MANAGED_BY, MANAGED_BY_LABEL,
            OWNER_ANNOTATION, OWNER_UID_ANNOTATION,
        },
    },
};

const RBAC: &str = "rbac.authorization.k8s.io";
const WRITES: &[&str] = &["CREATE", "UPDATE", "DELETE"];

/// An object with more owner references counts as managed. To search more of them would exceed the API server's CEL cost
/// limit, and then an editor of the Secret could prevent the controller from deleting it.
const MAX_OWNERS: usize = 256;

/// The name of the policy on Secrets, without the group.
pub(super) const SECRETS: &str = "controller-secrets";

/// The variable that has the name of the keyring's Secret.
pub(super) const KEYRING: &str = "keyring";

pub(super) fn drafts(controllers: &[Account], keyring: &str) -> [Draft; 3] {
    let users = account::users(controllers);
    [secrets(users.clone(), keyring), service_accounts(users.clone()), bindings(users)]
}

fn secrets(users: String, keyring: &str) -> Draft {
    let types: Vec<_> = material::secret_types().into_iter().map(|name| format!("'{name}'")).collect();
    let types = format!("[{}]", types.join(", "));
    // The keyring has no label or annotation of the operator. It is in the controller's own namespace.
    let is_keyring = "request.operation != 'DELETE' && \
                      request.userInfo.username.startsWith('system:serviceaccount:' + request.namespace + ':') && \
                      has(object.metadata.name) && object.metadata.name == variables.keyring";
    Draft {
        name: SECRETS.to_owned(),
        about: "A controller writes only Secrets that belong to credentials and tokens, and its keyring.",
        rules: vec![Rule { group: "", resources: &["secrets"], operations: WRITES }],
        variables: vec![
            (KEYRING, format!("'{keyring}'")),
            ("types", types),
            ("isSecret", "request.resource.resource == 'secrets'".to_owned()),
            ("isKeyring", is_keyring.to_owned()),
            ("managed", managed("oldObject", &[MADE_FOR_ANNOTATION, ATTESTATION_ANNOTATION])),
        ],
        laws: vec![
            Law {
                holds: "!variables.isSecret || request.operation == 'DELETE' || \
                        (has(dyn(object).type) && dyn(object).type in variables.types)"
                    .to_owned(),
                message: "a controller writes only Secrets of the types that the operator creates",
                says: says("'Secret \"' + object.metadata.name + '\" has a type that the operator does not create. Use one of ' + \
                            variables.types.join(', ') + '.'"),
            },
            Law {
                holds: format!(
                    "!variables.isSecret || request.operation != 'CREATE' || variables.isKeyring || {}",
                    owned("object")
                ),
                message: "a controller creates only Secrets that a Credential or ApiToken owns",
                says: says(&format!(
                    "'Secret \"' + object.metadata.name + '\" has no owner of group {GROUP}. Set metadata.ownerReferences to a \
                     Credential or an ApiToken.'"
                )),
            },
            Law {
                holds: "!variables.isSecret || request.operation == 'CREATE' || variables.isKeyring || variables.managed"
                    .to_owned(),
                message: "a controller changes and deletes only Secrets that it manages",
                says: says(&unmanaged("Secret", MADE_FOR_ANNOTATION)),
            },
        ],
        scope: Scope::Users(users),
    }
}

fn service_accounts(users: String) -> Draft {
    let suffix = name::service_account("");
    Draft {
        name: "controller-serviceaccounts".to_owned(),
        about: "A controller writes only the ServiceAccounts of credentials.",
        rules: vec![Rule { group: "", resources: &["serviceaccounts"], operations: WRITES }],
        variables: vec![
            ("isAccount", "request.resource.resource == 'serviceaccounts'".to_owned()),
            ("managed", managed("oldObject", &[MADE_FOR_ANNOTATION])),
        ],
        laws: vec![
            Law {
                holds: format!(
                    "!variables.isAccount || (request.operation == 'DELETE' ? oldObject : object).metadata.name.endsWith('{suffix}')"
                ),
                message: "a controller writes only ServiceAccounts with the name of a credential's",
                says: says(&format!(
                    "'ServiceAccount \"' + (request.operation == 'DELETE' ? oldObject : object).metadata.name + '\" does not belong to \
                     a credential. Name it *{suffix}.'"
                )),
            },
            Law {
                holds: format!(
                    "!variables.isAccount || request.operation != 'CREATE' || {}",
                    owned("object")
                ),
                message: "a controller creates only ServiceAccounts that a Credential owns",
                says: says(&format!(
                    "'ServiceAccount \"' + object.metadata.name + '\" has no owner of group {GROUP}. Set metadata.ownerReferences to \
                     a Credential.'"
                )),
            },
            Law {
                holds: "!variables.isAccount || request.operation == 'CREATE' || variables.managed"
                    .to_owned(),
                message: "a controller changes and deletes only ServiceAccounts that it manages",
                says: says(&unmanaged("ServiceAccount", MADE_FOR_ANNOTATION)),
            },
        ],
        scope: Scope::Users(users),
    }
}

fn bindings(users: String) -> Draft {
    let suffix = name::service_account("");
    Draft {
        name: "controller-bindings".to_owned(),
        about: "A controller binds roles to the ServiceAccounts of credentials only.",
        rules: vec![Rule {
            group: RBAC,
            resources: &["rolebindings", "clusterrolebindings"],
            operations: WRITES,
        }],
        variables: vec![
            ("isBinding", format!("request.resource.group == '{RBAC}'")),
            ("managed", managed("oldObject", &[OWNER_UID_ANNOTATION])),
        ],
        laws: vec![
            Law {
                holds: format!(
                    "!variables.isBinding || request.operation != 'CREATE' || (has(dyn(object).subjects) && \
                     dyn(object).subjects.size() > 0 && \
                     dyn(object).subjects.all(s, s.kind == 'ServiceAccount' && s.name.endsWith('{suffix}')))"
                ),
                message: "a controller binds roles to the ServiceAccounts of credentials only",
                says: says(&format!(
                    "request.resource.resource + ' \"' + object.metadata.name + '\" has a subject that is no ServiceAccount of a \
                     credential. Name only ServiceAccounts called *{suffix}.'"
                )),
            },
            // Without these, the controller would not find the binding when the credential is deleted.
            Law {
                holds: format!(
                    "!variables.isBinding || request.operation != 'CREATE' || (({}) && has(object.metadata.annotations) && \
                     ['{OWNER_ANNOTATION}', '{OWNER_UID_ANNOTATION}'].all(k, k in object.metadata.annotations))",
                    labelled("object")
                ),
                message: "a controller creates only bindings that name the credential that they are for",
                says: says(&format!(
                    "request.resource.resource + ' \"' + object.metadata.name + '\" does not name its credential. Set the label \
                     {MANAGED_BY_LABEL}={MANAGED_BY} and the annotations {OWNER_ANNOTATION} and {OWNER_UID_ANNOTATION}.'"
                )),
            },
            // RBAC lets everybody bind a role whose permissions they have, such as the controller's own.
            Law {
                holds: format!(
                    "!variables.isBinding || request.operation != 'CREATE' || authorizer.group('{RBAC}')\
                     .resource(dyn(object).roleRef.kind == 'ClusterRole' ? 'clusterroles' : 'roles')\
                     .namespace(has(object.metadata.namespace) ? object.metadata.namespace : '')\
                     .name(dyn(object).roleRef.name).check('bind').allowed()"
                ),
                message: "a controller binds only roles that it has the verb bind for",
                says: says(
                    "dyn(object).roleRef.kind + ' \"' + dyn(object).roleRef.name + '\" may not be bound. Grant the controller the \
                     verb bind on it.'",
                ),
            },
            Law {
                holds: "!variables.isBinding || request.operation == 'CREATE' || variables.managed"
                    .to_owned(),
                message: "a controller changes and deletes only bindings that it manages",
                says: says(&unmanaged("Binding", OWNER_UID_ANNOTATION)),
            },
            Law {
                holds: "!variables.isBinding || request.operation != 'UPDATE' || \
                        (has(dyn(object).subjects) ? dyn(object).subjects : []) == \
                        (has(dyn(oldObject).subjects) ? dyn(oldObject).subjects : [])"
                    .to_owned(),
                message: "a controller does not change the subjects of a binding",
                says: says(
                    "request.resource.resource + ' \"' + object.metadata.name + '\" may not get other subjects. Delete it and create \
                     another one.'",
                ),
            },
        ],
        scope: Scope::Users(users),
    }
}

fn labelled(object: &str) -> String {
    format!(
        "has({object}.metadata.labels) && '{MANAGED_BY_LABEL}' in {object}.metadata.labels && \
         {object}.metadata.labels['{MANAGED_BY_LABEL}'] == '{MANAGED_BY}'"
    )
}

fn owned(object: &str) -> String {
    format!(
        "(has({object}.metadata.ownerReferences) && \
         {object}.metadata.ownerReferences.exists(r, r.apiVersion.startsWith('{GROUP}/')))"
    )
}

/// A CEL expression that is true if an object has a label, annotation or owner reference of the operator.
fn managed(object: &str, annotations: &[&str]) -> String {
    let annotated = annotations.iter().map(|name| {
        format!("(has({object}.metadata.annotations) && '{name}' in {object}.metadata.annotations)")
    });
    let annotated: Vec<_> = annotated.collect();
    format!(
        "({}) || {} || (has({object}.metadata.ownerReferences) && {object}.metadata.ownerReferences.size() > {MAX_OWNERS}) || {}",
        labelled(object),
        annotated.join(" || "),
        owned(object)
    )
}

fn unmanaged(kind: &str, annotation: &str) -> String {
    format!(
        "'{kind} \"' + oldObject.metadata.name + '\" is not managed by the operator. If it belongs to a credential, set the label \
         {MANAGED_BY_LABEL}={MANAGED_BY} or the annotation {annotation} again.'"
    )
}

fn says(problem: &str) -> String {
    format!("'user ' + request.userInfo.username + ' is a controller of credentials: ' + {problem}")
}
