//! What is to be done about an `ApiToken`, from what was observed and the time.
//!
//! Pure and infallible: no client, no clock, no randomness. A spec that makes no sense is a plan too.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        ApiToken, ApiTokenState, ApiTokenStatus, Credential, Instant, Reason,
        condition::{ConditionType, Finding, conditions, seconds},
        credential::{DesiredState, ObjectReference},
    },
    domain::{digest::Attestation, expiry::token_end, name, token::Token},
};

/// A lost value is replaced at most this often.
pub const REPLACE_EVERY: SignedDuration = SignedDuration::from_mins(1);
/// How many replacements within [`REPLACE_WINDOW`] are made; the next loss waits for a human.
pub const REPLACE_AT_MOST: usize = 3;
/// See [`REPLACE_AT_MOST`].
pub const REPLACE_WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// How long a token that lost its value too often waits when no human acts.
pub const REPLACE_AGAIN_AFTER: SignedDuration = SignedDuration::from_hours(1);
/// How often an object that stands in the way is looked at, since none of the watches shows it.
pub const LOOK_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// All that a decision is made from.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The token as it is stored.
    pub token: ApiToken,
    /// Its credential.
    pub credential: CredentialSeen,
    /// The Secret of its name.
    pub secret: SecretSeen,
    /// Whether the keyring has the key that the status' digest names; true without a digest.
    pub key_known: bool,
    /// Whether spec or annotations changed since the token lost its value too often.
    pub touched: bool,
}

/// The credential of a token.
#[derive(Clone, Debug)]
pub enum CredentialSeen {
    /// The API server has none of that name.
    Absent,
    /// The one that the token was issued for, or will be.
    Present(Box<Credential>),
    /// The one that the token was issued for is gone, as an uncached read confirmed.
    Gone,
}

/// The Secret of a token's name.
#[derive(Clone, Debug)]
pub enum SecretSeen {
    /// None; where the status names one, an uncached read confirmed it.
    Absent,
    /// Being deleted.
    Terminating,
    /// Of an earlier `ApiToken` of the same name; garbage collection will take it.
    Predecessors,
    /// Somebody else's.
    Foreign,
    /// Ours.
    Ours(Box<OwnSecret>),
}

/// A Secret of this `ApiToken`.
#[derive(Clone, Debug)]
pub struct OwnSecret {
    /// Its name and UID.
    pub reference: ObjectReference,
    /// The version that was looked at.
    pub resource_version: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether the controller owner reference is there.
    pub owned: bool,
    /// What it holds.
    pub content: Content,
}

/// What a Secret of ours holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// What the status says.
    Recorded,
    /// What the status says, but the attestation does not: it was edited. The value proved itself by the digest.
    Unattested(Token),
    /// A value of ours that the status does not say: the status was not written, or was overwritten.
    Attested(Attestation),
    /// Nothing that we put there.
    Strange,
}

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
    /// Labels that differ.
    pub labels: BTreeMap<String, Option<String>>,
    /// Annotations that differ.
    pub annotations: BTreeMap<String, Option<String>>,
    /// Whether the owner reference is to be put back.
    pub own: bool,
    /// The value to attest anew, with its serial and end.
    pub attest: Option<(Token, i64, Timestamp)>,
}

/// Decides.
#[must_use]
pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let token = &observed.token;
    let status = token.status.clone().unwrap_or_default();
    if token.metadata.deletion_timestamp.is_some() {
        // Held by a finalizer or by foreground deletion: the value must not outlive the wish to delete it.
        return Plan {
            steps: delete_secret(&observed.secret),
            status: None,
            wake: None,
        };
    }
    if token.spec.revoked == Some(true) {
        return ended(observed, status, ApiTokenState::Revoked, now);
    }
    if matches!(observed.credential, CredentialSeen::Gone) {
        let mut steps = delete_secret(&observed.secret);
        steps.push(Step::DeleteToken);
        return Plan {
            steps,
            status: None,
            wake: None,
        };
    }
    let own_end = token
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(now, |created| created.0);
    let own_end = match token_end(&token.spec, own_end) {
        Ok(end) => end,
        Err(error) => return invalid(observed, status, &error.to_string(), now),
    };
    let credential = match &observed.credential {
        CredentialSeen::Present(credential) => Some(&**credential),
        CredentialSeen::Absent | CredentialSeen::Gone => None,
    };
    let credential_end = match credential
        .and_then(|credential| credential.spec.expires_at.as_ref())
        .map(Instant::timestamp)
    {
        Some(Err(_)) => {
            return invalid(
                observed,
                status,
                "spec.expiresAt of the credential is not an instant",
                now,
            );
        }
        Some(Ok(end)) => Some(end),
        None => None,
    };
    let end = credential_end.map_or(own_end, |credential_end| credential_end.min(own_end));
    // Once expired, always expired: a clock that is set back must not bring a value back.
    if now >= end || status.state == Some(ApiTokenState::Expired) {
        let end = status
            .expires_at
            .clone()
            .filter(|_| status.state == Some(ApiTokenState::Expired))
            .unwrap_or_else(|| end.into());
        return ended(
            observed,
            ApiTokenStatus {
                expires_at: Some(end),
                ..status
            },
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
    Live {
        observed,
        status,
        credential,
        end,
        own_end,
        now,
    }
    .plan()
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
                let say = format!(
                    "Secret {} is being deleted; the token waits for that",
                    self.secret_name()
                );
                self.without_value(Reason::Pending, say, None)
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
        self.status
            .credential_uid
            .clone_from(&self.credential.metadata.uid);
        if self
            .status
            .issued_at
            .as_ref()
            .is_none_or(|at| at.timestamp().is_err())
        {
            self.status.issued_at = Some(seconds(self.now).into());
        }
        if let Some(value) = unattested {
            self.status.token_id = Some(value.id().to_owned());
        }
        let attest = unattested.map(|value| (value.clone(), serial, self.own_end));
        let mend = mend(&self.observed.token, secret, attest);
        self.issued(mend.map(Step::MendSecret).into_iter().collect())
    }

    /// There is no value: the first, or the next after a loss, unless it is lost too often.
    fn issue(mut self, mut steps: Vec<Step>) -> Plan {
        if self.status.serial.is_some()
            && let Some((say, until, stalled)) = self.too_often()
        {
            let reason = if stalled {
                Reason::Conflict
            } else {
                Reason::Pending
            };
            let mut plan = self.without_value(reason, say, until);
            plan.steps = steps;
            return plan;
        }
        let serial = self.status.serial.map_or(0, |serial| serial + 1);
        self.note_replacement();
        let (labels, annotations) = dress(&self.observed.token);
        steps.push(Step::CreateSecret(Recipe {
            name: self.secret_name(),
            serial,
            end: self.own_end,
            labels,
            annotations,
        }));
        self.status.serial = Some(serial);
        self.status.issued_at = Some(seconds(self.now).into());
        self.status
            .credential_uid
            .clone_from(&self.credential.metadata.uid);
        self.issued(steps)
    }

    fn note_replacement(&mut self) {
        if self.status.serial.is_some() {
            self.forgive();
            self.status.replaced_at.push(seconds(self.now).into());
            let excess = self.status.replaced_at.len().saturating_sub(REPLACE_AT_MOST);
            self.status.replaced_at.drain(..excess);
        }
    }

    fn replaced(&self) -> Vec<Timestamp> {
        let replaced = self.status.replaced_at.iter();
        replaced.filter_map(|at| at.timestamp().ok()).collect()
    }

    /// Since when it waits for a human because of a Secret.
    fn stalled_since(&self) -> Option<Timestamp> {
        let conditions = self
            .observed
            .token
            .status
            .iter()
            .flat_map(|status| &status.conditions);
        let stalled = conditions.into_iter().find(|condition| {
            condition.kind == ConditionType::Stalled.as_str()
                && condition.status == "True"
                && condition.reason == Reason::Conflict.as_str()
        });
        stalled?.last_transition_time.timestamp().ok()
    }

    /// Whether this loss is one too many, and an hour has not passed.
    fn lost_too_often(&self) -> bool {
        let replaced = self.replaced();
        let (Some(first), Some(last)) = (replaced.first(), replaced.last()) else {
            return false;
        };
        // Long after, the loss is as old as the wait for a human; and a wait for something else that stood in the
        // way does not make a loss of today one of many back then.
        let lost_at = self.stalled_since().unwrap_or(self.now);
        replaced.len() >= REPLACE_AT_MOST
            && self.now.duration_since(*last) < REPLACE_AGAIN_AFTER
            && last.duration_since(*first) < REPLACE_WINDOW
            && lost_at.duration_since(*first) < REPLACE_WINDOW
    }

    /// A human acted, so the count begins anew.
    fn forgive(&mut self) {
        if self.observed.touched && self.stalled_since().is_some() && self.lost_too_often() {
            self.status.replaced_at.clear();
        }
    }

    /// Why and until when a lost value is not replaced yet, and whether a human must act.
    fn too_often(&mut self) -> Option<(String, Option<Timestamp>, bool)> {
        self.forgive();
        let last = *self.replaced().last()?;
        let now = self.now;
        if self.lost_too_often() {
            let say = format!(
                "the token's Secret was deleted or replaced {} times within 10 minutes; find out by whom, then change an \
                 annotation of this ApiToken for a new value at once, or wait an hour",
                REPLACE_AT_MOST + 1
            );
            return Some((say, last.checked_add(REPLACE_AGAIN_AFTER).ok(), true));
        }
        let again = last.checked_add(REPLACE_EVERY).ok()?;
        // A clock that was set back must not make the wait longer than it was meant to be.
        let wait = now < again && now >= last;
        wait.then(|| {
            let say = "the token's Secret was deleted or replaced again; a new value is issued at most once a minute";
            (say.to_owned(), Some(again), false)
        })
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
                DesiredState::Active => (
                    ApiTokenState::Active,
                    true,
                    Reason::Issued,
                    "the token is accepted until its end",
                ),
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
        let status = ApiTokenStatus {
            expires_at: Some(self.end.into()),
            ..self.status
        };
        Plan {
            steps,
            status: Some(state_of(self.observed, status, state, findings, self.now)),
            wake: Some(self.end),
        }
    }

    /// What the status says is no longer the value of anything, so that nothing accepts it.
    fn without_value(self, reason: Reason, say: String, again: Option<Timestamp>) -> Plan {
        let status = ApiTokenStatus {
            token_id: None,
            digest: None,
            secret: None,
            ..self.status
        };
        let mut plan = waiting(self.observed, status, reason, say, Some(self.end), self.now);
        plan.wake = again.into_iter().chain(plan.wake).min();
        plan
    }
}

/// What the status says after a write was refused: nothing that happened, and what to do.
#[must_use]
pub fn refused(token: &ApiToken, reason: Reason, message: &str, now: Timestamp) -> ApiTokenStatus {
    let status = token.status.clone().unwrap_or_default();
    let issued = status.digest.is_some();
    let usable = token_condition(token, ConditionType::Usable);
    let mut findings = vec![finding(ConditionType::Ready, false, reason, message.to_owned())];
    findings.push(finding(
        ConditionType::Usable,
        issued && usable,
        if issued && usable { Reason::Issued } else { reason },
        if issued && usable {
            "the token is accepted until its end".to_owned()
        } else {
            message.to_owned()
        },
    ));
    findings.push(finding(
        ConditionType::Reconciling,
        true,
        reason,
        "it is tried again at least once a minute".to_owned(),
    ));
    let state = status.state.unwrap_or(ApiTokenState::Pending);
    ApiTokenStatus {
        observed_generation: token.metadata.generation,
        state: Some(state),
        conditions: conditions(&status.conditions, findings, token.metadata.generation, now),
        ..status
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
    Finding {
        kind,
        holds,
        reason,
        message,
    }
}

fn token_condition(token: &ApiToken, kind: ConditionType) -> bool {
    let conditions = token.status.iter().flat_map(|status| &status.conditions);
    conditions
        .into_iter()
        .any(|condition| condition.kind == kind.as_str() && condition.status == "True")
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
        (
            Reason::Revoked,
            "the token is revoked for good; create another ApiToken".to_owned(),
        )
    } else {
        let end = status
            .expires_at
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        (
            Reason::Expired,
            format!("the token ended at {end}; create another ApiToken for a later end"),
        )
    };
    let findings = vec![
        finding(ConditionType::Ready, true, reason, say.clone()),
        finding(ConditionType::Usable, false, reason, say),
    ];
    let status = ApiTokenStatus {
        digest: None,
        secret: None,
        ..status
    };
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
    Plan {
        steps: Vec::new(),
        status: Some(status),
        wake: None,
    }
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
    let status = ApiTokenStatus {
        expires_at: Some(end.into()),
        ..status
    };
    let status = state_of(observed, status, ApiTokenState::Failed, findings, now);
    Plan {
        steps: Vec::new(),
        status: Some(status),
        wake: Some(end),
    }
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
    let state = if stalled {
        ApiTokenState::Failed
    } else {
        ApiTokenState::Pending
    };
    let findings = vec![
        finding(ConditionType::Ready, false, reason, say.clone()),
        finding(ConditionType::Usable, false, reason, say.clone()),
        finding(ConditionType::Reconciling, !stalled, reason, say.clone()),
        finding(ConditionType::Stalled, stalled, reason, say),
    ];
    let status = ApiTokenStatus {
        expires_at: end.map(Into::into),
        ..status
    };
    Plan {
        steps: Vec::new(),
        status: Some(state_of(observed, status, state, findings, now)),
        wake: end,
    }
}

fn delete_secret(secret: &SecretSeen) -> Vec<Step> {
    match secret {
        SecretSeen::Ours(secret) => {
            vec![Step::DeleteSecret {
                secret: secret.reference.clone(),
                resource_version: None,
            }]
        }
        SecretSeen::Absent | SecretSeen::Terminating | SecretSeen::Predecessors | SecretSeen::Foreign => {
            Vec::new()
        }
    }
}

fn delete_secret_in_version(secret: &OwnSecret) -> Vec<Step> {
    let resource_version = Some(secret.resource_version.clone());
    vec![Step::DeleteSecret {
        secret: secret.reference.clone(),
        resource_version,
    }]
}

/// The labels of a token's Secret, and its annotations less the attestation.
fn dress(token: &ApiToken) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let wished = token.spec.secret.clone().unwrap_or_default();
    let mut annotations = BTreeMap::new();
    if !wished.labels.is_empty() || !wished.annotations.is_empty() {
        let published = serde_json::json!({
            "labels": wished.labels.keys().collect::<Vec<_>>(),
            "annotations": wished.annotations.keys().collect::<Vec<_>>(),
        });
        annotations.insert(name::PUBLISHED_ANNOTATION.to_owned(), published.to_string());
    }
    annotations.extend(wished.annotations);
    let mut labels = wished.labels;
    labels.insert(name::MANAGED_BY_LABEL.to_owned(), name::MANAGED_BY.to_owned());
    (labels, annotations)
}

#[derive(Default, serde::Deserialize)]
struct Published {
    labels: Vec<String>,
    annotations: Vec<String>,
}

fn mend(token: &ApiToken, secret: &OwnSecret, attest: Option<(Token, i64, Timestamp)>) -> Option<Mend> {
    let (labels, annotations) = dress(token);
    let published: Published = secret
        .annotations
        .get(name::PUBLISHED_ANNOTATION)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let marker = [name::PUBLISHED_ANNOTATION.to_owned()];
    let labels = difference(&secret.labels, labels, &published.labels);
    let annotations = difference(
        &secret.annotations,
        annotations,
        &[&published.annotations[..], &marker[..]].concat(),
    );
    if secret.owned && labels.is_empty() && annotations.is_empty() && attest.is_none() {
        return None;
    }
    Some(Mend {
        secret: secret.reference.clone(),
        resource_version: secret.resource_version.clone(),
        labels,
        annotations,
        own: !secret.owned,
        attest,
    })
}

/// What to set in `found`, and what of `published` to take away, so that it has all of `wished`.
fn difference(
    found: &BTreeMap<String, String>,
    wished: BTreeMap<String, String>,
    published: &[String],
) -> BTreeMap<String, Option<String>> {
    let gone = published
        .iter()
        // The annotation that lists them is the user's to edit; it must not make us take away what is ours.
        .filter(|key| !key.starts_with("credential-operator.io/") || **key == name::PUBLISHED_ANNOTATION)
        .filter(|key| {
            *key != name::MANAGED_BY_LABEL && !wished.contains_key(*key) && found.contains_key(*key)
        })
        .map(|key| (key.clone(), None));
    let gone: BTreeMap<_, _> = gone.collect();
    let set = wished
        .into_iter()
        .filter(|(key, value)| found.get(key) != Some(value));
    set.map(|(key, value)| (key, Some(value))).chain(gone).collect()
}

#[cfg(test)]
mod tests;
