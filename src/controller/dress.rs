//! What a Secret of ours wears: the labels and annotations that the user wishes for it, and the operator's own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{api::api_token::SecretOptions, domain::name};

/// Labels and annotations to set, and, where the value is `None`, to take away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dress {
    /// Labels.
    pub labels: BTreeMap<String, Option<String>>,
    /// Annotations.
    pub annotations: BTreeMap<String, Option<String>>,
}

impl Dress {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }
}

/// Which labels and annotations came from the spec, so that they can be taken back.
#[derive(Default, Deserialize, Serialize)]
struct Published {
    labels: Vec<String>,
    annotations: Vec<String>,
}

/// What to change in a Secret that wears `labels` and `annotations`, so that it wears what is wished. The attestation is
/// not dress.
#[must_use]
pub fn changes(
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    wished: Option<&SecretOptions>,
) -> Dress {
    let mut wished = wished.cloned().unwrap_or_default();
    let published: Published = annotations
        .get(name::PUBLISHED_ANNOTATION)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    if !wished.labels.is_empty() || !wished.annotations.is_empty() {
        let publish = Published {
            labels: wished.labels.keys().cloned().collect(),
            annotations: wished.annotations.keys().cloned().collect(),
        };
        let publish = serde_json::json!(publish).to_string();
        wished.annotations.insert(name::PUBLISHED_ANNOTATION.to_owned(), publish);
    }
    wished.labels.insert(name::MANAGED_BY_LABEL.to_owned(), name::MANAGED_BY.to_owned());
    let marker = [name::PUBLISHED_ANNOTATION.to_owned()];
    Dress {
        labels: difference(labels, wished.labels, &published.labels),
        annotations: difference(
            annotations,
            wished.annotations,
            &[&published.annotations[..], &marker[..]].concat(),
        ),
    }
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
