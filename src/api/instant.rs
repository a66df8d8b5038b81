//! An instant as the API writes it: RFC 3339 with an offset.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// At most nine decimals and a real offset: what the API server's `date-time` format lets pass beyond this, a
/// strict parser refuses, and one refused object would stop the watch of all others.
const PATTERN: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";

/// An RFC 3339 instant with an offset, kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(String);

impl Instant {
    /// The instant as written, which need not be one.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The point in time that was written.
    ///
    /// # Errors
    /// When the text is not an RFC 3339 instant with an offset; this happens only to objects that were stored
    /// before the schema refused them.
    pub fn timestamp(&self) -> Result<Timestamp, jiff::Error> {
        self.0.parse()
    }
}

impl From<Timestamp> for Instant {
    fn from(at: Timestamp) -> Self {
        Self(at.to_string())
    }
}

impl From<&str> for Instant {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Instant {
    /// All instants are before this one, 2200-01-01T00:00:00Z: the schema has them so.
    pub const BOUND: Timestamp = Timestamp::constant(7_258_118_400, 0);
}

impl std::fmt::Display for Instant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Instant {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Instant".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "date-time",
            "maxLength": 35,
            "pattern": PATTERN,
            "x-kubernetes-validations": [{
                "rule": format!("self < timestamp('{}')", Self::BOUND),
                "message": "must be before the year 2200",
            }],
        })
    }
}
