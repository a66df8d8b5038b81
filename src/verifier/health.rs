//! For kubelet and Prometheus, on a port of their own: `/livez`, `/readyz`, `/metrics`. Tells no secrets, needs no rights.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};

use super::service::{Answer, Service, body};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Answers a request for that path. While it is stopping, it is alive and not ready.
pub fn answer(service: &Service, stopping: &AtomicBool, path: &str) -> Answer {
    let now = service.verifier().now();
    let (status, text) = match path {
        "/livez" => (StatusCode::OK, "alive\n"),
        "/readyz" if stopping.load(Ordering::Relaxed) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        "/readyz" if service.verifier().is_ready(now) => (StatusCode::OK, "ready\n"),
        "/readyz" => {
            (StatusCode::SERVICE_UNAVAILABLE, "not up to date with the API server, or without a keyring\n")
        }
        "/metrics" => {
            let mut answer = Response::new(body(service.metrics().text(service.verifier(), now)));
            answer.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
            return answer;
        }
        _ => (StatusCode::NOT_FOUND, "no such path; there are /livez, /readyz and /metrics\n"),
    };
    let mut answer = Response::new(body(text));
    *answer.status_mut() = status;
    answer
}
