use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering},
};

use http_body_util::BodyExt;
use k8s_openapi::{
    api::core::v1::Namespace,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Client, client::Body, core::PartialObjectMeta, runtime::watcher::Event};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{CredentialPolicySpec, CredentialSpec},
    controller::Config,
    domain::{clock::Clock, reach::Reach, token::Prefix},
};

static VERSION: AtomicU64 = AtomicU64::new(2);

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
}

fn context() -> Context {
    let service = tower::service_fn(|request: http::Request<Body>| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let definition = json!({"metadata": {"name": "definition", "uid": "d"}});
        let mut answer =
            if head.method == "GET" { definition } else { serde_json::from_slice::<Value>(&body).unwrap() };
        // The cache takes only what is newer.
        answer["metadata"]["resourceVersion"] = json!(VERSION.fetch_add(1, Ordering::Relaxed).to_string());
        Ok::<_, Infallible>(http::Response::new(Body::from(answer.to_string().into_bytes())))
    });
    let config = Config {
        namespace: "operator".to_owned(),
        keyring_secret: "keyring".to_owned(),
        token_prefix: Prefix::default(),
        service_account_tokens: false,
        reach: Reach::default(),
    };
    let random = Box::new(StdRng::seed_from_u64(0));
    Context::new(Client::new(service, "default"), std::sync::Arc::new(Stopped), random, config)
}

fn credential(namespace: &str, n: usize) -> Credential {
    let mut credential = Credential::new(&format!("c{n:05}"), CredentialSpec::default());
    credential.metadata.namespace = Some(namespace.to_owned());
    credential.metadata.uid = Some(format!("{namespace}-{n}"));
    let created = jiff::Timestamp::from_second(i64::try_from(n / 10).unwrap()).unwrap();
    credential.metadata.creation_timestamp = Some(Time(created));
    credential
}

/// `n` credentials in each of two namespaces, under a policy that allows so many.
fn filled(n: usize, max: i64) -> Context {
    let ctx = context();
    let spec: CredentialPolicySpec =
        serde_json::from_value(json!({"namespaceSelector": {}, "maxCredentials": max})).unwrap();
    let mut policy = CredentialPolicy::new("p", spec);
    policy.metadata.uid = Some("p".to_owned());
    policy.metadata.resource_version = Some("1".to_owned());
    ctx.policies.observe_in(None, Event::Apply(policy));
    for namespace in ["a", "b"] {
        let metadata = ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() };
        let object = PartialObjectMeta::<Namespace> { metadata, ..PartialObjectMeta::default() };
        ctx.namespaces.observe_in(None, Event::Apply(object));
        for n in 0..n {
            ctx.credentials.observe_in(None, Event::Apply(credential(namespace, n)));
        }
    }
    ctx.read_policies();
    ctx
}

fn status(ctx: &Context) -> CredentialPolicyStatus {
    ctx.policies.get(&Place::new("", "p")).unwrap().status.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_oldest_have_the_places_and_no_more_than_there_are() {
    for max in [1, 3, 19, 20, 21] {
        let ctx = filled(20, max);
        reconcile(&ctx).await.unwrap();
        let places = usize::try_from(max).unwrap().min(20);
        for namespace in ["a", "b"] {
            // In whatever order they ask.
            for n in (0..20).rev() {
                let breach = ctx.judge(&credential(namespace, n)).map(|breach| breach.severity);
                assert_eq!(breach, (n >= places).then_some(Severity::Count), "{n} of {max}");
            }
        }
        assert_eq!(status(&ctx).violations, i64::try_from(2 * (20 - places)).ok());
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_admitted_twice_by_an_order_that_is_a_moment_old() {
    let ctx = filled(0, 5);
    // All of them ask before the order is sorted again, the youngest first.
    let mut admitted = 0;
    for n in (0..20).rev() {
        let credential = credential("a", n);
        ctx.credentials.observe_in(None, Event::Apply(credential.clone()));
        admitted += usize::from(ctx.judge(&credential).is_none());
    }
    assert_eq!(admitted, 5);
}

#[tokio::test(start_paused = true)]
async fn only_namespaces_where_something_changed_are_judged_and_at_most_once_a_second() {
    let ctx = filled(30, 2);
    reconcile(&ctx).await.unwrap();
    assert_eq!(status(&ctx).credentials, Some(60));
    let passed = ctx.memory().policy.passed;
    ctx.count_policies_soon("a", None, Some(&credential("a", 30).brief()));
    reconcile(&ctx).await.unwrap();
    assert_eq!(ctx.memory().policy.passed, passed, "too soon");
    tokio::time::advance(COUNT_EVERY).await;
    // What is in b is judged by nobody: it would be found to be missing.
    for namespace in ["a", "b"] {
        let gone = credential(namespace, 29);
        ctx.credentials.observe_in(None, Event::Delete(gone));
    }
    reconcile(&ctx).await.unwrap();
    assert_eq!(status(&ctx).credentials, Some(59));
    ctx.count_policies_soon("b", Some(&credential("b", 29).brief()), None);
    tokio::time::advance(COUNT_EVERY).await;
    reconcile(&ctx).await.unwrap();
    assert_eq!(status(&ctx).credentials, Some(58));
}

#[tokio::test(start_paused = true)]
async fn a_pass_over_three_thousand_credentials_sorts_them_once() {
    let ctx = filled(3_000, 2);
    ranks::SORTED.set(0);
    reconcile(&ctx).await.unwrap();
    assert_eq!(ranks::SORTED.get(), 6_000, "each once");
    assert_eq!(status(&ctx).violations, Some(2 * 2_998));
}

#[test]
fn the_status_reports_that_a_count_is_exceeded() {
    let policy = |max: Option<i64>| {
        let spec = json!({"namespaceSelector": {}, "maxCredentials": max});
        CredentialPolicy::new("p", serde_json::from_value(spec).unwrap())
    };
    let enforced = "the policy is enforced in the namespaces that it selects";
    let exceeded = "the policy is enforced in the namespaces that it selects; maxCredentials (2) is exceeded by 1 Credentials";
    for (max, exceeding, expected) in
        [(None, 0, enforced), (Some(2), 0, enforced), (Some(2), 1, exceeded), (None, 1, enforced)]
    {
        let message = enforced_message(&policy(max), Count { exceeding, ..Count::default() });
        let fits = if expected == enforced { message == expected } else { message.starts_with(expected) };
        assert!(fits, "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_a_place_beyond_the_count_is_reported() {
    let ctx = filled(0, 2);
    // As two leaders leave it that admitted one each at the same time.
    for n in 0..3 {
        let mut credential = credential("a", n);
        let account = json!({"serviceAccount": {"name": "s", "uid": "s"}});
        credential.status = Some(serde_json::from_value(account).unwrap());
        ctx.credentials.observe_in(None, Event::Apply(credential));
    }
    reconcile(&ctx).await.unwrap();
    let status = status(&ctx);
    assert_eq!((status.credentials, status.violations), (Some(3), Some(1)));
    assert!(status.conditions[0].message.contains("maxCredentials (2) is exceeded by 1 Credentials"));
}
