//! What need not be there, and what should not.

use rand::{Rng, RngExt, rngs::StdRng};

use crate::{
    Protocol,
    draw::{Asker, Drawn, Expected},
    forward_auth, introspection,
    value::one_of,
};

/// More than the verifier reads of headers or of a form.
const TOO_MUCH: usize = 17 * 1024;

/// Some headers, which change nothing.
pub fn headers(random: &mut StdRng) -> String {
    const HEADERS: [&str; 9] = [
        "accept: */*",
        "user-agent: x",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-user: admin",
        "x-credential-name: admin",
        "x-original-uri: /forward-auth/../admin?token=1",
        "cookie: a=b; c=\"d\"",
        "x-bytes: \u{fe}\u{ff}",
        "x-empty:",
    ];
    (0..random.random_range(0..4)).flat_map(|_| [one_of(random, &HEADERS), "\r\n"]).collect()
}

/// Changes some bytes, but none of `spared`.
pub fn damage(bytes: &mut Vec<u8>, spared: Option<&[u8]>, random: &mut StdRng) {
    let spared = spared.and_then(|spared| {
        let start = bytes.windows(spared.len()).position(|window| window == spared)?;
        Some(start..start + spared.len())
    });
    let Some(spared) = spared else {
        return damage_any(bytes, random);
    };
    let mut rest = bytes.split_off(spared.end);
    let middle = bytes.split_off(spared.start);
    damage_any(if random.random() { bytes } else { &mut rest }, random);
    bytes.extend(middle);
    bytes.extend(rest);
}

fn damage_any(bytes: &mut Vec<u8>, random: &mut StdRng) {
    const INTERESTING: [&[u8]; 10] =
        [b"\r\n", b"\n", b"\r\n\r\n", b"\0", b":", b" ", b"\t", b"%", b"\xff", b"authorization: "];
    for _ in 0..random.random_range(1..12) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        let end = at + random.random_range(0..=(bytes.len() - at).min(40));
        match random.random_range(0..7) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => {
                bytes.drain(at..end);
            }
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(end..end, again);
            }
            4 => bytes[at..end].reverse(),
            5 => {
                let interesting = one_of(random, &INTERESTING);
                bytes.splice(at..at, interesting.iter().copied());
            }
            _ if random.random_ratio(1, 4) => bytes.truncate(at),
            _ => bytes[at..end].make_ascii_uppercase(),
        }
    }
}

/// What is no request, or not one, or too much of one. Where a value in it is accepted elsewhere, the rest is certain to
/// be refused.
pub fn broken(asker: &Asker, protocol: Protocol, random: &mut StdRng) -> Drawn {
    let valid = asker.values.accepted(random).to_owned();
    let forged = asker.values.forged(random);
    let plain = |value: &[u8]| asker.plain(protocol, value);
    let good = plain(valid.as_bytes());
    let bytes = match random.random_range(0..14) {
        0 => garbage(random, b""),
        1 => garbage(random, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        2 => garbage(random, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        3 => with_header(&good, &format!("x: {}", "y".repeat(TOO_MUCH + random.random_range(0..50_000)))),
        4 => with_header(&good, "x: y\r\n".repeat(random.random_range(120..400)).trim_end()),
        5 => replaced(&good, "host: v", "host : v"),
        6 => replaced(&good, "authorization:", "authorization :"),
        7 => replaced(
            &good,
            " HTTP/1.1",
            one_of::<&str>(random, &[" HTTP/1.2", " HTTP/3.0", " http/1.1", " HTTP/1.1 x", ""]),
        ),
        // Cut off before the end.
        8 => good[..random.random_range(1..good.len())].to_vec(),
        9 => replaced(&plain(&forged), "\r\n\r\n", &format!("\r\nx: y\r\n z: Bearer {valid}\r\n\r\n")),
        10 => replaced(
            &plain(&forged),
            "host: v",
            one_of::<&str>(
                random,
                &[
                    "content-length: 5\r\ncontent-length: 6",
                    "content-length: -1",
                    "content-length: 18446744073709551616",
                    "transfer-encoding: chunked\r\ncontent-length: 3",
                    "transfer-encoding: identity, chunked, x",
                    "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
                ],
            ),
        ),
        11 => chunked(asker, &forged, random),
        // One request in the body of another.
        12 => {
            let inner = plain(&forged);
            let length = random.random_range(0..inner.len());
            let outer = with_header(&forward_auth::plain(&forged), &format!("content-length: {length}"));
            [outer, inner].concat()
        }
        _ => with_header(
            &forward_auth::plain(&forged),
            &format!("x: y\r\n\r\nGET /{} HTTP/1.1", "/".repeat(random.random_range(0..70_000))),
        ),
    };
    Drawn { bytes, whole: false, expected: Expected::NotAccepted }
}

fn garbage(random: &mut StdRng, begin: &[u8]) -> Vec<u8> {
    let mut rest = vec![0; random.random_range(0..2_000)];
    random.fill_bytes(&mut rest);
    [begin, &rest].concat()
}

fn replaced(request: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(request);
    text.replacen(from, to, 1).into_bytes()
}

fn with_header(request: &[u8], header: &str) -> Vec<u8> {
    replaced(request, "host: v", &format!("host: v\r\n{header}"))
}

/// A form in chunks, one of which is none.
fn chunked(asker: &Asker, value: &[u8], random: &mut StdRng) -> Vec<u8> {
    let head = introspection::head(asker, "application/x-www-form-urlencoded", "transfer-encoding: chunked");
    let size = one_of(random, &["zz", "-1", "fffffffffffffffff", "", "7\n", "0x7", "7;a=\"b", "6 6"]);
    [head.as_bytes(), b"6\r\ntoken=\r\n", size.as_bytes(), b"\r\n", value, b"\r\n0\r\n\r\n"].concat()
}
