//! The policy that enforces the rules of CredentialPolicies for ApiTokens, as far as a single request allows it. The controller
//! enforces the rules for their credential and the counts.

use super::{
    draft::{Draft, Law, Rule, Scope},
    limits::{minutes, says, selection},
};
use crate::api::GROUP;

/// The policy checks creation only: afterwards, all of these fields are immutable or can only be reduced.
pub(super) fn draft() -> Draft {
    let mut variables = selection();
    variables.push(("spec", "dyn(object.spec)".to_owned()));
    variables.push(("tokens", "has(variables.policy.tokens) ? variables.policy.tokens : dyn({})".to_owned()));
    variables.push(("type", "has(variables.spec.type) ? string(variables.spec.type) : 'Opaque'".to_owned()));
    variables.push((
        "delivery",
        "has(variables.spec.delivery) && has(variables.spec.delivery.mode) ? string(variables.spec.delivery.mode) : 'Secret'"
            .to_owned(),
    ));
    // In seconds. The schema rejects a token without a valid expiration.
    variables.push((
        "life",
        format!(
            "has(variables.spec.expiresIn) ? {} * 60 : has(variables.spec.expiresAt) ? \
             (timestamp(variables.spec.expiresAt) - timestamp(object.metadata.creationTimestamp)).getSeconds() : 0",
            minutes("variables.spec.expiresIn")
        ),
    ));
    Draft {
        name: "token-limits".to_owned(),
        about: "ApiTokens keep to what the CredentialPolicies of their namespace allow.",
        rules: vec![Rule { group: GROUP, resources: &["apitokens"], operations: &["CREATE"] }],
        variables,
        laws: vec![
            Law {
                holds: of_tokens("!has(variables.tokens.types) || variables.type in variables.tokens.types"),
                message: "a CredentialPolicy does not allow ApiTokens of that type",
                says: says(
                    "'does not allow ApiTokens of type ' + variables.type",
                    "have it added to tokens.types",
                ),
            },
            Law {
                holds: of_tokens(
                    "!has(variables.tokens.deliveries) || variables.delivery in variables.tokens.deliveries",
                ),
                message: "a CredentialPolicy does not allow ApiTokens to be delivered so",
                says: says(
                    "'does not allow delivery by ' + variables.delivery",
                    "have it added to tokens.deliveries",
                ),
            },
            Law {
                holds: of_tokens(&format!(
                    "!has(variables.tokens.maxLifetime) || variables.life <= {} * 60",
                    minutes("variables.tokens.maxLifetime")
                )),
                message: "a CredentialPolicy does not allow a value to live so long",
                says: says(
                    "'allows a value to live ' + variables.tokens.maxLifetime + ', and this token\\'s would live longer'",
                    "choose a shorter life, or have tokens.maxLifetime raised",
                ),
            },
            Law {
                holds: of_tokens(&format!(
                    "!has(variables.tokens.lifetimes) || variables.tokens.lifetimes.exists(l, has(variables.spec.expiresIn) ? \
                     {allowed} * 60 == variables.life : {allowed} * 60 >= variables.life)",
                    allowed = minutes("l")
                )),
                message: "a CredentialPolicy does not allow that lifetime",
                says: says(
                    "'allows tokens these lifetimes alone: [' + variables.tokens.lifetimes.map(l, string(l)).join(', ') + ']'",
                    "choose one of them as expiresIn, or have tokens.lifetimes extended",
                ),
            },
        ],
        scope: Scope::EachPolicy,
    }
}

/// A CEL expression that is also true if the policy does not select the namespace, or the request is not for an ApiToken.
fn of_tokens(law: &str) -> String {
    format!("!variables.selected || request.resource.resource != 'apitokens' || {law}")
}
