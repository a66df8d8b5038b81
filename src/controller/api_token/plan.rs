//! What is to be done about an `ApiToken`, from what was observed and the time.
//!
//! Pure and infallible: no client, no clock, no randomness. A spec that makes no sense is a plan too.

mod loss;
mod minted;
mod once;
mod renewal;
mod tell;
mod ttl;
mod unreadable;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

pub use self::{
    minted::MintRecipe,
    once::is_once,
    tell::{is_stalled, refused},
};
use self::{
    once::closed,
    tell::{ended, finding, invalid, keyring_missing, not_renewed, state_of, waiting},
};
use super::observed::{Content, CredentialSeen, Observed, OwnSecret, SecretSeen};
use crate::{
    api::{
        ApiToken, ApiTokenState, ApiTokenStatus, Credential, DeliveryMode, Instant, Reason,
        condition::{ConditionType, seconds},
        credential::{DesiredState, ObjectReference},
    },
    controller::{
        credential,
        dress::{self, Dress},
    },
    domain::{
        delivery,
        digest::{Attestation, Claim},
        expiry::Terms,
        name,
        sealed::{Recipients, SealError},
        token::Token,
    },
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
    /// Draw a value and put it in the place of the one that this Secret holds; likewise.
    RenewSecret(Recipe, Held),
    /// Have the API server mint a token, into a new Secret or into one of ours; what is told of it goes into the status.
    Mint(Box<MintRecipe>),
    /// Write this status before what follows: it must be known whatever becomes of the rest.
    Say(Box<ApiTokenStatus>),
    /// Delete this Secret, in this version where one is given.
    DeleteSecret {
        /// Which.
        secret: ObjectReference,
        /// In which version.
        resource_version: Option<String>,
    },
    /// Put labels, annotations and owner reference of this Secret right.
    MendSecret(Mend),
    /// Delete this very `ApiToken`, in this version where one is given.
    DeleteToken {
        /// In which version.
        resource_version: Option<String>,
    },
}

/// What a Secret is to hold, and to wear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Its name.
    pub name: String,
    /// The number of the value.
    pub serial: i64,
    /// The term that the value is of, where the token renews.
    pub term: Option<i64>,
    /// What is attested of the value.
    pub claim: Claim,
    /// Whom the value is sealed for, where it is.
    pub recipients: Option<Recipients>,
    /// Labels and annotations that differ, less the attestation.
    pub dress: Dress,
}

/// A Secret of ours in the version that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub secret: ObjectReference,
    /// In which version.
    pub resource_version: String,
    /// Whether the owner reference is to be put back.
    pub own: bool,
}

/// How to mend a Secret's metadata. A `None` value takes a key away.
#[derive(Clone, Debug)]
pub struct Mend {
    /// Which Secret.
    pub held: Held,
    /// Labels and annotations that differ.
    pub dress: Dress,
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
    /// Its term, where the token renews.
    pub term: Option<i64>,
    /// All else.
    pub claim: Claim,
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
    if matches!(observed.credential, CredentialSeen::Gone) {
        return gone(observed, None);
    }
    if token.spec.revoked == Some(true) {
        return ended(observed, status, ApiTokenState::Revoked, now);
    }
    let created_at = token.metadata.creation_timestamp.as_ref().map_or(now, |created| created.0);
    let terms = match Terms::of(&token.spec, created_at) {
        Ok(terms) => terms,
        Err(error) => return invalid(observed, status, &error.to_string(), now),
    };
    let credential = observed.credential.present();
    let credential_end =
        match credential.and_then(|credential| credential.spec.expires_at.as_ref()).map(Instant::timestamp) {
            Some(Err(_)) => {
                return invalid(observed, status, "spec.expiresAt of the credential is not an instant", now);
            }
            Some(Ok(end)) => Some(end),
            None => observed.credential.unread().and_then(|unread| unread.ends_at),
        };
    let over_at = terms.over_at().into_iter().chain(credential_end).min();
    // Once expired, always expired: a clock that is set back must not bring a value back.
    let said_over = observed.credential.unread().is_some_and(|unread| unread.expired)
        || credential.is_some_and(credential::plan::is_expired);
    let credential_over = credential_end.is_some() && said_over;
    let expired = status.state == Some(ApiTokenState::Expired);
    if expired || credential_over || over_at.is_some_and(|over_at| over_at <= now) {
        let before = status.expires_at.clone().filter(|_| expired);
        let expires_at = before.or_else(|| over_at.map(Into::into));
        let status = ApiTokenStatus { expires_at, ..status };
        return ended(observed, status, ApiTokenState::Expired, now);
    }
    let term = terms.current(now);
    let end_of = |term| credential_end.into_iter().fold(terms.end(term), Timestamp::min);
    // A Secret that proves itself under a key we have shows that the status, not the keyring, is what is wrong.
    let proven = matches!(&observed.secret, SecretSeen::Ours(secret) if matches!(secret.content, Content::Attested(_)));
    if !observed.key_known && !proven {
        let end = end_of(status.term.or(term));
        return closed(observed, Plan { wake: over_at, ..keyring_missing(observed, status, end, now) }, now);
    }
    if let CredentialSeen::Unreadable(unread) = &observed.credential {
        let end = end_of(status.term.or(term));
        return unreadable::plan(observed, unread, status, (end, over_at), now);
    }
    let end = Some(end_of(term));
    let Some(credential) = credential else {
        let say = format!(
            "there is no Credential {} in this namespace; create it, and the token follows by itself",
            token.spec.credential_ref.name
        );
        return waiting(observed, status, Reason::CredentialNotFound, say, end, now);
    };
    if credential.metadata.deletion_timestamp.is_some() && status.serial.is_none() {
        let say = format!(
            "Credential {} is being deleted; the token is issued once one of that name exists again",
            token.spec.credential_ref.name
        );
        return waiting(observed, status, Reason::CredentialDeleted, say, end, now);
    }
    let (recipients, held_back) = match wished_recipients(token) {
        Ok(recipients) => {
            let breach = observed.policy.as_ref();
            (recipients, breach.map(|breach| (breach.reason(), breach.message.clone())))
        }
        Err(error) => (None, Some((Reason::InvalidSpec, error.to_string()))),
    };
    let live = Live {
        observed,
        status,
        credential,
        terms,
        credential_end,
        term,
        recipients,
        held_back,
        closes_at: None,
        now,
    };
    match &observed.native {
        Some(native) => live.minted(native),
        None => live.plan(),
    }
}

/// Whom the value is to be sealed for; `None`: it is delivered otherwise.
fn wished_recipients(token: &ApiToken) -> Result<Option<Recipients>, SealError> {
    delivery::recipients(token.spec.delivery.as_ref()).map(Recipients::new).transpose()
}

/// Whether the value in this Secret is sealed for others than are wished for now.
#[must_use]
pub fn is_for_others(token: &ApiToken, secret: &OwnSecret) -> bool {
    let wished = delivery::recipients(token.spec.delivery.as_ref()).map(Recipients::mark_of);
    wished.is_some() && secret.sealed_for != wished && !matches!(secret.content, Content::Strange)
}

/// A token that should have a value now.
#[derive(Clone)]
struct Live<'a> {
    observed: &'a Observed,
    status: ApiTokenStatus,
    credential: &'a Credential,
    terms: Terms,
    credential_end: Option<Timestamp>,
    /// The term whose value there should be now, where the token renews.
    term: Option<i64>,
    /// Whom the next value is to be sealed for, where it is to be.
    recipients: Option<Recipients>,
    /// Why there must be no new value.
    held_back: Option<(Reason, String)>,
    /// When the value that is there is kept no longer, where it is delivered once.
    closes_at: Option<Timestamp>,
    now: Timestamp,
}

impl Live<'_> {
    fn plan(mut self) -> Plan {
        let previous = self.status.previous.take();
        self.status.previous = self.outlasting(previous.map(Into::into));
        self.status.term = self.status.term.filter(|_| self.term.is_some());
        if self.is_once() && (self.status.serial.is_some() || self.is_unrecorded()) {
            let look_again = self.now.checked_add(LOOK_AGAIN_AFTER).ok();
            return self.once(look_again);
        }
        match &self.observed.secret {
            SecretSeen::Ours(secret) => match &secret.content {
                Content::Recorded => self.keep(secret, None),
                Content::Unattested(value) => self.keep(secret, Some(value)),
                Content::Attested(attestation) => {
                    self.adopt(Some(&secret.reference), attestation);
                    self.keep(secret, None)
                }
                Content::Minted(_) | Content::Empty | Content::Strange => {
                    self.issue(delete_secret_in_version(secret))
                }
            },
            SecretSeen::Absent => self.issue(Vec::new()),
            SecretSeen::Terminating(_) | SecretSeen::Predecessors | SecretSeen::Foreign => self.in_the_way(),
        }
    }

    /// There can be no Secret of ours yet.
    fn in_the_way(self) -> Plan {
        let look_again = self.now.checked_add(LOOK_AGAIN_AFTER).ok();
        match &self.observed.secret {
            SecretSeen::Ours(_) | SecretSeen::Absent | SecretSeen::Terminating(_) => {
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

    /// Whether it is time for the next value.
    fn is_due(&self) -> bool {
        self.term > self.status.term || self.is_for_others()
    }

    fn is_for_others(&self) -> bool {
        matches!(&self.observed.secret, SecretSeen::Ours(secret) if is_for_others(&self.observed.token, secret))
    }

    fn secret_name(&self) -> String {
        secret_name(&self.observed.token)
    }

    /// When the value of a term ends.
    fn end_of(&self, term: Option<i64>) -> Timestamp {
        self.credential_end.into_iter().fold(self.terms.end(term), Timestamp::min)
    }

    /// What the Secret says of its value is true, and the status does not say it.
    fn adopt(&mut self, secret: Option<&ObjectReference>, attestation: &Attestation) {
        if self.status.serial != Some(attestation.serial) {
            // Only the second write of an issue is missing: say what it would have said. A loss is replaced in another
            // Secret, a value that is renewed or sealed for others in the same one, and one that is delivered once is never replaced.
            let in_place = self.status.secret.as_ref() == secret;
            let is_sealed = delivery::recipients(self.observed.token.spec.delivery.as_ref()).is_some();
            if !(in_place && (self.term.is_some() || is_sealed)) && !self.is_once() {
                self.note_replacement();
            }
            self.status.issued_at = None;
            self.status.delivered_at = None;
        }
        if attestation.issued_at.is_some() {
            self.status.issued_at.clone_from(&attestation.issued_at);
        }
        self.status.credential_uid.clone_from(&self.credential.metadata.uid);
        self.status.serial = Some(attestation.serial);
        self.status.term = attestation.term.filter(|_| self.term.is_some());
        self.status.token_id = Some(attestation.id.clone());
        self.status.digest = Some(attestation.digest.clone());
        self.status.previous = self.outlasting(attestation.previous.clone());
    }

    /// The value is there. It may be time for the next; else only what describes it may need mending.
    fn keep(mut self, secret: &OwnSecret, unattested: Option<&Token>) -> Plan {
        self.status.secret = Some(secret.reference.clone());
        self.status.credential_uid.clone_from(&self.credential.metadata.uid);
        if self.status.issued_at.as_ref().is_none_or(|at| at.timestamp().is_err()) {
            self.status.issued_at = Some(seconds(self.now).into());
        }
        if let Some(value) = unattested {
            self.status.token_id = Some(value.id().to_owned());
        }
        let dress =
            dress::changes(&secret.labels, &secret.annotations, self.observed.token.spec.secret.as_ref());
        let held = Held {
            secret: secret.reference.clone(),
            resource_version: secret.resource_version.clone(),
            own: !secret.owned,
        };
        if self.is_due() && self.held_back.is_none() {
            return self.renew(held, dress);
        }
        let attest = unattested.map(|value| Attest {
            value: value.clone(),
            serial: self.status.serial.unwrap_or_default(),
            term: self.status.term,
            claim: self.claim(self.status.term),
        });
        let needed = held.own || !dress.is_empty() || attest.is_some();
        let mend = needed.then_some(Mend { held, dress, attest });
        self.issued(mend.map(Step::MendSecret).into_iter().collect())
    }

    /// There is no value: the first, or the next after a loss, unless it is lost too often.
    fn issue(mut self, mut steps: Vec<Step>) -> Plan {
        if let Some((reason, say)) = self.held_back.clone() {
            return Plan { steps, ..self.without_value(reason, say, None) };
        }
        if self.status.serial.is_some()
            && let Some((say, until, stalled)) = self.too_often()
        {
            let reason = if stalled { Reason::Conflict } else { Reason::Pending };
            let mut plan = self.without_value(reason, say, until);
            plan.steps = steps;
            return plan;
        }
        self.note_replacement();
        // Whoever has the lost value may have the one before, too.
        self.status.previous = None;
        let none = BTreeMap::new();
        let dress = dress::changes(&none, &none, self.observed.token.spec.secret.as_ref());
        steps.push(Step::CreateSecret(self.next_value(dress)));
        self.issued(steps)
    }

    /// The value of the current term, under the next number.
    fn next_value(&mut self, dress: Dress) -> Recipe {
        let serial = self.status.serial.map_or(0, |serial| serial.saturating_add(1));
        self.status.serial = Some(serial);
        self.status.term = self.term;
        self.status.issued_at = Some(seconds(self.now).into());
        self.status.delivered_at = None;
        self.status.credential_uid.clone_from(&self.credential.metadata.uid);
        self.closes_at = self.closes_at();
        let (name, claim, recipients) = (self.secret_name(), self.claim(self.term), self.recipients.clone());
        Recipe { name, serial, term: self.term, claim, recipients, dress }
    }

    fn claim(&self, term: Option<i64>) -> Claim {
        Claim {
            end: self.terms.end(term),
            issued_at: self.issued_at().filter(|_| self.is_once()),
            credential: self.credential.metadata.uid.clone().unwrap_or_default(),
            previous: self.status.previous.clone().map(Into::into),
        }
    }

    fn issued(self, steps: Vec<Step>) -> Plan {
        let (state, usable, reason, say) = if self.credential.metadata.deletion_timestamp.is_some() {
            (
                ApiTokenState::Suspended,
                false,
                Reason::CredentialDeleted,
                "the credential is being deleted, and the token with it",
            )
        } else if self.observed.is_refused_by_policy() {
            (
                ApiTokenState::Suspended,
                false,
                Reason::PolicyViolation,
                "the credential violates a policy; the token is refused, and accepted again with the same value once it no \
                 longer does",
            )
        } else {
            match self.credential.spec.state {
                DesiredState::Active => {
                    let delivered = self.status.delivered_at.is_some();
                    let reason = if delivered { Reason::Delivered } else { Reason::Issued };
                    (ApiTokenState::Active, true, reason, "the token is accepted until its end")
                }
                DesiredState::Inactive => (
                    ApiTokenState::Suspended,
                    false,
                    Reason::CredentialInactive,
                    "the credential is inactive; the token is refused, and accepted again with the same value once it is active",
                ),
            }
        };
        let end = self.end_of(self.status.term);
        let previous_end = self.status.previous.as_ref().map(|previous| self.end_of(Some(previous.term)));
        let next = self.terms.followed_at(self.status.term);
        // One that is held back outlives its value, and what its successor should have come for is past.
        let wakes =
            [Some(end), next, previous_end, self.terms.over_at(), self.credential_end, self.closes_at];
        let wake = wakes.into_iter().flatten().filter(|at| *at > self.now).min();
        // Recipients that are refused now may have been taken before.
        let unfit = |why: Reason| why == Reason::InvalidSpec;
        if let Some((why, say)) =
            self.held_back.as_ref().filter(|(why, _)| usable && (self.is_due() || unfit(*why)))
        {
            let status = not_renewed(self.observed, self.status.clone(), (*why, say), end, self.now);
            return Plan { steps, status: Some(status), wake };
        }
        let findings = vec![
            finding(ConditionType::Ready, true, reason, self.where_it_is()),
            finding(ConditionType::Usable, usable, reason, say.to_owned()),
        ];
        let status = ApiTokenStatus { expires_at: Some(end.into()), ..self.status };
        Plan { steps, status: Some(state_of(self.observed, status, state, findings, self.now)), wake }
    }

    fn where_it_is(&self) -> String {
        let secret = self.secret_name();
        match (&self.status.delivered_at, self.closes_at) {
            (Some(at), _) => format!("the token was delivered by {at}; no Secret holds it any more"),
            (None, Some(at)) => format!(
                "Secret {secret} holds the token until {at}; it goes before when the annotation {} has the token's id, or when \
                 somebody deletes it",
                name::ACKNOWLEDGED_ANNOTATION
            ),
            (None, None) if self.recipients.is_some() => format!("Secret {secret} holds the token, sealed"),
            (None, None) => format!("Secret {secret} holds the token"),
        }
    }

    /// What the status says is no longer the value of anything, so that nothing accepts it.
    fn without_value(self, reason: Reason, say: String, again: Option<Timestamp>) -> Plan {
        let end = self.end_of(self.term);
        let status = ApiTokenStatus {
            token_id: None,
            digest: None,
            minted: None,
            secret: None,
            previous: None,
            ..self.status
        };
        let mut plan = waiting(self.observed, status, reason, say, Some(end), self.now);
        plan.wake = again.into_iter().chain(plan.wake).min();
        plan
    }
}

/// The Secret that a token's value is kept in.
#[must_use]
pub fn secret_name(token: &ApiToken) -> String {
    let chosen = token.spec.secret.as_ref().and_then(|secret| secret.name.clone());
    chosen.unwrap_or_else(|| name::token_secret(token.metadata.name.as_deref().unwrap_or_default()))
}

fn delete_secret(secret: &SecretSeen) -> Vec<Step> {
    match secret {
        SecretSeen::Ours(secret) => {
            vec![Step::DeleteSecret { secret: secret.reference.clone(), resource_version: None }]
        }
        // Its finalizers are still to be reported, or removed.
        SecretSeen::Terminating(Some(secret)) => {
            vec![Step::DeleteSecret { secret: secret.clone(), resource_version: None }]
        }
        SecretSeen::Absent
        | SecretSeen::Terminating(None)
        | SecretSeen::Predecessors
        | SecretSeen::Foreign => Vec::new(),
    }
}

/// The token goes, and its Secret before it.
fn gone(observed: &Observed, resource_version: Option<String>) -> Plan {
    let mut steps = delete_secret(&observed.secret);
    steps.push(Step::DeleteToken { resource_version });
    Plan { steps, status: None, wake: None }
}

fn delete_secret_in_version(secret: &OwnSecret) -> Vec<Step> {
    let resource_version = Some(secret.resource_version.clone());
    vec![Step::DeleteSecret { secret: secret.reference.clone(), resource_version }]
}

#[cfg(test)]
mod tests;
