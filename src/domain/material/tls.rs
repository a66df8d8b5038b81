//! A private key and its certificate (X.509, RFC 5280), signed by itself or by an authority of the user.

use aws_lc_rs::signature::Ed25519KeyPair;
use jiff::{SignedDuration, Timestamp};
use rand::CryptoRng;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData,
    RsaKeySize, SanType, SerialNumber,
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::{pem::Pem, prelude::X509Certificate};

use super::{Drawn, Entries, Facts, Generated, Kind, Problem, Provided, READERS_GO_ON, Request, entry, text};
use crate::{
    api::{
        CredentialSpec, Lifetime,
        material::{KeyAlgorithm, Tls},
    },
    domain::name::hex,
};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";
const DURATION: SignedDuration = SignedDuration::from_hours(90 * 24);
/// Of a chain, or a list of authorities: each costs time to check.
const MAX_CERTIFICATES: usize = 64;
/// Clocks differ; a certificate from this very second would be refused by some.
const BACKDATED: SignedDuration = SignedDuration::from_mins(5);

pub(super) const KIND: Kind = Kind {
    secret_type: "kubernetes.io/tls",
    generated: Some(Generated {
        options,
        draw,
        lasts: |spec| Some(duration(&wished(spec, ""))),
        bearer: false,
        public: &["tls.crt", "ca.crt"],
    }),
    provided: Provided { required: &[CERTIFICATE, KEY], optional: &[AUTHORITY], check, publish: None },
    when_inactive: READERS_GO_ON,
};

fn wished(spec: &CredentialSpec, name: &str) -> Tls {
    let block = spec.tls.clone().unwrap_or_else(|| Tls { algorithm: KeyAlgorithm::Ecdsa, ..Tls::default() });
    let default_size = match block.algorithm {
        KeyAlgorithm::Ed25519 => None,
        KeyAlgorithm::Ecdsa => Some(256),
        KeyAlgorithm::Rsa => Some(2048),
    };
    // A name that is too long for a certificate is cut off; the DNS names are what counts (RFC 9525).
    let common_name = block.common_name.clone().unwrap_or_else(|| name.chars().take(64).collect());
    Tls { size: block.size.or(default_size), common_name: Some(common_name), ..block }
}

fn duration(block: &Tls) -> SignedDuration {
    block.duration.as_ref().map(Lifetime::duration).and_then(Result::ok).unwrap_or(DURATION)
}

fn options(request: &Request<'_>) -> Result<Value, Problem> {
    let block = wished(request.spec, request.name);
    params(&block)?;
    Ok(json!({ "tls": block, "duration": duration(&block).as_secs() }))
}

fn draw(request: &Request<'_>, random: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    let block = wished(request.spec, request.name);
    let failed = |error: rcgen::Error| Problem::Options(format!("spec.tls: {error}"));
    let mut params = params(&block)?;
    let end = request.now + duration(&block);
    params.not_before = instant(request.now - BACKDATED)?;
    params.not_after = instant(end)?;
    let mut serial = [0; 16];
    random.fill_bytes(&mut serial);
    // Positive, as RFC 5280 asks for.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let signer = match (&block.issuer, request.issuer) {
        (None, _) => None,
        (Some(_), None) => {
            return Err(Problem::Material("the authority's Secret is not there".to_owned()));
        }
        (Some(_), Some(issuer)) => Some(signer(issuer, request.now, end)?),
    };
    // Last, for it is what takes long.
    let key = pair(&block).map_err(failed)?;
    let (certificate, chain, authority) = match signer {
        None => {
            let certificate = params.self_signed(&key).map_err(failed)?;
            let pem = certificate.pem();
            (certificate, pem.clone(), pem)
        }
        Some((signer, chain, root)) => {
            let certificate = params.signed_by(&key, &signer).map_err(failed)?;
            let pem = certificate.pem();
            (certificate, pem + chain, root.to_owned())
        }
    };
    let fingerprint = Some(hex(&Sha256::digest(certificate.der())));
    let entries = [entry(CERTIFICATE, chain), entry(KEY, key.serialize_pem()), entry(AUTHORITY, authority)];
    Ok(Drawn { entries: entries.into(), facts: Facts { id: None, fingerprint, expires_at: Some(end) } })
}

/// What signs, its chain and its root, where it can sign a certificate that ends then.
fn signer(
    issuer: &Entries,
    now: Timestamp,
    end: Timestamp,
) -> Result<(Issuer<'static, KeyPair>, &str, &str), Problem> {
    let facts = check(issuer, now)
        .map_err(|problem| Problem::Material(format!("the authority cannot sign: {problem}")))?;
    if facts.expires_at.is_some_and(|authority| authority < end) {
        return Err(Problem::Material(
            "the authority's certificate ends before the one it is to sign; renew it, or set a shorter spec.tls.duration"
                .to_owned(),
        ));
    }
    let chain = text(issuer, CERTIFICATE)?;
    let refused =
        |_| Problem::Material("the authority's key or certificate cannot be used to sign".to_owned());
    may_sign(issuer, now)?;
    let authority_key = private_key(text(issuer, KEY)?).map_err(refused)?;
    let signer = Issuer::from_ca_cert_pem(chain, authority_key).map_err(refused)?;
    let root = if issuer.contains_key(AUTHORITY) { text(issuer, AUTHORITY)? } else { chain };
    Ok((signer, chain, root))
}

fn pair(block: &Tls) -> Result<KeyPair, rcgen::Error> {
    match (block.algorithm, block.size) {
        (KeyAlgorithm::Ed25519, _) => {
            // Without the public key beside it (RFC 5958's second version of PKCS #8), which OpenSSL 3.0 cannot read.
            let failed = |_| rcgen::Error::KeyGenerationUnavailable;
            let key = Ed25519KeyPair::generate().and_then(|key| key.to_pkcs8v1()).map_err(failed)?;
            KeyPair::try_from(key.as_ref())
        }
        (KeyAlgorithm::Ecdsa, Some(384)) => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        (KeyAlgorithm::Ecdsa, _) => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        (KeyAlgorithm::Rsa, Some(4096)) => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096),
        (KeyAlgorithm::Rsa, Some(3072)) => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072),
        (KeyAlgorithm::Rsa, _) => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
    }
}

fn params(block: &Tls) -> Result<CertificateParams, Problem> {
    let mut params = CertificateParams::new(block.dns_names.clone()).map_err(|_| {
        Problem::Options("spec.tls.dnsNames: not a DNS name; write names like orders.example".to_owned())
    })?;
    for address in &block.ip_addresses {
        let address = address.parse().map_err(|_| {
            Problem::Options("spec.tls.ipAddresses: not an IP address; write one like 10.0.0.7".to_owned())
        })?;
        params.subject_alt_names.push(SanType::IpAddress(address));
    }
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, block.common_name.clone().unwrap_or_default());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if block.algorithm == KeyAlgorithm::Rsa {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = block.issuer.is_some();
    params.is_ca = IsCa::ExplicitNoCa;
    Ok(params)
}

fn instant(at: Timestamp) -> Result<time::OffsetDateTime, Problem> {
    time::OffsetDateTime::from_unix_timestamp(at.as_second())
        .map_err(|_| Problem::Options("spec.tls.duration: the end lies too far ahead".to_owned()))
}

fn check(found: &Entries, now: Timestamp) -> Result<Facts, Problem> {
    key_pair(found, [CERTIFICATE, KEY, AUTHORITY], now)
}

/// The key belongs to the first certificate, each certificate is signed by the next, and none is over. Takes the keys of
/// certificate, private key and authority.
pub(super) fn key_pair(
    found: &Entries,
    [certificate_key, private_key, authority_key]: [&str; 3],
    now: Timestamp,
) -> Result<Facts, Problem> {
    let blocks = certificates(found, certificate_key)?;
    let chain = parsed(&blocks, certificate_key)?;
    let Some(leaf) = chain.first() else {
        return Err(Problem::Material(format!("the key {certificate_key} has no certificate (PEM)")));
    };
    let key = self::private_key(text(found, private_key)?).map_err(|_| {
        Problem::Material(format!(
            "the key {private_key} is not a private key that we can read (PEM, without a passphrase; of RSA, at least \
             2048 bits)"
        ))
    })?;
    if key.subject_public_key_info() != leaf.tbs_certificate.subject_pki.raw {
        return Err(Problem::Material(format!(
            "the key {private_key} does not belong to the certificate in {certificate_key}"
        )));
    }
    for (signed, signer) in chain.iter().zip(chain.iter().skip(1)) {
        if signed.verify_signature(Some(signer.public_key())).is_err() {
            return Err(Problem::Material(format!(
                "the certificates in {certificate_key} are no chain: each must be signed by the next"
            )));
        }
    }
    if found.contains_key(authority_key) {
        parsed(&certificates(found, authority_key)?, authority_key)?;
    }
    let ends =
        chain.iter().filter_map(|each| Timestamp::from_second(each.validity().not_after.timestamp()).ok());
    let expires_at = ends.min();
    if let Some(end) = expires_at.filter(|end| *end <= now) {
        return Err(Problem::Material(format!(
            "the certificate in {certificate_key} ended at {end}; renew it"
        )));
    }
    let fingerprint = blocks.first().map(|first| hex(&Sha256::digest(&first.contents)));
    Ok(Facts { id: None, fingerprint, expires_at })
}

/// The first private key; what else there is, such as parameters of the curve that OpenSSL writes before it, is passed over.
fn private_key(pem: &str) -> Result<KeyPair, rcgen::Error> {
    let key =
        PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    KeyPair::try_from(&key)
}

/// Whether others would accept what it signs (RFC 5280, sections 4.2.1.3 and 4.2.1.9).
fn may_sign(issuer: &Entries, now: Timestamp) -> Result<(), Problem> {
    let blocks = certificates(issuer, CERTIFICATE)?;
    let chain = parsed(&blocks, CERTIFICATE)?;
    let Some(authority) = chain.first() else {
        return Err(Problem::Material(format!("the key {CERTIFICATE} has no certificate (PEM)")));
    };
    let wrong = |what: &str| Err(Problem::Material(format!("the authority cannot sign: {what}")));
    if !authority.is_ca() {
        return wrong("its certificate is not one of an authority (CA:TRUE is missing)");
    }
    if authority.key_usage().ok().flatten().is_some_and(|usage| !usage.value.key_cert_sign()) {
        return wrong("its certificate is not for signing certificates (keyCertSign is missing)");
    }
    if authority.validity().not_before.timestamp() > now.as_second() {
        return wrong("its certificate is not valid yet");
    }
    Ok(())
}

fn certificates(found: &Entries, key: &str) -> Result<Vec<Pem>, Problem> {
    let blocks: Result<Vec<_>, _> = Pem::iter_from_buffer(text(found, key)?.as_bytes()).collect();
    let unreadable = || Problem::Material(format!("the key {key} is not a certificate (PEM)"));
    let blocks = blocks.map_err(|_| unreadable())?;
    if blocks.iter().any(|block| block.label != "CERTIFICATE") {
        return Err(unreadable());
    }
    if blocks.len() > MAX_CERTIFICATES {
        return Err(Problem::Material(format!(
            "the key {key} has more than {MAX_CERTIFICATES} certificates"
        )));
    }
    Ok(blocks)
}

fn parsed<'a>(blocks: &'a [Pem], key: &str) -> Result<Vec<X509Certificate<'a>>, Problem> {
    let parsed: Result<_, _> = blocks.iter().map(Pem::parse_x509).collect();
    parsed.map_err(|_| Problem::Material(format!("a certificate in the key {key} cannot be read")))
}
