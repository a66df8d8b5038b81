//! The policy that enforces the rules of CredentialPolicies for credentials, as far as a single request allows it.
//! `domain::policy` enforces all rules in the controller; a test compares the two.
//!
//! If no policy selects a namespace, the controller refuses grants in other namespaces: here each policy is evaluated by itself,
//! without the others.

use super::{
    draft::{Draft, Law, Rule, Scope, before_and_after},
    grants,
};
use crate::api::DEFAULT_AUDIENCE;

pub(super) fn draft() -> Draft {
    let mut variables = selection();
    variables.extend(before_and_after());
    // All entries count as new if a credential is activated.
    variables.push(("fresh", "oldObject == null || variables.activated".to_owned()));
    variables.push(("added", grants::added()));
    variables.push(("refusedRoles", refused_roles()));
    variables.push(("refusedScopes", refused("scopes", "[]")));
    variables.push(("refusedAudiences", refused("audiences", &format!("['{DEFAULT_AUDIENCE}']"))));
    Draft {
        name: "limits".to_owned(),
        about: "Credentials keep to what the CredentialPolicies of their namespace allow.",
        rules: vec![Rule::writes(&["credentials"])],
        variables,
        laws: vec![
            Law {
                holds: "!variables.selected || !variables.fresh || !has(variables.policy.types) || \
                        variables.type in variables.policy.types"
                    .replace("variables.type", TYPE),
                message: "a CredentialPolicy does not allow credentials of that type",
                says: says(
                    &format!(
                        "'does not allow type ' + {TYPE} + ', only [' + \
                         variables.policy.types.map(t, string(t)).join(', ') + ']'"
                    ),
                    "create a credential of an allowed type, or have the policy\\'s types extended",
                ),
            },
            Law {
                holds: "!variables.selected || variables.refusedRoles.size() == 0".to_owned(),
                message: "a CredentialPolicy does not allow the grant of a role",
                says: says(
                    "'does not allow the grant of ' + variables.refusedRoles[0].kind + ' ' + variables.refusedRoles[0].name + \
                     (has(variables.refusedRoles[0].clusterWide) && variables.refusedRoles[0].clusterWide ? ' in the whole cluster' : \
                     has(variables.refusedRoles[0].namespace) && variables.refusedRoles[0].namespace != request.namespace ? ' in namespace ' + variables.refusedRoles[0].namespace : '')",
                    "remove it from spec.roles, or have it named in the policy\\'s roles",
                ),
            },
            Law {
                holds: "!variables.selected || variables.refusedScopes.size() == 0".to_owned(),
                message: "a CredentialPolicy does not allow a scope",
                says: says(
                    "'does not allow the scope ' + variables.refusedScopes[0]",
                    "remove it from spec.scopes, or have it named in the policy\\'s scopes",
                ),
            },
            Law {
                holds: "!variables.selected || variables.refusedAudiences.size() == 0".to_owned(),
                message: "a CredentialPolicy does not allow an audience",
                says: says(
                    "'does not allow the audience ' + variables.refusedAudiences[0] + \
                         (has(variables.spec.audiences) ? '' : ', which a credential has that names none')",
                    "set spec.audiences to allowed ones, or have it named in the policy\\'s audiences",
                ),
            },
            life_of_a_client_secret(),
        ],
        scope: Scope::EachPolicy,
    }
}

/// A CEL expression for the type of the credential.
const TYPE: &str = "(has(variables.spec.type) ? string(variables.spec.type) : 'Token')";

/// CEL variables that evaluate whether the policy selects the namespace, with the semantics of Kubernetes label selectors.
pub(super) fn selection() -> Vec<(&'static str, String)> {
    vec![
        ("policy", "dyn(params.spec)".to_owned()),
        ("selector", "variables.policy.namespaceSelector".to_owned()),
        (
            "labels",
            "namespaceObject != null && has(namespaceObject.metadata.labels) ? dyn(namespaceObject.metadata.labels) : dyn({})"
                .to_owned(),
        ),
        (
            "selected",
            "(!has(variables.selector.matchLabels) || variables.selector.matchLabels.all(k, \
             k in variables.labels && variables.labels[k] == variables.selector.matchLabels[k])) && \
             (!has(variables.selector.matchExpressions) || variables.selector.matchExpressions.all(e, \
             e.operator == 'Exists' ? e.key in variables.labels : \
             e.operator == 'DoesNotExist' ? !(e.key in variables.labels) : \
             (e.key in variables.labels && has(e.values) && variables.labels[e.key] in e.values) == (e.operator == 'In')))"
                .to_owned(),
        ),
    ]
}

/// A message expression that names the policy. `what` is an expression, `what_to_do` is text.
pub(super) fn says(what: &str, what_to_do: &str) -> String {
    format!("'CredentialPolicy ' + params.metadata.name + ' ' + {what} + '; {what_to_do}'")
}

/// A CEL expression that is true if a pattern matches a text. A pattern that ends in `*` matches a prefix, any other the whole
/// text.
fn matches(pattern: &str, text: &str) -> String {
    format!(
        "({pattern} == {text} || ({pattern}.endsWith('*') && {text}.startsWith({pattern}.substring(0, {pattern}.size() - 1))))"
    )
}

fn refused_roles() -> String {
    let own = "(!has(g.namespace) || g.namespace == request.namespace)";
    let everywhere = "has(g.clusterWide) && g.clusterWide";
    format!(
        "!variables.selected ? [] : variables.added.filter(g, !(has(variables.policy.roles) ? \
         variables.policy.roles.exists(e, e.kind == g.kind && {name} && \
         ({everywhere} ? has(e.clusterWide) && e.clusterWide : {own} || \
         (has(e.namespaces) && ('*' in e.namespaces || g.namespace in e.namespaces)))) : \
         !({everywhere}) && {own}))",
        name = matches("e.name", "g.name"),
    )
}

/// The entries of a list of the spec that are new and not allowed.
fn refused(list: &str, absent: &str) -> String {
    let of = |object: &str| {
        format!("(has(variables.{object}.{list}) ? variables.{object}.{list} : dyn({absent}))")
    };
    format!(
        "!variables.selected || !has(variables.policy.{list}) ? [] : {now}.filter(s, (variables.fresh || !(s in {before})) && \
         !variables.policy.{list}.exists(p, {matches}))",
        now = of("spec"),
        before = of("old"),
        matches = matches("p", "s"),
    )
}

/// A CEL expression for the number of minutes of a duration such as `30d`.
pub(super) fn minutes(span: &str) -> String {
    format!(
        "(int({span}.substring(0, {span}.size() - 1)) * ({span}.endsWith('m') ? 1 : {span}.endsWith('h') ? 60 : \
         {span}.endsWith('d') ? 1440 : {span}.endsWith('w') ? 10080 : 525600))"
    )
}

/// Limits the lifetime of a client secret, by the rotation or the expiration of the credential. CEL has no clock, so the
/// expiration is compared with the creation time, and is not checked on updates.
fn life_of_a_client_secret() -> Law {
    let max = minutes("variables.policy.tokens.maxLifetime");
    let by_rotation = format!(
        "(has(variables.spec.rotation) && has(variables.spec.rotation.every) && !has(variables.spec.provided) && \
         {every} + (has(variables.spec.rotation.overlap) ? {overlap} : 0) <= {max})",
        every = minutes("variables.spec.rotation.every"),
        overlap = minutes("variables.spec.rotation.overlap"),
    );
    let by_end = format!(
        "(has(variables.spec.expiresAt) && (oldObject != null || \
         timestamp(variables.spec.expiresAt) - timestamp(object.metadata.creationTimestamp) <= duration(string({max}) + 'm')))"
    );
    let unchanged = "(oldObject != null && has(variables.spec.rotation) == has(variables.old.rotation) && \
                     (!has(variables.spec.rotation) || variables.spec.rotation == variables.old.rotation))";
    Law {
        holds: format!(
            "!variables.selected || {TYPE} != 'ClientSecret' || !has(variables.policy.tokens) || \
             !has(variables.policy.tokens.maxLifetime) || {unchanged} || {by_rotation} || {by_end}"
        ),
        message: "a CredentialPolicy does not allow a client secret to live so long",
        says: says(
            "'allows a value to live ' + variables.policy.tokens.maxLifetime + ', and a client secret of this credential would live \
             longer'",
            "set rotation.every, or an expiresAt that is near enough, or have tokens.maxLifetime raised",
        ),
    }
}
