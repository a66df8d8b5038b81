//! A verifier at work, asked over HTTP as a gateway asks it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use credential_operator::{
    domain::{clock::Clock, reach::Reach},
    verifier::{self, Listen, ServeError, Source, Verifier, routes::Routes, service::Service},
};
use http::{Request, header::AUTHORIZATION};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::Client;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{run::KEYRING, space::Outcome};

/// A route that asks for an audience that no value of a scenario is for.
pub const ELSEWHERE: &str = "/elsewhere";
/// How long an answer may take; a verifier asks nobody.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A verifier that follows one namespace.
pub struct Asked {
    address: SocketAddr,
    http: HttpClient<HttpConnector, Full<Bytes>>,
    task: JoinHandle<Result<(), ServeError>>,
    // Dropped, it would have the verifier stop in peace.
    _stop: oneshot::Sender<()>,
}

/// What it tells of a value.
pub struct Told {
    /// The status: 200 is acceptance.
    pub status: u16,
    /// The UID of the credential.
    pub credential_uid: String,
    /// Its name.
    pub credential: String,
    /// The name of the value's holder.
    pub holder: String,
    /// The public id of the value.
    pub id: String,
}

impl Asked {
    /// Starts it; a verifier without a mistake is careful about audiences.
    ///
    /// # Errors
    /// When it does not come to listen.
    pub async fn start(
        client: Client,
        namespace: &str,
        clock: Arc<dyn Clock>,
        careful: bool,
    ) -> Outcome<Self> {
        let elsewhere = if careful { ", audiences: [elsewhere]" } else { "" };
        let routes = Routes::read(&format!("routes: [{{name: elsewhere{elsewhere}}}]"));
        let source = Source {
            namespace: namespace.to_owned(),
            keyring_secret: KEYRING.to_owned(),
            reach: Reach::default(),
            max_staleness: Duration::from_secs(30),
        };
        let verifier = Arc::new(Verifier::new(source, clock));
        let service = Service::new(verifier, routes.map_err(|error| error.to_string())?, None);
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = Listen { address: anywhere, tls: None, health: anywhere, stop_after: Duration::ZERO };
        let (bound, is_bound) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let tell = move |address, _| {
            // Nobody listens any more only where the run is over.
            let _ = bound.send(address);
        };
        let task = tokio::spawn(verifier::run(Arc::new(service), client, listen, tell, stopped));
        let address = is_bound.await.map_err(|_| "the verifier does not listen".to_owned())?;
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        Ok(Self { address, http, task, _stop: stop })
    }

    /// Presents a value; `None`: there was no answer.
    pub async fn present(&self, route: &str, value: &str) -> Option<Told> {
        let request = Request::get(format!("http://{}/forward-auth{route}", self.address))
            .header(AUTHORIZATION, format!("Bearer {value}"))
            .body(Full::default())
            .ok()?;
        let answer = timeout(ANSWER_WITHIN, self.http.request(request)).await.ok()?.ok()?;
        let header = |name: &str| {
            let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Some(Told {
            status: answer.status().as_u16(),
            credential_uid: header("x-credential-uid"),
            credential: header("x-credential-name"),
            holder: header("x-credential-token"),
            id: header("x-credential-token-id"),
        })
    }

    /// Waits until it knows all that there was when it started.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn ready(&self) -> Outcome {
        let answers = async {
            while self.present("", "none").await.is_none_or(|told| told.status == 503) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(crate::space::DEADLINE, answers)
            .await
            .map_err(|_| "the verifier is not up to date in time".to_owned())
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}
