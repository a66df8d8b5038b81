//! Access key id and secret access key for an object store, under the names that the AWS SDKs read.

use std::collections::BTreeMap;

use rand::CryptoRng;
use serde_json::{Value, json};

use super::{
    Drawn, Facts, Generated, Kind, Problem, Provided, READERS_GO_ON, Request, anything, entry, forever,
    password,
};
use crate::api::{CredentialSpec, CredentialType, material::Password};

const ID_KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";

pub(super) const KIND: Kind = Kind {
    secret_type: "Opaque",
    generated: Some(Generated {
        options,
        draw,
        lasts: forever,
        bearer: false,
        public: &["AWS_ACCESS_KEY_ID"],
    }),
    provided: Provided {
        required: &[ID_KEY, SECRET_KEY],
        optional: &["AWS_ENDPOINT_URL", "AWS_REGION", "BUCKET_NAME"],
        check: anything,
        publish: None,
    },
    when_inactive: READERS_GO_ON,
};

#[expect(clippy::unnecessary_wraps, reason = "the signature of all types")]
fn options(_: &Request<'_>) -> Result<Value, Problem> {
    Ok(json!({}))
}

/// MinIO takes ids of up to 20 characters and secrets of up to 40, and AWS's own look like that, too.
#[expect(clippy::unnecessary_wraps, reason = "the signature of all types")]
fn draw(_: &Request<'_>, random: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    let mut characters = |length, alphabet: Option<&str>| {
        let wished = Password { length: Some(length), alphabet: alphabet.map(ToOwned::to_owned) };
        password::draw(&wished, random)
    };
    let id = characters(20, Some("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"));
    let secret = characters(40, None);
    let entries = [entry(ID_KEY, id.expose().as_str()), entry(SECRET_KEY, secret.expose().as_str())];
    let facts = Facts { id: Some(id.expose().clone()), ..Facts::default() };
    Ok(Drawn { entries: entries.into(), facts })
}

pub(super) fn plain(spec: &CredentialSpec) -> BTreeMap<String, String> {
    let block = spec.object_store.clone().filter(|_| spec.credential_type == CredentialType::ObjectStore);
    let block = block.unwrap_or_default();
    let entries =
        [("AWS_ENDPOINT_URL", block.endpoint), ("AWS_REGION", block.region), ("BUCKET_NAME", block.bucket)];
    entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}
