//! User name and password, and the line of an htpasswd file for them.

use rand::CryptoRng;
use serde_json::{Value, json};

use super::{
    Drawn, Entries, Facts, Generated, Kind, Problem, Provided, READERS_GO_ON, Request, entry, forever,
    password, text,
};
use crate::api::material::BasicAuth;

/// What Apache's htpasswd and nginx take without being slow at every request.
pub(super) const COST: u32 = 10;
/// What bcrypt looks at; a longer password would open by a part of it.
const MAX_LENGTH: u32 = 72;
const TOO_LONG: &str =
    "basicAuth.length is more than 72 characters, which is all that bcrypt looks at; choose fewer";

pub(super) const KIND: Kind = Kind {
    secret_type: "kubernetes.io/basic-auth",
    generated: Some(Generated { options, draw, lasts: forever, bearer: false, public: &["username"] }),
    provided: Provided { required: &["username", "password"], optional: &["auth"], check, publish: None },
    when_inactive: READERS_GO_ON,
};

fn wished(request: &Request<'_>) -> (String, BasicAuth) {
    let block = request.spec.basic_auth.clone().unwrap_or_default();
    (block.username.clone().unwrap_or_else(|| request.name.to_owned()), block)
}

fn options(request: &Request<'_>) -> Result<Value, Problem> {
    let (username, block) = wished(request);
    if block.password.length.is_some_and(|length| length > MAX_LENGTH) {
        return Err(Problem::Options(TOO_LONG.to_owned()));
    }
    Ok(json!({ "username": username, "password": password::options(&block.password)? }))
}

fn draw(request: &Request<'_>, random: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    let (username, block) = wished(request);
    let password = password::draw(&block.password, random);
    let mut salt = [0; 16];
    random.fill_bytes(&mut salt);
    let hash = bcrypt::non_truncating_hash_with_salt(password.expose(), COST, salt)
        .map_err(|_| Problem::Options(TOO_LONG.to_owned()))?;
    // The variant that Apache writes, and that all readers of such files know.
    let auth = format!("{username}:{}\n", hash.format_for_version(bcrypt::Version::TwoY));
    let entries =
        [entry("username", username), entry("password", password.expose().as_str()), entry("auth", auth)];
    Ok(Drawn { entries: entries.into(), facts: Facts::default() })
}

fn check(found: &Entries, _: jiff::Timestamp) -> Result<Facts, Problem> {
    let username = text(found, "username")?;
    let another = |line: &str| !line.starts_with(&format!("{}:", username.trim_end()));
    if found.contains_key("auth") && text(found, "auth")?.lines().any(another) {
        return Err(Problem::Material("the key auth has a line of another user than username".to_owned()));
    }
    if username.contains(':') {
        return Err(Problem::Material(
            "the key username contains a colon, which a user name must not (RFC 7617)".to_owned(),
        ));
    }
    Ok(Facts::default())
}
