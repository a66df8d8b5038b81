//! An object that does not fit its schema, as far as it can be read: what it is, and whether it is to end.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::{Instant, credential::Grant};

/// What can be read of an object that was stored before a rule existed. What cannot be read is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unread {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Whether it is a credential that is inactive.
    pub inactive: bool,
    /// Whether it is a token that is revoked.
    pub revoked: bool,
    /// The end that its spec names.
    pub ends_at: Option<Timestamp>,
    /// The end of a token's value, as its status tells it.
    pub value_ends_at: Option<Timestamp>,
    /// Whether its status says that it has ended.
    pub expired: bool,
    /// The roles of a credential.
    pub roles: Vec<Grant>,
    /// Where else they are bound.
    pub bound_in: Vec<String>,
    /// What a token's Secret is called, by its spec and by its status.
    pub secrets: Vec<String>,
}

impl Unread {
    /// What can be read of an object; `data` is all of it, less its metadata.
    #[must_use]
    pub fn of(metadata: ObjectMeta, data: &Value) -> Self {
        let (spec, status) = (&data["spec"], &data["status"]);
        // Of what has no end, nobody can have seen the end.
        let ends = ["expiresAt", "expiresIn"].iter().any(|end| !spec[end].is_null());
        let secrets = [&spec["secret"]["name"], &status["secret"]["name"]];
        Self {
            metadata,
            inactive: spec["state"] == "Inactive",
            revoked: spec["revoked"] == true,
            ends_at: instant(&spec["expiresAt"]),
            value_ends_at: instant(&status["expiresAt"]),
            expired: ends && status["state"] == "Expired",
            roles: each(&spec["roles"]),
            bound_in: each(&status["boundIn"]),
            secrets: secrets.into_iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
        }
    }

    /// Whether its end was reached.
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
mod tests {
    use serde_json::json;

    use super::*;

    fn read(data: &Value) -> Unread {
        Unread::of(ObjectMeta::default(), data)
    }

    #[test]
    fn what_makes_sense_is_read_beside_what_does_not() {
        let unread = read(&json!({
            "spec": {
                "description": {"not": "a text"},
                "state": "Inactive",
                "revoked": true,
                "expiresAt": "2027-01-01T00:00:00Z",
                "roles": [7, {"kind": "ClusterRole", "name": "view"}, {"kind": "Odd", "name": "view"}],
                "secret": {"name": "chosen"},
            },
            "status": {
                "state": "Expired",
                "expiresAt": "2026-07-01T00:00:00Z",
                "boundIn": ["stock", 7, "*"],
                "secret": {"name": "told"},
            },
        }));
        assert!(unread.inactive && unread.revoked && unread.expired);
        assert_eq!(unread.ends_at, Some("2027-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(unread.value_ends_at, Some("2026-07-01T00:00:00Z".parse().unwrap()));
        assert_eq!(unread.roles.iter().map(|role| &*role.name).collect::<Vec<_>>(), ["view"]);
        assert_eq!(unread.bound_in, ["stock", "*"]);
        assert_eq!(unread.secrets, ["chosen", "told"]);
    }

    #[test]
    fn what_makes_no_sense_says_nothing() {
        for odd in [
            json!(null),
            json!({"spec": 7, "status": "Expired"}),
            json!({"spec": {"state": ["Inactive"], "revoked": "true", "roles": {}, "secret": []}}),
            json!({"spec": {"state": "inactive", "revoked": false}, "status": {"state": "Expired"}}),
        ] {
            assert_eq!(read(&odd), Unread::default(), "{odd}");
        }
        // An end that is none was not reached; that it was, somebody who could read it has said.
        let (odd, now) = (json!({"spec": {"expiresAt": "soon"}}), Timestamp::MAX);
        assert!(!read(&odd).has_ended(now));
        let said = json!({"spec": {"expiresAt": "soon"}, "status": {"state": "Expired"}});
        assert!(read(&said).has_ended(Timestamp::MIN));
    }
}
