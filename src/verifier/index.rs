//! All values that may be accepted, found by their public id without a lock.
//!
//! Readers are many and wait for nobody; what the watches bring is put in by one at a time. A value that stays valid is
//! found at every moment while its record is replaced.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use hashbrown::HashTable;
use uuid::Uuid;

use super::record::{Facts, Id, Kind, Record, SharedRecord, Slot, Stated};

/// After how many removals it is looked what nothing shares any more.
const TIDY_EVERY: u32 = 1024;

/// All values, by public id.
pub struct Index {
    by_id: papaya::HashMap<Id, SharedRecord>,
    /// What has an id that another record has, too: somebody copied it, and nobody is shadowed by that.
    twins: papaya::HashMap<Id, Vec<SharedRecord>>,
    writer: Mutex<Writer>,
}

#[derive(Default)]
struct Writer {
    hasher: RandomState,
    by_place: HashTable<SharedRecord>,
    slots: HashTable<Arc<Slot>>,
    namespaces: HashSet<Arc<str>>,
    keys: HashSet<Arc<Box<str>>>,
    /// Those that are there, each with whether it was met since the last reading began.
    credentials: HashMap<CredentialPlace, (Arc<Slot>, bool)>,
    removed: u32,
}

/// Namespace and name.
type CredentialPlace = (Arc<str>, Box<str>);

/// Which objects a reading of all of them is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All `ApiToken`s.
    ApiTokens,
    /// All `Credential`s.
    Credentials,
}

impl Reading {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::ApiToken => Self::ApiTokens,
            Kind::ClientSecret => Self::Credentials,
        }
    }

    fn is_of(self, record: &Record, scope: Option<&str>) -> bool {
        Self::of(record.kind) == self && is_in(&record.credential.namespace, scope)
    }
}

fn is_in(namespace: &str, scope: Option<&str>) -> bool {
    scope.is_none_or(|scope| scope == namespace)
}

impl Default for Index {
    fn default() -> Self {
        Self { by_id: papaya::HashMap::new(), twins: papaya::HashMap::new(), writer: Mutex::default() }
    }
}

impl Index {
    /// Looks at each record of that id until one answers.
    pub fn find<T>(&self, id: Id, mut look: impl FnMut(&SharedRecord) -> Option<T>) -> Option<T> {
        // Twins first: one that takes the first place is there before it leaves this one.
        if !self.twins.is_empty()
            && let Some(found) = self.twins.pin().get(&id).and_then(|twins| twins.iter().find_map(&mut look))
        {
            return Some(found);
        }
        self.by_id.pin().get(&id).and_then(look)
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writer().by_place.len()
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All objects are about to be read anew: of that namespace, or of all. What a reading met that came to no end counts
    /// for nothing.
    pub fn begin(&self, reading: Reading, scope: Option<&str>) {
        let mut writer = self.writer();
        for record in writer.by_place.iter().filter(|record| reading.is_of(record, scope)) {
            record.met.store(false, Ordering::Relaxed);
        }
        if reading == Reading::Credentials {
            let within = writer.credentials.iter_mut().filter(|((namespace, _), _)| is_in(namespace, scope));
            within.for_each(|(_, (_, met))| *met = false);
        }
    }

    /// All of these have been read: what was not among them is gone.
    pub fn end(&self, reading: Reading, scope: Option<&str>) {
        let mut writer = self.writer();
        if reading == Reading::Credentials {
            writer.credentials.retain(|(namespace, _), (slot, met)| {
                let stays = *met || !is_in(namespace, scope);
                if !stays {
                    slot.facts.store(None);
                }
                stays
            });
        }
        let mut gone = Vec::new();
        writer.by_place.retain(|record| {
            let stays = !reading.is_of(record, scope) || record.met.load(Ordering::Relaxed);
            if !stays {
                gone.push(record.clone());
            }
            stays
        });
        for record in gone {
            self.take_out(&record);
        }
        writer.tidy();
    }

    /// Puts in what an object states now, in place of what it stated before.
    pub fn put(&self, kind: Kind, namespace: &str, name: &str, stated: impl IntoIterator<Item = Stated>) {
        let mut writer = self.writer();
        let before = writer.remove_place(kind, namespace, name);
        for stated in stated {
            let slot = writer.slot(namespace, &stated.credential, stated.credential_uid);
            let key = writer.key(&stated.key);
            let record = SharedRecord::new(stated.record(key, slot));
            self.put_in(&record, &before);
            let Writer { by_place, hasher, .. } = &mut *writer;
            by_place.insert_unique(place_hash(hasher, &record), record, |record| place_hash(hasher, record));
        }
        // Also those in whose place another came: of one id there may have been two, and what they shared may differ.
        for record in &before {
            self.take_out(record);
            writer.note_removal();
        }
    }

    /// Notes what a credential says of its values.
    pub fn put_facts(&self, namespace: &str, name: &str, uid: Uuid, facts: Facts) {
        let mut writer = self.writer();
        let slot = writer.slot(namespace, name, uid);
        slot.facts.store(Some(Arc::new(facts)));
        let place = (slot.namespace.clone(), slot.name.clone());
        if let Some((former, _)) = writer.credentials.insert(place, (slot, true))
            && former.uid != uid
        {
            former.facts.store(None);
        }
    }

    /// The credential of that name is gone.
    pub fn remove_facts(&self, namespace: &str, name: &str) {
        let mut writer = self.writer();
        if let Some((slot, _)) = writer.credentials.remove(&(namespace.into(), name.into())) {
            slot.facts.store(None);
        }
        writer.note_removal();
    }

    /// Puts a record where readers find it: in the place of one that it replaces, else beside all others.
    fn put_in(&self, record: &SharedRecord, replaced: &[SharedRecord]) {
        let is_replaced =
            |other: &SharedRecord| replaced.iter().any(|replaced| SharedRecord::ptr_eq(replaced, other));
        let (by_id, all_twins) = (self.by_id.pin(), self.twins.pin());
        if by_id.get(&record.id).is_none_or(is_replaced) {
            by_id.insert(record.id, record.clone());
            return;
        }
        let others = all_twins.get(&record.id).into_iter().flatten();
        let mut twins: Vec<_> = others.filter(|other| !is_replaced(other)).cloned().collect();
        twins.push(record.clone());
        all_twins.insert(record.id, twins);
    }

    fn take_out(&self, record: &SharedRecord) {
        let (by_id, all_twins) = (self.by_id.pin(), self.twins.pin());
        let is_it = |other: &SharedRecord| SharedRecord::ptr_eq(record, other);
        let twins = all_twins.get(&record.id).cloned().unwrap_or_default();
        let mut rest: Vec<_> = twins.into_iter().filter(|twin| !is_it(twin)).collect();
        if by_id.get(&record.id).is_some_and(is_it) {
            match rest.pop() {
                Some(heir) => by_id.insert(record.id, heir),
                None => by_id.remove(&record.id),
            };
        }
        if rest.is_empty() {
            all_twins.remove(&record.id);
        } else {
            all_twins.insert(record.id, rest);
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Takes out of the places, and of nothing else, what an object stated before.
    fn remove_place(&mut self, kind: Kind, namespace: &str, name: &str) -> Vec<SharedRecord> {
        let hash = self.hasher.hash_one((kind, namespace, name));
        let is_it = |record: &SharedRecord| {
            record.kind == kind && &*record.credential.namespace == namespace && record.name() == name
        };
        let mut removed = Vec::new();
        while let Ok(entry) = self.by_place.find_entry(hash, is_it) {
            removed.push(entry.remove().0);
        }
        removed
    }

    fn slot(&mut self, namespace: &str, name: &str, uid: Uuid) -> Arc<Slot> {
        let namespace = self.namespaces.get(namespace).cloned().unwrap_or_else(|| {
            let namespace: Arc<str> = namespace.into();
            self.namespaces.insert(namespace.clone());
            namespace
        });
        let Self { slots, hasher, .. } = self;
        // All three: a forged status may name the UID of a credential elsewhere.
        let hash_of = |slot: &Arc<Slot>| hasher.hash_one((&*slot.namespace, &*slot.name, slot.uid));
        let hash = hasher.hash_one((&*namespace, name, uid));
        let is_it = |slot: &Arc<Slot>| slot.uid == uid && slot.namespace == namespace && &*slot.name == name;
        if let Some(slot) = slots.find(hash, is_it) {
            return slot.clone();
        }
        let slot = Arc::new(Slot::new(namespace, name, uid));
        slots.insert_unique(hash, slot.clone(), hash_of);
        slot
    }

    fn key(&mut self, id: &str) -> Arc<Box<str>> {
        let id: Arc<Box<str>> = Arc::new(id.into());
        if let Some(known) = self.keys.get(&id) {
            return known.clone();
        }
        self.keys.insert(id.clone());
        id
    }

    fn note_removal(&mut self) {
        self.removed += 1;
        if self.removed >= TIDY_EVERY {
            self.tidy();
        }
    }

    /// Forgets what is shared by nothing any more.
    fn tidy(&mut self) {
        self.removed = 0;
        self.slots.retain(|slot| Arc::strong_count(slot) > 1);
        self.keys.retain(|key| Arc::strong_count(key) > 1);
        self.namespaces.retain(|namespace| Arc::strong_count(namespace) > 1);
    }
}

fn place_hash(hasher: &RandomState, record: &Record) -> u64 {
    hasher.hash_one((record.kind, &*record.credential.namespace, record.name()))
}

#[cfg(test)]
mod tests;
