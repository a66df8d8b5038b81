//! The credential of the token is there, and what it says cannot be read. Nothing is issued for it, and nothing that it may
//! want to keep is destroyed; what is to end, by itself or with the credential, ends.

use jiff::Timestamp;

use super::{
    Plan, delete_secret,
    once::closed,
    tell::{finding, holds, not_renewed, state_of, waiting},
};
use crate::{
    api::{ApiTokenState, ApiTokenStatus, Instant, Reason, condition::ConditionType},
    client::InvalidObject,
    controller::api_token::observed::{Content, Observed, SecretSeen},
};

pub(super) fn plan(
    observed: &Observed,
    unread: &InvalidObject,
    status: ApiTokenStatus,
    (end, over_at): (Timestamp, Option<Timestamp>),
    now: Timestamp,
) -> Plan {
    if observed.native.is_some()
        && let Some((reason, why)) = grants_nothing(unread, now)
    {
        return taken_back(observed, status, (reason, why), (end, over_at), now);
    }
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

/// Why the API server is to accept nothing any more that it minted for the credential.
fn grants_nothing(unread: &InvalidObject, now: Timestamp) -> Option<(Reason, &'static str)> {
    let inactive =
        unread.inactive.then_some((Reason::CredentialInactive, "is inactive, and does not fit the schema"));
    let ended = unread.has_ended(now).then_some((Reason::Expired, "has ended, and does not fit the schema"));
    let large = unread.is_too_large().then_some((Reason::InvalidSpec, "is too large, as its status reports"));
    let deleted = unread
        .is_terminating()
        .then_some((Reason::CredentialDeleted, "is being deleted, and does not fit the schema"));
    deleted.or(ended).or(inactive).or(large)
}

/// What was minted goes with its Secret. It is not lost: another value is issued where the credential is active again.
fn taken_back(
    observed: &Observed,
    status: ApiTokenStatus,
    (reason, why): (Reason, &str),
    (end, over_at): (Timestamp, Option<Timestamp>),
    now: Timestamp,
) -> Plan {
    let say = format!(
        "Credential {} {why}; the token went with its Secret",
        observed.token.spec.credential_ref.name
    );
    let findings = vec![
        finding(ConditionType::Ready, reason != Reason::InvalidSpec, reason, say.clone()),
        finding(ConditionType::Usable, false, reason, say),
    ];
    let status =
        ApiTokenStatus { token_id: None, minted: None, secret: None, expires_at: Some(end.into()), ..status };
    let status = state_of(observed, status, ApiTokenState::Suspended, findings, now);
    Plan { steps: delete_secret(&observed.secret), status: Some(status), wake: over_at }
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
        SecretSeen::Absent | SecretSeen::Terminating(_) | SecretSeen::Predecessors | SecretSeen::Foreign => {
            true
        }
    };
    there && observed.unsaid.is_none() && status.is_some_and(|status| status.serial.is_some())
}
