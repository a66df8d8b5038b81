//! Delivered once: the value is in a Secret for a while, and then nowhere.
//!
//! That it was delivered is said before its Secret is deleted. From then on, and once its Secret is gone by whomever, no
//! Secret is made for this value again; only the next value, if the token renews, has another.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    ApiToken, Content, DeliveryMode, Live, Observed, OwnSecret, Plan, Reason, SecretSeen, Step,
    delete_secret, delivery, dress, name, seconds,
};

/// Whether a token's values are delivered once.
#[must_use]
pub fn is_once(token: &ApiToken) -> bool {
    delivery::mode(token.spec.delivery.as_ref()) == DeliveryMode::Once
}

impl Live<'_> {
    pub(super) fn is_once(&self) -> bool {
        is_once(&self.observed.token)
    }

    /// Whether there is a value already that the status does not tell of, or was one.
    pub(super) fn is_unrecorded(&self) -> bool {
        self.observed.unsaid.is_some()
            || matches!(&self.observed.secret, SecretSeen::Ours(secret) if matches!(secret.content, Content::Attested(_)))
    }

    pub(super) fn issued_at(&self) -> Option<Timestamp> {
        self.status.issued_at.as_ref().and_then(|at| at.timestamp().ok())
    }

    /// When the value is kept no longer. By the operator's own clock, as all ends are: it may differ from that by which the
    /// API server tells when a Secret was created.
    pub(super) fn closes_at(&self) -> Option<Timestamp> {
        delivery::closes_at(self.observed.token.spec.delivery.as_ref(), self.issued_at().unwrap_or(self.now))
    }

    /// There is a value, or was one.
    pub(super) fn once(mut self, look_again: Option<Timestamp>) -> Plan {
        let observed = self.observed;
        let own = match &observed.secret {
            SecretSeen::Ours(own) => Some(&**own),
            SecretSeen::Absent
            | SecretSeen::Terminating(_)
            | SecretSeen::Predecessors
            | SecretSeen::Foreign => None,
        };
        if let Some((own, Content::Attested(attestation))) = own.map(|own| (own, &own.content)) {
            self.adopt(Some(&own.reference), attestation);
        }
        if let Some(unsaid) = &observed.unsaid {
            self.adopt(None, unsaid);
        }
        if self.is_due() && self.held_back.is_none() {
            return self.next_once(own, look_again);
        }
        let Some(own) = own.filter(|own| self.is_open(own)) else {
            return self.delivered(own);
        };
        self.closes_at = self.closes_at();
        match &own.content {
            Content::Unattested(value) => self.keep(own, Some(value)),
            Content::Recorded
            | Content::Attested(_)
            | Content::Minted(_)
            | Content::Empty
            | Content::Strange => self.keep(own, None),
        }
    }

    /// Whether the value is still to be read in this Secret.
    fn is_open(&self, own: &OwnSecret) -> bool {
        let closes_at = self.closes_at();
        self.status.delivered_at.is_none()
            && matches!(own.content, Content::Recorded | Content::Unattested(_) | Content::Attested(_))
            && !self.is_acknowledged()
            && closes_at.is_some_and(|at| self.now < at)
    }

    fn is_acknowledged(&self) -> bool {
        let annotations = self.observed.token.metadata.annotations.as_ref();
        let acknowledged = annotations.and_then(|all| all.get(name::ACKNOWLEDGED_ANNOTATION));
        acknowledged.is_some() && acknowledged == self.status.token_id.as_ref()
    }

    /// The value goes on without a Secret.
    fn delivered(mut self, own: Option<&OwnSecret>) -> Plan {
        let steps = self.part_with(own);
        self.status.secret = None;
        self.issued(steps)
    }

    /// Says that the value is delivered, then deletes the Secret that still holds it.
    fn part_with(&mut self, own: Option<&OwnSecret>) -> Vec<Step> {
        self.status.delivered_at.get_or_insert_with(|| seconds(self.now).into());
        let Some(own) = own else { return self.say_then(delete_secret(&self.observed.secret)) };
        let strange = matches!(own.content, Content::Strange);
        if !strange {
            // What is not known must not become so by being told of.
            self.status.secret = Some(own.reference.clone());
        }
        self.say_then(vec![Step::DeleteSecret {
            secret: own.reference.clone(),
            // What somebody put there is what was looked at, or is looked at again.
            resource_version: strange.then(|| own.resource_version.clone()),
        }])
    }

    /// Writes the status before these steps, if there are any and it is not written yet.
    fn say_then(&self, then: Vec<Step>) -> Vec<Step> {
        if then.is_empty() {
            return then;
        }
        let said = self.observed.token.status.as_ref();
        let mut steps = Vec::new();
        let say = self.clone().issued(Vec::new()).status;
        if say.as_ref() != said {
            steps.extend(say.map(Box::new).map(Step::Say));
        }
        steps.extend(then);
        steps
    }

    /// It is time for the value of the next term, which has a Secret and a window of its own.
    fn next_once(mut self, own: Option<&OwnSecret>, look_again: Option<Timestamp>) -> Plan {
        let in_the_way = match &self.observed.secret {
            SecretSeen::Absent | SecretSeen::Ours(_) => None,
            SecretSeen::Terminating(_) => {
                Some((Reason::Pending, "is being deleted; the next value waits for that"))
            }
            SecretSeen::Predecessors => Some((
                Reason::Pending,
                "belongs to an earlier ApiToken of this name; the next value waits for its garbage collection",
            )),
            SecretSeen::Foreign => Some((
                Reason::Conflict,
                "exists and is not this token's; delete it if it is not needed; it was not touched",
            )),
        };
        if let Some((reason, say)) = in_the_way {
            self.held_back = Some((reason, format!("Secret {} {say}", self.secret_name())));
            let plan = self.delivered(None);
            return Plan { wake: look_again.into_iter().chain(plan.wake).min(), ..plan };
        }
        let mut steps = if own.is_some() { self.part_with(own) } else { Vec::new() };
        self.status.previous = self.outlasting_now();
        let none = BTreeMap::new();
        let dress = dress::changes(&none, &none, self.observed.token.spec.secret.as_ref());
        steps.push(Step::CreateSecret(self.next_value(dress)));
        self.issued(steps)
    }
}

/// Nobody can tell what the Secret of this token holds; it goes with the window all the same.
pub(super) fn closed(observed: &Observed, plan: Plan, now: Timestamp) -> Plan {
    let Some(mut status) = plan.status.clone() else { return plan };
    let issued_at = status.issued_at.as_ref().and_then(|at| at.timestamp().ok());
    let closes_at = delivery::closes_at(observed.token.spec.delivery.as_ref(), issued_at.unwrap_or(now));
    let Some(closes_at) = closes_at else { return plan };
    let SecretSeen::Ours(own) = &observed.secret else {
        status.delivered_at.get_or_insert_with(|| seconds(now).into());
        status.secret = None;
        return Plan { steps: delete_secret(&observed.secret), status: Some(status), ..plan };
    };
    let said = observed.token.status.as_ref().is_some_and(|status| status.delivered_at.is_some());
    if !said && now < closes_at {
        // What was not told, or cannot be read, counts from now.
        status.issued_at = issued_at.map_or_else(|| Some(seconds(now).into()), |_| status.issued_at.take());
        let wake = plan.wake.into_iter().chain([closes_at]).min();
        return Plan { status: Some(status), wake, ..plan };
    }
    status.delivered_at.get_or_insert_with(|| seconds(now).into());
    let mut steps = plan.steps;
    if !said {
        steps.push(Step::Say(Box::new(status.clone())));
    }
    steps.push(Step::DeleteSecret { secret: own.reference.clone(), resource_version: None });
    status.secret = None;
    Plan { steps, status: Some(status), wake: plan.wake }
}
