//! Whom a policy counts, and who has the places.

use std::{sync::Arc, time::Duration};

use credential_operator::api::{ApiToken, ApiTokenState, Credential, CredentialPolicy, CredentialState};
use futures::future::join_all;
use k8s_openapi::api::{
    core::v1::{ResourceQuota, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
    runtime::watcher,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Policy, not_ready, secrets, with};
use crate::support::{DEADLINE, Space, World, condition, credential, token, until};

crate::tests![
    over_the_count_the_oldest_keep_their_places,
    of_many_at_once_no_more_get_a_place_than_there_are,
    a_policy_counts_whom_it_concerns,
    status_says_by_how_much_each_count_is_exceeded,
    quota_of_the_documentation_is_enforced,
];

async fn over_the_count_the_oldest_keep_their_places(_: Arc<World>, space: Space) {
    let policy = Policy::of(&space, "p", json!({"maxCredentials": 2})).await;
    let view = "roles: [{kind: ClusterRole, name: view}]";
    for name in ["first", "second"] {
        space.apply(&with(name, view)).await;
        space.credential(name, CredentialState::Active).await;
        // Creation times have whole seconds.
        sleep(Duration::from_millis(1_100)).await;
    }
    space.apply(&with("a-third", view)).await;
    let (third, message) = not_ready(&space, "a-third", "QuotaExceeded").await;
    assert!(message.contains("allows 2 credentials in this namespace"), "{message}");
    assert_eq!(third.status.unwrap().state, Some(CredentialState::Pending));
    assert!(space.api::<ServiceAccount>().get_opt("a-third-credential").await.unwrap().is_none());
    space.apply(&token("t", "expiresIn: 1h").replace("{name: c}", "{name: a-third}")).await;
    let waiting = space.token("t", ApiTokenState::Pending).await;
    assert_eq!(condition(&waiting, "Ready").1, "QuotaExceeded");
    // A place that is left goes to who waits.
    space.api::<Credential>().delete("first", &DeleteParams::default()).await.unwrap();
    space.credential("a-third", CredentialState::Active).await;
    space.token("t", ApiTokenState::Active).await;
    // Who is over a lower count keeps what he has.
    policy.set(&space, json!({"maxCredentials": 1})).await;
    let (third, _) = not_ready(&space, "a-third", "QuotaExceeded").await;
    assert!(condition(&third, "Usable").0);
    let bound = space.api::<RoleBinding>().list(&ListParams::default()).await.unwrap();
    let is_third =
        |binding: &RoleBinding| binding.owner_references().iter().any(|owner| owner.name == "a-third");
    assert_eq!(bound.iter().filter(|binding| is_third(binding)).count(), 1);
    space.token("t", ApiTokenState::Active).await;
    space.apply(&token("u", "expiresIn: 1h").replace("{name: c}", "{name: a-third}")).await;
    space.token("u", ApiTokenState::Pending).await;
    space.credential("second", CredentialState::Active).await;
    policy.delete().await;
    space.token("u", ApiTokenState::Active).await;
}

async fn of_many_at_once_no_more_get_a_place_than_there_are(_: Arc<World>, space: Space) {
    let limits = json!({"maxCredentials": 5, "tokens": {"maxPerCredential": 3}});
    let policy = Policy::of(&space, "p", limits).await;
    let manifests: Vec<_> = (0..50).map(|n| credential(&format!("c{n}"))).collect();
    join_all(manifests.iter().map(|manifest| space.apply(manifest))).await;
    let names: Vec<_> = (0..50).map(|n| format!("c{n}")).collect();
    let answered = async |name: &String| {
        let answered = |found: Option<&Credential>| {
            found.is_some_and(|found| json!(found)["status"]["conditions"].is_array())
        };
        condition(&space.until::<Credential>(name, answered).await.unwrap(), "Ready").0
    };
    let active: Vec<_> = join_all(names.iter().map(answered)).await;
    let winners: Vec<_> =
        names.iter().zip(active).filter(|(_, active)| *active).map(|(name, _)| name).collect();
    assert_eq!(winners.len(), 5);
    let accounts = space.api::<ServiceAccount>().list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(accounts.iter().filter(|account| account.name_any().ends_with("-credential")).count(), 5);

    let of_winner = format!("{{name: {}}}", winners[0]);
    let tokens: Vec<_> =
        (0..50).map(|n| token(&format!("t{n}"), "expiresIn: 1h").replace("{name: c}", &of_winner)).collect();
    join_all(tokens.iter().map(|manifest| space.apply(manifest))).await;
    let names: Vec<_> = (0..50).map(|n| format!("t{n}")).collect();
    let answered = async |name: &String| {
        let answered = |found: Option<&ApiToken>| {
            found.is_some_and(|found| json!(found)["status"]["conditions"].is_array())
        };
        let found = space.until::<ApiToken>(name, answered).await.unwrap();
        found.status.unwrap().state == Some(ApiTokenState::Active)
    };
    let active = join_all(names.iter().map(answered)).await;
    assert_eq!(active.iter().filter(|active| **active).count(), 3);
    assert_eq!(secrets(&space).await.len(), 3);
    // A token that ends leaves its place.
    let (ended, _) = names.iter().zip(active).find(|(_, active)| *active).unwrap();
    space.patch::<ApiToken>(ended, json!({"spec": {"revoked": true}})).await.unwrap();
    space.token(ended, ApiTokenState::Revoked).await;
    let deadline = Instant::now() + DEADLINE;
    let active = async || {
        let tokens = space.api::<ApiToken>().list(&ListParams::default()).await.unwrap();
        let states = tokens.into_iter().filter_map(|token| token.status?.state);
        states.filter(|state| *state == ApiTokenState::Active).count()
    };
    while active().await < 3 {
        assert!(Instant::now() < deadline, "nobody got the place");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(secrets(&space).await.len(), 3);
    policy.delete().await;
}

async fn a_policy_counts_whom_it_concerns(_: Arc<World>, space: Space) {
    for (name, scopes) in [("a", "[]"), ("b", "[x]"), ("c", "[y]")] {
        space.apply(&with(name, &format!("scopes: {scopes}"))).await;
        space.credential(name, CredentialState::Active).await;
    }
    let policy = Policy::of(&space, "p", json!({"scopes": ["x"]})).await;
    let counts = async |expected: [i64; 3]| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = policy.api.get(&policy.name).await.unwrap();
            let status = found.status.clone().unwrap_or_default();
            let counts = [status.namespaces, status.credentials, status.violations];
            if counts == expected.map(Some) && status.observed_generation == found.metadata.generation {
                assert!(condition(&found, "Ready").0);
                return;
            }
            assert!(Instant::now() < deadline, "{counts:?} is not {expected:?}");
            sleep(Duration::from_millis(100)).await;
        }
    };
    counts([1, 3, 1]).await;
    policy.set(&space, json!({"scopes": []})).await;
    counts([1, 3, 2]).await;
    space.api::<Credential>().delete("c", &DeleteParams::default()).await.unwrap();
    counts([1, 2, 1]).await;
    policy.set(&space, json!({"namespaceSelector": {"matchLabels": {"no/namespace": "has-it"}}})).await;
    counts([0, 0, 0]).await;
    policy.delete().await;
}

async fn status_says_by_how_much_each_count_is_exceeded(_: Arc<World>, space: Space) {
    for name in ["a", "b", "c"] {
        space.apply(&credential(name)).await;
        space.credential(name, CredentialState::Active).await;
    }
    for name in ["t", "u", "v"] {
        space.apply(&token(name, "expiresIn: 1h")).await;
        space.token(name, ApiTokenState::Active).await;
    }
    let policy =
        Policy::of(&space, "p", json!({"maxCredentials": 3, "tokens": {"maxPerCredential": 3}})).await;
    let says = async |expected: &[&str]| {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", policy.name));
        let events = watcher(policy.api.clone(), config);
        let what = format!("CredentialPolicy {} that says {expected:?}", policy.name);
        let found = until(&what, events, |found: Option<&CredentialPolicy>| {
            found.is_some_and(|found| {
                let message = json!(found)["status"]["conditions"][0]["message"].to_string();
                let current = found.status.as_ref().and_then(|status| status.observed_generation);
                let counts = message.matches("is exceeded by").count();
                current == found.metadata.generation
                    && counts == expected.len()
                    && expected.iter().all(|said| message.contains(said))
            })
        });
        found.await;
    };
    says(&[]).await;
    policy.set(&space, json!({"maxCredentials": 1, "tokens": {"maxPerCredential": 2}})).await;
    says(&[
        "; maxCredentials (1) is exceeded by 2 Credentials, which keep what they have and get nothing new. Delete Credentials, \
         or raise maxCredentials",
        "; tokens.maxPerCredential (2) is exceeded by 1 ApiTokens, which keep what they have and get nothing new. Revoke or \
         delete ApiTokens, or raise tokens.maxPerCredential",
    ])
    .await;
    space.patch::<ApiToken>("u", json!({"spec": {"revoked": true}})).await.unwrap();
    space.api::<Credential>().delete("b", &DeleteParams::default()).await.unwrap();
    says(&["; maxCredentials (1) is exceeded by 1 Credentials"]).await;
    policy.delete().await;
}

/// The `ResourceQuota` that docs/policy.md recommends, with other numbers.
async fn quota_of_the_documentation_is_enforced(_: Arc<World>, space: Space) {
    let documentation = include_str!("../../../docs/policy.md");
    let quota = documentation.split("```yaml\n").filter_map(|block| block.split("```").next());
    let quota = quota.filter(|block| block.contains("kind: ResourceQuota")).collect::<Vec<_>>();
    let [quota] = quota[..] else { panic!("docs/policy.md shows {} quotas", quota.len()) };
    let [credentials, tokens] =
        ["count/credentials.credential-operator.io", "count/apitokens.credential-operator.io"];
    let quota = quota.replace(", namespace: team-a", "");
    let quota = quota.replace(r#"credential-operator.io: "500""#, r#"credential-operator.io: "1""#);
    let quota = quota.replace(r#"credential-operator.io: "50""#, r#"credential-operator.io: "2""#);
    space.apply(&quota).await;
    // Until kube-controller-manager has found the kinds, which it looks for every half minute, it counts nothing; then it counts what
    // has other limits first.
    let deadline = Instant::now() + 2 * DEADLINE;
    for limit in 1_000.. {
        let hard = json!({"spec": {"hard": {"count/configmaps": limit.to_string()}}});
        space.patch::<ResourceQuota>("credentials", hard).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let found = space.api::<ResourceQuota>().get("credentials").await.unwrap();
        let used = found.status.and_then(|status| status.used).unwrap_or_default();
        if [credentials, tokens].iter().all(|name| used.contains_key(*name)) {
            break;
        }
        assert!(Instant::now() < deadline, "nothing is counted but {used:?}");
    }
    for name in ["c", "d"] {
        space.apply(&credential(name)).await;
        space.credential(name, CredentialState::Active).await;
    }
    let refused = space.refused(&credential("e")).await;
    assert!(
        refused.contains(&format!("exceeded quota: credentials, requested: {credentials}=1")),
        "{refused}"
    );
    space.apply(&token("t", "expiresIn: 1h")).await;
    space.token("t", ApiTokenState::Active).await;
    let refused = space.refused(&token("u", "expiresIn: 1h")).await;
    assert!(refused.contains(&format!("exceeded quota: credentials, requested: {tokens}=1")), "{refused}");
}
