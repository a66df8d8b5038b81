//! Tokens that the API server mints: what they may do there, and when it refuses them.

use std::{
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use credential_operator::api::{ApiToken, ApiTokenState, Credential};
use futures::future::join_all;
use jiff::SignedDuration;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    bearer::{asked, until},
    support::{DEADLINE, Space, SystemClock, World, condition},
    verifier::Asked,
};

crate::tests![
    kubectl_does_with_a_token_what_the_roles_allow_and_no_more,
    the_api_server_refuses_a_token_once_it_is_taken_back,
    a_suspended_token_comes_back_with_another_value,
    an_account_that_is_recreated_has_its_tokens_issued_anew,
    what_somebody_puts_in_place_of_a_token_is_replaced,
    a_token_is_for_its_audiences_and_no_others,
    policies_hold_for_minted_tokens,
    no_verifier_accepts_a_minted_token,
];

/// Tests that need an operator or a clock to themselves.
pub mod minted_alone {
    use super::{Arc, Space, World};

    crate::tests![
        each_value_is_followed_before_the_cap_and_none_after_the_end,
        terms_are_followed_and_the_value_before_lives_on,
        minting_that_is_switched_off_is_told,
    ];

    async fn each_value_is_followed_before_the_cap_and_none_after_the_end(world: Arc<World>, space: Space) {
        super::capped(&world, &space).await;
    }

    async fn terms_are_followed_and_the_value_before_lives_on(world: Arc<World>, space: Space) {
        super::renewed(&world, &space).await;
    }

    async fn minting_that_is_switched_off_is_told(world: Arc<World>, space: Space) {
        super::switched_off(&world, &space).await;
    }
}

/// How soon the API server refuses what was taken back.
pub const REFUSED_WITHIN: Duration = Duration::from_secs(20);

pub fn credential(name: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: {name}}}\nspec: {{roles: [{{kind: ClusterRole, name: view}}]}}\n"
    )
}

pub fn token(name: &str, credential: &str, rest: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: ApiToken\nmetadata: {{name: {name}}}\nspec: {{credentialRef: {{name: {credential}}}, type: ServiceAccount, {rest}}}\n"
    )
}

/// Waits for the next value, and returns the token and it.
pub async fn issued(space: &Space, name: &str, serial: i64) -> (ApiToken, String) {
    let there = space.until::<ApiToken>(name, |token| {
        token.and_then(|token| token.status.as_ref()).is_some_and(|status| {
            status.state == Some(ApiTokenState::Active)
                && status.serial == Some(serial)
                && status.minted.is_some()
        })
    });
    let token = there.await.unwrap();
    (token, space.value(&format!("{name}-token")).await)
}

async fn kubectl_does_with_a_token_what_the_roles_allow_and_no_more(world: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "c", "expiresIn: 1h"))).await;
    let (issued, value) = issued(&space, "t", 0).await;
    until(&world, &space, &value, 200, DEADLINE).await;
    let kubectl = world.control_plane.kubectl().unwrap();
    let kubectl = |arguments: &[&str]| -> Output {
        let mut command = Command::new(&kubectl);
        command.env("KUBECONFIG", "/dev/null").stdin(Stdio::null());
        command.args(["--server", world.control_plane.server(), "--token", &value]);
        command.arg("--certificate-authority").arg(world.control_plane.directory().join("ca.crt"));
        command.args(["--namespace", &space.namespace]).args(arguments).output().unwrap()
    };
    let whoami = kubectl(&["auth", "whoami", "-o", "json"]);
    let whoami: Value = serde_json::from_slice(&whoami.stdout).unwrap();
    let user = format!("system:serviceaccount:{}:c-credential", space.namespace);
    assert_eq!(whoami["status"]["userInfo"]["username"], user.as_str());
    let extra = &whoami["status"]["userInfo"]["extra"];
    let named = format!("JTI={}", issued.status.unwrap().token_id.unwrap());
    assert_eq!(
        extra["authentication.kubernetes.io/credential-id"][0],
        named.as_str(),
        "as the audit log names it"
    );
    for (arguments, may) in [
        (&["get", "configmaps"][..], true),
        (&["get", "pods"], true),
        (&["get", "secrets"], false),
        (&["get", "configmaps", "--all-namespaces"], false),
        (&["get", "configmaps", "--namespace", "default"], false),
        (&["create", "configmap", "mine"], false),
        (&["delete", "configmap", "kube-root-ca.crt"], false),
        (&["get", "nodes"], false),
    ] {
        let output = kubectl(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), may, "{arguments:?}: {said}");
        assert!(may || said.contains("forbidden"), "{arguments:?}: {said}");
    }
    // A role that is taken away is gone for the same value, and one that is given is there.
    space.patch::<Credential>("c", json!({"spec": {"roles": []}})).await.unwrap();
    until(&world, &space, &value, 403, DEADLINE).await;
}

async fn the_api_server_refuses_a_token_once_it_is_taken_back(world: Arc<World>, space: Space) {
    let ways = ["revoked", "suspended", "ended", "deleted", "orphaned"];
    join_all(ways.map(async |way| {
        let life = if way == "ended" { "expiresAt: 2035-01-01T00:00:00Z" } else { "expiresIn: 1h" };
        space
            .apply(
                &(credential(way)
                    + "---
" + &token(way, way, life)),
            )
            .await;
        let (_, value) = issued(&space, way, 0).await;
        until(&world, &space, &value, 200, DEADLINE).await;
        match way {
            "revoked" => {
                drop(space.patch::<ApiToken>(way, json!({"spec": {"revoked": true}})).await.unwrap());
            }
            "suspended" => {
                drop(space.patch::<Credential>(way, json!({"spec": {"state": "Inactive"}})).await.unwrap());
            }
            "deleted" => drop(space.api::<ApiToken>().delete(way, &DeleteParams::default()).await.unwrap()),
            "orphaned" => {
                drop(space.api::<Credential>().delete(way, &DeleteParams::default()).await.unwrap());
            }
            _ => {
                let end = json!({"spec": {"expiresAt": "2021-01-01T00:00:00Z"}});
                drop(space.patch::<ApiToken>(way, end).await.unwrap());
            }
        }
        until(&world, &space, &value, 401, REFUSED_WITHIN).await;
        assert!(space.api::<Secret>().get_opt(&format!("{way}-token")).await.unwrap().is_none());
    }))
    .await;
    let state =
        |name: &'static str| async { space.api::<ApiToken>().get(name).await.unwrap().status.unwrap() };
    for (name, expected) in [
        ("revoked", ApiTokenState::Revoked),
        ("suspended", ApiTokenState::Suspended),
        ("ended", ApiTokenState::Expired),
    ] {
        let status = state(name).await;
        assert_eq!((status.state, status.minted, status.secret), (Some(expected), None, None), "{name}");
    }
}

async fn a_suspended_token_comes_back_with_another_value(world: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "c", "expiresIn: 1h"))).await;
    let (before, first) = issued(&space, "t", 0).await;
    space.patch::<Credential>("c", json!({"spec": {"state": "Inactive"}})).await.unwrap();
    let suspended = space.token("t", ApiTokenState::Suspended).await;
    assert!(condition(&suspended, "Ready").0);
    assert_eq!(condition(&suspended, "Usable").1, "CredentialInactive");
    space.until::<Secret>("t-token", |secret| secret.is_none()).await;
    space.patch::<Credential>("c", json!({"spec": {"state": "Active"}})).await.unwrap();
    let (after, second) = issued(&space, "t", 1).await;
    assert_ne!(first, second);
    assert_eq!(after.status.as_ref().unwrap().expires_at, before.status.unwrap().expires_at);
    assert!(after.status.unwrap().replaced_at.is_empty(), "nothing was lost");
    until(&world, &space, &second, 200, DEADLINE).await;
    until(&world, &space, &first, 401, REFUSED_WITHIN).await;
}

async fn an_account_that_is_recreated_has_its_tokens_issued_anew(world: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "c", "expiresIn: 1h"))).await;
    let (before, first) = issued(&space, "t", 0).await;
    space.api::<ServiceAccount>().delete("c-credential", &DeleteParams::default()).await.unwrap();
    let (after, second) = issued(&space, "t", 1).await;
    let uid = |token: ApiToken| token.status.unwrap().minted.unwrap().service_account_uid;
    assert_ne!(uid(before), uid(after));
    until(&world, &space, &second, 200, DEADLINE).await;
    until(&world, &space, &first, 401, REFUSED_WITHIN).await;
}

async fn what_somebody_puts_in_place_of_a_token_is_replaced(world: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "c", "expiresIn: 1h"))).await;
    let (_, first) = issued(&space, "t", 0).await;
    let labels = json!({"metadata": {"labels": {"seen-by": "somebody"}}, "data": {"extra": "a2VwdA=="}});
    space.patch::<Secret>("t-token", labels).await.unwrap();
    space.patch::<Secret>("t-token", json!({"stringData": {"token": "planted"}})).await.unwrap();
    let (_, second) = issued(&space, "t", 1).await;
    assert!(second != first && second != "planted");
    until(&world, &space, &second, 200, DEADLINE).await;
    until(&world, &space, &first, 401, REFUSED_WITHIN).await;
    // Another Secret of the name is nobody's business.
    let foreign = "apiVersion: v1\nkind: Secret\nmetadata: {name: u-token}\nstringData: {token: mine}\n";
    space.apply(&(foreign.to_owned() + "---\n" + &token("u", "c", "expiresIn: 1h"))).await;
    let failed = space.token("u", ApiTokenState::Failed).await;
    assert_eq!(condition(&failed, "Ready").1, "Conflict");
    assert_eq!(space.value("u-token").await, "mine");
    space.api::<Secret>().delete("u-token", &DeleteParams::default()).await.unwrap();
    issued(&space, "u", 0).await;
}

async fn review(space: &Space, token: &str, audience: &str) -> bool {
    let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience.to_owned()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let reviewed = Api::all(space.client.clone()).create(&PostParams::default(), &review).await.unwrap();
    reviewed.status.unwrap().authenticated == Some(true)
}

async fn a_token_is_for_its_audiences_and_no_others(world: Arc<World>, space: Space) {
    space.apply(&(credential("c") + "---\n" + &token("t", "c", "expiresIn: 1h, audiences: [vault]"))).await;
    let refused = space.token("t", ApiTokenState::Failed).await;
    let (_, reason, message) = condition(&refused, "Ready");
    assert_eq!(reason, "InvalidSpec");
    assert!(
        message.contains("none of spec.audiences is an audience of Credential c; add it there"),
        "{message}"
    );
    space.patch::<Credential>("c", json!({"spec": {"audiences": ["vault", "orders"]}})).await.unwrap();
    let (_, value) = issued(&space, "t", 0).await;
    assert!(review(&space, &value, "vault").await);
    assert!(!review(&space, &value, "orders").await);
    assert_eq!(asked(&world, &space, &value).await, 401, "it is not for the API server");
    space.patch::<Credential>("c", json!({"spec": {"audiences": ["orders"]}})).await.unwrap();
    space.token("t", ApiTokenState::Failed).await;
    space.until::<Secret>("t-token", |secret| secret.is_none()).await;
}

async fn policies_hold_for_minted_tokens(_: Arc<World>, space: Space) {
    let policy = |tokens: &str| {
        format!(
            "apiVersion: credential-operator.io/v1alpha1\nkind: CredentialPolicy\nmetadata: {{name: {0}}}\nspec:\n  \
             namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {0}}}}}\n  tokens: {{{tokens}}}\n",
            space.namespace
        )
    };
    space.apply(&policy("types: [Opaque]")).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "c", "expiresIn: 2d"))).await;
    let refused = space.token("t", ApiTokenState::Failed).await;
    let (_, reason, message) = condition(&refused, "Ready");
    assert_eq!(reason, "PolicyViolation");
    assert!(message.contains("does not allow ApiTokens of type ServiceAccount"), "{message}");
    space.apply(&policy("types: [ServiceAccount], maxLifetime: 1d")).await;
    let longer = space.until::<ApiToken>("t", |token| {
        token.is_some_and(|token| condition(token, "Ready").2.contains("allows a value to live 1d"))
    });
    longer.await;
    assert!(space.api::<Secret>().get_opt("t-token").await.unwrap().is_none());
    space.apply(&policy("types: [ServiceAccount]")).await;
    issued(&space, "t", 0).await;
    space.apply(&policy("types: []")).await;
    space.apply(&token("refused", "c", "expiresIn: 1h")).await;
    let refused = space.until::<ApiToken>("refused", |token| {
        token.is_some_and(|token| condition(token, "Ready").1 == "PolicyViolation")
    });
    refused.await;
    // The operator knows the policy now. It looks at the one that is there, which stays until its end.
    let looked_at = json!({"spec": {"description": "Looked at under the policy"}});
    let generation = space.patch::<ApiToken>("t", looked_at).await.unwrap().metadata.generation;
    let answered = space.until::<ApiToken>("t", |token| {
        token
            .and_then(|token| token.status.as_ref())
            .is_some_and(|status| status.observed_generation == generation)
    });
    answered.await;
    assert!(space.api::<Secret>().get_opt("t-token").await.unwrap().is_some());
}

async fn no_verifier_accepts_a_minted_token(world: Arc<World>, space: Space) {
    let opaque = token("o", "c", "expiresIn: 1h").replace("type: ServiceAccount, ", "");
    space.apply(&(credential("c") + "---\n" + &token("t", "c", "expiresIn: 1h") + "---\n" + &opaque)).await;
    let (_, value) = issued(&space, "t", 0).await;
    space.token("o", ApiTokenState::Active).await;
    let verifier = Asked::timed(&world, SystemClock::shared()).await;
    // It is up to date once it accepts what is its own.
    verifier.until("", &space.value("o-token").await, 200).await;
    assert_eq!(verifier.bearer("", &value).await, 401);
    verifier.stop().await;
}

/// Three hours where the API server grants one: the clock is put forward, and each value is looked at.
async fn capped(world: &World, space: &Space) {
    use credential_operator::domain::clock::Clock;
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "c", "expiresIn: 3h"))).await;
    let (first, mut value) = issued(space, "t", 0).await;
    let created_at = first.metadata.creation_timestamp.as_ref().unwrap().0;
    let end = created_at + SignedDuration::from_hours(3);
    let mut token = first;
    let mut serial = 0;
    let uid = space.api::<Secret>().get("t-token").await.unwrap().metadata.uid;
    loop {
        let status = token.status.clone().unwrap();
        assert_eq!(status.expires_at.unwrap().timestamp().unwrap(), end, "by the spec alone");
        let issued_at = status.issued_at.unwrap().timestamp().unwrap();
        let expires_at = status.minted.unwrap().expires_at.timestamp().unwrap();
        let hour = SignedDuration::from_hours(1);
        assert!(expires_at.duration_since(issued_at) <= hour, "the API server grants no more");
        if expires_at >= end {
            break;
        }
        // Just before it is time nothing happens; then the next value comes, and before this one ends.
        clock.step((issued_at + SignedDuration::from_mins(39)).duration_since(clock.now()));
        space
            .patch::<ApiToken>("t", json!({"spec": {"description": format!("after {serial}")}}))
            .await
            .unwrap();
        space.token("t", ApiTokenState::Active).await;
        assert_eq!(space.value("t-token").await, value);
        clock.step(SignedDuration::from_mins(2));
        serial += 1;
        let (next, another) = issued(space, "t", serial).await;
        assert!(clock.now() < expires_at);
        assert_ne!(another, value);
        // The value before dies with its own end, or with the Secret, whichever comes first.
        assert_eq!([asked(world, space, &value).await, asked(world, space, &another).await], [200, 200]);
        (token, value) = (next, another);
    }
    assert_eq!(serial, 3, "at 0, 40, 80 and 120 minutes");
    assert_eq!(space.api::<Secret>().get("t-token").await.unwrap().metadata.uid, uid, "in place");
    clock.step(end.duration_since(clock.now()) - SignedDuration::from_mins(1));
    space.patch::<ApiToken>("t", json!({"spec": {"description": "a minute before the end"}})).await.unwrap();
    let (_, same) = {
        space.token("t", ApiTokenState::Active).await;
        issued(space, "t", serial).await
    };
    assert_eq!(same, value);
    clock.step(SignedDuration::from_mins(2));
    let expired = space.token("t", ApiTokenState::Expired).await;
    space.until::<Secret>("t-token", |secret| secret.is_none()).await;
    until(world, space, &value, 401, REFUSED_WITHIN).await;
    clock.step(SignedDuration::from_hours(2));
    space.patch::<ApiToken>("t", json!({"spec": {"description": "long after"}})).await.unwrap();
    space.token("t", ApiTokenState::Expired).await;
    let after = space.api::<ApiToken>().get("t").await.unwrap();
    assert_eq!(after.status.unwrap().serial, expired.status.unwrap().serial, "none after the end");
    assert!(space.api::<Secret>().get_opt("t-token").await.unwrap().is_none());
    operator.stop().await;
}

async fn renewed(world: &World, space: &Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "c", "expiresIn: 40m, renewBefore: 10m"))).await;
    let (first, value) = issued(space, "t", 0).await;
    let created_at = first.metadata.creation_timestamp.as_ref().unwrap().0;
    clock.step(SignedDuration::from_mins(31));
    let (next, another) = issued(space, "t", 1).await;
    let status = next.status.unwrap();
    let end = created_at + SignedDuration::from_mins(70);
    assert_eq!((status.term, status.expires_at.unwrap().timestamp().unwrap()), (Some(1), end));
    assert!(status.previous.is_none(), "the API server alone knows of it");
    assert_eq!([asked(world, space, &value).await, asked(world, space, &another).await], [200, 200]);
    operator.stop().await;
}

async fn switched_off(world: &World, space: &Space) {
    let clock = SystemClock::shared();
    let operator = world.operator_without_minting(clock.clone()).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "c", "expiresIn: 2h"))).await;
    let off = space.token("t", ApiTokenState::Failed).await;
    let (_, reason, message) = condition(&off, "Ready");
    assert_eq!(reason, "InvalidSpec");
    for word in ["--service-account-tokens", "deploy/service-account-tokens/rights.yaml", "type Opaque"] {
        assert!(message.contains(word), "{message}");
    }
    assert!(condition(&off, "Stalled").0);
    operator.stop().await;
    let operator = world.operator(clock.clone()).await;
    let (_, value) = issued(space, "t", 0).await;
    operator.stop().await;
    // Off again: what there is goes on until its end, and is not followed by another.
    let operator = world.operator_without_minting(clock.clone()).await;
    clock.step(SignedDuration::from_mins(50));
    let held = space.until::<ApiToken>("t", |token| token.is_some_and(|token| !condition(token, "Ready").0));
    let held = held.await.unwrap();
    assert!(condition(&held, "Usable").0);
    assert_eq!(space.value("t-token").await, value);
    clock.step(SignedDuration::from_mins(20));
    space.until::<ApiToken>("t", |token| token.is_some_and(|token| !condition(token, "Usable").0)).await;
    operator.stop().await;
}
