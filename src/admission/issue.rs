//! The policy that requires the verb `issue` on a credential to have its values issued or to change how they are issued.

use super::draft::{Draft, Law, Rule, Scope, before_and_after};
use crate::{
    api::GROUP,
    domain::name::{ACKNOWLEDGED_ANNOTATION, ROTATE_ANNOTATION},
};

/// The verb that the policy requires.
pub(super) const VERB: &str = "issue";

/// The spec fields of a credential that can be changed without the verb: descriptions, roles (which other policies check) and
/// fields that make the credential end sooner. All other fields, including future ones, affect which values are issued or what
/// they permit.
const HARMLESS: [&str; 7] =
    ["displayName", "description", "state", "type", "roles", "expiresAt", "deletionProtection"];

/// The spec fields of a token that can be changed without the verb. `audiences` is allowed only if audiences are removed.
const HARMLESS_FOR_TOKENS: [&str; 6] =
    ["description", "expiresAt", "ttlAfterExpired", "revoked", "scopes", "secret"];

pub(super) fn draft() -> Draft {
    let mut variables = before_and_after();
    variables.push(("ofToken", "request.resource.resource == 'apitokens'".to_owned()));
    variables.push((
        "credential",
        "variables.ofToken ? string(variables.spec.credentialRef.name) : string(object.metadata.name)"
            .to_owned(),
    ));
    variables.push((
        "changed",
        "oldObject == null ? dyn([]) : variables.spec.filter(k, !(k in variables.old) || variables.spec[k] != variables.old[k]) + \
         variables.old.filter(k, !(k in variables.spec))"
            .to_owned(),
    ));
    let listed =
        |fields: &[&str]| fields.iter().map(|field| format!("'{field}'")).collect::<Vec<_>>().join(", ");
    let (harmless, harmless_for_tokens) = (listed(&HARMLESS), listed(&HARMLESS_FOR_TOKENS));
    // A ServiceAccount token without audiences has those of the API server, so adding audiences does not narrow it.
    variables.push((
        "narrows",
        "has(variables.old.audiences) || !(has(variables.spec.type) && variables.spec.type == 'ServiceAccount')".to_owned(),
    ));
    variables.push((
        "asked",
        format!(
            "(variables.ofToken ? (oldObject == null ? ['a new token'] : \
             variables.changed.filter(k, !(k in [{harmless_for_tokens}]) && !(k == 'audiences' && variables.narrows))\
             .map(k, 'spec.' + k)) : \
             variables.changed.filter(k, !(k in [{harmless}])).map(k, 'spec.' + k)) + \
             (variables.activated ? ['spec.state'] : []) + \
             ['{ROTATE_ANNOTATION}', '{ACKNOWLEDGED_ANNOTATION}'].filter(k, k in variables.marks && \
             !(k in variables.oldMarks && variables.oldMarks[k] == variables.marks[k]))"
        ),
    ));
    Draft {
        name: "issue".to_owned(),
        about: "Who has values of a credential made, or made otherwise, must have the verb issue on it.",
        rules: vec![Rule::writes(&["credentials", "apitokens"])],
        variables,
        laws: vec![Law {
            holds: format!(
                "variables.asked.size() == 0 || authorizer.group('{GROUP}').resource('credentials')\
                 .namespace(request.namespace).name(variables.credential).check('{VERB}').allowed()"
            ),
            message: "who has values of a credential made, or made otherwise, needs the verb issue on it",
            says: format!(
                "'user ' + request.userInfo.username + ' may not issue for credential ' + variables.credential + ' (' + \
                 variables.asked.join(', ') + '): the verb {VERB} on credentials.{GROUP}/' + variables.credential + \
                 ' in namespace ' + request.namespace + ' is missing; ask for it, or leave that as it is'"
            ),
        }],
        scope: Scope::Everyone,
    }
}
