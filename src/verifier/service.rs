//! One request and its answer, whatever brought it.

use std::sync::Arc;

use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CACHE_CONTROL, RETRY_AFTER},
};
use http_body_util::Full;
use hyper::body::{Body, Bytes};
use kube::Client;

use super::{
    Verifier,
    callers::Callers,
    forward_auth,
    introspection::{self, Asked},
    metrics::{Metrics, Protocol},
    routes::Routes,
};

/// An answer.
pub type Answer = Response<Full<Bytes>>;

pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// What is known of who sent a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// He showed a certificate that the verifier's authority for clients signed.
    pub is_authenticated: bool,
}

/// How introspection is offered.
#[derive(Clone)]
pub struct Introspection {
    /// By whom callers without a certificate are known; `None`: they are not.
    pub reviewer: Option<Client>,
    /// What tokens are said to be issued by.
    pub issuer: String,
}

/// Answers requests.
pub struct Service {
    verifier: Arc<Verifier>,
    routes: Routes,
    introspection: Option<(Callers, String)>,
    metrics: Metrics,
}

impl Service {
    /// Answers by what `verifier` knows; introspection only where it is wished.
    #[must_use]
    pub fn new(verifier: Arc<Verifier>, routes: Routes, introspection: Option<Introspection>) -> Self {
        let introspection = introspection.map(|wished| (Callers::new(wished.reviewer), wished.issuer));
        Self { verifier, routes, introspection, metrics: Metrics::default() }
    }

    /// What it answers by.
    #[must_use]
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    pub(super) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Answers a request.
    pub async fn answer<B: Body<Data = Bytes> + Send>(&self, request: Request<B>, peer: Peer) -> Answer
    where
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let now = self.verifier.now();
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let (protocol, (answer, outcome)) = if let Some(rest) = path.strip_prefix("/forward-auth") {
            let Some(route) = self.routes.find(rest) else {
                return no_such_path();
            };
            (Protocol::ForwardAuth, forward_auth::answer(&self.verifier, route, &parts.headers, now))
        } else if let Some(rest) = path.strip_prefix("/introspect")
            && let Some((callers, issuer)) = &self.introspection
        {
            let Some(route) = self.routes.find(rest) else {
                return no_such_path();
            };
            let (method, headers) = (&parts.method, &parts.headers);
            let asked = Asked { method, path, headers, body, peer };
            let answered = introspection::answer(&self.verifier, callers, issuer, route, asked).await;
            (Protocol::Introspection, answered)
        } else {
            return no_such_path();
        };
        self.metrics.note(protocol, outcome, now.elapsed());
        answer
    }
}

pub(super) fn body(text: impl Into<Bytes>) -> Full<Bytes> {
    Full::new(text.into())
}

/// Not the token's fault: who asks again later may be told.
pub(super) fn unavailable() -> Answer {
    let mut answer = Response::new(body("not up to date with the API server; ask again\n"));
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    answer
}

fn no_such_path() -> Answer {
    let mut answer = Response::new(body("no such path\n"));
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}
