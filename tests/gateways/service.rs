//! The service behind a gateway, which answers with what it was sent, and who calls it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinHandle};

/// What the service was sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub body: usize,
    headers: Vec<(String, String)>,
}

impl Seen {
    /// All headers, named as CGI, WSGI and PHP would.
    pub fn variables(&self) -> BTreeMap<String, Vec<&str>> {
        let mut variables = BTreeMap::<_, Vec<_>>::new();
        for (name, value) in &self.headers {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
            variables.entry(name.chars().map(plain).collect()).or_default().push(value.as_str());
        }
        variables
    }
}

/// A running service.
pub struct Service {
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Service {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let counted = counted.clone();
                tokio::spawn(async move {
                    let answer = service_fn(|request| async {
                        counted.fetch_add(1, Ordering::Relaxed);
                        Ok::<_, Infallible>(answer(request).await)
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    // A gateway may end its connection as it likes.
                    let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { address, requests, task }
    }

    /// How many requests came so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    // Less what is made large on purpose: a gateway takes no answer of such a size.
    let headers = parts.headers.iter().filter(|(name, _)| name.as_str() != "cookie");
    let seen = Seen {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        body: body.len(),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect(),
    };
    // In a header, too, for who asks by HEAD.
    let text = serde_json::to_string(&seen).unwrap();
    Response::builder().header("x-seen", &text).body(Full::from(text)).unwrap()
}

/// What came back from a gateway.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
}

impl Answer {
    /// What the service says that it was sent.
    pub fn seen(&self) -> Seen {
        serde_json::from_str(self.headers["x-seen"].to_str().unwrap()).unwrap()
    }
}

/// Who calls, by HTTP/1.1 and by HTTP/2.
pub struct Caller {
    one: Client<HttpConnector, Full<Bytes>>,
    two: Client<HttpConnector, Full<Bytes>>,
}

impl Caller {
    pub fn new() -> Self {
        let builder = || Client::builder(TokioExecutor::new());
        Self { one: builder().build_http(), two: builder().http2_only(true).build_http() }
    }

    /// `None`: there is nobody.
    pub async fn send(&self, request: Request<Full<Bytes>>, by_http_2: bool) -> Option<Answer> {
        let client = if by_http_2 { &self.two } else { &self.one };
        let (parts, body) = client.request(request).await.ok()?.into_parts();
        body.collect().await.ok()?;
        Some(Answer { status: parts.status.as_u16(), headers: parts.headers })
    }
}
