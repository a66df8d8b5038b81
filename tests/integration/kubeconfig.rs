//! Kubeconfigs: what they open, and what takes them back.

use std::{sync::Arc, time::Duration};

use credential_operator::api::{Credential, CredentialState};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::{DEADLINE, Space, SystemClock, World, condition};

crate::tests![
    a_kubeconfig_opens_the_api_server_until_it_is_taken_back,
    who_asks_for_another_kubeconfig_ends_the_one_before,
    a_kubeconfig_follows_what_is_wished_of_it,
    policies_hold_for_kubeconfigs,
];

/// Tests that need an operator or a clock to themselves.
pub mod kubeconfig_alone {
    use super::{Arc, Space, World};

    crate::tests![the_token_in_a_kubeconfig_is_followed_in_time];

    async fn the_token_in_a_kubeconfig_is_followed_in_time(world: Arc<World>, space: Space) {
        super::followed(&world, &space).await;
    }
}

const REFUSED_WITHIN: Duration = Duration::from_secs(20);

fn credential(world: &World, rest: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: c}}\nspec:\n  type: Kubeconfig\n  \
         roles: [{{kind: ClusterRole, name: view}}]\n  kubeconfig: {{server: '{}'{rest}}}\n",
        world.control_plane.server()
    )
}

async fn file(space: &Space, secret: &str) -> Kubeconfig {
    let file = space.data(secret).await.remove("value").unwrap();
    Kubeconfig::from_yaml(std::str::from_utf8(&file).unwrap()).unwrap()
}

/// What the API server answers to whoever has the file, in the namespace that it names.
async fn asked(file: &Kubeconfig) -> u16 {
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(file.clone(), &options).await.unwrap();
    config.default_retry = false;
    let namespace = config.default_namespace.clone();
    let api: Api<ConfigMap> = Api::namespaced(Client::try_from(config).unwrap(), &namespace);
    match api.list(&ListParams::default()).await {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{error}"),
    }
}

async fn until(file: &Kubeconfig, expected: u16, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let told = asked(file).await;
        if told == expected {
            return;
        }
        assert!(Instant::now() < deadline, "it answers {told}, not {expected}");
        sleep(Duration::from_millis(200)).await;
    }
}

async fn uid(space: &Space) -> Option<String> {
    space.api::<Secret>().get("c-credential").await.unwrap().metadata.uid
}

async fn a_kubeconfig_opens_the_api_server_until_it_is_taken_back(world: Arc<World>, space: Space) {
    space.apply(&credential(&world, "")).await;
    let published = space.published("c", 0).await;
    let material = published.status.unwrap().material.unwrap();
    assert!(material.id.is_some() && material.rotates_at.is_some() && material.expires_at.is_some());
    let first = file(&space, "c-credential").await;
    until(&first, 200, DEADLINE).await;

    // Inactive: with its Secret, for good. Active again: another one.
    space.patch::<Credential>("c", json!({"spec": {"state": "Inactive"}})).await.unwrap();
    let inactive = space.credential("c", CredentialState::Inactive).await;
    let said = condition(&inactive, "Usable").2;
    assert!(said.contains("the Secret of a generated kubeconfig is deleted"), "{said}");
    space.until::<Secret>("c-credential", |secret| secret.is_none()).await;
    until(&first, 401, REFUSED_WITHIN).await;
    space.patch::<Credential>("c", json!({"spec": {"state": "Active"}})).await.unwrap();
    space.published("c", 1).await;
    let second = file(&space, "c-credential").await;
    until(&second, 200, DEADLINE).await;
    assert_eq!(asked(&first).await, 401);

    // An account that is recreated.
    space.api::<ServiceAccount>().delete("c-credential", &DeleteParams::default()).await.unwrap();
    space.published("c", 2).await;
    let third = file(&space, "c-credential").await;
    until(&third, 200, DEADLINE).await;
    until(&second, 401, REFUSED_WITHIN).await;

    // The end.
    let end = json!({"spec": {"expiresAt": "2021-01-01T00:00:00Z"}});
    space.patch::<Credential>("c", end).await.unwrap();
    space.credential("c", CredentialState::Expired).await;
    space.until::<Secret>("c-credential", |secret| secret.is_none()).await;
    until(&third, 401, REFUSED_WITHIN).await;
}

async fn who_asks_for_another_kubeconfig_ends_the_one_before(world: Arc<World>, space: Space) {
    space.apply(&credential(&world, "")).await;
    space.published("c", 0).await;
    let first = file(&space, "c-credential").await;
    until(&first, 200, DEADLINE).await;
    space.patch::<Credential>("c", json!({"spec": {"rotation": {"revision": 1}}})).await.unwrap();
    space.published("c", 1).await;
    let second = file(&space, "c-credential").await;
    until(&second, 200, DEADLINE).await;
    until(&first, 401, REFUSED_WITHIN).await;
    // Somebody edits what is in it.
    space.patch::<Secret>("c-credential", json!({"stringData": {"value": "planted"}})).await.unwrap();
    space.published("c", 2).await;
    until(&file(&space, "c-credential").await, 200, DEADLINE).await;
    until(&second, 401, REFUSED_WITHIN).await;
}

async fn a_kubeconfig_follows_what_is_wished_of_it(world: Arc<World>, space: Space) {
    space.apply(&credential(&world, "")).await;
    space.published("c", 0).await;
    let first = uid(&space).await;
    for edit in [
        json!({"description": "another"}),
        json!({"secret": {"labels": {"app": "deploy"}}}),
        json!({"roles": []}),
        json!({"rotation": {"every": "10d"}}),
    ] {
        space.patch::<Credential>("c", json!({ "spec": edit })).await.unwrap();
        let after = space.published("c", 0).await.status.unwrap().material.unwrap().serial;
        assert_eq!(after, Some(0), "{edit}");
    }
    // Another server is written into the same Secret, with another token.
    let server = json!({"spec": {"kubeconfig": {"server": "https://other.example"}}});
    space.patch::<Credential>("c", server).await.unwrap();
    space.published("c", 1).await;
    assert_eq!(uid(&space).await, first, "in place");
    let second = file(&space, "c-credential").await;
    assert_eq!(second.clusters[0].cluster.as_ref().unwrap().server.as_deref(), Some("https://other.example"));
    // Under another name there is another token, since each dies with its own Secret.
    space.patch::<Credential>("c", json!({"spec": {"secret": {"name": "elsewhere"}}})).await.unwrap();
    space.published("c", 2).await;
    space.until::<Secret>("c-credential", |secret| secret.is_none()).await;
    file(&space, "elsewhere").await;
    for (spec, expected) in [
        ("type: Kubeconfig", "set kubeconfig.server"),
        ("type: Kubeconfig, kubeconfig: {server: http://api.example}", "should match"),
        ("type: Kubeconfig, kubeconfig: {server: 'https://a', duration: 5m}", "set duration to 10m or more"),
        (
            "type: Kubeconfig, kubeconfig: {server: 'https://a', certificateAuthority: none}",
            "not a certificate",
        ),
        ("kubeconfig: {server: 'https://a'}", "kubeconfig goes with type Kubeconfig only"),
    ] {
        let manifest = format!(
            "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: d}}\nspec: {{{spec}}}\n"
        );
        let message = space.refused(&manifest).await;
        assert!(message.contains(expected), "{spec}: {message}");
    }
}

async fn policies_hold_for_kubeconfigs(world: Arc<World>, space: Space) {
    let policy = |tokens: &str| {
        format!(
            "apiVersion: credential-operator.io/v1alpha1\nkind: CredentialPolicy\nmetadata: {{name: {0}}}\nspec:\n  \
             namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {0}}}}}\n  tokens: {{{tokens}}}\n",
            space.namespace
        )
    };
    for (tokens, expected) in [
        ("types: [Opaque]", "does not allow tokens of type ServiceAccount, which a kubeconfig has"),
        ("maxLifetime: 12h", "set a shorter kubeconfig.duration"),
    ] {
        space.apply(&policy(tokens)).await;
        space.apply(&credential(&world, "")).await;
        let held = space.until::<Credential>("c", |credential| {
            credential.is_some_and(|credential| condition(credential, "Ready").2.contains(expected))
        });
        held.await;
        assert!(space.api::<Secret>().get_opt("c-credential").await.unwrap().is_none());
    }
    space.apply(&credential(&world, ", duration: 12h")).await;
    space.published("c", 0).await;
}

/// Six hours where the API server grants one.
async fn followed(world: &World, space: &Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    space.apply(&credential(world, ", duration: 6h")).await;
    space.published("c", 0).await;
    let first = uid(space).await;
    let mut before = file(space, "c-credential").await;
    for serial in 1..4 {
        clock.step(SignedDuration::from_mins(39));
        space.patch::<Credential>("c", json!({"spec": {"description": format!("{serial}")}})).await.unwrap();
        let same = space.published("c", serial - 1).await.status.unwrap().material.unwrap();
        assert_eq!(same.serial, Some(serial - 1), "not before it is time");
        clock.step(SignedDuration::from_mins(2));
        space.published("c", serial).await;
        assert_eq!(uid(space).await, first, "in place");
        let after = file(space, "c-credential").await;
        assert_eq!([asked(&before).await, asked(&after).await], [200, 200]);
        before = after;
    }
    operator.stop().await;
    // Without the flag: told, and what is there goes on.
    let operator = world.operator_without_minting(clock.clone()).await;
    clock.step(SignedDuration::from_mins(41));
    let off = space.until::<Credential>("c", |credential| {
        credential
            .is_some_and(|credential| condition(credential, "Ready").2.contains("--service-account-tokens"))
    });
    off.await;
    assert_eq!(asked(&before).await, 200);
    operator.stop().await;
}
