//! Material as the operator draws and checks it, for others to use.

use credential_operator::{
    api::{CredentialSpec, CredentialType},
    domain::{
        material::{self, Drawn, Entries, Problem, Request},
        redacted::Redacted,
        token::Prefix,
    },
};
use jiff::{SignedDuration, Timestamp};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

pub fn spec(options: Value) -> CredentialSpec {
    serde_json::from_value(options).unwrap()
}

/// Long ago enough that nothing has ended, and such that what is drawn is valid now.
#[expect(clippy::disallowed_methods, reason = "a handshake looks at the wall clock")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

pub fn with_request<T>(
    spec: &CredentialSpec,
    issuer: Option<&Entries>,
    run: impl FnOnce(&Request<'_>) -> T,
) -> T {
    let prefix = Prefix::default();
    run(&Request { spec, namespace: "orders", name: "svc", now: now(), prefix: &prefix, issuer })
}

pub fn draw_by(options: Value, issuer: Option<&Entries>, seed: u64) -> Result<Drawn, Problem> {
    let spec = spec(options);
    let kind = material::kind(spec.credential_type).unwrap();
    with_request(&spec, issuer, |request| {
        material::options(kind, request)?;
        (kind.generated.as_ref().unwrap().draw)(request, &mut StdRng::seed_from_u64(seed))
    })
}

pub fn draw(options: Value) -> Entries {
    draw_by(options, None, 1).unwrap().entries
}

pub fn text<'a>(entries: &'a Entries, key: &str) -> &'a str {
    std::str::from_utf8(entries[key].expose()).unwrap()
}

pub fn entries(data: &Value) -> Entries {
    let data = data.as_object().unwrap().iter();
    data.map(|(key, value)| (key.clone(), Redacted::new(value.as_str().unwrap().as_bytes().to_vec())))
        .collect()
}

pub fn check(credential_type: CredentialType, data: &Entries) -> Result<material::Facts, String> {
    let spec = CredentialSpec { credential_type, ..CredentialSpec::default() };
    material::check(material::kind(credential_type).unwrap(), &spec, data, now())
        .map_err(|problem| problem.to_string())
}

/// A certificate authority whose certificate ends so many days from now.
pub fn authority(days: i64) -> Entries {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let end = now() + SignedDuration::from_hours(24 * days);
    params.not_after = time::OffsetDateTime::from_unix_timestamp(end.as_second()).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    entries(&json!({"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()}))
}

/// The keys of examples/types/gpg-key.yaml, which gpg made.
pub fn open_pgp_example() -> Value {
    let example = include_str!("../../examples/types/gpg-key.yaml").split("\n---\n").next().unwrap();
    serde_yaml_ng::from_str::<Value>(example).unwrap()["stringData"].take()
}
