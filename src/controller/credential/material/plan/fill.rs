//! New material.

use jiff::{SignedDuration, Timestamp};

use super::{
    Content, Decision, OwnSecret, Plan, Recipe, SourceSeen, Step, Trouble, requested, told,
    trouble::{issuer, missing, of, provided},
};
use crate::{
    api::{
        DeliveryMode, Lifetime, Reason,
        condition::seconds,
        credential::{DesiredState, MaterialStatus, PreviousMaterial, Validity},
    },
    controller::dress,
    domain::{
        delivery,
        digest::MaterialAttestation,
        material::{self, Problem},
        sealed::Recipients,
    },
};

/// A Secret that somebody deletes again and again is not filled more often than this.
const DRAW_AT_MOST_EVERY: SignedDuration = SignedDuration::from_mins(1);

impl Decision<'_> {
    /// New material, into a new Secret or in place of what is there, after the one that is replaced.
    pub(super) fn fill(
        &self,
        held: Option<(&OwnSecret, &MaterialAttestation)>,
        replaced: Option<&MaterialStatus>,
    ) -> Plan {
        let options = match &self.seen.options {
            Ok(options) => options.clone(),
            Err(problem) => {
                return self.stays(of(problem));
            }
        };
        if self.credential.spec.state == DesiredState::Inactive {
            return Plan { material: self.told_before(), ..Plan::default() };
        }
        if let Some(held) = &self.held {
            return self.stays(held.clone());
        }
        let content = match &self.seen.source {
            SourceSeen::Unasked if self.kind.generated.is_some() => Content::Drawn,
            SourceSeen::Changed { version, entries, checked: Ok(facts) } => {
                let (version, entries, facts) = (version.clone(), entries.clone(), facts.clone());
                Content::Provided { version, entries, facts }
            }
            SourceSeen::Changed { checked: Err(problem), .. } => {
                return self.stays(provided(self.credential, problem));
            }
            SourceSeen::Unasked | SourceSeen::Missing | SourceSeen::Published => {
                return self.stays(missing(self.credential));
            }
        };
        if self.seen.issuer.is_none()
            && issuer(self.credential).is_some()
            && matches!(content, Content::Drawn)
        {
            return self.stays(missing(self.credential));
        }
        if held.is_none()
            && self.recorded.is_some()
            && let Some(again_at) = self.again_at()
        {
            return self.filled_again_at(again_at);
        }
        if let Some(until) = self.postponed_until(replaced) {
            return Plan { wake: Some(until), ..self.stays(self.postponed(until)) };
        }
        let wished = delivery::recipients(self.credential.spec.delivery.as_ref());
        let recipients = wished.map(Recipients::new).transpose();
        let recipients = match recipients {
            Ok(recipients) => recipients,
            Err(error) => return self.stays(of(&Problem::Options(error.to_string()))),
        };
        // What others can open is not to go on beside what they cannot.
        let sealed = held.and_then(|(_, attestation)| attestation.sealed.as_ref());
        let for_others =
            sealed.map(|sealed| &sealed.recipients) != recipients.as_ref().map(Recipients::mark).as_ref();
        let attestation = self.attestation(&options, replaced, held.is_some() && for_others);
        // What digest, id and fingerprint are, only publishing tells.
        let material = told(attestation.material.clone(), self.credential, self.kind, self.now);
        let validity = self.credential.spec.provided.as_ref().map(|_| Validity::Valid);
        let recipe = Recipe {
            name: self.name.clone(),
            into: held.map(|(own, attestation)| {
                let keys = attestation.keys.iter().chain(attestation.plain.keys()).cloned().collect();
                (own.reference.clone(), own.resource_version.clone(), keys)
            }),
            content,
            wish: self.wish(&attestation.material),
            dress: held.map_or_else(
                || self.dress(),
                |(own, ..)| {
                    dress::changes(&own.labels, &own.annotations, self.credential.spec.secret.as_ref())
                },
            ),
            attestation,
            recipients,
            once: delivery::mode(self.credential.spec.delivery.as_ref()) == DeliveryMode::Once,
        };
        // A Secret of another name goes once this one is recorded.
        Plan {
            steps: vec![Step::Publish(Box::new(recipe))],
            secret: held.map(|(own, ..)| own.reference.clone()),
            material: Some(MaterialStatus { validity, ..material }),
            again: true,
            ..Plan::default()
        }
    }

    pub(super) fn filled_again_at(&self, again_at: Timestamp) -> Plan {
        let message = format!(
            "Secret {} was deleted soon after it was filled; it is filled again at {again_at}, not more than once a \
             minute",
            self.name
        );
        let trouble = Trouble { reason: Reason::Pending, message, waits_for_others: false };
        Plan { wake: Some(again_at), ..self.stays(trouble) }
    }

    pub(super) fn again_at(&self) -> Option<Timestamp> {
        let issued_at = self.before.issued_at.as_ref()?.timestamp().ok()?;
        let again_at = issued_at.checked_add(DRAW_AT_MOST_EVERY).ok()?;
        // A clock that was set back must not hold it up for long.
        (again_at > self.now && again_at.duration_since(self.now) <= DRAW_AT_MOST_EVERY).then_some(again_at)
    }

    pub(super) fn attestation(
        &self,
        options: &str,
        replaced: Option<&MaterialStatus>,
        refuses_it: bool,
    ) -> MaterialAttestation {
        let rotation = self.credential.spec.rotation.clone().unwrap_or_default();
        let issued_at = seconds(self.now);
        let after = |life: &Option<Lifetime>| life.as_ref().map(Lifetime::duration).and_then(Result::ok);
        // A client secret alone is told when it ends: nobody else would act on it (a certificate says it itself).
        let tells = self.kind.generated.as_ref().is_some_and(|generated| generated.bearer);
        let overlap = after(&rotation.overlap).filter(|_| tells);
        let end = after(&rotation.every)
            .filter(|_| tells)
            .and_then(|every| issued_at.checked_add(every + overlap.unwrap_or_default()).ok());
        let previous = replaced.zip(overlap).filter(|_| !refuses_it).and_then(|(replaced, overlap)| {
            let own_end = replaced.expires_at.as_ref().and_then(|end| end.timestamp().ok());
            let until = own_end.into_iter().chain(issued_at.checked_add(overlap).ok()).min()?;
            Some(PreviousMaterial {
                serial: replaced.serial?,
                id: replaced.id.clone()?,
                digest: replaced.digest.clone()?,
                expires_at: until.into(),
            })
        });
        let last = replaced.and_then(|replaced| replaced.serial).max(self.before.serial);
        MaterialAttestation {
            material: MaterialStatus {
                serial: Some(last.map_or(0, |serial| serial.saturating_add(1))),
                revision: rotation.revision.or(self.before.revision),
                rotation_answered: requested(self.credential)
                    .or_else(|| self.before.rotation_answered.clone()),
                options: Some(options.to_owned()),
                issued_at: Some(issued_at.into()),
                expires_at: end.map(Into::into),
                previous,
                ..MaterialStatus::default()
            },
            plain: material::plain(&self.credential.spec),
            ..MaterialAttestation::default()
        }
    }
}
