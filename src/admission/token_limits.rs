//! What a CredentialPolicy says of ApiTokens, as far as one request shows it. What it says of their credential, and how many
//! there may be, the controller sees to.

use super::{
    draft::{Draft, Law, Rule, Scope},
    limits::{minutes, says, selection},
};
use crate::api::GROUP;

/// All of it is fixed, or can only shrink, once a token is there.
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
    // In seconds. Where it has no end that makes sense, the schema says so.
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

/// Holds also where the policy is none of the namespace, or of a request that is not about tokens.
fn of_tokens(law: &str) -> String {
    format!("!variables.selected || request.resource.resource != 'apitokens' || {law}")
}
