//! What is accepted and what is not, and that each protocol says the same.

use super::*;

const CASES: &[(&str, Change, Expected)] = &[
    ("valid", |_| {}, Expected::Accepted),
    ("unknown id", |world| world.tokens.clear(), Expected::Refused),
    (
        "unknown id of a token that is well-formed",
        |world| world.token = drawn(2).expose().to_owned(),
        Expected::Refused,
    ),
    (
        "wrong secret",
        |world| {
            // The id of ours, and the rest of another; its check digits are right.
            let (ours, mut random) = (drawn(1), StdRng::seed_from_u64(7));
            world.token = loop {
                let other = Token::draw(&Prefix::default(), &mut random);
                let text = other.expose().replace(other.id(), ours.id());
                // The check is over the id, too, so it has to be made anew: by the one who made the first.
                if let Some(forged) = with_check(&text) {
                    break forged;
                }
            };
        },
        Expected::Refused,
    ),
    (
        "bad check digits",
        |world| {
            let last = if world.token.ends_with('0') { "1" } else { "0" };
            world.token.truncate(world.token.len() - 1);
            world.token += last;
        },
        Expected::Refused,
    ),
    ("no token at all", |world| world.token = "hunter2".to_owned(), Expected::Refused),
    ("too long for a token", |world| world.token = "a".repeat(2000), Expected::Refused),
    ("a nanosecond before its end", |world| world.now = at(100) - NANOSECOND, Expected::Accepted),
    ("at its end", |world| world.now = at(100), Expected::Refused),
    (
        "by its life, at its end",
        |world| {
            world.tokens[0]["spec"] = json!({"credentialRef": {"name": "c"}, "expiresIn": "1h"});
            world.now = at(3500);
        },
        Expected::Refused,
    ),
    (
        "a status that tells of a later end",
        |world| {
            world.tokens[0]["status"]["expiresAt"] = json!(at(1000).to_string());
            world.now = at(100);
        },
        Expected::Refused,
    ),
    ("revoked", |world| world.tokens[0]["spec"]["revoked"] = json!(true), Expected::Refused),
    ("said to be revoked", |world| world.tokens[0]["status"]["state"] = json!("Revoked"), Expected::Refused),
    (
        "expired, and the clock set back",
        |world| world.tokens[0]["status"]["state"] = json!("Expired"),
        Expected::Refused,
    ),
    (
        "terminating",
        |world| world.tokens[0]["metadata"]["deletionTimestamp"] = json!(at(0).to_string()),
        Expected::Refused,
    ),
    (
        "no end that makes sense",
        |world| world.tokens[0]["spec"]["expiresAt"] = json!("tomorrow"),
        Expected::Refused,
    ),
    (
        "credential inactive",
        |world| world.credentials[0]["spec"]["state"] = json!("Inactive"),
        Expected::Refused,
    ),
    (
        "credential active again, and the controller down",
        |world| world.tokens[0]["status"]["state"] = json!("Suspended"),
        Expected::Accepted,
    ),
    ("credential deleted", |world| world.credentials.clear(), Expected::Refused),
    (
        "credential terminating",
        |world| world.credentials[0]["metadata"]["deletionTimestamp"] = json!(at(0).to_string()),
        Expected::Refused,
    ),
    (
        "credential at its end",
        |world| world.credentials[0]["spec"]["expiresAt"] = json!(at(0).to_string()),
        Expected::Refused,
    ),
    (
        "credential a nanosecond before its end",
        |world| world.credentials[0]["spec"]["expiresAt"] = json!((at(0) + NANOSECOND).to_string()),
        Expected::Accepted,
    ),
    (
        "credential of no end that makes sense",
        |world| world.credentials[0]["spec"]["expiresAt"] = json!("tomorrow"),
        Expected::Refused,
    ),
    (
        "credential that a policy refuses",
        |world| usable(world, "False", "PolicyViolation", 1),
        Expected::Refused,
    ),
    (
        "credential that a policy refused before it was edited",
        |world| {
            world.credentials[0]["metadata"]["generation"] = json!(2);
            usable(world, "False", "PolicyViolation", 1);
        },
        Expected::Refused,
    ),
    (
        "credential of which nobody knows whether a policy refuses it",
        |world| usable(world, "Unknown", "PolicyViolation", 1),
        Expected::Refused,
    ),
    (
        "credential that lacks what a policy does not let it have, and is usable",
        |world| usable(world, "True", "Published", 1),
        Expected::Accepted,
    ),
    (
        "credential active again, and the controller down",
        |world| usable(world, "False", "CredentialInactive", 1),
        Expected::Accepted,
    ),
    (
        "credential whose Secret or roles are not as they should be",
        |world| world.credentials[0]["status"]["state"] = json!("Failed"),
        Expected::Accepted,
    ),
    (
        "credential expired, and the clock set back",
        |world| {
            world.credentials[0]["spec"]["expiresAt"] = json!(at(50).to_string());
            world.credentials[0]["status"]["state"] = json!("Expired");
        },
        Expected::Refused,
    ),
    (
        "credential recreated",
        |world| world.credentials[0]["metadata"]["uid"] = json!(OTHER_UID),
        Expected::Refused,
    ),
    (
        "credential of that name in another namespace",
        |world| world.credentials[0]["metadata"]["namespace"] = json!("elsewhere"),
        Expected::Refused,
    ),
    (
        "wrong audience",
        |world| world.credentials[0]["spec"]["audiences"] = json!(["billing"]),
        Expected::Refused,
    ),
    ("no audience", |world| world.credentials[0]["spec"]["audiences"] = json!([]), Expected::Refused),
    (
        "audience of the credential, not of the token",
        |world| world.tokens[0]["spec"]["audiences"] = json!(["billing"]),
        Expected::Refused,
    ),
    (
        "audience of the token, not of the credential",
        |world| {
            world.tokens[0]["spec"]["audiences"] = json!(["other"]);
        },
        Expected::Refused,
    ),
    (
        "audience absent, and the route asks for one",
        |world| {
            world.credentials[0]["spec"].as_object_mut().unwrap().remove("audiences");
        },
        Expected::Refused,
    ),
    (
        "audience absent, and the route asks for none",
        |world| {
            world.credentials[0]["spec"].as_object_mut().unwrap().remove("audiences");
            world.route = "";
        },
        Expected::Accepted,
    ),
    ("a route of the default audience", |world| world.route = "", Expected::Refused),
    ("scope there", |world| world.route = "/read", Expected::Accepted),
    ("missing scope", |world| world.route = "/write", Expected::Forbidden),
    (
        "scope that the token gave up",
        |world| {
            world.route = "/read";
            world.tokens[0]["spec"]["scopes"] = json!([]);
        },
        Expected::Forbidden,
    ),
    (
        "scope that the credential does not have",
        |world| {
            world.route = "/write";
            world.tokens[0]["spec"]["scopes"] = json!(["orders:read", "orders:write"]);
        },
        Expected::Forbidden,
    ),
    ("namespace accepted", |world| world.route = "/shop", Expected::Accepted),
    ("namespace not accepted", |world| world.route = "/elsewhere", Expected::Forbidden),
    (
        "forged digest",
        |world| {
            let forged = digest_of(&key(2), TOKEN_UID, 0, &drawn(1)).replace(key(2).id(), key(1).id());
            world.tokens[0]["status"]["digest"] = json!(forged);
        },
        Expected::Refused,
    ),
    ("digest of another serial", |world| world.tokens[0]["status"]["serial"] = json!(1), Expected::Refused),
    (
        "status copied to another token",
        |world| world.tokens[0]["metadata"]["uid"] = json!(OTHER_UID),
        Expected::Refused,
    ),
    (
        "status copied to another token, beside the true one",
        |world| {
            let mut copy = world.tokens[0].clone();
            copy["metadata"]["uid"] = json!(OTHER_UID);
            copy["metadata"]["name"] = json!("copy");
            world.tokens.insert(0, copy);
        },
        Expected::Accepted,
    ),
    (
        "status copied to another token, the true one revoked",
        |world| {
            let mut copy = world.tokens[0].clone();
            copy["metadata"]["uid"] = json!(OTHER_UID);
            copy["metadata"]["name"] = json!("copy");
            world.tokens[0]["spec"]["revoked"] = json!(true);
            world.tokens.push(copy);
        },
        Expected::Refused,
    ),
    ("unknown key id", |world| world.keys = vec![key(2)], Expected::Refused),
    (
        "an older key, while a newer one signs",
        |world| world.keys.push(Key::draw(at(-1), &mut StdRng::seed_from_u64(3))),
        Expected::Accepted,
    ),
    ("no keyring", |world| world.keys.clear(), Expected::Unavailable),
    (
        "planted Secret: a value that no status has a digest of",
        |world| {
            world.token = drawn(5).expose().to_owned();
            world.tokens[0]["status"]["tokenId"] = json!(drawn(5).id());
        },
        Expected::Refused,
    ),
    ("stale verifier", |world| world.seen = Some(SignedDuration::from_millis(30_001)), Expected::Unavailable),
    ("verifier just fresh", |world| world.seen = Some(SignedDuration::from_secs(29)), Expected::Accepted),
    ("verifier that has not read everything", |world| world.seen = None, Expected::Unavailable),
];

/// The same text with check characters that fit, if it is long enough to be a token.
fn with_check(text: &str) -> Option<String> {
    let alphabet = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let body = &text[..text.len() - 6];
    let mut rest = crc32fast::hash(body.as_bytes()) as usize;
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = alphabet[rest % 62];
        rest /= 62;
    }
    let text = body.to_owned() + std::str::from_utf8(&digits).ok()?;
    Token::parse(&text).ok().map(|_| text)
}

#[tokio::test]
async fn each_case_at_each_protocol() {
    for (what, change, expected) in CASES {
        let mut world = World::valid();
        change(&mut world);
        world.bearer("Bearer");
        expect(what, &world, *expected).await;
    }
}
