//! A span of time as the API writes it: `15m`, `7d`, `1y`.

use std::fmt;

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const PATTERN: &str = "^[1-9][0-9]*(m|h|d|w|y)$";
const MAX_LENGTH: usize = 8;
const MAX_MINUTES: i64 = 10 * 365 * 24 * 60;

/// A span of time, `<number><unit>` with the units m, h, d (24 h), w (7 d) and y (365 d); at most 10 years.
///
/// Months are missing on purpose: they have no one length.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lifetime(String);

/// Why a text is not a [`Lifetime`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "not a span of time: write a whole number and one of m, h, d, w, y, such as 15m, 7d or 1y, at most 10y"
)]
pub struct LifetimeError;

impl Lifetime {
    /// The span that was written.
    ///
    /// # Errors
    /// When the text is not one; this happens only to objects that were stored before the schema refused them.
    pub fn duration(&self) -> Result<SignedDuration, LifetimeError> {
        let (number, unit) = self.0.split_at_checked(self.0.len().wrapping_sub(1)).ok_or(LifetimeError)?;
        let plain = self.0.len() <= MAX_LENGTH
            && !number.starts_with('0')
            && number.bytes().all(|byte| byte.is_ascii_digit());
        if !plain {
            return Err(LifetimeError);
        }
        let number: i64 = number.parse().map_err(|_| LifetimeError)?;
        let minutes = number
            * match unit {
                "m" => 1,
                "h" => 60,
                "d" => 24 * 60,
                "w" => 7 * 24 * 60,
                "y" => 365 * 24 * 60,
                _ => return Err(LifetimeError),
            };
        if minutes <= MAX_MINUTES { Ok(SignedDuration::from_mins(minutes)) } else { Err(LifetimeError) }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Lifetime {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for Lifetime {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Lifetime".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": MAX_LENGTH,
            "pattern": PATTERN,
            // CEL's own duration() knows neither d, w nor y. Each bound is ten years in that unit.
            "x-kubernetes-validations": [{
                // The pattern is asked again, so that of a value stored before there was one the rule is false rather
                // than an error: an error would refuse every status of that object.
                "rule": "self.matches('^[1-9][0-9]{0,6}[mhdwy]$') && int(self.substring(0, self.size() - 1)) <= (self.endsWith('m') ? 5256000 : \
                         self.endsWith('h') ? 87600 : self.endsWith('d') ? 3650 : self.endsWith('w') ? 521 : 10)",
                "message": "must be at most ten years (10y)",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_has_its_length() {
        for (text, minutes) in
            [("15m", 15), ("2h", 120), ("7d", 10_080), ("2w", 20_160), ("10y", MAX_MINUTES)]
        {
            assert_eq!(Lifetime::from(text).duration(), Ok(SignedDuration::from_mins(minutes)), "{text}");
        }
    }

    #[test]
    fn what_the_schema_refuses_is_an_error_and_never_a_panic() {
        for text in [
            "",
            "d",
            "0d",
            "01d",
            "-1h",
            "+1h",
            "1.5h",
            "1",
            "1s",
            "1mo",
            "11y",
            "99999999y",
            "9999999m",
            "9223372036854775807y",
            "1é",
            "é",
        ] {
            assert_eq!(Lifetime::from(text).duration(), Err(LifetimeError), "{text}");
        }
    }
}
