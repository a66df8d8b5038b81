use jiff::ToSpan;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::{tell::holds, *};
use crate::{
    api::{
        ApiTokenSpec, Condition, CredentialSpec, Delivery, Lifetime,
        api_token::{CredentialReference, PreviousToken, SecretOptions},
    },
    domain::{
        digest::{Attestation, Predecessor},
        policy::{Breach, Severity},
        token::Prefix,
    },
};

mod minted;
mod once;
mod renewal;
mod sealed;
mod ttl;

const NOW: &str = "2026-06-01T12:00:00Z";
const END: &str = "2027-01-01T00:00:00Z";
const UID: &str = "token-uid";
const CREDENTIAL_UID: &str = "credential-uid";
/// The key that signs; the other one of this model may be gone.
const KEY: &str = "new";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at(NOW)
}

fn ago(seconds: i64) -> Instant {
    (now() - seconds.seconds()).into()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn wished(pairs: &[(&str, &str)]) -> BTreeMap<String, Option<String>> {
    map(pairs).into_iter().map(|(key, value)| (key, Some(value))).collect()
}

// The cluster as far as a token sees it: what `observe` reads and `apply` writes.

#[derive(Clone, Debug, PartialEq)]
struct World {
    /// `None` once it was deleted.
    token: Option<ApiToken>,
    credential: Option<Credential>,
    secret: Option<Stored>,
    policy: Option<Breach>,
    /// The keys that the keyring has.
    keys: Vec<&'static str>,
    annotations_changed: bool,
    /// How many values, UIDs and versions were handed out.
    drawn: u64,
    /// The time when it is looked at.
    shown: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
struct Stored {
    uid: String,
    version: u64,
    owner: Whose,
    terminating: bool,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    attested: bool,
    value: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Whose {
    This,
    Predecessor,
    Other,
}

#[derive(Clone, Debug, PartialEq)]
struct Value {
    seed: u64,
    serial: i64,
    term: Option<i64>,
    key: &'static str,
    previous: Option<Predecessor>,
    sealed_for: Option<String>,
    issued_at: Option<Timestamp>,
}

impl Value {
    fn token(&self) -> Token {
        Token::draw(&Prefix::default(), &mut StdRng::seed_from_u64(self.seed))
    }

    fn attestation(&self) -> Attestation {
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
    fn fresh() -> Self {
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
    fn observe(&self) -> Option<Observed> {
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

    fn judge(&self, token: &ApiToken, status: &ApiTokenStatus) -> SecretSeen {
        let Some(found) = &self.secret else {
            return SecretSeen::Absent;
        };
        if found.terminating {
            return SecretSeen::Terminating;
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
    fn apply(&mut self, plan: Plan, limit: usize) -> bool {
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

    fn create(&mut self, recipe: Recipe) -> Stored {
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

    fn renew(&mut self, recipe: Recipe, held: &Held) -> Stored {
        self.touch(held, Dress::default());
        self.drawn += 1;
        self.fill(recipe)
    }

    fn fill(&mut self, recipe: Recipe) -> Stored {
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

    fn touch(&mut self, held: &Held, dress: Dress) {
        let secret = self.secret.as_mut().unwrap();
        assert_eq!((&held.secret.uid, &held.resource_version), (&secret.uid, &secret.version.to_string()));
        wear(secret, dress);
        if held.own {
            secret.owner = Whose::This;
        }
        secret.version += 1;
    }

    fn mend(&mut self, mend: Mend) {
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
    fn settle(mut self, now: Timestamp) -> Self {
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

fn wear(secret: &mut Stored, dress: Dress) {
    for (all, changes) in [(&mut secret.labels, dress.labels), (&mut secret.annotations, dress.annotations)] {
        for (key, value) in changes {
            match value {
                Some(value) => all.insert(key, value),
                None => all.remove(&key),
            };
        }
    }
}

// Fixtures, and what a plan says in one line.

fn fresh() -> Observed {
    World::fresh().observe().unwrap()
}

fn issued() -> Observed {
    World::fresh()
        .settle(now() - 1.hour())
        .observe()
        .map(|mut observed| {
            // As if the status had been written just now: only what a test changes is news.
            observed.token.status = plan(&observed, now()).status;
            observed
        })
        .unwrap()
}

fn status(observed: &mut Observed) -> &mut ApiTokenStatus {
    observed.token.status.get_or_insert_default()
}

fn secret(observed: &mut Observed) -> &mut OwnSecret {
    match &mut observed.secret {
        SecretSeen::Ours(secret) => secret,
        other => panic!("{other:?}"),
    }
}

fn credential(observed: &mut Observed) -> &mut Credential {
    match &mut observed.credential {
        CredentialSeen::Present(credential) => credential,
        other => panic!("{other:?}"),
    }
}

fn terminate(metadata: &mut ObjectMeta) {
    metadata.deletion_timestamp = Some(Time(now()));
}

fn options(observed: &mut Observed) -> &mut SecretOptions {
    observed.token.spec.secret.get_or_insert_default()
}

/// Its value was lost at these times, the last of them now.
fn lost(observed: &mut Observed, replaced_ago: &[i64]) {
    observed.secret = SecretSeen::Absent;
    let replaced = i64::try_from(replaced_ago.len()).unwrap();
    status(observed).serial = Some(replaced);
    status(observed).replaced_at = replaced_ago.iter().copied().map(ago).collect();
}

fn stalled_since(observed: &mut Observed, seconds: i64) {
    status(observed).conditions.push(Condition {
        kind: "Stalled".to_owned(),
        status: "True".to_owned(),
        observed_generation: Some(1),
        last_transition_time: ago(seconds),
        reason: "Conflict".to_owned(),
        message: String::new(),
    });
}

/// `steps | state, what is True, why | when again`.
fn told(observed: &Observed, now: Timestamp) -> String {
    let plan = plan(observed, now);
    let steps: Vec<_> = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::CreateSecret(recipe) => format!("create {}", recipe.serial),
            Step::RenewSecret(recipe, _) => format!("renew {}", recipe.serial),
            Step::DeleteSecret { resource_version: None, .. } => "delete".to_owned(),
            Step::DeleteSecret { resource_version: Some(version), .. } => format!("delete version {version}"),
            Step::MendSecret(_) => "mend".to_owned(),
            Step::Mint(recipe) => format!("mint {}", recipe.serial),
            Step::Say(status) => format!("say {:?}", status.state.unwrap()),
            Step::DeleteToken { resource_version: None } => "delete token".to_owned(),
            Step::DeleteToken { resource_version: Some(version) } => {
                format!("delete token version {version}")
            }
        })
        .collect();
    let status = plan.status.map(|status| {
        assert_eq!(status.observed_generation, observed.token.metadata.generation);
        let mut words = vec![format!("{:?}", status.state.unwrap())];
        let holding = status.conditions.iter().filter(|condition| condition.status == "True");
        words.extend(holding.map(|condition| condition.kind.clone()));
        let mut reasons: Vec<_> = status.conditions.iter().map(|condition| &*condition.reason).collect();
        reasons.dedup();
        assert_eq!(reasons.len(), 1, "one reason for all: {reasons:?}");
        format!("{} ({})", words.join(" "), reasons[0])
    });
    let wake = plan.wake.map(|wake| {
        if wake == at(END) { "end".to_owned() } else { format!("{:#}", wake.duration_since(now)) }
    });
    format!(
        "{} | {} | {}",
        if steps.is_empty() { "-".to_owned() } else { steps.join(", ") },
        status.as_deref().unwrap_or("-"),
        wake.as_deref().unwrap_or("-"),
    )
}

type Row = (&'static str, fn(&mut Observed), &'static str);

/// Each row changes `base` and says what is told of it.
fn check(base: impl Fn() -> Observed, rows: &[Row]) {
    for (what, change, expected) in rows {
        let mut observed = base();
        change(&mut observed);
        assert_eq!(told(&observed, now()), *expected, "{what}");
    }
}

const ISSUED: &str = "- | Active Ready Usable (Issued) | end";

// The life cycle.

#[test]
fn a_fresh_token_gets_its_first_value() {
    assert_eq!(told(&fresh(), now()), "create 0 | Active Ready Usable (Issued) | end");
    let mut observed = fresh();
    options(&mut observed).labels = map(&[("app", "orders")]);
    let planned = plan(&observed, now());
    let Step::CreateSecret(recipe) = &planned.steps[0] else { panic!("{planned:?}") };
    let expected = Recipe {
        name: "laptop-token".to_owned(),
        serial: 0,
        term: None,
        claim: Claim { end: at(END), issued_at: None, credential: CREDENTIAL_UID.to_owned(), previous: None },
        recipients: None,
        dress: Dress {
            labels: wished(&[(name::MANAGED_BY_LABEL, name::MANAGED_BY), ("app", "orders")]),
            annotations: wished(&[(name::PUBLISHED_ANNOTATION, r#"{"annotations":[],"labels":["app"]}"#)]),
        },
    };
    assert_eq!(*recipe, expected);
    let status = planned.status.unwrap();
    assert_eq!(
        (status.serial, status.credential_uid.as_deref(), &status.replaced_at),
        (Some(0), Some(CREDENTIAL_UID), &vec![])
    );
    assert_eq!((status.issued_at, status.expires_at), (Some(NOW.into()), Some(END.into())));
}

#[test]
fn a_token_as_it_should_be_is_left_alone() {
    let observed = issued();
    assert_eq!(told(&observed, now()), ISSUED);
    assert_eq!(plan(&observed, now()).status, observed.token.status);
    let later = now() + 1.hour();
    assert_eq!(plan(&observed, later).status, observed.token.status, "time alone is no news");
}

#[test]
fn the_secret_may_be_named() {
    let mut observed = fresh();
    options(&mut observed).name = Some("chosen".to_owned());
    assert!(
        matches!(&plan(&observed, now()).steps[..], [Step::CreateSecret(recipe)] if recipe.name == "chosen")
    );
}

#[test]
fn revoked_or_deleted_it_has_no_value() {
    let revoked = "delete | Revoked Ready (Revoked) | -";
    check(
        issued,
        &[
            ("revoked", |o| o.token.spec.revoked = Some(true), revoked),
            ("revoked: false is none", |o| o.token.spec.revoked = Some(false), ISSUED),
            (
                "revoked, the credential gone",
                |o| {
                    o.token.spec.revoked = Some(true);
                    o.credential = CredentialSeen::Gone;
                },
                "delete, delete token | - | -",
            ),
            (
                "revoked, the spec invalid",
                |o| {
                    o.token.spec.revoked = Some(true);
                    o.token.spec.expires_at = None;
                },
                revoked,
            ),
            (
                "revoked, the Secret foreign",
                |o| {
                    o.token.spec.revoked = Some(true);
                    o.secret = SecretSeen::Foreign;
                },
                "- | Revoked Ready (Revoked) | -",
            ),
            ("being deleted", |o| terminate(&mut o.token.metadata), "delete | - | -"),
            (
                "being deleted without a Secret",
                |o| {
                    terminate(&mut o.token.metadata);
                    o.secret = SecretSeen::Absent;
                },
                "- | - | -",
            ),
        ],
    );
    let mut observed = issued();
    observed.token.spec.revoked = Some(true);
    let status = plan(&observed, now()).status.unwrap();
    assert_eq!((status.digest, status.secret), (None, None));
    assert!(status.token_id.is_some(), "the id stays, for whoever reads logs");
}

#[test]
fn it_expires_at_its_end_and_not_before() {
    let observed = issued();
    let expired = "delete | Expired Ready (Expired) | -";
    assert_eq!(told(&observed, at(END) - 1.nanosecond()), ISSUED);
    assert_eq!(told(&observed, at(END)), expired);

    let mut observed = observed;
    observed.token.status = plan(&observed, at(END)).status;
    assert_eq!(status(&mut observed).digest, None);
    assert_eq!(told(&observed, now()), expired, "though the clock went back");
    observed.token.spec.expires_at = Some("2027-06-01T00:00:00Z".into());
    assert_eq!(told(&observed, now()), expired, "whatever the spec says now");
    assert_eq!(plan(&observed, now()).status.unwrap().expires_at, Some(END.into()));
}

#[test]
fn the_end_is_the_earlier_of_its_own_and_the_credentials() {
    for (own, credentials, expected) in [
        (END, None, END),
        (END, Some("2026-12-01T00:00:00Z"), "2026-12-01T00:00:00Z"),
        (END, Some("2028-01-01T00:00:00Z"), END),
    ] {
        let mut observed = fresh();
        observed.token.spec.expires_at = Some(own.into());
        credential(&mut observed).spec.expires_at = credentials.map(Into::into);
        let plan = plan(&observed, now());
        assert_eq!(plan.status.unwrap().expires_at, Some(expected.into()));
        assert_eq!(plan.wake, Some(at(expected)));
        let [Step::CreateSecret(recipe)] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
        assert_eq!(recipe.claim.end, at(own), "the value is attested with the token's own end");
    }
}

#[test]
fn a_life_counts_from_creation() {
    let mut observed = fresh();
    observed.token.spec.expires_at = None;
    observed.token.spec.expires_in = Some("90d".into());
    assert_eq!(plan(&observed, now()).wake, Some(at("2026-07-30T00:00:00Z")));
    observed.token.spec.expires_in = Some("30d".into());
    assert_eq!(told(&observed, now()), "- | Expired Ready (Expired) | -", "born before, ended yesterday");
}

#[test]
fn an_end_in_the_past_is_never_issued() {
    let expired = "- | Expired Ready (Expired) | -";
    check(
        fresh,
        &[
            ("its own", |o| o.token.spec.expires_at = Some(NOW.into()), expired),
            (
                "the credential's",
                |o| credential(o).spec.expires_at = Some("2026-01-01T00:00:00Z".into()),
                expired,
            ),
            (
                "even without a credential",
                |o| {
                    o.token.spec.expires_at = Some(NOW.into());
                    o.credential = CredentialSeen::Absent;
                },
                expired,
            ),
        ],
    );
}

#[test]
fn a_fresh_token_waits_for_a_credential() {
    check(
        fresh,
        &[
            (
                "none yet",
                |o| o.credential = CredentialSeen::Absent,
                "- | Pending Reconciling (CredentialNotFound) | end",
            ),
            (
                "being deleted",
                |o| terminate(&mut credential(o).metadata),
                "- | Pending Reconciling (CredentialDeleted) | end",
            ),
            (
                "inactive: there is a value all the same",
                |o| credential(o).spec.state = DesiredState::Inactive,
                "create 0 | Suspended Ready (CredentialInactive) | end",
            ),
        ],
    );
}

#[test]
fn an_issued_token_follows_its_credential() {
    check(
        issued,
        &[
            ("gone", |o| o.credential = CredentialSeen::Gone, "delete, delete token | - | -"),
            (
                "gone, and the Secret too",
                |o| {
                    o.credential = CredentialSeen::Gone;
                    o.secret = SecretSeen::Absent;
                },
                "delete token | - | -",
            ),
            (
                "gone, and the token expired",
                |o| {
                    o.credential = CredentialSeen::Gone;
                    status(o).state = Some(ApiTokenState::Expired);
                },
                "delete, delete token | - | -",
            ),
            (
                "being deleted",
                |o| terminate(&mut credential(o).metadata),
                "- | Suspended Ready (CredentialDeleted) | end",
            ),
            (
                "ended",
                |o| credential(o).spec.expires_at = Some(NOW.into()),
                "delete | Expired Ready (Expired) | -",
            ),
        ],
    );
}

#[test]
fn suspended_and_resumed_it_keeps_its_value() {
    let before = issued();
    let mut observed = before.clone();
    credential(&mut observed).spec.state = DesiredState::Inactive;
    assert_eq!(told(&observed, now()), "- | Suspended Ready (CredentialInactive) | end");
    observed.token.status = plan(&observed, now()).status;
    assert_eq!(status(&mut observed).digest, before.token.status.as_ref().unwrap().digest);
    credential(&mut observed).spec.state = DesiredState::Active;
    assert_eq!(told(&observed, now()), ISSUED);
    let resumed = plan(&observed, now()).status.unwrap();
    assert_eq!(resumed.digest, before.token.status.unwrap().digest);
}

fn breach(severity: Severity) -> Breach {
    Breach { severity, policy: None, message: "CredentialPolicy p does not allow it".to_owned(), until: None }
}

#[test]
fn what_a_policy_forbids_is_not_issued_and_what_is_there_keeps_its_value() {
    for (severity, held, there) in [
        (
            Severity::Refused,
            "- | Failed Stalled (PolicyViolation) | end",
            "- | Suspended Ready (PolicyViolation) | end",
        ),
        (Severity::Unguarded, "- | Pending Reconciling (AdmissionMissing) | end", ISSUED),
        (Severity::Unknown, "- | Pending Reconciling (Pending) | end", ISSUED),
        (Severity::Count, "- | Pending Reconciling (QuotaExceeded) | end", ISSUED),
        (Severity::Terms, "- | Failed Stalled (PolicyViolation) | end", ISSUED),
    ] {
        let policy = Some(breach(severity));
        assert_eq!(told(&Observed { policy: policy.clone(), ..fresh() }, now()), held);
        assert_eq!(told(&Observed { policy: policy.clone(), ..issued() }, now()), there);
        // A value that is lost is not replaced while nothing new is allowed.
        let mut lost = Observed { policy, ..issued() };
        lost.secret = SecretSeen::Absent;
        assert_eq!(told(&lost, now()), held);
        assert!(plan(&lost, now()).status.unwrap().digest.is_none());
    }
    // Refused or not, its end and its revocation take the Secret, and healed it is as it was.
    let mut observed = Observed { policy: Some(breach(Severity::Refused)), ..issued() };
    let suspended = plan(&observed, now()).status.unwrap();
    assert_eq!(suspended.digest, status(&mut observed).digest);
    assert!(told(&observed, at(END)).starts_with("delete | Expired"));
    observed.token.status = Some(suspended);
    observed.policy = None;
    assert_eq!(told(&observed, now()), ISSUED);
    observed.token.spec.revoked = Some(true);
    assert!(told(&observed, now()).starts_with("delete | Revoked"));
}

#[test]
fn a_spec_without_an_end_waits_for_a_human_and_destroys_nothing() {
    let invalid = "- | Failed Stalled (InvalidSpec) | -";
    let rows: &[Row] = &[
        ("expiresAt", |o| o.token.spec.expires_at = Some("2027-01-01T00:00:00+02:60".into()), invalid),
        (
            "expiresIn",
            |o| {
                o.token.spec.expires_at = None;
                o.token.spec.expires_in = Some("1.5h".into());
            },
            invalid,
        ),
        ("both", |o| o.token.spec.expires_in = Some("30d".into()), invalid),
        ("neither", |o| o.token.spec.expires_at = None, invalid),
        ("the credential's expiresAt", |o| credential(o).spec.expires_at = Some("tomorrow".into()), invalid),
    ];
    check(fresh, rows);
    check(issued, rows);
    check(
        || {
            let mut observed = issued();
            observed.secret = SecretSeen::Absent;
            observed
        },
        rows,
    );
}

#[test]
fn what_stands_in_the_place_of_a_first_secret_is_not_touched() {
    check(
        fresh,
        &[
            ("foreign", |o| o.secret = SecretSeen::Foreign, "- | Failed Stalled (Conflict) | 10s"),
            (
                "a predecessor's",
                |o| o.secret = SecretSeen::Predecessors,
                "- | Pending Reconciling (Pending) | 10s",
            ),
            (
                "terminating",
                |o| o.secret = SecretSeen::Terminating,
                "- | Pending Reconciling (Pending) | 10s",
            ),
        ],
    );
}

#[test]
fn what_took_the_place_of_its_secret_makes_the_value_unacceptable() {
    for seen in [SecretSeen::Foreign, SecretSeen::Predecessors, SecretSeen::Terminating] {
        let mut observed = issued();
        observed.secret = seen;
        let plan = plan(&observed, now());
        assert!(plan.steps.is_empty());
        let status = plan.status.unwrap();
        assert_eq!((status.digest, status.token_id, status.secret), (None, None, None));
        assert_eq!(status.serial, Some(0), "so that the next value has the next number");
    }
}

#[test]
fn a_strange_secret_is_deleted_in_that_version_and_a_value_drawn_anew() {
    check(
        issued,
        &[(
            "replaced",
            |o| secret(o).content = Content::Strange,
            "delete version 1, create 1 | Active Ready Usable (Issued) | end",
        )],
    );
    let mut observed = issued();
    let own = observed.secret.clone();
    secret(&mut observed).content = Content::Strange;
    let replaced = plan(&observed, now()).status.unwrap();
    assert_eq!(replaced.replaced_at, [ago(0)]);

    let mut planted = fresh();
    planted.secret = own;
    secret(&mut planted).content = Content::Strange;
    assert_eq!(told(&planted, now()), "delete version 1, create 0 | Active Ready Usable (Issued) | end");
}

#[test]
fn a_value_whose_status_was_not_written_is_adopted() {
    let issued = issued();
    let recorded = issued.token.status.clone().unwrap();
    let attestation = |serial| {
        Content::Attested(Box::new(Attestation {
            serial,
            term: None,
            id: "the-id".to_owned(),
            end: END.into(),
            issued_at: None,
            credential: CREDENTIAL_UID.to_owned(),
            previous: None,
            sealed_for: None,
            digest: format!("hmac-sha256:{KEY}:anew"),
            proof: String::new(),
        }))
    };
    // The status before; the serial of the value; when it was issued, and replacements.
    for (before, serial, issued_at, replaced) in [
        (None, 0, ago(0), vec![]),
        (Some(recorded.clone()), 1, ago(0), vec![ago(0)]),
        (Some(recorded.clone()), 0, ago(3600), vec![]),
    ] {
        let mut observed = issued.clone();
        observed.token.status = before;
        secret(&mut observed).content = attestation(serial);
        assert_eq!(told(&observed, now()), ISSUED);
        let status = plan(&observed, now()).status.unwrap();
        assert_eq!(status.serial, Some(serial));
        assert_eq!(status.token_id.as_deref(), Some("the-id"));
        assert_eq!(status.digest, Some(format!("hmac-sha256:{KEY}:anew")));
        assert_eq!(status.secret, recorded.secret);
        assert_eq!(status.credential_uid, recorded.credential_uid);
        assert_eq!(status.issued_at, Some(issued_at), "value {serial}");
        assert_eq!(status.replaced_at, replaced, "value {serial}");
    }
}

#[test]
fn what_describes_the_secret_is_mended() {
    let value = || Value {
        seed: 1,
        serial: 0,
        term: None,
        key: KEY,
        previous: None,
        sealed_for: None,
        issued_at: None,
    };
    check(
        issued,
        &[
            (
                "the user's label added to the spec",
                |o| options(o).labels = map(&[("app", "orders")]),
                "mend | Active Ready Usable (Issued) | end",
            ),
            (
                "our label taken away",
                |o| secret(o).labels.clear(),
                "mend | Active Ready Usable (Issued) | end",
            ),
            (
                "our reference taken away",
                |o| secret(o).owned = false,
                "mend | Active Ready Usable (Issued) | end",
            ),
            (
                "somebody's own label added",
                |o| {
                    secret(o).labels.insert("other".to_owned(), "tool".to_owned());
                },
                ISSUED,
            ),
        ],
    );

    let mut observed = issued();
    secret(&mut observed).content = Content::Unattested(value().token());
    let plan = plan(&observed, now());
    let [Step::MendSecret(mend)] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
    let attest = mend.attest.as_ref().unwrap();
    assert_eq!((attest.value.id(), attest.serial, attest.claim.end), (value().token().id(), 0, at(END)));
    assert_eq!(plan.status, observed.token.status);
    assert_eq!(Some(&attest.claim.credential), plan.status.unwrap().credential_uid.as_ref());
}

#[test]
fn labels_and_annotations_follow_the_spec() {
    let mut world = World::fresh();
    let token = world.token.as_mut().unwrap();
    token.spec.secret = Some(SecretOptions {
        labels: map(&[("app", "orders"), ("tier", "a")]),
        annotations: map(&[("note", "x")]),
        ..SecretOptions::default()
    });
    let mut observed = world.settle(now()).observe().unwrap();
    assert_eq!(told(&observed, now()), ISSUED);

    secret(&mut observed).labels.insert("other".to_owned(), "tool".to_owned());
    secret(&mut observed).labels.insert("tier".to_owned(), "drifted".to_owned());
    options(&mut observed).labels.remove("app");
    let planned = plan(&observed, now());
    let [Step::MendSecret(mend)] = &planned.steps[..] else { panic!("{:?}", planned.steps) };
    let change = |key: &str, value: Option<&str>| (key.to_owned(), value.map(ToOwned::to_owned));
    assert_eq!(mend.dress.labels, [change("app", None), change("tier", Some("a"))].into());
    let published = r#"{"annotations":["note"],"labels":["tier"]}"#;
    assert_eq!(mend.dress.annotations, [change(name::PUBLISHED_ANNOTATION, Some(published))].into());

    observed.token.spec.secret = None;
    let planned = plan(&observed, now());
    let [Step::MendSecret(mend)] = &planned.steps[..] else { panic!("{:?}", planned.steps) };
    assert_eq!(mend.dress.labels, [change("app", None), change("tier", None)].into());
    assert_eq!(
        mend.dress.annotations,
        [change("note", None), change(name::PUBLISHED_ANNOTATION, None)].into()
    );
}

#[test]
fn the_list_of_what_was_published_takes_nothing_of_ours_away() {
    let mut observed = issued();
    let forged = format!(
        r#"{{"labels":["{}"],"annotations":["{}"]}}"#,
        name::MANAGED_BY_LABEL,
        name::ATTESTATION_ANNOTATION
    );
    let annotations = &mut secret(&mut observed).annotations;
    annotations.insert(name::ATTESTATION_ANNOTATION.to_owned(), "{}".to_owned());
    annotations.insert(name::PUBLISHED_ANNOTATION.to_owned(), forged);
    let planned = plan(&observed, now());
    let [Step::MendSecret(mend)] = &planned.steps[..] else { panic!("{:?}", planned.steps) };
    assert!(mend.dress.labels.is_empty());
    assert_eq!(mend.dress.annotations, [(name::PUBLISHED_ANNOTATION.to_owned(), None)].into());
}

// Lost values.

#[test]
fn a_lost_value_is_replaced_but_not_endlessly() {
    let issue = |serial| format!("create {serial} | Active Ready Usable (Issued) | end");
    let wait = |span| format!("- | Pending Reconciling (Pending) | {span}");
    for (replaced, expected) in [
        (&[][..], issue(1)),
        (&[59], wait("1s")),
        (&[60], issue(2)),
        (&[300, 59], wait("1s")),
        (&[300, 60], issue(3)),
        // The fourth within ten minutes, and just outside.
        (&[599, 300, 120], "- | Failed Stalled (Conflict) | 58m".to_owned()),
        (&[600, 300, 120], issue(4)),
        (&[600, 300, 10], wait("50s")),
        // The clock was set back.
        (&[-30], issue(2)),
    ] {
        let mut observed = issued();
        lost(&mut observed, replaced);
        assert_eq!(told(&observed, now()), expected, "{replaced:?}");
    }
}

#[test]
fn a_strange_secret_goes_though_its_replacement_waits() {
    let strange = issued().secret;
    for (replaced, expected) in [
        (&[10][..], "delete version 1 | Pending Reconciling (Pending) | 50s"),
        (&[300, 200, 100], "delete version 1 | Failed Stalled (Conflict) | 58m 20s"),
    ] {
        let mut observed = issued();
        lost(&mut observed, replaced);
        observed.secret = strange.clone();
        secret(&mut observed).content = Content::Strange;
        assert_eq!(told(&observed, now()), expected);
        assert_eq!(plan(&observed, now()).status.unwrap().digest, None);
    }
}

#[test]
fn lost_too_often_it_waits_for_a_touch_or_an_hour() {
    let stalled = |last| {
        let mut observed = issued();
        lost(&mut observed, &[last + 240, last + 120, last]);
        stalled_since(&mut observed, last - 60);
        observed
    };
    assert_eq!(
        told(&stalled(1800), now()),
        "- | Failed Stalled (Conflict) | 30m",
        "also long after the ten minutes"
    );
    assert_eq!(
        told(&stalled(3590), now()),
        "- | Failed Stalled (Conflict) | 10s",
        "though the first loss is more than an hour ago"
    );
    assert_eq!(told(&stalled(3600), now()), "create 4 | Active Ready Usable (Issued) | end", "after an hour");
    let mut touched = stalled(1800);
    touched.touched = true;
    assert_eq!(told(&touched, now()), "create 4 | Active Ready Usable (Issued) | end");
    assert_eq!(plan(&touched, now()).status.unwrap().replaced_at, [ago(0)]);
    // A touch that is older than the trouble does not count.
    let mut observed = issued();
    lost(&mut observed, &[240, 120, 60]);
    observed.touched = true;
    assert_eq!(told(&observed, now()), "- | Failed Stalled (Conflict) | 59m");
}

#[test]
fn replacements_are_remembered_as_far_as_they_matter() {
    let mut observed = issued();
    lost(&mut observed, &[9000, 8000, 7000]);
    assert_eq!(plan(&observed, now()).status.unwrap().replaced_at, [ago(8000), ago(7000), ago(0)]);
}

#[test]
fn a_conflict_that_is_over_is_not_a_value_lost_too_often() {
    let mut observed = issued();
    lost(&mut observed, &[1500, 1300, 1200]);
    stalled_since(&mut observed, 300);
    assert_eq!(
        told(&observed, now()),
        "create 4 | Active Ready Usable (Issued) | end",
        "the fourth loss came twenty minutes after the first"
    );
}

#[test]
fn without_the_key_of_its_digest_nothing_is_drawn_anew() {
    let missing = "- | Failed Stalled (KeyringMissing) | end";
    check(
        || {
            let mut observed = issued();
            observed.key_known = false;
            secret(&mut observed).content = Content::Strange;
            observed
        },
        &[
            ("the Secret there", |_| {}, missing),
            ("the Secret gone", |o| o.secret = SecretSeen::Absent, missing),
            ("revoked", |o| o.token.spec.revoked = Some(true), "delete | Revoked Ready (Revoked) | -"),
            ("ended", |o| o.token.spec.expires_at = Some(NOW.into()), "delete | Expired Ready (Expired) | -"),
            ("the credential gone", |o| o.credential = CredentialSeen::Gone, "delete, delete token | - | -"),
        ],
    );
    let mut observed = issued();
    observed.key_known = false;
    let digest = status(&mut observed).digest.clone();
    assert_eq!(plan(&observed, now()).status.unwrap().digest, digest, "the key may come back");
}

#[test]
fn a_refused_write_blames_the_server_and_changes_no_value() {
    let observed = issued();
    let before = observed.token.status.clone().unwrap();
    let planned = plan(&observed, now()).status;
    let status = refused(&observed.token, planned.as_ref(), Reason::QuotaExceeded, "no room", now());
    assert_eq!((&status.digest, status.state), (&before.digest, before.state));
    let told: Vec<_> = status
        .conditions
        .iter()
        .map(|condition| (&*condition.kind, &*condition.status, &*condition.reason))
        .collect();
    assert_eq!(
        told,
        [
            ("Ready", "False", "QuotaExceeded"),
            ("Usable", "True", "Issued"),
            ("Reconciling", "True", "QuotaExceeded")
        ]
    );
    let status = refused(
        &fresh().token,
        plan(&fresh(), now()).status.as_ref(),
        Reason::QuotaExceeded,
        "no room",
        now(),
    );
    assert_eq!(status.state, Some(ApiTokenState::Pending));
    assert!(
        status
            .conditions
            .iter()
            .any(|condition| { (&*condition.kind, &*condition.status) == ("Usable", "False") })
    );
}

#[test]
fn what_was_to_end_is_over_though_its_secret_cannot_be_deleted() {
    let mut observed = issued();
    observed.token.spec.revoked = Some(true);
    let planned = plan(&observed, now()).status;
    let status = refused(&observed.token, planned.as_ref(), Reason::Pending, "no deletes here", now());
    assert_eq!((status.state, status.digest.as_deref()), (Some(ApiTokenState::Revoked), None));
    assert!(status.secret.is_some(), "so that it is found again");
    assert!(!holds(&status, ConditionType::Usable) && !holds(&status, ConditionType::Ready));
    let status = refused(&issued().token, None, Reason::Pending, "no deletes here", now());
    assert!(!holds(&status, ConditionType::Usable), "of a credential that is gone");
}

#[test]
fn an_expired_credential_issues_nothing_when_the_clock_goes_back() {
    let mut observed = fresh();
    if let CredentialSeen::Present(credential) = &mut observed.credential {
        credential.spec.expires_at = Some(END.into());
        credential.status.get_or_insert_default().state = Some(CredentialState::Expired);
    }
    let planned = plan(&observed, now());
    assert!(planned.steps.is_empty());
    assert_eq!(planned.status.unwrap().state, Some(ApiTokenState::Expired));
}

// The two laws, on clusters in which anything may have happened.

fn instants() -> impl Strategy<Value = Option<Instant>> {
    prop_oneof![
        4 => Just(Some(END.into())),
        1 => Just(None),
        1 => Just(Some(NOW.into())),
        1 => Just(Some("2026-08-01T00:00:00Z".into())),
        1 => Just(Some("2027-01-01T00:00:00+02:60".into())),
    ]
}

prop_compose! {
    fn specs()(
        expires_at in instants(),
        expires_in in prop::option::weighted(0.1, prop::sample::select(vec!["90d", "1m", "1.5h"])),
        renew_before in prop::option::weighted(0.4, prop::sample::select(vec!["1w", "5d", "1m"])),
        revoked in prop::option::weighted(0.1, any::<bool>()),
        ttl in prop::option::weighted(0.3, prop::sample::select(vec!["1m", "1h", "30d", "10y", "1.5h"])),
        delivery in prop::option::of(deliveries()),
        labels in prop::option::of(labels()),
        annotations in labels(),
    ) -> ApiTokenSpec {
        // Chance alone would hardly ever make one that renews.
        let expires_in = expires_in.or(renew_before.map(|_| "3w"));
        ApiTokenSpec {
            credential_ref: CredentialReference { name: "nodes".to_owned() },
            expires_at,
            expires_in: expires_in.map(Into::into),
            renew_before: renew_before.map(Into::into),
            revoked,
            ttl_after_expired: ttl.map(Into::into),
            delivery,
            secret: labels.map(|labels| SecretOptions { name: None, labels, annotations }),
            ..ApiTokenSpec::default()
        }
    }
}

fn deliveries() -> impl Strategy<Value = Delivery> {
    let window = prop::option::of(prop::sample::select(vec!["30m", "2h", "9w", "soon"]));
    let recipients = prop::sample::subsequence(vec![sealed::AGE, sealed::SSH, "age1mistyped"], 0..3);
    let mode = prop::sample::select(vec![DeliveryMode::Secret, DeliveryMode::Once, DeliveryMode::Sealed]);
    (mode, window, recipients).prop_map(|(mode, window, recipients)| Delivery {
        mode,
        window: window.map(Into::into),
        recipients: recipients.into_iter().map(ToOwned::to_owned).collect(),
    })
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[ab]", "[xy]", 0..3)
}

prop_compose! {
    fn values()(
        seed in 100..103_u64,
        serial in 0..4_i64,
        term in prop::option::weighted(0.3, 0..4_i64),
        key in prop::sample::select(vec![KEY, "old"]),
        previous in prop::option::weighted(0.3, predecessors()),
        sealed_for in prop::option::of(prop::sample::select(vec![sealed::AGE, sealed::SSH])),
        issued_at in prop::option::of(recently()),
    ) -> Value {
        let sealed_for = sealed_for.map(|key| Recipients::mark_of(&[key.to_owned()]));
        Value { seed, serial, term, key, previous, sealed_for, issued_at }
    }
}

fn recently() -> impl Strategy<Value = Timestamp> {
    prop::sample::select(vec![-60, 0, 1700, 1800, 4000]).prop_map(|age| now() - age.seconds())
}

fn predecessors() -> impl Strategy<Value = Predecessor> {
    (0..3_i64, 0..4_i64, "[ab]").prop_map(|(serial, term, id)| {
        let digest = format!("hmac-sha256:{KEY}:{id}");
        Predecessor { serial, term, id, digest }
    })
}

prop_compose! {
    fn secrets()(
        uid in prop::sample::select(vec!["secret-a", "secret-b"]),
        owner in prop_oneof![
            4 => Just(Whose::This),
            1 => Just(Whose::Predecessor),
            1 => Just(Whose::Other)
        ],
        terminating in prop::bool::weighted(0.1),
        mut labels in labels(),
        mut annotations in labels(),
        ours in any::<bool>(),
        published in prop::option::of(prop::sample::select(vec![
            r#"{"labels":["a","b"],"annotations":["a"]}"#,
            r#"{"labels":["app.kubernetes.io/managed-by"],"annotations":["credential-operator.io/attestation"]}"#,
            "nonsense",
        ])),
        attested in any::<bool>(),
        value in prop::option::weighted(0.8, values()),
    ) -> Stored {
        labels.extend(ours.then(|| (name::MANAGED_BY_LABEL.to_owned(), name::MANAGED_BY.to_owned())));
        annotations.extend(published.map(|text| (name::PUBLISHED_ANNOTATION.to_owned(), text.to_owned())));
        Stored {
            uid: uid.to_owned(), version: 1, owner, terminating, labels,
            annotations, attested, value,
        }
    }
}

prop_compose! {
    fn statuses()(
        state in prop::option::of(prop::sample::select(vec![
            ApiTokenState::Pending, ApiTokenState::Active, ApiTokenState::Suspended,
            ApiTokenState::Expired, ApiTokenState::Revoked, ApiTokenState::Failed,
        ])),
        value in prop::option::weighted(0.8, values()),
        serial in prop::option::weighted(0.2, 0..4_i64),
        term in prop::option::weighted(0.2, 0..4_i64),
        previous in prop::option::weighted(0.3, predecessors()),
        digested in prop::bool::weighted(0.8),
        uid in prop::option::weighted(0.8, prop::sample::select(vec!["secret-a", "secret-b"])),
        issued_for in prop::option::weighted(0.8, prop_oneof![
            6 => Just(CREDENTIAL_UID.to_owned()), 1 => Just("earlier".to_owned())
        ]),
        issued_at in prop::option::of(prop_oneof![
            1 => Just("2026-05-02T00:00:00Z".into()),
            1 => Just("long ago".into()),
            2 => recently().prop_map(Instant::from),
        ]),
        delivered_at in prop::option::weighted(0.3, Just("2026-05-03T00:00:00Z")),
        mut replaced in prop::collection::vec(-60..4000_i64, 0..4),
        stalled in prop::option::weighted(0.3, 0..4000_i64),
        observed_generation in prop::option::of(1..3_i64),
    ) -> ApiTokenStatus {
        replaced.sort_unstable_by(|a, b| b.cmp(a));
        let attestation = value.as_ref().map(Value::attestation);
        ApiTokenStatus {
            observed_generation,
            state,
            serial: serial.or(value.as_ref().map(|value| value.serial)),
            term: term.or(value.and_then(|value| value.term)),
            previous: previous.map(|previous| PreviousToken {
                serial: previous.serial,
                term: previous.term,
                token_id: previous.id,
                digest: previous.digest,
                expires_at: NOW.into(),
            }),
            token_id: attestation.as_ref().map(|attestation| attestation.id.clone()),
            digest: attestation.map(|attestation| attestation.digest).filter(|_| digested),
            minted: None,
            issued_at,
            expires_at: None,
            delivered_at: delivered_at.map(Into::into),
            credential_uid: issued_for,
            secret: uid.map(|uid| ObjectReference { name: "laptop-token".to_owned(), uid: uid.to_owned() }),
            replaced_at: replaced.into_iter().map(ago).collect(),
            conditions: stalled.map(|since| Condition {
                kind: "Stalled".to_owned(),
                status: "True".to_owned(),
                observed_generation,
                last_transition_time: ago(since),
                reason: "Conflict".to_owned(),
                message: String::new(),
            }).into_iter().collect(),
        }
    }
}

prop_compose! {
    fn credentials()(
        uid in prop_oneof![6 => Just(CREDENTIAL_UID), 1 => Just("another")],
        inactive in any::<bool>(),
        terminating in prop::bool::weighted(0.2),
        expires_at in prop::option::weighted(0.3, instants()),
    ) -> Credential {
        let mut credential = Credential::new("nodes", CredentialSpec::default());
        credential.metadata.uid = Some(uid.to_owned());
        credential.spec.state = if inactive { DesiredState::Inactive } else { DesiredState::Active };
        credential.spec.expires_at = expires_at.flatten();
        if terminating {
            terminate(&mut credential.metadata);
        }
        credential
    }
}

prop_compose! {
    fn worlds()(
        spec in specs().boxed(),
        terminating in prop::bool::weighted(0.05),
        mut status in prop::option::weighted(0.9, statuses().boxed()),
        credential in prop::option::weighted(0.9, credentials().boxed()),
        mut secret in prop::option::weighted(0.8, secrets().boxed()),
        in_step in prop::bool::weighted(0.6),
        after_crash in prop::bool::weighted(0.3),
        in_place in any::<bool>(),
        old_key in prop::bool::weighted(0.8),
        acknowledged in prop::bool::weighted(0.2),
        annotations_changed in any::<bool>(),
        policy in prop::option::weighted(0.3, prop::sample::select(vec![
            Severity::Refused, Severity::Unguarded, Severity::Unknown, Severity::Count, Severity::Terms,
        ])),
    ) -> World {
        // Chance alone would hardly ever let the Secret hold what the status says, or the next value.
        let renews = spec.renew_before.is_some();
        let is_sealed = delivery::recipients(spec.delivery.as_ref()).is_some();
        if let (true, Some(secret), Some(status)) = (in_step, &mut secret, &mut status)
            && let (Some(value), Some(serial)) = (&mut secret.value, status.serial)
        {
            value.serial = if after_crash { serial + 1 } else { serial };
            if value.sealed_for.is_some() != is_sealed {
                value.sealed_for = is_sealed.then(|| Recipients::mark_of(&[sealed::AGE.to_owned()]));
            }
            if let Some(recorded) = &status.secret && (!after_crash || in_place && renews) {
                secret.uid.clone_from(&recorded.uid);
            }
            let term = status.term.unwrap_or_default();
            value.term = renews.then_some(if after_crash { term + 1 } else { term });
            if after_crash && renews {
                value.previous = status.token_id.clone().zip(status.digest.clone()).map(|(id, digest)| {
                    Predecessor { serial, term, id, digest }
                });
            }
            if !after_crash {
                status.term = value.term;
                status.digest = status.digest.take().map(|_| value.attestation().digest);
                status.token_id = status.token_id.take().map(|_| value.attestation().id);
            }
        }
        let mut world = World::fresh();
        let token = world.token.as_mut().unwrap();
        token.spec = spec;
        if acknowledged {
            token.metadata.annotations = status.as_ref().and_then(|status| {
                Some([(name::ACKNOWLEDGED_ANNOTATION.to_owned(), status.token_id.clone()?)].into())
            });
        }
        token.status = status;
        if terminating {
            terminate(&mut token.metadata);
        }
        // The context remembers annotations only while a token is stalled.
        let annotations_changed = annotations_changed && token.status.as_ref().is_some_and(|status| holds(status, ConditionType::Stalled));
        World {
            credential,
            secret,
            keys: if old_key { vec![KEY, "old"] } else { vec![KEY] },
            annotations_changed,
            policy: policy.map(breach),
            ..world
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn law_planning_again_yields_nothing(world in worlds()) {
        let mut after = world;
        after.apply(plan(&after.observe().unwrap(), now()), usize::MAX);
        if let Some(observed) = after.observe() {
            let again = plan(&observed, now());
            prop_assert!(again.steps.is_empty(), "{:?}", again.steps);
            if again.status.is_some() {
                prop_assert_eq!(again.status, observed.token.status);
            }
        }
    }

    #[test]
    fn law_stopping_anywhere_ends_the_same(world in worlds()) {
        let undisturbed = world.clone().settle(now());
        for limit in 0.. {
            let mut disturbed = world.clone();
            if !disturbed.apply(plan(&world.observe().unwrap(), now()), limit) {
                break;
            }
            prop_assert_eq!(&disturbed.settle(now()), &undisturbed, "after {} steps", limit);
        }
    }

    /// A token goes with its credential, or for its `ttlAfterExpired`, which nobody's status makes shorter.
    #[test]
    fn a_token_goes_for_a_reason_alone(world in worlds(), hours in 0..20_000_i64) {
        let now = now() + hours.hours();
        let observed = world.observe().unwrap();
        let plan = plan(&observed, now);
        let goes = plan.steps.iter().any(|step| matches!(step, Step::DeleteToken { .. }));
        let token = &observed.token;
        if goes && !matches!(observed.credential, CredentialSeen::Gone) {
            let at = |at: &Option<Instant>| at.as_ref().and_then(|at| at.timestamp().ok());
            let ends = [at(&token.spec.expires_at), world.credential.and_then(|held| at(&held.spec.expires_at))];
            let end = ends.into_iter().flatten().min().unwrap();
            let ttl = token.spec.ttl_after_expired.as_ref().unwrap().duration().unwrap();
            prop_assert!(end + ttl <= now && token.spec.expires_at.is_some());
            let created_at = token.metadata.creation_timestamp.as_ref().unwrap().0;
            prop_assert!(created_at + ttl <= now);
        }
        let last = plan.steps.len().checked_sub(1);
        let goes_last = last.is_none_or(|last| {
            let first = plan.steps[..last].iter();
            first.clone().all(|step| !matches!(step, Step::DeleteToken { .. }))
        });
        prop_assert!(goes_last && (!goes || plan.status.is_none()), "nothing is done or said after it");
    }

    /// Each wake lies ahead, and following them leads to an end even if nobody else ever acts.
    #[test]
    fn waking_is_never_late_and_does_not_go_on_forever(world in worlds()) {
        let (mut world, mut now) = (world, now());
        for _ in 0..80 {
            world.shown = now;
            let Some(observed) = world.observe() else { return Ok(()) };
            let plan = plan(&observed, now);
            world.apply(plan.clone(), usize::MAX);
            let Some(wake) = plan.wake else { return Ok(()) };
            prop_assert!(wake > now);
            // Others may stand in the way until the end.
            let others = observed.secret.waits_for_others();
            now = if others { wake.max(at(END)) } else { wake };
        }
        let spec = world.token.unwrap().spec;
        prop_assert!(spec.renew_before.is_some() && spec.expires_at.is_none(), "still waking at {now}");
    }
}
