//! Watches the API server while something happens, and tells what must never be and was.
//!
//! It knows the laws alone, nothing of plans or scenarios: point it at any namespace. The laws bear the names that
//! docs/invariants.md gives them.

mod facts;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use credential_operator::{
    api::{ApiToken, Credential, CredentialPolicy, CredentialState, Instant, credential::DesiredState},
    controller::credential::plan::owner,
    domain::{
        binding::{Binding, BindingKey},
        clock::Clock,
        name,
        policy::{Asked, Policies, Severity},
        token::Token,
    },
};
use futures::{Stream, StreamExt, future::join_all};
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Secret, rbac::v1::RoleBinding};
use kube::{
    Api, Resource,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{
    task::JoinSet,
    time::{self, sleep},
};

use self::facts::Facts;
use crate::{
    acceptance::{Due, KNOWN_WITHIN},
    asked::{Asked as AskedVerifier, ELSEWHERE},
    authors,
    deliveries::{self},
    minted,
    run::Violation,
    space::Space,
    state,
    world::Requests,
};

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

impl Checker {
    /// Watches a namespace; `clock` is that of the operator.
    #[must_use]
    pub fn watch(space: &Space, clock: Arc<dyn Clock>) -> Self {
        let facts = Arc::new(Mutex::new(Facts::new(clock)));
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
                Some(uid) if facts.is_foreign(uid) => {
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
