//! Tokens that the API server mints. It accepts them by itself as long as their Secret is there, so whatever takes a token
//! back takes its Secret away, and the next value is another.

use jiff::Timestamp;

use super::{
    Held, LOOK_AGAIN_AFTER, Live, Mend, Plan, Step, delete_secret, delete_secret_in_version,
    tell::{finding, state_of},
};
use crate::{
    api::{
        ApiTokenState, ApiTokenStatus, Reason,
        api_token::MintedToken,
        condition::{ConditionType, seconds},
        credential::{DesiredState, ObjectReference},
    },
    controller::{
        api_token::observed::{Content, OwnSecret, SecretSeen},
        dress::{self, Dress},
        mint::{Native, Order},
    },
    domain::mint::{Life, MintAttestation, audiences},
};

/// What a Secret is to have minted into it, and to wear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MintRecipe {
    /// Its name.
    pub name: String,
    /// The number of the value.
    pub serial: i64,
    /// The term that the value is of, where the token renews.
    pub term: Option<i64>,
    /// What is asked for.
    pub order: Order,
    /// The Secret that is to take it; `None` makes a new one.
    pub into: Option<Held>,
    /// Whether that Secret holds nothing yet.
    pub empty: bool,
    /// Labels and annotations that differ, less the attestation.
    pub dress: Dress,
}

/// Why no value is minted now.
struct Hindrance {
    reason: Reason,
    say: String,
    again: Option<Timestamp>,
}

impl Plan {
    /// Whether something is minted by it.
    #[must_use]
    pub fn mints(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Mint(_)))
    }

    /// Whether it takes the Secret away though the token is not over.
    #[must_use]
    pub fn takes_back(&self) -> bool {
        let over = [Some(ApiTokenState::Expired), Some(ApiTokenState::Revoked)];
        let lives = self.status.as_ref().is_some_and(|status| !over.contains(&status.state));
        lives && self.steps.iter().any(|step| matches!(step, Step::DeleteSecret { .. }))
    }
}

impl Live<'_> {
    pub(super) fn minted(mut self, native: &Native) -> Plan {
        self.status.previous = None;
        self.status.digest = None;
        self.status.term = self.status.term.filter(|_| self.term.is_some());
        if self.credential.metadata.deletion_timestamp.is_some() {
            return self.taken_back(
                Reason::CredentialDeleted,
                "the credential is being deleted, and the token with it",
            );
        }
        if self.credential.spec.state == DesiredState::Inactive {
            let say = "the credential is inactive; the token went with its Secret, and another value is issued once it is active";
            return self.taken_back(Reason::CredentialInactive, say);
        }
        let Ok(audiences) = audiences(&self.observed.token.spec, &self.credential.spec) else {
            let say = format!(
                "none of spec.audiences is an audience of Credential {}; add it there, or create another ApiToken",
                self.observed.token.spec.credential_ref.name
            );
            let steps = delete_secret(&self.observed.secret);
            return Plan { steps, ..self.without_value(Reason::InvalidSpec, say, None) };
        };
        match &self.observed.secret {
            SecretSeen::Ours(own) => match &own.content {
                Content::Minted(said) if self.fits(said, native, &audiences) => {
                    self.keep_minted(own, said, native, audiences)
                }
                Content::Empty => self.first(native, audiences, Some(own)),
                Content::Minted(_)
                | Content::Recorded
                | Content::Unattested(_)
                | Content::Attested(_)
                | Content::Strange => self.another(native, audiences, delete_secret_in_version(own)),
            },
            SecretSeen::Absent => self.another(native, audiences, Vec::new()),
            SecretSeen::Terminating(_) | SecretSeen::Predecessors | SecretSeen::Foreign => self.in_the_way(),
        }
    }

    /// Whether the value is the one that is wished, however long it lives.
    fn fits(&self, said: &MintAttestation, native: &Native, audiences: &[String]) -> bool {
        Some(&said.credential) == self.credential.metadata.uid.as_ref()
            && said.audiences == audiences
            // Where the account does not seem to be there, a watch may lag; whatever was minted for it died with it.
            && native.account.as_ref().is_none_or(|account| account.uid == said.account)
    }

    fn hindrance(&self, native: &Native) -> Option<Hindrance> {
        if let Some(breach) = &self.observed.policy {
            return Some(Hindrance { reason: breach.reason(), say: breach.message.clone(), again: None });
        }
        if !native.allowed {
            let say = "this controller has no tokens minted; run it with --service-account-tokens and apply \
                       deploy/service-account-tokens/rights.yaml, or create an ApiToken of type Opaque";
            return Some(Hindrance { reason: Reason::InvalidSpec, say: say.to_owned(), again: None });
        }
        if native.account.is_none() {
            let say = format!(
                "the ServiceAccount of Credential {} is not there; see the status of the credential",
                self.observed.token.spec.credential_ref.name
            );
            let again = self.now.checked_add(LOOK_AGAIN_AFTER).ok();
            return Some(Hindrance { reason: Reason::Pending, say, again });
        }
        None
    }

    /// The value is taken back, and nothing is lost: another one is issued when the credential is active again.
    fn taken_back(self, reason: Reason, say: &str) -> Plan {
        let end = self.end_of(self.term);
        let steps = delete_secret(&self.observed.secret);
        let status = ApiTokenStatus {
            token_id: None,
            minted: None,
            secret: None,
            credential_uid: self.credential.metadata.uid.clone(),
            expires_at: Some(end.into()),
            ..self.status
        };
        let findings = vec![
            finding(ConditionType::Ready, true, reason, say.to_owned()),
            finding(ConditionType::Usable, false, reason, say.to_owned()),
        ];
        let status = state_of(self.observed, status, ApiTokenState::Suspended, findings, self.now);
        let wakes = [Some(end), self.terms.followed_at(self.term), self.terms.over_at(), self.credential_end];
        let wake = wakes.into_iter().flatten().filter(|at| *at > self.now).min();
        Plan { steps, status: Some(status), wake }
    }

    /// The value is there. It may be time for the next; else only what describes it may need mending.
    fn keep_minted(
        mut self,
        own: &OwnSecret,
        said: &MintAttestation,
        native: &Native,
        audiences: Vec<String>,
    ) -> Plan {
        let in_place = self.status.secret.as_ref() == Some(&own.reference);
        if self.status.serial != Some(said.serial) && !in_place {
            // Only the last write is missing: say what it would have said.
            self.note_loss();
        }
        self.status.serial = Some(said.serial);
        self.status.term = said.term.filter(|_| self.term.is_some());
        self.status.token_id.clone_from(&said.id);
        self.status.issued_at = Some(said.issued_at.clone());
        self.status.minted = Some(MintedToken {
            service_account_uid: said.account.clone(),
            expires_at: said.expires_at.clone(),
        });
        self.status.secret = Some(own.reference.clone());
        self.status.credential_uid.clone_from(&self.credential.metadata.uid);
        let wished = self.observed.token.spec.secret.as_ref();
        let dress = dress::changes(&own.labels, &own.annotations, wished);
        let held = held(own);
        let life = said.life();
        let end = self.end_of(self.status.term);
        let is_due = self.is_due() || life.is_none_or(|life| life.is_over(end, self.now));
        let hindrance = self.hindrance(native);
        if is_due && hindrance.is_none() {
            return self.mint(native, audiences, Some(held), false, dress, Vec::new());
        }
        let needed = held.own || !dress.is_empty();
        let mend = needed.then_some(Mend { held, dress, attest: None });
        self.there(mend.map(Step::MendSecret).into_iter().collect(), life, hindrance.filter(|_| is_due))
    }

    /// There is no value, and there was none in this Secret.
    fn first(mut self, native: &Native, audiences: Vec<String>, empty: Option<&OwnSecret>) -> Plan {
        if let Some(Hindrance { reason, say, again }) = self.hindrance(native) {
            return self.without_value(reason, say, again);
        }
        self.note_loss();
        let none = std::collections::BTreeMap::new();
        let (labels, annotations) = empty.map_or((&none, &none), |empty| (&empty.labels, &empty.annotations));
        let dress = dress::changes(labels, annotations, self.observed.token.spec.secret.as_ref());
        let steps = Vec::new();
        self.mint(native, audiences, empty.map(held), empty.is_some(), dress, steps)
    }

    /// There is no value: the first, or the next after a loss, unless it is lost too often.
    fn another(mut self, native: &Native, audiences: Vec<String>, steps: Vec<Step>) -> Plan {
        if let Some(Hindrance { reason, say, again }) = self.hindrance(native) {
            return Plan { steps, ..self.without_value(reason, say, again) };
        }
        if self.has_lost()
            && let Some((say, until, stalled)) = self.too_often()
        {
            let reason = if stalled { Reason::Conflict } else { Reason::Pending };
            return Plan { steps, ..self.without_value(reason, say, until) };
        }
        let plan = self.first(native, audiences, None);
        Plan { steps: steps.into_iter().chain(plan.steps).collect(), ..plan }
    }

    /// Whether the value that is not there is missed. What was taken back is not.
    fn has_lost(&self) -> bool {
        self.status.serial.is_some() && self.status.state != Some(ApiTokenState::Suspended)
    }

    fn note_loss(&mut self) {
        if self.has_lost() {
            self.note_replacement();
        }
    }

    /// The value of the current term, under the next number.
    fn mint(
        mut self,
        native: &Native,
        audiences: Vec<String>,
        into: Option<Held>,
        empty: bool,
        dress: Dress,
        mut steps: Vec<Step>,
    ) -> Plan {
        let Some(account) = native.account.clone() else {
            return Plan { steps, status: None, wake: None };
        };
        let serial = self.status.serial.map_or(0, |serial| serial.saturating_add(1));
        self.status.serial = Some(serial);
        self.status.term = self.term;
        self.status.issued_at = Some(seconds(self.now).into());
        self.status.credential_uid.clone_from(&self.credential.metadata.uid);
        let credential = self.credential.metadata.uid.clone().unwrap_or_default();
        let order = Order { account, credential, audiences, end: self.end_of(self.term) };
        let name = self.secret_name();
        let recipe = MintRecipe { name, serial, term: self.term, order, into, empty, dress };
        steps.push(Step::Mint(Box::new(recipe)));
        self.there(steps, None, None)
    }

    fn there(self, steps: Vec<Step>, life: Option<Life>, hindrance: Option<Hindrance>) -> Plan {
        let end = self.end_of(self.status.term);
        let wakes = [
            Some(end),
            self.terms.followed_at(self.status.term),
            self.terms.over_at(),
            self.credential_end,
            life.and_then(|life| life.followed_at(end)),
            life.map(|life| life.expires_at),
            hindrance.as_ref().and_then(|hindrance| hindrance.again),
        ];
        let wake = wakes.into_iter().flatten().filter(|at| *at > self.now).min();
        let lives = life.is_none_or(|life| self.now < life.expires_at.min(end));
        let ready = format!("Secret {} holds the token", self.secret_name());
        let accepted = "the API server accepts the token until its end".to_owned();
        let (state, findings) = if self.observed.is_refused_by_policy() {
            let say = "the credential violates a policy; its roles are unbound wherever this operator works, so that the token may \
                       do nothing there";
            let both = [(ConditionType::Ready, true, ready), (ConditionType::Usable, false, say.to_owned())];
            let findings = both.map(|(kind, holds, say)| finding(kind, holds, Reason::PolicyViolation, say));
            (ApiTokenState::Suspended, findings.into())
        } else if let Some(Hindrance { reason, say, .. }) = hindrance {
            let say = format!("the value is not followed by another: {say}");
            let stalled = reason != Reason::Pending;
            let (why, usable) = if lives { (Reason::Issued, accepted) } else { (reason, say.clone()) };
            let state = if lives { ApiTokenState::Active } else { ApiTokenState::Failed };
            let findings = vec![
                finding(ConditionType::Ready, false, reason, say.clone()),
                finding(ConditionType::Usable, lives, why, usable),
                finding(ConditionType::Reconciling, !stalled, reason, say.clone()),
                finding(ConditionType::Stalled, stalled, reason, say),
            ];
            (state, findings)
        } else {
            let findings = vec![
                finding(ConditionType::Ready, true, Reason::Issued, ready),
                finding(ConditionType::Usable, lives, Reason::Issued, accepted),
            ];
            (ApiTokenState::Active, findings)
        };
        let status = ApiTokenStatus { expires_at: Some(end.into()), ..self.status };
        Plan { steps, status: Some(state_of(self.observed, status, state, findings, self.now)), wake }
    }
}

fn held(own: &OwnSecret) -> Held {
    Held {
        secret: ObjectReference::clone(&own.reference),
        resource_version: own.resource_version.clone(),
        own: !own.owned,
    }
}
