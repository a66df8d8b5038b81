//! The verifier on a real API server, as its own `ServiceAccount`: what it accepts follows what there is.

pub mod introspection;
pub mod verifier_alone;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

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
use http::{Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client as HttpClient, rt::TokioExecutor};
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
use serde_json::json;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::service_fn;

use crate::support::{DEADLINE, KEYRING, OPERATOR_NAMESPACE, Space, SystemClock, World, credential, token};

crate::tests![
    what_is_accepted_follows_the_token,
    what_is_accepted_follows_the_credential,
    a_client_secret_opens_by_http_basic_until_its_overlap_ends,
    without_the_right_to_watch_it_reads_all_only_now_and_then,
    its_account_may_do_no_more,
];

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

/// A token of a new `ServiceAccount`, as a service has one.
async fn service_token(space: &Space, name: &str) -> String {
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let accounts = space.api::<ServiceAccount>();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
    let minted = accounts.create_token_request(name, &PostParams::default(), &request).await.unwrap();
    minted.status.unwrap().token
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
