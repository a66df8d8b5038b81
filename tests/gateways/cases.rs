//! What each gateway must do by its set-up.

use std::{sync::Arc, time::Duration};

use http::{Method, Request, request};
use http_body_util::Full;
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    gateway::{Gateway, Kind},
    service::{Answer, Service},
    world::{DEADLINE, World},
};

/// What the service is told, by the names that CGI, WSGI and PHP give it.
const TOLD: [&str; 7] = ["NAMESPACE", "NAME", "UID", "TOKEN", "TOKEN_ID", "SCOPES", "EXPIRES"];

#[expect(clippy::disallowed_methods, reason = "the gateway and its verifier live by the system's clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn empty(request: request::Builder) -> Request<Full<Bytes>> {
    request.body(Full::default()).unwrap()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// What the service must have been told of the token, and nothing else under such a name.
fn assert_told(world: &World, namespace: &str, token: &str, scopes: &str, answer: &Answer, what: &str) {
    let object = world.object(namespace, &format!("atok/{token}"));
    let credential = world.object(namespace, "cred/reports");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let end: Timestamp = text(&object["status"]["expiresAt"]).parse().unwrap();
    let expected = [
        namespace.to_owned(),
        "reports".to_owned(),
        text(&credential["metadata"]["uid"]),
        token.to_owned(),
        text(&object["status"]["tokenId"]),
        scopes.to_owned(),
        end.as_second().to_string(),
    ];
    let seen = answer.seen();
    let mut variables = seen.variables();
    for (name, expected) in TOLD.iter().zip(&expected) {
        let found = variables.remove(&format!("X_CREDENTIAL_{name}")).unwrap_or_default();
        // What is empty may be left out.
        let exact = found == [expected.as_str()] || expected.is_empty() && found.is_empty();
        assert!(exact, "{what}: {name} is {found:?}, not {expected:?}");
    }
    let more: Vec<_> = variables.keys().filter(|name| name.contains("CREDENTIAL")).collect();
    assert!(more.is_empty(), "{what}: {more:?}");
    assert!(!variables.contains_key("AUTHORIZATION"), "{what}: the service has the token");
}

pub async fn who_is_accepted_reaches_the_service_and_is_named(world: Arc<World>, kind: Kind) {
    let namespace = format!("{}-accepted", kind.name());
    let token = world.orders(&namespace);
    let (service, verifier) = (Service::start().await, world.verifier().await);
    let gateway = Gateway::start(kind, "orders", &verifier, service.address).await;
    gateway.until(&token, 200).await;
    let large = "c".repeat(6_000);
    for http_2 in [false, true] {
        for (method, body) in [
            (Method::GET, 0),
            (Method::HEAD, 0),
            (Method::POST, 0),
            (Method::POST, 300_000),
            (Method::PUT, 5),
            (Method::PATCH, 5),
            (Method::DELETE, 0),
            (Method::OPTIONS, 0),
        ] {
            let what = format!("{method} of {body} bytes, HTTP/2: {http_2}");
            let mut request = Request::builder()
                .method(method.clone())
                .uri("/orders/7?since=a%20day&scope=all")
                .header("authorization", bearer(&token));
            // More than the verifier takes: it is not shown them. By HTTP/2, Caddy takes less itself.
            let cookies = if http_2 && kind == Kind::Caddy { 0 } else { 3 };
            for number in 0..cookies {
                request = request.header("cookie", format!("{number}={large}"));
            }
            let request = request.body(vec![b'x'; body].into()).unwrap();
            let answer = gateway.send_by(request, http_2).await.unwrap();
            assert_eq!(answer.status, 200, "{what}");
            let seen = answer.seen();
            assert_eq!(seen.method, method.as_str(), "{what}");
            assert_eq!(
                (seen.target.as_str(), seen.body),
                ("/orders/7?since=a%20day&scope=all", body),
                "{what}"
            );
            assert_told(&world, &namespace, "reports-nightly", "orders:read", &answer, &what);
        }
    }
    let request = Request::get("/").header("AUTHORIZATION", format!("bearer {token}"));
    assert_eq!(gateway.send(empty(request)).await.unwrap().status, 200, "by another spelling");
}

pub async fn who_is_refused_does_not_reach_the_service(world: Arc<World>, kind: Kind) {
    let namespace = format!("{}-refused", kind.name());
    let token = world.orders(&namespace);
    let revoked = world.token(&namespace, "revoked", "expiresIn: 1h");
    let poor = world.token(&namespace, "poor", "expiresIn: 1h, scopes: []");
    let (service, verifier) = (Service::start().await, world.verifier().await);
    let gateway = Gateway::start(kind, "orders", &verifier, service.address).await;
    for token in [&token, &revoked] {
        gateway.until(token, 200).await;
    }
    gateway.until(&poor, 403).await;
    world.kubectl(&[
        "patch",
        "atok/revoked",
        "-n",
        &namespace,
        "--type=merge",
        "-p",
        r#"{"spec":{"revoked":true}}"#,
    ]);
    gateway.until(&revoked, 401).await;
    let mistyped = format!("{}0", &token[..token.len() - 1]);
    let mistyped = if mistyped == token { format!("{}1", &token[..token.len() - 1]) } else { mistyped };
    let before = service.requests();
    for http_2 in [false, true] {
        for (authorization, status, error) in [
            (&[][..], 401, ""),
            (&[bearer("hunter2")][..], 401, "invalid_token"),
            (&[bearer(&mistyped)], 401, "invalid_token"),
            (&[bearer(&revoked)], 401, "invalid_token"),
            (&[bearer("")], 401, ""),
            (std::slice::from_ref(&token), 401, "invalid_request"),
            (&[format!("Basic {token}")], 401, "invalid_request"),
            (&[bearer(&poor)], 403, "insufficient_scope"),
            (&[bearer("x"), bearer(&token)], 401, ""),
            (&[bearer(&token), bearer("x")], 401, ""),
            (&[bearer(&token), bearer(&token)], 401, ""),
        ] {
            for (method, body) in [(Method::GET, 0), (Method::HEAD, 0), (Method::POST, 100_000)] {
                let what = format!("{method} with {authorization:?}, HTTP/2: {http_2}");
                let mut request = Request::builder().method(method).uri("/orders/7?access_token=x");
                for value in authorization {
                    request = request.header("authorization", value);
                }
                // What a service might believe of who has passed a gateway.
                request = request.header("x-credential-name", "admin").header("x-forwarded-user", "admin");
                let request = request.body(vec![b'x'; body].into()).unwrap();
                let answer = gateway.send_by(request, http_2).await.unwrap();
                // nginx does not take a request with two such headers at all.
                let twice = kind == Kind::Nginx && authorization.len() > 1;
                assert_eq!(answer.status, if twice { 400 } else { status }, "{what}");
                let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
                // nginx passes on the challenge of a 401 alone.
                if !twice && (kind != Kind::Nginx || status == 401) {
                    assert_eq!(challenges.len(), 1, "{what}");
                    let challenge = challenges[0].to_str().unwrap();
                    assert!(
                        challenge.starts_with("Bearer realm=") && challenge.contains(error),
                        "{what}: {challenge}"
                    );
                }
                assert!(!answer.headers.keys().any(|name| name.as_str().contains("credential")), "{what}");
            }
        }
    }
    assert_eq!(service.requests(), before, "somebody passed");
    // More than one credential is told apart: the one of another audience is nobody here.
    world.kubectl(&[
        "patch",
        "cred/reports",
        "-n",
        &namespace,
        "--type=merge",
        "-p",
        r#"{"spec":{"audiences":["https://else.example"]}}"#,
    ]);
    gateway.until(&token, 401).await;
}

pub async fn nobody_says_himself_who_he_is(world: Arc<World>, kind: Kind) {
    // The route takes who has no scopes, so that there is an empty header in the verifier's answer.
    let namespace = "shop";
    let token = world.token(namespace, kind.name(), "expiresIn: 1h, scopes: []");
    let (service, verifier) = (Service::start().await, world.verifier().await);
    let gateway = Gateway::start(kind, "orders-of-the-shop", &verifier, service.address).await;
    gateway.until(&token, 200).await;
    let spellings: [fn(&str) -> String; 7] = [
        |name| format!("x-credential-{name}"),
        |name| format!("X-CREDENTIAL-{}", name.to_uppercase()),
        |name| format!("x_credential_{}", name.replace('-', "_")),
        |name| format!("X_Credential-{}", name.replace('-', "_")),
        |name| format!("x-credential_{name}"),
        |name| format!("x.credential.{name}"),
        |name| format!("x~credential~{name}"),
    ];
    for http_2 in [false, true] {
        for told in TOLD {
            let name = told.to_lowercase().replace('_', "-");
            for spelling in spellings {
                let spelled = spelling(&name);
                let what = format!("{spelled}, HTTP/2: {http_2}");
                let mut request = Request::get("/").header("authorization", bearer(&token));
                for value in ["admin", "", "root"] {
                    request = request.header(&spelled, value);
                }
                let answer = gateway.send_by(empty(request), http_2).await.unwrap();
                assert_eq!(answer.status, 200, "{what}");
                assert_told(&world, namespace, kind.name(), "", &answer, &what);
            }
        }
    }
    // Without a token they are worth nothing; see who_is_refused_does_not_reach_the_service. And none is taken out of the
    // gateway's hands by being called a matter of one connection.
    let all = TOLD.map(|name| format!("x-credential-{}", name.to_lowercase().replace('_', "-"))).join(", ");
    let request = Request::get("/").header("authorization", bearer(&token)).header("connection", &all);
    let answer = gateway.send(empty(request.header("x-credential-name", "admin"))).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_told(&world, namespace, kind.name(), "", &answer, "connection");
    let request = Request::get("/").header("authorization", bearer(&token));
    let request = request.header("connection", "authorization");
    let before = service.requests();
    let answer = gateway.send(empty(request)).await.unwrap();
    assert!(answer.status == 401 || answer.status == 200 && service.requests() == before + 1);
}

pub async fn the_end_of_a_token_is_exact(world: Arc<World>, kind: Kind) {
    let namespace = format!("{}-end", kind.name());
    let lasting = world.orders(&namespace);
    let (service, verifier) = (Service::start().await, world.verifier().await);
    let gateway = Gateway::start(kind, "orders", &verifier, service.address).await;
    let end = now() + SignedDuration::from_secs(8);
    let token = world.token(&namespace, "short", &format!("expiresAt: '{end}'"));
    gateway.until(&token, 200).await;
    let (mut accepted, mut refused) = (0, 0);
    while now() < end + SignedDuration::from_secs(1) {
        let (before, told, after) = (now(), gateway.get(&token).await.status, now());
        match told {
            200 => {
                assert!(before < end, "accepted {:?} after its end", before.duration_since(end));
                accepted += 1;
            }
            401 => {
                assert!(after >= end, "refused {:?} before its end", after.duration_until(end));
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert!(accepted > 10 && refused > 10, "{accepted} accepted, {refused} refused");
    assert_eq!(gateway.get(&lasting).await.status, 200);
}

pub async fn without_a_verifier_nobody_passes(world: Arc<World>, kind: Kind) {
    let token = world.orders(&format!("{}-down", kind.name()));
    let (service, mut verifier) = (Service::start().await, world.verifier().await);
    let gateway = Gateway::start(kind, "orders", &verifier, service.address).await;
    gateway.until(&token, 200).await;
    verifier.kill();
    let before = service.requests();
    for _ in 0..20 {
        let status = gateway.get(&token).await.status;
        assert!(kind.without_an_answer().contains(&status), "{status}");
    }
    assert_eq!(service.requests(), before);
    verifier.start().await;
    gateway.until(&token, 200).await;
}

pub async fn a_verifier_that_does_not_answer_lets_nobody_pass(world: Arc<World>, kind: Kind) {
    let token = world.orders(&format!("{}-slow", kind.name()));
    let (service, verifier) = (Service::start().await, world.verifier().await);
    let gateway = Gateway::start(kind, "orders", &verifier, service.address).await;
    gateway.until(&token, 200).await;
    verifier.pause();
    let before = service.requests();
    let status = timeout(kind.patience(), gateway.get(&token)).await.expect("an answer in time").status;
    assert!(kind.without_an_answer().contains(&status), "{status}");
    assert_eq!(service.requests(), before);
    verifier.resume();
    gateway.until(&token, 200).await;
    // What was asked meanwhile lets nobody in later.
    assert_eq!(gateway.get("hunter2").await.status, 401);
}

pub async fn a_verifier_that_is_not_up_to_date_lets_nobody_pass(world: Arc<World>, kind: Kind) {
    let token = world.orders(&format!("{}-stale", kind.name()));
    let (verifier, mut relay) = world.strict_verifier().await;
    let service = Service::start().await;
    let gateway = Gateway::start(kind, "orders", &verifier, service.address).await;
    gateway.until(&token, 200).await;
    relay.cut();
    let deadline = Instant::now() + DEADLINE;
    let answer = loop {
        let answer = gateway.get(&token).await;
        if answer.status != 200 {
            break answer;
        }
        assert!(Instant::now() < deadline, "it trusts what is old");
        sleep(Duration::from_millis(50)).await;
    };
    // Not 401: the token is good, and nobody is to throw it away.
    assert_eq!((answer.status, &answer.headers["retry-after"]), (503, &"1".parse().unwrap()));
    let before = service.requests();
    for token in [&token, "hunter2"] {
        assert_eq!(gateway.get(token).await.status, 503);
    }
    assert_eq!(service.requests(), before);
    relay.mend().await;
    gateway.until(&token, 200).await;
}

pub async fn by_tls_only_the_right_verifier_is_believed(world: Arc<World>, kind: Kind) {
    let token = world.orders(&format!("{}-tls", kind.name()));
    let (service, mut verifier) = (Service::start().await, world.verifier_with_tls().await);
    let gateway = Gateway::start(kind, "orders", &verifier, service.address).await;
    gateway.until(&token, 200).await;
    assert_eq!(gateway.get("hunter2").await.status, 401);
    // Who is not vouched for may say what he likes.
    let other = world.verifier_with_tls().await;
    verifier.authority.clone_from(&other.authority);
    let gateway = Gateway::start(kind, "orders", &verifier, service.address).await;
    let before = service.requests();
    for _ in 0..5 {
        let status = gateway.get(&token).await.status;
        assert!(kind.without_an_answer().contains(&status), "{status}");
    }
    assert_eq!(service.requests(), before);
}

/// Not of a gateway: a service asks for itself, by curl and by an OAuth library.
pub async fn a_service_introspects(world: Arc<World>) {
    let token = world.orders("introspection");
    let verifier = world.verifier_with_tls().await;
    for account in ["orders", "others"] {
        world.kubectl(&["create", "serviceaccount", account]);
    }
    for program in ["introspect.sh", "introspect.py"] {
        let deadline = Instant::now() + DEADLINE;
        let told = loop {
            match world.introspect(program, &verifier, "orders", &token) {
                Ok(told) if told["active"] == true => break told,
                // The verifier and RBAC hear of it in a moment.
                other => assert!(Instant::now() < deadline, "{program}: {other:?}"),
            }
            sleep(Duration::from_millis(200)).await;
        };
        assert_eq!(
            (&told["username"], &told["scope"]),
            (&"introspection/reports".into(), &"orders:read".into())
        );
        // A stranger chooses what is asked about, and gets no more than an answer.
        let hostile =
            ["hunter2", "x\"\nurl = \"http://127.0.0.1:1", "@/etc/passwd", "$(exit 1)", "x&token=y"];
        for token in hostile {
            let told = world.introspect(program, &verifier, "orders", token).unwrap();
            assert_eq!(told, serde_json::json!({"active": false}), "{program}: {token}");
        }
        let refused = world.introspect(program, &verifier, "others", &token).unwrap_err();
        assert!(refused.contains("403"), "{program}: {refused}");
    }
}
