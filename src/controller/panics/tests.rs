use std::{convert::Infallible, sync::Arc};

use http_body_util::BodyExt;
use kube::client::Body;
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    controller::Config,
    domain::{clock::Clock, reach::Reach, token::Prefix},
    telemetry::health::Probe,
};

const NOW: &str = "2026-01-01T00:00:00Z";

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        NOW.parse().unwrap()
    }
}

/// An API server that has one object, and refuses its first writes.
#[derive(Default)]
struct Server {
    object: Value,
    conflicts: usize,
    requests: Vec<(String, Value)>,
}

fn context(object: Value, conflicts: usize) -> (Context, Arc<Mutex<Server>>) {
    let server = Arc::new(Mutex::new(Server { object, conflicts, ..Server::default() }));
    let answering = server.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let server = answering.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let mut server = server.lock().unwrap();
            server.requests.push((format!("{} {}", head.method, head.uri.path()), body.clone()));
            let conflict = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict",
                "message": "", "code": 409});
            let (code, answer) = match head.method.as_str() {
                "PUT" if server.conflicts > 0 => {
                    server.conflicts -= 1;
                    (409, conflict)
                }
                "PUT" => {
                    server.object["status"] = body["status"].clone();
                    (200, server.object.clone())
                }
                "GET" => (200, server.object.clone()),
                _ => (201, body),
            };
            let answer = Body::from(answer.to_string().into_bytes());
            Ok::<_, Infallible>(http::Response::builder().status(code).body(answer).unwrap())
        }
    });
    let config = Config {
        namespace: "operator".to_owned(),
        keyring_secret: "keyring".to_owned(),
        token_prefix: Prefix::default(),
        service_account_tokens: false,
        reach: Reach::default(),
    };
    let random = Box::new(StdRng::seed_from_u64(0));
    (Context::new(Client::new(service, "default"), Arc::new(Stopped), random, config), server)
}

fn object() -> Value {
    json!({
        "apiVersion": "credential-operator.io/v1alpha1",
        "kind": "Credential",
        "metadata": {"name": "c", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 3,
            "labels": {"a": "b"}},
        "spec": {"anything": [{"at": "all"}]},
        "status": {"state": "Active", "material": {"digest": "d"}, "conditions": [
            {"type": "Usable", "status": "False", "reason": "PolicyViolation", "message": "m"},
            {"type": "Ready", "status": "True", "reason": "Published", "message": "m"},
        ]},
    })
}

fn key() -> Key {
    Key::Credential(Place::new("n", "c"))
}

async fn panics(ctx: &Context, key: &Key) {
    ctx.queue.add(key.clone());
    assert_eq!(ctx.queue.next().await, *key);
    assert!(run(ctx, key, async { panic!("a bug") }).await.is_none());
}

fn sent(server: &Mutex<Server>) -> Vec<String> {
    server.lock().unwrap().requests.iter().map(|(request, _)| request.clone()).collect()
}

const GET: &str = "GET /apis/credential-operator.io/v1alpha1/namespaces/n/credentials/c";
const PUT: &str = "PUT /apis/credential-operator.io/v1alpha1/namespaces/n/credentials/c/status";
const EVENT: &str = "POST /apis/events.k8s.io/v1/namespaces/n/events";

#[tokio::test(start_paused = true)]
async fn a_panic_is_reported_by_conditions_an_event_and_a_metric_and_by_nothing_else() {
    let (ctx, server) = context(object(), 2);
    panics(&ctx, &key()).await;
    assert_eq!(sent(&server), [GET, PUT, GET, PUT, GET, PUT, EVENT], "a conflict is tried again");
    let server = server.lock().unwrap();
    let (_, put) = &server.requests[5];
    assert_eq!(put["metadata"], json!({"name": "c", "namespace": "n", "uid": "u", "resourceVersion": "7"}));
    assert_eq!(put.get("spec"), None);
    let status = &put["status"];
    assert_eq!((&status["state"], &status["material"]), (&json!("Active"), &json!({"digest": "d"})));
    let said = |kind: &str| {
        let conditions = status["conditions"].as_array().unwrap();
        let said: Vec<_> = conditions.iter().filter(|said| said["type"] == kind).collect();
        assert_eq!(said.len(), 1, "{kind}");
        said[0].clone()
    };
    assert_eq!(said("Usable"), object()["status"]["conditions"][0], "what the verifier goes by stays");
    for (kind, holds) in [("Ready", "False"), ("Stalled", "True")] {
        let said = said(kind);
        assert_eq!((&said["status"], &said["reason"]), (&json!(holds), &json!("InternalError")));
        assert_eq!((&said["observedGeneration"], &said["lastTransitionTime"]), (&json!(3), &json!(NOW)));
        assert!(said["message"].as_str().unwrap().contains("panicked while it reconciled Credential \"c\""));
    }
    let (_, event) = &server.requests[6];
    assert_eq!((&event["reason"], &event["type"]), (&json!("InternalError"), &json!("Warning")));
    assert_eq!(event["regarding"]["uid"], "u");
    let metrics = ctx.metrics();
    assert!(metrics.contains("reconcile_panics_total{kind=\"Credential\"} 1"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_that_repeats_is_held_back_whatever_changes_and_reported_once() {
    let (ctx, server) = context(object(), 0);
    let key = key();
    panics(&ctx, &key).await;
    let mut waits = Vec::new();
    for _ in 0..6 {
        let since = Instant::now();
        // An author who changes the object all the time.
        let ran = loop {
            tokio::time::advance(Duration::from_millis(20)).await;
            ctx.queue.add(key.clone());
            assert_eq!(ctx.queue.next().await, key);
            let mut ran = false;
            let work = async {
                ran = true;
                panic!("a bug")
            };
            assert!(run(&ctx, &key, work).await.is_none());
            if ran {
                break since.elapsed();
            }
        };
        waits.push(ran.as_secs());
    }
    assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    assert_eq!(sent(&server).iter().filter(|sent| *sent != GET).collect::<Vec<_>>(), [PUT, EVENT]);
}

#[tokio::test(start_paused = true)]
async fn an_object_is_free_again_after_a_reconcile_that_does_not_panic() {
    let (ctx, _) = context(object(), 0);
    let key = key();
    panics(&ctx, &key).await;
    tokio::time::advance(FIRST_DELAY).await;
    assert_eq!(ctx.queue.next().await, key);
    assert!(run(&ctx, &key, async { Ok(()) }).await.is_some_and(|outcome| outcome.is_ok()));
    ctx.queue.done(&key);
    ctx.queue.add(key.clone());
    assert_eq!(ctx.queue.next().await, key);
    assert!(run(&ctx, &key, async { Ok(()) }).await.is_some(), "at once");
    ctx.queue.done(&key);
    panics(&ctx, &key).await;
    assert_eq!(ctx.panics.remaining(&key), Some(FIRST_DELAY), "counted from the start");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_task_of_no_object_is_an_event_of_the_operator() {
    let (ctx, server) = context(object(), 0);
    panics(&ctx, &Key::Policies).await;
    assert_eq!(sent(&server), ["POST /apis/events.k8s.io/v1/namespaces/operator/events"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reported_about_an_object_that_cannot_be_read_or_is_strange_but_an_event() {
    for strange in
        [json!(7), json!({"metadata": [], "status": "x"}), json!({"status": {"conditions": {"a": 1}}})]
    {
        let (ctx, server) = context(strange, usize::MAX);
        panics(&ctx, &key()).await;
        assert_eq!(sent(&server).iter().filter(|sent| *sent == EVENT).count(), 1);
        assert_eq!(ctx.queue.failing(), 1, "the key was given back");
    }
}
