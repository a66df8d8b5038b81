//! A login for a Helm repository.

use rand::CryptoRng;
use serde_json::{Value, json};

use super::{
    Drawn, Facts, Generated, Kind, Problem, Provided, READERS_GO_ON, Request, anything, entry, forever,
    password,
};
use crate::api::material::HelmRepository;

pub(super) const KIND: Kind = Kind {
    secret_type: "Opaque",
    generated: Some(Generated { options, draw, lasts: forever, bearer: false, public: &["username"] }),
    provided: Provided { required: &["username", "password"], optional: &[], check: anything, publish: None },
    when_inactive: READERS_GO_ON,
};

fn wished(request: &Request<'_>) -> (String, HelmRepository) {
    let block = request.spec.helm_repository.clone().unwrap_or_default();
    (block.username.clone().unwrap_or_else(|| request.name.to_owned()), block)
}

fn options(request: &Request<'_>) -> Result<Value, Problem> {
    let (username, block) = wished(request);
    Ok(json!({ "username": username, "password": password::options(&block.password)? }))
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of all types")]
fn draw(request: &Request<'_>, random: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    let (username, block) = wished(request);
    let password = password::draw(&block.password, random);
    let entries = [entry("username", username), entry("password", password.expose().as_str())];
    Ok(Drawn { entries: entries.into(), facts: Facts::default() })
}
