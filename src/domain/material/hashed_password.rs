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
use crate::api::{
    CredentialSpec, CredentialType,
    material::{HashAlgorithm, HashedPassword},
};

pub(super) const COST: u32 = 12;
/// As long as any that is drawn.
const MAX_LENGTH: usize = 1024;
/// What bcrypt looks at.
const MAX_FOR_BCRYPT: usize = 72;

pub(super) const KIND: Kind = Kind {
    secret_type: "Opaque",
    generated: Some(Generated { options, draw, lasts: forever, bearer: false, public: &[] }),
    provided: Provided { required: &["password"], optional: &[], check: anything, publish: Some(publish) },
    when_inactive: READERS_GO_ON,
};

fn wished(request: &Request<'_>) -> HashedPassword {
    request.spec.hashed_password.clone().unwrap_or_default()
}

/// How a password is hashed, with the defaults in place; null where none is.
pub(super) fn hashing(request: &Request<'_>) -> Value {
    if request.spec.credential_type != CredentialType::HashedPassword {
        return Value::Null;
    }
    let block = wished(request);
    let cost = (block.algorithm == HashAlgorithm::Bcrypt).then(|| block.cost.unwrap_or(COST));
    json!({ "algorithm": block.algorithm, "cost": cost })
}

fn options(request: &Request<'_>) -> Result<Value, Problem> {
    let HashedPassword { algorithm, password, .. } = wished(request);
    let length = usize::try_from(password.length.unwrap_or_default()).unwrap_or(usize::MAX);
    if algorithm == HashAlgorithm::Bcrypt && length > MAX_FOR_BCRYPT {
        return Err(Problem::Options(
            "hashedPassword.length is more than 72, and bcrypt looks at no more; choose fewer, or Argon2id"
                .to_owned(),
        ));
    }
    Ok(json!({ "hashing": hashing(request), "password": password::options(&wished(request).password)? }))
}

fn draw(request: &Request<'_>, random: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    let block = wished(request);
    let password = password::draw(&block.password, random);
    let hash = hash(&block, password.expose(), random)?;
    let entries = [entry("password", password.expose().as_str()), entry("hash", hash)];
    Ok(Drawn { entries: entries.into(), facts: Facts::default() })
}

fn publish(request: &Request<'_>, found: &Entries, random: &mut dyn CryptoRng) -> Result<Entries, Problem> {
    Ok([entry("hash", hash(&wished(request), provided(found)?, random)?)].into())
}

fn provided(found: &Entries) -> Result<&str, Problem> {
    Ok(text(found, "password")?.trim_end_matches(['\r', '\n']))
}

/// Whether the password can be hashed, and in a bounded time: of SHA-crypt it grows with the square of the length.
pub(super) fn check(spec: &CredentialSpec, found: &Entries) -> Result<(), Problem> {
    let password = provided(found)?;
    let algorithm = spec.hashed_password.as_ref().map(|block| block.algorithm).unwrap_or_default();
    if password.len() > MAX_LENGTH {
        return Err(Problem::Material(format!(
            "the password has more than {MAX_LENGTH} bytes; choose a shorter one"
        )));
    }
    if algorithm == HashAlgorithm::Bcrypt && password.len() > MAX_FOR_BCRYPT {
        return Err(Problem::Material(
            "the password has more than 72 bytes, of which bcrypt would ignore the rest; choose Argon2id"
                .to_owned(),
        ));
    }
    Ok(())
}

fn hash(block: &HashedPassword, password: &str, random: &mut dyn CryptoRng) -> Result<String, Problem> {
    let mut salt = [0; 16];
    random.fill_bytes(&mut salt);
    let failed = |_| Problem::Options("the password cannot be hashed so".to_owned());
    match block.algorithm {
        HashAlgorithm::Bcrypt => {
            bcrypt::non_truncating_hash_with_salt(password, block.cost.unwrap_or(COST), salt)
                .map(|hash| hash.format_for_version(bcrypt::Version::TwoB))
                .map_err(|_| Problem::Options("the password cannot be hashed by bcrypt".to_owned()))
        }
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
