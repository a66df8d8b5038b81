//! Without the admission policies the controller makes nothing new, says so, and goes on when they are back.

use std::{sync::Arc, time::Duration};

use credential_operator::{
    admission,
    api::{ApiToken, Credential, CredentialState},
};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        events::v1::Event,
        rbac::v1::RoleBinding,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    Admission,
    case::{Act, Kind, Who, credential, named, object, token},
    clean_up,
};
use crate::support::{DEADLINE, OPERATOR_NAMESPACE, Space, SystemClock, World, condition, install_crd};

crate::tests![
    nothing_new_is_made_without_the_policies,
    policies_that_are_labelled_otherwise_are_missed_all_the_same,
    what_was_stored_before_a_rule_can_be_mended,
];

/// What somebody does to the policies, and what is said of it.
async fn break_it(installed: &Admission, how: &str) -> &'static str {
    let name = "issue.credential-operator.io";
    let policies = installed.api::<ValidatingAdmissionPolicy>();
    let bindings = installed.api::<ValidatingAdmissionPolicyBinding>();
    // As the policies were applied, or there would be two who own what they say.
    let params = PatchParams::apply("tests").force();
    let mut policy = installed.policies.iter().find(|policy| policy.name_any() == name).unwrap().clone();
    match how {
        "the binding deleted" => {
            bindings.delete(name, &DeleteParams::default()).await.unwrap();
            "ValidatingAdmissionPolicy issue.credential-operator.io is not bound"
        }
        "the policy deleted" => {
            policies.delete(name, &DeleteParams::default()).await.unwrap();
            "ValidatingAdmissionPolicy issue.credential-operator.io is missing"
        }
        "the binding only audits" => {
            let mut binding = admission::binding(&policy);
            binding.spec.as_mut().unwrap().validation_actions = Some(vec!["Audit".to_owned()]);
            bindings.patch(name, &params, &Patch::Apply(&binding)).await.unwrap();
            "ValidatingAdmissionPolicy issue.credential-operator.io is not bound as it was shipped"
        }
        "the policy allows all" => {
            let validations = policy.spec.as_mut().unwrap().validations.as_mut().unwrap();
            "true".clone_into(&mut validations.last_mut().unwrap().expression);
            policies.patch(name, &params, &Patch::Apply(&policy)).await.unwrap();
            "ValidatingAdmissionPolicy issue.credential-operator.io is not as it was shipped with this version"
        }
        other => panic!("{other}"),
    }
}

async fn nothing_new_is_made_without_the_policies(world: Arc<World>, space: Space) {
    let admission = Admission::start(&world).await;
    let operator = world.guarded_operator(SystemClock::shared()).await;
    let granted = "{type: ClientSecret, roles: [{kind: ClusterRole, name: view}]}";
    space.apply(&(credential(granted) + &token("expiresIn: 1h"))).await;
    space.published("c", 0).await;
    let first = space.token("t", credential_operator::api::ApiTokenState::Active).await;
    let value = space.value("t-token").await;
    let ways =
        ["the binding deleted", "the policy deleted", "the binding only audits", "the policy allows all"];
    for (number, how) in ways.into_iter().enumerate() {
        let said = break_it(&admission, how).await;
        // One that asks for nothing that is there already learns of it; until then it may be made.
        let until_known = async {
            for attempt in 0.. {
                let name = format!("probe-{number}-{attempt}");
                space
                    .apply(&object(
                        "ApiToken",
                        &format!("{{name: {name}}}"),
                        "{credentialRef: {name: c}, expiresIn: 1h}",
                    ))
                    .await;
                let probed = space.until::<ApiToken>(&name, |token| {
                    token.is_some_and(|token| !condition(token, "Ready").1.is_empty())
                });
                if condition(&probed.await.unwrap(), "Ready").1 == "AdmissionMissing" {
                    return name;
                }
            }
            unreachable!()
        };
        let probe = tokio::time::timeout(crate::support::DEADLINE, until_known).await.expect(how);
        let new = format!("new-{number}");
        space.apply(&named(&new, granted)).await;
        let refused = space.until::<Credential>(&new, |found| {
            found.is_some_and(|found| condition(found, "Ready").1 == "AdmissionMissing")
        });
        let message = condition(&refused.await.unwrap(), "Ready").2;
        // A dry run may show it before the watch does.
        let shown = "ValidatingAdmissionPolicy issue.credential-operator.io is not in force";
        assert!(message.starts_with(said) || message.starts_with(shown), "{how}: {message}");
        assert!(message.ends_with(
                "crds --controller-account credential-operator:credential-operator | kubectl apply --server-side -f -"
            ), "{message}");
        assert_eq!(bindings(&space).await, 1 + number, "{how}");
        // What there was stays as it was.
        assert_eq!(space.value("t-token").await, value);
        let kept = space.api::<ApiToken>().get("t").await.unwrap();
        assert_eq!(json!(kept.status), json!(first.status), "{how}");

        admission.apply().await;
        space.published(&new, 0).await;
        space.token(&probe, credential_operator::api::ApiTokenState::Active).await;
        assert_eq!(bindings(&space).await, 2 + number, "{how}");
    }
    // The times after the first are told as its repetitions.
    let events: Api<Event> = Api::namespaced(space.client.clone(), OPERATOR_NAMESPACE);
    let told = events.list(&ListParams::default()).await.unwrap();
    let mut told = told.items.iter().filter(|event| event.reason.as_deref() == Some("AdmissionMissing"));
    assert!(
        told.any(|event| event
            .note
            .as_ref()
            .is_some_and(|note| note.contains("issue.credential-operator.io")))
    );

    operator.stop().await;
    admission.stop().await;
    clean_up(&space).await;
}

async fn bindings(space: &Space) -> usize {
    space.api::<RoleBinding>().list_metadata(&ListParams::default()).await.unwrap().items.len()
}

async fn policies_that_are_labelled_otherwise_are_missed_all_the_same(world: Arc<World>, space: Space) {
    let admission = Admission::start(&world).await;
    // As kustomize's labels, or a GitOps tool, have them.
    let labelled = Patch::Merge(json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "platform"}}}));
    for policy in &admission.policies {
        let (name, params) = (policy.name_any(), PatchParams::default());
        admission.api::<ValidatingAdmissionPolicy>().patch(&name, &params, &labelled).await.unwrap();
        admission.api::<ValidatingAdmissionPolicyBinding>().patch(&name, &params, &labelled).await.unwrap();
    }
    let operator = world.guarded_operator(SystemClock::shared()).await;
    let view = "{roles: [{kind: ClusterRole, name: view}]}";
    space.apply(&named("before", view)).await;
    space.credential("before", CredentialState::Active).await;
    let bindings_there = bindings(&space).await;
    let taken = admission.api::<ValidatingAdmissionPolicyBinding>();
    taken.delete("grants-1.credential-operator.io", &DeleteParams::default()).await.unwrap();
    let unguarded = async || {
        let events: Api<Event> = Api::namespaced(world.admin.clone(), OPERATOR_NAMESPACE);
        let events = events.list(&ListParams::default()).await.unwrap();
        events.iter().any(|event| {
            event
                .note
                .as_ref()
                .is_some_and(|note| note.contains("grants-1.credential-operator.io is not bound"))
        })
    };
    let deadline = Instant::now() + DEADLINE;
    while !unguarded().await {
        assert!(Instant::now() < deadline, "nobody missed it");
        sleep(Duration::from_millis(50)).await;
    }
    space.apply(&named("after", view)).await;
    let waits = |found: Option<&Credential>| {
        found.is_some_and(|found| condition(found, "Ready").1 == "AdmissionMissing")
    };
    space.until::<Credential>("after", waits).await;
    assert_eq!(bindings(&space).await, bindings_there);
    operator.stop().await;
    admission.apply().await;
    admission.stop().await;
    clean_up(&space).await;
}

/// The CRD without a rule, and with lists that may be anything.
fn before_all_rules(crd: &CustomResourceDefinition) -> CustomResourceDefinition {
    fn loosen(schema: &mut serde_json::Value) {
        if let Some(fields) = schema.as_object_mut() {
            fields.remove("x-kubernetes-validations");
            fields.values_mut().for_each(loosen);
        } else if let Some(items) = schema.as_array_mut() {
            items.iter_mut().for_each(loosen);
        }
    }
    let mut older = json!(crd);
    loosen(&mut older);
    let spec = &mut older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    for property in ["scopes", "roles", "audiences"] {
        spec["properties"][property] = json!({"x-kubernetes-preserve-unknown-fields": true});
    }
    serde_json::from_value(older).unwrap()
}

async fn what_was_stored_before_a_rule_can_be_mended(world: Arc<World>, space: Space) {
    let [credentials, _, policies] = <[_; 3]>::try_from(credential_operator::api::crds()).unwrap();
    for crd in [&credentials, &policies] {
        install_crd(&world.admin, &before_all_rules(crd)).await;
    }
    let odd = [("scopes", "orders:read"), ("roles", "view"), ("audiences", "orders")];
    // The API server goes by the definition before for a moment.
    let deadline = Instant::now() + DEADLINE;
    for (field, text) in odd {
        let created = Act::Create(named(field, &format!("{{{field}: {text}}}")));
        while let Err(error) = created.run(&world.admin, &space).await {
            assert!(Instant::now() < deadline, "{field}: {error}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    let without_values = "{matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn}]}";
    let policy = format!(
        "{{namespaceSelector: {without_values}, types: [Token], roles: [{{kind: ClusterRole, name: '*'}}]}}"
    );
    let policy = object("CredentialPolicy", &format!("{{name: {}}}", space.namespace), &policy);
    while let Err(error) = Act::Create(policy.clone()).run(&world.admin, &space).await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
    for crd in [&credentials, &policies] {
        install_crd(&world.admin, crd).await;
    }
    let admission = Admission::start(&world).await;
    let admin = Who::Admin.person(&world, &space).await;
    for (field, mended) in [
        ("scopes", json!(["orders:read"])),
        ("roles", json!([{"kind": "ClusterRole", "name": "view"}])),
        ("audiences", json!(["orders"])),
    ] {
        let mend = Act::Merge(Kind::Credential, field, json!({"spec": {field: mended}}));
        mend.run(&admin.client, &space).await.unwrap_or_else(|error| panic!("{field}: {error}"));
    }
    admission.stop().await;
    clean_up(&space).await;
}
