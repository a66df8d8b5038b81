//! The policy that allows users to refer to a Secret, or to set the metadata of one, only with their own permissions on Secrets.

use super::draft::{Draft, Law, Rule, Scope, before_and_after};
use crate::domain::name;

/// The fields that refer to a Secret: the variable name, the field, its parent fields, and the field whose change requires the
/// permission again. For an issuer that is `tls`, since the issuer signs all of it.
const REFERENCES: [(&str, &str, &[&str], &str); 2] = [
    ("provided", "provided.secretRef.name", &["provided"], "provided.secretRef.name"),
    ("issuer", "tls.issuer.secretRef.name", &["tls", "tls.issuer"], "tls"),
];

pub(super) fn draft() -> Draft {
    let mut variables = before_and_after();
    let mut laws = Vec::new();
    for (name, field, parents, decides) in REFERENCES {
        variables.push((name, set_or_changed(field, parents, decides)));
        laws.push(Law {
            holds: format!(
                "variables.{name} == '' || authorizer.group('').resource('secrets').namespace(request.namespace)\
                 .name(variables.{name}).check('get').allowed()"
            ),
            message: "who refers to a Secret needs the right to get it",
            says: format!(
                "'user ' + request.userInfo.username + ' may not refer to Secret ' + variables.{name} + ' (spec.{field}): the \
                 right to get secrets/' + variables.{name} + ' in namespace ' + request.namespace + ' is missing; ask for it, or \
                 name another Secret'"
            ),
        });
    }
    variables.push((
        "asItLooked",
        "has(variables.spec.secret) == has(variables.old.secret) && \
         (!has(variables.spec.secret) || variables.spec.secret == variables.old.secret)"
            .to_owned(),
    ));
    laws.push(Law {
        holds: "variables.asItLooked || \
                authorizer.group('').resource('secrets').namespace(request.namespace).check('create').allowed()"
            .to_owned(),
        message: "who says what a Secret looks like needs the right to create secrets",
        says: "'user ' + request.userInfo.username + ' may not set or change spec.secret: the right to create secrets in \
               namespace ' + request.namespace + ' is missing; ask for it, or leave spec.secret as it is'"
            .to_owned(),
    });
    // Otherwise a user could move the data to a Secret that others can read, or have it copied by annotations.
    variables.push((
        "shown",
        format!(
            "oldObject == null || variables.asItLooked ? '' : has(variables.old.secret) && has(variables.old.secret.name) ? \
             string(variables.old.secret.name) : \
             string(object.metadata.name) + (request.resource.resource == 'apitokens' ? '{token}' : '{material}')",
            token = name::token_secret(""),
            material = name::material_secret(""),
        ),
    ));
    laws.push(Law {
        holds: "variables.shown == '' || authorizer.group('').resource('secrets').namespace(request.namespace)\
                .name(variables.shown).check('get').allowed()"
            .to_owned(),
        message: "who changes where a Secret is found needs the right to get it",
        says: "'user ' + request.userInfo.username + ' may not change spec.secret: the right to get secrets/' + variables.shown + \
               ' in namespace ' + request.namespace + ' is missing; ask for it, or leave spec.secret as it is'"
            .to_owned(),
    });
    Draft {
        name: "secrets".to_owned(),
        about: "Who refers to a Secret must be allowed to get it; who says what one looks like, to create it; who changes that, both.",
        rules: vec![Rule::writes(&["credentials", "apitokens"])],
        variables,
        laws,
        scope: Scope::Everyone,
    }
}

/// A CEL expression for the name in the field if the deciding field has changed; empty otherwise.
fn set_or_changed(field: &str, parents: &[&str], decides: &str) -> String {
    let there = |of: &str| {
        parents.iter().map(|parent| format!("has(variables.{of}.{parent})")).collect::<Vec<_>>().join(" && ")
    };
    format!(
        "({now}) && !({before} && variables.old.{decides} == variables.spec.{decides}) ? string(variables.spec.{field}) : ''",
        now = there("spec"),
        before = there("old"),
    )
}
