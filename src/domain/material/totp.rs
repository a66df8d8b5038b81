//! The seed of one-time passwords by time (RFC 6238), and the URI that authenticator apps scan.

use rand::CryptoRng;
use serde_json::{Value, json};
use totp_rs::{Algorithm, Builder};

use super::{
    Drawn, Entries, Facts, Generated, Kind, Problem, Provided, READERS_GO_ON, Request, entry, forever,
    password, text,
};
use crate::api::material::{Totp, TotpAlgorithm};

pub(super) const KIND: Kind = Kind {
    secret_type: "Opaque",
    generated: Some(Generated { options, draw, lasts: forever, bearer: false, public: &[] }),
    provided: Provided { required: &["secret"], optional: &["uri"], check, publish: None },
    when_inactive: READERS_GO_ON,
};

fn wished(request: &Request<'_>) -> Totp {
    let block = request.spec.totp.clone().unwrap_or_default();
    Totp {
        issuer: Some(block.issuer.unwrap_or_else(|| request.namespace.to_owned())),
        account: Some(block.account.unwrap_or_else(|| request.name.to_owned())),
        digits: Some(block.digits.unwrap_or(6)),
        period: Some(block.period.unwrap_or(30)),
        algorithm: block.algorithm,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of all types")]
fn options(request: &Request<'_>) -> Result<Value, Problem> {
    Ok(json!(wished(request)))
}

fn draw(request: &Request<'_>, random: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    let block = wished(request);
    // As long as the hash, which is what RFC 4226 recommends for its keys.
    let (algorithm, length) = match block.algorithm {
        TotpAlgorithm::Sha1 => (Algorithm::SHA1, 20),
        TotpAlgorithm::Sha256 => (Algorithm::SHA256, 32),
        TotpAlgorithm::Sha512 => (Algorithm::SHA512, 64),
    };
    let seed = password::bytes(length, random);
    let totp = Builder::new()
        .with_algorithm(algorithm)
        .with_digits(if block.digits == Some(8) { 8 } else { 6 })
        .with_step_duration(u64::from(block.period.unwrap_or(30)))
        .with_secret(seed.expose().clone())
        .with_account_name(block.account.unwrap_or_default())
        .with_issuer(block.issuer)
        .build()
        .map_err(|error| Problem::Options(format!("spec.totp: {error}")))?;
    let uri = totp.to_url().map_err(|error| Problem::Options(format!("spec.totp: {error}")))?;
    let entries = [entry("secret", data_encoding::BASE32_NOPAD.encode(seed.expose())), entry("uri", uri)];
    Ok(Drawn { entries: entries.into(), facts: Facts::default() })
}

fn check(found: &Entries, _: jiff::Timestamp) -> Result<Facts, Problem> {
    let seed = text(found, "secret")?.trim().trim_end_matches('=').to_ascii_uppercase();
    match data_encoding::BASE32_NOPAD.decode(seed.as_bytes()) {
        Ok(seed) if seed.len() >= 16 => Ok(Facts::default()),
        Ok(_) => {
            Err(Problem::Material("the key secret has fewer than 128 bits (RFC 4226, section 4)".to_owned()))
        }
        Err(_) => Err(Problem::Material("the key secret is not Base32 (RFC 4648, section 6)".to_owned())),
    }
}
