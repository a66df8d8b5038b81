//! How a value comes to whom it is for, as its spec says.

use jiff::{SignedDuration, Timestamp};

use crate::api::{Delivery, DeliveryMode, Lifetime};

/// How long a value that is delivered once is kept where the spec does not say.
pub const WINDOW: SignedDuration = SignedDuration::from_mins(15);

/// In which way.
#[must_use]
pub fn mode(delivery: Option<&Delivery>) -> DeliveryMode {
    delivery.map(|delivery| delivery.mode).unwrap_or_default()
}

/// When a value that is delivered once is kept no longer, if its Secret was created at that time; `None`: the value is
/// delivered otherwise.
#[must_use]
pub fn closes_at(delivery: Option<&Delivery>, created_at: Timestamp) -> Option<Timestamp> {
    let delivery = delivery.filter(|delivery| delivery.mode == DeliveryMode::Once)?;
    // What cannot be read was stored before there was a schema.
    let window = delivery.window.as_ref().map(Lifetime::duration).and_then(Result::ok);
    Some(created_at.checked_add(window.unwrap_or(WINDOW)).unwrap_or(Timestamp::MAX))
}

/// Whom a value is sealed for; `None`: it is delivered otherwise.
#[must_use]
pub fn recipients(delivery: Option<&Delivery>) -> Option<&[String]> {
    delivery.filter(|delivery| delivery.mode == DeliveryMode::Sealed).map(|delivery| &*delivery.recipients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_delivered_once_is_kept_for_a_window() {
        let at = Timestamp::UNIX_EPOCH;
        let delivery = |mode, window: Option<&str>| Delivery {
            mode,
            window: window.map(Into::into),
            recipients: vec!["age1".to_owned()],
        };
        let closes_at = |delivery: &Delivery| closes_at(Some(delivery), at);
        for (window, minutes) in [(None, 15), (Some("1h"), 60), (Some("soon"), 15)] {
            let end = at + SignedDuration::from_mins(minutes);
            assert_eq!(closes_at(&delivery(DeliveryMode::Once, window)), Some(end));
        }
        for mode in [DeliveryMode::Secret, DeliveryMode::Sealed] {
            assert_eq!(closes_at(&delivery(mode, Some("1h"))), None);
        }
        assert_eq!(super::closes_at(None, at), None);
        assert_eq!(recipients(Some(&delivery(DeliveryMode::Once, None))), None);
        assert_eq!(recipients(Some(&delivery(DeliveryMode::Sealed, None))).map(<[_]>::len), Some(1));
    }
}
