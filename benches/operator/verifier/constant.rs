//! The floor of the verifier: a bare axum server that answers a constant, with the headers of the verifier's answer.

use std::{collections::BTreeMap, net::SocketAddr};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Response},
    routing::any,
    serve::ListenerExt,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// What the path ends with where a request's body is read before it is answered.
pub const READ: &str = "/read";

/// What is answered, by path.
pub type Answers = BTreeMap<String, Answer>;

/// What is answered with 200.
#[derive(Clone, Serialize, Deserialize)]
pub struct Answer {
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    /// Reads it as it came over the wire. What every server adds by itself is left out.
    pub fn read(wire: &[u8]) -> Self {
        let (head, body) = str::from_utf8(wire).unwrap().split_once("\r\n\r\n").unwrap();
        let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers = headers.filter(|(name, _)| !["date", "content-length"].contains(name));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { headers, body: body.to_owned() }
    }
}

/// Answers until it is killed.
pub async fn serve(address: SocketAddr, answers: Answers) {
    let routes = answers.into_iter().fold(Router::new(), |routes, (path, answer)| {
        let headers: HeaderMap = answer.headers.iter().map(header).collect();
        let body = Bytes::from(answer.body);
        let answer = move || {
            let mut answer = Response::new(Body::from(body.clone()));
            answer.headers_mut().clone_from(&headers);
            answer
        };
        let handler = if path.ends_with(READ) {
            any(async move |_: Bytes| answer())
        } else {
            any(async move || answer())
        };
        routes.route(&path, handler)
    });
    let listener = TcpListener::bind(address).await.unwrap();
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    axum::serve(listener, routes).await.unwrap();
}

fn header((name, value): &(String, String)) -> (HeaderName, HeaderValue) {
    (name.parse().unwrap(), value.parse().unwrap())
}
