//! Token introspection, RFC 7662.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use serde::Serialize;

use super::{
    Denial, Verifier,
    authorization::Authorization,
    callers::{Callers, NotAuthorized},
    judge::{Accepted, Presented},
    metrics::Outcome,
    record::Kind,
    routes::Route,
    service::{Answer, NO_STORE, Peer, body, unavailable},
};
use crate::domain::redacted::Redacted;

/// A token, a hint of its type, and what a client may add.
const MAX_BODY: usize = 8 * 1024;
/// More than is told of most tokens.
const USUAL: usize = 512;
const INACTIVE: &str = "{\"active\":false}";
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const FORM: &str = "application/x-www-form-urlencoded";

/// What is told of a token that is accepted, under the names of RFC 7662, section 2.2.
#[derive(Serialize)]
struct Told<'a> {
    active: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
    client_id: &'a str,
    username: &'a str,
    token_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<u32>,
    sub: &'a str,
    aud: Vec<&'a str>,
    iss: &'a str,
    jti: &'a str,
}

/// One request, and who sends it.
pub struct Asked<'a, B> {
    /// Its method.
    pub method: &'a Method,
    /// Its path, which the caller must be allowed to `create`.
    pub path: &'a str,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body.
    pub body: B,
    /// Who sends it.
    pub peer: Peer,
}

/// Answers a service.
pub async fn answer<B: Body<Data = Bytes> + Send>(
    verifier: &Verifier,
    callers: &Callers,
    issuer: &str,
    route: &Route,
    asked: Asked<'_, B>,
) -> (Answer, Outcome)
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Asked { method, path, headers, body: sent, peer } = asked;
    if method != Method::POST {
        let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "{\"error\":\"invalid_request\"}");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return (answer, Outcome::Malformed);
    }
    if !peer.is_authenticated
        && let Err(why) = authorize(callers, headers, path).await
    {
        return why;
    }
    let is_form = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(FORM));
    if !is_form {
        return malformed(StatusCode::BAD_REQUEST);
    }
    let sent = match Limited::new(sent, MAX_BODY).collect().await {
        Ok(sent) => sent.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return malformed(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => return malformed(StatusCode::BAD_REQUEST),
    };
    let mut tokens =
        form_urlencoded::parse(&sent).filter(|(name, _)| name == "token").map(|(_, token)| token);
    let (Some(token), None) = (tokens.next(), tokens.next()) else {
        return malformed(StatusCode::BAD_REQUEST);
    };
    let decoded;
    let token = match token {
        Cow::Borrowed(token) => token,
        Cow::Owned(token) => {
            decoded = Redacted::new(token);
            decoded.expose()
        }
    };
    // Only now: a slow body must not have a token judged by a time before its end.
    match verifier.check(Presented::Bearer(token), &route.demand, verifier.now()) {
        Ok(accepted) => (json(StatusCode::OK, active(&accepted, issuer)), Outcome::Accepted),
        // Nothing of why: who introspects need not be who may know (RFC 7662, section 2.2).
        Err(Denial::Refused(_)) => (json(StatusCode::OK, INACTIVE), Outcome::Refused),
        Err(Denial::Unavailable) => (unavailable(), Outcome::Unavailable),
    }
}

async fn authorize(callers: &Callers, headers: &HeaderMap, path: &str) -> Result<(), (Answer, Outcome)> {
    let refused = |status, challenge: &'static str| {
        let mut answer = error(status, "{\"error\":\"unauthorized_client\"}");
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        (answer, Outcome::Unauthorized)
    };
    let unknown = || refused(StatusCode::UNAUTHORIZED, "Bearer realm=\"credential-operator\"");
    let authorization = Authorization::of(headers);
    let Some(Presented::Bearer(token)) = authorization.presented() else {
        return Err(unknown());
    };
    match callers.authorize(token, path).await {
        Ok(()) => Ok(()),
        Err(NotAuthorized::Unknown) => Err(unknown()),
        Err(NotAuthorized::Forbidden) => Err(refused(
            StatusCode::FORBIDDEN,
            "Bearer realm=\"credential-operator\", error=\"insufficient_scope\"",
        )),
        Err(NotAuthorized::Unavailable) => Err((unavailable(), Outcome::Unavailable)),
    }
}

fn active(Accepted { record, facts }: &Accepted, issuer: &str) -> Bytes {
    let credential = &record.credential;
    let identity = format!("{}/{}", credential.namespace, credential.name);
    let mut uid = uuid::Uuid::encode_buffer();
    let told = Told {
        active: true,
        scope: &record.scope(facts),
        client_id: match record.kind {
            Kind::ApiToken => &identity,
            Kind::ClientSecret => record.id.as_str(),
        },
        username: &identity,
        token_type: "Bearer",
        exp: record.ends_at(facts),
        iat: record.issued_at(),
        sub: credential.uid.hyphenated().encode_lower(&mut uid),
        aud: record.audiences(facts).collect(),
        iss: issuer,
        jti: record.id.as_str(),
    };
    let mut text = Vec::with_capacity(USUAL);
    match serde_json::to_writer(&mut text, &told) {
        Ok(()) => text.into(),
        // Strings and numbers can always be written.
        Err(_) => INACTIVE.into(),
    }
}

fn malformed(status: StatusCode) -> (Answer, Outcome) {
    (error(status, "{\"error\":\"invalid_request\"}"), Outcome::Malformed)
}

fn error(status: StatusCode, text: &'static str) -> Answer {
    json(status, text)
}

fn json(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(body(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    answer
}
