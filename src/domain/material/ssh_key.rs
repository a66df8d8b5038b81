//! An SSH key pair in OpenSSH's own format, for users and deploy keys.

use pkcs1::der::Decode;
use rand::CryptoRng;
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use ssh_key::{
    EcdsaCurve, HashAlg, LineEnding, Mpint, PrivateKey, PublicKey,
    private::{EcdsaKeypair, Ed25519Keypair, KeypairData, RsaKeypair, RsaPrivateKey},
    public::RsaPublicKey,
    rand_core::OsRng,
};

use super::{
    Drawn, Entries, Facts, Generated, Kind, Problem, Provided, READERS_GO_ON, Request, entry, forever, text,
};
use crate::api::material::{KeyAlgorithm, SshKey};

const PRIVATE_KEY: &str = "ssh-privatekey";
const PUBLIC_KEY: &str = "ssh-publickey";

pub(super) const KIND: Kind = Kind {
    secret_type: "kubernetes.io/ssh-auth",
    generated: Some(Generated { options, draw, lasts: forever, bearer: false, public: &["ssh-publickey"] }),
    provided: Provided {
        required: &[PRIVATE_KEY],
        optional: &[PUBLIC_KEY, "known_hosts"],
        check,
        publish: None,
    },
    when_inactive: READERS_GO_ON,
};

fn wished(request: &Request<'_>) -> SshKey {
    let block = request.spec.ssh_key.clone().unwrap_or_default();
    let default_size = match block.algorithm {
        KeyAlgorithm::Ed25519 => None,
        KeyAlgorithm::Ecdsa => Some(256),
        KeyAlgorithm::Rsa => Some(4096),
    };
    let comment = block.comment.unwrap_or_else(|| format!("{}/{}", request.namespace, request.name));
    SshKey { algorithm: block.algorithm, size: block.size.or(default_size), comment: Some(comment) }
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of all types")]
fn options(request: &Request<'_>) -> Result<Value, Problem> {
    Ok(json!(wished(request)))
}

fn draw(request: &Request<'_>, random: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    let block = wished(request);
    let key = pair(&block, random).map_err(|_| {
        Problem::Options(
            "spec.sshKey: there is no such key; set size to one that goes with algorithm".to_owned(),
        )
    })?;
    let key = PrivateKey::new(key, block.comment.unwrap_or_default()).map_err(|_| unwritable())?;
    let private = key.to_openssh(LineEnding::LF).map_err(|_| unwritable())?;
    let public = key.public_key().to_openssh().map_err(|_| unwritable())? + "\n";
    let entries = [entry(PRIVATE_KEY, private.as_bytes()), entry(PUBLIC_KEY, public)];
    Ok(Drawn { entries: entries.into(), facts: facts(key.public_key()) })
}

fn unwritable() -> Problem {
    Problem::Options("spec.sshKey: the key cannot be written".to_owned())
}

fn facts(key: &PublicKey) -> Facts {
    Facts { fingerprint: Some(key.fingerprint(HashAlg::Sha256).to_string()), ..Facts::default() }
}

fn pair(block: &SshKey, random: &mut dyn CryptoRng) -> Result<KeypairData, Box<dyn std::error::Error>> {
    Ok(match (block.algorithm, block.size) {
        (KeyAlgorithm::Ed25519, _) => {
            let mut seed = zeroize::Zeroizing::new([0; 32]);
            random.fill_bytes(&mut *seed);
            Ed25519Keypair::from_seed(&seed).into()
        }
        (KeyAlgorithm::Ecdsa, Some(384)) => EcdsaKeypair::random(&mut OsRng, EcdsaCurve::NistP384)?.into(),
        (KeyAlgorithm::Ecdsa, Some(521)) => EcdsaKeypair::random(&mut OsRng, EcdsaCurve::NistP521)?.into(),
        (KeyAlgorithm::Ecdsa, _) => EcdsaKeypair::random(&mut OsRng, EcdsaCurve::NistP256)?.into(),
        (KeyAlgorithm::Rsa, Some(2048)) => rsa(RsaKeySize::_2048)?,
        (KeyAlgorithm::Rsa, Some(3072)) => rsa(RsaKeySize::_3072)?,
        (KeyAlgorithm::Rsa, _) => rsa(RsaKeySize::_4096)?,
    })
}

/// Drawn by AWS-LC: the Rust crate that could do it leaks keys by timing (RUSTSEC-2023-0071).
fn rsa(size: RsaKeySize) -> Result<KeypairData, Box<dyn std::error::Error>> {
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size)?;
    let pkcs8 = zeroize::Zeroizing::new(pair.serialize_der());
    let pkcs8 = pkcs1::der::asn1::AnyRef::from_der(&pkcs8)?;
    let key: &[u8] = pkcs8.sequence(|reader| {
        use pkcs1::der::{Reader, asn1::OctetStringRef};
        let _version: u8 = reader.decode()?;
        let _algorithm: pkcs1::der::asn1::AnyRef<'_> = reader.decode()?;
        let key: OctetStringRef<'_> = reader.decode()?;
        Ok::<_, pkcs1::der::Error>(key.as_bytes())
    })?;
    let key = pkcs1::RsaPrivateKey::from_der(key)?;
    let number = |number: pkcs1::UintRef<'_>| Mpint::from_positive_bytes(number.as_bytes());
    Ok(RsaKeypair {
        public: RsaPublicKey { e: number(key.public_exponent)?, n: number(key.modulus)? },
        private: RsaPrivateKey {
            d: number(key.private_exponent)?,
            iqmp: number(key.coefficient)?,
            p: number(key.prime1)?,
            q: number(key.prime2)?,
        },
    }
    .into())
}

fn check(found: &Entries, _: jiff::Timestamp) -> Result<Facts, Problem> {
    let private = PrivateKey::from_openssh(text(found, PRIVATE_KEY)?).map_err(|_| {
        Problem::Material(format!(
            "the key {PRIVATE_KEY} is not an OpenSSH private key; convert it with ssh-keygen -p -f FILE"
        ))
    })?;
    if private.is_encrypted() {
        return Err(Problem::Material(format!(
            "the key {PRIVATE_KEY} is locked by a passphrase, which nobody could enter; remove it with ssh-keygen -p -f FILE"
        )));
    }
    if found.contains_key(PUBLIC_KEY) {
        let public = PublicKey::from_openssh(text(found, PUBLIC_KEY)?.trim()).map_err(|_| {
            Problem::Material(format!(
                "the key {PUBLIC_KEY} is not an OpenSSH public key, such as ssh-ed25519 AAAA..."
            ))
        })?;
        if public.key_data() != private.public_key().key_data() {
            return Err(Problem::Material(format!("the key {PUBLIC_KEY} does not belong to {PRIVATE_KEY}")));
        }
    }
    Ok(facts(private.public_key()))
}
