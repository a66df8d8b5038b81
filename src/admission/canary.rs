//! The canary: a Credential that the controller creates as a dry run to check whether a policy is in force. The policy that
//! its annotation names refuses it, and every other policy ignores it.
//!
//! A dry run of `credentials` has no effect, so the exemption bypasses no policy. Dry runs of other resources can have one
//! (the API server answers a dry run of `serviceaccounts/token` with a valid token), so [`is_canary`] matches one group and
//! resource without a subresource. It is the only exemption from the policies.

use k8s_openapi::api::admissionregistration::v1::MatchCondition;

use super::draft::{Law, Rule};
use crate::api::GROUP;

/// The annotation of a canary with the full name of the policy that must refuse it.
pub const CANARY_ANNOTATION: &str = "credential-operator.io/canary";

const RESOURCE: &str = "credentials";

/// The end of the message with which a policy refuses its canary.
#[must_use]
pub fn refusal_of_canary(policy: &str) -> String {
    format!("{policy} is in force")
}

/// The rule that matches canaries. Every policy has it.
pub(super) const fn rule() -> Rule {
    Rule { group: GROUP, resources: &[RESOURCE], operations: &["CREATE"] }
}

/// A CEL expression that is true for the canary of any policy.
pub(super) fn is_canary() -> String {
    format!(
        "request.operation == 'CREATE' && has(request.dryRun) && request.dryRun && request.resource.group == '{GROUP}' && \
         request.resource.resource == '{RESOURCE}' && (!has(request.subResource) || request.subResource == '') && \
         has(object.metadata) && has(object.metadata.annotations) && '{CANARY_ANNOTATION}' in object.metadata.annotations"
    )
}

/// The match condition that exempts the canaries of other policies.
pub(super) fn exception(policy: &str) -> MatchCondition {
    MatchCondition {
        name: "not-the-canary-of-another".to_owned(),
        expression: format!("!({} && !({}))", is_canary(), names(policy)),
    }
}

/// The match condition that limits a policy to the requests of these users and to canaries.
pub(super) fn only_for(users: &str) -> MatchCondition {
    MatchCondition {
        name: "of-a-controller-or-a-canary".to_owned(),
        expression: format!(
            "(has(request.userInfo.username) && request.userInfo.username in {users}) || ({})",
            is_canary()
        ),
    }
}

/// The validation by which a policy refuses its own canary.
pub(super) fn refused(policy: &str) -> Law {
    Law {
        holds: format!("!({} && {})", is_canary(), names(policy)),
        message: "the canary is refused, as it is to be",
        says: format!("'{}'", refusal_of_canary(policy)),
    }
}

fn names(policy: &str) -> String {
    format!("object.metadata.annotations['{CANARY_ANNOTATION}'] == '{policy}'")
}

#[cfg(test)]
mod tests {
    use cel::{Context, Program, Value as CelValue};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        admission::{Account, policies},
        domain::name::KEYRING,
    };

    /// A dry run of this operation.
    fn request(operation: &str, group: &str, resource: &str, subresource: &str) -> Value {
        let mut request = json!({
            "operation": operation,
            "dryRun": true,
            "resource": {"group": group, "version": "v1", "resource": resource},
            "userInfo": {"username": Account::default().user()},
        });
        if !subresource.is_empty() {
            request["subResource"] = json!(subresource);
        }
        request
    }

    fn annotated(policy: &str) -> Value {
        json!({"metadata": {"name": "canary", "annotations": {CANARY_ANNOTATION: policy}}})
    }

    fn holds(expression: &str, request: &Value, object: &Value) -> bool {
        let mut context = Context::default();
        context.add_variable("request", request.clone()).unwrap();
        context.add_variable("object", object.clone()).unwrap();
        match Program::compile(expression).unwrap().execute(&context).unwrap() {
            CelValue::Bool(holds) => holds,
            other => panic!("{expression}: {other:?}"),
        }
    }

    /// Whether all match conditions of a policy match a request.
    fn judges(conditions: &[MatchCondition], request: &Value, object: &Value) -> bool {
        conditions.iter().all(|condition| holds(&condition.expression, request, object))
    }

    #[test]
    fn the_exception_of_every_policy_matches_canaries_only() {
        let dry = request("CREATE", GROUP, RESOURCE, "");
        let mut wet = dry.clone();
        wet["dryRun"] = json!(false);
        let mut unsaid = dry.clone();
        unsaid.as_object_mut().unwrap().remove("dryRun");
        let bare = json!({"metadata": {"name": "canary", "annotations": {}}});
        let policies = policies(&[Account::default()], KEYRING);
        assert!(policies.len() > 8);
        for policy in policies {
            let name = policy.metadata.name.unwrap();
            let spec = policy.spec.unwrap();
            let conditions = spec.match_conditions.unwrap();
            let (own, other) = (annotated(&name), annotated("other.credential-operator.io"));
            assert!(judges(&conditions, &dry, &own), "{name} refuses its own canary");
            assert!(!judges(&conditions, &dry, &other), "{name} lets the canary of another pass");
            // The annotation has no effect on any other request.
            for (request, object) in [(&wet, &other), (&unsaid, &other), (&dry, &bare), (&dry, &json!({}))] {
                let plain = judges(&conditions, request, &json!({"metadata": {"name": "canary"}}));
                assert_eq!(judges(&conditions, request, object), plain, "{name}: {request} {object}");
            }
            for rule in spec.match_constraints.unwrap().resource_rules.unwrap() {
                let group = rule.api_groups.unwrap().remove(0);
                for resource in rule.resources.unwrap() {
                    let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
                    let resource = if resource == "*" { RESOURCE } else { resource };
                    for operation in rule.operations.as_ref().unwrap() {
                        if (&*group, resource, subresource, &**operation) == (GROUP, RESOURCE, "", "CREATE") {
                            continue;
                        }
                        let request = request(operation, &group, resource, subresource);
                        assert!(judges(&conditions, &request, &other), "{name} does not judge {request}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_difference_makes_a_request_no_canary() {
        let canary = annotated("any.credential-operator.io");
        let is = |request: &Value| holds(&is_canary(), request, &canary);
        assert!(is(&request("CREATE", GROUP, RESOURCE, "")));
        for (operation, group, resource, subresource) in [
            ("UPDATE", GROUP, RESOURCE, ""),
            ("DELETE", GROUP, RESOURCE, ""),
            ("CONNECT", GROUP, RESOURCE, ""),
            ("CREATE", "", RESOURCE, ""),
            ("CREATE", "other.example", RESOURCE, ""),
            ("CREATE", GROUP, "apitokens", ""),
            ("CREATE", GROUP, "credentialpolicies", ""),
            ("CREATE", GROUP, RESOURCE, "status"),
            ("CREATE", GROUP, RESOURCE, "token"),
            ("CREATE", "", "serviceaccounts", "token"),
            ("CREATE", "", "serviceaccounts", ""),
            ("CREATE", "", "secrets", ""),
            ("CREATE", "rbac.authorization.k8s.io", "rolebindings", ""),
            ("CREATE", "rbac.authorization.k8s.io", "clusterrolebindings", ""),
        ] {
            let request = request(operation, group, resource, subresource);
            assert!(!is(&request), "{request}");
        }
    }
}
