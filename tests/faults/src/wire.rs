//! Between an operator and the API server: sees every request and every answer, and makes a plan's faults happen.
//!
//! It also confines the operator to one namespace, so that many can run on one control plane: lists and watches of what
//! is namespaced are asked for in that namespace alone, and that namespace and its policies alone. Bindings stay visible everywhere, as credentials bind roles
//! elsewhere.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use control_plane::Part;
use futures::{
    FutureExt,
    future::{BoxFuture, pending},
};
use http::{Method, Request as HttpRequest, Response, StatusCode, Uri, request::Parts};
use jiff::SignedDuration;
use kube::client::{Body as KubeBody, DynBody};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tower::{BoxError, Layer, Service, ServiceExt, buffer::Buffer};

use crate::{
    body::{Awaited, Body, Trouble, Watch},
    plan::{At, Fault, Injection, Kind, Request},
    space::RunClock,
};

/// What the supervisor of a run has to do.
pub enum Signal {
    /// Kill the operator of that number and start another.
    Kill(usize),
    /// Start one more.
    SecondLeader,
    /// Pause that part of the control plane, and say when it is paused.
    Pause(Part, oneshot::Sender<()>),
}

/// All wires of a run.
pub struct Wire {
    namespace: String,
    clock: Arc<RunClock>,
    signals: mpsc::UnboundedSender<Signal>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pending: VecDeque<Injection>,
    /// Since the last fault.
    number: usize,
    seen: HashMap<Request, usize>,
    writes: Vec<Request>,
}

/// The wire of one operator.
pub struct Instance {
    number: usize,
    wire: Arc<Wire>,
    dead: AtomicBool,
    watches: HashMap<&'static str, Awaited>,
    unheard: Option<&'static str>,
}

impl Wire {
    /// A wire on which these faults strike, one after the other.
    pub fn new(
        namespace: &str,
        clock: Arc<RunClock>,
        injections: &[Injection],
        signals: mpsc::UnboundedSender<Signal>,
    ) -> Arc<Self> {
        let state = State { pending: injections.iter().cloned().collect(), ..State::default() };
        Arc::new(Self { namespace: namespace.to_owned(), clock, signals, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of one more operator.
    pub fn instance(self: &Arc<Self>, number: usize) -> Arc<Instance> {
        self.deaf_instance(number, None)
    }

    /// The end of one that writes nothing, and never hears of events that contain `unheard`.
    pub fn verifier(self: &Arc<Self>, unheard: Option<&'static str>) -> Arc<Instance> {
        self.deaf_instance(usize::MAX, unheard)
    }

    fn deaf_instance(self: &Arc<Self>, number: usize, unheard: Option<&'static str>) -> Arc<Instance> {
        let kinds =
            [Kind::ApiTokens, Kind::Credentials, Kind::Secrets, Kind::ServiceAccounts, Kind::RoleBindings];
        let watches = kinds.map(|kind| (kind.resource(), Awaited::default())).into();
        Arc::new(Instance { number, wire: self.clone(), dead: AtomicBool::new(false), watches, unheard })
    }

    /// The faults that have not struck.
    pub fn not_struck(&self) -> usize {
        self.state().pending.len()
    }

    /// All writes so far, in their order.
    pub fn writes(&self) -> Vec<Request> {
        self.state().writes.clone()
    }

    /// Takes note of a write, and tells what is to happen to it.
    fn strike(&self, request: &Request) -> Option<Fault> {
        let mut state = self.state();
        state.writes.push(request.clone());
        state.number += 1;
        let number = state.number;
        let nth = state.seen.entry(request.clone()).or_default();
        *nth += 1;
        let nth = *nth;
        let next = state.pending.front()?;
        let strikes = match &next.at {
            At::Number(at) => *at == number,
            At::Request(at, n) => at == request && *n == nth,
        };
        if !strikes {
            return None;
        }
        state.number = 0;
        state.seen.clear();
        state.pending.pop_front().map(|injection| injection.fault)
    }
}

impl Instance {
    /// From now on it sends nothing.
    pub fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    fn await_trouble(&self, kind: Kind, trouble: Trouble) {
        if let Some(awaited) = self.watches.get(kind.resource()) {
            *awaited.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
        }
    }

    fn kill(&self) {
        self.die();
        let _ = self.wire.signals.send(Signal::Kill(self.number));
    }

    async fn exchange(self: Arc<Self>, request: HttpRequest<KubeBody>, inner: Inner) -> Answer {
        if self.dead.load(Ordering::SeqCst) {
            return pending().await;
        }
        let (mut parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.map_err(BoxError::from)?;
        let mut path = path(&parts, &bytes);
        // Named after the namespace, which differs from run to run.
        if path.resource == "credentialpolicies.status" {
            path.request.name = path.name.replace(&self.wire.namespace, "NAMESPACE");
        }
        // Named after the object and the time.
        if path.resource == "events" {
            path.request.name =
                path.name.rsplit_once('.').map_or_else(String::new, |(name, _)| name.to_owned());
        }
        if parts.method == Method::GET {
            confine(&mut parts, &self.wire.namespace);
            let awaited = self.watches.get(path.resource.as_str()).filter(|_| path.watch).cloned();
            let answer = forward(inner, parts, bytes).await;
            return answer.map(|answer| {
                let awaited = awaited.filter(|_| answer.status().is_success());
                answer.map(|body| match awaited {
                    Some(awaited) => Body::Watch(Watch::new(body, awaited, self.unheard)),
                    None => Body::Plain(body),
                })
            });
        }
        let Some(fault) = self.wire.strike(&path) else {
            return plain(forward(inner, parts, bytes).await);
        };
        match fault {
            Fault::KillBefore => {
                self.kill();
                return pending().await;
            }
            Fault::KillCommitted => {
                let _ = forward(inner, parts, bytes).await;
                self.kill();
                return pending().await;
            }
            Fault::KillAnswered => {
                let answer = forward(inner, parts, bytes).await;
                self.kill();
                return plain(answer);
            }
            Fault::LostAnswer => {
                let _ = forward(inner, parts, bytes).await;
                return Err("the connection was reset".into());
            }
            Fault::LateAnswer => {
                let _ = forward(inner, parts, bytes).await;
                return Ok(made_up(504));
            }
            Fault::Answer(status) => return Ok(made_up(status)),
            Fault::Freeze(kind) => self.await_trouble(kind, Trouble::Freeze),
            Fault::Break(kind) => self.await_trouble(kind, Trouble::Break),
            Fault::Expire(kind) => self.await_trouble(kind, Trouble::Expire),
            Fault::Pause(part) => {
                let (paused, is_paused) = oneshot::channel();
                let _ = self.wire.signals.send(Signal::Pause(part, paused));
                let _ = is_paused.await;
            }
            Fault::SecondLeader => {
                let _ = self.wire.signals.send(Signal::SecondLeader);
            }
            Fault::ClockBack => self.wire.clock.step(SignedDuration::from_hours(-1)),
            Fault::ClockForward => self.wire.clock.step(SignedDuration::from_hours(1)),
        }
        plain(forward(inner, parts, bytes).await)
    }
}

/// What a request is about.
pub(crate) struct Path {
    pub(crate) request: Request,
    watch: bool,
}

impl std::ops::Deref for Path {
    type Target = Request;

    fn deref(&self) -> &Request {
        &self.request
    }
}

pub(crate) fn path(parts: &Parts, body: &Bytes) -> Path {
    let mut segments: Vec<_> = parts.uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
    // api/v1/... or apis/GROUP/VERSION/...
    segments.drain(..if segments.first() == Some(&"apis") { 3 } else { 2 }.min(segments.len()));
    if segments.first() == Some(&"namespaces") && segments.len() > 2 {
        segments.drain(..2);
    }
    let mut resource = segments.first().map(ToString::to_string).unwrap_or_default();
    if let Some(subresource) = segments.get(2) {
        let _ = write!(resource, ".{subresource}");
    }
    let in_body = || {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        body["metadata"]["name"].as_str().unwrap_or_default().to_owned()
    };
    let name = segments.get(1).map_or_else(in_body, ToString::to_string);
    let verb = match parts.method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let watch = parts.uri.query().is_some_and(|query| query.contains("watch=true"));
    Path { request: Request { verb: verb.to_owned(), resource, name }, watch }
}

fn confine(parts: &mut Parts, namespace: &str) {
    let group = "/apis/credential-operator.io/v1alpha1";
    let alone = [
        (format!("{group}/credentialpolicies"), format!("labelSelector=run%3D{namespace}")),
        ("/api/v1/namespaces".to_owned(), format!("fieldSelector=metadata.name%3D{namespace}")),
    ];
    if let Some((path, selector)) = alone.iter().find(|(path, _)| parts.uri.path() == path) {
        let query = parts.uri.query().map(|query| format!("{query}&")).unwrap_or_default();
        redirect(parts, &format!("{path}?{query}{selector}"));
        return;
    }
    for (prefix, resource) in
        [("/api/v1", "secrets"), ("/api/v1", "serviceaccounts"), (group, "apitokens"), (group, "credentials")]
    {
        if parts.uri.path() == format!("{prefix}/{resource}") {
            let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            redirect(parts, &format!("{prefix}/namespaces/{namespace}/{resource}{query}"));
        }
    }
}

fn redirect(parts: &mut Parts, path_and_query: &str) {
    let mut uri = parts.uri.clone().into_parts();
    uri.path_and_query = path_and_query.parse().ok();
    if let Ok(uri) = Uri::from_parts(uri) {
        parts.uri = uri;
    }
}

// Not an async function: the compiler cannot prove of one that it may be sent (rust-lang/rust#102211).
fn forward(
    inner: Inner,
    parts: Parts,
    bytes: Bytes,
) -> BoxFuture<'static, Result<Response<Box<DynBody>>, BoxError>> {
    inner.oneshot(HttpRequest::from_parts(parts, KubeBody::from(bytes))).boxed()
}

fn plain(answer: Result<Response<Box<DynBody>>, BoxError>) -> Answer {
    answer.map(|answer| answer.map(Body::Plain))
}

fn made_up(status: u16) -> Response<Body> {
    let reason = match status {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status, "message": "made up by a test",
    });
    let mut answer = Response::new(Body::MadeUp(Some(Bytes::from(body.to_string()))));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == 429 {
        answer.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    }
    answer
}

type Connection = tower::util::BoxService<HttpRequest<KubeBody>, Response<Box<DynBody>>, BoxError>;
type Inner = Buffer<HttpRequest<KubeBody>, <Connection as Service<HttpRequest<KubeBody>>>::Future>;
type Answer = Result<Response<Body>, BoxError>;

/// Puts a wire under a client.
pub struct WireLayer(pub Arc<Instance>);

/// A client's requests, over a wire.
#[derive(Clone)]
pub struct Wired {
    inner: Inner,
    instance: Arc<Instance>,
}

impl Wired {
    /// The namespace that the operator is confined to.
    #[must_use]
    pub fn namespace(&self) -> String {
        self.instance.wire.namespace.clone()
    }
}

impl Layer<Connection> for WireLayer {
    type Service = Wired;

    fn layer(&self, inner: Connection) -> Wired {
        Wired { inner: Buffer::new(inner, 1024), instance: self.0.clone() }
    }
}

impl Service<HttpRequest<KubeBody>> for Wired {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<KubeBody>) -> Self::Future {
        self.instance.clone().exchange(request, self.inner.clone()).boxed()
    }
}
