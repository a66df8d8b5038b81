//! What the status says of a token whose value is not simply there.

use jiff::Timestamp;

use super::{Plan, delete_secret, ttl};
use crate::{
    api::{
        ApiToken, ApiTokenState, ApiTokenStatus, Reason,
        condition::{ConditionType, Finding, conditions},
    },
    controller::api_token::observed::Observed,
};

/// The status after a write was refused: what was refused, and nothing that did not happen.
///
/// A token that was to end is accepted by no verifier any more, whether or not its Secret is deleted. It is `Revoked` only
/// when its Secret is deleted. Until then the API server accepts what it minted.
#[must_use]
pub fn refused(
    token: &ApiToken,
    planned: Option<&ApiTokenStatus>,
    reason: Reason,
    message: &str,
    now: Timestamp,
) -> ApiTokenStatus {
    let before = token.status.clone().unwrap_or_default();
    let over = planned.filter(|planned| {
        matches!(
            planned.state,
            Some(ApiTokenState::Expired | ApiTokenState::Revoked | ApiTokenState::Suspended)
        )
    });
    let (state, digest) = match over {
        Some(planned) => {
            let revoked = planned.state == Some(ApiTokenState::Revoked);
            let state = if revoked { Some(ApiTokenState::Suspended) } else { planned.state };
            (state, planned.digest.clone())
        }
        None => (Some(before.state.unwrap_or(ApiTokenState::Pending)), before.digest.clone()),
    };
    let wished = planned.is_some_and(|planned| holds(planned, ConditionType::Usable));
    let taken_back = over.is_some_and(|planned| {
        planned.state != Some(ApiTokenState::Expired) && planned.minted.is_none() && before.minted.is_some()
    });
    let has_value = before.digest.is_some() || before.minted.is_some();
    let usable = taken_back || (wished && has_value);
    let usable = usable && holds(&before, ConditionType::Usable);
    let previous = before.previous.clone().filter(|_| digest.is_some());
    let (why, say) = match (usable, over) {
        (true, None) => (Reason::Issued, "the token is accepted until its end"),
        (true, Some(_)) => (reason, "the API server accepts the token until its Secret is deleted"),
        (false, _) => (reason, message),
    };
    let again = "it is tried again at least once a minute".to_owned();
    let findings = vec![
        finding(ConditionType::Ready, false, reason, message.to_owned()),
        finding(ConditionType::Usable, usable, why, say.to_owned()),
        finding(ConditionType::Reconciling, true, reason, again),
    ];
    ApiTokenStatus {
        observed_generation: token.metadata.generation,
        state,
        digest,
        previous,
        conditions: conditions(&before.conditions, findings, token.metadata.generation, now),
        ..before
    }
}

/// Whether something of others stops the token until a human acts.
#[must_use]
pub fn is_stalled(status: &ApiTokenStatus) -> bool {
    let (kind, reason) = (ConditionType::Stalled.as_str(), Reason::Conflict.as_str());
    let mut conditions = status.conditions.iter();
    conditions
        .any(|condition| condition.kind == kind && condition.status == "True" && condition.reason == reason)
}

pub(super) fn finding(kind: ConditionType, holds: bool, reason: Reason, message: String) -> Finding {
    Finding { kind, holds, reason, message }
}

pub(super) fn holds(status: &ApiTokenStatus, kind: ConditionType) -> bool {
    status.conditions.iter().any(|condition| condition.kind == kind.as_str() && condition.status == "True")
}

pub(super) fn state_of(
    observed: &Observed,
    status: ApiTokenStatus,
    state: ApiTokenState,
    findings: Vec<Finding>,
    now: Timestamp,
) -> ApiTokenStatus {
    let generation = observed.token.metadata.generation;
    ApiTokenStatus {
        observed_generation: generation,
        state: Some(state),
        conditions: conditions(&status.conditions, findings, generation, now),
        ..status
    }
}

/// Revoked or expired: the Secret goes, and nothing that a verifier could accept stays in the status.
pub(super) fn ended(
    observed: &Observed,
    status: ApiTokenStatus,
    state: ApiTokenState,
    now: Timestamp,
) -> Plan {
    let (reason, mut say) = if state == ApiTokenState::Revoked {
        (Reason::Revoked, "the token is revoked for good; create another ApiToken".to_owned())
    } else {
        let end = status.expires_at.as_ref().map(ToString::to_string).unwrap_or_default();
        (Reason::Expired, format!("the token ended at {end}; create another ApiToken for a later end"))
    };
    if let Some(at) = ttl::goes_at(observed) {
        say = format!("{say}; this object is deleted at {at}");
    }
    let findings = vec![
        finding(ConditionType::Ready, true, reason, say.clone()),
        finding(ConditionType::Usable, false, reason, say),
    ];
    let status = ApiTokenStatus { digest: None, minted: None, secret: None, previous: None, ..status };
    let stays = Plan {
        steps: delete_secret(&observed.secret),
        status: Some(state_of(observed, status, state, findings, now)),
        wake: None,
    };
    ttl::go_or_wait(observed, stays, now)
}

pub(super) fn invalid(observed: &Observed, status: ApiTokenStatus, why: &str, now: Timestamp) -> Plan {
    let say = format!("{why}; create another ApiToken in place of this one");
    let findings = vec![
        finding(ConditionType::Ready, false, Reason::InvalidSpec, say.clone()),
        finding(ConditionType::Usable, false, Reason::InvalidSpec, say.clone()),
        finding(ConditionType::Stalled, true, Reason::InvalidSpec, say),
    ];
    let status = state_of(observed, status, ApiTokenState::Failed, findings, now);
    Plan { steps: Vec::new(), status: Some(status), wake: None }
}

/// The value may be good, but nobody can tell. It is not drawn anew by itself: whoever took the key away may put it
/// back, or may have meant it.
pub(super) fn keyring_missing(
    observed: &Observed,
    status: ApiTokenStatus,
    end: Timestamp,
    now: Timestamp,
) -> Plan {
    let say = "the key of this token's digest is no longer in the operator's keyring, so nobody can check the token; \
               put the key back from a backup, or create another ApiToken"
        .to_owned();
    let findings = vec![
        finding(ConditionType::Ready, false, Reason::KeyringMissing, say.clone()),
        finding(ConditionType::Usable, false, Reason::KeyringMissing, say.clone()),
        finding(ConditionType::Stalled, true, Reason::KeyringMissing, say),
    ];
    let status = ApiTokenStatus { expires_at: Some(end.into()), ..status };
    let status = state_of(observed, status, ApiTokenState::Failed, findings, now);
    Plan { steps: Vec::new(), status: Some(status), wake: Some(end) }
}

/// Whether it does not heal by itself.
const fn is_for_a_human(reason: Reason) -> bool {
    matches!(reason, Reason::Conflict | Reason::PolicyViolation | Reason::InvalidSpec)
}

pub(super) fn waiting(
    observed: &Observed,
    status: ApiTokenStatus,
    reason: Reason,
    say: String,
    end: Option<Timestamp>,
    now: Timestamp,
) -> Plan {
    let stalled = is_for_a_human(reason);
    let state = if stalled { ApiTokenState::Failed } else { ApiTokenState::Pending };
    let findings = vec![
        finding(ConditionType::Ready, false, reason, say.clone()),
        finding(ConditionType::Usable, false, reason, say.clone()),
        finding(ConditionType::Reconciling, !stalled, reason, say.clone()),
        finding(ConditionType::Stalled, stalled, reason, say),
    ];
    let status = ApiTokenStatus { expires_at: end.map(Into::into), ..status };
    Plan { steps: Vec::new(), status: Some(state_of(observed, status, state, findings, now)), wake: end }
}

/// There is a value, and something keeps its successor from being issued: it goes on until its end.
pub(super) fn not_renewed(
    observed: &Observed,
    status: ApiTokenStatus,
    (reason, why): (Reason, &str),
    end: Timestamp,
    now: Timestamp,
) -> ApiTokenStatus {
    let say = format!("the value is not renewed: {why}");
    if end <= now {
        let over = waiting(observed, status, reason, say, Some(end), now);
        return over.status.unwrap_or_default();
    }
    let stalled = is_for_a_human(reason);
    let usable = "the token is accepted until its end".to_owned();
    let findings = vec![
        finding(ConditionType::Ready, false, reason, say.clone()),
        finding(ConditionType::Usable, true, Reason::Issued, usable),
        finding(ConditionType::Reconciling, !stalled, reason, say.clone()),
        finding(ConditionType::Stalled, stalled, reason, say),
    ];
    let status = ApiTokenStatus { expires_at: Some(end.into()), ..status };
    state_of(observed, status, ApiTokenState::Active, findings, now)
}
