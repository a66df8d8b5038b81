//! The keyring, and objects that were stored before a rule existed. Each test has an operator of its own.

use std::{collections::BTreeMap, sync::Arc};

use control_plane::Namespaced;
use credential_operator::api::{
    self, ApiToken, ApiTokenState, Credential, CredentialState,
    credential::{Grant, RoleKind},
};
use jiff::SignedDuration;
use k8s_openapi::{
    api::{core::v1::Secret, rbac::v1::ClusterRoleBinding},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps},
};
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{
    DEADLINE, KEYRING, OPERATOR_NAMESPACE, Space, SystemClock, World, condition, credential, install_crd,
    token,
};

crate::tests![
    rotation_keeps_old_tokens_and_drops_the_key_when_nothing_names_it,
    a_key_that_only_a_secret_names_is_kept,
    a_value_of_another_credential_is_not_adopted,
    a_secret_that_nothing_names_is_found_when_its_token_is_revoked,
    a_binding_that_nothing_shows_goes_with_its_credential,
    a_lost_keyring_is_said_and_nothing_is_drawn_anew,
    objects_stored_before_the_rules_stop_nobody,
    no_key_is_dropped_that_something_unreadable_may_name,
    clock_steps_end_nothing_early_and_revive_nothing,
    a_value_lost_too_often_waits_for_a_human,
];

fn operators(space: &Space) -> Space {
    Space { client: space.client.clone(), namespace: OPERATOR_NAMESPACE.to_owned() }
}

fn key_of(token: &ApiToken) -> String {
    let digest = token.status.as_ref().unwrap().digest.clone().unwrap();
    digest.split(':').nth(1).unwrap().to_owned()
}

async fn rotation_keeps_old_tokens_and_drops_the_key_when_nothing_names_it(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    space.apply(&(credential("c") + "---\n" + &token("old", "expiresIn: 1y"))).await;
    let old = key_of(&space.token("old", ApiTokenState::Active).await);
    let keyring = operators(&space);
    let request =
        json!({"metadata": {"annotations": {"credential-operator.io/rotate-requested-at": space.namespace}}});
    let before = keyring.api::<Secret>().get(KEYRING).await.unwrap().data.unwrap().len();
    keyring.patch::<Secret>(KEYRING, request).await.unwrap();
    let keys =
        |secret: Option<&Secret>| secret.and_then(|secret| secret.data.as_ref()).map_or(0, BTreeMap::len);
    keyring.until::<Secret>(KEYRING, |secret| keys(secret) == before + 1).await;

    space.apply(&token("same", "expiresIn: 1y")).await;
    assert_eq!(
        key_of(&space.token("same", ApiTokenState::Active).await),
        old,
        "verifiers may not have read the new key"
    );
    clock.step(SignedDuration::from_mins(11));
    space.apply(&token("new", "expiresIn: 1y")).await;
    assert_ne!(key_of(&space.token("new", ApiTokenState::Active).await), old);
    space.token("old", ApiTokenState::Active).await;

    for name in ["old", "same"] {
        space.patch::<ApiToken>(name, json!({"spec": {"revoked": true}})).await.unwrap();
        space.token(name, ApiTokenState::Revoked).await;
    }
    clock.step(SignedDuration::from_hours(2));
    // The keyring looks for keys that nothing names at every change of its own.
    keyring.patch::<Secret>(KEYRING, json!({"metadata": {"annotations": {"touched": "now"}}})).await.unwrap();
    let dropped = |secret: Option<&Secret>| {
        secret.is_some_and(|secret| !secret.data.as_ref().unwrap().contains_key(&old))
    };
    keyring.until::<Secret>(KEYRING, dropped).await;
    space.token("new", ApiTokenState::Active).await;
    operator.stop().await;
}

/// Has a key drawn; whatever may be dropped by then is, in the same write. The word is to be another each time.
async fn rotate(keyring: &Space, word: &str) -> Secret {
    let request = json!({"metadata": {"annotations": {"credential-operator.io/rotate-requested-at": word}}});
    keyring.patch::<Secret>(KEYRING, request).await.unwrap();
    let answered = |secret: Option<&Secret>| {
        let annotations = secret.and_then(|secret| secret.metadata.annotations.as_ref());
        annotations.and_then(|all| all.get("credential-operator.io/rotate-answered")).map(String::as_str)
            == Some(word)
    };
    keyring.until::<Secret>(KEYRING, answered).await.unwrap()
}

/// The state that a kill between the two writes of an issue leaves.
async fn erase_status(space: &Space, name: &str) {
    let tokens = space.api::<ApiToken>();
    let token = ApiToken { status: None, ..tokens.get(name).await.unwrap() };
    tokens.replace_status(name, &PostParams::default(), &token).await.unwrap();
}

async fn a_key_that_only_a_secret_names_is_kept(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1y"))).await;
    let key = key_of(&space.token("t", ApiTokenState::Active).await);
    let value = space.value("t-token").await;
    let keyring = operators(&space);
    rotate(&keyring, &space.namespace).await;
    operator.stop().await;
    erase_status(&space, "t").await;
    clock.step(SignedDuration::from_hours(2));
    let operator = world.operator(clock).await;
    assert_eq!(key_of(&space.token("t", ApiTokenState::Active).await), key);
    assert_eq!(space.value("t-token").await, value);
    operator.stop().await;
}

async fn a_value_of_another_credential_is_not_adopted(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    let value = space.value("t-token").await;
    operator.stop().await;
    erase_status(&space, "t").await;
    space.api::<Credential>().delete("c", &DeleteParams::default()).await.unwrap();
    space.until::<Credential>("c", |found| found.is_none()).await;
    space.apply(&credential("c")).await;
    let operator = world.operator(SystemClock::shared()).await;
    space.token("t", ApiTokenState::Active).await;
    assert_ne!(space.value("t-token").await, value);
    operator.stop().await;
}

async fn a_secret_that_nothing_names_is_found_when_its_token_is_revoked(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    operator.stop().await;
    erase_status(&space, "t").await;
    space.patch::<Secret>("t-token", json!({"metadata": {"labels": null}})).await.unwrap();
    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    let operator = world.operator(SystemClock::shared()).await;
    space.token("t", ApiTokenState::Revoked).await;
    assert!(space.api::<Secret>().get_opt("t-token").await.unwrap().is_none());
    operator.stop().await;
}

async fn a_binding_that_nothing_shows_goes_with_its_credential(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space
        .apply(
            "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {name: c}\n\
             spec: {roles: [{kind: ClusterRole, name: view, clusterWide: true}]}\n",
        )
        .await;
    space.credential("c", CredentialState::Active).await;
    operator.stop().await;
    let bindings: Api<ClusterRoleBinding> = Api::all(world.admin.clone());
    let grant =
        Grant { kind: RoleKind::ClusterRole, name: "view".to_owned(), namespace: None, cluster_wide: true };
    let name = credential_operator::domain::name::binding(&space.namespace, "c", &grant);
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": null}}));
    bindings.patch(&name, &PatchParams::default(), &unlabelled).await.unwrap();
    space.api::<Credential>().delete("c", &DeleteParams::default()).await.unwrap();
    let denial = world.deny_deletions(&space, "rbac.authorization.k8s.io", "clusterrolebindings").await;

    let operator = world.operator(SystemClock::shared()).await;
    let held = |found: Option<&Credential>| {
        found.is_some_and(|found| condition(found, "Ready").2.contains("no deletions here"))
    };
    space.until::<Credential>("c", held).await;
    denial.lift().await;
    space.until::<Credential>("c", |found| found.is_none()).await;
    assert!(bindings.get_opt(&name).await.unwrap().is_none());
    operator.stop().await;
}

async fn a_lost_keyring_is_said_and_nothing_is_drawn_anew(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    let before = space.token("t", ApiTokenState::Active).await.status.unwrap();
    let value = space.value("t-token").await;
    let keyring = operators(&space).api::<Secret>();
    let mut backup = keyring.get(KEYRING).await.unwrap();
    keyring.delete(KEYRING, &DeleteParams::default()).await.unwrap();
    let failed = space.token("t", ApiTokenState::Failed).await;
    assert_eq!(condition(&failed, "Stalled").1, "KeyringMissing");
    assert_eq!(space.value("t-token").await, value);
    space.apply(&token("u", "expiresIn: 1h")).await;
    space.token("u", ApiTokenState::Active).await;

    // Put back from a backup, beside the key that was made since.
    backup.metadata = ObjectMeta { name: Some(KEYRING.to_owned()), ..Default::default() };
    backup.type_ = None;
    let params = PatchParams::apply("backup").force();
    keyring.patch(KEYRING, &params, &Patch::Apply(backup)).await.unwrap();
    let healed = space.token("t", ApiTokenState::Active).await.status.unwrap();
    assert_eq!((healed.serial, healed.digest), (before.serial, before.digest));
    space.token("u", ApiTokenState::Active).await;
    operator.stop().await;
}

/// The CRD without a single rule, as an older version might have had it.
pub fn without_rules(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    fn loosen(schema: &mut JSONSchemaProps) {
        schema.x_kubernetes_validations = None;
        (schema.pattern, schema.format, schema.enum_, schema.max_length) = (None, None, None, None);
        schema.properties.iter_mut().flatten().for_each(|(_, property)| loosen(property));
    }
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()).unwrap();
        loosen(schema);
        let open = JSONSchemaProps {
            x_kubernetes_preserve_unknown_fields: Some(true),
            ..JSONSchemaProps::default()
        };
        let spec = schema.properties.as_mut().unwrap().get_mut("spec").unwrap();
        for property in ["scopes", "description"] {
            spec.properties.as_mut().unwrap().insert(property.to_owned(), open.clone());
        }
    }
    crd
}

/// A token for whoever does not know its schema.
#[derive(Clone, Debug, Deserialize, Serialize, kube::Resource)]
#[resource(inherit = ApiToken)]
struct UntypedToken {
    metadata: ObjectMeta,
    status: Option<Value>,
}

/// A credential for whoever does not know its schema.
#[derive(Clone, Debug, Deserialize, Serialize, kube::Resource)]
#[resource(inherit = Credential)]
struct UntypedCredential {
    metadata: ObjectMeta,
    status: Option<Value>,
}

async fn objects_stored_before_the_rules_stop_nobody(world: Arc<World>, space: Space) {
    let [credentials, tokens, _] = <[_; 3]>::try_from(api::crds()).unwrap();
    install_crd(&world.admin, &without_rules(tokens.clone())).await;
    space.apply(&credential("c")).await;
    let odd = [
        ("offset", "expiresAt: '2030-01-01T00:00:00+02:60'"),
        ("decimals", "expiresAt: '2030-01-01T00:00:00.0123456789Z'"),
        ("late", "expiresAt: '9999-12-31T23:59:59-12:00'"),
        ("life", "expiresIn: '1.5h'"),
        ("neither", "description: no end"),
        ("both", "expiresIn: 1h, expiresAt: '2030-01-01T00:00:00Z'"),
    ];
    for (name, rest) in odd {
        space.apply(&token(name, rest)).await;
    }
    // Of this one the API server cannot work out its own rules, so it refuses every status.
    space.apply(&token("february", "expiresAt: '2030-02-30T00:00:00Z'")).await;
    // These the types cannot parse at all; of the first the API server cannot work out the rules either.
    space.apply(&token("unreadable-to-all", "expiresIn: 1h, scopes: {not: a list}")).await;
    space.apply(&token("unreadable", "expiresIn: 1h, description: {not: a text}")).await;
    install_crd(&world.admin, &tokens).await;
    install_crd(&world.admin, &credentials).await;

    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&token("sound", "expiresIn: 1h")).await;
    space.token("sound", ApiTokenState::Active).await;
    for (name, _) in odd {
        let failed = space.token(name, ApiTokenState::Failed).await;
        let (stalled, reason, message) = condition(&failed, "Stalled");
        assert!(stalled && reason == "InvalidSpec", "{name}: {reason}");
        assert!(message.ends_with("create another ApiToken in place of this one"), "{name}: {message}");
    }
    let unreadable = space.until::<UntypedToken>("unreadable", |found| {
        found.is_some_and(|found| condition(found, "Stalled").0)
    });
    let (_, reason, message) = condition(&unreadable.await.unwrap(), "Ready");
    assert_eq!(reason, "InvalidSpec");
    assert!(message.starts_with("spec.description does not fit the schema, so nothing is done"), "{message}");
    for name in ["unreadable", "unreadable-to-all"] {
        space.api::<UntypedToken>().delete(name, &DeleteParams::default()).await.unwrap();
        space.until::<UntypedToken>(name, |found| found.is_none()).await;
    }
    operator.stop().await;
}

async fn no_key_is_dropped_that_something_unreadable_may_name(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    let keyring = operators(&space);
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1y"))).await;
    let key = key_of(&space.token("t", ApiTokenState::Active).await);
    rotate(&keyring, &format!("{}-1", space.namespace)).await;
    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    space.token("t", ApiTokenState::Revoked).await;
    clock.step(SignedDuration::from_hours(2));

    let [credentials, tokens, _] = <[_; 3]>::try_from(api::crds()).unwrap();
    kept_for::<UntypedCredential>(&world, &space, &key, credentials, "type: Token").await;
    kept_for::<UntypedToken>(&world, &space, &key, tokens, "credentialRef: {name: c}, expiresIn: 1h").await;
    // That these are gone the operator learns a moment after us, and looks at keys when the keyring changes.
    let deadline = Instant::now() + DEADLINE;
    for number in 2.. {
        let after = rotate(&keyring, &format!("{}-{number}", space.namespace)).await;
        if !after.data.unwrap().contains_key(&key) {
            break;
        }
        assert!(Instant::now() < deadline, "nothing names it, and it stays");
    }
    operator.stop().await;
}

/// What cannot be read keeps the key for as long as it is there.
async fn kept_for<K: Namespaced>(
    world: &World,
    space: &Space,
    key: &str,
    crd: CustomResourceDefinition,
    spec: &str,
) {
    let kind = K::kind(&());
    install_crd(&world.admin, &without_rules(crd.clone())).await;
    let unreadable = format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: {kind}\nmetadata: {{name: unreadable}}\n\
         spec: {{{spec}, description: {{not: a text}}}}\n"
    );
    space.apply(&unreadable).await;
    install_crd(&world.admin, &crd).await;
    let stalled = |found: Option<&K>| found.is_some_and(|found| condition(found, "Stalled").0);
    space.until::<K>("unreadable", stalled).await;
    let kept = rotate(&operators(space), &format!("{}-{kind}", space.namespace)).await;
    assert!(kept.data.unwrap().contains_key(key), "{kind}: a key that something unreadable may name is gone");
    space.api::<K>().delete("unreadable", &DeleteParams::default()).await.unwrap();
    space.until::<K>("unreadable", |found| found.is_none()).await;
}

async fn clock_steps_end_nothing_early_and_revive_nothing(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    space
        .apply(
            &(credential("c")
                + "---\n"
                + &token("t", "expiresIn: 1h")
                + "---\n"
                + &token("u", "expiresIn: 3h")),
        )
        .await;
    space.token("t", ApiTokenState::Active).await;
    space.token("u", ApiTokenState::Active).await;
    clock.step(SignedDuration::from_hours(-1));
    space.apply(&token("v", "expiresIn: 1h")).await;
    space.token("v", ApiTokenState::Active).await;
    clock.step(SignedDuration::from_hours(3));
    space.token("t", ApiTokenState::Expired).await;
    space.until::<Secret>("t-token", |secret| secret.is_none()).await;
    space.token("u", ApiTokenState::Active).await;
    clock.step(SignedDuration::from_hours(-2));
    // Any change makes it look again, and it must still be over.
    space.patch::<ApiToken>("t", json!({"spec": {"description": "again"}})).await.unwrap();
    space.token("t", ApiTokenState::Expired).await;
    assert!(space.api::<Secret>().get_opt("t-token").await.unwrap().is_none());
    operator.stop().await;
}

async fn a_value_lost_too_often_waits_for_a_human(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1d"))).await;
    space.token("t", ApiTokenState::Active).await;
    let secrets: Api<Secret> = space.api();
    let serial = |expected: i64| {
        move |token: Option<&ApiToken>| {
            let status = token.and_then(|token| token.status.as_ref());
            status.is_some_and(|status| status.serial == Some(expected) && status.digest.is_some())
        }
    };
    for lost in 1..=3 {
        secrets.delete("t-token", &DeleteParams::default()).await.unwrap();
        space.until::<ApiToken>("t", serial(lost)).await;
        clock.step(SignedDuration::from_secs(61));
    }
    secrets.delete("t-token", &DeleteParams::default()).await.unwrap();
    let stalled = space.token("t", ApiTokenState::Failed).await;
    assert_eq!(condition(&stalled, "Stalled").1, "Conflict");
    assert!(condition(&stalled, "Ready").2.contains("deleted or replaced 4 times within 10 minutes"));
    space
        .patch::<ApiToken>("t", json!({"metadata": {"annotations": {"example.com/looked-into": "yes"}}}))
        .await
        .unwrap();
    space.until::<ApiToken>("t", serial(4)).await;
    operator.stop().await;
}
