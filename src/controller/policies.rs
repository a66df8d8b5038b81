//! What policies mean for those who are there: who violates one, whom a change concerns, and how many they are.
//!
//! What is allowed, `domain::policy` says. Judgements are made from the caches alone, by each reconcile for itself; a policy
//! or namespace that changes has all credentials judged anew, and those reconciled for whom something else comes of it. So
//! ten thousand who are not concerned cost no place of work, and nobody waits behind them.

mod evaluate;
mod lost;
mod pass;
mod ranks;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

pub use self::pass::reconcile;
use self::{
    lost::Lost,
    pass::Counts,
    ranks::{Group, Ranks},
};
use super::{Context, Key, Place, kept::CredentialBrief};
use crate::{
    api::CredentialPolicy,
    domain::policy::{Breach, Policies},
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
    /// The order in which objects get places under a count.
    ranks: Ranks,
    /// The counts of each namespace. The next pass counts namespaces that are not here.
    counts: HashMap<String, Counts>,
    /// The namespaces with changes since they were counted.
    uncounted: HashSet<String>,
    /// The time of the last pass over all namespaces, or over those with changes.
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
        // The order of its namespace is retained until it is a second old, so that creating and deleting credentials does
        // not cause a sort each time.
        self.ranks.forget(&Group::Credential(key.clone()));
    }
}

impl Context {
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

    /// Enqueues a count after a token of the credential changed.
    pub(super) fn count_tokens_soon(&self, credential: &Key) {
        let Key::Credential(place) = credential else { return };
        let judgements = &mut self.memory().policy;
        if judgements.policies.count_tokens() {
            judgements.uncounted.insert(place.namespace().to_owned());
            self.queue.add_after(&Key::Policies, COUNT_EVERY);
        }
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
