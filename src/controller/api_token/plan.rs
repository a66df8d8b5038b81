//! What is to be done about an `ApiToken`, from what was observed and the time.
//!
//! Pure and infallible: no client, no clock, no randomness. A spec that makes no sense is a plan too.

mod loss;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::observed::{Content, CredentialSeen, Observed, OwnSecret, SecretSeen};

use crate::{
    api::{
        ApiToken, ApiTokenState, ApiTokenStatus, Credential, CredentialState, Instant, Reason,
        condition::{ConditionType, Finding, conditions, seconds},
        credential::{DesiredState, ObjectReference},
    },
    controller::dress::{self, Dress},
    domain::{expiry::token_end, name, token::Token},
};

/// How often an object that stands in the way is looked at, since none of the watches shows it.
pub const LOOK_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// What to do, what to say, and when to look again.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The writes before the status, in their order.
    pub steps: Vec<Step>,
    /// The status after them; `None` leaves it alone.
    pub status: Option<ApiTokenStatus>,
    /// When to decide again though nothing happened.
    pub wake: Option<Timestamp>,
}

/// One write.
#[derive(Clone, Debug)]
pub enum Step {
    /// Draw a value and create the Secret with it; its digest and id go into the status.
    CreateSecret(Recipe),
    /// Delete this Secret, in this version where one is given.
    DeleteSecret {
        /// Which.
        secret: ObjectReference,
        /// In which version.
        resource_version: Option<String>,
    },
    /// Put labels, annotations and owner reference of this Secret right.
    MendSecret(Mend),
    /// Delete this very `ApiToken`.
    DeleteToken,
}

/// How to make a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Its name.
    pub name: String,
    /// The number of the value.
    pub serial: i64,
    /// The end of the value.
    pub end: Timestamp,
    /// The UID of the credential that it is for.
    pub credential: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations, less the attestation.
    pub annotations: BTreeMap<String, String>,
}

/// How to mend a Secret's metadata. A `None` value takes a key away.
#[derive(Clone, Debug)]
pub struct Mend {
    /// Which Secret.
    pub secret: ObjectReference,
    /// In which version.
    pub resource_version: String,
    /// Labels and annotations that differ.
    pub dress: Dress,
    /// Whether the owner reference is to be put back.
    pub own: bool,
    /// What to attest anew.
    pub attest: Option<Attest>,
}

/// What is to be attested of a value that is there.
#[derive(Clone, Debug)]
pub struct Attest {
    /// The value.
    pub value: Token,
    /// Its number.
    pub serial: i64,
    /// Its end.
    pub end: Timestamp,
    /// The UID of the credential that it is for.
    pub credential: String,
}

/// Decides.
#[must_use]
pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let token = &observed.token;
    let status = token.status.clone().unwrap_or_default();
    if token.metadata.deletion_timestamp.is_some() {
        // Held by a finalizer or by foreground deletion: the value must not outlive the wish to delete it.
        return Plan { steps: delete_secret(&observed.secret), status: None, wake: None };
    }
    if token.spec.revoked == Some(true) {
        return ended(observed, status, ApiTokenState::Revoked, now);
    }
    if matches!(observed.credential, CredentialSeen::Gone) {
        let mut steps = delete_secret(&observed.secret);
        steps.push(Step::DeleteToken);
        return Plan { steps, status: None, wake: None };
    }
    let own_end = token.metadata.creation_timestamp.as_ref().map_or(now, |created| created.0);
    let own_end = match token_end(&token.spec, own_end) {
        Ok(end) => end,
        Err(error) => return invalid(observed, status, &error.to_string(), now),
    };
    let credential = match &observed.credential {
        CredentialSeen::Present(credential) => Some(&**credential),
        CredentialSeen::Absent | CredentialSeen::Gone => None,
    };
    let credential_end =
        match credential.and_then(|credential| credential.spec.expires_at.as_ref()).map(Instant::timestamp) {
            Some(Err(_)) => {
                return invalid(observed, status, "spec.expiresAt of the credential is not an instant", now);
            }
            Some(Ok(end)) => Some(end),
            None => None,
        };
    let end = credential_end.map_or(own_end, |credential_end| credential_end.min(own_end));
    // Once expired, always expired: a clock that is set back must not bring a value back.
    let credential_over = credential_end.is_some()
        && credential
            .and_then(|credential| credential.status.as_ref())
            .is_some_and(|status| status.state == Some(CredentialState::Expired));
    if now >= end || credential_over || status.state == Some(ApiTokenState::Expired) {
        let end = status
            .expires_at
            .clone()
            .filter(|_| status.state == Some(ApiTokenState::Expired))
            .unwrap_or_else(|| end.into());
        return ended(
            observed,
            ApiTokenStatus { expires_at: Some(end), ..status },
            ApiTokenState::Expired,
            now,
        );
    }
    // A Secret that proves itself under a key we have shows that the status, not the keyring, is what is wrong.
    let proven = matches!(&observed.secret, SecretSeen::Ours(secret) if matches!(secret.content, Content::Attested(_)));
    if !observed.key_known && !proven {
        return keyring_missing(observed, status, end, now);
    }
    let Some(credential) = credential else {
        let say = format!(
            "there is no Credential {} in this namespace; create it, and the token follows by itself",
            token.spec.credential_ref.name
        );
        return waiting(observed, status, Reason::CredentialNotFound, say, Some(end), now);
    };
    if credential.metadata.deletion_timestamp.is_some() && status.serial.is_none() {
        let say = format!(
            "Credential {} is being deleted; the token is issued once one of that name exists again",
            token.spec.credential_ref.name
        );
        return waiting(observed, status, Reason::CredentialDeleted, say, Some(end), now);
    }
    Live { observed, status, credential, end, own_end, now }.plan()
}

/// A token that should have a value now.
struct Live<'a> {
    observed: &'a Observed,
    status: ApiTokenStatus,
    credential: &'a Credential,
    end: Timestamp,
    own_end: Timestamp,
    now: Timestamp,
}

impl Live<'_> {
    fn plan(mut self) -> Plan {
        let look_again = self.now.checked_add(LOOK_AGAIN_AFTER).ok();
        match &self.observed.secret {
            SecretSeen::Ours(secret) => match &secret.content {
                Content::Recorded => self.keep(secret, None),
                Content::Unattested(value) => self.keep(secret, Some(value)),
                Content::Attested(attestation) => {
                    if self.status.serial != Some(attestation.serial) {
                        // Only the second write of an issue is missing: say what it would have said.
                        self.note_replacement();
                        self.status.issued_at = None;
                    }
                    self.status.serial = Some(attestation.serial);
                    self.status.token_id = Some(attestation.id.clone());
                    self.status.digest = Some(attestation.digest.clone());
                    self.keep(secret, None)
                }
                Content::Strange => self.issue(delete_secret_in_version(secret)),
            },
            SecretSeen::Absent => self.issue(Vec::new()),
            SecretSeen::Terminating => {
                let say = format!("Secret {} is being deleted; the token waits for that", self.secret_name());
                self.without_value(Reason::Pending, say, look_again)
            }
            SecretSeen::Predecessors => {
                let say = format!(
                    "Secret {} belongs to an earlier ApiToken of this name; the token waits for its garbage collection",
                    self.secret_name()
                );
                self.without_value(Reason::Pending, say, look_again)
            }
            SecretSeen::Foreign => {
                let say = format!(
                    "Secret {} exists and is not this token's; delete it if it is not needed, or create another \
                     ApiToken with another spec.secret.name; the Secret was not touched",
                    self.secret_name()
                );
                self.without_value(Reason::Conflict, say, look_again)
            }
        }
    }

    fn secret_name(&self) -> String {
        secret_name(&self.observed.token)
    }

    /// The value is there; only what describes it may need mending.
    fn keep(mut self, secret: &OwnSecret, unattested: Option<&Token>) -> Plan {
        let serial = self.status.serial.unwrap_or_default();
        self.status.secret = Some(secret.reference.clone());
        self.status.credential_uid.clone_from(&self.credential.metadata.uid);
        if self.status.issued_at.as_ref().is_none_or(|at| at.timestamp().is_err()) {
            self.status.issued_at = Some(seconds(self.now).into());
        }
        if let Some(value) = unattested {
            self.status.token_id = Some(value.id().to_owned());
        }
        let attest = unattested.map(|value| Attest {
            value: value.clone(),
            serial,
            end: self.own_end,
            credential: self.credential.metadata.uid.clone().unwrap_or_default(),
        });
        let dress =
            dress::changes(&secret.labels, &secret.annotations, self.observed.token.spec.secret.as_ref());
        let needed = !secret.owned || !dress.is_empty() || attest.is_some();
        let mend = needed.then(|| Mend {
            secret: secret.reference.clone(),
            resource_version: secret.resource_version.clone(),
            dress,
            own: !secret.owned,
            attest,
        });
        self.issued(mend.map(Step::MendSecret).into_iter().collect())
    }

    /// There is no value: the first, or the next after a loss, unless it is lost too often.
    fn issue(mut self, mut steps: Vec<Step>) -> Plan {
        if self.status.serial.is_some()
            && let Some((say, until, stalled)) = self.too_often()
        {
            let reason = if stalled { Reason::Conflict } else { Reason::Pending };
            let mut plan = self.without_value(reason, say, until);
            plan.steps = steps;
            return plan;
        }
        let serial = self.status.serial.map_or(0, |serial| serial.saturating_add(1));
        self.note_replacement();
        let (labels, annotations) = dress::new(self.observed.token.spec.secret.as_ref());
        steps.push(Step::CreateSecret(Recipe {
            name: self.secret_name(),
            serial,
            end: self.own_end,
            credential: self.credential.metadata.uid.clone().unwrap_or_default(),
            labels,
            annotations,
        }));
        self.status.serial = Some(serial);
        self.status.issued_at = Some(seconds(self.now).into());
        self.status.credential_uid.clone_from(&self.credential.metadata.uid);
        self.issued(steps)
    }

    fn issued(self, steps: Vec<Step>) -> Plan {
        let (state, usable, reason, say) = if self.credential.metadata.deletion_timestamp.is_some() {
            (
                ApiTokenState::Suspended,
                false,
                Reason::CredentialDeleted,
                "the credential is being deleted, and the token with it",
            )
        } else {
            match self.credential.spec.state {
                DesiredState::Active => {
                    (ApiTokenState::Active, true, Reason::Issued, "the token is accepted until its end")
                }
                DesiredState::Inactive => (
                    ApiTokenState::Suspended,
                    false,
                    Reason::CredentialInactive,
                    "the credential is inactive; the token is refused, and accepted again with the same value once it is active",
                ),
            }
        };
        let findings = vec![
            finding(
                ConditionType::Ready,
                true,
                reason,
                format!("Secret {} holds the token", self.secret_name()),
            ),
            finding(ConditionType::Usable, usable, reason, say.to_owned()),
        ];
        let status = ApiTokenStatus { expires_at: Some(self.end.into()), ..self.status };
        Plan {
            steps,
            status: Some(state_of(self.observed, status, state, findings, self.now)),
            wake: Some(self.end),
        }
    }

    /// What the status says is no longer the value of anything, so that nothing accepts it.
    fn without_value(self, reason: Reason, say: String, again: Option<Timestamp>) -> Plan {
        let status = ApiTokenStatus { token_id: None, digest: None, secret: None, ..self.status };
        let mut plan = waiting(self.observed, status, reason, say, Some(self.end), self.now);
        plan.wake = again.into_iter().chain(plan.wake).min();
        plan
    }
}

/// What the status says after a write was refused: that it was, and nothing that did not happen. What was to end is no
/// longer usable all the same, whether or not its Secret can be deleted.
#[must_use]
pub fn refused(
    token: &ApiToken,
    planned: Option<&ApiTokenStatus>,
    reason: Reason,
    message: &str,
    now: Timestamp,
) -> ApiTokenStatus {
    let before = token.status.clone().unwrap_or_default();
    let wished = planned.is_some_and(|planned| holds(planned, ConditionType::Usable));
    let usable = wished && before.digest.is_some() && holds(&before, ConditionType::Usable);
    let over = planned.filter(|planned| {
        matches!(
            planned.state,
            Some(ApiTokenState::Expired | ApiTokenState::Revoked | ApiTokenState::Suspended)
        )
    });
    let (state, digest) = match over {
        Some(planned) => (planned.state, planned.digest.clone()),
        None => (Some(before.state.unwrap_or(ApiTokenState::Pending)), before.digest.clone()),
    };
    let (why, say) =
        if usable { (Reason::Issued, "the token is accepted until its end") } else { (reason, message) };
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

/// The Secret that a token's value is kept in.
#[must_use]
pub fn secret_name(token: &ApiToken) -> String {
    let chosen = token.spec.secret.as_ref().and_then(|secret| secret.name.clone());
    chosen.unwrap_or_else(|| name::token_secret(token.metadata.name.as_deref().unwrap_or_default()))
}

fn finding(kind: ConditionType, holds: bool, reason: Reason, message: String) -> Finding {
    Finding { kind, holds, reason, message }
}

fn holds(status: &ApiTokenStatus, kind: ConditionType) -> bool {
    status.conditions.iter().any(|condition| condition.kind == kind.as_str() && condition.status == "True")
}

fn state_of(
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
fn ended(observed: &Observed, status: ApiTokenStatus, state: ApiTokenState, now: Timestamp) -> Plan {
    let (reason, say) = if state == ApiTokenState::Revoked {
        (Reason::Revoked, "the token is revoked for good; create another ApiToken".to_owned())
    } else {
        let end = status.expires_at.as_ref().map(ToString::to_string).unwrap_or_default();
        (Reason::Expired, format!("the token ended at {end}; create another ApiToken for a later end"))
    };
    let findings = vec![
        finding(ConditionType::Ready, true, reason, say.clone()),
        finding(ConditionType::Usable, false, reason, say),
    ];
    let status = ApiTokenStatus { digest: None, secret: None, ..status };
    Plan {
        steps: delete_secret(&observed.secret),
        status: Some(state_of(observed, status, state, findings, now)),
        wake: None,
    }
}

fn invalid(observed: &Observed, status: ApiTokenStatus, why: &str, now: Timestamp) -> Plan {
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
fn keyring_missing(observed: &Observed, status: ApiTokenStatus, end: Timestamp, now: Timestamp) -> Plan {
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

fn waiting(
    observed: &Observed,
    status: ApiTokenStatus,
    reason: Reason,
    say: String,
    end: Option<Timestamp>,
    now: Timestamp,
) -> Plan {
    let stalled = reason == Reason::Conflict;
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

fn delete_secret(secret: &SecretSeen) -> Vec<Step> {
    match secret {
        SecretSeen::Ours(secret) => {
            vec![Step::DeleteSecret { secret: secret.reference.clone(), resource_version: None }]
        }
        SecretSeen::Absent | SecretSeen::Terminating | SecretSeen::Predecessors | SecretSeen::Foreign => {
            Vec::new()
        }
    }
}

fn delete_secret_in_version(secret: &OwnSecret) -> Vec<Step> {
    let resource_version = Some(secret.resource_version.clone());
    vec![Step::DeleteSecret { secret: secret.reference.clone(), resource_version }]
}

#[cfg(test)]
mod tests;
