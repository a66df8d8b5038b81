//! What is to be done about a credential's material, from what was observed and the time.
//!
//! Pure and infallible. The law above all others: no step takes away the only copy of a value, but where its end, a
//! rotation or a user's own deletion wants that.

mod fill;
mod kubeconfig;
mod once;
mod spacing;
mod step;
mod trouble;

use std::collections::BTreeMap;

use jiff::Timestamp;

use self::trouble::edited;
pub use self::{
    kubeconfig::{MintRecipe, told_of},
    step::{Content, Mend, Recipe, Step},
    trouble::Trouble,
};
use super::{OwnSecret, SecretSeen, Seen, SourceSeen, secret_name};
use crate::{
    api::{
        Credential, Instant, Lifetime, Reason,
        condition::seconds,
        credential::{DesiredState, MaterialStatus, ObjectReference, PreviousMaterial},
    },
    controller::dress::{self, Dress},
    domain::{
        digest::MaterialAttestation,
        material::{self, Entries, Kind, cost},
        name,
    },
};

/// What to do about material, and what to say of it.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The writes before the status, in their order.
    pub steps: Vec<Step>,
    /// The Secret, for the status; filled in by what is published.
    pub secret: Option<ObjectReference>,
    /// The material, for the status; filled in by what is published.
    pub material: Option<MaterialStatus>,
    /// What is wrong.
    pub trouble: Option<Trouble>,
    /// When to decide again though nothing happened.
    pub wake: Option<Timestamp>,
    /// Whether to decide again at once when all of this is done.
    pub again: bool,
}

/// Whether there is to be material.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// There is.
    Yes,
    /// No more: the credential has ended, or is being deleted.
    No,
    /// Nothing is revived and nothing destroyed: the status says that the credential has ended, and its end is yet to come (a clock was
    /// set back, or the status was edited); or the credential is being deleted, and garbage collection deletes its Secret.
    Untouched,
}

/// Decides; `held`: why nothing new may be published.
#[must_use]
pub fn plan(
    credential: &Credential,
    seen: &Seen,
    wanted: Wanted,
    held: Option<Trouble>,
    now: Timestamp,
) -> Plan {
    let Some(kind) = material::kind(credential.spec.credential_type) else {
        return Plan::default();
    };
    let before = credential.status.clone().unwrap_or_default();
    let decision = Decision {
        credential,
        seen,
        kind,
        held,
        now,
        name: secret_name(credential),
        before: before.material.unwrap_or_default(),
        recorded: before.secret,
    };
    match wanted {
        Wanted::Yes => decision.published(),
        Wanted::No => decision.ended(),
        Wanted::Untouched => {
            let material = decision.told_before();
            // It may have gone at the end, before a clock that was set back.
            let gone = matches!(seen.secret, SecretSeen::Absent) && seen.former.is_none();
            Plan { secret: decision.recorded.filter(|_| !gone), material, ..Plan::default() }
        }
    }
}

struct Decision<'a> {
    credential: &'a Credential,
    seen: &'a Seen,
    kind: &'static Kind,
    held: Option<Trouble>,
    now: Timestamp,
    name: String,
    before: MaterialStatus,
    recorded: Option<ObjectReference>,
}

impl Decision<'_> {
    /// The value must not outlive the credential.
    fn ended(&self) -> Plan {
        let own = match &self.seen.secret {
            SecretSeen::Ours(own) => Some(own.reference.clone()),
            // Its finalizers are still to be reported, or removed.
            SecretSeen::Terminating(own) => own.clone(),
            SecretSeen::Absent | SecretSeen::Predecessors | SecretSeen::Foreign => None,
        };
        let former = self.seen.former.iter().map(|(own, _)| own.reference.clone());
        let strays = self.seen.strays.iter().map(|(stray, _)| stray.clone());
        let former = former.filter(|former| strays.clone().all(|stray| stray != *former));
        let all = own.into_iter().chain(former).chain(strays.clone());
        let steps = all.map(|secret| Step::Delete { secret, resource_version: None }).collect();
        let material = self.told_before();
        let ended =
            |material| MaterialStatus { rotates_at: None, previous: None, validity: None, ..material };
        Plan { steps, material: material.map(ended), ..Plan::default() }
    }

    fn told_before(&self) -> Option<MaterialStatus> {
        Some(self.before.clone()).filter(|material| *material != MaterialStatus::default())
    }

    fn published(&self) -> Plan {
        if let Some(native) = &self.seen.native {
            return self.minted(native);
        }
        if self.was_drawn_once() {
            return self.once();
        }
        if !self.seen.key_known {
            return self.stays(Trouble {
                reason: Reason::KeyringMissing,
                message: "the key of the material's digest is not in the keyring, so nothing is done with it; put the \
                          keyring back"
                    .to_owned(),
                waits_for_others: false,
            });
        }
        match &self.seen.secret {
            SecretSeen::Foreign | SecretSeen::Terminating(_) | SecretSeen::Predecessors => self.in_the_way(),
            SecretSeen::Absent => match &self.seen.former {
                Some((former, entries)) => self.renamed(former, entries),
                None => self.fill(None, None),
            },
            SecretSeen::Ours(own) => self.kept(own),
        }
    }

    /// There can be no Secret of ours yet.
    fn in_the_way(&self) -> Plan {
        match &self.seen.secret {
            SecretSeen::Foreign => self.stays(Trouble {
                reason: Reason::Conflict,
                message: format!(
                    "Secret {} exists and is not this credential's; delete it if it is not needed, or set another \
                     spec.secret.name; it was not touched",
                    self.name
                ),
                waits_for_others: true,
            }),
            SecretSeen::Terminating(_) => {
                let say = format!("Secret {} is being deleted; waiting for that", self.name);
                self.stays(Trouble { reason: Reason::Pending, message: say, waits_for_others: true })
            }
            SecretSeen::Predecessors => {
                let say = format!(
                    "Secret {} belongs to an earlier Credential of this name; waiting for its garbage collection",
                    self.name
                );
                self.stays(Trouble { reason: Reason::Pending, message: say, waits_for_others: true })
            }
            SecretSeen::Absent | SecretSeen::Ours(_) => Plan::default(),
        }
    }

    /// Nothing is done, and what was said of the material stays.
    fn stays(&self, trouble: Trouble) -> Plan {
        let material = self.told_before();
        Plan { secret: self.recorded.clone(), material, trouble: Some(trouble), ..Plan::default() }
    }

    /// The Secret of the new name is made first. The status names the old one until then, and it is deleted after.
    fn renamed(&self, former: &OwnSecret, entries: &Entries) -> Plan {
        let Some(attestation) = &former.attested else {
            return self.stays(edited(&former.reference.name));
        };
        let recipe = Recipe {
            name: self.name.clone(),
            into: None,
            content: Content::Copied(entries.clone()),
            wish: String::new(),
            attestation: attestation.clone(),
            dress: self.dress(),
            recipients: None,
            once: false,
        };
        // Once the status names the new one, the old one is known only by what it says itself.
        let labelled =
            former.labels.get(name::MANAGED_BY_LABEL).is_some_and(|value| value == name::MANAGED_BY);
        let known = former.owned && labelled;
        let mend = if known { None } else { self.mend(former, attestation, false) };
        let mut steps: Vec<_> = mend.map(|mend| Step::Mend(Box::new(mend))).into_iter().collect();
        steps.push(Step::Publish(Box::new(recipe)));
        Plan {
            steps,
            secret: self.recorded.clone(),
            material: Some(self.before.clone()),
            again: true,
            ..Plan::default()
        }
    }

    /// The Secret is there, and is ours.
    fn kept(&self, own: &OwnSecret) -> Plan {
        // We may have died more than once before the status was written; an earlier value was put back by somebody.
        // A digest covers its serial: where the status has the digest and another serial, the status was edited.
        let fits = |attestation: &&MaterialAttestation| {
            self.before.serial.is_none_or(|serial| attestation.serial() >= serial)
                || self.before.digest == attestation.material.digest
        };
        let Some(attestation) = own.attested.as_ref().filter(fits) else {
            return self.stays(edited(&own.reference.name));
        };
        let told = told(attestation.material.clone(), self.credential, self.kind, self.now);
        let due = match &self.seen.options {
            Err(_) => false,
            Ok(options) => self.is_due(&told, options),
        };
        let moved = self.recorded.as_ref().is_some_and(|recorded| recorded.name != own.reference.name);
        // Only once the status names this one: until then, whoever changes the name again finds the material by the other.
        let strays: Vec<_> = if moved { Vec::new() } else { self.strays(None).collect() };
        let postponed = self.postponed_until(Some(&told)).filter(|_| due);
        if due && !moved && self.held.is_none() && postponed.is_none() {
            let mut filled = self.fill(Some((own, attestation)), Some(&told));
            // Before, for a copy of what is replaced is not to be met under a name that is given back.
            filled.steps.splice(0..0, strays);
            return filled;
        }
        let held = self.held.clone().filter(|_| due);
        let held = held.or_else(|| postponed.map(|until| self.postponed(until)));
        let trouble = held.or_else(|| self.complaint(&told));
        let told = MaterialStatus { validity: self.validity(&told), ..told };
        let mut steps = Vec::new();
        steps.extend(self.mend(own, attestation, moved).map(|mend| Step::Mend(Box::new(mend))));
        steps.extend(strays);
        let wake = self.wake(&told, postponed);
        let secret = Some(own.reference.clone());
        Plan { steps, secret, material: Some(told), trouble, wake, again: moved }
    }

    /// Whatever else holds values of this credential, each in its version.
    fn strays(&self, but: Option<ObjectReference>) -> impl Iterator<Item = Step> {
        let strays = self.seen.strays.iter().filter(move |(stray, _)| Some(stray) != but.as_ref());
        strays.map(|(stray, version)| Step::Delete {
            secret: stray.clone(),
            resource_version: Some(version.clone()),
        })
    }

    /// When something of the material changes by time alone.
    fn wake(&self, told: &MaterialStatus, more: Option<Timestamp>) -> Option<Timestamp> {
        let previous_end = told.previous.as_ref().map(|previous| &previous.expires_at);
        let instants = [told.rotates_at.as_ref(), told.expires_at.as_ref(), previous_end];
        let instants = instants.into_iter().flatten().filter_map(|at| at.timestamp().ok());
        instants.chain(more).filter(|at| *at > self.now).min()
    }

    /// Whether what is published is to be replaced.
    fn is_due(&self, told: &MaterialStatus, options: &str) -> bool {
        if self.credential.spec.state == DesiredState::Inactive {
            return false;
        }
        if self.credential.spec.provided.is_some() {
            return matches!(&self.seen.source, SourceSeen::Changed { checked: Ok(_), .. });
        }
        let rotation = self.credential.spec.rotation.clone().unwrap_or_default();
        let asked = requested(self.credential);
        told.options.as_deref() != Some(options)
            || rotation.revision.is_some_and(|revision| revision != told.revision.unwrap_or_default())
            || (asked.is_some() && asked != told.rotation_answered)
            || told
                .rotates_at
                .as_ref()
                .map(Instant::timestamp)
                .and_then(Result::ok)
                .is_some_and(|at| at <= self.now)
    }

    fn dress(&self) -> Dress {
        dress::changes(&BTreeMap::new(), &BTreeMap::new(), self.credential.spec.secret.as_ref())
    }

    /// What is taken up under the name of now is written to in any case: to delete it may be under way still, by who knew
    /// it as one that is needed no more, and only in the version that was seen then.
    fn mend(&self, own: &OwnSecret, attestation: &MaterialAttestation, taken_up: bool) -> Option<Mend> {
        let taken_up = self.credential.metadata.generation.filter(|_| taken_up).or(attestation.taken_up);
        let dress = dress::changes(&own.labels, &own.annotations, self.credential.spec.secret.as_ref());
        let wished = material::plain(&self.credential.spec);
        let mut plain = BTreeMap::new();
        if wished != attestation.plain || !own.plain_intact {
            let gone = attestation.plain.keys().filter(|key| !wished.contains_key(*key));
            plain.extend(gone.map(|key| (key.clone(), None)));
            plain.extend(wished.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
        }
        let unsaid = attestation.proof.is_empty() || !plain.is_empty() || taken_up != attestation.taken_up;
        let attest = unsaid.then(|| MaterialAttestation { plain: wished, taken_up, ..attestation.clone() });
        let needed = !own.owned || !dress.is_empty() || attest.is_some();
        needed.then(|| Mend {
            secret: own.reference.clone(),
            resource_version: own.resource_version.clone(),
            dress,
            own: !own.owned,
            plain,
            attest,
        })
    }
}

/// What the status tells of material that is published: what the operator said of it then, and what follows from the
/// spec since.
#[must_use]
fn told(material: MaterialStatus, credential: &Credential, kind: &Kind, now: Timestamp) -> MaterialStatus {
    let over = |previous: &PreviousMaterial| previous.expires_at.timestamp().map_or(true, |end| end <= now);
    let rotates_at = rotates_at(&material, credential, kind);
    MaterialStatus {
        previous: material.previous.clone().filter(|previous| !over(previous)),
        rotates_at: rotates_at.map(Into::into),
        ..material
    }
}

fn rotates_at(material: &MaterialStatus, credential: &Credential, kind: &Kind) -> Option<Timestamp> {
    let generated = kind.generated.as_ref().filter(|_| credential.spec.provided.is_none())?;
    let issued_at = material.issued_at.as_ref()?.timestamp().ok()?;
    let every = credential.spec.rotation.as_ref().and_then(|rotation| rotation.every.as_ref());
    let every = every.map(Lifetime::duration).and_then(Result::ok);
    let every = every.map(|every| every.max(cost::shortest_period(&credential.spec)));
    // Soon enough that whoever reads the Secret has the new one before the old one ends.
    let two_thirds = (generated.lasts)(&credential.spec).map(|lasts| lasts / 3 * 2);
    let due = every.into_iter().chain(two_thirds).min().and_then(|after| issued_at.checked_add(after).ok());
    // The end of a client secret was fixed when it was drawn. Where `every` was raised or taken away since, it is rotated
    // before that end all the same.
    let end = material.expires_at.as_ref().filter(|_| generated.bearer).and_then(|end| end.timestamp().ok());
    match end {
        Some(end) if due.is_none_or(|due| due > end) => {
            let overlap = credential.spec.rotation.as_ref().and_then(|rotation| rotation.overlap.as_ref());
            let overlap = overlap.map(Lifetime::duration).and_then(Result::ok).unwrap_or_default();
            Some(end.checked_sub(overlap).unwrap_or(end).max(issued_at))
        }
        _ => due,
    }
}

fn requested(credential: &Credential) -> Option<String> {
    credential.metadata.annotations.as_ref()?.get(name::ROTATE_ANNOTATION).cloned()
}

#[cfg(test)]
mod tests;
