//! The credential of the token is there, and what it says cannot be read. Nothing is issued for it, and nothing that it may
//! want to keep is destroyed; what is to end by itself, ends.

use jiff::Timestamp;

use super::{
    Plan,
    once::closed,
    tell::{holds, not_renewed, waiting},
};
use crate::{
    api::{ApiTokenStatus, Instant, Reason, condition::ConditionType},
    controller::api_token::observed::{Content, Observed, SecretSeen},
};

pub(super) fn plan(
    observed: &Observed,
    status: ApiTokenStatus,
    end: Timestamp,
    over_at: Option<Timestamp>,
    now: Timestamp,
) -> Plan {
    let say = format!(
        "Credential {} does not fit the schema, so nothing is issued for it; its status says what to mend",
        observed.token.spec.credential_ref.name
    );
    // What the credential may have said of its own end holds.
    let told = status.expires_at.as_ref().filter(|_| status.serial.is_some()).map(Instant::timestamp);
    let end = told.and_then(Result::ok).into_iter().fold(end, Timestamp::min);
    if let Some(minted_until) = minted_until(observed, &status).filter(|until| now < *until.min(&end)) {
        // The API server knows nothing of the credential.
        let wake = over_at.into_iter().chain([minted_until, end]).min();
        let status = not_renewed(observed, status, (Reason::InvalidSpec, &say), end, now);
        return Plan { steps: Vec::new(), status: Some(status), wake };
    }
    let waits = waiting(observed, status, Reason::InvalidSpec, say, Some(end), now);
    let waits = Plan { wake: over_at, ..waits };
    if is_recorded(observed) { closed(observed, waits, now) } else { waits }
}

/// Until when the API server accepts what it minted, where nothing was said against that.
fn minted_until(observed: &Observed, status: &ApiTokenStatus) -> Option<Timestamp> {
    let SecretSeen::Ours(own) = &observed.secret else { return None };
    let Content::Minted(said) = &own.content else { return None };
    said.life().map(|life| life.expires_at).filter(|_| holds(status, ConditionType::Usable))
}

/// Whether the status tells of the latest value. Of another it must be said which it was before it goes.
fn is_recorded(observed: &Observed) -> bool {
    let status = observed.token.status.as_ref();
    let there = match &observed.secret {
        SecretSeen::Ours(own) => matches!(own.content, Content::Recorded | Content::Unattested(_)),
        SecretSeen::Absent | SecretSeen::Terminating | SecretSeen::Predecessors | SecretSeen::Foreign => true,
    };
    there && observed.unsaid.is_none() && status.is_some_and(|status| status.serial.is_some())
}
