//! What policies mean for those who are there: who violates one, whom a change concerns, and how many they are.
//!
//! What is allowed, `domain::policy` says. Judgements are made from the caches alone, by each reconcile for itself; a policy
//! or namespace that changes has all credentials judged anew, and those reconciled for whom something else comes of it. So
//! ten thousand who are not concerned cost no place of work, and nobody waits behind them.

mod lost;
mod ranks;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use kube::api::PostParams;
use tokio::time::Instant;

use self::{
    lost::Lost,
    ranks::{Before, Group, Owned, Ranks},
};
use super::{
    Context, Key, Place,
    cache::Kept,
    kept::{CredentialBrief, TokenBrief},
    write::{RequestError, send, unless_gone},
};
use crate::{
    api::{
        ApiToken, Credential, CredentialPolicy, CredentialPolicyStatus, Reason,
        condition::{ConditionType, Finding, conditions},
    },
    client::Objects,
    domain::policy::{Asked, Breach, Policies, Severity, Standing, gravest},
};

/// How often the counts of one policy are written at most.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// How long a burst of changes is gathered before those who wait for a place are looked at.
const GATHER: Duration = Duration::from_secs(1);
/// After how many credentials, or tokens of one, others have their turn.
const AT_A_TIME: usize = 64;

/// What policies say, and what was made of it. All of it may be lost at any time.
#[derive(Default)]
pub(super) struct Judgements {
    policies: Arc<Policies>,
    /// Those of them that are not there any more.
    lost: Lost,
    /// Whether a policy or a namespace's labels changed since whom it concerns was looked for.
    changed: bool,
    /// Why nothing new may be made anywhere: the admission policies are not in force.
    unguarded: Option<String>,
    /// The credentials that were last found to violate a policy, and by what.
    breaches: HashMap<Key, Breach>,
    /// Who was given one of a limited number of places, which his status may not tell yet.
    admitted: HashSet<Key>,
    /// When the counts of a policy were last written.
    counted: HashMap<String, Instant>,
    /// Who comes before whom.
    ranks: Ranks,
    /// What was counted in each namespace; those that are not here are counted in the next pass.
    counts: HashMap<String, Counts>,
    /// The namespaces where something changed since they were counted.
    uncounted: HashSet<String>,
    /// When all were last judged, or those whose namespace had changed.
    passed: Option<Instant>,
}

impl Judgements {
    /// Before anything is known.
    pub(super) fn unguarded(why: &str) -> Self {
        Self { unguarded: Some(why.to_owned()), ..Self::default() }
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.breaches.remove(key);
        self.admitted.remove(key);
        match key {
            Key::Credential(place) => {
                self.ranks.forget(&Group::Namespace(place.namespace().to_owned()));
                self.ranks.forget(&Group::Credential(key.clone()));
            }
            // A token does not know here whose it was; an order is fresh for a second at most.
            Key::ApiToken(_) | Key::Keyring | Key::Sweep | Key::Policies | Key::Admission => {}
        }
    }
}

impl Judgements {
    fn of_credential<'a>(&self, place: &'a Place, brief: &CredentialBrief) -> Standing<'a> {
        let asks = !brief.established && !self.admitted.contains(&Key::Credential(place.clone()));
        Standing { asks, created_at: brief.created_at, name: place.name() }
    }

    fn of_token<'a>(&self, place: &'a Place, brief: &TokenBrief) -> Standing<'a> {
        let asks = !brief.issued && !self.admitted.contains(&Key::ApiToken(place.clone()));
        Standing { asks, created_at: brief.created_at, name: place.name() }
    }
}

impl Context {
    /// What policies have against a credential: the gravest of it. When that is news, the credential and its tokens are
    /// looked at again.
    pub fn judge(&self, credential: &Credential) -> Option<Breach> {
        let (breaches, is_news) = self.breaches(credential);
        if is_news {
            let judgements = &mut self.memory().policy;
            if !judgements.policies.is_empty() {
                judgements.uncounted.extend(credential.metadata.namespace.clone());
                self.queue.add_after(&Key::Policies, COUNT_EVERY);
            }
        }
        gravest(breaches)
    }

    /// All that policies have against a credential, and whether the gravest of it is news.
    fn breaches(&self, credential: &Credential) -> (Vec<Breach>, bool) {
        let (key, place, brief) = (Key::credential(credential), Place::of(credential), credential.brief());
        // All of it under one lock: what somebody has judged by what has changed since must be seen by who looks for whom the
        // change concerns; and of two who ask for the last place, one has it.
        let mut memory = self.memory();
        let judgements = &mut memory.policy;
        let policies = judgements.policies.clone();
        let labels = self.namespaces.brief(&namespace_of(&place));
        let rules = policies.within(labels.as_ref());
        let own = judgements.of_credential(&place, &brief);
        let more: Vec<_> = [
            self.config.reach.refusal(&credential.spec, place.namespace()).map(Breach::out_of_reach),
            judgements.unguarded.clone().map(Breach::unguarded),
            judgements.while_lost(),
        ]
        .into_iter()
        .flatten()
        .collect();
        let judge = |behind| {
            let asked = Asked { spec: &credential.spec, namespace: place.namespace(), behind };
            let mut breaches = rules.credential(&asked, self.clock.now());
            breaches.extend(more.iter().cloned());
            if brief.over {
                breaches.clear();
            }
            breaches
        };
        let mut breaches = judge(0);
        if rules.count_credentials() {
            let group = Group::Namespace(place.namespace().to_owned());
            let before = self.credentials_before(judgements, &own, &group, place.namespace());
            let exactly =
                own.asks && gets_a_place(&judge(before.known)) && !gets_a_place(&judge(before.at_most));
            let behind = if exactly {
                let mut behind = 0;
                self.credentials.each_in(place.namespace(), |other, brief| {
                    let counts = !brief.over && *other != place;
                    behind += usize::from(counts && judgements.of_credential(other, brief) < own);
                });
                behind
            } else {
                before.known
            };
            breaches = judge(behind);
            if own.asks && gets_a_place(&breaches) && !brief.over {
                judgements.admitted.insert(key.clone());
                judgements.ranks.note_admitted(&group);
            }
        }
        let breach = gravest(breaches.clone());
        let news = judgements.breaches.get(&key) != breach.as_ref();
        match breach {
            Some(breach) if news => judgements.breaches.insert(key.clone(), breach),
            None if news => judgements.breaches.remove(&key),
            _ => None,
        };
        drop(memory);
        if news {
            for token in self.tokens.places_owned_by(&key) {
                self.queue.add(Key::ApiToken(token));
            }
            self.queue.add(key);
        }
        (breaches, news)
    }

    /// What policies have against a token, or against its credential, that concerns the token.
    pub fn judge_token(&self, token: &ApiToken, credential: &Credential) -> Option<Breach> {
        if let Some(breach) = self.judge(credential).filter(|breach| breach.severity != Severity::Terms) {
            return Some(breach);
        }
        let (key, place, brief) = (Key::api_token(token), Place::of(token), token.brief());
        let created_at = brief.created_at?;
        let mut memory = self.memory();
        let judgements = &mut memory.policy;
        let policies = judgements.policies.clone();
        let labels = self.namespaces.brief(&namespace_of(&place));
        let rules = policies.within(labels.as_ref());
        let own = judgements.of_token(&place, &brief);
        let credential = Key::credential(credential);
        let judge = |behind| gravest(rules.token(&token.spec, created_at, behind));
        if !rules.count_tokens() {
            return judge(0);
        }
        let group = Group::Credential(credential.clone());
        let before = self.tokens_before(judgements, &own, &group, &credential);
        let exactly = own.asks && judge(before.known).is_none() && judge(before.at_most).is_some();
        let behind = if exactly {
            let mut behind = 0;
            self.tokens.each_owned_by(&credential, |other, brief| {
                let counts = !brief.over && *other != place;
                behind += usize::from(counts && judgements.of_token(other, brief) < own);
            });
            behind
        } else {
            before.known
        };
        let breach = judge(behind);
        if own.asks && breach.is_none() && !brief.over {
            judgements.admitted.insert(key);
            judgements.ranks.note_admitted(&group);
        }
        breach
    }

    /// How many credentials of the namespace come before one, as [`Ranks`] knows it.
    fn credentials_before(
        &self,
        judgements: &mut Judgements,
        own: &Standing<'_>,
        group: &Group,
        namespace: &str,
    ) -> Before {
        let mut ranks = std::mem::take(&mut judgements.ranks);
        let before = ranks.behind(group, own, || {
            let mut all = Vec::new();
            self.credentials.each_in(namespace, |other, brief| {
                all.extend((!brief.over).then(|| Owned::from(judgements.of_credential(other, brief))));
            });
            all
        });
        judgements.ranks = ranks;
        before
    }

    /// How many tokens of the credential come before one.
    fn tokens_before(
        &self,
        judgements: &mut Judgements,
        own: &Standing<'_>,
        group: &Group,
        credential: &Key,
    ) -> Before {
        let mut ranks = std::mem::take(&mut judgements.ranks);
        let before = ranks.behind(group, own, || {
            let mut all = Vec::new();
            self.tokens.each_owned_by(credential, |other, brief| {
                all.extend((!brief.over).then(|| Owned::from(judgements.of_token(other, brief))));
            });
            all
        });
        judgements.ranks = ranks;
        before
    }

    /// Takes in what the policies are now.
    pub(super) fn read_policies(&self) {
        let judgements = &mut self.memory().policy;
        let (policies, unreadable) = self.policies_there();
        judgements.take_in(policies, unreadable);
    }

    /// Those that are there, and the names of those that cannot be read.
    fn policies_there(&self) -> (Vec<CredentialPolicy>, Vec<String>) {
        let unreadable = self.policies.unreadable().iter().map(|place| place.name().to_owned()).collect();
        (self.policies.all().collect(), unreadable)
    }

    /// Takes in whether the admission policies are in force, or why not; tells whether that is news.
    pub(super) fn note_admission(&self, flaw: Option<String>) -> bool {
        let judgements = &mut self.memory().policy;
        if judgements.unguarded == flaw {
            return false;
        }
        judgements.unguarded = flaw;
        judgements.changed = true;
        self.queue.add(Key::Policies);
        true
    }

    /// Whether nothing new may be made anywhere for want of the admission policies.
    pub(super) fn is_unguarded(&self) -> bool {
        self.memory().policy.unguarded.is_some()
    }

    /// The labels of a namespace changed.
    pub(super) fn note_relabelled(&self) {
        let judgements = &mut self.memory().policy;
        if judgements.policies.is_empty() {
            return;
        }
        judgements.changed = true;
        self.queue.add(Key::Policies);
    }

    /// A credential changed: it may be counted otherwise.
    pub(super) fn count_policies_soon(
        &self,
        namespace: &str,
        before: Option<&CredentialBrief>,
        after: Option<&CredentialBrief>,
    ) {
        if before == after {
            return;
        }
        let policies = {
            let judgements = &mut self.memory().policy;
            judgements.uncounted.insert(namespace.to_owned());
            judgements.policies.clone()
        };
        if policies.is_empty() {
            return;
        }
        let leaves = after.is_none_or(|after| after.over) && before.is_some_and(|before| !before.over);
        let soon = leaves && policies.count_credentials();
        self.queue.add_after(&Key::Policies, if soon { GATHER } else { COUNT_EVERY });
    }

    /// Looks again at the tokens of a credential that wait for a place, the oldest first: one may have been left. The others
    /// have their turn once these have been counted.
    pub(super) fn wake_waiting(&self, credential: &Key) {
        if self.memory().policy.policies.count_tokens() {
            self.wake_all_waiting(credential, AT_A_TIME);
        }
    }

    fn wake_all_waiting(&self, credential: &Key, at_most: usize) {
        let mut waiting = Vec::new();
        self.tokens.each_owned_by(credential, |place, token| {
            if token.waits && !token.over {
                waiting.push((token.created_at, place.clone()));
            }
        });
        waiting.sort_unstable();
        for (_, token) in waiting.into_iter().take(at_most) {
            self.queue.add(Key::ApiToken(token));
        }
    }
}

/// Whether what is left against a credential lets it have something new.
fn gets_a_place(breaches: &[Breach]) -> bool {
    breaches.iter().all(|breach| breach.severity == Severity::Terms)
}

fn namespace_of(place: &Place) -> Place {
    Place::new("", place.namespace())
}

/// What is counted of one policy.
#[derive(Clone, Copy, Default)]
struct Count {
    namespaces: i64,
    credentials: i64,
    violations: i64,
    /// Credentials that have a place beyond `maxCredentials`.
    exceeding: i64,
}

/// What is counted in one namespace, by policy.
type Counts = BTreeMap<String, Count>;

/// Judges the credentials of every namespace where something changed, which has those looked at for whom something else comes of it
/// than before, and writes what there is to count. At most one pass a second.
///
/// # Errors
/// The first status that could not be written, after the others were tried.
pub async fn reconcile(ctx: &Context) -> Result<(), RequestError> {
    // What fails there changes nothing of what holds.
    let mut failed = lost::reconcile(ctx).await.err();
    let policies = {
        let judgements = &mut ctx.memory().policy;
        let rest = judgements.passed.map_or(Duration::ZERO, |at| GATHER.saturating_sub(at.elapsed()));
        if !rest.is_zero() {
            ctx.queue.add_after(&Key::Policies, rest);
            return failed.map_or(Ok(()), Err);
        }
        judgements.ranks.clear();
        judgements.policies.clone()
    };
    let changed = std::mem::take(&mut ctx.memory().policy.changed);
    if changed {
        ctx.memory().policy.counts.clear();
    }
    pass(ctx, &policies, changed).await;
    ctx.memory().policy.passed = Some(Instant::now());
    // Who sees a part of the cluster has nothing to count, and others count, too.
    if !ctx.config.reach.is_everywhere() {
        return failed.map_or(Ok(()), Err);
    }
    let counts = sum(ctx, &policies);
    for name in policies.names() {
        let count = counts.get(name).copied().unwrap_or_default();
        if let Err(error) = write_status(ctx, name, count).await {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Judges the credentials of every namespace that is not counted.
async fn pass(ctx: &Context, policies: &Policies, changed: bool) {
    let mut places: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for place in ctx.credentials.places() {
        places.entry(place.namespace().to_owned()).or_default().push(place);
    }
    {
        let judgements = &mut ctx.memory().policy;
        judgements.counts.retain(|namespace, _| places.contains_key(namespace));
        judgements.uncounted.retain(|namespace| places.contains_key(namespace));
    }
    for (namespace, places) in places {
        let is_counted = {
            let judgements = &mut ctx.memory().policy;
            // What changes from here on has it counted again.
            !judgements.uncounted.remove(&namespace) && judgements.counts.contains_key(&namespace)
        };
        if is_counted {
            continue;
        }
        let labels = ctx.namespaces.brief(&Place::new("", &namespace));
        let rules = policies.within(labels.as_ref());
        let mut counts: Counts = rules.names().map(|name| (name.to_owned(), Count::default())).collect();
        for (number, place) in places.into_iter().enumerate() {
            if number % AT_A_TIME == 0 {
                tokio::task::yield_now().await;
            }
            let Some(credential) = ctx.credentials.get(&place) else { continue };
            let (breaches, _) = ctx.breaches(&credential);
            if changed {
                ctx.wake_all_waiting(&Key::Credential(place.clone()), usize::MAX);
            }
            let has_a_place = credential.brief().established;
            for (name, count) in &mut counts {
                let breach = breaches.iter().find(|breach| breach.policy.as_ref() == Some(name));
                let exceeds = breach.is_some_and(|breach| breach.severity == Severity::Count) && has_a_place;
                count.credentials += 1;
                count.violations += i64::from(breach.is_some());
                count.exceeding += i64::from(exceeds);
            }
        }
        ctx.memory().policy.counts.insert(namespace, counts);
    }
}

/// The counts of all namespaces, by policy.
fn sum(ctx: &Context, policies: &Policies) -> Counts {
    let mut counts = Counts::new();
    for namespace in ctx.namespaces.places() {
        let labels = ctx.namespaces.brief(&namespace).unwrap_or_default();
        for name in policies.within(Some(&labels)).names() {
            counts.entry(name.to_owned()).or_default().namespaces += 1;
        }
    }
    for (name, count) in ctx.memory().policy.counts.values().flatten() {
        let sum = counts.entry(name.clone()).or_default();
        sum.credentials += count.credentials;
        sum.violations += count.violations;
        sum.exceeding += count.exceeding;
    }
    counts
}

/// What the status says; also where more have a place than `maxCredentials` allows, as those that were there before the policy do,
/// or, of two controllers that both act as the leader, one more.
fn enforced_message(policy: &CredentialPolicy, count: Count) -> String {
    let enforced = "the policy is enforced in the namespaces that it selects".to_owned();
    match (policy.spec.max_credentials, count.exceeding) {
        (Some(max), exceeding @ 1..) => format!(
            "{enforced}; maxCredentials ({max}) is exceeded by {exceeding} Credentials that keep what they have; they get nothing \
             new until others are deleted. kubectl get credentials -A shows them as QuotaExceeded"
        ),
        _ => enforced,
    }
}

async fn write_status(ctx: &Context, name: &str, count: Count) -> Result<(), RequestError> {
    let Some(policy) = ctx.policies.get(&Place::new("", name)) else {
        return Ok(());
    };
    let before = policy.status.clone().unwrap_or_default();
    let generation = policy.metadata.generation;
    let enforced = Finding {
        kind: ConditionType::Ready,
        holds: true,
        reason: Reason::Published,
        message: enforced_message(&policy, count),
    };
    let status = CredentialPolicyStatus {
        observed_generation: generation,
        conditions: conditions(&before.conditions, vec![enforced], generation, ctx.clock.now()),
        namespaces: Some(count.namespaces),
        credentials: Some(count.credentials),
        violations: Some(count.violations),
    };
    if policy.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let last = ctx.memory().policy.counted.get(name).copied();
    let wait = last.map_or(Duration::ZERO, |last| COUNT_EVERY.saturating_sub(last.elapsed()));
    if before.observed_generation == generation && !wait.is_zero() {
        ctx.queue.add_after(&Key::Policies, wait);
        return Ok(());
    }
    let api: Objects<CredentialPolicy> = Objects::all(ctx.client.clone());
    let changed = CredentialPolicy { status: Some(status), ..policy };
    let written = send(
        || format!("update the status of CredentialPolicy {name}"),
        api.replace_status(name, &PostParams::default(), &changed),
    )
    .await;
    if let Some(written) = unless_gone(written)? {
        ctx.memory().policy.counted.insert(name.to_owned(), Instant::now());
        ctx.policies.remember(written);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
