//! What is to be done about what cannot be read: nothing, until it is certain that it is to grant nothing any more.
//!
//! Pure and infallible: no client, no clock, no randomness.

use jiff::Timestamp;

use crate::{
    client::InvalidObject,
    controller::{
        api_token::plan::LOOK_AGAIN_AFTER,
        credential::plan::{is_held, out_of_reach, owner_of},
    },
    domain::binding::{Binding, BindingKey, Ownership},
};

/// What to do about a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The bindings to be deleted, and their UIDs.
    pub unbind: Vec<(BindingKey, String)>,
    /// Whether to let it go.
    pub release: bool,
    /// What holds it, where somebody has to act.
    pub held_by: Option<String>,
    /// When to decide again though nothing happened.
    pub wake: Option<Timestamp>,
}

/// Decides about a credential. `bindings` are all that say they are for it, `stranded` where there are others that cannot be seen.
#[must_use]
pub fn plan(unread: &InvalidObject, bindings: &[Binding], stranded: &[String], now: Timestamp) -> Plan {
    if !grants_nothing(unread, now) {
        return Plan { wake: unread.ends_at, ..Plan::default() };
    }
    let owner = owner_of(&unread.metadata);
    let ours = bindings.iter().filter(|found| owner.ownership(found) != Ownership::Foreign);
    // A binding that is being deleted grants the role until its finalizers are removed.
    let unbind: Vec<_> =
        ours.map(|found| (found.key(), found.metadata.uid.clone().unwrap_or_default())).collect();
    let lets_go = unread.is_terminating() && is_held(&unread.metadata);
    let is_bound = !unbind.is_empty();
    let held_by = out_of_reach(&unread.metadata, stranded).filter(|_| lets_go);
    // Not every binding is one that a watch shows.
    let look_again = (lets_go && is_bound).then(|| now.checked_add(LOOK_AGAIN_AFTER).ok()).flatten();
    let wake = unread.ends_at.filter(|end| *end > now).into_iter().chain(look_again).min();
    Plan { unbind, release: lets_go && !is_bound && held_by.is_none(), held_by, wake }
}

/// Whether the roles of a Credential must be unbound.
#[must_use]
pub fn grants_nothing(unread: &InvalidObject, now: Timestamp) -> bool {
    unread.inactive || unread.is_too_large() || unread.is_terminating() || unread.has_ended(now)
}

/// Whether the Secret of a token is to go.
#[must_use]
pub fn takes_secret(unread: &InvalidObject, now: Timestamp) -> bool {
    let is_over = unread.value_ends_at.is_some_and(|end| end <= now);
    unread.revoked || unread.is_terminating() || unread.has_ended(now) || is_over
}

/// When to decide about a token again.
#[must_use]
pub fn token_ends_at(unread: &InvalidObject, now: Timestamp) -> Option<Timestamp> {
    [unread.ends_at, unread.value_ends_at].into_iter().flatten().filter(|end| *end > now).min()
}

#[cfg(test)]
mod tests;
