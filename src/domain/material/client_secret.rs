//! A client id and a client secret, as OAuth has them (RFC 6749, section 2.3.1). The secret is a bearer token that the
//! verifier knows, and the id is the public id inside it.

use rand::CryptoRng;
use serde_json::{Value, json};

use super::{Drawn, Facts, Generated, Kind, Problem, Provided, Request, anything, entry, forever};
use crate::domain::token::Token;

/// The key of the id.
pub const ID_KEY: &str = "client-id";
/// The key of the secret.
pub const SECRET_KEY: &str = "client-secret";

pub(super) const KIND: Kind = Kind {
    secret_type: "Opaque",
    generated: Some(Generated { options, draw, lasts: forever, bearer: true, public: &[ID_KEY] }),
    provided: Provided { required: &[ID_KEY, SECRET_KEY], optional: &[], check: anything, publish: None },
    when_inactive: "the verifier refuses the client secret",
};

#[expect(clippy::unnecessary_wraps, reason = "the signature of all types")]
fn options(_: &Request<'_>) -> Result<Value, Problem> {
    Ok(json!({}))
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of all types")]
fn draw(request: &Request<'_>, random: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    let token = Token::draw(request.prefix, random);
    let entries = [entry(ID_KEY, token.id()), entry(SECRET_KEY, token.expose())];
    let facts = Facts { id: Some(token.id().to_owned()), ..Facts::default() };
    Ok(Drawn { entries: entries.into(), facts })
}
