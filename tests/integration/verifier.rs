//! The verifier on a real API server, as its own `ServiceAccount`: what it accepts follows what there is.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use control_plane::Part;
use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential},
    domain::reach::Reach,
    verifier::{
        self, Listen, ServeError, Source, Verifier,
        routes::Routes,
        service::{Introspection, Service},
    },
};
use data_encoding::BASE64;
use http::{Method, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client as HttpClient, rt::TokioExecutor};
use jiff::SignedDuration;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec},
    core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
    client::Body,
};
use oauth2::{AccessToken, ClientId, IntrospectionUrl, TokenIntrospectionResponse, basic::BasicClient};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::service_fn;

use crate::support::{DEADLINE, KEYRING, OPERATOR_NAMESPACE, Space, SystemClock, World, credential, token};

crate::tests![
    what_is_accepted_follows_the_token,
    what_is_accepted_follows_the_credential,
    a_client_secret_opens_by_http_basic_until_its_overlap_ends,
    an_oauth_client_introspects_if_kubernetes_lets_it,
    what_it_answers_last_is_as_true_as_what_it_answered_first,
    without_the_right_to_watch_it_reads_all_only_now_and_then,
    its_account_may_do_no_more,
];

/// Tests that need the control plane, a clock or the keyring to themselves.
pub mod verifier_alone {
    use credential_operator::domain::clock::Clock;

    use super::{
        ApiToken, ApiTokenState, Arc, Asked, Body, Client, Duration, Instant, KEYRING, Notify,
        OPERATOR_NAMESPACE, Part, Request, Secret, SignedDuration, Space, SystemClock, World, credential,
        json, service_fn, sleep, token, verifiers_client,
    };

    crate::tests![
        where_nothing_happens_it_stays_up_to_date,
        an_api_server_that_stops_is_outlived_and_then_not_trusted,
        a_slow_answer_holds_up_no_revocation,
        a_new_key_refuses_no_valid_token
    ];

    async fn an_api_server_that_stops_is_outlived_and_then_not_trusted(world: Arc<World>, space: Space) {
        let clock = SystemClock::shared();
        let operator = world.operator(clock.clone()).await;
        let end = clock.now() + SignedDuration::from_secs(25);
        space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
        space.apply(&token("short", &format!("expiresAt: '{end}'"))).await;
        space.token("t", ApiTokenState::Active).await;
        space.token("short", ApiTokenState::Active).await;
        let (value, short) = (space.value("t-token").await, space.value("short-token").await);
        let patient = Asked::trusting(&world, Duration::from_mins(10)).await;
        let strict = Asked::trusting(&world, Duration::from_secs(10)).await;
        patient.until("", &short, 200).await;
        strict.until("", &value, 200).await;
        operator.stop().await;

        world.control_plane.pause(Part::ApiServer).unwrap();
        let paused = Instant::now();
        assert_eq!(strict.bearer("", &value).await, 200, "it is still fresh");
        while paused.elapsed() < Duration::from_secs(30) {
            assert_eq!(patient.bearer("", &value).await, 200);
            // Nobody can be asked, and it knows when each value ends.
            let (before, told, after) = (clock.now(), patient.bearer("", &short).await, clock.now());
            assert!(told == 200 || after >= end, "{told} before the end");
            assert!(told == 401 || before < end, "{told} after the end");
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(strict.bearer("", &value).await, 503, "it knows nothing for certain any more");
        assert_eq!(strict.health("/readyz").await, 503);
        assert_eq!(strict.health("/livez").await, 200, "to restart it would not help");
        world.control_plane.resume(Part::ApiServer).unwrap();
        strict.until("", &value, 200).await;
        assert_eq!(strict.health("/readyz").await, 200);
        // It follows again.
        space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
        for verifier in [patient, strict] {
            verifier.until("", &value, 401).await;
            verifier.stop().await;
        }
    }

    async fn where_nothing_happens_it_stays_up_to_date(world: Arc<World>, space: Space) {
        let operator = world.operator(SystemClock::shared()).await;
        space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
        space.token("t", ApiTokenState::Active).await;
        let value = space.value("t-token").await;
        operator.stop().await;
        let strict = Asked::trusting(&world, Duration::from_secs(10)).await;
        strict.until("", &value, 200).await;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(15) {
            assert_eq!(strict.bearer("", &value).await, 200, "after {:?}", started.elapsed());
            sleep(Duration::from_millis(50)).await;
        }
        strict.stop().await;
    }

    async fn a_slow_answer_holds_up_no_revocation(world: Arc<World>, space: Space) {
        let operator = world.operator(SystemClock::shared()).await;
        space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
        space.token("t", ApiTokenState::Active).await;
        let value = space.value("t-token").await;
        operator.stop().await;
        // It asks after silence, and is answered just in time.
        let asked = Arc::new(Notify::new());
        let (client, asks) = (verifiers_client(&world).await, asked.clone());
        let slow = service_fn(move |request: Request<Body>| {
            let (client, asks) = (client.clone(), asks.clone());
            async move {
                if request.uri().path().ends_with("/apitokens")
                    && request
                        .uri()
                        .query()
                        .is_some_and(|query| query.split('&').any(|part| part == "limit=1"))
                {
                    asks.notify_one();
                    sleep(Duration::from_millis(4500)).await;
                }
                client.send(request).await
            }
        });
        let verifier =
            Asked::by(Client::new(slow, "default"), SystemClock::shared(), Duration::from_secs(10)).await;
        verifier.until("", &value, 200).await;
        asked.notified().await;
        let revoked = Instant::now();
        space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
        verifier.until("", &value, 401).await;
        assert!(revoked.elapsed() < Duration::from_secs(2), "after {:?}", revoked.elapsed());
        verifier.stop().await;
    }

    async fn a_new_key_refuses_no_valid_token(world: Arc<World>, space: Space) {
        let clock = SystemClock::shared();
        let operator = world.operator(clock.clone()).await;
        let verifiers = [Asked::start(&world).await, Asked::start(&world).await];
        space.apply(&(credential("c") + "---\n" + &token("old", "expiresIn: 1y"))).await;
        space.token("old", ApiTokenState::Active).await;
        let old = space.value("old-token").await;
        let keyring = Space { client: space.client.clone(), namespace: OPERATOR_NAMESPACE.to_owned() };
        let request = json!({"metadata": {"annotations": {"credential-operator.io/rotate-requested-at": space.namespace}}});
        keyring.patch::<Secret>(KEYRING, request).await.unwrap();
        for round in 0..4 {
            let name = format!("t{round}");
            space.apply(&token(&name, "expiresIn: 1y")).await;
            space.token(&name, ApiTokenState::Active).await;
            let value = space.value(&format!("{name}-token")).await;
            for verifier in &verifiers {
                verifier.until("", &value, 200).await;
                assert_eq!(verifier.bearer("", &old).await, 200);
            }
            // The new key begins to sign on the way.
            clock.step(SignedDuration::from_mins(4));
        }
        operator.stop().await;
        for verifier in verifiers {
            verifier.stop().await;
        }
    }
}

async fn verifiers_client(world: &World) -> Client {
    let account = world.control_plane.service_account(OPERATOR_NAMESPACE, "credential-operator-verifier");
    account.await.unwrap().client().unwrap()
}

/// A verifier that runs, and how it is asked.
pub struct Asked {
    address: SocketAddr,
    health: SocketAddr,
    http: HttpClient<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

const ROUTES: &str = "routes:
- {name: orders, audiences: [orders], scopes: ['orders:read']}
- {name: elsewhere, audiences: [orders], namespaces: [elsewhere]}
";

impl Asked {
    pub async fn start(world: &World) -> Self {
        Self::trusting(world, Duration::from_secs(30)).await
    }

    async fn trusting(world: &World, max_staleness: Duration) -> Self {
        Self::by(verifiers_client(world).await, SystemClock::shared(), max_staleness).await
    }

    /// One that goes by that clock.
    pub async fn timed(world: &World, clock: Arc<SystemClock>) -> Self {
        Self::by(verifiers_client(world).await, clock, Duration::from_secs(30)).await
    }

    async fn by(client: Client, clock: Arc<SystemClock>, max_staleness: Duration) -> Self {
        let source = Source {
            namespace: OPERATOR_NAMESPACE.to_owned(),
            keyring_secret: KEYRING.to_owned(),
            reach: Reach::default(),
            max_staleness,
        };
        Self::of(client, clock, source).await
    }

    /// One that knows of that.
    pub async fn of(client: Client, clock: Arc<SystemClock>, source: Source) -> Self {
        let introspection = Introspection { reviewer: Some(client.clone()), issuer: "tests".to_owned() };
        let verifier = Arc::new(Verifier::new(source, clock));
        let service = Arc::new(Service::new(verifier, Routes::read(ROUTES).unwrap(), Some(introspection)));
        let any = "127.0.0.1:0".parse().unwrap();
        let listen = Listen { address: any, tls: None, health: any, stop_after: Duration::ZERO };
        let (stop, stopped) = oneshot::channel();
        let (bound, places) = oneshot::channel();
        let task = tokio::spawn(async move {
            let bound = |address, health| bound.send((address, health)).unwrap();
            Box::pin(verifier::run(service, client, listen, bound, stopped)).await
        });
        let (address, health) = places.await.unwrap();
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        Self { address, health, http, stop, task }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let (parts, body) = self.http.request(request).await.unwrap().into_parts();
        Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    }

    /// As a service with a token of Kubernetes, whatever client id a library would show.
    async fn send_as(&self, request: Request<Vec<u8>>, caller: &str) -> Response<Vec<u8>> {
        let (mut parts, body) = request.into_parts();
        parts.headers.insert(AUTHORIZATION, format!("Bearer {caller}").parse().unwrap());
        self.send(Request::from_parts(parts, Full::from(body))).await.map(|body| body.to_vec())
    }

    async fn authorized(&self, route: &str, authorization: &str) -> Response<Bytes> {
        let request = Request::get(format!("http://{}/forward-auth{route}", self.address));
        self.send(request.header(AUTHORIZATION, authorization).body(Full::default()).unwrap()).await
    }

    pub async fn bearer(&self, route: &str, value: &str) -> u16 {
        self.authorized(route, &format!("Bearer {value}")).await.status().as_u16()
    }

    async fn basic(&self, user: &str, password: &str) -> u16 {
        let encoded = BASE64.encode(format!("{user}:{password}").as_bytes());
        self.authorized("", &format!("Basic {encoded}")).await.status().as_u16()
    }

    async fn health(&self, path: &str) -> u16 {
        let request = Request::get(format!("http://{}{path}", self.health)).body(Full::default()).unwrap();
        self.send(request).await.status().as_u16()
    }

    /// Waits until a value is answered so.
    pub async fn until(&self, route: &str, value: &str, expected: u16) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = self.bearer(route, value).await;
            if status == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{route} answers {status}, not {expected}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn stop(self) {
        let _ = self.stop.send(());
        drop(self.http);
        self.task.await.unwrap().unwrap();
    }
}

async fn what_is_accepted_follows_the_token(world: Arc<World>, space: Space) {
    let verifier = Asked::start(&world).await;
    let spec = "audiences: [orders, credential-operator], scopes: ['orders:read']";
    space.apply(&crate::support::credential("c").replace("spec: {", &format!("spec: {{{spec}, "))).await;
    space.apply(&token("t", "expiresIn: 1h")).await;
    space.token("t", ApiTokenState::Active).await;
    let value = space.value("t-token").await;
    verifier.until("/orders", &value, 200).await;
    assert_eq!(verifier.bearer("/elsewhere", &value).await, 403);
    let told = verifier.authorized("/orders", &format!("Bearer {value}")).await;
    assert_eq!(told.headers()["x-credential-namespace"], *space.namespace);
    assert_eq!(told.headers()["x-credential-scopes"], "orders:read");
    let health = verifier.health("/metrics").await;
    assert_eq!((health, verifier.health("/readyz").await), (200, 200));

    space.patch::<ApiToken>("t", json!({"spec": {"scopes": []}})).await.unwrap();
    verifier.until("/orders", &value, 403).await;
    verifier.until("", &value, 200).await;
    // A Secret that is replaced brings a value that is not ours; the next one of ours is.
    space.api::<Secret>().delete("t-token", &DeleteParams::default()).await.unwrap();
    verifier.until("", &value, 401).await;
    space.token("t", ApiTokenState::Active).await;
    let next = space.value("t-token").await;
    verifier.until("", &next, 200).await;
    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    verifier.until("", &next, 401).await;
    verifier.stop().await;
}

async fn what_is_accepted_follows_the_credential(world: Arc<World>, space: Space) {
    let verifier = Asked::start(&world).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    let value = space.value("t-token").await;
    verifier.until("", &value, 200).await;
    for (state, expected) in [("Inactive", 401), ("Active", 200)] {
        space.patch::<Credential>("c", json!({"spec": {"state": state}})).await.unwrap();
        verifier.until("", &value, expected).await;
    }
    space.api::<Credential>().delete("c", &DeleteParams::default()).await.unwrap();
    verifier.until("", &value, 401).await;
    space.apply(&credential("c")).await;
    space.until::<ApiToken>("t", |token| token.is_none()).await;
    assert_eq!(verifier.bearer("", &value).await, 401, "another credential of the name");
    verifier.stop().await;
}

async fn login(space: &Space, serial: i64) -> [String; 2] {
    space.published("c", serial).await;
    let data = space.data("c-credential").await;
    ["client-id", "client-secret"].map(|key| String::from_utf8(data[key].clone()).unwrap())
}

async fn a_client_secret_opens_by_http_basic_until_its_overlap_ends(world: Arc<World>, space: Space) {
    let verifier = Asked::start(&world).await;
    let rotation = "rotation: {every: 1h, overlap: 1m}";
    space
        .apply(&credential("c").replace("spec: {", &format!("spec: {{type: ClientSecret, {rotation}, ")))
        .await;
    let [id, secret] = login(&space, 0).await;
    verifier.until("", &secret, 200).await;
    assert_eq!(verifier.basic(&id, &secret).await, 200);
    assert_eq!(verifier.basic("c", &secret).await, 401);
    space.patch::<Credential>("c", json!({"spec": {"rotation": {"revision": 1}}})).await.unwrap();
    let [next_id, next] = login(&space, 1).await;
    verifier.until("", &next, 200).await;
    assert_eq!((verifier.basic(&next_id, &next).await, verifier.basic(&id, &secret).await), (200, 200));
    // Without an overlap the one before ends at once.
    space
        .patch::<Credential>("c", json!({"spec": {"rotation": {"revision": 2, "overlap": null}}}))
        .await
        .unwrap();
    let [last_id, last] = login(&space, 2).await;
    verifier.until("", &last, 200).await;
    let all = [(&id, &secret), (&next_id, &next), (&last_id, &last)];
    for ((id, secret), expected) in all.into_iter().zip([401, 401, 200]) {
        assert_eq!(verifier.basic(id, secret).await, expected);
    }
    verifier.stop().await;
}

/// Who shows a token of Kubernetes, whatever client id and secret a library would.
struct Caller {
    verifier: Arc<Asked>,
    token: String,
}

impl<'c> oauth2::AsyncHttpClient<'c> for Caller {
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<oauth2::HttpResponse>> + Send + 'c>>;

    fn call(&'c self, request: oauth2::HttpRequest) -> Self::Future {
        Box::pin(async { Ok(self.verifier.send_as(request, &self.token).await) })
    }
}

/// A token of a new `ServiceAccount`, as a service has one.
async fn service_token(space: &Space, name: &str) -> String {
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let accounts = space.api::<ServiceAccount>();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
    let minted = accounts.create_token_request(name, &PostParams::default(), &request).await.unwrap();
    minted.status.unwrap().token
}

async fn let_introspect(space: &Space, account: &str) {
    let rights = format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {0}-introspects}}
rules: [{{nonResourceURLs: [/introspect], verbs: [create]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {0}-introspects}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {0}-introspects}}
subjects: [{{kind: ServiceAccount, name: {account}, namespace: {0}}}]
",
        space.namespace
    );
    space.apply(&rights).await;
}

async fn an_oauth_client_introspects_if_kubernetes_lets_it(world: Arc<World>, space: Space) {
    let verifier = Arc::new(Asked::start(&world).await);
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    let issued = space.token("t", ApiTokenState::Active).await.status.unwrap();
    let value = space.value("t-token").await;
    verifier.until("", &value, 200).await;
    let (may, may_not) = (service_token(&space, "may").await, service_token(&space, "may-not").await);
    let_introspect(&space, "may").await;

    let url = IntrospectionUrl::new(format!("http://{}/introspect", verifier.address)).unwrap();
    let oauth = BasicClient::new(ClientId::new("orders".to_owned())).set_introspection_url(url);
    let service = Caller { verifier: verifier.clone(), token: may };
    let introspect = async |value: &str| {
        let value = AccessToken::new(value.to_owned());
        oauth.introspect(&value).set_token_type_hint("access_token").request_async(&service).await
    };
    // Rights take a moment until every part of the API server knows of them.
    let deadline = Instant::now() + DEADLINE;
    let told = loop {
        match introspect(&value).await {
            Ok(told) => break told,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        sleep(Duration::from_secs(1)).await;
    };
    assert!(told.active());
    let identity = format!("{}/c", space.namespace);
    assert_eq!((told.username(), told.jti()), (Some(&*identity), issued.token_id.as_deref()));
    assert_eq!(
        (told.iss(), told.aud().unwrap().as_slice()),
        (Some("tests"), &["credential-operator".to_owned()][..])
    );
    let end = issued.expires_at.unwrap().timestamp().unwrap();
    assert_eq!(told.exp().unwrap().timestamp(), end.as_second());
    assert!(!introspect("cop_000000000000_nothing").await.unwrap().active());
    for (caller, status) in [(&*may_not, 403), ("made-up", 401)] {
        let request =
            Request::builder().method(Method::POST).uri(format!("http://{}/introspect", verifier.address));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.body(format!("token={value}").into_bytes()).unwrap();
        assert_eq!(verifier.send_as(request, caller).await.status(), StatusCode::from_u16(status).unwrap());
    }
    drop(service);
    Arc::into_inner(verifier).unwrap().stop().await;
}

async fn what_it_answers_last_is_as_true_as_what_it_answered_first(world: Arc<World>, space: Space) {
    let verifier = Asked::start(&world).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    let value = space.value("t-token").await;
    verifier.until("", &value, 200).await;
    let caller = service_token(&space, "slow").await;
    let_introspect(&space, "slow").await;
    let form = format!("token={value}");
    let request = |body: &str| {
        let request = Request::post(format!("http://{}/introspect", verifier.address));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        request.body(body.as_bytes().to_vec()).unwrap()
    };
    let deadline = Instant::now() + DEADLINE;
    while verifier.send_as(request(&form), &caller).await.status() != 200 {
        assert!(Instant::now() < deadline, "he may not ask");
        sleep(Duration::from_millis(500)).await;
    }

    // He is slow to ask, the verifier is told to stop, and then the token is revoked.
    let mut stream = TcpStream::connect(verifier.address).await.unwrap();
    let head = format!(
        "POST /introspect HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {caller}\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        form.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // By this it says that it waits for the rest.
    let mut continues = [0; 25];
    stream.read_exact(&mut continues).await.unwrap();
    assert_eq!(&continues, b"HTTP/1.1 100 Continue\r\n\r\n");
    let stopping = tokio::spawn(verifier.stop());
    sleep(Duration::from_millis(500)).await;
    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    stream.write_all(form.as_bytes()).await.unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    assert!(told.ends_with("{\"active\":false}"), "{told}");
    stopping.await.unwrap();
}

async fn without_the_right_to_watch_it_reads_all_only_now_and_then(world: Arc<World>, space: Space) {
    let rights = format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {0}-lists}}
rules:
- {{apiGroups: [credential-operator.io], resources: [credentials, apitokens], verbs: [list]}}
- {{apiGroups: [''], resources: [secrets], resourceNames: [{KEYRING}], verbs: [list]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {0}-lists}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {0}-lists}}
subjects: [{{kind: ServiceAccount, name: lists, namespace: {0}}}]
",
        space.namespace
    );
    space.apply(&rights).await;
    service_token(&space, "lists").await;
    let client =
        world.control_plane.service_account(&space.namespace, "lists").await.unwrap().client().unwrap();
    let sent = Arc::new(AtomicU32::new(0));
    let counted = sent.clone();
    let counting = service_fn(move |request: Request<Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let client = client.clone();
        async move { client.send(request).await }
    });
    let verifier =
        Asked::by(Client::new(counting, "default"), SystemClock::shared(), Duration::from_secs(30)).await;
    let deadline = Instant::now() + DEADLINE;
    // What it lists is true, so it is ready.
    while verifier.health("/readyz").await != 200 {
        assert!(Instant::now() < deadline, "it may not list");
        sleep(Duration::from_millis(100)).await;
    }
    let before = sent.load(Ordering::Relaxed);
    sleep(Duration::from_secs(6)).await;
    let sent = sent.load(Ordering::Relaxed) - before;
    assert!(sent <= 60, "{sent} requests in 6 s");
    verifier.stop().await;
}

/// What an account may do, by its own word.
async fn rights(client: Client, namespace: &str) -> BTreeSet<String> {
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) };
    let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let status = Api::all(client).create(&PostParams::default(), &review).await.unwrap().status.unwrap();
    assert!(!status.incomplete);
    let resources = status.resource_rules.into_iter().flat_map(|rule| {
        let (resources, names) =
            (rule.resources.unwrap_or_default(), rule.resource_names.unwrap_or_default());
        let what = format!("{} {names:?}", resources.join(","));
        rule.verbs.into_iter().map(move |verb| format!("{verb} {what}"))
    });
    let others = status.non_resource_rules.into_iter().flat_map(|rule| {
        let what = format!("{:?}", rule.non_resource_urls.unwrap_or_default());
        rule.verbs.into_iter().map(move |verb| format!("{verb} {what}"))
    });
    resources.chain(others).collect()
}

async fn its_account_may_do_no_more(world: Arc<World>, space: Space) {
    let account = |namespace: String, name: &'static str| {
        let world = world.clone();
        async move { world.control_plane.service_account(&namespace, name).await.unwrap().client().unwrap() }
    };
    service_token(&space, "nobody").await;
    let of_everybody = rights(account(space.namespace.clone(), "nobody").await, OPERATOR_NAMESPACE).await;
    let verifiers = rights(
        account(OPERATOR_NAMESPACE.to_owned(), "credential-operator-verifier").await,
        OPERATOR_NAMESPACE,
    )
    .await;
    let more: BTreeSet<_> = verifiers.difference(&of_everybody).cloned().collect();
    let reads = |what: &str| ["get", "list", "watch"].map(|verb| format!("{verb} {what}"));
    let introspection =
        ["tokenreviews", "subjectaccessreviews"].map(|reviews| format!("create {reviews} []"));
    let expected: BTreeSet<_> = reads("credentials,apitokens []")
        .into_iter()
        .chain(reads(&format!("secrets [\"{KEYRING}\"]")))
        .chain(introspection)
        .collect();
    assert_eq!(more, expected);
    let elsewhere = rights(
        account(OPERATOR_NAMESPACE.to_owned(), "credential-operator-verifier").await,
        &space.namespace,
    )
    .await;
    assert!(!elsewhere.iter().any(|right| right.contains("secrets")), "{elsewhere:?}");
}
