//! Requests of a gateway.

use data_encoding::BASE64;
use rand::{RngExt, rngs::StdRng};

use crate::{
    draw::{Asker, Drawn, Expected},
    noise::headers,
    value::one_of,
};

const SCHEMES: [&str; 4] = ["Bearer", "bearer", "BEARER", "bEaReR"];
const METHODS: [&str; 4] = ["GET", "POST", "OPTIONS", "DELETE"];
/// Longer than the verifier reads.
const MAX_BASIC_LENGTH: usize = 256;

/// With nothing about it that need not be.
#[must_use]
pub fn plain(value: &[u8]) -> Vec<u8> {
    [b"GET /forward-auth HTTP/1.1\r\nhost: v\r\nauthorization: Bearer ", value, b"\r\n\r\n"].concat()
}

/// A value that is accepted, in any way that is right.
pub fn valid(asker: &Asker, random: &mut StdRng) -> Vec<u8> {
    if random.random_ratio(1, 4) {
        let secret = one_of(random, &asker.values.client_secrets).clone();
        return request(random, basic(id_of(&secret), secret.as_bytes()).as_bytes());
    }
    let value = asker.values.accepted(random).to_owned();
    let scheme = one_of(random, &SCHEMES);
    request(random, format!("{scheme} {value}").as_bytes())
}

/// A value that is not, in ways that are right.
pub fn wrong_value(asker: &Asker, random: &mut StdRng) -> Drawn {
    let value = asker.values.mutated(random);
    if random.random_ratio(1, 4) {
        let secret = one_of(random, &asker.values.client_secrets);
        let header = basic(id_of(secret), &value);
        let is_read =
            std::str::from_utf8(&value).is_ok() && header.len() <= "Basic ".len() + MAX_BASIC_LENGTH;
        let expected = if is_read { Expected::Refused } else { Expected::NotAccepted };
        return Drawn { bytes: request(random, header.as_bytes()), whole: true, expected };
    }
    let header = [one_of(random, &SCHEMES).as_bytes(), b" ", value.as_slice()].concat();
    // What cannot be in a header ends it, or the connection.
    let whole = value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    let is_read = whole && value.is_ascii() && !value.is_empty() && value.trim_ascii().len() == value.len();
    let expected = if is_read { Expected::Refused } else { Expected::NotAccepted };
    Drawn { bytes: request(random, &header), whole, expected }
}

/// A value that is accepted, where it must not be looked for.
pub fn wrongly_presented(asker: &Asker, random: &mut StdRng) -> Drawn {
    let value = asker.values.accepted(random).to_owned();
    let (v, forged) = (&value, String::from_utf8_lossy(&asker.values.forged(random)).into_owned());
    let secret = one_of(random, &asker.values.client_secrets).clone();
    let other = one_of(random, &asker.values.valid).clone();
    let refused = [
        basic(id_of(&forged), secret.as_bytes()),
        basic("", secret.as_bytes()),
        basic(&id_of(&secret).to_lowercase(), secret.as_bytes()),
        // A token of an ApiToken is no password.
        basic(id_of(&other), other.as_bytes()),
    ];
    if random.random_ratio(1, 4) {
        let header = one_of(random, &refused).clone();
        // An id without capitals is its own lower case.
        let expected = if header == basic(id_of(&secret), secret.as_bytes()) {
            Expected::Accepted
        } else {
            Expected::Refused
        };
        return Drawn { bytes: request(random, header.as_bytes()), whole: true, expected };
    }
    let heads = [
        format!("authorization: Bearer {v}\r\nauthorization: Bearer {v}"),
        format!("authorization: Bearer {v}\r\nAuthorization: Bearer {forged}"),
        format!("authorization: Bearer {forged}\r\nauthorization: Bearer {v}"),
        format!("authorization: Basic {v}"),
        format!("authorization: {v}"),
        format!("authorization: Bearer{v}"),
        format!("authorization: Bearer\t{v}"),
        format!("authorization: Bearer:{v}"),
        format!("authorization: Token {v}"),
        format!("authorization: Digest {v}"),
        format!("authorization: Bearer Bearer {v}"),
        format!("authorization: Basic {}", BASE64.encode(v.as_bytes())),
        format!("authorization: Bearer {}", BASE64.encode(v.as_bytes())),
        format!("proxy-authorization: Bearer {v}"),
        format!("x-forwarded-authorization: Bearer {v}"),
        format!("x-authorization: Bearer {v}"),
        format!("cookie: token={v}; authorization=Bearer {v}"),
        format!("x-credential-token: {v}\r\nx-credential-name: c"),
        "x-credential-name: c\r\nx-credential-namespace: default".to_owned(),
    ];
    let targets = [
        format!("GET /forward-auth?access_token={v} HTTP/1.1\r\nhost: v\r\n\r\n"),
        format!("GET /forward-auth/{v} HTTP/1.1\r\nhost: v\r\n\r\n"),
        format!("GET /forward-auth/../forward-auth HTTP/1.1\r\nhost: v\r\nauthorization: Bearer {v}\r\n\r\n"),
        format!("GET /Forward-Auth HTTP/1.1\r\nhost: v\r\nauthorization: Bearer {v}\r\n\r\n"),
        format!("GET /%66orward-auth HTTP/1.1\r\nhost: v\r\nauthorization: Bearer {v}\r\n\r\n"),
        format!("GET //forward-auth HTTP/1.1\r\nhost: v\r\nauthorization: Bearer {v}\r\n\r\n"),
        form(&format!("access_token={v}")),
        form(&format!("token={v}")),
    ];
    let bytes = if random.random_ratio(1, 4) {
        one_of(random, &targets).clone().into_bytes()
    } else {
        let head = one_of(random, &heads);
        format!("GET /forward-auth HTTP/1.1\r\nhost: v\r\n{head}\r\n\r\n").into_bytes()
    };
    Drawn { bytes, whole: true, expected: Expected::NotAccepted }
}

fn form(body: &str) -> String {
    format!(
        "POST /forward-auth HTTP/1.1\r\nhost: v\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// With this `Authorization` header, whatever else is in it.
fn request(random: &mut StdRng, authorization: &[u8]) -> Vec<u8> {
    let method = one_of(random, &METHODS);
    let name = one_of(random, &["authorization", "Authorization", "AUTHORIZATION"]);
    let target =
        one_of(random, &["/forward-auth", "/forward-auth?", "/forward-auth?a=b", "/forward-auth?token=%00"]);
    let head = format!("{method} {target} HTTP/1.1\r\nhost: v\r\n{}{name}: ", headers(random));
    let rest = format!("\r\n{}\r\n", headers(random));
    [head.as_bytes(), authorization, rest.as_bytes()].concat()
}

fn basic(user: &str, password: &[u8]) -> String {
    format!("Basic {}", BASE64.encode(&[user.as_bytes(), b":", password].concat()))
}

/// The public id inside a value.
fn id_of(value: &str) -> &str {
    value.split('_').nth(1).unwrap_or_default()
}
