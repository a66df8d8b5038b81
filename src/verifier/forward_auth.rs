//! Forward authentication: a gateway asks about each request before it lets it pass, and passes on what it is told of
//! the caller.
//!
//! The protocol of nginx `auth_request`, Traefik `ForwardAuth` and Caddy `forward_auth`: 200 lets pass; 401 and 403 go
//! back to the caller; anything else fails closed. Challenges are those of RFC 6750.

use std::sync::LazyLock;

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, WWW_AUTHENTICATE},
};

use super::{
    Denial, Verifier,
    authorization::Authorization,
    judge::{Accepted, Refusal},
    metrics::Outcome,
    pulse::Moment,
    routes::Route,
    service::{Answer, NO_STORE, body, unavailable},
};

/// The namespace of the credential.
pub const NAMESPACE: HeaderName = HeaderName::from_static("x-credential-namespace");
/// Its name.
pub const NAME: HeaderName = HeaderName::from_static("x-credential-name");
/// Its UID.
pub const UID: HeaderName = HeaderName::from_static("x-credential-uid");
/// The name of the `ApiToken`; of a client secret, that of the credential.
pub const TOKEN: HeaderName = HeaderName::from_static("x-credential-token");
/// The public id of the value.
pub const TOKEN_ID: HeaderName = HeaderName::from_static("x-credential-token-id");
/// The scopes, with spaces between them.
pub const SCOPES: HeaderName = HeaderName::from_static("x-credential-scopes");
/// The end, in seconds since 1970; 0 for none.
pub const EXPIRES: HeaderName = HeaderName::from_static("x-credential-expires");

const REFUSED: &str = "refused\n";
/// Nothing was presented: no error is named (RFC 6750, section 3.1).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"credential-operator\"");
const INVALID_REQUEST: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"credential-operator\", error=\"invalid_request\"");
const INVALID_TOKEN: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"credential-operator\", error=\"invalid_token\"");

/// Answers a gateway.
pub fn answer(verifier: &Verifier, route: &Route, headers: &HeaderMap, now: Moment) -> (Answer, Outcome) {
    let authorization = Authorization::of(headers);
    let Some(presented) = authorization.presented() else {
        let challenge =
            if matches!(authorization, Authorization::None) { CHALLENGE } else { INVALID_REQUEST };
        return (refuse(StatusCode::UNAUTHORIZED, challenge), Outcome::Refused);
    };
    match verifier.check(presented, &route.demand, now) {
        Ok(accepted) => (accept(&accepted), Outcome::Accepted),
        Err(Denial::Refused(Refusal::Scope | Refusal::Namespace)) => {
            (refuse(StatusCode::FORBIDDEN, route.insufficient.clone()), Outcome::Refused)
        }
        Err(Denial::Refused(Refusal::Malformed | Refusal::Invalid | Refusal::Audience)) => {
            (refuse(StatusCode::UNAUTHORIZED, INVALID_TOKEN), Outcome::Refused)
        }
        Err(Denial::Unavailable) => (unavailable(), Outcome::Unavailable),
    }
}

/// The headers of an acceptance, as [`accept`] fills them in: a copy costs less than to look up each name for each request.
static TOLD: LazyLock<HeaderMap> = LazyLock::new(|| {
    let names = [NAMESPACE, NAME, UID, TOKEN, TOKEN_ID, SCOPES, EXPIRES, CACHE_CONTROL];
    names.into_iter().map(|name| (name, NO_STORE)).collect()
});

fn accept(Accepted { record, facts }: &Accepted) -> Answer {
    let credential = &record.credential;
    let mut uid = uuid::Uuid::encode_buffer();
    let told = [
        value(&credential.namespace),
        value(&credential.name),
        value(credential.uid.hyphenated().encode_lower(&mut uid)),
        value(record.name()),
        value(record.id.as_str()),
        value(&record.scope(facts)),
        record.ends_at(facts).unwrap_or_default().into(),
    ];
    let mut answer = Response::new(body(""));
    *answer.headers_mut() = TOLD.clone();
    // In the order in which they were put in; `tests` looks at each.
    for (place, value) in answer.headers_mut().values_mut().zip(told) {
        *place = value;
    }
    answer
}

/// Names of objects and scopes are printable ASCII by the schema; what was stored before it is left out.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn refuse(status: StatusCode, challenge: HeaderValue) -> Answer {
    let mut answer = Response::new(body(REFUSED));
    *answer.status_mut() = status;
    answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    answer.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    answer
}
