mod limits;
mod matrix;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use data_encoding::BASE64;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header::WWW_AUTHENTICATE};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    Source, Verifier,
    follow::Sink,
    pulse::Moment,
    routes::Routes,
    service::{Answer, Introspection, Peer, Service},
};
use crate::{
    api::{ApiToken, Credential},
    domain::{
        clock::Clock,
        digest::{self, Subject},
        keyring::Key,
        reach::Reach,
        token::{Prefix, Token},
    },
};

const NOW: i64 = 1_800_000_000;
const TOKEN_UID: &str = "11111111-1111-4111-8111-111111111111";
const CREDENTIAL_UID: &str = "22222222-2222-4222-8222-222222222222";
const OTHER_UID: &str = "33333333-3333-4333-8333-333333333333";
const ROUTES: &str = "routes:
- {name: orders, audiences: [orders, other]}
- {name: write, audiences: [orders], scopes: ['orders:read', 'orders:write']}
- {name: read, audiences: [orders], scopes: ['orders:read']}
- {name: shop, audiences: [orders], namespaces: [shop]}
- {name: elsewhere, audiences: [orders], namespaces: [elsewhere]}
";

const NANOSECOND: SignedDuration = SignedDuration::from_nanos(1);

/// Changes one thing of a valid state.
type Change = fn(&mut World);

struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanosecond(self.0.load(Ordering::Relaxed).into()).unwrap()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

/// A valid state. A test changes one thing of it.
struct World {
    tokens: Vec<Value>,
    credentials: Vec<Value>,
    keys: Vec<Key>,
    now: Timestamp,
    seen: Option<SignedDuration>,
    route: &'static str,
    headers: HeaderMap,
    token: String,
}

fn key(seed: u64) -> Key {
    Key::draw(at(-10_000), &mut StdRng::seed_from_u64(seed))
}

fn drawn(seed: u64) -> Token {
    Token::draw(&Prefix::default(), &mut StdRng::seed_from_u64(seed))
}

fn digest_of(key: &Key, uid: &str, serial: i64, token: &Token) -> String {
    digest::digest(key, &Subject { uid: uid.to_owned(), serial, term: None }, token)
}

fn digest_in_term(serial: i64, term: i64, token: &Token) -> String {
    digest::digest(&key(1), &Subject { uid: TOKEN_UID.to_owned(), serial, term: Some(term) }, token)
}

impl World {
    fn valid() -> Self {
        let value = drawn(1);
        let token = json!({
            "metadata": {"name": "t", "namespace": "shop", "uid": TOKEN_UID, "creationTimestamp": at(-100).to_string()},
            "spec": {"credentialRef": {"name": "c"}, "expiresAt": at(100).to_string()},
            "status": {
                "state": "Active", "serial": 0, "tokenId": value.id(), "credentialUid": CREDENTIAL_UID,
                "digest": digest_of(&key(1), TOKEN_UID, 0, &value), "issuedAt": at(-99).to_string(),
            },
        });
        let credential = json!({
            "metadata": {"name": "c", "namespace": "shop", "uid": CREDENTIAL_UID},
            "spec": {"audiences": ["orders", "billing"], "scopes": ["orders:read", "billing:read"]},
            "status": {"state": "Active"},
        });
        let mut world = Self {
            tokens: vec![token],
            credentials: vec![credential],
            keys: vec![key(1)],
            now: at(0),
            seen: Some(SignedDuration::ZERO),
            route: "/orders",
            headers: HeaderMap::new(),
            token: value.expose().to_owned(),
        };
        world.bearer("Bearer");
        world
    }

    /// A client secret in place of the token.
    fn client_secret() -> Self {
        let mut world = Self::valid();
        let value = drawn(1);
        world.tokens.clear();
        world.credentials[0]["spec"]["type"] = json!("ClientSecret");
        world.credentials[0]["status"]["material"] = json!({
            "serial": 3, "id": value.id(), "digest": digest_of(&key(1), CREDENTIAL_UID, 3, &value),
            "issuedAt": at(-99).to_string(), "expiresAt": at(100).to_string(),
        });
        world
    }

    /// A token that renews every 30 minutes. It lost a value once, so that the serial is ahead of the term. Its bearer has
    /// the previous value, which ends at 100.
    fn renewed() -> Self {
        let mut world = Self::valid();
        let (previous, current) = (drawn(1), drawn(2));
        world.tokens[0]["metadata"]["creationTimestamp"] = json!(at(100 - 2 * 3600).to_string());
        world.tokens[0]["spec"] =
            json!({"credentialRef": {"name": "c"}, "expiresIn": "1h", "renewBefore": "30m"});
        let status = &mut world.tokens[0]["status"];
        status["serial"] = json!(4);
        status["term"] = json!(3);
        status["tokenId"] = json!(current.id());
        status["digest"] = json!(digest_in_term(4, 3, &current));
        status["previous"] = json!({
            "serial": 3, "term": 2, "tokenId": previous.id(), "digest": digest_in_term(3, 2, &previous),
            "expiresAt": at(100).to_string(),
        });
        world
    }

    fn bearer(&mut self, scheme: &str) {
        self.headers.insert("authorization", format!("{scheme} {}", self.token).parse().unwrap());
    }

    fn basic(&mut self, user: &str) {
        let encoded = BASE64.encode(format!("{user}:{}", self.token).as_bytes());
        self.headers.insert("authorization", format!("Basic {encoded}").parse().unwrap());
    }

    fn service(&self) -> Service {
        let clock = SetClock(AtomicI64::new(self.now.as_nanosecond().try_into().unwrap()));
        let source = Source {
            namespace: "credential-operator".to_owned(),
            keyring_secret: "keyring".to_owned(),
            reach: Reach::default(),
            max_staleness: Duration::from_secs(30),
        };
        let verifier = Verifier::new(source, Arc::new(clock));
        if let Some(ago) = self.seen {
            let wall = SetClock(AtomicI64::new((self.now - ago).as_nanosecond().try_into().unwrap()));
            for pulse in verifier.tokens.iter().chain(&verifier.credentials).chain([&verifier.keys]) {
                pulse.beat(Moment::now(&wall));
            }
        }
        for credential in &self.credentials {
            Sink::<Credential>::put(&verifier, &serde_json::from_value(credential.clone()).unwrap());
        }
        for token in &self.tokens {
            Sink::<ApiToken>::put(&verifier, &serde_json::from_value(token.clone()).unwrap());
        }
        let entries = self.keys.iter().map(|key| (key.id().to_owned(), ByteString(key.expose().to_vec())));
        let data: BTreeMap<_, _> = entries.collect();
        Sink::<Secret>::put(&verifier, &Secret { data: Some(data), ..Secret::default() });
        let introspection = Introspection { reviewer: None, issuer: "us".to_owned() };
        Service::new(Arc::new(verifier), Routes::read(ROUTES).unwrap(), Some(introspection))
    }

    async fn forward_auth(&self) -> Answer {
        let mut request = Request::get(format!("/forward-auth{}", self.route)).body(Full::default()).unwrap();
        *request.headers_mut() = self.headers.clone();
        self.service().answer(request, Peer::default()).await
    }

    async fn introspect(&self) -> (StatusCode, Value) {
        let body: Full<Bytes> = format!("token_type_hint=access_token&token={}", self.token).into();
        let request = Request::post(format!("/introspect{}", self.route))
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
            .body(body)
            .unwrap();
        let answer = self.service().answer(request, Peer { is_authenticated: true }).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

/// What a case is to end in, at both protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Accepted,
    Refused,
    Forbidden,
    Unavailable,
}

async fn expect(what: &str, world: &World, expected: Expected) {
    let answer = world.forward_auth().await;
    let challenge = answer
        .headers()
        .get(WWW_AUTHENTICATE)
        .map(|value| value.to_str().unwrap().to_owned())
        .unwrap_or_default();
    let (status, error) = match expected {
        Expected::Accepted => (200, ""),
        Expected::Refused => (401, "error=\"invalid_token\""),
        Expected::Forbidden => (403, "error=\"insufficient_scope\""),
        Expected::Unavailable => (503, ""),
    };
    assert_eq!(answer.status(), status, "{what}");
    assert!(challenge.contains(error), "{what}: {challenge}");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    match expected {
        Expected::Accepted => assert_eq!(body, ""),
        Expected::Refused | Expected::Forbidden => assert_eq!(body, "refused\n", "{what}"),
        Expected::Unavailable => {}
    }
    let (status, told) = world.introspect().await;
    match expected {
        Expected::Accepted => assert_eq!((status, &told["active"]), (StatusCode::OK, &json!(true)), "{what}"),
        Expected::Refused | Expected::Forbidden => {
            assert_eq!((status, told), (StatusCode::OK, json!({"active": false})), "{what}");
        }
        Expected::Unavailable => assert_eq!(status, 503, "{what}"),
    }
}

#[tokio::test]
async fn a_renewed_token_has_two_values_each_until_its_end_by_the_spec() {
    let current = |world: &mut World| {
        world.token = drawn(2).expose().to_owned();
        world.bearer("Bearer");
    };
    let cases: &[(&str, Change, Expected)] = &[
        ("the previous value", |_| {}, Expected::Accepted),
        ("a nanosecond before its end", |world| world.now = at(100) - NANOSECOND, Expected::Accepted),
        ("at its end", |world| world.now = at(100), Expected::Refused),
        (
            "said to end later",
            |world| {
                world.tokens[0]["status"]["previous"]["expiresAt"] = json!(at(1000).to_string());
                world.now = at(100);
            },
            Expected::Refused,
        ),
        (
            "said to be of a later term",
            |world| world.tokens[0]["status"]["previous"]["term"] = json!(3),
            Expected::Refused,
        ),
        (
            "said to be of another number",
            |world| world.tokens[0]["status"]["previous"]["serial"] = json!(2),
            Expected::Refused,
        ),
        (
            "the end of the token brought forward",
            |world| world.tokens[0]["spec"]["expiresAt"] = json!(at(0).to_string()),
            Expected::Refused,
        ),
        ("revoked", |world| world.tokens[0]["spec"]["revoked"] = json!(true), Expected::Refused),
        (
            "put into the place of the current one",
            |world| {
                let status = &mut world.tokens[0]["status"];
                (status["tokenId"], status["digest"]) =
                    (status["previous"]["tokenId"].clone(), status["previous"]["digest"].clone());
                status["previous"] = Value::Null;
            },
            Expected::Refused,
        ),
        (
            "and the token does not renew",
            |world| {
                world.tokens[0]["spec"] =
                    json!({"credentialRef": {"name": "c"}, "expiresAt": at(100).to_string()});
            },
            Expected::Refused,
        ),
    ];
    for (what, change, expected) in cases {
        let mut world = World::renewed();
        change(&mut world);
        expect(what, &world, *expected).await;
    }
    for (what, now, expected) in [
        ("the current value", at(0), Expected::Accepted),
        ("after the end of the previous", at(100), Expected::Accepted),
        ("a nanosecond before its own", at(1900) - NANOSECOND, Expected::Accepted),
        ("at its own", at(1900), Expected::Refused),
    ] {
        let mut world = World::renewed();
        current(&mut world);
        world.now = now;
        expect(what, &world, expected).await;
    }
}

#[tokio::test]
async fn a_miss_costs_as_many_codes_as_a_hit() {
    let codes = async |change: Change| {
        let mut world = World::valid();
        change(&mut world);
        world.bearer("Bearer");
        let service = world.service();
        let mut request = Request::get("/forward-auth/orders").body(Full::<Bytes>::default()).unwrap();
        *request.headers_mut() = world.headers.clone();
        let before = digest::COMPUTED.get();
        service.answer(request, Peer::default()).await;
        digest::COMPUTED.get() - before
    };
    assert_eq!(codes(|_| {}).await, 1, "a hit");
    assert_eq!(codes(|world| world.tokens.clear()).await, 1, "an unknown id");
    assert_eq!(codes(|world| world.token = drawn(2).expose().to_owned()).await, 1, "an unknown token");
    assert_eq!(codes(|world| world.keys = vec![key(2)]).await, 1, "an unknown key");
    assert_eq!(codes(|world| world.tokens[0]["spec"]["revoked"] = json!(true)).await, 1, "a revoked one");
    assert_eq!(codes(|world| world.token = "hunter2".to_owned()).await, 0, "no token");
}

#[tokio::test]
async fn a_client_secret_is_judged_by_the_same_rules() {
    let cases: &[(&str, Change, Expected)] = &[
        ("valid", |_| {}, Expected::Accepted),
        ("at its end", |world| world.now = at(100), Expected::Refused),
        (
            "without an end",
            |world| {
                let material = &mut world.credentials[0]["status"]["material"];
                material.as_object_mut().unwrap().remove("expiresAt");
            },
            Expected::Accepted,
        ),
        ("inactive", |world| world.credentials[0]["spec"]["state"] = json!("Inactive"), Expected::Refused),
        (
            "terminating",
            |world| world.credentials[0]["metadata"]["deletionTimestamp"] = json!(at(0).to_string()),
            Expected::Refused,
        ),
        (
            "of another type",
            |world| world.credentials[0]["spec"]["type"] = json!("Opaque"),
            Expected::Refused,
        ),
        ("refused by a policy", |world| usable(world, "False", "PolicyViolation", 1), Expected::Refused),
        ("recreated", |world| world.credentials[0]["metadata"]["uid"] = json!(OTHER_UID), Expected::Refused),
        ("missing scope", |world| world.route = "/write", Expected::Forbidden),
        ("the one before, while it overlaps", |world| overlap(world, 10), Expected::Accepted),
        ("the one before, at the end of the overlap", |world| overlap(world, 0), Expected::Refused),
    ];
    for (what, change, expected) in cases {
        let mut world = World::client_secret();
        change(&mut world);
        expect(what, &world, *expected).await;
        // HTTP Basic is judged alike.
        let mut basic = World::client_secret();
        change(&mut basic);
        basic.basic(drawn(1).id());
        expect(&format!("{what}, by HTTP Basic"), &basic, *expected).await;
    }
}

/// What the status of the credential says of its values.
fn usable(world: &mut World, status: &str, reason: &str, generation: i64) {
    world.credentials[0]["status"]["state"] = json!("Failed");
    world.credentials[0]["status"]["conditions"] = json!([
        {"type": "Ready", "status": "False", "reason": "PolicyViolation", "message": "", "lastTransitionTime": at(0).to_string()},
        {
            "type": "Usable", "status": status, "reason": reason, "message": "", "observedGeneration": generation,
            "lastTransitionTime": at(0).to_string(),
        },
    ]);
}

fn overlap(world: &mut World, until: i64) {
    let material = &mut world.credentials[0]["status"]["material"];
    let (id, digest) = (material["id"].take(), material["digest"].take());
    let next = drawn(9);
    *material = json!({
        "serial": 4, "id": next.id(), "digest": digest_of(&key(1), CREDENTIAL_UID, 4, &next),
        "previous": {"serial": 3, "id": id, "digest": digest, "expiresAt": at(until).to_string()},
    });
}

#[tokio::test]
async fn http_basic_is_for_client_secrets_whose_id_is_the_user() {
    let mut world = World::client_secret();
    for user in ["", "c", drawn(2).id(), &drawn(1).id().to_lowercase()] {
        world.basic(user);
        assert_eq!(world.forward_auth().await.status(), 401, "{user}");
    }
    let mut world = World::valid();
    world.basic(drawn(1).id());
    assert_eq!(world.forward_auth().await.status(), 401, "an ApiToken");
}

#[tokio::test]
async fn one_authorization_header_of_any_case_is_accepted_and_nothing_else() {
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let mut world = World::valid();
        world.bearer(scheme);
        assert_eq!(world.forward_auth().await.status(), 200, "{scheme}");
    }
    let mut world = World::valid();
    world.headers.append("authorization", HeaderValue::from_static("Bearer x"));
    let answer = world.forward_auth().await;
    assert_eq!(answer.status(), 401);
    assert!(answer.headers()[WWW_AUTHENTICATE].to_str().unwrap().contains("error=\"invalid_request\""));
    let mut world = World::valid();
    world.headers.clear();
    world.headers.insert("x-forwarded-authorization", HeaderValue::from_static("Bearer x"));
    let answer = world.forward_auth().await;
    assert_eq!(answer.status(), 401);
    // Who presents nothing is told of no error (RFC 6750, section 3.1).
    assert_eq!(answer.headers()[WWW_AUTHENTICATE], "Bearer realm=\"credential-operator\"");
}

#[tokio::test]
async fn who_it_is_comes_from_us_alone() {
    let mut world = World::valid();
    for spoofed in ["x-credential-name", "x-credential-namespace", "x-credential-scopes", "x-forwarded-user"]
    {
        world.headers.insert(spoofed, HeaderValue::from_static("admin"));
    }
    let answer = world.forward_auth().await;
    let told = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(told("x-credential-namespace"), "shop");
    assert_eq!(told("x-credential-name"), "c");
    assert_eq!(told("x-credential-uid"), CREDENTIAL_UID);
    assert_eq!(told("x-credential-token"), "t");
    assert_eq!(told("x-credential-token-id"), drawn(1).id());
    assert_eq!(told("x-credential-scopes"), "orders:read billing:read");
    assert_eq!(told("x-credential-expires"), (NOW + 100).to_string());
    assert!(!answer.headers().contains_key("x-forwarded-user"));
}

#[tokio::test]
async fn introspection_tells_what_rfc_7662_names() {
    let (status, told) = World::valid().introspect().await;
    assert_eq!(status, 200);
    assert_eq!(
        told,
        json!({
            "active": true, "scope": "orders:read billing:read", "client_id": "shop/c", "username": "shop/c",
            "token_type": "Bearer", "exp": NOW + 100, "iat": NOW - 99, "sub": CREDENTIAL_UID,
            "aud": ["orders", "billing"], "iss": "us", "jti": drawn(1).id(),
        })
    );
}

#[tokio::test]
async fn an_introspection_that_makes_no_sense_is_told_so() {
    let form = "application/x-www-form-urlencoded";
    let token = World::valid().token;
    let cases = [
        ("GET", form, format!("token={token}"), 405),
        ("POST", "application/json", format!("{{\"token\":\"{token}\"}}"), 400),
        ("POST", form, String::new(), 400),
        ("POST", form, format!("token={token}&token={token}"), 400),
        ("POST", form, format!("tokens={token}"), 400),
        ("POST", form, format!("token={token}&x={}", "y".repeat(9000)), 413),
        ("POST", form, format!("x=%ff&token={token}"), 200),
    ];
    for (method, kind, body, expected) in cases {
        let request = Request::builder()
            .method(method)
            .uri("/introspect/orders")
            .header("content-type", kind)
            .body(Full::<Bytes>::from(body.clone()))
            .unwrap();
        let answer = World::valid().service().answer(request, Peer { is_authenticated: true }).await;
        assert_eq!(answer.status(), expected, "{method} {kind} {body}");
    }
}

#[tokio::test]
async fn nobody_introspects_unknown() {
    for header in [None, Some("Bearer x"), Some("Basic dTpw")] {
        let mut request = Request::post("/introspect/orders")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::<Bytes>::from("token=x"))
            .unwrap();
        if let Some(header) = header {
            request.headers_mut().insert("authorization", HeaderValue::from_static(header));
        }
        let answer = World::valid().service().answer(request, Peer::default()).await;
        assert_eq!(answer.status(), 401, "{header:?}");
        assert!(answer.headers().contains_key(WWW_AUTHENTICATE));
    }
}

#[tokio::test]
async fn other_paths_are_none() {
    for path in
        ["/", "/forward-auth/", "/forward-auth/none", "/forward-authx", "/introspect/none", "/metrics"]
    {
        let mut request = Request::get(path).body(Full::<Bytes>::default()).unwrap();
        *request.headers_mut() = World::valid().headers;
        let answer = World::valid().service().answer(request, Peer { is_authenticated: true }).await;
        assert_eq!(answer.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn a_keyring_that_is_not_there_any_more_is_not_used_any_more() {
    let world = World::valid();
    let service = world.service();
    let status = async || {
        let mut request = Request::get("/forward-auth/orders").body(Full::<Bytes>::default()).unwrap();
        *request.headers_mut() = world.headers.clone();
        service.answer(request, Peer::default()).await.status()
    };
    let keyring = Secret {
        data: Some([(key(1).id().to_owned(), ByteString(key(1).expose().to_vec()))].into()),
        ..Secret::default()
    };
    let verifier = service.verifier();
    Sink::<Secret>::begin(verifier, None);
    assert_eq!(status().await, 200, "while it is read anew");
    Sink::<Secret>::put(verifier, &keyring);
    Sink::<Secret>::end(verifier, None);
    assert_eq!(status().await, 200);
    // Its deletion fell into the time before it was read anew.
    Sink::<Secret>::begin(verifier, None);
    Sink::<Secret>::end(verifier, None);
    assert_eq!(status().await, 503);
    Sink::<Secret>::put(verifier, &keyring);
    assert_eq!(status().await, 200);
}
