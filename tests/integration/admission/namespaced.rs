//! Operators that work in some namespaces alone, by the Roles of deploy/namespaced/rights.yaml, beside one another.

use std::{sync::Arc, time::Duration};

use credential_operator::{
    admission::Account,
    api::{ApiToken, ApiTokenState, Credential, CredentialState},
    domain::reach::Reach,
    verifier::Source,
};
use jiff::SignedDuration;
use k8s_openapi::api::{
    core::v1::{Namespace, Secret},
    rbac::v1::RoleBinding,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    Admission,
    case::{credential, named, token},
    clean_up,
};
use crate::{
    support::{DEADLINE, KEYRING, Operator, Space, SystemClock, World, apply, condition, documents},
    verifier::Asked,
};

crate::tests![each_keeps_to_its_namespaces, what_is_bound_out_of_reach_holds_its_credential];

/// An operator of its own.
struct Install {
    account: Account,
    home: String,
    watched: Vec<String>,
    clock: Arc<SystemClock>,
}

impl Install {
    async fn deploy(world: &World, spaces: &[&Space]) -> Self {
        let watched: Vec<_> = spaces.iter().map(|space| space.namespace.clone()).collect();
        let home = format!("credential-operator-{}", watched[0]);
        for namespace in &watched {
            // As it says itself: one more namespace has its own Roles, and the rest stays.
            let yaml = [
                include_str!("../../../deploy/namespaced/namespace.yaml"),
                include_str!("../../../deploy/namespaced/rights.yaml"),
            ];
            let yaml = yaml
                .join("---\n")
                .replace("credential-operator-orders", &home)
                .replace("namespace: orders", &format!("namespace: {namespace}"));
            for document in documents(&yaml) {
                apply(&world.admin, "", document).await.unwrap();
            }
        }
        let account = format!("{home}:credential-operator").parse().unwrap();
        Self { account, home, watched, clock: SystemClock::shared() }
    }

    fn reach(&self) -> Reach {
        Reach::within(self.watched.iter().cloned())
    }

    async fn start(&self, world: &World) -> Operator {
        self.start_within(world, self.reach()).await
    }

    async fn start_within(&self, world: &World, reach: Reach) -> Operator {
        world.operator_within(&self.home, reach, self.clock.clone()).await
    }

    async fn verifier(&self, world: &World) -> Asked {
        let account = world.control_plane.service_account(&self.home, "credential-operator-verifier").await;
        let source = Source {
            namespace: self.home.clone(),
            keyring_secret: KEYRING.to_owned(),
            reach: self.reach(),
            max_staleness: Duration::from_secs(30),
        };
        Asked::of(account.unwrap().client().unwrap(), self.clock.clone(), source).await
    }

    /// What the API server wrote down of its requests that are none of its business.
    fn strayed(&self, world: &World) -> Vec<String> {
        let users = ["credential-operator", "credential-operator-verifier"]
            .map(|name| format!("system:serviceaccount:{}:{name}", self.home));
        let log = world.control_plane.audit_log().unwrap();
        let of_it: Vec<_> = log.iter().filter(|event| users.contains(&event.user.username)).collect();
        assert!(of_it.len() > 20, "{} requests", of_it.len());
        let strayed = of_it.into_iter().filter(|event| {
            let object = event.object_ref.clone().unwrap_or_default();
            let (verb, resource) = (event.verb.as_str(), object.resource.as_str());
            let canary = verb == "create" && resource == "credentials" && object.namespace == self.home;
            let refused = event.response_status.as_ref().is_some_and(|status| status.code == 403);
            let within = object.namespace == self.home || self.watched.contains(&object.namespace);
            let read = ["get", "list", "watch"].contains(&verb)
                && [
                    "credentialpolicies",
                    "customresourcedefinitions",
                    "namespaces",
                    "validatingadmissionpolicies",
                    "validatingadmissionpolicybindings",
                ]
                .contains(&resource);
            let of_cluster = object.namespace.is_empty() || resource == "namespaces";
            let itself = verb == "create" && resource == "selfsubjectreviews";
            (refused && !canary) || !(within || of_cluster && (read || itself))
        });
        strayed.map(|event| format!("{} {}", event.verb, event.request_uri)).collect()
    }
}

/// Issued, bound, and accepted by that verifier.
async fn works(space: &Space, verifier: &Asked) -> String {
    let spec = "{type: ClientSecret, roles: [{kind: ClusterRole, name: view}]}";
    space.apply(&(credential(spec) + &token("expiresIn: 1h"))).await;
    space.published("c", 0).await;
    space.token("t", ApiTokenState::Active).await;
    assert_eq!(space.api::<RoleBinding>().list(&ListParams::default()).await.unwrap().items.len(), 3);
    let value = space.value("t-token").await;
    verifier.until("", &value, 200).await;
    value
}

fn grant(name: &str, grant: &str) -> String {
    named(name, &format!("{{roles: [{{kind: ClusterRole, name: view, {grant}}}]}}"))
}

async fn each_keeps_to_its_namespaces(world: Arc<World>, one: Space) {
    let [two, other, nobodys] =
        [world.space("two").await, world.space("other").await, world.space("nobodys").await];
    let mine = Install::deploy(&world, &[&one, &two]).await;
    let theirs = Install::deploy(&world, &[&other]).await;
    let admission = Admission::of(&world, &[mine.account.clone(), theirs.account.clone()]).await;
    let operators = [mine.start(&world).await, theirs.start(&world).await];
    let verifiers = [mine.verifier(&world).await, theirs.verifier(&world).await];

    nobodys.apply(&(credential("{}") + &token("expiresIn: 1h"))).await;
    let first = works(&one, &verifiers[0]).await;
    works(&two, &verifiers[0]).await;
    let foreign = works(&other, &verifiers[1]).await;
    // Each has a keyring of its own.
    assert_eq!((verifiers[0].bearer("", &foreign).await, verifiers[1].bearer("", &first).await), (401, 401));

    // Within its namespaces roles may reach from one to another; nowhere else, whatever policies allow.
    one.apply(&grant("across", &format!("namespace: {}", two.namespace))).await;
    one.credential("across", CredentialState::Active).await;
    for (name, target, told) in [
        ("elsewhere", format!("namespace: {}", other.namespace), format!("namespace {}", other.namespace)),
        ("everywhere", "clusterWide: true".to_owned(), "the whole cluster".to_owned()),
    ] {
        one.apply(&grant(name, &target)).await;
        let refused = one.credential(name, CredentialState::Failed).await;
        let (ready, reason, message) = condition(&refused, "Ready");
        assert_eq!((ready, reason.as_str()), (false, "PolicyViolation"));
        let mut names = [one.namespace.as_str(), &two.namespace];
        names.sort_unstable();
        let expected = format!(
            "this operator works in namespaces {} alone, so it cannot grant ClusterRole view in {told};",
            names.join(", ")
        );
        assert!(message.starts_with(&expected), "{message}");
        one.patch::<Credential>(name, json!({"spec": {"roles": []}})).await.unwrap();
        one.credential(name, CredentialState::Active).await;
        one.apply(&grant(name, &target)).await;
        one.credential(name, CredentialState::Failed).await;
    }
    for name in ["across", "elsewhere", "everywhere"] {
        one.api::<Credential>().delete(name, &DeleteParams::default()).await.unwrap();
        one.until::<Credential>(name, |found| found.is_none()).await;
    }

    mine.clock.step(SignedDuration::from_hours(2));
    for space in [&one, &two] {
        space.token("t", ApiTokenState::Expired).await;
        space.until::<Secret>("t-token", |secret| secret.is_none()).await;
    }
    // The other operator's clock says otherwise.
    assert_eq!(other.value("t-token").await, foreign);
    other.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    other.token("t", ApiTokenState::Revoked).await;
    // By this whoever waits, as Helm and Flux do, tells what nobody has answered from what is done.
    let unanswered = json!({"observedGeneration": -1});
    assert_eq!(json!(nobodys.api::<Credential>().get("c").await.unwrap().status), unanswered);
    assert_eq!(json!(nobodys.api::<ApiToken>().get("t").await.unwrap().status), unanswered);

    for verifier in verifiers {
        verifier.stop().await;
    }
    for operator in operators {
        operator.stop().await;
    }
    for install in [&mine, &theirs] {
        let strayed = install.strayed(&world);
        assert!(strayed.is_empty(), "{strayed:#?}");
    }
    admission.stop().await;
    for space in [one, two, other, nobodys] {
        clean_up(&space).await;
    }
}

async fn what_is_bound_out_of_reach_holds_its_credential(world: Arc<World>, one: Space) {
    let [two, gone] = [world.space("two").await, world.space("gone").await];
    let mine = Install::deploy(&world, &[&one, &two, &gone]).await;
    let admission = Admission::of(&world, std::slice::from_ref(&mine.account)).await;
    let operator = mine.start(&world).await;
    let names = ["kept", "emptied", "deleted"];
    for name in names {
        one.apply(&grant(name, &format!("namespace: {}", two.namespace))).await;
        let active = one.credential(name, CredentialState::Active).await;
        assert_eq!(active.status.unwrap().bound_in, std::slice::from_ref(&two.namespace));
    }
    let bound = async || {
        let bindings = two.api::<RoleBinding>().list_metadata(&ListParams::default()).await.unwrap().items;
        bindings.into_iter().filter(|binding| binding.name_any().contains("-credential")).count()
    };
    let before = bound().await;
    one.apply(&grant("went", &format!("namespace: {}", gone.namespace))).await;
    one.credential("went", CredentialState::Active).await;
    operator.stop().await;
    let namespaces: Api<Namespace> = Api::all(world.admin.clone());
    namespaces.delete(&gone.namespace, &DeleteParams::default()).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while namespaces.get_metadata_opt(&gone.namespace).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "the namespace stays");
        sleep(Duration::from_millis(100)).await;
    }

    let narrow = mine.start_within(&world, Reach::within([one.namespace.clone()])).await;
    let waits = async |name: &str| {
        let waits = |found: Option<&Credential>| {
            found.is_some_and(|found| condition(found, "Ready").1 == "RoleNotBindable")
        };
        let found = one.until::<Credential>(name, waits).await.unwrap();
        let message = condition(&found, "Ready").2;
        let expected =
            format!("roles of it stand bound in namespace {}, where this operator does not", two.namespace);
        assert!(message.starts_with(&expected), "{name}: {message}");
        assert_eq!(found.status.unwrap().bound_in, std::slice::from_ref(&two.namespace), "{name}");
    };
    waits("kept").await;
    one.patch::<Credential>("emptied", json!({"spec": {"roles": []}})).await.unwrap();
    one.api::<Credential>().delete("deleted", &DeleteParams::default()).await.unwrap();
    for name in names {
        waits(name).await;
        assert!(one.api::<Credential>().get(name).await.unwrap().finalizers().len() == 1, "{name}");
    }
    assert_eq!(bound().await, before);
    // What was in a namespace that is gone went with it.
    one.api::<Credential>().delete("went", &DeleteParams::default()).await.unwrap();
    one.until::<Credential>("went", |found| found.is_none()).await;
    narrow.stop().await;
    // It works in that namespace no more.
    let mine = Install { watched: vec![one.namespace.clone(), two.namespace.clone()], ..mine };

    let operator = mine.start(&world).await;
    one.until::<Credential>("deleted", |found| found.is_none()).await;
    let emptied = one.credential("emptied", CredentialState::Active).await;
    assert!(emptied.finalizers().is_empty() && emptied.status.unwrap().bound_in.is_empty());
    one.credential("kept", CredentialState::Active).await;
    assert_eq!(bound().await, before - 2);
    operator.stop().await;
    admission.stop().await;
    for space in [one, two] {
        clean_up(&space).await;
    }
}
