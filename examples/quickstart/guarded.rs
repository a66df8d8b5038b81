//! A service that knows nothing of tokens, a gateway before it, and the verifier that the gateway asks.
//!
//! The gateway does what nginx, Traefik and Caddy do by the set-ups of docs/verify.md, and no more than that.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use credential_operator::{
    domain::reach::Reach,
    verifier::{self, Listen, ServeError, Source, Verifier, routes::Routes, service::Service},
};
use http::{HeaderMap, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use kube::Client;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::{
    OPERATOR, SystemClock,
    error::{Error, PATIENCE, While, within},
};

type Http = HttpClient<HttpConnector, Full<Bytes>>;

/// How long a gateway waits for the verifier.
const VERIFIER_WITHIN: Duration = Duration::from_secs(2);

/// What runs.
pub struct Guarded {
    /// Where the gateway is.
    pub url: String,
    http: Http,
    stop: oneshot::Sender<()>,
    verifier: JoinHandle<Result<(), ServeError>>,
    gateway: JoinHandle<()>,
}

impl Guarded {
    /// Starts a verifier as the user of that client, and the gateway and the service in front of it.
    pub async fn start(client: Client) -> Result<Self, Error> {
        let source = Source {
            namespace: OPERATOR.to_owned(),
            keyring_secret: format!("{OPERATOR}-keyring"),
            reach: Reach::default(),
            max_staleness: Duration::from_secs(30),
        };
        let knowing = Verifier::new(source, Arc::new(SystemClock));
        let service = Arc::new(Service::new(Arc::new(knowing), Routes::default(), None));
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = Listen { address: anywhere, tls: None, health: anywhere, stop_after: Duration::ZERO };
        let (stop, stopped) = oneshot::channel();
        let (bound, places) = oneshot::channel();
        let verifier = tokio::spawn(async move {
            // Nobody waits for it when the quickstart was stopped meanwhile.
            let bound = |address, _| {
                let _ = bound.send(address);
            };
            Box::pin(verifier::run(service, client, listen, bound, stopped)).await
        });
        let verifier_at = places.await.or_could_not("start the verifier")?;
        let listener = TcpListener::bind(anywhere).await.or_could_not("listen for the gateway")?;
        let url = format!("http://{}", listener.local_addr().or_could_not("listen for the gateway")?);
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        let gateway = tokio::spawn(pass_on(listener, http.clone(), verifier_at));
        Ok(Self { url, http, stop, verifier, gateway })
    }

    /// Calls the service, with a token or without, and tells what comes back.
    pub async fn call(&self, token: Option<&str>) -> Result<(StatusCode, String), Error> {
        let what = || format!("call {}", self.url);
        let mut request = Request::get(format!("{}/orders", self.url));
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::default()).or_could_not(what())?;
        let (parts, body) = self.http.request(request).await.or_could_not(what())?.into_parts();
        let body = body.collect().await.or_could_not(what())?.to_bytes();
        Ok((parts.status, String::from_utf8_lossy(&body).trim_end().to_owned()))
    }

    /// Waits until the service takes a token, which the verifier hears of a moment after it was issued.
    pub async fn until_accepted(&self, token: &str) -> Result<String, Error> {
        let accepted = async {
            loop {
                match self.call(Some(token)).await? {
                    (StatusCode::OK, said) => return Ok(said),
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        within(PATIENCE, "the service to take the token", accepted).await
    }

    /// Stops all three.
    pub async fn stop(self) {
        self.gateway.abort();
        // Where the verifier has ended already, nobody is there to be stopped.
        let _ = self.stop.send(());
        let _ = self.verifier.await;
    }
}

/// The gateway.
async fn pass_on(listener: TcpListener, http: Http, verifier: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let http = http.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let http = http.clone();
                async move { Ok::<_, Infallible>(judged(&http, verifier, request.headers()).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            // Who calls may go as he likes.
            let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// Asks the verifier with the caller's `Authorization` and nothing else; the service hears from the verifier alone who calls.
async fn judged(http: &Http, verifier: SocketAddr, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let mut question = Request::get(format!("http://{verifier}/forward-auth"));
    for value in headers.get_all(AUTHORIZATION) {
        question = question.header(AUTHORIZATION, value);
    }
    let asked = async { http.request(question.body(Full::default()).ok()?).await.ok() };
    let told = tokio::time::timeout(VERIFIER_WITHIN, asked).await.ok().flatten();
    let (status, text) = match told {
        Some(told) if told.status() == StatusCode::OK => (StatusCode::OK, hello(told.headers())),
        Some(told) => (told.status(), String::new()),
        // Nobody passes when nobody can tell.
        None => (StatusCode::BAD_GATEWAY, String::new()),
    };
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer
}

/// The service.
fn hello(caller: &HeaderMap) -> String {
    let told = |name: &str| caller.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (namespace, name) = (told("x-credential-namespace"), told("x-credential-name"));
    format!("hello, {namespace}/{name} with {}\n", told("x-credential-scopes"))
}
