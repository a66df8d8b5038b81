//! Requests of a service, RFC 7662.

use std::fmt::Write;

use rand::{RngExt, rngs::StdRng};

use crate::{
    draw::{Asker, Drawn, Expected},
    noise::headers,
    value::one_of,
};

const FORM: &str = "application/x-www-form-urlencoded";

/// With nothing about it that need not be.
#[must_use]
pub fn plain(asker: &Asker, value: &[u8]) -> Vec<u8> {
    let body = [b"token=", value].concat();
    [head(asker, FORM, &format!("content-length: {}", body.len())).as_bytes(), &body].concat()
}

/// A value that is accepted, in any way that is right.
pub fn valid(asker: &Asker, random: &mut StdRng) -> Vec<u8> {
    let value = asker.values.accepted(random).to_owned();
    request(asker, random, value.as_bytes())
}

/// A value that is not, in ways that are right.
pub fn wrong_value(asker: &Asker, random: &mut StdRng) -> Drawn {
    let value = asker.values.mutated(random);
    // Nothing is cut off from a field of a form, so a space more is another value.
    let value = if random.random_ratio(1, 20) {
        let accepted = asker.values.accepted(random);
        let space = one_of(random, &[" ", "\t", "\n", "\0", "\u{a0}"]);
        [accepted.as_bytes(), space.as_bytes()].concat()
    } else {
        value
    };
    Drawn { bytes: request(asker, random, &value), whole: true, expected: Expected::Refused }
}

/// A value that is accepted, where it must not be looked for, or asked for by nobody who may.
pub fn wrongly_presented(asker: &Asker, random: &mut StdRng) -> Drawn {
    let value = asker.values.accepted(random).to_owned();
    let (v, forged) = (&value, String::from_utf8_lossy(&asker.values.forged(random)).into_owned());
    let caller = &asker.caller;
    let callers = [
        String::new(),
        format!("authorization: Bearer {v}\r\n"),
        format!("authorization: Basic {v}\r\n"),
        format!("authorization: Bearer {caller}\r\nauthorization: Bearer {caller}\r\n"),
        format!("authorization: {caller}\r\n"),
        format!("proxy-authorization: Bearer {caller}\r\n"),
        "authorization: Bearer \r\n".to_owned(),
    ];
    let bodies = [
        (FORM, String::new()),
        (FORM, format!("token={v}&token={v}")),
        (FORM, format!("token={v}&token={forged}")),
        (FORM, format!("token={forged}&token={v}")),
        (FORM, format!("token=&token={v}")),
        (FORM, format!("Token={v}")),
        (FORM, format!("token[]={v}")),
        (FORM, format!("token%00={v}")),
        (FORM, format!(" token={v}")),
        (FORM, format!("access_token={v}")),
        (FORM, v.clone()),
        (FORM, format!("token;={v}")),
        (FORM, format!("{{\"token\":\"{v}\"}}")),
        ("application/json", format!("{{\"token\":\"{v}\"}}")),
        ("application/json", format!("token={v}")),
        ("text/plain", format!("token={v}")),
        ("", format!("token={v}")),
        ("application/x-www-form-urlencodedx", format!("token={v}")),
        (
            "multipart/form-data; boundary=b",
            format!("--b\r\ncontent-disposition: form-data; name=\"token\"\r\n\r\n{v}\r\n--b--\r\n"),
        ),
    ];
    let targets = [
        format!("GET /introspect?token={v}"),
        "GET /introspect".to_string(),
        "PUT /introspect".to_string(),
        format!("POST /introspect?token={v}"),
        format!("POST /introspect/{v}"),
        "POST /introspect/../introspect".to_string(),
        "POST /Introspect".to_string(),
        "POST /introspect/".to_string(),
    ];
    let (mut target, mut authorization) =
        ("POST /introspect".to_owned(), format!("authorization: Bearer {caller}\r\n"));
    let (mut kind, mut body) = (FORM, format!("token={v}"));
    match random.random_range(0..3) {
        0 => authorization.clone_from(one_of(random, &callers)),
        1 => (kind, body) = one_of(random, &bodies).clone(),
        _ => {
            target.clone_from(one_of(random, &targets));
            if target.starts_with("POST /introspect?") {
                body.clear();
            }
        }
    }
    let bytes = format!(
        "{target} HTTP/1.1\r\nhost: v\r\n{authorization}content-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    Drawn { bytes: bytes.into_bytes(), whole: true, expected: Expected::NotAccepted }
}

/// The first lines, up to the body.
pub(crate) fn head(asker: &Asker, kind: &str, more: &str) -> String {
    format!(
        "POST /introspect HTTP/1.1\r\nhost: v\r\nauthorization: Bearer {}\r\ncontent-type: {kind}\r\n{more}\r\n\r\n",
        asker.caller
    )
}

fn request(asker: &Asker, random: &mut StdRng, value: &[u8]) -> Vec<u8> {
    let before = one_of(random, &["", "&", "token_type_hint=access_token&", "x=%ff&", "tokens=1&", "%=%&"]);
    let after = one_of(random, &["", "&", "&token_type_hint=refresh_token", "&x", "&token2=a"]);
    let body = format!("{before}token={}{after}", encoded(random, value));
    let kind = one_of(
        random,
        &[FORM, "Application/X-WWW-Form-Urlencoded", "application/x-www-form-urlencoded; charset=utf-8"],
    );
    let more = headers(random);
    if !random.random_ratio(1, 4) {
        return (head(asker, kind, &format!("{more}content-length: {}", body.len())) + &body).into_bytes();
    }
    let mut bytes = head(asker, kind, &format!("{more}transfer-encoding: chunked")).into_bytes();
    let mut rest = body.as_bytes();
    while !rest.is_empty() {
        let (chunk, others) = rest.split_at(random.random_range(1..=rest.len()));
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        rest = others;
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// As a form writes it; some characters are escaped that need not be.
fn encoded(random: &mut StdRng, value: &[u8]) -> String {
    let mut text = String::new();
    let often = random.random_range(1..10);
    for byte in value {
        if (byte.is_ascii_alphanumeric() || *byte == b'_') && !random.random_ratio(1, often * often) {
            text.push(char::from(*byte));
        } else {
            let digits = if random.random() { format!("%{byte:02x}") } else { format!("%{byte:02X}") };
            // Writing to a String cannot fail.
            let _ = text.write_str(&digits);
        }
    }
    text
}
