//! The hash of a password: of one that is drawn, and then published beside it, or of one that the user provides.

use argon2::Argon2;
use argon2::password_hash::{CustomizedPasswordHasher, PasswordHasher};
use rand::CryptoRng;
use serde_json::{Value, json};
use sha_crypt::ShaCrypt;

use super::{
    Drawn, Entries, Facts, Generated, Kind, Problem, Provided, READERS_GO_ON, Request, anything, entry,
    forever, password, text,
};
use crate::api::material::{HashAlgorithm, HashedPassword};

const COST: u32 = 12;

pub(super) const KIND: Kind = Kind {
    secret_type: "Opaque",
    generated: Some(Generated { options, draw, costly: |_| true, lasts: forever, bearer: false }),
    provided: Provided { required: &["password"], optional: &[], check: anything, publish: Some(publish) },
    when_inactive: READERS_GO_ON,
};

fn wished(request: &Request<'_>) -> HashedPassword {
    request.spec.hashed_password.clone().unwrap_or_default()
}

fn options(request: &Request<'_>) -> Result<Value, Problem> {
    let block = wished(request);
    let cost = (block.algorithm == HashAlgorithm::Bcrypt).then(|| block.cost.unwrap_or(COST));
    let password = password::options(&block.password)?;
    Ok(json!({ "algorithm": block.algorithm, "cost": cost, "password": password }))
}

fn draw(request: &Request<'_>, random: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    let block = wished(request);
    let password = password::draw(&block.password, random);
    let hash = hash(&block, password.expose(), random)?;
    let entries = [entry("password", password.expose().as_str()), entry("hash", hash)];
    Ok(Drawn { entries: entries.into(), facts: Facts::default() })
}

fn publish(request: &Request<'_>, found: &Entries, random: &mut dyn CryptoRng) -> Result<Entries, Problem> {
    let password = text(found, "password")?.trim_end_matches(['\r', '\n']);
    Ok([entry("hash", hash(&wished(request), password, random)?)].into())
}

fn hash(block: &HashedPassword, password: &str, random: &mut dyn CryptoRng) -> Result<String, Problem> {
    let mut salt = [0; 16];
    random.fill_bytes(&mut salt);
    let failed = |_| Problem::Options("the password cannot be hashed so".to_owned());
    match block.algorithm {
        HashAlgorithm::Bcrypt if password.len() > 72 => Err(Problem::Material(
            "the password has more than 72 bytes, of which bcrypt would ignore the rest; choose Argon2id"
                .to_owned(),
        )),
        HashAlgorithm::Bcrypt => bcrypt::hash_with_salt(password, block.cost.unwrap_or(COST), salt)
            .map(|hash| hash.format_for_version(bcrypt::Version::TwoB))
            .map_err(|_| Problem::Options("the password cannot be hashed by bcrypt".to_owned())),
        HashAlgorithm::Argon2id => {
            let hash =
                Argon2::default().hash_password_with_salt(password.as_bytes(), &salt).map_err(failed)?;
            Ok(hash.to_string())
        }
        HashAlgorithm::Sha512Crypt => {
            // Written in 16 characters, which is all that other implementations look at.
            let salt = &salt[..12];
            let hash = ShaCrypt::SHA512
                .hash_password_customized(
                    password.as_bytes(),
                    salt,
                    None,
                    None,
                    sha_crypt::Params::RECOMMENDED,
                )
                .map_err(failed)?;
            Ok(hash.to_string())
        }
    }
}
