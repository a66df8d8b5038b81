//! What goes on where the policies are in force: the operator, garbage collection, namespaces that go, kubectl.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use credential_operator::api::{ApiToken, ApiTokenState, Credential, CredentialState};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::{ConfigMap, Namespace, Secret, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PropagationPolicy},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Admission,
    case::{EDITOR, credential, named, object, policy, token},
    clean_up,
};
use crate::support::{
    DEADLINE, KEYRING, OPERATOR_NAMESPACE, Space, SystemClock, World, apply, condition, documents,
};

crate::tests![
    what_is_kept_is_what_was_applied,
    nothing_costs_too_much,
    the_operator_works,
    minted_token_ends_whatever_owns_its_secret,
    kubeconfig_ends_whatever_owns_its_secret,
    a_role_that_the_controller_only_has_is_not_bindable,
    orphans_go_and_the_keyring_is_rotated,
    garbage_is_collected,
    a_namespace_goes_with_what_is_protected_in_it,
    kubectl_tells_what_is_missing,
];

async fn what_is_kept_is_what_was_applied(world: Arc<World>, _: Space) {
    let admission = Admission::start(&world).await;
    for policy in &admission.policies {
        let kept = admission.api::<ValidatingAdmissionPolicy>().get(&policy.name_any()).await.unwrap();
        assert_eq!(json!(kept.spec), json!(policy.spec));
        let binding =
            admission.api::<ValidatingAdmissionPolicyBinding>().get(&policy.name_any()).await.unwrap();
        assert_eq!(json!(binding.spec), json!(credential_operator::admission::binding(policy).spec));
        // The controller manager looks for fields that the schemas do not have.
        let checked = until_checked(&admission, &policy.name_any()).await;
        assert_eq!(checked, json!({}), "{}", policy.name_any());
    }
    admission.stop().await;
}

async fn until_checked(admission: &Admission, name: &str) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let kept = admission.api::<ValidatingAdmissionPolicy>().get(name).await.unwrap();
        let status = kept.status.unwrap_or_default();
        if status.observed_generation == kept.metadata.generation {
            return json!(status.type_checking.unwrap_or_default());
        }
        assert!(Instant::now() < deadline, "{name} is not checked");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// The API server bounds what an expression may cost: the largest credential under the largest policy stays within that.
async fn nothing_costs_too_much(world: Arc<World>, space: Space) {
    let admission = Admission::start(&world).await;
    // What is allowed is found last, after all that looks like it as long as can be.
    let alike = |number: usize, length: usize| format!("{number:03}:{:x<length$}", "");
    let wanted = |length: usize| format!("all:{:x<length$}", "");
    let texts = |count: usize, length: usize| -> Vec<_> {
        (0..count).map(|number| format!("{}{number:03}", wanted(length))).collect()
    };
    let patterns = |length: usize| -> Vec<_> {
        let others = (0..63).map(|number| alike(number, length) + "*");
        others.chain([wanted(length) + "*"]).collect()
    };
    let namespaces: Vec<_> = (0..64).map(|number| format!("{number:03}-{:n<59}", "")).collect();
    let target = |number: usize| format!("target-{number:02}-{:t<50}", "");
    let role = |number: usize| format!("role-{number:02}-{:r<240}", "");
    let grants: Vec<_> = (0..16)
        .map(|number| json!({"kind": "ClusterRole", "name": role(number), "namespace": target(number)}))
        .collect();
    let others = (0..48).map(|_| json!({"kind": "ClusterRole", "name": "role-*", "namespaces": namespaces}));
    let entries: Vec<_> = others
        .chain((0..16).map(
            |number| json!({"kind": "ClusterRole", "name": role(number), "namespaces": [target(number)]}),
        ))
        .collect();
    let labels: serde_json::Map<_, _> =
        (0..15).map(|number| (format!("label-{number}"), json!("v"))).collect();
    let mut selector = labels.clone();
    selector.insert("kubernetes.io/metadata.name".to_owned(), json!(space.namespace));
    let expressions: Vec<_> = (0..16)
        .map(|number| json!({"key": format!("label-{}", number % 15), "operator": "NotIn", "values": namespaces}))
        .collect();
    let policy = json!({
        "apiVersion": "credential-operator.io/v1alpha1",
        "kind": "CredentialPolicy",
        "metadata": {"name": space.namespace},
        "spec": {
            "namespaceSelector": {"matchLabels": selector, "matchExpressions": expressions},
            "roles": entries,
            "scopes": patterns(240),
            "audiences": patterns(490),
        },
    });
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space.namespace, "labels": labels},
    });
    apply(&space.client, "", namespace).await.unwrap();
    apply(&space.client, "", policy).await.unwrap();
    let mut largest: Value = documents(&credential("{}")).remove(0);
    largest["spec"] = json!({"roles": grants, "scopes": texts(64, 240), "audiences": texts(16, 490)});
    let mut refused = largest.clone();
    refused["spec"]["scopes"][63] = json!("of-nobody");
    let deadline = Instant::now() + DEADLINE;
    let create = async |object: &Value| {
        let object = serde_json::from_value(object.clone()).unwrap();
        let dry_run = kube::api::PostParams { dry_run: true, ..Default::default() };
        space.api::<Credential>().create(&dry_run, &object).await
    };
    // Admission may not know the policy yet.
    loop {
        match create(&refused).await {
            Err(kube::Error::Api(status)) => {
                assert!(status.message.contains("does not allow the scope of-nobody"), "{}", status.message);
                break;
            }
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
    create(&largest).await.unwrap();
    admission.stop().await;
    clean_up(&space).await;
}

async fn the_operator_works(world: Arc<World>, space: Space) {
    let admission = Admission::start(&world).await;
    let operator = world.operator(SystemClock::shared()).await;
    let other = format!("{}-other", space.namespace);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}});
    apply(&space.client, "", namespace).await.unwrap();
    let spec = "{type: ClientSecret, roles: [{kind: ClusterRole, name: view}, \
                {kind: ClusterRole, name: view, namespace: OTHER}, {kind: ClusterRole, name: view, clusterWide: true}]}";
    space.apply(&(credential(&spec.replace("OTHER", &other)) + &token("expiresIn: 1h"))).await;
    space.published("c", 0).await;
    space.token("t", ApiTokenState::Active).await;
    assert_eq!(space.api::<RoleBinding>().list(&ListParams::default()).await.unwrap().items.len(), 1);
    // Switched off while a policy allows nothing of it, and on again without.
    space.apply(&policy("types: []").replace("$ns", &space.namespace)).await;
    space.credential("c", CredentialState::Failed).await;
    space.patch::<Credential>("c", json!({"spec": {"state": "Inactive"}})).await.unwrap();
    space.token("t", ApiTokenState::Suspended).await;
    let policies: Api<credential_operator::api::CredentialPolicy> = Api::all(space.client.clone());
    policies.delete(&space.namespace, &DeleteParams::default()).await.unwrap();
    space.credential("c", CredentialState::Inactive).await;
    space.patch::<Credential>("c", json!({"spec": {"state": "Active"}})).await.unwrap();
    space.token("t", ApiTokenState::Active).await;
    let rotate = json!({"metadata": {"annotations": {"credential-operator.io/rotate-requested-at": "now"}}});
    space.patch::<Credential>("c", rotate).await.unwrap();
    space.published("c", 1).await;
    // Its finalizer is taken away by the operator, and its token deleted.
    space.api::<Credential>().delete("c", &DeleteParams::default()).await.unwrap();
    space.until::<Credential>("c", |credential| credential.is_none()).await;
    space.until::<ApiToken>("t", |token| token.is_none()).await;
    space.until::<Secret>("c-credential", |secret| secret.is_none()).await;
    operator.stop().await;
    admission.stop().await;
}

/// Each way to end a token that the API server accepts by itself, and each change of its Secret that is still allowed.
async fn minted_token_ends_whatever_owns_its_secret(world: Arc<World>, space: Space) {
    let admission = Admission::start(&world).await;
    let operator = world.guarded_operator(SystemClock::shared()).await;
    space.apply(&credential("{}")).await;
    let other = apply(
        &space.client,
        &space.namespace,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}}),
    );
    let other = other.await.unwrap().uid().unwrap();
    let token = |name: &str, secret: &str| {
        let spec = "{credentialRef: {name: c}, type: ServiceAccount, expiresIn: 1h";
        object("ApiToken", &format!("{{name: {name}}}"), &format!("{spec}, secret: {{name: {secret}}}}}"))
    };
    space.apply(&token("living", "living")).await;
    let living = space.token("living", ApiTokenState::Active).await.uid().unwrap();
    let owner = |api: &str, kind: &str, name: &str, uid: &str| json!([{"apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": true}]);
    let owners = [
        json!(null),
        owner("v1", "ConfigMap", "other", &other),
        owner("credential-operator.io/v1alpha1", "ApiToken", "living", &living),
    ];
    for (number, owners) in owners.into_iter().enumerate() {
        for end in ["revoked", "deleted", "recreated"] {
            let name = format!("{end}-{number}");
            space.apply(&token(&name, &name)).await;
            let issued = space.token(&name, ApiTokenState::Active).await;
            let uid = issued.status.unwrap().secret.unwrap().uid;
            let held = operator.hold().await;
            let patch = json!({"metadata": {"ownerReferences": owners, "finalizers": ["example.com/keep"]}});
            space.patch::<Secret>(&name, patch).await.unwrap();
            if end == "revoked" {
                space.patch::<ApiToken>(&name, json!({"spec": {"revoked": true}})).await.unwrap();
            } else {
                space.api::<ApiToken>().delete(&name, &DeleteParams::default()).await.unwrap();
            }
            if end == "recreated" {
                space.apply(&token(&name, &format!("{name}-later"))).await;
            }
            drop(held);
            space
                .until::<Secret>(&name, |secret| {
                    secret.is_none_or(|secret| secret.uid() != Some(uid.clone()))
                })
                .await;
        }
    }
    assert!(space.api::<Secret>().get_opt("living").await.unwrap().is_some());
    operator.stop().await;
    admission.stop().await;
    clean_up(&space).await;
}

/// The same for kubeconfigs.
async fn kubeconfig_ends_whatever_owns_its_secret(world: Arc<World>, space: Space) {
    let admission = Admission::start(&world).await;
    let operator = world.guarded_operator(SystemClock::shared()).await;
    let spec = format!("{{type: Kubeconfig, kubeconfig: {{server: '{}'}}}}", world.control_plane.server());
    for end in ["inactive", "deleted", "expired", "renamed"] {
        space.apply(&object("Credential", &format!("{{name: {end}}}"), &spec)).await;
        space.published(end, 0).await;
        let held = operator.hold().await;
        let secret = format!("{end}-credential");
        let patch = json!({"metadata": {"ownerReferences": null, "finalizers": ["example.com/keep"]}});
        space.patch::<Secret>(&secret, patch).await.unwrap();
        let patch = match end {
            "inactive" => json!({"state": "Inactive"}),
            "expired" => json!({"expiresAt": "2021-01-01T00:00:00Z"}),
            _ => json!({"secret": {"name": "later"}}),
        };
        if end == "deleted" {
            space.api::<Credential>().delete(end, &DeleteParams::default()).await.unwrap();
        } else {
            space.patch::<Credential>(end, json!({ "spec": patch })).await.unwrap();
        }
        drop(held);
        space.until::<Secret>(&secret, |secret| secret.is_none()).await;
    }
    operator.stop().await;
    admission.stop().await;
    clean_up(&space).await;
}

/// RBAC lets the controller bind it, since the controller has its permissions.
async fn a_role_that_the_controller_only_has_is_not_bindable(world: Arc<World>, space: Space) {
    let admission = Admission::start(&world).await;
    let operator = world.guarded_operator(SystemClock::shared()).await;
    space.apply(&credential("{roles: [{kind: ClusterRole, name: credential-operator}]}")).await;
    let failed = space.credential("c", CredentialState::Failed).await;
    let (ready, reason, message) = condition(&failed, "Ready");
    assert_eq!((ready, reason.as_str()), (false, "RoleNotBindable"));
    assert!(message.contains("Grant the controller the verb bind on it"), "{message}");
    operator.stop().await;
    admission.stop().await;
    clean_up(&space).await;
}

async fn orphans_go_and_the_keyring_is_rotated(world: Arc<World>, space: Space) {
    let admission = Admission::start(&world).await;
    let operator = world.guarded_operator(SystemClock::shared()).await;
    space.apply(&credential("{type: ClientSecret, roles: [{kind: ClusterRole, name: view}]}")).await;
    space.published("c", 0).await;
    let params =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    space.api::<Credential>().delete("c", &params).await.unwrap();
    space.until::<Secret>("c-credential", |found| found.is_none()).await;
    space.until::<ServiceAccount>("c-credential", |found| found.is_none()).await;
    let home = Space { client: space.client.clone(), namespace: OPERATOR_NAMESPACE.to_owned() };
    let asked =
        json!({"metadata": {"annotations": {"credential-operator.io/rotate-requested-at": space.namespace}}});
    home.patch::<Secret>(KEYRING, asked).await.unwrap();
    let answered = |found: Option<&Secret>| {
        found.is_some_and(|found| {
            found.annotations().get("credential-operator.io/rotate-answered") == Some(&space.namespace)
        })
    };
    home.until::<Secret>(KEYRING, answered).await;
    operator.stop().await;
    admission.stop().await;
    clean_up(&space).await;
}

async fn garbage_is_collected(world: Arc<World>, space: Space) {
    let owner = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let modes = [PropagationPolicy::Background, PropagationPolicy::Foreground, PropagationPolicy::Orphan];
    for mode in &modes {
        let name = format!("{mode:?}").to_lowercase();
        let owner = apply(&space.client, &space.namespace, owner(&name)).await.unwrap();
        let reference = format!(
            "ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: {name}, uid: {}, blockOwnerDeletion: true}}]",
            owner.uid().unwrap()
        );
        let strong = "{roles: [{kind: ClusterRole, name: cluster-admin}], scopes: [stock]}";
        space.apply(&object("Credential", &format!("{{name: {name}, {reference}}}"), strong)).await;
        let spec = format!("{{credentialRef: {{name: {name}}}, expiresIn: 1h}}");
        space.apply(&object("ApiToken", &format!("{{name: {name}, {reference}}}"), &spec)).await;
    }
    let admission = Admission::start(&world).await;
    space.apply(&policy("types: [], scopes: [], roles: []").replace("$ns", &space.namespace)).await;
    for mode in modes {
        let name = format!("{mode:?}").to_lowercase();
        let orphans = matches!(mode, PropagationPolicy::Orphan);
        let params = DeleteParams { propagation_policy: Some(mode), ..DeleteParams::default() };
        space.api::<ConfigMap>().delete(&name, &params).await.unwrap();
        let gone_or_free = |owners: Option<usize>| if orphans { owners == Some(0) } else { owners.is_none() };
        space
            .until::<Credential>(&name, |found| {
                gone_or_free(found.map(|found| found.owner_references().len()))
            })
            .await;
        space
            .until::<ApiToken>(&name, |found| gone_or_free(found.map(|found| found.owner_references().len())))
            .await;
        space.until::<ConfigMap>(&name, |found| found.is_none()).await;
    }
    admission.stop().await;
    clean_up(&space).await;
}

async fn a_namespace_goes_with_what_is_protected_in_it(world: Arc<World>, _: Space) {
    let admission = Admission::start(&world).await;
    let space = world.space("gone").await;
    space.apply(&(credential("{deletionProtection: true}") + &token("expiresIn: 1h"))).await;
    let namespaces: Api<Namespace> = Api::all(space.client.clone());
    space.api::<Credential>().delete("c", &DeleteParams::default()).await.unwrap_err();
    namespaces.delete(&space.namespace, &DeleteParams::default()).await.unwrap();
    let gone =
        kube::runtime::wait::await_condition(namespaces, &space.namespace, |found: Option<&Namespace>| {
            found.is_none()
        });
    tokio::time::timeout(DEADLINE, gone).await.unwrap().unwrap();
    admission.stop().await;
}

async fn kubectl_tells_what_is_missing(world: Arc<World>, space: Space) {
    let admission = Admission::start(&world).await;
    let person = EDITOR.person(&world, &space).await;
    let program = world.control_plane.kubectl().unwrap();
    let kubectl = async |arguments: &[&str], input: &str| {
        run(&program, person.identity.kubeconfig(), &space.namespace, arguments, input).await
    };
    let said = |output: &Output| {
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let strong = credential("{roles: [{kind: ClusterRole, name: view}]}");
    let sent: [&[&str]; 3] =
        [&["apply", "-f", "-"], &["apply", "--server-side", "-f", "-"], &["create", "-f", "-"]];
    for arguments in sent {
        let refused = kubectl(arguments, &strong).await;
        assert!(!refused.status.success());
        let expected = "the right to create rolebindings in namespace";
        assert!(said(&refused).contains(expected), "{arguments:?}: {}", said(&refused));
    }
    let plain = named("c", "{displayName: Test}") + &named("d", "{deletionProtection: true}");
    for arguments in [sent[0], sent[1], &["diff", "-f", "-"]] {
        let done = kubectl(arguments, &plain).await;
        assert!(done.status.success(), "{arguments:?}: {}", said(&done));
    }
    let asked = ["auth", "can-i", "issue", "credentials.credential-operator.io/c"];
    assert_eq!(kubectl(&asked, "").await.stdout, b"no\n");
    let refused = kubectl(&["apply", "-f", "-"], &token("expiresIn: 1h")).await;
    assert!(
        said(&refused).contains("the verb issue on credentials.credential-operator.io/c"),
        "{}",
        said(&refused)
    );
    person.give("issue credentials c").await;
    assert_eq!(kubectl(&asked, "").await.stdout, b"yes\n");
    assert!(kubectl(&["apply", "-f", "-"], &token("expiresIn: 1h")).await.status.success());
    let refused = kubectl(&["delete", "credential", "d", "--wait=false"], "").await;
    let advice = format!(
        "kubectl annotate credential -n {} d credential-operator.io/confirm-delete=d",
        space.namespace
    );
    assert!(said(&refused).contains(&advice), "{}", said(&refused));
    let advised: Vec<_> = advice.split_whitespace().skip(1).collect();
    assert!(kubectl(&advised, "").await.status.success());
    let deleted = kubectl(&["delete", "credential", "d", "--wait=false"], "").await;
    assert!(deleted.status.success(), "{}", said(&deleted));
    admission.stop().await;
    clean_up(&space).await;
}

/// Runs kubectl as somebody.
async fn run(program: &Path, kubeconfig: &Path, namespace: &str, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    command.arg("--kubeconfig").arg(kubeconfig).args(["-n", namespace]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || {
        let mut process = command.spawn().unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        process.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}
