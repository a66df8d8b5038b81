//! Connections: where the verifier listens, by which protocol, within which limits, and how it stops.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
    net::TcpListener,
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

pub use super::tls::TlsFiles;
use super::{
    health::Health,
    service::{Peer, Service},
    tls::{Tls, TlsError},
};
use crate::telemetry::health::{self, BindError};

/// All the headers of a request, in bytes.
const MAX_HEADERS: usize = 16 * 1024;
/// How often a client of HTTP/2 is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_mins(1);
/// Whoever asks nothing for so long, says nothing at all, sends bit by bit, or does not read what he is told takes a place
/// from others.
const IDLE_AT_MOST: Duration = Duration::from_secs(90);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 10_000;
const MAX_STREAMS: u32 = 256;
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
    #[error(transparent)]
    Bind(#[from] BindError),
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
    let listener = health::bind(listen.address).await?;
    let health_listener = health::bind(listen.health).await?;
    let place = |listener: &TcpListener, asked| listener.local_addr().unwrap_or(asked);
    let places = (place(&listener, listen.address), place(&health_listener, listen.health));
    info!(address = %places.0, tls = tls.is_some(), health = %places.1, "listening");
    bound(places.0, places.1);

    let health = Arc::new(Health { service: service.clone(), stopping: AtomicBool::new(false) });
    let connections = GracefulShutdown::new();
    let follow_tls = async {
        match &tls {
            Some(tls) => tls.follow().await,
            None => std::future::pending().await,
        }
    };
    let mut follow = pin!(service.verifier().follow(client));
    tokio::select! {
        () = &mut follow => {}
        () = follow_tls => {}
        () = accept(&listener, &service, tls.as_ref(), &connections) => {}
        () = health::serve(&health_listener, health.clone()) => {}
        () = async {
            // Dropped or sent, it means the same.
            let _ = stop.await;
            health.stopping.store(true, Ordering::Relaxed);
            sleep(listen.stop_after).await;
        } => {}
    }
    drop(listener);
    tokio::select! {
        // What is answered last is to be as true as what was answered first.
        () = follow => {}
        finished = timeout(FINISH_WITHIN, connections.shutdown()) => {
            if finished.is_err() {
                warn!("some requests were not finished in time");
            }
        }
    }
    Ok(())
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
        let stream = health::accept(listener).await;
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

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: Arc<Service>,
    peer: Peer,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = asked.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request, peer).await) }
    });
    let builder = builder();
    let mut connection = pin!(watcher.watch(builder.serve_connection(TokioIo::new(stream), answer)));
    let mut before = 0;
    loop {
        match timeout(IDLE_AT_MOST, &mut connection).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => return debug!(%error, "a connection ended"),
            Err(_) => {
                let now = asked.load(Ordering::Relaxed);
                if now == before {
                    return debug!("a connection is closed, by which nothing is asked");
                }
                before = now;
            }
        }
    }
}

/// Serves one connection, whatever carries it, as one that came in plain.
#[cfg(test)]
pub(super) async fn serve_plain(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: Arc<Service>,
) {
    serve(stream, service, Peer::default(), GracefulShutdown::new().watcher()).await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // Without its timer for the headers of each request, which costs as much as the hash of a token: see IDLE_AT_MOST. And
    // answers are small: to copy one into one buffer costs less than to write two.
    builder.http1().max_buf_size(MAX_HEADERS).writev(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS.try_into().unwrap_or(u32::MAX))
        .keep_alive_interval(Some(PING_EVERY));
    builder
}

#[cfg(test)]
mod tests {
    use std::io;

    use hyper_util::server::graceful::GracefulShutdown;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::{Instant, advance},
    };

    use super::*;
    use crate::{
        domain::{clock::Clock, reach::Reach},
        verifier::{Source, Verifier, routes::Routes},
    };

    struct Epoch;

    impl Clock for Epoch {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
    }

    /// A connection to a verifier that knows nothing, and so answers 503.
    fn connect(connections: &GracefulShutdown) -> DuplexStream {
        let source = Source {
            namespace: String::new(),
            keyring_secret: String::new(),
            reach: Reach::default(),
            max_staleness: Duration::from_secs(30),
        };
        let verifier = Arc::new(Verifier::new(source, Arc::new(Epoch)));
        let service = Arc::new(Service::new(verifier, Routes::default(), None));
        let (ours, theirs) = duplex(1024);
        tokio::spawn(serve(theirs, service, Peer::default(), connections.watcher()));
        ours
    }

    /// For how long it takes until the connection is closed.
    async fn closed_after(mut stream: DuplexStream) -> Duration {
        let started = Instant::now();
        let _ = timeout(Duration::from_hours(1), stream.read_to_end(&mut Vec::new())).await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_is_not_waited_for() {
        let connections = GracefulShutdown::new();
        for said in [
            "",
            "P",
            "PRI * HTTP/2.0\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET /for",
            "GET / HTTP/1.1\r\n\r\n",
        ] {
            let mut stream = connect(&connections);
            stream.write_all(said.as_bytes()).await.unwrap();
            let after = closed_after(stream).await;
            assert!(after <= 2 * IDLE_AT_MOST, "{said:?}: {after:?}");
        }
        // He asks on and on, and does not read what he is told.
        let mut stream = connect(&connections);
        let asks = async {
            loop {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await?;
            }
        };
        let asked: Result<io::Result<()>, _> = timeout(Duration::from_hours(1), asks).await;
        assert!(asked.is_ok(), "it is held for an hour");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_now_and_then_is_answered_by_one_connection() {
        let connections = GracefulShutdown::new();
        let mut stream = connect(&connections);
        for _ in 0..10 {
            stream.write_all(b"GET /forward-auth HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut told = [0; 1024];
            let read = stream.read(&mut told).await.unwrap();
            assert!(told[..read].starts_with(b"HTTP/1.1 401"));
            advance(Duration::from_secs(50)).await;
        }
    }
}
