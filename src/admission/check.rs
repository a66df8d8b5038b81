//! Checks whether the installed admission policies are those that were shipped.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};

use super::{Account, CONTROLLERS, account, binding, controllers as own, full_name, policies, status};

/// An installed policy and its binding, if they exist.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The policy.
    pub policy: Option<ValidatingAdmissionPolicy>,
    /// The binding.
    pub binding: Option<ValidatingAdmissionPolicyBinding>,
}

/// The names of all policies, and of their bindings.
#[must_use]
pub fn names() -> Vec<String> {
    policies(&[], "").into_iter().filter_map(|policy| policy.metadata.name).collect()
}

/// Returns the first difference between the installed and the shipped policies, for a controller with the user name `user`
/// and the keyring Secret `keyring`. `kept` looks up a policy by name. The policies may be generated for any other
/// controllers, too.
#[must_use]
pub fn flaw(kept: &dyn Fn(&str) -> Kept, user: &str, keyring: &str) -> Option<String> {
    let name = full_name(own::SECRETS);
    match kept(&name).policy.as_ref().and_then(|policy| variable(policy, own::KEYRING)) {
        Some(made_for) if made_for != format!("'{keyring}'") => {
            return Some(format!(
                "ValidatingAdmissionPolicy {name} is made for the keyring {made_for}, and this controller's is '{keyring}'. Generate the \
                 policies by: credential-operator crds --keyring-secret {keyring}"
            ));
        }
        Some(_) | None => {}
    }
    let name = full_name(status::NAME);
    let Some(controllers) = kept(&name).policy.as_ref().and_then(controllers) else {
        return Some(format!("ValidatingAdmissionPolicy {name} is missing, or not as it was shipped"));
    };
    if !controllers.iter().any(|controller| controller.user() == user) {
        return Some(format!("ValidatingAdmissionPolicy {name} is not made for a controller that is {user}"));
    }
    policies(&controllers, keyring).into_iter().find_map(|shipped| {
        let name = shipped.metadata.name.clone().unwrap_or_default();
        let kept = kept(&name);
        let what = match (kept.policy, kept.binding) {
            (None, _) => "is missing",
            (_, None) => "is not bound",
            (Some(policy), _) if policy.metadata.deletion_timestamp.is_some() => "is being deleted",
            (Some(policy), _) if policy.spec != shipped.spec => "is not as it was shipped with this version",
            (_, Some(bound)) if bound.spec != binding(&shipped).spec => "is not bound as it was shipped",
            (Some(_), Some(_)) => return None,
        };
        Some(format!("ValidatingAdmissionPolicy {name} {what}"))
    })
}

/// The controller accounts that a policy was generated for.
fn controllers(policy: &ValidatingAdmissionPolicy) -> Option<Vec<Account>> {
    account::read_users(variable(policy, CONTROLLERS)?)
}

fn variable<'a>(policy: &'a ValidatingAdmissionPolicy, name: &str) -> Option<&'a str> {
    let variables = policy.spec.as_ref()?.variables.as_ref()?;
    variables.iter().find(|variable| variable.name == name).map(|variable| variable.expression.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicySpec;

    use super::*;
    use crate::domain::name::KEYRING;

    fn shipped(controllers: &[Account]) -> BTreeMap<String, Kept> {
        let kept = |policy: ValidatingAdmissionPolicy| {
            let binding = binding(&policy);
            (policy.metadata.name.clone().unwrap(), Kept { policy: Some(policy), binding: Some(binding) })
        };
        policies(controllers, KEYRING).into_iter().map(kept).collect()
    }

    fn told(kept: &BTreeMap<String, Kept>, user: &str) -> Option<String> {
        flaw(&|name| kept.get(name).cloned().unwrap_or_default(), user, KEYRING)
    }

    #[test]
    fn what_was_shipped_has_no_flaw() {
        let other: Account = "orders:controller".parse().unwrap();
        for controllers in [vec![Account::default()], vec![other.clone(), Account::default()]] {
            assert_eq!(told(&shipped(&controllers), &Account::default().user()), None);
        }
        let kept = shipped(&[Account::default()]);
        let of_others = told(&kept, &other.user()).unwrap();
        assert!(
            of_others
                .contains("is not made for a controller that is system:serviceaccount:orders:controller")
        );
    }

    #[test]
    fn policies_for_another_keyring_are_a_flaw() {
        let kept = shipped(&[Account::default()]);
        let kept = |name: &str| kept.get(name).cloned().unwrap_or_default();
        let said = flaw(&kept, &Account::default().user(), "other").unwrap();
        assert_eq!(
            said,
            "ValidatingAdmissionPolicy controller-secrets.credential-operator.io is made for the keyring \
             'credential-operator-keyring', and this controller's is 'other'. Generate the policies by: \
             credential-operator crds --keyring-secret other"
        );
    }

    fn spec(kept: &mut Kept) -> &mut ValidatingAdmissionPolicySpec {
        kept.policy.as_mut().unwrap().spec.as_mut().unwrap()
    }

    #[test]
    fn each_change_is_a_flaw() {
        let user = Account::default().user();
        for name in names() {
            let change = |change: &dyn Fn(&mut Kept)| {
                let mut kept = shipped(&[Account::default()]);
                change(kept.get_mut(&name).unwrap());
                let told = told(&kept, &user).unwrap_or_default();
                assert!(told.contains(&name), "{name}: {told}");
            };
            change(&|kept| kept.policy = None);
            change(&|kept| kept.binding = None);
            change(&|kept| spec(kept).failure_policy = Some("Ignore".to_owned()));
            change(&|kept| spec(kept).match_conditions.as_mut().unwrap()[0].expression = "false".to_owned());
            change(&|kept| {
                let last = spec(kept).validations.as_mut().unwrap().last_mut().unwrap();
                last.expression = "true".to_owned();
            });
            change(&|kept| {
                let rules = spec(kept).match_constraints.as_mut().unwrap().resource_rules.as_mut().unwrap();
                rules.remove(0);
            });
            change(&|kept| {
                let bound = kept.binding.as_mut().unwrap().spec.as_mut().unwrap();
                bound.validation_actions = Some(vec!["Audit".to_owned()]);
            });
        }
    }
}
