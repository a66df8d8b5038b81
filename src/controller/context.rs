//! What reconciles share: the client, the clock, the caches, the keyring, and a memory that may be lost at any time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Namespace, Secret, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{Client, core::PartialObjectMeta};
use rand::CryptoRng;
use tokio::time::Instant;
use tracing::warn;

use super::{
    Place, admission, api_token,
    cache::Cache,
    draws::Draws,
    events::Events,
    metrics::Metrics,
    panics::Panics,
    policies::Judgements,
    queue::{self, Queue},
};
use crate::{
    api::{ApiToken, ApiTokenStatus, Credential, CredentialPolicy, credential_policy::TokenType},
    controller::credential::plan::is_expired,
    domain::{
        binding::{Binding, BindingKey},
        clock::Clock,
        digest::Attestation,
        keyring::{Key as SigningKey, Keyring},
        reach::Reach,
        token::Prefix,
    },
};

/// How many objects are worked on at a time; those of one namespace take at most half.
const PLACES: usize = 64;
/// How often the token counts of one credential are written at most.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// By how much two watches may differ in what they have shown, at the most that we reckon with.
const SKEW: Duration = Duration::from_mins(1);
/// How long a Secret that is made for a token of the API server's may stay empty, if another leader is about to fill it.
const FILLED_WITHIN: Duration = Duration::from_secs(1);
/// How many tokens may have lost their Secret and not say so yet.
const LAST_WORDS: usize = 1_000;

/// What differs from one installation to the next.
#[derive(Clone, Debug)]
pub struct Config {
    /// The operator's own namespace, where the keyring lives.
    pub namespace: String,
    /// The name of the keyring's Secret.
    pub keyring_secret: String,
    /// What tokens start with.
    pub token_prefix: Prefix,
    /// Whether the API server may be asked for tokens. Off unless somebody wishes it: the right to mint is a great one.
    pub service_account_tokens: bool,
    /// Which namespaces it works in.
    pub reach: Reach,
}

/// What a reconcile is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A credential.
    Credential(Place),
    /// A token.
    ApiToken(Place),
    /// The keyring.
    Keyring,
    /// Bindings whose credential is gone.
    Sweep,
    /// Whom the policies concern, and how many.
    Policies,
    /// Whether the admission policies are in force.
    Admission,
}

impl Key {
    /// The key of a credential.
    #[must_use]
    pub fn credential(credential: &Credential) -> Self {
        Self::Credential(Place::of(credential))
    }

    /// The key of a token.
    #[must_use]
    pub fn api_token(token: &ApiToken) -> Self {
        Self::ApiToken(Place::of(token))
    }
}

impl queue::Key for Key {
    fn lane(&self) -> &str {
        match self {
            Self::Credential(place) | Self::ApiToken(place) => place.namespace(),
            Self::Keyring | Self::Sweep | Self::Policies | Self::Admission => "",
        }
    }
}

/// All that reconciles share.
pub struct Context {
    /// Where requests go.
    pub client: Client,
    /// What the time is.
    pub clock: Arc<dyn Clock>,
    /// What differs from one installation to the next.
    pub config: Config,
    /// What to do, and when.
    pub queue: Queue<Key>,
    /// All tokens, by credential.
    pub tokens: Cache<ApiToken>,
    /// All credentials.
    pub credentials: Cache<Credential>,
    /// The metadata of the Secrets that we made. Their values never come here.
    pub secrets: Cache<PartialObjectMeta<Secret>>,
    /// The metadata of the Secrets that users provide. Their values are read when they are needed, and not kept.
    pub provided: Cache<PartialObjectMeta<Secret>>,
    /// The metadata of the `ServiceAccount`s that we made.
    pub accounts: Cache<PartialObjectMeta<ServiceAccount>>,
    /// The `RoleBinding`s that we made, by credential.
    pub role_bindings: Cache<RoleBinding>,
    /// The `ClusterRoleBinding`s that we made, by credential.
    pub cluster_role_bindings: Cache<ClusterRoleBinding>,
    /// The keyring's Secret, and no other.
    pub keyring_secret: Cache<Secret>,
    /// All policies.
    pub policies: Cache<CredentialPolicy>,
    /// The metadata of all namespaces, by whose labels policies select them.
    pub namespaces: Cache<PartialObjectMeta<Namespace>>,
    /// Objects that are held back since their reconcile panicked.
    pub panics: Panics,
    /// Draws that take long.
    pub draws: Draws,
    /// What Prometheus is told.
    pub metrics: Metrics,
    /// Where events are sent.
    pub events: Events,
    /// Whether something new is made only while the admission policies are in force.
    pub(super) needs_admission: bool,
    random: Mutex<Box<dyn CryptoRng + Send>>,
    keyring: RwLock<Arc<Keyring>>,
    memory: Mutex<Memory>,
}

/// What is remembered from one reconcile to the next. All of it may be lost at any time.
#[derive(Default)]
pub(super) struct Memory {
    /// Something of a name that we wanted is there, and no watch shows it.
    pub(super) in_the_way: HashSet<Key>,
    /// When the tokens of a credential were last counted.
    counted: HashMap<Key, Instant>,
    /// A hash of the annotations that a token had when it stalled.
    stalled: HashMap<Key, u64>,
    /// When something that was made for it was last seen to go.
    vanished: HashMap<Key, Instant>,
    /// The credentials, by UID, whose end was reached and whose status does not tell so yet.
    ended: HashMap<Key, String>,
    /// The version in which a Secret with material was last seen to hold what the operator said.
    whole: HashMap<Key, HashMap<Place, String>>,
    /// Empty Secrets that somebody else may be about to fill: in which version, and since when that is known.
    unfilled: HashMap<Key, (String, Instant)>,
    /// The last status of a token whose Secret is gone already, and the version that it is for.
    last_words: HashMap<Key, (Option<String>, ApiTokenStatus)>,
    /// What was issued to be delivered once, until the status tells of it.
    unsaid: HashMap<Key, Attestation>,
    /// The UIDs of objects that claim to be made for one that is gone, and cannot prove it.
    unproven: HashMap<Key, BTreeSet<String>>,
    /// The Secrets with material of Credentials that no longer exist.
    orphaned: HashMap<Key, BTreeSet<Place>>,
    /// What policies say, and of whom they were found to be violated.
    pub(super) policy: Judgements,
}

impl Context {
    /// A context that has seen nothing yet.
    #[must_use]
    pub fn new(
        client: Client,
        clock: Arc<dyn Clock>,
        random: Box<dyn CryptoRng + Send>,
        config: Config,
    ) -> Self {
        let scopes = config.reach.scopes();
        let everywhere = scopes.iter().filter(|scope| scope.is_none()).cloned();
        Self {
            events: Events::new(client.clone()),
            client,
            queue: Queue::new(clock.clone(), PLACES),
            clock,
            tokens: Cache::of(scopes.clone()),
            credentials: Cache::of(scopes.clone()),
            secrets: Cache::of(scopes.clone()),
            provided: Cache::of(scopes.clone()),
            accounts: Cache::of(scopes.clone()),
            role_bindings: Cache::of(scopes.clone()),
            cluster_role_bindings: Cache::of(everywhere),
            config,
            keyring_secret: Cache::default(),
            policies: Cache::default(),
            namespaces: Cache::default(),
            panics: Panics::default(),
            draws: Draws::default(),
            metrics: Metrics::default(),
            needs_admission: false,
            random: Mutex::new(random),
            keyring: RwLock::default(),
            memory: Mutex::default(),
        }
    }

    /// One that makes something new only while the admission policies are in force.
    #[must_use]
    pub fn guarded(mut self) -> Self {
        self.needs_admission = true;
        self.memory().policy = Judgements::unguarded(admission::NOT_KNOWN);
        self
    }

    /// Whether every watch has shown all there is.
    pub fn has_seen_all(&self) -> bool {
        self.tokens.is_complete()
            && self.credentials.is_complete()
            && self.secrets.is_complete()
            && self.provided.is_complete()
            && self.accounts.is_complete()
            && self.role_bindings.is_complete()
            && self.cluster_role_bindings.is_complete()
            && self.policies.is_complete()
            && self.namespaces.is_complete()
            && self.keyring_secret.is_complete()
    }

    /// Draws something at random.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut dyn CryptoRng) -> T) -> T {
        draw(&mut **self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys, as last read.
    pub fn keyring(&self) -> Arc<Keyring> {
        self.keyring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The key that signs now. Work begins only once there is one.
    pub fn signing_key(&self) -> Option<SigningKey> {
        self.keyring().signing(self.clock.now()).cloned()
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something that no watch shows was in the way the last time.
    pub fn must_look(&self, key: &Key) -> bool {
        self.memory().in_the_way.contains(key)
    }

    /// The object is gone; whatever comes in its place is another.
    pub(super) fn forget(&self, key: &Key) {
        self.queue.wake(key, None);
        self.draws.forget(key);
        let mut memory = self.memory();
        memory.in_the_way.remove(key);
        memory.counted.remove(key);
        memory.stalled.remove(key);
        memory.last_words.remove(key);
        memory.ended.remove(key);
        memory.whole.remove(key);
        memory.unsaid.remove(key);
        memory.unfilled.remove(key);
        memory.policy.forget(key);
    }

    /// Whether the Secret at `place` was seen in this version, and held what the operator said of it for its owner.
    pub fn is_whole(&self, owner: &Key, place: &Place, version: &str) -> bool {
        let memory = self.memory();
        let known = memory.whole.get(owner).and_then(|secrets| secrets.get(place));
        known.is_some_and(|whole| whole == version)
    }

    /// The Secret at `place` holds, in this version, what the operator said of it for its owner.
    pub(super) fn note_whole(&self, owner: &Key, place: &Place, version: &str) {
        let mut memory = self.memory();
        let secrets = memory.whole.entry(owner.clone()).or_default();
        secrets.insert(place.clone(), version.to_owned());
    }

    /// Whether the empty Secret of that version may be about to be filled by another leader. Two that each took the Secret of
    /// the other away would never come to an end.
    pub fn may_be_filled(&self, owner: &Key, version: &str) -> bool {
        let unfilled = &mut self.memory().unfilled;
        let known = unfilled.get(owner).filter(|(known, _)| known == version).map(|(_, since)| *since);
        let since = known.unwrap_or_else(Instant::now);
        let may_be = since.elapsed() < FILLED_WITHIN;
        if may_be {
            unfilled.insert(owner.clone(), (version.to_owned(), since));
        } else {
            unfilled.remove(owner);
        }
        may_be
    }

    /// The Secret at `place` is not the credential's any more.
    pub(super) fn forget_whole(&self, credential: &Key, place: &Place) {
        if let Some(secrets) = self.memory().whole.get_mut(credential) {
            secrets.remove(place);
        }
    }

    /// The end of a credential is reached: what is taken away at it stays so, should the clock be set back before the status
    /// tells of it.
    pub(super) fn note_ended(&self, credential: &Credential) {
        let uid = credential.metadata.uid.clone().unwrap_or_default();
        self.memory().ended.insert(Key::credential(credential), uid);
    }

    /// Whether the end of a credential was reached, as far as its status does not tell.
    pub(super) fn has_ended(&self, credential: &Credential) -> bool {
        let key = Key::credential(credential);
        let ended = &mut self.memory().ended;
        if is_expired(credential) {
            ended.remove(&key);
        }
        ended.get(&key).is_some_and(|uid| Some(uid) == credential.metadata.uid.as_ref())
    }

    /// Has the last status of a token written once those who wait had their turn; or gives it back, when so many are put
    /// off already that memory would suffer.
    pub(super) fn say_later(&self, token: &ApiToken, last_word: ApiTokenStatus) -> Option<ApiTokenStatus> {
        let last_words = &mut self.memory().last_words;
        if last_words.len() >= LAST_WORDS {
            return Some(last_word);
        }
        let key = Key::api_token(token);
        last_words.insert(key.clone(), (token.metadata.resource_version.clone(), last_word));
        self.queue.add(key);
        None
    }

    /// The last status of a token that was put off, unless the token changed since.
    pub(super) fn last_word(&self, token: &ApiToken) -> Option<ApiTokenStatus> {
        let put_off = self.memory().last_words.remove(&Key::api_token(token));
        put_off
            .filter(|(version, _)| *version == token.metadata.resource_version)
            .map(|(_, last_word)| last_word)
    }

    /// A value was issued that is delivered once, and its token does not tell of it yet.
    pub(super) fn note_unsaid(&self, token: &ApiToken, attestation: Attestation) {
        self.memory().unsaid.insert(Key::api_token(token), attestation);
    }

    /// The value that was issued for a token that does not tell of it yet.
    pub(super) fn unsaid(&self, token: &ApiToken) -> Option<Attestation> {
        let mut memory = self.memory();
        let key = Key::api_token(token);
        let said = token.status.as_ref().and_then(|status| status.serial);
        if memory.unsaid.get(&key).is_some_and(|unsaid| said >= Some(unsaid.serial)) {
            memory.unsaid.remove(&key);
        }
        memory.unsaid.get(&key).cloned()
    }

    /// The objects of these UIDs claim to be made for this one, which is gone, and cannot prove it: they stay, and each is reported
    /// once.
    pub(super) fn note_unproven(&self, owner: &Key, uids: &BTreeSet<String>) {
        let unproven = &mut self.memory().unproven;
        let known = if uids.is_empty() {
            unproven.remove(owner)
        } else {
            unproven.insert(owner.clone(), uids.clone())
        };
        for uid in uids.difference(&known.unwrap_or_default()) {
            warn!(
                ?owner,
                uid,
                "object claims to be made for an object that is gone, without a valid proof; it is not deleted"
            );
        }
    }

    /// These Secrets have material of this Credential, which no longer exists: they stay. Returns those that were not reported yet.
    pub(super) fn note_orphaned(&self, owner: &Key, secrets: &BTreeSet<Place>) -> Vec<Place> {
        let orphaned = &mut self.memory().orphaned;
        let known = if secrets.is_empty() {
            orphaned.remove(owner)
        } else {
            orphaned.insert(owner.clone(), secrets.clone())
        };
        secrets.difference(&known.unwrap_or_default()).cloned().collect()
    }

    /// How many such Secrets there are.
    pub(super) fn orphaned(&self) -> usize {
        self.memory().orphaned.values().map(BTreeSet::len).sum()
    }

    /// How many such objects there are.
    pub(super) fn unproven(&self) -> usize {
        self.memory().unproven.values().map(BTreeSet::len).sum()
    }

    /// Something that was made for it went, and not by us.
    pub(super) fn note_vanished(&self, key: Key) {
        let vanished = &mut self.memory().vanished;
        vanished.insert(key, Instant::now());
        if vanished.len() == vanished.capacity() {
            vanished.retain(|_, at| at.elapsed() < SKEW);
        }
    }

    /// Whether something that was made for it went lately, and not by us. The watch that showed it may be ahead of the
    /// one that shows why.
    pub fn saw_vanish(&self, key: &Key) -> bool {
        self.memory().vanished.get(key).is_some_and(|at| at.elapsed() < SKEW)
    }

    pub(super) fn look_next_time(&self, key: &Key) {
        self.memory().in_the_way.insert(key.clone());
    }

    /// Whether spec or annotations of a stalled token changed since it stalled. Forgets with the process; then the
    /// hour has to pass, or another change be made.
    pub fn touched(&self, token: &ApiToken) -> bool {
        let Some(status) = token.status.as_ref().filter(|status| api_token::plan::is_stalled(status)) else {
            return false;
        };
        let now = annotations(token);
        let before = *self.memory().stalled.entry(Key::api_token(token)).or_insert(now);
        before != now || status.observed_generation != token.metadata.generation
    }

    /// Remembers what a token that stalls now looks like, or forgets it.
    pub(super) fn note_stall(&self, token: &ApiToken, stalled: bool) {
        let key = Key::api_token(token);
        if stalled {
            self.memory().stalled.entry(key).or_insert_with(|| annotations(token));
        } else {
            self.memory().stalled.remove(&key);
        }
    }

    /// The `ServiceAccount` of a credential is there, or is another: what is minted for it has to be looked at.
    pub(super) fn wake_minted(&self, credential: &Key) {
        let mut minted = Vec::new();
        self.tokens.each_owned_by(credential, |place, token| {
            if token.token_type == TokenType::ServiceAccount && !token.over {
                minted.push(place.clone());
            }
        });
        for token in minted {
            self.queue.add(Key::ApiToken(token));
        }
    }

    /// Whether the token counts of a credential may be written now; if not, they are when they may.
    pub fn may_count(&self, credential: &Credential) -> bool {
        let key = Key::credential(credential);
        let Some(last) = self.memory().counted.get(&key).copied() else {
            return true;
        };
        let wait = COUNT_EVERY.saturating_sub(last.elapsed());
        if !wait.is_zero() {
            self.queue.add_after(&key, wait);
        }
        wait.is_zero()
    }

    /// The token counts of a credential were written.
    pub fn counted(&self, credential: &Credential) {
        self.memory().counted.insert(Key::credential(credential), Instant::now());
    }

    /// All bindings that say they are for the credential at `place`.
    pub fn bindings_for(&self, place: &Place) -> BTreeMap<BindingKey, Binding> {
        let credential = Key::Credential(place.clone());
        let within = self.role_bindings.owned_by(&credential).map(Binding::from);
        let everywhere = self.cluster_role_bindings.owned_by(&credential).map(Binding::from);
        within.chain(everywhere).map(|binding| (binding.key(), binding)).collect()
    }

    /// The binding of that name among those that we made.
    pub fn binding(&self, key: &BindingKey) -> Option<Binding> {
        let place = Place::new(key.namespace.clone().unwrap_or_default(), key.name.clone());
        match key.namespace {
            Some(_) => self.role_bindings.get(&place).map(Into::into),
            None => self.cluster_role_bindings.get(&place).map(Into::into),
        }
    }

    /// Puts another keyring in place, and has every token looked at if a key is gone or new.
    pub(super) fn set_keyring(&self, keyring: Arc<Keyring>) {
        let mut held = self.keyring.write().unwrap_or_else(PoisonError::into_inner);
        let changed = !held.keys().map(SigningKey::id).eq(keyring.keys().map(SigningKey::id));
        *held = keyring;
        drop(held);
        if changed {
            for token in self.tokens.places() {
                self.queue.add(Key::ApiToken(token));
            }
            for credential in self.credentials.places() {
                self.queue.add(Key::Credential(credential));
            }
            let unproven: Vec<_> = self.memory().unproven.keys().cloned().collect();
            for owner in unproven {
                self.queue.add(owner);
            }
        }
    }
}

fn annotations(token: &ApiToken) -> u64 {
    let mut hasher = DefaultHasher::new();
    token.metadata.annotations.hash(&mut hasher);
    hasher.finish()
}
