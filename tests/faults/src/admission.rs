//! The admission policies, in force as in a cluster: but not in the namespaces of runs that are to go wrong without them.

use std::time::Duration;

use credential_operator::{
    admission::{self, Account, CANARY_ANNOTATION},
    api::Credential,
};
use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchResources, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    run::KEYRING,
    space::{DEADLINE, Outcome},
};

/// The label of namespaces without them.
pub const UNGUARDED: &str = "faults/unguarded";

/// Installs them, and waits until they are in force.
///
/// # Errors
/// When they cannot be installed, or are not in force in time.
pub async fn install(client: &Client) -> Outcome {
    let params = PatchParams::apply("tests").force();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let guarded = LabelSelectorRequirement {
        key: UNGUARDED.to_owned(),
        operator: "DoesNotExist".to_owned(),
        values: None,
    };
    let guarded = LabelSelector { match_expressions: Some(vec![guarded]), match_labels: None };
    let mut all = admission::policies(&[Account::default()], KEYRING);
    // The scenarios also remove the marks of Secrets, as users can who delete this policy.
    all.retain(|policy| !policy.name_any().starts_with("managed-secrets."));
    all.iter_mut().for_each(allow_keyrings);
    for policy in &all {
        let name = policy.name_any();
        let mut binding = admission::binding(policy);
        if let Some(spec) = &mut binding.spec {
            let namespaces = Some(guarded.clone());
            spec.match_resources =
                Some(MatchResources { namespace_selector: namespaces, ..MatchResources::default() });
        }
        let applied = policies.patch(&name, &params, &Patch::Apply(policy)).await;
        applied.map_err(|error| error.to_string())?;
        let applied = bindings.patch(&name, &params, &Patch::Apply(&binding)).await;
        applied.map_err(|error| error.to_string())?;
    }
    let deadline = Instant::now() + DEADLINE;
    for policy in &all {
        // Of one that is asked for each CredentialPolicy nothing is asked where there is none.
        let for_each = policy.spec.as_ref().is_some_and(|spec| spec.param_kind.is_some());
        while !for_each && !is_in_force(client, &policy.name_any()).await {
            if Instant::now() >= deadline {
                return Err(format!("{} is not in force", policy.name_any()));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// Each run keeps its keyring in a namespace of its own, and all of them share one account of another namespace.
fn allow_keyrings(policy: &mut ValidatingAdmissionPolicy) {
    let variables = policy.spec.as_mut().and_then(|spec| spec.variables.as_mut());
    for variable in variables.into_iter().flatten().filter(|variable| variable.name == "isKeyring") {
        "has(object.metadata.name) && object.metadata.name == variables.keyring"
            .clone_into(&mut variable.expression);
    }
}

async fn is_in_force(client: &Client, policy: &str) -> bool {
    let canary = serde_json::from_value::<Credential>(json!({
        "apiVersion": "credential-operator.io/v1alpha1",
        "kind": "Credential",
        "metadata": {"name": "canary", "annotations": {CANARY_ANNOTATION: policy}},
        "spec": {"state": "Inactive"},
    }));
    let Ok(canary) = canary else { return false };
    let credentials: Api<Credential> = Api::namespaced(client.clone(), "credential-operator");
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let refused = credentials.create(&dry_run, &canary).await;
    let Err(kube::Error::Api(status)) = refused else { return false };
    status.message.ends_with(&admission::refusal_of_canary(policy))
}
