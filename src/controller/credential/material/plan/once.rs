//! Material that is delivered once: in its Secret for a while, and then nowhere, until it is drawn anew.
//!
//! That it was delivered is said in one round, and its Secret is deleted in the next. From then on, and once its Secret is
//! gone by whomever, no Secret is made for this value again.

use jiff::Timestamp;

use super::{
    Decision, Instant, MaterialStatus, OwnSecret, Plan, Reason, SecretSeen, Step, Trouble, name, seconds,
    told,
};
use crate::{api::DeliveryMode, domain::delivery};

impl Decision<'_> {
    /// Whether there is a value that is delivered once, or was one.
    pub(super) fn was_drawn_once(&self) -> bool {
        let delivery = self.credential.spec.delivery.as_ref();
        delivery::mode(delivery) == DeliveryMode::Once
            && (self.before.serial.is_some() || self.own().is_some_and(|own| own.attested.is_some()))
    }

    /// The Secret that holds the value, under whichever name: another one is for the next value.
    fn own(&self) -> Option<&OwnSecret> {
        match &self.seen.secret {
            SecretSeen::Ours(own) => Some(own),
            SecretSeen::Absent
            | SecretSeen::Terminating(_)
            | SecretSeen::Predecessors
            | SecretSeen::Foreign => self.seen.former.as_ref().map(|(own, _)| own),
        }
    }

    /// Deletes the Secret that is being deleted already: its finalizers are still to be reported, or removed.
    fn still_held(&self) -> Option<Step> {
        let SecretSeen::Terminating(Some(secret)) = &self.seen.secret else { return None };
        Some(Step::Delete { secret: secret.clone(), resource_version: None })
    }

    /// The material of now: the one in the Secret, if that is the latest.
    fn current(&self) -> MaterialStatus {
        let latest = |serial: i64| self.before.serial.is_none_or(|before| serial >= before);
        let attested = self.own().and_then(|own| own.attested.as_ref());
        let material = match attested.filter(|said| latest(said.serial())) {
            Some(said) if self.before.serial == Some(said.serial()) => {
                let delivered_at = self.before.delivered_at.clone();
                MaterialStatus { delivered_at, ..said.material.clone() }
            }
            Some(said) => said.material.clone(),
            None => self.before.clone(),
        };
        let told = told(material, self.credential, self.kind, self.now);
        MaterialStatus { validity: self.validity(&told), ..told }
    }

    pub(super) fn once(&self) -> Plan {
        let current = self.current();
        let due = match &self.seen.options {
            Err(_) => false,
            Ok(options) => self.seen.key_known && self.is_due(&current, options),
        };
        let postponed = self.postponed_until(Some(&current)).filter(|_| due);
        let held = self.held.clone().filter(|_| due);
        let held = held.or_else(|| postponed.map(|until| self.postponed(until)));
        let trouble = held.or_else(|| self.complaint(&current));
        let due = due && self.held.is_none() && postponed.is_none();
        let own = self.own();
        if current.delivered_at.is_none() {
            if let Some(own) = own.filter(|own| !due && self.is_open(own, &current)) {
                return self.open(own, current, trouble);
            }
            // Said first. What still holds it goes when this is known.
            let delivered_at = Some(seconds(self.now).into());
            let material = Some(MaterialStatus { delivered_at, ..current });
            let secret = own.map(|own| own.reference.clone());
            // An adopted Secret is recognized later only by its owner reference.
            let adopted = own.filter(|own| !own.owned).and_then(|own| Some((own, own.attested.as_ref()?)));
            let mend = adopted.and_then(|(own, said)| self.mend(own, said, false));
            let steps = mend.map(|mend| Step::Mend(Box::new(mend))).into_iter().collect();
            return Plan { steps, secret, material, trouble, again: true, ..Plan::default() };
        }
        let strays = self.strays(own.map(|own| own.reference.clone()));
        let own = own.map(|own| Step::Delete {
            secret: own.reference.clone(),
            resource_version: own.attested.is_none().then(|| own.resource_version.clone()),
        });
        let steps: Vec<_> = own.into_iter().chain(self.still_held()).chain(strays).collect();
        if due && steps.is_empty() {
            return self.next(&current);
        }
        let wake = self.wake(&current, postponed);
        Plan { steps, material: Some(current), trouble, wake, again: due, ..Plan::default() }
    }

    fn is_open(&self, own: &OwnSecret, current: &MaterialStatus) -> bool {
        let latest = own.attested.as_ref().is_some_and(|said| Some(said.serial()) == current.serial);
        latest && !self.is_acknowledged(current) && self.closes_at(current).is_some_and(|at| self.now < at)
    }

    /// By the public id of the material, or, where it has none, by its number.
    fn is_acknowledged(&self, current: &MaterialStatus) -> bool {
        let annotations = self.credential.metadata.annotations.as_ref();
        let acknowledged = annotations.and_then(|all| all.get(name::ACKNOWLEDGED_ANNOTATION));
        let id = current.id.clone().or_else(|| current.serial.map(|serial| serial.to_string()));
        acknowledged.is_some() && acknowledged == id.as_ref()
    }

    fn closes_at(&self, current: &MaterialStatus) -> Option<Timestamp> {
        let issued_at = current.issued_at.as_ref().map(Instant::timestamp).and_then(Result::ok);
        delivery::closes_at(self.credential.spec.delivery.as_ref(), issued_at?)
    }

    /// The value is in its Secret still.
    fn open(&self, own: &OwnSecret, current: MaterialStatus, trouble: Option<Trouble>) -> Plan {
        let mend = own.attested.as_ref().and_then(|said| self.mend(own, said, false));
        let mend = mend.map(|mend| Step::Mend(Box::new(mend)));
        let steps = mend.into_iter().chain(self.strays(Some(own.reference.clone()))).collect();
        let wake = self.wake(&current, self.closes_at(&current));
        let secret = Some(own.reference.clone());
        Plan { steps, secret, material: Some(current), trouble, wake, again: false }
    }

    /// The next value, in a Secret of its own.
    fn next(&self, current: &MaterialStatus) -> Plan {
        let (reason, say) = match &self.seen.secret {
            SecretSeen::Absent | SecretSeen::Ours(_) => return self.fill(None, Some(current)),
            SecretSeen::Terminating(_) => {
                (Reason::Pending, "is being deleted; the next value waits for that")
            }
            SecretSeen::Predecessors => (
                Reason::Pending,
                "belongs to an earlier Credential of this name; the next value waits for its garbage collection",
            ),
            SecretSeen::Foreign => (
                Reason::Conflict,
                "exists and is not this credential's; delete it if it is not needed, or set another spec.secret.name; it was \
                 not touched",
            ),
        };
        let message = format!("Secret {} {say}", self.name);
        let trouble = Trouble { reason, message, waits_for_others: true };
        Plan { material: Some(current.clone()), trouble: Some(trouble), ..Plan::default() }
    }
}
