//! Attacks that need an operator of their own: what somebody does while it is stopped, and races.

use std::{sync::Arc, time::Duration};

use credential_operator::api::{ApiToken, ApiTokenState, Credential, CredentialPolicy, CredentialState};
use futures::future::join_all;
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Secret, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::case::seen;
use crate::{
    admission::{
        case::{credential, named, object, placed, policy, token},
        clean_up,
    },
    bearer::until,
    support::{DEADLINE, Space, SystemClock, World, condition},
};

crate::tests![
    an_account_that_somebody_else_made_gets_nothing,
    of_fifty_at_once_the_same_have_the_places,
    what_a_role_allows_ends_and_comes_back_in_time,
];

/// How soon a changed policy, or a foreign account, is answered.
const WITHIN: Duration = Duration::from_secs(5);
const VIEW: &str = "{roles: [{kind: ClusterRole, name: view}]}";

/// A token for the credential's account, as whoever may mint there has one.
async fn mint(space: &Space) -> String {
    let accounts = space.api::<ServiceAccount>();
    let asked = TokenRequest::default();
    let minted = accounts.create_token_request("c-credential", &PostParams::default(), &asked).await.unwrap();
    minted.status.unwrap().token
}

async fn an_account_that_somebody_else_made_gets_nothing(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&(credential(VIEW) + &token("type: ServiceAccount, expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    let first = space.value("t-token").await;
    until(&world, &space, &first, 200, DEADLINE).await;
    operator.stop().await;
    // While nobody looks, the bindings are to whoever has the name.
    space.api::<ServiceAccount>().delete("c-credential", &DeleteParams::default()).await.unwrap();
    let impostor =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "c-credential"}});
    space.apply(&impostor.to_string()).await;
    let planted: ServiceAccount = space.api().get("c-credential").await.unwrap();
    let stolen = mint(&space).await;

    let operator = world.operator(SystemClock::shared()).await;
    until(&world, &space, &stolen, 403, WITHIN).await;
    let failed = space.until::<Credential>("c", |found| {
        found.is_some_and(|found| condition(found, "Ready").1 == "Conflict")
    });
    let message = condition(&failed.await.unwrap(), "Ready").2;
    assert!(
        message.starts_with("ServiceAccount c-credential exists and is not this credential's"),
        "{message}"
    );
    assert!(message.ends_with("it was not touched, and no role is bound to it"), "{message}");
    assert_eq!(
        space.api::<RoleBinding>().list_metadata(&ListParams::default()).await.unwrap().items.len(),
        0
    );
    assert_eq!(space.api::<ServiceAccount>().get("c-credential").await.unwrap(), planted);
    // No token is minted for it: not for who waits, nor for who comes.
    space
        .apply(&object(
            "ApiToken",
            "{name: u}",
            "{credentialRef: {name: c}, type: ServiceAccount, expiresIn: 1h}",
        ))
        .await;
    let waits = space
        .until::<ApiToken>("u", |found| found.is_some_and(|found| condition(found, "Ready").1 == "Pending"));
    let message = condition(&waits.await.unwrap(), "Ready").2;
    assert!(message.starts_with("the ServiceAccount of Credential c is not there"), "{message}");
    let held = space.api::<Secret>().get_opt("u-token").await.unwrap().and_then(|secret| secret.data);
    assert!(held.is_none_or(|held| held.get("token").is_none_or(|value| value.0.is_empty())));
    // What there was died with its account.
    assert_eq!(space.value("t-token").await, first);
    until(&world, &space, &first, 401, DEADLINE).await;

    space.api::<ServiceAccount>().delete("c-credential", &DeleteParams::default()).await.unwrap();
    space.credential("c", CredentialState::Active).await;
    let own: ServiceAccount = space.api().get("c-credential").await.unwrap();
    assert_ne!(own.uid(), planted.uid());
    for name in ["t", "u"] {
        let minted = space.until::<ApiToken>(name, |found| {
            let minted = found.and_then(|found| found.status.as_ref()?.minted.as_ref());
            minted.is_some_and(|minted| Some(&minted.service_account_uid) == own.metadata.uid.as_ref())
        });
        minted.await;
        let value = space.value(&format!("{name}-token")).await;
        until(&world, &space, &value, 200, DEADLINE).await;
    }
    // Of the same name, but of another UID.
    until(&world, &space, &stolen, 401, DEADLINE).await;
    operator.stop().await;
    clean_up(&space).await;
}

/// The names of those that are as asked for.
async fn those(space: &Space, active: impl Fn(&serde_json::Value) -> bool, tokens: bool) -> Vec<String> {
    let params = ListParams::default();
    let found: Vec<(String, serde_json::Value)> = if tokens {
        let found = space.api::<ApiToken>().list(&params).await.unwrap();
        found.iter().map(|found| (found.name_any(), json!(found))).collect()
    } else {
        let found = space.api::<Credential>().list(&params).await.unwrap();
        found.iter().map(|found| (found.name_any(), json!(found))).collect()
    };
    found.into_iter().filter(|(_, found)| active(found)).map(|(name, _)| name).collect()
}

/// Fifty at once, before anybody gives away places and while somebody does.
async fn of_fifty_at_once_the_same_have_the_places(world: Arc<World>, space: Space) {
    let limits = policy("maxCredentials: 7, tokens: {maxPerCredential: 3}");
    space.apply(&placed(&limits, &space)).await;
    let credentials: Vec<_> = (0..50).map(|n| named(&format!("c{n:02}"), "{type: ClientSecret}")).collect();
    let answered = |found: &serde_json::Value| found["status"]["state"].is_string();
    let active = |found: &serde_json::Value| found["status"]["state"] == "Active";
    let all = async |tokens: bool, count: usize| {
        let deadline = Instant::now() + DEADLINE;
        while those(&space, answered, tokens).await.len() < count {
            assert!(Instant::now() < deadline, "not all are answered");
            sleep(Duration::from_millis(100)).await;
        }
        those(&space, active, tokens).await
    };
    join_all(credentials.iter().map(|yaml| space.apply(yaml))).await;
    let mut oldest: Vec<_> = space.api::<Credential>().list(&ListParams::default()).await.unwrap().items;
    oldest.sort_by_key(|found| (found.metadata.creation_timestamp.clone().map(|at| at.0), found.name_any()));
    let mut oldest: Vec<_> = oldest.iter().take(7).map(ResourceExt::name_any).collect();
    oldest.sort();
    let operator = world.operator(SystemClock::shared()).await;
    assert_eq!(all(false, 50).await, oldest, "the oldest have the places");

    let owner = &oldest[0];
    let tokens: Vec<_> = (0..50)
        .map(|n| {
            let spec = format!("{{credentialRef: {{name: {owner}}}, expiresIn: 1h}}");
            object("ApiToken", &format!("{{name: t{n:02}}}"), &spec)
        })
        .collect();
    join_all(tokens.iter().map(|yaml| space.apply(yaml))).await;
    let issued = all(true, 50).await;
    assert_eq!(issued.len(), 3);
    let made = seen(&space).await;
    assert_eq!(made.keys().filter(|name| name.starts_with("Secret ")).count(), 7 + 3);
    // Whoever judges anew, and whatever makes them: the same have them.
    operator.stop().await;
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&placed(&limits.replace("maxCredentials: 7", "maxCredentials: 8"), &space)).await;
    let deadline = Instant::now() + DEADLINE;
    let eight = loop {
        let now = those(&space, active, false).await;
        if now.len() == 8 {
            break now;
        }
        assert!(Instant::now() < deadline, "{now:?}");
        sleep(Duration::from_millis(50)).await;
    };
    assert!(oldest.iter().all(|name| eight.contains(name)), "{oldest:?} {eight:?}");
    assert_eq!(those(&space, active, true).await, issued);
    let after = seen(&space).await;
    assert!(made.iter().all(|(name, version)| after.get(name) == Some(version)));
    operator.stop().await;
    clean_up(&space).await;
}

/// By the API server itself, for whom a role is what is bound.
async fn what_a_role_allows_ends_and_comes_back_in_time(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&placed(&policy("maxCredentials: 9"), &space)).await;
    let spec = "{type: ClientSecret, scopes: [a], roles: [{kind: ClusterRole, name: view}]}";
    space.apply(&(credential(spec) + &token("type: ServiceAccount, expiresIn: 1h"))).await;
    space.published("c", 0).await;
    space.token("t", ApiTokenState::Active).await;
    // One that the operator knows nothing of: it lives on, and may do what is bound.
    let mine = mint(&space).await;
    until(&world, &space, &mine, 200, DEADLINE).await;
    let (issued, made) = (space.value("t-token").await, seen(&space).await);
    let secrets = |seen: &super::case::Seen| -> Vec<_> {
        seen.iter()
            .filter(|(name, _)| name.starts_with("Secret "))
            .map(|(name, at)| (name.clone(), at.clone()))
            .collect()
    };
    for tight in ["roles: []", "types: [Token]", "scopes: []", "audiences: []"] {
        space.apply(&placed(&policy(tight), &space)).await;
        until(&world, &space, &mine, 403, WITHIN).await;
        space.credential("c", CredentialState::Failed).await;
        assert_eq!(secrets(&seen(&space).await), secrets(&made), "{tight}");
        space.apply(&placed(&policy("maxCredentials: 9"), &space)).await;
        until(&world, &space, &mine, 200, WITHIN).await;
        until(&world, &space, &issued, 200, WITHIN).await;
        space.credential("c", CredentialState::Active).await;
        space.token("t", ApiTokenState::Active).await;
        assert_eq!(secrets(&seen(&space).await), secrets(&made), "{tight}");
    }
    let policies: Api<CredentialPolicy> = Api::all(space.client.clone());
    policies.delete(&space.namespace, &DeleteParams::default()).await.unwrap();
    operator.stop().await;
    clean_up(&space).await;
}
