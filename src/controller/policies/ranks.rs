//! Who comes before whom under a count, sorted once for many questions.
//!
//! A credential or token that asks how many come before it would otherwise look at all others, so that a namespace of n
//! credentials cost n² looks for each change. An order may be up to [`FRESH_FOR`] old: it refuses and reports, but whoever gets
//! one of the last places by it is counted exactly before.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{controller::Key, domain::policy::Standing};

/// Not longer than a burst of changes is gathered for, so that what follows a burst is not decided by what was before.
pub(super) const FRESH_FOR: Duration = Duration::from_secs(1);
/// How many orders are kept before those that are not fresh are dropped.
const KEPT: usize = 64;

#[cfg(test)]
thread_local! {
    /// How many were sorted in this thread.
    pub(super) static SORTED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Group {
    /// The credentials of a namespace.
    Namespace(String),
    /// The tokens of a credential.
    Credential(Key),
}

/// The orders of several groups.
#[derive(Default)]
pub(super) struct Ranks {
    orders: HashMap<Group, Order>,
}

struct Order {
    sorted_at: Instant,
    sorted: Vec<Owned>,
    /// How many were given a place since.
    admitted: usize,
}

/// How many come before one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Before {
    /// By the order that is kept.
    pub(super) known: usize,
    /// At the most, with those that were given a place since.
    pub(super) at_most: usize,
}

/// A [`Standing`] that can be kept; ordered as it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owned {
    asks: bool,
    created_at: Option<Timestamp>,
    name: Box<str>,
}

impl From<Standing<'_>> for Owned {
    fn from(standing: Standing<'_>) -> Self {
        Self { asks: standing.asks, created_at: standing.created_at, name: standing.name.into() }
    }
}

impl Ranks {
    /// How many of the group come before `own`; `all` lists those that count, where that is not known freshly.
    pub(super) fn behind(
        &mut self,
        group: &Group,
        own: &Standing<'_>,
        all: impl FnOnce() -> Vec<Owned>,
    ) -> Before {
        if !self.orders.get(group).is_some_and(Order::is_fresh) {
            if self.orders.len() >= KEPT {
                self.orders.retain(|_, order| order.is_fresh());
            }
            let mut sorted = all();
            #[cfg(test)]
            SORTED.set(SORTED.get() + sorted.len());
            sorted.sort_unstable();
            self.orders.insert(group.clone(), Order { sorted_at: Instant::now(), sorted, admitted: 0 });
        }
        let own = Owned::from(*own);
        let order = self.orders.get(group);
        let known = order.map_or(0, |order| order.sorted.partition_point(|other| *other < own));
        Before { known, at_most: known + order.map_or(0, |order| order.admitted) }
    }

    /// One of the group was given a place.
    pub(super) fn note_admitted(&mut self, group: &Group) {
        if let Some(order) = self.orders.get_mut(group) {
            order.admitted += 1;
        }
    }

    /// Has all be sorted again.
    pub(super) fn clear(&mut self) {
        self.orders.clear();
    }

    /// Has one group be sorted again.
    pub(super) fn forget(&mut self, group: &Group) {
        self.orders.remove(group);
    }
}

impl Order {
    fn is_fresh(&self) -> bool {
        self.sorted_at.elapsed() < FRESH_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(asks: bool, created: i64, name: &str) -> Standing<'_> {
        Standing { asks, created_at: Timestamp::from_second(created).ok(), name }
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_is_sorted_once_a_second_and_counts_who_was_admitted_since() {
        let group = || Group::Namespace("n".to_owned());
        let mut ranks = Ranks::default();
        let mut sorted = 0;
        let mut before = |ranks: &mut Ranks, own: Standing<'_>| {
            let before = ranks.behind(&group(), &own, || {
                sorted += 1;
                [standing(true, 2, "b"), standing(true, 1, "a"), standing(false, 3, "c")]
                    .map(Owned::from)
                    .into()
            });
            (before.known, before.at_most, sorted)
        };
        assert_eq!(before(&mut ranks, standing(false, 3, "c")), (0, 0, 1), "who has something is first");
        assert_eq!(before(&mut ranks, standing(true, 1, "a")), (1, 1, 1));
        assert_eq!(before(&mut ranks, standing(true, 2, "b")), (2, 2, 1));
        assert_eq!(
            before(&mut ranks, standing(true, 9, "new")),
            (3, 3, 1),
            "one that is not in the order yet"
        );
        ranks.note_admitted(&group());
        assert_eq!(before(&mut ranks, standing(true, 2, "b")), (2, 3, 1));
        tokio::time::advance(FRESH_FOR).await;
        assert_eq!(before(&mut ranks, standing(true, 2, "b")), (2, 2, 2));
        ranks.forget(&group());
        assert_eq!(before(&mut ranks, standing(true, 2, "b")), (2, 2, 3));
    }
}
