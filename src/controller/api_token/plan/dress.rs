//! What a token's Secret wears: labels, annotations and owner reference, and how they are put right.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Mend;
use crate::{
    api::ApiToken,
    controller::api_token::observed::OwnSecret,
    domain::{name, token::Token},
};

/// The labels of a token's Secret, and its annotations less the attestation.
pub(super) fn dress(token: &ApiToken) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let wished = token.spec.secret.clone().unwrap_or_default();
    let mut annotations = BTreeMap::new();
    if !wished.labels.is_empty() || !wished.annotations.is_empty() {
        let published = serde_json::json!({
            "labels": wished.labels.keys().collect::<Vec<_>>(),
            "annotations": wished.annotations.keys().collect::<Vec<_>>(),
        });
        annotations.insert(name::PUBLISHED_ANNOTATION.to_owned(), published.to_string());
    }
    annotations.extend(wished.annotations);
    let mut labels = wished.labels;
    labels.insert(name::MANAGED_BY_LABEL.to_owned(), name::MANAGED_BY.to_owned());
    (labels, annotations)
}

#[derive(Default, serde::Deserialize)]
struct Published {
    labels: Vec<String>,
    annotations: Vec<String>,
}

pub(super) fn mend(
    token: &ApiToken,
    secret: &OwnSecret,
    attest: Option<(Token, i64, Timestamp)>,
) -> Option<Mend> {
    let (labels, annotations) = dress(token);
    let published: Published = secret
        .annotations
        .get(name::PUBLISHED_ANNOTATION)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let marker = [name::PUBLISHED_ANNOTATION.to_owned()];
    let labels = difference(&secret.labels, labels, &published.labels);
    let annotations =
        difference(&secret.annotations, annotations, &[&published.annotations[..], &marker[..]].concat());
    if secret.owned && labels.is_empty() && annotations.is_empty() && attest.is_none() {
        return None;
    }
    Some(Mend {
        secret: secret.reference.clone(),
        resource_version: secret.resource_version.clone(),
        labels,
        annotations,
        own: !secret.owned,
        attest,
    })
}

/// What to set in `found`, and what of `published` to take away, so that it has all of `wished`.
fn difference(
    found: &BTreeMap<String, String>,
    wished: BTreeMap<String, String>,
    published: &[String],
) -> BTreeMap<String, Option<String>> {
    let gone = published
        .iter()
        // The annotation that lists them is the user's to edit; it must not make us take away what is ours.
        .filter(|key| !key.starts_with("credential-operator.io/") || **key == name::PUBLISHED_ANNOTATION)
        .filter(|key| {
            *key != name::MANAGED_BY_LABEL && !wished.contains_key(*key) && found.contains_key(*key)
        })
        .map(|key| (key.clone(), None));
    let gone: BTreeMap<_, _> = gone.collect();
    let set = wished.into_iter().filter(|(key, value)| found.get(key) != Some(value));
    set.map(|(key, value)| (key, Some(value))).chain(gone).collect()
}
