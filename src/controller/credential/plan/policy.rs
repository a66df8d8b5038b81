//! What a policy's objection means for a credential: refused, it is unbound; over a count, it gets nothing new; with terms
//! that are not allowed, it gets no material. What is there of material stays in any case.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Observed, Trouble};
use crate::{
    api::CredentialStatus,
    domain::{
        binding::{Binding, BindingKey, Owner, Ownership},
        policy::{Breach, Severity},
    },
};

/// What policies have against a credential.
pub(super) struct Policy<'a> {
    observed: &'a Observed,
    pub(super) breach: Option<&'a Breach>,
}

impl<'a> Policy<'a> {
    pub(super) fn of(observed: &'a Observed) -> Self {
        Self { observed, breach: observed.policy.as_ref() }
    }

    /// Why it may have no role, and its values are refused: also what was refused before, while nobody knows what is allowed.
    pub(super) fn refusal(&self) -> Option<&'a Breach> {
        let status = self.observed.credential.status.as_ref();
        let was_refused = status.is_some_and(CredentialStatus::is_refused_by_policy);
        self.breach.filter(|breach| match breach.severity {
            Severity::Refused => true,
            Severity::Unknown => was_refused,
            Severity::Unguarded | Severity::Count | Severity::Terms => false,
        })
    }

    fn allows_nothing_new(&self) -> bool {
        self.breach.is_some_and(|breach| breach.severity != Severity::Terms)
    }

    /// Whether an account may be made. One that was there is put back while roles are bound to its name, before somebody
    /// else makes it.
    pub(super) fn allows_account(&self) -> bool {
        let status = self.observed.credential.status.as_ref();
        let was_there = status.is_some_and(|status| status.service_account.is_some());
        !self.allows_nothing_new() || (was_there && self.refusal().is_none())
    }

    /// Where nothing new may be made, takes out of what is wished what is not there, just as it is wished.
    pub(super) fn leave_what_is_there(&self, owner: &Owner, wished: &mut BTreeMap<BindingKey, Binding>) {
        if self.allows_nothing_new() {
            wished.retain(|key, wished| {
                let mut found = self.observed.bindings.iter().filter(|found| found.key() == *key);
                found.any(|found| owner.ownership(found) == Ownership::Ours && wished.is_intact_in(found))
            });
        }
    }

    /// What is to be said of it though nothing is refused; `withheld`: something that is wished was not made.
    pub(super) fn trouble(&self, withheld: bool) -> Option<Trouble> {
        let breach = self.breach?;
        let told = match breach.severity {
            Severity::Count | Severity::Terms => true,
            Severity::Unguarded | Severity::Unknown => withheld,
            Severity::Refused => false,
        };
        told.then(|| breach.into())
    }

    /// When what is against it will be over.
    pub(super) fn heals_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.breach.and_then(|breach| breach.until).filter(|at| *at > now)
    }
}

impl From<&Breach> for Trouble {
    fn from(breach: &Breach) -> Self {
        Self { reason: breach.reason(), message: breach.message.clone(), waits_for_others: false }
    }
}
