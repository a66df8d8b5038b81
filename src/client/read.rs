//! Objects as they are read: no object fails the answer that it is in.
//!
//! What the API server stores need not fit what we read: an object may be older than a rule, and everybody who may edit it may
//! write metadata that it keeps and a typed reader refuses. So each field of the metadata is read by itself, and an object whose
//! spec or status does not fit is read as far as it makes sense.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use super::Readable;
use crate::api::{Instant, credential::Grant};

/// An object; or, where it does not fit its kind, what can be read of it.
#[derive(Clone, Debug)]
pub struct Watched<K>(pub Result<K, Box<InvalidObject>>);

impl<K: Readable> Watched<K> {
    /// Reads an object. `None`: it has no name, so it is none.
    #[must_use]
    pub fn read(json: &[u8]) -> Option<Self> {
        let parts: Parts<'_> = serde_json::from_slice(json).ok()?;
        let metadata = metadata(parts.metadata?);
        metadata.name.as_ref()?;
        Some(Self(read(json, parts.metadata, metadata.clone()).map_err(|path| {
            Box::new(InvalidObject::of(metadata, path, &value(parts.spec), value(parts.status)))
        })))
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, K::meta)
    }
}

/// Reads an answer that need not have a name, such as a review. Without its metadata where there is none.
pub(super) fn answer<K: Readable>(json: &[u8]) -> Option<K> {
    let parts: Parts<'_> = serde_json::from_slice(json).ok()?;
    read(json, parts.metadata, parts.metadata.map(metadata).unwrap_or_default()).ok()
}

/// An object without its kind's type: for a report about code that may have panicked on that.
#[derive(Clone, Debug, PartialEq)]
pub struct Untyped {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Its status; null where it has none.
    pub status: Value,
}

impl Untyped {
    /// Reads an object. `None`: it has no name, or a status that cannot be read.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let parts: Parts<'_> = serde_json::from_slice(json).ok()?;
        let metadata = metadata(parts.metadata?);
        metadata.name.as_ref()?;
        let status = parts.status.map_or(Some(Value::Null), |status| field(Some(status)))?;
        Some(Self { metadata, status })
    }
}

/// The object with this metadata; or, where it does not fit, where that is.
fn read<K: Readable>(json: &[u8], raw: Option<&RawValue>, metadata: ObjectMeta) -> Result<K, String> {
    let mut object: K = match raw {
        None => parse(json)?,
        Some(raw) => {
            let start = raw.get().as_ptr().addr() - json.as_ptr().addr();
            let rest = &json[start + raw.get().len()..];
            // Secrets are read here, too.
            parse(&zeroize::Zeroizing::new([&json[..start], b"{}", rest].concat()))?
        }
    };
    *object.meta_mut() = metadata;
    Ok(object)
}

fn parse<K: DeserializeOwned>(json: &[u8]) -> Result<K, String> {
    if let Ok(object) = serde_json::from_slice(json) {
        return Ok(object);
    }
    // The parser's own words may repeat what somebody put there by mistake, so only the place is told.
    match serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(json)) {
        Ok(object) => Ok(object),
        Err(error) => Err(error.path().to_string()),
    }
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
}

/// What can be read of the metadata. A field that makes no sense is left out, and the others stay.
fn metadata(raw: &RawValue) -> ObjectMeta {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Fields<'a> {
        #[serde(borrow)]
        name: Option<&'a RawValue>,
        #[serde(borrow)]
        namespace: Option<&'a RawValue>,
        #[serde(borrow)]
        uid: Option<&'a RawValue>,
        #[serde(borrow)]
        resource_version: Option<&'a RawValue>,
        #[serde(borrow)]
        generation: Option<&'a RawValue>,
        #[serde(borrow)]
        creation_timestamp: Option<&'a RawValue>,
        #[serde(borrow)]
        deletion_timestamp: Option<&'a RawValue>,
        #[serde(borrow)]
        labels: Option<&'a RawValue>,
        #[serde(borrow)]
        annotations: Option<&'a RawValue>,
        #[serde(borrow)]
        finalizers: Option<&'a RawValue>,
        #[serde(borrow)]
        owner_references: Option<&'a RawValue>,
    }

    let fields: Fields<'_> = serde_json::from_str(raw.get()).unwrap_or_default();
    ObjectMeta {
        name: field(fields.name),
        namespace: field(fields.namespace),
        uid: field(fields.uid),
        resource_version: field(fields.resource_version),
        generation: field(fields.generation),
        creation_timestamp: field(fields.creation_timestamp),
        // An object is terminating whatever the instant: one that cannot be read is long ago.
        deletion_timestamp: fields.deletion_timestamp.filter(|raw| raw.get() != "null").map(|raw| {
            field(Some(raw))
                .unwrap_or(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH))
        }),
        labels: field(fields.labels),
        annotations: field(fields.annotations),
        finalizers: field(fields.finalizers),
        owner_references: references(fields.owner_references),
        ..ObjectMeta::default()
    }
}

/// The owner references, each read by itself.
fn references(raw: Option<&RawValue>) -> Option<Vec<OwnerReference>> {
    let each: Vec<&RawValue> = serde_json::from_str(raw?.get()).ok()?;
    Some(each.into_iter().map(|raw| field(Some(raw)).unwrap_or_default()).collect())
}

fn field<T: DeserializeOwned>(raw: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

/// What is not JSON that we can read, such as what nests too deep, says nothing.
fn value(raw: Option<&RawValue>) -> Value {
    field(raw).unwrap_or_default()
}

/// What can be read of an object that does not fit its kind. What makes no sense is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InvalidObject {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Where it does not fit.
    pub path: String,
    /// Its status, as it is.
    pub status: Value,
    /// Whether it is a credential that is inactive.
    pub inactive: bool,
    /// Whether it is a token that is revoked.
    pub revoked: bool,
    /// The expiration that its spec names.
    pub ends_at: Option<Timestamp>,
    /// When a token's value expires, as its status says.
    pub value_ends_at: Option<Timestamp>,
    /// Whether its status says that it has expired.
    pub expired: bool,
    /// The roles of a credential.
    pub roles: Vec<Grant>,
    /// The other namespaces where they are bound.
    pub bound_in: Vec<String>,
    /// The names of a token's Secret, by its spec and by its status.
    pub secrets: Vec<String>,
}

impl InvalidObject {
    /// What can be read of an object.
    #[must_use]
    pub fn of(metadata: ObjectMeta, path: String, spec: &Value, status: Value) -> Self {
        // Of what never expires, nobody can have seen the expiration.
        let ends = ["expiresAt", "expiresIn"].iter().any(|end| !spec[end].is_null());
        let secrets = [&spec["secret"]["name"], &status["secret"]["name"]];
        Self {
            metadata,
            path,
            inactive: spec["state"] == "Inactive",
            revoked: spec["revoked"] == true,
            ends_at: instant(&spec["expiresAt"]),
            value_ends_at: instant(&status["expiresAt"]),
            expired: ends && status["state"] == "Expired",
            roles: each(&spec["roles"]),
            bound_in: each(&status["boundIn"]),
            secrets: secrets.into_iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
            status,
        }
    }

    /// Whether it has expired.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.expired || self.ends_at.is_some_and(|end| end <= now)
    }

    /// Whether it is being deleted.
    #[must_use]
    pub const fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

fn instant(written: &Value) -> Option<Timestamp> {
    Instant::from(written.as_str()?).timestamp().ok()
}

fn each<'de, T: Deserialize<'de>>(list: &'de Value) -> Vec<T> {
    list.as_array().into_iter().flatten().filter_map(|entry| T::deserialize(entry).ok()).collect()
}

#[cfg(test)]
mod tests;
