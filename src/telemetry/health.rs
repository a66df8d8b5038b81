//! For kubelet and Prometheus, on a port of their own: `/livez`, `/readyz`, `/metrics`. Tells no secrets, needs no rights.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1::Builder,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// All the headers of a request, in bytes.
const MAX_HEADERS: usize = 16 * 1024;
/// For the whole of a request.
const WITHIN: Duration = Duration::from_secs(5);

/// What is asked.
pub trait Probe: Send + Sync + 'static {
    /// Why nothing should be sent here, or nothing replaced by it, as a sentence for a person; `None` when it is ready.
    fn unready(&self) -> Option<&'static str>;

    /// What Prometheus is told, as `OpenMetrics` text.
    fn metrics(&self) -> String;
}

/// An address cannot be listened on.
#[derive(Debug, Error)]
#[error("could not listen on {address}")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// Listens.
///
/// # Errors
/// When the address is taken, or is none of this machine.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// The next connection. A failure is most likely want of file descriptors, and passes.
pub async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small and wanted at once.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => {
                warn!(%error, "could not accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers until it is dropped.
pub async fn serve(listener: &TcpListener, probe: Arc<impl Probe>) {
    loop {
        let stream = accept(listener).await;
        let probe = probe.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let answer = answer(&*probe, request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut builder = Builder::new();
            builder.timer(TokioTimer::new()).max_buf_size(MAX_HEADERS).keep_alive(false);
            let served = builder.serve_connection(TokioIo::new(stream), answer);
            if timeout(WITHIN, served).await.is_err() {
                debug!("a request for health took too long");
            }
        });
    }
}

fn answer(probe: &impl Probe, path: &str) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/livez" => (StatusCode::OK, "alive".to_owned()),
        "/readyz" => match probe.unready() {
            None => (StatusCode::OK, "ready".to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why.to_owned()),
        },
        "/metrics" => {
            let mut answer = Response::new(Full::new(probe.metrics().into()));
            answer.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
            return answer;
        }
        _ => (StatusCode::NOT_FOUND, "no such path; there are /livez, /readyz and /metrics".to_owned()),
    };
    let mut answer = Response::new(Full::new((text + "\n").into()));
    *answer.status_mut() = status;
    answer
}
