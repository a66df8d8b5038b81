//! What is too large, or makes no sense, costs no code: nobody can have the verifier hash for nothing.

use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    time::{Instant, sleep},
};

use super::{BASE64, Peer, World, digest};
use crate::verifier::server::serve_plain;

/// The status of an answer, and how many codes were computed for it.
async fn answered(request: Request<Full<Bytes>>) -> (u16, u32) {
    let service = World::valid().service();
    let before = digest::COMPUTED.get();
    let answer: Response<_> = service.answer(request, Peer { is_authenticated: true }).await;
    (answer.status().as_u16(), digest::COMPUTED.get() - before)
}

async fn authorized(authorization: &str) -> (u16, u32) {
    let request = Request::get("/forward-auth/orders").header("authorization", authorization);
    answered(request.body(Full::default()).unwrap()).await
}

async fn introspected(method: Method, kind: &str, body: String) -> (u16, u32) {
    let request = Request::builder().method(method).uri("/introspect/orders").header("content-type", kind);
    answered(request.body(Full::from(body)).unwrap()).await
}

#[tokio::test]
async fn a_token_that_is_too_long_costs_no_code() {
    let token = World::valid().token;
    assert_eq!(authorized(&format!("Bearer {token}")).await, (200, 1), "as long as it may be");
    let long = token.clone() + &"a".repeat(129 - token.len());
    assert_eq!(authorized(&format!("Bearer {long}")).await, (401, 0));
    let basic = BASE64.encode(format!("{}:{token}", "u".repeat(200)).as_bytes());
    assert_eq!(authorized(&format!("Basic {basic}")).await, (401, 0));
    let form = "application/x-www-form-urlencoded";
    assert_eq!(introspected(Method::POST, form, format!("token={long}")).await, (200, 0));
}

#[tokio::test]
async fn a_form_that_is_too_long_or_none_costs_no_code() {
    let (token, form) = (World::valid().token, "application/x-www-form-urlencoded");
    let with = |more: &str| format!("token={token}{more}");
    assert_eq!(introspected(Method::POST, form, with("")).await, (200, 1), "as it should be");
    for (method, kind, body, expected) in [
        (Method::POST, form, with(&format!("&x={}", "y".repeat(8 * 1024))), 413),
        (Method::POST, form, with(&format!("&token={token}")), 400),
        (Method::POST, "application/json", with(""), 400),
        (Method::GET, form, with(""), 405),
    ] {
        assert_eq!(introspected(method, kind, body).await, (expected, 0), "{kind} {expected}");
    }
}

/// One request as bytes on a connection: the status, and how many codes were computed.
async fn sent(head: &str) -> (u16, u32) {
    let (mut client, connection) = duplex(1 << 20);
    let service = World::valid().service();
    let before = digest::COMPUTED.get();
    // On this very thread, whose codes are counted.
    let served = tokio::spawn(serve_plain(connection, service.into()));
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    served.abort();
    let status = std::str::from_utf8(&answer[9..]).unwrap();
    (status.parse().unwrap(), digest::COMPUTED.get() - before)
}

#[tokio::test]
async fn headers_that_are_too_long_or_too_many_cost_no_code() {
    let request = |more: &str| {
        let token = World::valid().token;
        format!("GET /forward-auth/orders HTTP/1.1\r\nhost: v\r\nauthorization: Bearer {token}\r\n{more}\r\n")
    };
    assert_eq!(sent(&request("")).await, (200, 1), "as it should be");
    assert_eq!(sent(&request(&format!("x: {}\r\n", "y".repeat(17 * 1024)))).await, (431, 0), "too long");
    assert_eq!(sent(&request(&"x: y\r\n".repeat(200))).await, (431, 0), "too many");
}

/// For how long a connection is kept on which `bytes` are sent at first, and one more every few seconds.
async fn kept(bytes: &str, more: u8) -> Duration {
    let (mut client, connection) = duplex(1 << 20);
    let started = Instant::now();
    let served = tokio::spawn(serve_plain(connection, World::valid().service().into()));
    client.write_all(bytes.as_bytes()).await.unwrap();
    while !served.is_finished() {
        sleep(Duration::from_secs(5)).await;
        // It may be closed by now.
        let _ = client.write_all(&[more]).await;
    }
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn who_sends_bit_by_bit_is_not_waited_for() {
    let form = "POST /introspect/orders HTTP/1.1\r\nhost: v\r\ncontent-length: 99\r\n\r\n";
    for (bytes, more) in [("", b' '), ("GET /", b'x'), ("GET / HTTP/1.1\r\nx: ", b'y'), (form, b'z')] {
        let kept = kept(bytes, more).await;
        assert!(kept <= Duration::from_secs(185), "{bytes:?}: {kept:?}");
    }
}

#[tokio::test]
async fn no_request_carries_room_for_what_is_seldom() {
    let service = World::valid().service();
    let request = Request::get("/").body(Full::<Bytes>::default()).unwrap();
    // With the question to the API server in it, it has five times as much.
    assert!(size_of_val(&service.answer(request, Peer::default())) <= 1024);
}
