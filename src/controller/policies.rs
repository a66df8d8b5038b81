//! Evaluates CredentialPolicies: which Credentials and ApiTokens violate one, which are affected by a change, and the
//! counts.
//!
//! `domain::policy` has the rules. Each reconcile evaluates them for its own object, from the caches only. After a change of
//! a policy or namespace, all credentials are evaluated again, and only those with a different result are reconciled. So
//! credentials that a change does not affect do not fill the queue.

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

/// The shortest interval between two writes of the counts of one policy.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// The delay that collects a burst of changes before objects that wait for a place are reconciled.
const GATHER: Duration = Duration::from_secs(1);
/// The number of credentials, or tokens of one credential, after which a pass yields to other work.
const AT_A_TIME: usize = 64;

/// The policies and the results of their evaluation. All of it is in memory only and may be lost.
#[derive(Default)]
pub(super) struct Judgements {
    policies: Arc<Policies>,
    /// The policies that were deleted and may still apply.
    lost: Lost,
    /// Whether a policy or a namespace's labels changed since the last pass.
    changed: bool,
    /// The reason why the admission policies are not in force. While it is set, nothing new is created.
    unguarded: Option<String>,
    /// The credentials whose last evaluation found a violation, with the violation.
    breaches: HashMap<Key, Breach>,
    /// The objects that were admitted under a count. Their status may not report it yet.
    admitted: HashSet<Key>,
    /// The times at which the counts of the policies were last written.
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
    /// The initial state, before the admission policies were checked.
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
    /// Updates the policies from the cache.
    pub(super) fn read_policies(&self) {
        let judgements = &mut self.memory().policy;
        let (policies, unreadable) = self.policies_there();
        judgements.take_in(policies, unreadable);
    }

    /// The policies in the cache, and the names of those that cannot be parsed.
    fn policies_there(&self) -> (Vec<CredentialPolicy>, Vec<String>) {
        let unreadable = self.policies.unreadable().iter().map(|place| place.name().to_owned()).collect();
        (self.policies.all().collect(), unreadable)
    }

    /// Records whether the admission policies are in force, or why not. Returns whether that has changed.
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

    /// Whether nothing new may be created because the admission policies are not in force.
    pub(super) fn is_unguarded(&self) -> bool {
        self.memory().policy.unguarded.is_some()
    }

    /// Enqueues a pass after the labels of a namespace changed.
    pub(super) fn note_relabelled(&self) {
        let judgements = &mut self.memory().policy;
        if judgements.policies.is_empty() {
            return;
        }
        judgements.changed = true;
        self.queue.add(Key::Policies);
    }

    /// Enqueues a count after a credential changed.
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

    /// Enqueues the tokens of a credential that wait for a place, the oldest first, since a place may be free. The others
    /// follow after these are counted.
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
