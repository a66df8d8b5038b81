//! The types that only the user can provide: which keys each must have, under the names that its consumers read.

use jiff::Timestamp;
use pgp::{
    composed::{Deserializable, SignedPublicKey, SignedSecretKey},
    types::KeyDetails,
};
use serde_json::Value;

use super::{Entries, Facts, Kind, Problem, Provided, READERS_GO_ON, anything, text, tls};

const fn row(
    required: &'static [&'static str],
    optional: &'static [&'static str],
    check: fn(&Entries, Timestamp) -> Result<Facts, Problem>,
) -> Kind {
    let provided = Provided { required, optional, check, publish: None };
    Kind { secret_type: "Opaque", generated: None, provided, when_inactive: READERS_GO_ON }
}

pub(super) const GPG_KEY: Kind = row(&["private-key"], &["public-key"], gpg_key);
pub(super) const SWARM_TOKEN: Kind = row(&["scope", "token"], &[], swarm_token);
pub(super) const DOCKER_SWARM: Kind = row(&["ca", "cert", "key"], &[], swarm_or_api);
pub(super) const KUBERNETES_API: Kind = row(&["ca", "cert", "key"], &["server"], swarm_or_api);
pub(super) const VPN: Kind = row(&["certificate", "key", "ca"], &[], vpn);
pub(super) const AMAZON_EC2: Kind =
    row(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], &["AWS_SESSION_TOKEN", "AWS_REGION"], amazon_ec2);
pub(super) const AZURE: Kind = row(
    &["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"],
    &["AZURE_SUBSCRIPTION_ID", "AZURE_ENVIRONMENT"],
    anything,
);
pub(super) const EXOSCALE: Kind =
    row(&["EXOSCALE_API_KEY", "EXOSCALE_API_SECRET"], &["EXOSCALE_ZONE"], anything);
pub(super) const GOOGLE_CLOUD: Kind = row(&["service-account.json"], &[], google_cloud);
pub(super) const OPEN_STACK: Kind = row(
    &["OS_AUTH_URL"],
    &[
        "OS_USERNAME",
        "OS_PASSWORD",
        "OS_PROJECT_ID",
        "OS_PROJECT_NAME",
        "OS_USER_DOMAIN_NAME",
        "OS_PROJECT_DOMAIN_NAME",
        "OS_REGION_NAME",
        "OS_APPLICATION_CREDENTIAL_ID",
        "OS_APPLICATION_CREDENTIAL_SECRET",
    ],
    open_stack,
);

fn swarm_or_api(found: &Entries, now: Timestamp) -> Result<Facts, Problem> {
    tls::key_pair(found, ["cert", "key", "ca"], now)
}

fn vpn(found: &Entries, now: Timestamp) -> Result<Facts, Problem> {
    tls::key_pair(found, ["certificate", "key", "ca"], now)
}

fn swarm_token(found: &Entries, _: Timestamp) -> Result<Facts, Problem> {
    if text(found, "token")?.trim().starts_with("SWMTKN-") {
        return Ok(Facts::default());
    }
    Err(Problem::Material(
        "the key token is no join token of a swarm; see docker swarm join-token".to_owned(),
    ))
}

fn gpg_key(found: &Entries, _: Timestamp) -> Result<Facts, Problem> {
    let private: SignedSecretKey = open_pgp(found, "private-key", "--export-secret-keys")?;
    let fingerprint = private.primary_key.fingerprint();
    if found.contains_key("public-key") {
        let public: SignedPublicKey = open_pgp(found, "public-key", "--export")?;
        if public.primary_key.fingerprint() != fingerprint {
            return Err(Problem::Material("the key public-key does not belong to private-key".to_owned()));
        }
    }
    Ok(Facts { fingerprint: Some(format!("{fingerprint:X}")), ..Facts::default() })
}

/// A key in ASCII armor (RFC 9580). A passphrase may lock it: it is read and never used.
fn open_pgp<K: Deserializable>(found: &Entries, key: &str, export: &str) -> Result<K, Problem> {
    let read = K::from_armor_single(text(found, key)?.as_bytes());
    read.map(|(read, _)| read).map_err(|_| {
        let say = format!("the key {key} is no armored OpenPGP key; write one with gpg --armor {export}");
        Problem::Material(say)
    })
}

fn amazon_ec2(found: &Entries, _: Timestamp) -> Result<Facts, Problem> {
    let id = text(found, "AWS_ACCESS_KEY_ID")?.trim();
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    if (16..=128).contains(&id.len()) && id.bytes().all(plain) {
        return Ok(Facts::default());
    }
    Err(Problem::Material(
        "the key AWS_ACCESS_KEY_ID is no access key id, which has 16 to 128 upper-case letters and digits; were the two \
         keys interchanged?"
            .to_owned(),
    ))
}

fn google_cloud(found: &Entries, _: Timestamp) -> Result<Facts, Problem> {
    const KEY: &str = "service-account.json";
    let wrong =
        |what: &str| Problem::Material(format!("the key {KEY} {what}; download the account's key as JSON"));
    let account: Value = serde_json::from_str(text(found, KEY)?).map_err(|_| wrong("is not JSON"))?;
    if account["type"] != "service_account" {
        return Err(wrong("is not of the type service_account"));
    }
    for field in ["project_id", "private_key_id", "private_key", "client_email"] {
        if account[field].as_str().is_none_or(str::is_empty) {
            return Err(wrong(&format!("has no {field}")));
        }
    }
    Ok(Facts::default())
}

fn open_stack(found: &Entries, _: Timestamp) -> Result<Facts, Problem> {
    let has = |keys: &[&str]| keys.iter().all(|key| found.contains_key(*key));
    let complete = has(&["OS_USERNAME", "OS_PASSWORD"])
        || has(&["OS_APPLICATION_CREDENTIAL_ID", "OS_APPLICATION_CREDENTIAL_SECRET"]);
    if complete {
        return Ok(Facts::default());
    }
    Err(Problem::Material(
        "there is no login: add the keys OS_USERNAME and OS_PASSWORD, or OS_APPLICATION_CREDENTIAL_ID and OS_APPLICATION_CREDENTIAL_SECRET"
            .to_owned(),
    ))
}
