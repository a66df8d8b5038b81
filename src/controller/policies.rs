//! What policies mean for those who are there: who violates one, whom a change concerns, and how many they are.
//!
//! What is allowed, `domain::policy` says. Judgements are made from the caches alone, by each reconcile for itself; a policy
//! or namespace that changes has all credentials judged anew, and those reconciled for whom something else comes of it. So
//! ten thousand who are not concerned cost no place of work, and nobody waits behind them.

mod lost;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use kube::api::PostParams;
use tokio::time::Instant;

use self::lost::Lost;
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
}

impl Judgements {
    /// Before anything is known.
    pub(super) fn unguarded(why: &str) -> Self {
        Self { unguarded: Some(why.to_owned()), ..Self::default() }
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.breaches.remove(key);
        self.admitted.remove(key);
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
        gravest(self.breaches(credential))
    }

    /// All that policies have against a credential.
    fn breaches(&self, credential: &Credential) -> Vec<Breach> {
        let (key, place, brief) = (Key::credential(credential), Place::of(credential), credential.brief());
        // All of it under one lock: what somebody has judged by what has changed since must be seen by who looks for whom the
        // change concerns; and of two who ask for the last place, one has it.
        let mut memory = self.memory();
        let judgements = &mut memory.policy;
        let policies = judgements.policies.clone();
        let labels = self.namespaces.brief(&namespace_of(&place));
        let rules = policies.within(labels.as_ref());
        let mut behind = 0;
        if rules.count_credentials() {
            let own = judgements.of_credential(&place, &brief);
            self.credentials.each_in(place.namespace(), |other, brief| {
                let counts = !brief.over && *other != place;
                behind += usize::from(counts && judgements.of_credential(other, brief) < own);
            });
        }
        let asked = Asked { spec: &credential.spec, namespace: place.namespace(), behind };
        let mut breaches = rules.credential(&asked, self.clock.now());
        let out_of_reach = self.config.reach.refusal(&credential.spec, place.namespace());
        breaches.extend(out_of_reach.map(Breach::out_of_reach));
        breaches.extend(judgements.unguarded.clone().map(Breach::unguarded));
        breaches.extend(judgements.while_lost());
        if brief.over {
            breaches.clear();
        }
        let breach = gravest(breaches.clone());
        let gets_a_place = breach.as_ref().is_none_or(|breach| breach.severity == Severity::Terms);
        if rules.count_credentials() && gets_a_place && !brief.over {
            judgements.admitted.insert(key.clone());
        }
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
        breaches
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
        let mut behind = 0;
        if rules.count_tokens() {
            let own = judgements.of_token(&place, &brief);
            self.tokens.each_owned_by(&Key::credential(credential), |other, brief| {
                let counts = !brief.over && *other != place;
                behind += usize::from(counts && judgements.of_token(other, brief) < own);
            });
        }
        let breach = gravest(rules.token(&token.spec, created_at, behind));
        if rules.count_tokens() && breach.is_none() && !brief.over {
            judgements.admitted.insert(key);
        }
        breach
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
        before: Option<&CredentialBrief>,
        after: Option<&CredentialBrief>,
    ) {
        if before == after {
            return;
        }
        let policies = self.memory().policy.policies.clone();
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

fn namespace_of(place: &Place) -> Place {
    Place::new("", place.namespace())
}

/// What is counted of one policy.
#[derive(Clone, Copy, Default)]
struct Count {
    namespaces: i64,
    credentials: i64,
    violations: i64,
}

/// Judges all credentials, which has those looked at for whom something else comes of it than before, and writes what there
/// is to count.
///
/// # Errors
/// The first status that could not be written, after the others were tried.
pub async fn reconcile(ctx: &Context) -> Result<(), RequestError> {
    // What fails there changes nothing of what holds.
    let mut failed = lost::reconcile(ctx).await.err();
    let (policies, changed) = {
        let judgements = &mut ctx.memory().policy;
        (judgements.policies.clone(), std::mem::take(&mut judgements.changed))
    };
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    for namespace in ctx.namespaces.places() {
        let labels = ctx.namespaces.brief(&namespace).unwrap_or_default();
        for name in policies.within(Some(&labels)).names() {
            counts.entry(name).or_default().namespaces += 1;
        }
    }
    for (number, place) in ctx.credentials.places().into_iter().enumerate() {
        if number % AT_A_TIME == 0 {
            tokio::task::yield_now().await;
        }
        let Some(credential) = ctx.credentials.get(&place) else { continue };
        let breaches = ctx.breaches(&credential);
        if changed {
            ctx.wake_all_waiting(&Key::Credential(place.clone()), usize::MAX);
        }
        let labels = ctx.namespaces.brief(&namespace_of(&place));
        for name in policies.within(labels.as_ref()).names() {
            let count = counts.entry(name).or_default();
            count.credentials += 1;
            count.violations +=
                i64::from(breaches.iter().any(|breach| breach.policy.as_deref() == Some(name)));
        }
    }
    // Who sees a part of the cluster has nothing to count, and others count, too.
    if !ctx.config.reach.is_everywhere() {
        return failed.map_or(Ok(()), Err);
    }
    for name in policies.names() {
        let count = counts.get(name).copied().unwrap_or_default();
        if let Err(error) = write_status(ctx, name, count).await {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
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
        message: "the policy is enforced in the namespaces that it selects".to_owned(),
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
