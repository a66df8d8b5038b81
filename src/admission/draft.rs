//! Generates the `ValidatingAdmissionPolicy` objects from drafts.
//!
//! All defaults of the API server are set explicitly, so that the stored object equals the applied one and any difference is
//! a change.

use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchResources, NamedRuleWithOperations, ParamKind, ParamRef, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec,
        ValidatingAdmissionPolicySpec, Validation, Variable,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::Resource;

use super::{canary, full_name};
use crate::api::{CredentialPolicy, GROUP};

/// A draft of an admission policy.
pub(super) struct Draft {
    /// The name, without the group.
    pub(super) name: String,
    /// A description for users who list the policies.
    pub(super) about: &'static str,
    /// The requests that the policy evaluates.
    pub(super) rules: Vec<Rule>,
    /// CEL variables (`variables.<name>`). Each can use only those before it.
    pub(super) variables: Vec<(&'static str, String)>,
    /// The validations.
    pub(super) laws: Vec<Law>,
    /// Which users' requests the policy evaluates, and how often.
    pub(super) scope: Scope,
}

/// Which users' requests a policy evaluates, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The requests of every user.
    Everyone,
    /// The requests of every user, once for each CredentialPolicy, which is `params` in expressions.
    EachPolicy,
    /// The requests of these users, a CEL list of user names. Requests of other users cost one comparison.
    Users(String),
}

/// A rule that matches requests.
pub(super) struct Rule {
    pub(super) group: &'static str,
    pub(super) resources: &'static [&'static str],
    pub(super) operations: &'static [&'static str],
}

impl Rule {
    /// Creates and updates of these resources of the operator's group.
    pub(super) const fn writes(resources: &'static [&'static str]) -> Self {
        Self { group: GROUP, resources, operations: &["CREATE", "UPDATE"] }
    }
}

/// A validation.
pub(super) struct Law {
    /// The CEL expression, which is true for a valid request.
    pub(super) holds: String,
    /// The message for an invalid request.
    pub(super) message: &'static str,
    /// The message expression, which takes precedence. It cannot use the authorizer.
    pub(super) says: String,
}

/// CEL variables of policies on credentials and tokens: the new and the old spec and annotations. `dyn` allows access to
/// fields that are not in the schema, or only in that of one kind.
pub(super) fn before_and_after() -> Vec<(&'static str, String)> {
    let marks = |object: &str| {
        format!("has({object}.metadata.annotations) ? dyn({object}.metadata.annotations) : dyn({{}})")
    };
    vec![
        ("spec", "dyn(object.spec)".to_owned()),
        ("old", "oldObject == null ? dyn({}) : dyn(oldObject.spec)".to_owned()),
        ("marks", marks("object")),
        ("oldMarks", format!("oldObject == null ? dyn({{}}) : ({})", marks("oldObject"))),
        (
            "activated",
            "oldObject != null && has(variables.old.state) && variables.old.state == 'Inactive' && \
             !(has(variables.spec.state) && variables.spec.state == 'Inactive')"
                .to_owned(),
        ),
    ]
}

impl Draft {
    pub(super) fn into_policy(self) -> ValidatingAdmissionPolicy {
        let name = full_name(&self.name);
        let mut rules = self.rules;
        let rule = |rule: Rule| named_rule(rule.group, rule.resources, rule.operations);
        rules.push(canary::rule());
        let refused = canary::refused(&name);
        let mut conditions = vec![canary::exception(&name)];
        if let Scope::Users(users) = &self.scope {
            conditions.push(canary::only_for(users));
        }
        ValidatingAdmissionPolicy {
            metadata: metadata(&name, self.about),
            spec: Some(ValidatingAdmissionPolicySpec {
                failure_policy: Some("Fail".to_owned()),
                match_constraints: Some(MatchResources {
                    match_policy: Some("Equivalent".to_owned()),
                    namespace_selector: Some(LabelSelector::default()),
                    object_selector: Some(LabelSelector::default()),
                    resource_rules: Some(rules.into_iter().map(rule).collect()),
                    exclude_resource_rules: None,
                }),
                match_conditions: Some(conditions),
                param_kind: (self.scope == Scope::EachPolicy).then(|| ParamKind {
                    api_version: Some(CredentialPolicy::api_version(&()).into_owned()),
                    kind: Some(CredentialPolicy::kind(&()).into_owned()),
                }),
                variables: Some(self.variables.into_iter().map(variable).collect())
                    .filter(|all: &Vec<_>| !all.is_empty()),
                validations: Some(std::iter::once(refused).chain(self.laws).map(validation).collect()),
                audit_annotations: None,
            }),
            status: None,
        }
    }
}

pub(super) fn binding(policy: &ValidatingAdmissionPolicy) -> ValidatingAdmissionPolicyBinding {
    let for_each_policy = policy.spec.as_ref().is_some_and(|spec| spec.param_kind.is_some());
    ValidatingAdmissionPolicyBinding {
        metadata: ObjectMeta {
            name: policy.metadata.name.clone(),
            labels: policy.metadata.labels.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ValidatingAdmissionPolicyBindingSpec {
            policy_name: policy.metadata.name.clone(),
            // All of them, each of which must allow; where there is none, nothing is asked.
            param_ref: for_each_policy.then(|| ParamRef {
                selector: Some(LabelSelector::default()),
                parameter_not_found_action: Some("Allow".to_owned()),
                ..ParamRef::default()
            }),
            validation_actions: Some(vec!["Deny".to_owned()]),
            match_resources: None,
        }),
    }
}

fn metadata(name: &str, about: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some([("app.kubernetes.io/part-of".to_owned(), "credential-operator".to_owned())].into()),
        annotations: Some([("kubernetes.io/description".to_owned(), about.to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn named_rule(group: &str, resources: &[&str], operations: &[&str]) -> NamedRuleWithOperations {
    let owned = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
    NamedRuleWithOperations {
        api_groups: owned(&[group]),
        api_versions: owned(&["*"]),
        resources: owned(resources),
        operations: owned(operations),
        scope: Some("*".to_owned()),
        resource_names: None,
    }
}

fn variable((name, expression): (&'static str, String)) -> Variable {
    Variable { name: name.to_owned(), expression }
}

fn validation(law: Law) -> Validation {
    Validation {
        expression: law.holds,
        message: Some(law.message.to_owned()),
        message_expression: Some(law.says),
        // The default is a 422, which reads as if the object made no sense.
        reason: Some("Forbidden".to_owned()),
    }
}
