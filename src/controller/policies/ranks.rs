//! A cache of the order in which credentials and tokens get places under a count.
//!
//! Without it, each credential or token would be compared with all others, which takes O(n²) time for n credentials of a
//! namespace after each change. A cached order can be up to [`FRESH_FOR`] old, and is used to refuse and to report. Before a
//! place is assigned that another object may have got in the meantime, the group is sorted again.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{controller::Key, domain::policy::Standing};

/// The maximum age of a cached order. It is not longer than the delay that collects a burst of changes, so that the
/// evaluation after a burst does not use an order from before it.
pub(super) const FRESH_FOR: Duration = Duration::from_secs(1);
/// The number of cached orders at which those that are too old are dropped.
const KEPT: usize = 64;

/// The objects that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Group {
    /// The credentials of a namespace.
    Namespace(String),
    /// The tokens of a credential.
    Credential(Key),
}

/// The cached orders of groups.
#[derive(Default)]
pub(super) struct Ranks {
    orders: HashMap<Group, Order>,
}

struct Order {
    sorted_at: Instant,
    sorted: Vec<Owned>,
    /// The number of objects that got a place since the group was sorted.
    admitted: usize,
}

/// A [`Standing`] without a lifetime, with the same ordering.
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
    /// Returns how many members of the group are ranked before `own`; `all` lists the members. If `own` requests a place and
    /// `allows` grants it at this rank, it counts as admitted from then on.
    pub(super) fn behind(
        &mut self,
        group: &Group,
        own: &Standing<'_>,
        all: impl Fn() -> Vec<Owned>,
        allows: impl Fn(usize) -> bool,
    ) -> usize {
        let known = self.order(group, false, &all).behind(own);
        if !(own.asks && allows(known)) {
            return known;
        }
        let admitted = self.order(group, false, &all).admitted;
        let behind = if allows(known + admitted) { known } else { self.order(group, true, &all).behind(own) };
        if allows(behind) {
            self.order(group, false, &all).admitted += 1;
        }
        behind
    }

    /// Returns the cached order of a group. Sorts the group if the order is missing or too old, or if `again` is set.
    fn order(&mut self, group: &Group, again: bool, all: impl Fn() -> Vec<Owned>) -> &mut Order {
        if self.orders.len() >= KEPT && !self.orders.contains_key(group) {
            self.orders.retain(|_, order| order.is_fresh());
        }
        match self.orders.entry(group.clone()) {
            Entry::Occupied(known) if known.get().is_fresh() && !again => known.into_mut(),
            entry => entry.insert_entry(Order::of(all())).into_mut(),
        }
    }

    /// Drops all cached orders.
    pub(super) fn clear(&mut self) {
        self.orders.clear();
    }

    /// Drops the cached order of one group.
    pub(super) fn forget(&mut self, group: &Group) {
        self.orders.remove(group);
    }
}

impl Order {
    fn of(mut sorted: Vec<Owned>) -> Self {
        sorted.sort_unstable();
        Self { sorted_at: Instant::now(), sorted, admitted: 0 }
    }

    fn behind(&self, own: &Standing<'_>) -> usize {
        let own = Owned::from(*own);
        self.sorted.partition_point(|other| *other < own)
    }

    fn is_fresh(&self) -> bool {
        self.sorted_at.elapsed() < FRESH_FOR
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn standing(asks: bool, created: i64, name: &str) -> Standing<'_> {
        Standing { asks, created_at: Timestamp::from_second(created).ok(), name }
    }

    fn group() -> Group {
        Group::Namespace("n".to_owned())
    }

    /// The members of a group, and how often they were listed.
    #[derive(Default)]
    struct Members {
        all: std::cell::RefCell<Vec<Owned>>,
        listed: Cell<usize>,
    }

    impl Members {
        fn add(&self, member: Standing<'_>) {
            self.all.borrow_mut().push(member.into());
        }

        fn list(&self) -> Vec<Owned> {
            self.listed.set(self.listed.get() + 1);
            self.all.borrow().clone()
        }

        /// Requests one of this number of places. Returns whether `own` is admitted, and records that.
        fn ask(&self, ranks: &mut Ranks, own: Standing<'_>, places: usize) -> bool {
            let behind = ranks.behind(&group(), &own, || self.list(), |behind| behind < places);
            if behind < places {
                let mut all = self.all.borrow_mut();
                let is_own = |member: &&mut Owned| &*member.name == own.name;
                all.iter_mut().filter(is_own).for_each(|member| member.asks = false);
            }
            behind < places
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_have_the_places_and_no_more_than_there_are() {
        for places in [1, 3, 19, 20, 21] {
            let (mut ranks, members) = (Ranks::default(), Members::default());
            let names: Vec<_> = (0..20).map(|n| format!("c{n:02}")).collect();
            // Ten are created in the same second and ordered by name.
            let standing = |n: usize| standing(true, i64::from(n >= 10), &names[n]);
            (0..20).for_each(|n| members.add(standing(n)));
            // The order of the requests does not matter.
            for n in (0..20).rev() {
                assert_eq!(members.ask(&mut ranks, standing(n), places), n < places, "{n} of {places}");
            }
            assert!(members.listed.get() <= 2, "{} for {places}", members.listed.get());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_admitted_twice_by_an_order_that_is_not_the_latest() {
        let (mut ranks, members) = (Ranks::default(), Members::default());
        // Each requests a place as soon as it exists, the youngest first.
        let admitted = (0..20).rev().filter(|n| {
            let name = format!("c{n:02}");
            members.add(standing(true, *n, &name));
            members.ask(&mut ranks, standing(true, *n, &name), 5)
        });
        assert_eq!(admitted.count(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn three_thousand_that_ask_are_sorted_once_a_second() {
        let (mut ranks, members) = (Ranks::default(), Members::default());
        let names: Vec<_> = (0..3_000).map(|n| format!("c{n:04}")).collect();
        for name in &names {
            members.add(standing(true, 0, name));
        }
        for name in names.iter().rev() {
            members.ask(&mut ranks, standing(true, 0, name), 2);
        }
        assert_eq!(members.listed.get(), 1);
        // Neither an object that is deleted and created again nor an admission causes another sort.
        for n in 0..50 {
            members.ask(&mut ranks, standing(true, 1, &format!("new{n}")), 2);
        }
        assert_eq!(members.listed.get(), 1);
        tokio::time::advance(FRESH_FOR).await;
        assert!(!members.ask(&mut ranks, standing(true, 0, "c0002"), 2));
        assert_eq!(members.listed.get(), 2);
        ranks.forget(&group());
        assert!(!members.ask(&mut ranks, standing(true, 0, "c0002"), 2));
        assert_eq!(members.listed.get(), 3);
    }
}
