//! Connections: where the verifier listens, by which protocol, within which limits, and how it stops.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use kube::Client;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

pub use super::tls::TlsFiles;
use super::{
    health,
    service::{Peer, Service},
    tls::{Tls, TlsError},
};

/// All the headers of a request, in bytes.
const MAX_HEADERS: usize = 16 * 1024;
/// For the whole of a request's headers, and between two requests on one connection.
const HEADERS_WITHIN: Duration = Duration::from_mins(1);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 10_000;
const MAX_STREAMS: u32 = 256;
/// For the whole of a request for health.
const HEALTH_WITHIN: Duration = Duration::from_secs(5);
/// How long requests that are under way may take when it stops.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// Where to listen.
#[derive(Clone, Debug)]
pub struct Listen {
    /// For the protocols.
    pub address: SocketAddr,
    /// By TLS; `None`: plain, on a loopback address only.
    pub tls: Option<TlsFiles>,
    /// For health and metrics, always plain.
    pub health: SocketAddr,
    /// How long to go on after the word to stop, so that nobody is sent here any more when it stops.
    pub stop_after: Duration,
}

/// Why the verifier cannot serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Tokens would cross a network in the clear.
    #[error(
        "--listen {0} is no loopback address: give --tls-cert-file and --tls-key-file, or listen on 127.0.0.1"
    )]
    PlainText(SocketAddr),
    /// The address cannot be listened on.
    #[error("could not listen on {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Serves until `stop` is sent or dropped, and what is under way then to its end. `bound` is told where it listens: at
/// port 0 the system chooses.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    service: Arc<Service>,
    client: Client,
    listen: Listen,
    bound: impl FnOnce(SocketAddr, SocketAddr),
    stop: oneshot::Receiver<()>,
) -> Result<(), ServeError> {
    if listen.tls.is_none() && !listen.address.ip().is_loopback() {
        return Err(ServeError::PlainText(listen.address));
    }
    let tls = listen.tls.map(Tls::new).transpose()?.map(Arc::new);
    let listener = bind(listen.address).await?;
    let health = bind(listen.health).await?;
    let place = |listener: &TcpListener, asked| listener.local_addr().unwrap_or(asked);
    let places = (place(&listener, listen.address), place(&health, listen.health));
    info!(address = %places.0, tls = tls.is_some(), health = %places.1, "listening");
    bound(places.0, places.1);

    let stopping = Arc::new(AtomicBool::new(false));
    let connections = GracefulShutdown::new();
    let follow_tls = async {
        match &tls {
            Some(tls) => tls.follow().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = service.verifier().follow(client) => {}
        () = follow_tls => {}
        () = accept(&listener, &service, tls.as_ref(), &connections) => {}
        () = accept_health(&health, &service, &stopping) => {}
        () = async {
            // Dropped or sent, it means the same.
            let _ = stop.await;
            stopping.store(true, Ordering::Relaxed);
            sleep(listen.stop_after).await;
        } => {}
    }
    drop(listener);
    if timeout(FINISH_WITHIN, connections.shutdown()).await.is_err() {
        warn!("some requests were not finished in time");
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })
}

async fn accept(
    listener: &TcpListener,
    service: &Arc<Service>,
    tls: Option<&Arc<Tls>>,
    connections: &GracefulShutdown,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Some(stream) = next(listener).await else { continue };
        let service = service.clone();
        let watcher = connections.watcher();
        let tls = tls.map(|tls| tls.current());
        tokio::spawn(async move {
            let _permit = permit;
            let Some(config) = tls else {
                return serve(stream, service, Peer::default(), watcher).await;
            };
            match timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(config).accept(stream)).await {
                Ok(Ok(stream)) => {
                    // A certificate that is shown was checked already.
                    let is_authenticated = stream.get_ref().1.peer_certificates().is_some();
                    serve(stream, service, Peer { is_authenticated }, watcher).await;
                }
                Ok(Err(error)) => debug!(%error, "the TLS handshake failed"),
                Err(_) => debug!("the TLS handshake took too long"),
            }
        });
    }
}

async fn next(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small and wanted at once.
            let _ = stream.set_nodelay(true);
            Some(stream)
        }
        Err(error) => {
            // Out of file descriptors, most likely: that passes.
            warn!(%error, "could not accept a connection");
            sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: Arc<Service>,
    peer: Peer,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request, peer).await) }
    });
    let builder = builder();
    let connection = builder.serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = watcher.watch(connection).await {
        debug!(%error, "a connection ended");
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS.try_into().unwrap_or(u32::MAX))
        .keep_alive_interval(Some(HEADERS_WITHIN));
    builder
}

async fn accept_health(listener: &TcpListener, service: &Arc<Service>, stopping: &Arc<AtomicBool>) {
    loop {
        let Some(stream) = next(listener).await else { continue };
        let (service, stopping) = (service.clone(), stopping.clone());
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let answer = health::answer(&service, &stopping, request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).max_buf_size(MAX_HEADERS).keep_alive(false);
            let served = builder.serve_connection(TokioIo::new(stream), answer);
            if timeout(HEALTH_WITHIN, served).await.is_err() {
                debug!("a request for health took too long");
            }
        });
    }
}
