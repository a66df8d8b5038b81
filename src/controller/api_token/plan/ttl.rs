//! When a token that is over goes itself.

use jiff::Timestamp;

use super::{Plan, gone};
use crate::{
    api::{Instant, Lifetime},
    controller::api_token::observed::Observed,
    domain::expiry::Terms,
};

/// The instant at which the object is deleted: `ttlAfterExpired` after its end, or after its creation where that came
/// later, so that whoever creates it anew at once does so once in that time and not again and again.
///
/// From the spec alone, like the end: no status makes it go earlier. What has been revoked stays as long, since before
/// its end it would not be expired when it is created anew.
pub(super) fn goes_at(observed: &Observed) -> Option<Timestamp> {
    let token = &observed.token;
    let spec = &token.spec;
    // What was stored before there were rules deletes nothing.
    let ttl = spec.ttl_after_expired.as_ref().filter(|_| spec.expires_at.is_some());
    let ttl = ttl.map(Lifetime::duration)?.ok()?;
    let created_at = token.metadata.creation_timestamp.as_ref()?.0;
    let over_at = Terms::of(spec, created_at).ok()?.over_at()?;
    let credential = observed.credential.present();
    let credential_end =
        credential.and_then(|credential| credential.spec.expires_at.as_ref()).map(Instant::timestamp);
    let over_at = credential_end.transpose().ok()?.into_iter().fold(over_at, Timestamp::min);
    over_at.max(created_at).checked_add(ttl).ok()
}

/// A token that is over goes, when its time has come: in the version that was looked at, since whoever takes
/// `ttlAfterExpired` away meanwhile wants it to stay. Else it waits for that.
pub(super) fn go_or_wait(observed: &Observed, stays: Plan, now: Timestamp) -> Plan {
    match goes_at(observed) {
        Some(at) if at <= now => gone(observed, observed.token.metadata.resource_version.clone()),
        wake => Plan { wake, ..stays },
    }
}
