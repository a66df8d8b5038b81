//! Kubeconfigs: the API server mints the token in them, and accepts it as long as the Secret is there. So other than other
//! material it can be had anew at any time, and whatever takes it back takes its Secret away.

use jiff::Timestamp;

use super::{
    Content, Decision, OwnSecret, Plan, Recipe, SecretSeen, Step, Trouble, dress, requested, trouble::of,
};
use crate::{
    api::{
        Credential, Instant, Lifetime, Reason,
        credential::{DesiredState, MaterialStatus},
    },
    controller::mint::{Native, Order},
    domain::{digest::MaterialAttestation, material::kubeconfig, mint::Life},
};

/// How to have a kubeconfig minted.
#[derive(Clone, Debug)]
pub struct MintRecipe {
    /// How it is published.
    pub recipe: Recipe,
    /// What is asked for.
    pub order: Order,
    /// Whether the Secret that it goes into holds nothing yet.
    pub empty: bool,
}

impl Decision<'_> {
    pub(super) fn minted(&self, native: &Native) -> Plan {
        if self.credential.spec.state == DesiredState::Inactive {
            return self.taken_back();
        }
        match &self.seen.secret {
            SecretSeen::Foreign | SecretSeen::Terminating(_) | SecretSeen::Predecessors => self.in_the_way(),
            SecretSeen::Absent => self.mint(native, None, false, Vec::new()),
            SecretSeen::Ours(own) => {
                let fits = |said: &&MaterialAttestation| {
                    self.before.serial.is_none_or(|serial| said.serial() >= serial)
                        || self.before.digest == said.material.digest
                };
                match own.attested.as_ref().filter(fits) {
                    // Somebody may have what is in it, and means that it ends.
                    Some(said) if self.is_to_end(&said.material) => self.anew(native, own),
                    Some(said) if self.is_over(native, said) && self.hindrance(native).is_none() => {
                        self.mint(native, Some(own), false, Vec::new())
                    }
                    Some(said) => self.kept_minted(native, own, said),
                    None if own.empty => self.mint(native, Some(own), true, Vec::new()),
                    None => self.anew(native, own),
                }
            }
        }
    }

    /// The token goes with its Secret, and nothing is lost: another one is issued when the credential is active again.
    fn taken_back(&self) -> Plan {
        let plan = self.ended();
        let nothing =
            |told| MaterialStatus { id: None, digest: None, issued_at: None, expires_at: None, ..told };
        Plan { material: plan.material.map(nothing), ..plan }
    }

    /// In another Secret, so that what was minted before ends at once.
    fn anew(&self, native: &Native, own: &OwnSecret) -> Plan {
        if self.hindrance(native).is_some() && own.attested.is_some() {
            return self.stays_for(native);
        }
        let secret = own.reference.clone();
        let resource_version = Some(own.resource_version.clone());
        self.mint(native, None, false, vec![Step::Delete { secret, resource_version }])
    }

    /// Whether somebody asked for another one.
    fn is_to_end(&self, said: &MaterialStatus) -> bool {
        let rotation = self.credential.spec.rotation.clone().unwrap_or_default();
        let asked = requested(self.credential);
        rotation.revision.is_some_and(|revision| revision != said.revision.unwrap_or_default())
            || (asked.is_some() && asked != said.rotation_answered)
    }

    /// Whether it is time for another token, or the file says what is not wished any more.
    fn is_over(&self, native: &Native, said: &MaterialAttestation) -> bool {
        let options = self.options(native);
        let end = self.end().unwrap_or(Timestamp::MAX);
        (options.is_some() && said.material.options != options)
            || rotates_at(self.credential, &said.material).is_none_or(|at| at <= self.now)
            || life(&said.material).is_none_or(|life| life.is_over(end, self.now))
    }

    /// The end of the credential.
    fn end(&self) -> Option<Timestamp> {
        end(self.credential)
    }

    /// The options, and whose token it is. `None` while nobody knows.
    fn options(&self, native: &Native) -> Option<String> {
        let options = self.seen.options.as_ref().ok()?;
        Some(format!("{options}/{}", native.account.as_ref()?.uid))
    }

    fn hindrance(&self, native: &Native) -> Option<Trouble> {
        if let Err(problem) = &self.seen.options {
            return Some(of(problem));
        }
        if let Some(held) = &self.held {
            return Some(held.clone());
        }
        if !native.allowed {
            let say = "this controller has no tokens minted; run it with --service-account-tokens and apply \
                       deploy/service-account-tokens/rights.yaml, or provide a kubeconfig by spec.provided";
            let (reason, message) = (Reason::InvalidSpec, say.to_owned());
            return Some(Trouble { reason, message, waits_for_others: false });
        }
        if native.account.is_none() {
            let (reason, message) = (Reason::Pending, "the ServiceAccount is not there yet".to_owned());
            return Some(Trouble { reason, message, waits_for_others: true });
        }
        None
    }

    fn stays_for(&self, native: &Native) -> Plan {
        self.hindrance(native).map(|trouble| self.stays(trouble)).unwrap_or_default()
    }

    fn kept_minted(&self, native: &Native, own: &OwnSecret, said: &MaterialAttestation) -> Plan {
        let trouble = self.hindrance(native).filter(|_| self.is_over(native, said));
        let moved = self.recorded.as_ref().is_some_and(|recorded| recorded.name != own.reference.name);
        let mut steps: Vec<_> =
            self.mend(own, said, moved).map(|mend| Step::Mend(Box::new(mend))).into_iter().collect();
        if !moved {
            steps.extend(self.strays(None));
        }
        let rotates_at = rotates_at(self.credential, &said.material);
        let ends = life(&said.material).map(|life| life.expires_at);
        let wake = rotates_at.into_iter().chain(ends).filter(|at| *at > self.now).min();
        let material = told_of(self.credential, said.material.clone());
        let secret = Some(own.reference.clone());
        Plan { steps, secret, material: Some(material), trouble, wake, again: moved }
    }

    fn mint(&self, native: &Native, into: Option<&OwnSecret>, empty: bool, mut steps: Vec<Step>) -> Plan {
        let (Some(account), Some(options), None) =
            (native.account.clone(), self.options(native), self.hindrance(native))
        else {
            return Plan { steps, ..self.stays_for(native) };
        };
        if into.is_none()
            && steps.is_empty()
            && self.recorded.as_ref().is_some_and(|recorded| recorded.name == self.name)
            // We may have died after the one before was taken away.
            && !self.is_to_end(&self.before)
            && let Some(again_at) = self.again_at()
        {
            return self.filled_again_at(again_at);
        }
        let attestation = self.attestation(&options, None, false);
        let material = attestation.material.clone();
        let life =
            self.now.checked_add(kubeconfig::duration(&self.credential.spec)).unwrap_or(Timestamp::MAX);
        let order = Order {
            account,
            credential: self.credential.metadata.uid.clone().unwrap_or_default(),
            audiences: Vec::new(),
            end: self.end().into_iter().chain([life]).min().unwrap_or(life),
        };
        let recipe = Recipe {
            name: self.name.clone(),
            into: into.map(|own| (own.reference.clone(), own.resource_version.clone(), Vec::new())),
            content: Content::Drawn,
            wish: String::new(),
            dress: into.map_or_else(
                || self.dress(),
                |own| dress::changes(&own.labels, &own.annotations, self.credential.spec.secret.as_ref()),
            ),
            attestation,
            recipients: None,
            once: false,
        };
        steps.push(Step::Mint(Box::new(MintRecipe { recipe, order, empty })));
        let secret = into.map(|own| own.reference.clone());
        Plan { steps, secret, material: Some(material), again: true, ..Plan::default() }
    }
}

/// What the status tells of a kubeconfig that is there.
#[must_use]
pub fn told_of(credential: &Credential, said: MaterialStatus) -> MaterialStatus {
    let at = rotates_at(credential, &said).filter(|at| Some(*at) != end(credential));
    MaterialStatus { rotates_at: at.map(Into::into), previous: None, ..said }
}

/// When another token takes the place of this one; the end of the credential where this one lives to that.
fn rotates_at(credential: &Credential, said: &MaterialStatus) -> Option<Timestamp> {
    let life = life(said)?;
    let rotation = credential.spec.rotation.as_ref();
    let every = rotation.and_then(|rotation| rotation.every.as_ref()).map(Lifetime::duration);
    let every = every.and_then(Result::ok).and_then(|every| life.issued_at.checked_add(every).ok());
    let end = end(credential);
    life.followed_at(end.unwrap_or(Timestamp::MAX)).into_iter().chain(every).min().or(end)
}

fn end(credential: &Credential) -> Option<Timestamp> {
    credential.spec.expires_at.as_ref().and_then(|end| end.timestamp().ok())
}

fn life(said: &MaterialStatus) -> Option<Life> {
    let instant = |at: &Option<Instant>| at.as_ref().map(Instant::timestamp).and_then(Result::ok);
    let (issued_at, expires_at) = (instant(&said.issued_at)?, instant(&said.expires_at)?);
    Some(Life { issued_at, expires_at })
}
