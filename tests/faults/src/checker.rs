//! Watches the API server while something happens, and tells what must never be and was.
//!
//! It knows the laws alone, nothing of plans or scenarios: point it at any namespace. The laws bear the names that
//! docs/invariants.md gives them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use credential_operator::{
    api::{
        ApiToken, ApiTokenState, Credential, CredentialPolicy, CredentialState, Instant, Lifetime,
        credential::DesiredState, credential_policy::TokenType,
    },
    controller::{
        api_token::observe::{SEALED_KEY, attestation},
        credential::plan::owner,
    },
    domain::{
        binding::{Binding, BindingKey, controller},
        clock::Clock,
        digest::MaterialAttestation,
        keyring::Keyring,
        mint::Claims,
        name,
        policy::{Asked, Policies, Severity},
        token::Token,
    },
};
use futures::{Stream, StreamExt, future::join_all};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Secret, rbac::v1::RoleBinding};
use kube::{
    Api, Resource,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{self, sleep},
};

use crate::{
    acceptance::{Due, KNOWN_WITHIN, Seen},
    asked::{Asked as AskedVerifier, ELSEWHERE},
    authors,
    deliveries::{self, Deliveries},
    minted,
    run::{KEYRING, Violation},
    space::Space,
    state,
    world::Requests,
};

/// Creation times have whole seconds, and a watch takes a moment.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);
const OPERATOR: &str = "credential-operator";
/// By how much a plan may have set the clock back since it let a token go.
const SET_BACK: SignedDuration = SignedDuration::from_mins(90);
/// How often each value is presented.
const PRESENT_EVERY: Duration = Duration::from_millis(100);
/// By when a value that may be accepted must be, once nothing happens any more.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(10);

/// Watches one namespace.
pub struct Checker {
    facts: Arc<Mutex<Facts>>,
    // Dropped, they end.
    _watches: JoinSet<()>,
}

struct Facts {
    clock: Arc<dyn Clock>,
    keys: BTreeMap<String, Vec<u8>>,
    secrets: HashMap<String, Known>,
    /// Which values became readable, by token and serial.
    values: HashMap<(String, i64), BTreeSet<String>>,
    /// Which material became readable, by credential and serial: its digests, of which each is of one value.
    material: HashMap<(String, i64), BTreeSet<String>>,
    /// The ids of values that a status ever named. No other is ever accepted.
    named: HashSet<String>,
    tokens: HashMap<String, TokenSeen>,
    /// Values that came too late, and what is to be said of them.
    late: Vec<(String, String)>,
    found: Vec<Violation>,
    slowest_end: Duration,
    /// What a verifier may accept.
    acceptance: Seen,
    deliveries: Deliveries,
}

/// A Secret that was seen.
enum Known {
    /// It holds a value of that token, until that end.
    Value { token: String, value: String, end: Option<Timestamp> },
    /// It is none of the operator's.
    Foreign,
    /// It is the keyring, or something of the operator's that somebody edited.
    Other,
}

#[derive(Default)]
struct TokenSeen {
    /// The ends of its values, by their ids.
    ends: BTreeMap<String, Timestamp>,
    /// The Secret, the value and its term that its status last told of.
    held: Option<(String, String, Option<i64>)>,
    over: Option<ApiTokenState>,
    /// Its Secret went at its end.
    ended: bool,
    /// When it goes by its `ttlAfterExpired`.
    goes_at: Option<Timestamp>,
    /// Where the API server mints it: its end.
    minted_until: Option<Timestamp>,
}

impl Checker {
    /// Watches a namespace; `clock` is that of the operator.
    #[must_use]
    pub fn watch(space: &Space, clock: Arc<dyn Clock>) -> Self {
        let facts = Arc::new(Mutex::new(Facts {
            clock,
            keys: BTreeMap::new(),
            secrets: HashMap::new(),
            values: HashMap::new(),
            material: HashMap::new(),
            named: HashSet::new(),
            late: Vec::new(),
            tokens: HashMap::new(),
            found: Vec::new(),
            slowest_end: Duration::ZERO,
            acceptance: Seen::default(),
            deliveries: Deliveries::default(),
        }));
        let mut watches = JoinSet::new();
        let secrets = watcher(space.api::<Secret>(), watcher::Config::default());
        watches.spawn(feed(facts.clone(), secrets, Facts::secret_seen, Facts::secret_gone));
        let tokens = watcher(space.api::<ApiToken>(), watcher::Config::default());
        watches.spawn(feed(facts.clone(), tokens, Facts::token_seen, Facts::token_gone));
        let credentials = watcher(space.api::<Credential>(), watcher::Config::default());
        watches.spawn(feed(facts.clone(), credentials, Facts::credential_seen, Facts::holder_gone));
        Self { facts, _watches: watches }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest time from the end of a value to the end of its Secret.
    #[must_use]
    pub fn slowest_end(&self) -> Duration {
        self.facts().slowest_end
    }

    /// How many values became readable that no status ever named.
    #[must_use]
    pub fn never_named(&self) -> usize {
        self.facts().never_named()
    }

    /// Presents every value to a verifier again and again, and holds the answers against S1 to S3. Never returns.
    pub async fn present_to(&self, verifier: &AskedVerifier) {
        loop {
            let values = self.facts().acceptance.values();
            join_all(values.iter().map(|value| self.present(verifier, value))).await;
            self.facts().find_certain(false);
            sleep(PRESENT_EVERY).await;
        }
    }

    /// Presents a value; returns whether it was accepted.
    async fn present(&self, verifier: &AskedVerifier, value: &str) -> bool {
        let clock = self.facts().clock.clone();
        let (sent, before) = (time::Instant::now(), clock.now());
        let told = verifier.present("", value).await;
        let after = clock.now();
        let elsewhere = verifier.present(ELSEWHERE, value).await;
        let mut facts = self.facts();
        if let Some(told) = &told {
            for (law, what) in facts.acceptance.told(value, told, sent, [before, after]) {
                facts.report(law, what);
            }
        }
        if elsewhere.is_some_and(|told| told.status == 200) {
            facts.report("S3", "a value was accepted for an audience that it is not for".to_owned());
        }
        told.is_some_and(|told| told.status == 200)
    }

    /// Waits, when nothing happens any more, until `verifier` accepts what may be accepted, and nothing else.
    pub async fn conclude(&self, verifier: &AskedVerifier) {
        let deadline = time::Instant::now() + ACCEPTED_WITHIN;
        loop {
            let due = {
                let facts = self.facts();
                facts.acceptance.due(time::Instant::now(), facts.clock.now())
            };
            let mut open = Vec::new();
            for (value, due) in due {
                let is_accepted = self.present(verifier, &value).await;
                match due {
                    Due::Acceptance if !is_accepted => open.push(value),
                    Due::RefusalSoon => open.push(value),
                    Due::Acceptance | Due::Refusal => {}
                }
            }
            self.facts().find_certain(true);
            if open.is_empty() {
                return;
            }
            if time::Instant::now() >= deadline {
                let ids = open.iter().filter_map(|value| Token::parse(value).ok());
                let ids: Vec<_> = ids.map(|value| value.id().to_owned()).collect();
                return self.facts().report("usable", format!("values that are good are refused: {ids:?}"));
            }
            sleep(KNOWN_WITHIN / 8).await;
        }
    }

    /// What must never be and was, with what only the end and the API server's log can tell.
    ///
    /// Where two operators may have been at work at one time, a request of the one may arrive long after it was sent, and
    /// make a value of which the other's status knows nothing. The API server cannot fence a create off; so there a value
    /// that no status ever names, and nobody ever accepts, is no violation.
    pub async fn end(&self, space: &Space, requests: &Requests, race: bool) -> Vec<Violation> {
        let now = self.facts().clock.now();
        let audit = &requests.operator;
        let mut found = bindings(space, now).await;
        let gained = authors::gained(&space.client, audit, &requests.authors).await;
        found.extend(gained.into_iter().map(|what| violation("S7", what)));
        found.extend(minted::wrong(space, now).await.into_iter().map(|what| violation("S18", what)));
        let mut facts = self.facts();
        found.append(&mut facts.found);
        found.extend(facts.values_seen_twice(race));
        found.extend(facts.deliveries.violations(audit).into_iter().map(|(law, what)| violation(law, what)));
        for event in audit.iter().filter(|event| event.verb.starts_with("delete")) {
            let uid = event.request_object.as_ref().and_then(|body| body["preconditions"]["uid"].as_str());
            match uid {
                None => {
                    found.push(violation("S6", format!("no UID in {} {}", event.verb, event.request_uri)));
                }
                Some(uid) if matches!(facts.secrets.get(uid), Some(Known::Foreign)) => {
                    found.push(violation(
                        "S5",
                        format!("a Secret of others was to be deleted: {}", event.request_uri),
                    ));
                }
                Some(_) => {}
            }
        }
        found
    }
}

impl Facts {
    /// Reports what the verifier accepted though it was dead; `all`: nothing is under way any more.
    fn find_certain(&mut self, all: bool) {
        for (law, what) in self.acceptance.certain(time::Instant::now(), all) {
            self.report(law, what);
        }
    }

    fn holder_gone(&mut self, uid: &str, _: Option<u64>) {
        self.deliveries.owner_gone(uid);
        self.acceptance.gone(uid, time::Instant::now());
    }

    fn token_gone(&mut self, uid: &str, version: Option<u64>) {
        let goes_at = self.tokens.get(uid).and_then(|seen| seen.goes_at);
        if let Some(at) = goes_at.filter(|at| self.clock.now() + SET_BACK < *at) {
            self.report("S15", format!("an ApiToken that was to go at {at} went before"));
        }
        self.holder_gone(uid, version);
    }

    fn report(&mut self, law: &'static str, what: String) {
        let violation = violation(law, what);
        if !self.found.contains(&violation) {
            self.found.push(violation);
        }
    }

    /// How many values became readable that no status ever named.
    fn never_named(&self) -> usize {
        self.values.values().flatten().filter(|value| !self.is_named(value)).count()
    }

    fn is_named(&self, value: &str) -> bool {
        if let Some(claims) = Claims::read(value) {
            return claims.jti.is_some_and(|id| self.named.contains(&id));
        }
        Token::parse(value).is_ok_and(|value| self.named.contains(value.id()))
    }

    /// S4 and S10.
    fn values_seen_twice(&self, race: bool) -> Vec<Violation> {
        let counts = |value: &String| !race || self.is_named(value);
        let twice =
            self.values.iter().filter(|(_, values)| values.iter().filter(|value| counts(value)).count() > 1);
        let twice = twice.map(|((_, serial), values)| {
            violation("S4", format!("there were {} values of one token and serial {serial}", values.len()))
        });
        let late = self.late.iter().filter(|(value, _)| counts(value));
        let named = |digest: &&String| !race || self.named.contains(*digest);
        let material = self.material.iter().filter(|(_, digests)| digests.iter().filter(named).count() > 1);
        let material = material.map(|((_, serial), digests)| {
            violation(
                "S4",
                format!("there were {} values of one material and serial {serial}", digests.len()),
            )
        });
        twice.chain(material).chain(late.map(|(_, what)| violation("S10", what.clone()))).collect()
    }

    fn secret_seen(&mut self, secret: &Secret) {
        let metadata = &secret.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let uid = metadata.uid.clone().unwrap_or_default();
        if name == KEYRING {
            let data = secret.data.iter().flatten();
            self.keys.extend(data.map(|(id, bytes)| (id.clone(), bytes.0.clone())));
            return;
        }
        self.acceptance.secret(secret, time::Instant::now());
        self.deliveries.secret(secret);
        self.material_seen(secret);
        let now = self.judge(secret);
        let renewed = match (self.secrets.get(&uid), &now) {
            // It is made before the token that it takes.
            (Some(Known::Other), Known::Value { .. }) => minted::found(secret).is_some(),
            (Some(Known::Value { value: before, .. }), Known::Value { value, .. }) => value != before,
            _ => false,
        };
        if let Some(known) = self.secrets.get(&uid).filter(|_| !renewed) {
            let managers = metadata.managed_fields.iter().flatten();
            let touched = managers.into_iter().any(|entry| entry.manager.as_deref() == Some(OPERATOR));
            if matches!(known, Known::Foreign) && touched {
                self.report("S5", format!("Secret {name} of others was changed"));
            }
            return;
        }
        self.secrets.remove(&uid);
        if let Known::Value { token, value, end } = &now {
            let minted = minted::found(secret);
            if minted.as_ref().is_some_and(|minted| !minted.bound) {
                self.report("S18", format!("the token in Secret {name} does not die with it"));
            }
            let serial = minted.map(|minted| minted.serial);
            let serial =
                serial.or_else(|| attestation(metadata).map(|attestation| attestation.serial)).unwrap_or(0);
            self.values.entry((token.clone(), serial)).or_default().insert(value.clone());
            let another = self.secrets.values().any(|other| {
                matches!(other, Known::Value { token: of, value: held, .. } if of == token && held != value)
            });
            if another {
                self.report("S4", format!("two values of Secret {name} are there at one time"));
            }
            let late = self.clock.now().checked_sub(TOLERANCE).ok();
            let ended = self.tokens.get(token).is_some_and(|seen| seen.ended);
            if let (Some(end), Some(late)) = (end, late)
                && (ended || *end < late)
            {
                self.late.push((value.clone(), format!("Secret {name} was created after the end {end}")));
            }
        }
        self.secrets.insert(uid, now);
    }

    fn keyring(&self) -> Keyring {
        Keyring::read(self.keys.iter().map(|(id, bytes)| (id, bytes.as_slice())))
    }

    fn material_seen(&mut self, secret: &Secret) {
        let metadata = &secret.metadata;
        let said = metadata.annotations.as_ref().and_then(|said| said.get(name::ATTESTATION_ANNOTATION));
        if let (Some(owner), Some(said)) = (controller(metadata), said)
            && owner.kind == "Credential"
            && let Ok(said) = MaterialAttestation::read(said, &self.keyring(), &owner.uid)
        {
            let digests = self.material.entry((owner.uid.clone(), said.serial())).or_default();
            digests.extend(said.material.digest);
        }
    }

    fn credential_seen(&mut self, credential: &Credential) {
        self.acceptance.credential(credential, time::Instant::now());
        self.deliveries.credential(credential);
        let Some(material) = credential.status.as_ref().and_then(|status| status.material.as_ref()) else {
            return;
        };
        self.named.extend(material.digest.clone());
        let uid = credential.metadata.uid.clone().unwrap_or_default();
        let serial = material.serial.unwrap_or_default();
        let readable = self.material.get(&(uid, serial)).is_none_or(|digests| {
            material.digest.as_ref().is_none_or(|digest| digests.is_empty() || digests.contains(digest))
        });
        // The watch of Secrets may lag behind this one, so only what contradicts it counts.
        if !readable {
            let name = credential.metadata.name.as_deref().unwrap_or_default();
            self.report(
                "S4",
                format!("the status of Credential {name} tells of other material than its Secret"),
            );
        }
    }

    fn judge(&self, secret: &Secret) -> Known {
        let metadata = &secret.metadata;
        let owner = controller(metadata).filter(|owner| owner.kind == "ApiToken");
        let ours =
            metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_deref() == Some(OPERATOR));
        let text = deliveries::value(secret);
        let sealed = secret.data.as_ref().and_then(|data| data.get(SEALED_KEY));
        let value = text.as_deref().and_then(|text| Token::parse(text).ok());
        let keyring = self.keyring();
        if let (Some(owner), Some(attestation), Some(value), Some(text)) =
            (owner, attestation(metadata), value, text)
            && match sealed {
                Some(sealed) => attestation.verify_sealed(&keyring, &owner.uid, &sealed.0).is_ok(),
                None => attestation.verify(&keyring, &owner.uid, &value).is_ok(),
            }
        {
            return Known::Value {
                token: owner.uid.clone(),
                value: text,
                end: attestation.end.timestamp().ok(),
            };
        }
        if let Some(minted) = minted::found(secret) {
            let end = self.tokens.get(&minted.token).and_then(|seen| seen.minted_until);
            return Known::Value { token: minted.token, value: minted.value, end };
        }
        if ours { Known::Other } else { Known::Foreign }
    }

    fn secret_gone(&mut self, uid: &str, since: Option<u64>) {
        self.deliveries.secret_gone(uid, since);
        if let Some(Known::Value { token, end: Some(end), .. }) = self.secrets.get(uid) {
            let late = self.clock.now().duration_since(*end);
            self.tokens.entry(token.clone()).or_default().ended |= !late.is_negative();
            // An hour and more is a stepped clock, not a slow operator.
            if late.is_positive() && late < SignedDuration::from_mins(30) {
                let late = Duration::try_from(late).unwrap_or_default();
                self.slowest_end = self.slowest_end.max(late);
            }
        }
        if !matches!(self.secrets.get(uid), Some(Known::Foreign)) {
            self.secrets.remove(uid);
        }
    }

    fn token_seen(&mut self, token: &ApiToken) {
        self.acceptance.token(token, time::Instant::now());
        self.deliveries.token(token);
        let uid = token.metadata.uid.clone().unwrap_or_default();
        let name = token.metadata.name.clone().unwrap_or_default();
        let created = token.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |at| at.0);
        let ttl = token.spec.ttl_after_expired.as_ref().map(Lifetime::duration).and_then(Result::ok);
        let end = token.spec.expires_at.as_ref().map(Instant::timestamp).and_then(Result::ok);
        self.tokens.entry(uid.clone()).or_default().goes_at =
            end.zip(ttl).map(|(end, ttl)| end.max(created) + ttl);
        self.tokens.entry(uid.clone()).or_default().minted_until = minted::end(token);
        let Some(status) = &token.status else { return };
        self.named.extend(status.token_id.clone());
        let text = json!(status).to_string();
        if self.values.values().flatten().any(|value| text.contains(value.as_str())) {
            self.report("S9", format!("the status of ApiToken {name} holds the value"));
        }
        let now = self.clock.now();
        let seen = self.tokens.entry(uid).or_default();
        let over = seen.over;
        if matches!(status.state, Some(ApiTokenState::Expired | ApiTokenState::Revoked)) {
            seen.over = status.state;
        }
        let previous = status.previous.as_ref().map(|previous| (&previous.token_id, &previous.expires_at));
        let current = status.token_id.as_ref().zip(status.expires_at.as_ref());
        let mut told = Vec::new();
        for (id, end) in current.into_iter().chain(previous) {
            let Ok(end) = end.timestamp() else { continue };
            let before = *seen.ends.entry(id.clone()).or_insert(end);
            if end > before {
                told.push((
                    "S11",
                    format!("the end of a value of ApiToken {name} moved from {before} to {end}"),
                ));
            }
            seen.ends.insert(id.clone(), end);
        }
        // In the same Secret it was renewed, not lost; within a term it is for others by now.
        let holds = status.secret.as_ref().zip(status.token_id.clone());
        let holds = holds.map(|(secret, id)| (secret.uid.clone(), id, status.term));
        if let (Some((secret, before, term)), Some((same, id, _))) = (&seen.held, &holds)
            && token.spec.token_type == TokenType::Opaque
            && secret == same
            && before != id
            && *term != status.term
            && previous.is_none_or(|(previous, _)| previous != before)
            && seen.ends.get(before).is_some_and(|end| now.checked_add(TOLERANCE).is_ok_and(|now| now < *end))
        {
            told.push((
                "S14",
                format!("a value of ApiToken {name} was renewed and is refused before its end"),
            ));
        }
        seen.held = holds;
        for (law, what) in told {
            self.report(law, what);
        }
        if over.is_some_and(|over| status.state != Some(over) && status.state != Some(ApiTokenState::Revoked))
        {
            self.report("S10", format!("ApiToken {name} was {over:?} and is {:?}", status.state));
        }
    }
}

/// Whether policies have nothing against a credential for which its roles would be taken away.
fn is_allowed(policies: &Policies, credential: &Credential, space: &Space) -> bool {
    let labels = [("kubernetes.io/metadata.name".to_owned(), space.namespace.clone())].into();
    let asked = Asked { spec: &credential.spec, namespace: &space.namespace, behind: 0 };
    let breaches = policies.within(Some(&labels)).credential(&asked, Timestamp::UNIX_EPOCH);
    breaches.iter().all(|breach| breach.severity != Severity::Refused)
}

/// S8: the bindings are the roles of the active credentials, as far as policies allow.
async fn bindings(space: &Space, now: Timestamp) -> Vec<Violation> {
    let params = ListParams::default();
    let credentials =
        space.api::<Credential>().list(&params).await.map(|list| list.items).unwrap_or_default();
    let policies: Api<CredentialPolicy> = Api::all(space.client.clone());
    let here = ListParams::default().labels(&format!("run={}", space.namespace));
    let policies = policies.list(&here).await.map(|list| list.items).unwrap_or_default();
    let policies = Policies::new(policies, Vec::new());
    let active = credentials.iter().filter(|credential| {
        let end = credential.spec.expires_at.as_ref().map(Instant::timestamp).and_then(Result::ok);
        // Once expired, always expired, though the clock be set back.
        let state = credential.status.as_ref().and_then(|status| status.state);
        credential.spec.state == DesiredState::Active
            && credential.metadata.deletion_timestamp.is_none()
            && state != Some(CredentialState::Expired)
            && is_allowed(&policies, credential, space)
            && end.is_none_or(|end| now < end)
    });
    let expected: BTreeSet<BindingKey> = active
        .flat_map(|credential| owner(credential).bindings(&credential.spec.roles).into_keys())
        .collect();
    let ours = params.labels(name::MANAGED_BY_SELECTOR);
    let mut found: BTreeSet<BindingKey> =
        state::everywhere(space).await.into_iter().map(|found| Binding::from(found).key()).collect();
    let within = space.api::<RoleBinding>().list(&ours).await.map(|list| list.items).unwrap_or_default();
    let within = within.into_iter().chain(state::elsewhere(space).await);
    found.extend(within.map(|found| Binding::from(found).key()));
    let more =
        found.difference(&expected).map(|key| format!("{key} grants what no active credential asks for"));
    let less = expected.difference(&found).map(|key| format!("{key} is missing"));
    more.chain(less).map(|what| violation("S8", what)).collect()
}

fn violation(law: &'static str, what: String) -> Violation {
    Violation { law, what }
}

async fn feed<K: Resource>(
    facts: Arc<Mutex<Facts>>,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    seen: fn(&mut Facts, &K),
    gone: fn(&mut Facts, &str, Option<u64>),
) {
    let mut events = std::pin::pin!(events.default_backoff());
    let mut present = HashSet::new();
    let mut listed = HashSet::new();
    let uid = |object: &K| object.meta().uid.clone().unwrap_or_default();
    while let Some(event) = events.next().await {
        let Ok(event) = event else { continue };
        let mut facts = facts.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                listed.insert(uid(&object));
                seen(&mut facts, &object);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut listed);
                present.difference(&listed).for_each(|uid: &String| gone(&mut facts, uid, None));
                present = listed;
            }
            Event::Apply(object) => {
                present.insert(uid(&object));
                seen(&mut facts, &object);
            }
            Event::Delete(object) => {
                present.remove(&uid(&object));
                gone(&mut facts, &uid(&object), Some(deliveries::version(&object)));
            }
        }
    }
}
