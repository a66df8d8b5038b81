//! Nobody reads a Secret, or has one made that looks as they like, by way of a credential, who may not do so themselves.

use super::draft::{Draft, Law, Rule, before_and_after};
use crate::api::GROUP;

/// The fields that refer to a Secret: a name for expressions, the field, and what must be there for it to be.
const REFERENCES: [(&str, &str, &[&str]); 2] = [
    ("provided", "provided.secretRef.name", &["provided"]),
    ("issuer", "tls.issuer.secretRef.name", &["tls", "tls.issuer"]),
];

pub(super) fn draft() -> Draft {
    let mut variables = before_and_after();
    let mut laws = Vec::new();
    for (name, field, parents) in REFERENCES {
        variables.push((name, set_or_changed(field, parents)));
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
    laws.push(Law {
        holds: "(has(variables.spec.secret) == has(variables.old.secret) && \
                (!has(variables.spec.secret) || variables.spec.secret == variables.old.secret)) || \
                authorizer.group('').resource('secrets').namespace(request.namespace).check('create').allowed()"
            .to_owned(),
        message: "who says what a Secret looks like needs the right to create secrets",
        says: "'user ' + request.userInfo.username + ' may not set or change spec.secret: the right to create secrets in \
               namespace ' + request.namespace + ' is missing; ask for it, or leave spec.secret as it is'"
            .to_owned(),
    });
    Draft {
        name: "secrets".to_owned(),
        about: "Who refers to a Secret must be allowed to get it; who says what one looks like, to create it.",
        rules: vec![Rule {
            group: GROUP,
            resources: &["credentials", "apitokens"],
            operations: &["CREATE", "UPDATE"],
        }],
        variables,
        laws,
        for_each_policy: false,
    }
}

/// The name that the field has now and had not before; empty where that is as it was, or not there.
fn set_or_changed(field: &str, parents: &[&str]) -> String {
    let there = |of: &str| {
        parents.iter().map(|parent| format!("has(variables.{of}.{parent})")).collect::<Vec<_>>().join(" && ")
    };
    format!(
        "({now}) && !({before} && variables.old.{field} == variables.spec.{field}) ? string(variables.spec.{field}) : ''",
        now = there("spec"),
        before = there("old"),
    )
}
