//! Lenient parsing of objects: an invalid object does not fail the response that contains it.
//!
//! A stored object need not match our types: it can be older than a validation rule, and any user who can edit it can write
//! metadata that the API server accepts and a typed parser rejects. So each metadata field is parsed separately, and of an
//! object whose spec or status does not match the schema, the valid fields are read.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use super::Readable;
use crate::api::{Instant, credential::Grant};

/// An object, or the valid fields of an object that does not match the schema of its kind or is too large.
#[derive(Clone, Debug)]
pub struct Watched<K>(pub Result<K, Box<InvalidObject>>);

impl<K: Readable> Watched<K> {
    /// Parses an object for which the API server sent `size` bytes. `None` if the JSON is not an object with a name.
    #[must_use]
    pub fn read(json: &[u8], size: usize) -> Option<Self> {
        let parts: Parts<'_> = serde_json::from_slice(json).ok()?;
        let metadata = metadata(parts.metadata?);
        metadata.name.as_ref()?;
        let read = if size > K::MAX_SIZE {
            Err(Flaw::Size { is: size, allowed: K::MAX_SIZE })
        } else {
            read(json, parts.metadata, metadata.clone()).map_err(Flaw::Field)
        };
        Some(Self(read.map_err(|flaw| {
            Box::new(InvalidObject::of(metadata, flaw, &value(parts.spec), value(parts.status)))
        })))
    }

    /// The metadata of the object.
    pub fn metadata(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, K::meta)
    }
}

/// Parses a response that need not have metadata or a name, such as a review.
pub(super) fn answer<K: Readable>(json: &[u8]) -> Option<K> {
    let parts: Parts<'_> = serde_json::from_slice(json).ok()?;
    read(json, parts.metadata, parts.metadata.map(metadata).unwrap_or_default()).ok()
}

/// The metadata and status of an object, not parsed into the type of its kind. For the report of a panic, which that type
/// may have caused.
#[derive(Clone, Debug, PartialEq)]
pub struct Untyped {
    /// The metadata.
    pub metadata: ObjectMeta,
    /// The status; null if the object has none.
    pub status: Value,
}

impl Untyped {
    /// Parses an object. `None` if it has no name, or its status cannot be parsed.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let parts: Parts<'_> = serde_json::from_slice(json).ok()?;
        let metadata = metadata(parts.metadata?);
        metadata.name.as_ref()?;
        let status = parts.status.map_or(Some(Value::Null), |status| field(Some(status)))?;
        Some(Self { metadata, status })
    }
}

/// Parses an object and sets its metadata. The error is the path of the field that does not match the schema.
fn read<K: Readable>(json: &[u8], raw: Option<&RawValue>, metadata: ObjectMeta) -> Result<K, String> {
    let mut object: K = match raw {
        None => parse(json)?,
        Some(raw) => {
            let start = raw.get().as_ptr().addr() - json.as_ptr().addr();
            let rest = &json[start + raw.get().len()..];
            // The object may be a Secret, so the copy is zeroized.
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
    // The parser's message can contain a secret that a user put there by mistake, so the error has only the path.
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

/// Parses the metadata field by field. Invalid fields are omitted.
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
        // Any deletion timestamp means that the object is terminating. An invalid one is replaced by the epoch.
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

/// Parses the owner references one by one.
fn references(raw: Option<&RawValue>) -> Option<Vec<OwnerReference>> {
    let each: Vec<&RawValue> = serde_json::from_str(raw?.get()).ok()?;
    Some(each.into_iter().map(|raw| field(Some(raw)).unwrap_or_default()).collect())
}

fn field<T: DeserializeOwned>(raw: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

/// Parses a field of any type; null if it cannot be parsed, for example because it nests too deep.
fn value(raw: Option<&RawValue>) -> Value {
    field(raw).unwrap_or_default()
}

/// Why an object is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The field at this path does not match the schema of the kind.
    #[error("{0} does not match the schema")]
    Field(String),
    /// The object is too large.
    #[error("the object takes {is} bytes, and {allowed} are allowed")]
    Size {
        /// The number of bytes that the API server sent for it.
        is: usize,
        /// The number of bytes that are allowed.
        allowed: usize,
    },
}

impl Default for Flaw {
    fn default() -> Self {
        Self::Field(String::new())
    }
}

/// The valid fields of an object that is invalid. Other fields are omitted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InvalidObject {
    /// The metadata.
    pub metadata: ObjectMeta,
    /// Why the object is invalid.
    pub flaw: Flaw,
    /// The status, unchanged.
    pub status: Value,
    /// Whether a Credential is inactive.
    pub inactive: bool,
    /// Whether an ApiToken is revoked.
    pub revoked: bool,
    /// The expiration in the spec.
    pub ends_at: Option<Timestamp>,
    /// The expiration of an ApiToken's value, from its status.
    pub value_ends_at: Option<Timestamp>,
    /// Whether the status reports that the object has expired.
    pub expired: bool,
    /// The roles of a Credential.
    pub roles: Vec<Grant>,
    /// The other namespaces in which the roles are bound.
    pub bound_in: Vec<String>,
    /// The names of the Secret, from the spec and the status.
    pub secrets: Vec<String>,
}

impl InvalidObject {
    /// Reads the valid fields of an object.
    #[must_use]
    pub fn of(metadata: ObjectMeta, flaw: Flaw, spec: &Value, status: Value) -> Self {
        // If the spec has no expiration, a status that reports one is ignored.
        let ends = ["expiresAt", "expiresIn"].iter().any(|end| !spec[end].is_null());
        let secrets = [&spec["secret"]["name"], &status["secret"]["name"]];
        Self {
            metadata,
            flaw,
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

    /// Whether the object has expired.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.expired || self.ends_at.is_some_and(|end| end <= now)
    }

    /// Whether the object is so large that it could not be revoked, so that it must not grant anything.
    #[must_use]
    pub const fn is_too_large(&self) -> bool {
        matches!(self.flaw, Flaw::Size { .. })
    }

    /// Whether the object is being deleted.
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
