//! The cluster as far as a token sees it: what `observe` reads and `apply` writes.

use super::*;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct World {
    /// `None` once it was deleted.
    pub(super) token: Option<ApiToken>,
    pub(super) credential: Option<Credential>,
    pub(super) secret: Option<Stored>,
    pub(super) policy: Option<Breach>,
    /// The keys that the keyring has.
    pub(super) keys: Vec<&'static str>,
    pub(super) annotations_changed: bool,
    /// How many values, UIDs and versions were handed out.
    pub(super) drawn: u64,
    /// The time when it is looked at.
    pub(super) shown: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    pub(super) uid: String,
    pub(super) version: u64,
    pub(super) owner: Whose,
    pub(super) terminating: bool,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) attested: bool,
    pub(super) value: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Whose {
    This,
    Predecessor,
    Other,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) seed: u64,
    pub(super) serial: i64,
    pub(super) term: Option<i64>,
    pub(super) key: &'static str,
    pub(super) previous: Option<Predecessor>,
    pub(super) sealed_for: Option<String>,
    pub(super) issued_at: Option<Timestamp>,
}

impl Value {
    pub(super) fn token(&self) -> Token {
        Token::draw(&Prefix::default(), &mut StdRng::seed_from_u64(self.seed))
    }

    pub(super) fn attestation(&self) -> Attestation {
        let id = self.token().id().to_owned();
        Attestation {
            serial: self.serial,
            term: self.term,
            end: END.into(),
            issued_at: self.issued_at.map(Into::into),
            credential: CREDENTIAL_UID.to_owned(),
            previous: self.previous.clone(),
            sealed_for: self.sealed_for.clone(),
            digest: format!("hmac-sha256:{}:{id}-{}-{:?}", self.key, self.serial, self.term),
            id,
            proof: String::new(),
        }
    }
}

impl World {
    pub(super) fn fresh() -> Self {
        let token = ApiToken {
            metadata: ObjectMeta {
                name: Some("laptop".to_owned()),
                namespace: Some("edge".to_owned()),
                uid: Some(UID.to_owned()),
                generation: Some(1),
                creation_timestamp: Some(Time(at("2026-05-01T00:00:00Z"))),
                ..ObjectMeta::default()
            },
            spec: ApiTokenSpec {
                credential_ref: CredentialReference { name: "nodes".to_owned() },
                expires_at: Some(END.into()),
                ..ApiTokenSpec::default()
            },
            status: None,
        };
        let mut credential = Credential::new("nodes", CredentialSpec::default());
        credential.metadata.uid = Some(CREDENTIAL_UID.to_owned());
        Self {
            token: Some(token),
            credential: Some(credential),
            secret: None,
            policy: None,
            keys: vec![KEY, "old"],
            annotations_changed: false,
            drawn: 0,
            shown: now(),
        }
    }

    /// As `observe` does, only that it always looks.
    pub(super) fn observe(&self) -> Option<Observed> {
        let token = self.token.clone()?;
        let status = token.status.clone().unwrap_or_default();
        let stalled = token.status.as_ref().is_some_and(|status| holds(status, ConditionType::Stalled));
        let issued_for = status.credential_uid.clone();
        let credential = match &self.credential {
            Some(found) if issued_for.is_none() || issued_for == found.metadata.uid => {
                CredentialSeen::Present(Box::new(found.clone()))
            }
            None if issued_for.is_none() => CredentialSeen::Absent,
            _ => CredentialSeen::Gone,
        };
        let changed = self.annotations_changed || status.observed_generation != token.metadata.generation;
        Some(Observed {
            credential,
            secret: self.judge(&token, &status),
            native: None,
            unsaid: None,
            policy: self.policy.clone(),
            key_known: status
                .digest
                .as_deref()
                .and_then(|digest| digest.split(':').nth(1))
                .is_none_or(|key| self.keys.contains(&key)),
            touched: stalled && changed,
            token,
        })
    }

    pub(super) fn judge(&self, token: &ApiToken, status: &ApiTokenStatus) -> SecretSeen {
        let Some(found) = &self.secret else {
            return SecretSeen::Absent;
        };
        if found.terminating {
            return SecretSeen::Terminating(None);
        }
        let value = found.value.as_ref();
        let wish = delivery::recipients(token.spec.delivery.as_ref());
        // A value under the key of the other mode is none.
        let value = value.filter(|value| value.sealed_for.is_some() == wish.is_some());
        let checkable = value.filter(|value| self.keys.contains(&value.key));
        let attested = checkable.filter(|_| found.attested).map(Value::attestation);
        // What is sealed is only ever known by its attestation.
        let checkable = checkable.filter(|_| wish.is_none() || found.attested);
        let recorded_uid = status.secret.as_ref().map(|secret| &secret.uid) == Some(&found.uid);
        let term = status.term.filter(|_| token.spec.renew_before.is_some());
        let digested = checkable.is_some_and(|value| {
            status.digest.as_ref() == Some(&value.attestation().digest)
                && status.serial.unwrap_or_default() == value.serial
                && term == value.term
        });
        let previous = status.previous.clone().map(Predecessor::from);
        let created_at = token.metadata.creation_timestamp.as_ref().unwrap().0;
        let goes_on = |previous: &&Predecessor| {
            Terms::of(&token.spec, created_at).is_ok_and(|terms| terms.end(Some(previous.term)) > self.shown)
        };
        let stated = attested.as_ref().is_some_and(|attestation| {
            status.term == attestation.term
                && previous.as_ref().filter(goes_on) == attestation.previous.as_ref().filter(goes_on)
        });
        if found.owner != Whose::This && !(recorded_uid && (attested.is_some() || digested)) {
            return match found.owner {
                Whose::Predecessor => SecretSeen::Predecessors,
                _ => SecretSeen::Foreign,
            };
        }
        let next = status.serial.map_or(0, |serial| serial + 1);
        let content = match (attested, value) {
            (Some(_), _) if digested && recorded_uid && stated => Content::Recorded,
            (Some(attestation), _)
                if attestation.serial >= next
                    || (recorded_uid && status.serial == Some(attestation.serial)) =>
            {
                Content::Attested(Box::new(attestation))
            }
            (_, Some(value)) if digested && recorded_uid && wish.is_none() => {
                Content::Unattested(value.token())
            }
            _ => Content::Strange,
        };
        let sealed_for = value.and_then(|value| value.sealed_for.clone());
        SecretSeen::Ours(Box::new(OwnSecret {
            reference: ObjectReference { name: "laptop-token".to_owned(), uid: found.uid.clone() },
            resource_version: found.version.to_string(),
            sealed_for,
            labels: found.labels.clone(),
            annotations: found.annotations.clone(),
            owned: found.owner == Whose::This,
            content,
        }))
    }

    /// As `apply` does, but stops after `limit` writes, of which the status is the last. Tells whether it stopped.
    pub(super) fn apply(&mut self, plan: Plan, limit: usize) -> bool {
        let mut status = plan.status;
        let stops = limit < plan.steps.len() + usize::from(status.is_some());
        for step in plan.steps.into_iter().take(limit) {
            match step {
                step @ (Step::CreateSecret(_) | Step::RenewSecret(..)) => {
                    let issued = match step {
                        Step::CreateSecret(recipe) => self.create(recipe),
                        Step::RenewSecret(recipe, held) => self.renew(recipe, &held),
                        Step::Mint(_)
                        | Step::DeleteSecret { .. }
                        | Step::Say(_)
                        | Step::MendSecret(_)
                        | Step::DeleteToken { .. } => unreachable!(),
                    };
                    if let Some(status) = &mut status {
                        let attestation = issued.value.as_ref().unwrap().attestation();
                        status.token_id = Some(attestation.id);
                        status.digest = Some(attestation.digest);
                        status.secret =
                            Some(ObjectReference { name: "laptop-token".to_owned(), uid: issued.uid });
                    }
                }
                Step::DeleteSecret { secret, resource_version } => {
                    let gone = self.secret.take().unwrap();
                    assert_eq!(secret.uid, gone.uid, "another Secret would be deleted");
                    assert!(resource_version.is_none_or(|version| version == gone.version.to_string()));
                }
                Step::Say(status) => {
                    if let Some(token) = &mut self.token {
                        token.status = Some(*status);
                    }
                }
                Step::MendSecret(mend) => self.mend(mend),
                Step::Mint(_) => panic!("the operator draws it"),
                Step::DeleteToken { .. } => {
                    self.token = None;
                    return false;
                }
            }
        }
        if stops {
            return true;
        }
        if let (Some(status), Some(token)) = (status, &mut self.token) {
            token.status = Some(status);
            self.annotations_changed &=
                token.status.as_ref().is_some_and(|status| holds(status, ConditionType::Stalled));
        }
        false
    }

    pub(super) fn create(&mut self, recipe: Recipe) -> Stored {
        assert_eq!(self.secret, None, "409: a Secret of that name exists");
        self.drawn += 1;
        let created = Stored {
            uid: format!("secret-{}", self.drawn),
            version: self.drawn,
            owner: Whose::This,
            terminating: false,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            attested: true,
            value: None,
        };
        self.secret = Some(created);
        self.fill(recipe)
    }

    pub(super) fn renew(&mut self, recipe: Recipe, held: &Held) -> Stored {
        self.touch(held, Dress::default());
        self.drawn += 1;
        self.fill(recipe)
    }

    pub(super) fn fill(&mut self, recipe: Recipe) -> Stored {
        let secret = self.secret.as_mut().unwrap();
        wear(secret, recipe.dress);
        secret.attested = true;
        secret.value = Some(Value {
            seed: self.drawn,
            serial: recipe.serial,
            term: recipe.term,
            key: KEY,
            previous: recipe.claim.previous,
            sealed_for: recipe.recipients.map(|recipients| recipients.mark()),
            issued_at: recipe.claim.issued_at,
        });
        secret.clone()
    }

    pub(super) fn touch(&mut self, held: &Held, dress: Dress) {
        let secret = self.secret.as_mut().unwrap();
        assert_eq!((&held.secret.uid, &held.resource_version), (&secret.uid, &secret.version.to_string()));
        wear(secret, dress);
        if held.own {
            secret.owner = Whose::This;
        }
        secret.version += 1;
    }

    pub(super) fn mend(&mut self, mend: Mend) {
        self.touch(&mend.held, mend.dress);
        let secret = self.secret.as_mut().unwrap();
        if let (Some(attest), Some(value)) = (mend.attest, &mut secret.value) {
            assert_eq!((attest.serial, attest.term), (value.serial, value.term));
            secret.attested = true;
            value.previous = attest.claim.previous;
            value.issued_at = attest.claim.issued_at;
        }
    }

    /// Plans and applies until nothing changes any more.
    pub(super) fn settle(mut self, now: Timestamp) -> Self {
        self.shown = now;
        for _ in 0..10 {
            let before = self.clone();
            let Some(observed) = self.observe() else {
                return self;
            };
            self.apply(plan(&observed, now), usize::MAX);
            if self == before {
                return self;
            }
        }
        panic!("never settles: {self:#?}");
    }
}

pub(super) fn wear(secret: &mut Stored, dress: Dress) {
    for (all, changes) in [(&mut secret.labels, dress.labels), (&mut secret.annotations, dress.annotations)] {
        for (key, value) in changes {
            match value {
                Some(value) => all.insert(key, value),
                None => all.remove(&key),
            };
        }
    }
}
