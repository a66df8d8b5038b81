//! What the watches have shown, and what we wrote that they have not shown yet.
//!
//! A watch lags behind our own writes. Whoever decides by it alone does everything twice, so the answer to each
//! write is put in here too, and a later version never gives way to an earlier one. Resource versions of one
//! resource are compared as the integers that they are (KEP-5504).

use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kube::{Resource, runtime::watcher::Event};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Place,
    packed::{Packed, Packer},
};

/// What can be kept.
pub trait Kept: Resource<DynamicType = ()> + Serialize + DeserializeOwned {
    /// What is told of one without unpacking it.
    type Brief: Clone + PartialEq;

    /// In brief.
    fn brief(&self) -> Self::Brief;

    /// Removes and zeroizes secret data, which is not cached. The brief is taken before.
    fn remove_secrets(&mut self) {}

    /// What one belongs to.
    type Owner: Clone + Eq + Hash + Ord;

    /// What it belongs to.
    fn owner(&self) -> Option<Self::Owner>;

    /// Whether those of one namespace are looked for.
    const BY_NAMESPACE: bool = false;
}

/// The objects of one watch, each also found by what it belongs to.
pub struct Cache<K: Kept> {
    packer: Packer<K>,
    state: Mutex<State<K>>,
}

struct State<K: Kept> {
    objects: HashMap<Place, Held<K>>,
    by_owner: HashMap<K::Owner, BTreeSet<Place>>,
    by_namespace: HashMap<String, BTreeSet<Place>>,
    /// What is there in a form that cannot be read.
    unreadable: HashSet<Place>,
    /// The watches that feed it: of a namespace each, or one of all, which is `None`.
    scopes: HashMap<Option<String>, Scope>,
}

/// How far a watch has come.
#[derive(Default)]
struct Scope {
    /// The latest version that it has shown: what it does not have by then is gone.
    seen: u64,
    /// What the list that is being read has named so far.
    listed: Option<Listed>,
    complete: bool,
}

struct Held<K: Kept> {
    version: u64,
    brief: K::Brief,
    owner: Option<K::Owner>,
    object: Packed,
}

#[derive(Default)]
struct Listed {
    places: HashSet<Place>,
    /// What we wrote since the list began, which it may not show.
    written: HashSet<Place>,
    /// The latest version in it.
    latest: u64,
    /// Whether it showed something in an earlier version than was known: the store was put back from a backup.
    went_back: bool,
}

/// Why an object that cannot be read is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It is there, but cannot be read.
    Unreadable,
    /// It was deleted.
    Deleted,
}

/// What an event of the watch changed.
pub struct Change<K: Kept> {
    /// Where.
    pub place: Place,
    /// What was there, and what it belonged to.
    pub before: Option<(K::Brief, Option<K::Owner>)>,
    /// What is there now.
    pub after: Option<K>,
}

impl<K: Kept> Change<K> {
    /// What it belonged to before and what it belongs to now.
    pub fn owners(&self) -> BTreeSet<K::Owner> {
        let before = self.before.iter().filter_map(|(_, owner)| owner.clone());
        before.chain(self.after.as_ref().and_then(Kept::owner)).collect()
    }
}

impl<K: Kept> Default for Cache<K> {
    fn default() -> Self {
        Self::of([None])
    }
}

impl<K: Kept> State<K> {
    /// The watch that shows what is in that namespace.
    fn scope(&mut self, namespace: &str) -> Option<&mut Scope> {
        let key = if self.scopes.contains_key(&None) { None } else { Some(namespace.to_owned()) };
        self.scopes.get_mut(&key)
    }
}

impl<K: Kept> Cache<K> {
    /// A cache that is fed by watches of these namespaces, of which `None` means all. Without any it stays empty.
    pub fn of(scopes: impl IntoIterator<Item = Option<String>>) -> Self {
        let state = State {
            objects: HashMap::new(),
            by_owner: HashMap::new(),
            by_namespace: HashMap::new(),
            unreadable: HashSet::new(),
            scopes: scopes.into_iter().map(|scope| (scope, Scope::default())).collect(),
        };
        Self { packer: Packer::new(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        // No method panics half-way through a change, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the first list of each watch has been read to its end.
    pub fn is_complete(&self) -> bool {
        self.state().scopes.values().all(|scope| scope.complete)
    }

    /// The watch that shows what is in that namespace: that one's own, or the one of all.
    pub fn scope_of(&self, namespace: Option<&str>) -> Option<String> {
        let state = self.state();
        namespace
            .map(ToOwned::to_owned)
            .filter(|namespace| state.scopes.contains_key(&Some(namespace.clone())))
    }

    /// How many there are, less those that cannot be read.
    pub fn count(&self) -> usize {
        self.state().objects.len()
    }

    /// Whether there is one at that place.
    pub fn has(&self, place: &Place) -> bool {
        self.state().objects.contains_key(place)
    }

    /// The object at that place.
    pub fn get(&self, place: &Place) -> Option<K> {
        let packed = self.state().objects.get(place)?.object.clone();
        Some(self.packer.unpack(&packed))
    }

    /// The objects that belong to `owner`, each unpacked as it is asked for.
    pub fn owned_by(&self, owner: &K::Owner) -> impl Iterator<Item = K> {
        let places = self.places_owned_by(owner);
        places.into_iter().filter_map(|place| self.get(&place))
    }

    /// Where the objects are that belong to `owner`.
    pub fn places_owned_by(&self, owner: &K::Owner) -> Vec<Place> {
        self.state().by_owner.get(owner).into_iter().flatten().cloned().collect()
    }

    /// The one at that place, in brief.
    pub fn brief(&self, place: &Place) -> Option<K::Brief> {
        self.state().objects.get(place).map(|held| held.brief.clone())
    }

    /// Looks at those of a namespace, in brief. `look` must not come back to this cache.
    pub fn each_in(&self, namespace: &str, mut look: impl FnMut(&Place, &K::Brief)) {
        let state = self.state();
        for place in state.by_namespace.get(namespace).into_iter().flatten() {
            if let Some(held) = state.objects.get(place) {
                look(place, &held.brief);
            }
        }
    }

    /// Looks at those that belong to `owner`, in brief. `look` must not come back to this cache.
    pub fn each_owned_by(&self, owner: &K::Owner, mut look: impl FnMut(&Place, &K::Brief)) {
        let state = self.state();
        for place in state.by_owner.get(owner).into_iter().flatten() {
            if let Some(held) = state.objects.get(place) {
                look(place, &held.brief);
            }
        }
    }

    /// All objects, each unpacked as it is asked for.
    pub fn all(&self) -> impl Iterator<Item = K> {
        self.places().into_iter().filter_map(|place| self.get(&place))
    }

    /// Where all objects are.
    pub fn places(&self) -> Vec<Place> {
        self.state().objects.keys().cloned().collect()
    }

    /// Whether what is there cannot be read.
    pub fn is_unreadable(&self, place: &Place) -> bool {
        self.state().unreadable.contains(place)
    }

    /// Where something is that cannot be read.
    pub fn unreadable(&self) -> Vec<Place> {
        self.state().unreadable.iter().cloned().collect()
    }

    /// How many there are that cannot be read.
    pub fn count_unreadable(&self) -> usize {
        self.state().unreadable.len()
    }

    /// Whether anything is there that cannot be read.
    pub fn has_unreadable(&self) -> bool {
        !self.state().unreadable.is_empty()
    }

    /// Takes in an event of the watch of everything and tells what it changed.
    pub fn observe(&self, event: Event<K>) -> Vec<Change<K>> {
        self.observe_in(None, event)
    }

    /// Takes in an event of the watch of that namespace, or of everything, and tells what it changed.
    pub fn observe_in(&self, scope: Option<&str>, event: Event<K>) -> Vec<Change<K>> {
        let watched = || scope.map(ToOwned::to_owned);
        let mut state = self.state();
        match event {
            Event::Apply(object) => {
                see(&mut state, &object);
                self.put(&mut state, object).into_iter().collect()
            }
            Event::Delete(object) => {
                see(&mut state, &object);
                let gone = Place::of(&object);
                // Deleted and made anew: what we wrote since is not what was deleted.
                let same = self.uid(&state, &gone) == object.meta().uid;
                if same { remove(&mut state, gone).into_iter().collect() } else { Vec::new() }
            }
            Event::Init => {
                state.scopes.entry(watched()).or_default().listed = Some(Listed::default());
                Vec::new()
            }
            Event::InitApply(object) => self.put_listed(&mut state, object).into_iter().collect(),
            Event::InitDone => {
                let watched = state.scopes.entry(watched()).or_default();
                watched.complete = true;
                let listed = watched.listed.take().unwrap_or_default();
                if listed.went_back {
                    watched.seen = listed.latest;
                }
                let is_gone = |place: &Place| {
                    !listed.places.contains(place) && scope.is_none_or(|scope| scope == place.namespace())
                };
                let unread: Vec<_> = state.unreadable.extract_if(is_gone).collect();
                // What we wrote during the list may go missing here. It is looked up before it is believed lost.
                let gone: Vec<_> = state.objects.keys().filter(|place| is_gone(place)).cloned().collect();
                let gone: Vec<_> = gone.into_iter().filter_map(|place| remove(&mut state, place)).collect();
                // What could not be read kept others from something.
                let unread = unread.into_iter().map(|place| Change { place, before: None, after: None });
                gone.into_iter().chain(unread).collect()
            }
        }
    }

    /// Takes in the object that a write of ours returned.
    pub fn remember(&self, object: K) {
        let (mut state, place) = (self.state(), Place::of(&object));
        let known = state.objects.contains_key(&place);
        // What no watch would ever show the end of is not kept.
        let Some(scope) = state.scope(place.namespace()) else { return };
        if known || version(&object) > scope.seen {
            if let Some(listed) = &mut scope.listed {
                listed.written.insert(place);
            }
            self.put(&mut state, object);
        }
    }

    /// Forgets an object that a write of ours deleted.
    pub fn forget(&self, place: &Place, uid: &str) {
        let mut state = self.state();
        if self.uid(&state, place).as_deref() == Some(uid) {
            remove(&mut state, place.clone());
        }
    }

    /// Takes out what the watch has shown in a form that cannot be read, and tells what that changed. As good as gone:
    /// it must neither hide the others nor be acted on as it was before.
    pub fn lose(&self, place: &Place, how: Lost) -> Change<K> {
        let mut state = self.state();
        match how {
            Lost::Unreadable => {
                if let Some(listed) = state.scope(place.namespace()).and_then(|scope| scope.listed.as_mut()) {
                    listed.places.insert(place.clone());
                }
                state.unreadable.insert(place.clone());
            }
            Lost::Deleted => {
                state.unreadable.remove(place);
            }
        }
        let change = remove(&mut state, place.clone());
        change.unwrap_or_else(|| Change { place: place.clone(), before: None, after: None })
    }

    /// A list is the truth of the time when it began, also where it is older than what was known before.
    fn put_listed(&self, state: &mut State<K>, object: K) -> Option<Change<K>> {
        let place = Place::of(&object);
        see(state, &object);
        let known = state.objects.get(&place).map(|held| held.version);
        if let Some(listed) = state.scope(place.namespace()).and_then(|scope| scope.listed.as_mut()) {
            listed.places.insert(place.clone());
            listed.latest = listed.latest.max(version(&object));
            if known.is_some_and(|known| known > version(&object)) && !listed.written.contains(&place) {
                listed.went_back = true;
                let before = remove(state, place).and_then(|change| change.before);
                return self.put(state, object).map(|change| Change { before, ..change });
            }
        }
        self.put(state, object)
    }

    fn put(&self, state: &mut State<K>, mut object: K) -> Option<Change<K>> {
        object.meta_mut().managed_fields = None;
        let place = Place::of(&object);
        let version = version(&object);
        if state.objects.get(&place).is_some_and(|held| held.version >= version) {
            return None;
        }
        let before = remove(state, place.clone()).and_then(|change| change.before);
        let owner = object.owner();
        if let Some(owner) = &owner {
            state.by_owner.entry(owner.clone()).or_default().insert(place.clone());
        }
        if K::BY_NAMESPACE {
            state.by_namespace.entry(place.namespace().to_owned()).or_default().insert(place.clone());
        }
        state.unreadable.remove(&place);
        let brief = object.brief();
        object.remove_secrets();
        let held = Held { version, brief, owner, object: self.packer.pack(&object) };
        state.objects.insert(place.clone(), held);
        Some(Change { place, before, after: Some(object) })
    }

    fn uid(&self, state: &State<K>, place: &Place) -> Option<String> {
        let held = state.objects.get(place)?;
        self.packer.unpack(&held.object).meta().uid.clone()
    }
}

/// A watch has shown this.
fn see<K: Kept>(state: &mut State<K>, object: &K) {
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    if let Some(scope) = state.scope(namespace) {
        scope.seen = scope.seen.max(version(object));
    }
}

fn remove<K: Kept>(state: &mut State<K>, place: Place) -> Option<Change<K>> {
    let held = state.objects.remove(&place)?;
    if let Some(owner) = &held.owner {
        take_out(&mut state.by_owner, owner, &place);
    }
    if K::BY_NAMESPACE {
        take_out(&mut state.by_namespace, place.namespace(), &place);
    }
    Some(Change { place, before: Some((held.brief, held.owner)), after: None })
}

fn take_out<G, Q>(groups: &mut HashMap<G, BTreeSet<Place>>, group: &Q, place: &Place)
where
    G: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    if let Some(of_group) = groups.get_mut(group) {
        of_group.remove(place);
        if of_group.is_empty() {
            groups.remove(group);
        }
    }
}

fn version(object: &impl Resource) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        ByteString,
        api::core::v1::{ConfigMap, Secret},
    };
    use kube::api::ObjectMeta;

    use super::*;
    use crate::controller::Key;

    impl Kept for ConfigMap {
        type Brief = Option<String>;
        type Owner = Key;

        fn brief(&self) -> Self::Brief {
            self.metadata.resource_version.clone()
        }

        fn owner(&self) -> Option<Key> {
            Some(owner())
        }
    }

    fn owner() -> Key {
        Key::Credential(Place::new("ns", "owner"))
    }

    fn object(name: &str, uid: &str, version: u64) -> ConfigMap {
        let metadata = ObjectMeta {
            namespace: Some("ns".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(uid.to_owned()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    fn held(cache: &Cache<ConfigMap>, name: &str) -> Option<String> {
        cache.get(&Place::new("ns", name)).and_then(|held| held.metadata.resource_version)
    }

    fn cache() -> Cache<ConfigMap> {
        let cache = Cache::default();
        cache.observe(Event::Init);
        cache.observe(Event::InitApply(object("a", "1", 5)));
        cache.observe(Event::InitDone);
        cache
    }

    #[test]
    fn keys_of_the_keyring_are_not_cached_with_its_secret() {
        let id = "20270115T080000Z-abcd";
        let bytes = b"the bytes of a key, 32 in number".to_vec();
        let secret = Secret {
            metadata: object("keyring", "1", 5).metadata,
            data: Some([(id.to_owned(), ByteString(bytes.clone()))].into()),
            ..Secret::default()
        };
        let place = Place::new("ns", "keyring");
        let cache = Cache::<Secret>::default();
        cache.observe(Event::Init);
        let changes = cache.observe(Event::InitApply(secret.clone()));
        assert_eq!(changes[0].after.as_ref().unwrap().data, None);
        cache.observe(Event::InitDone);
        let later = ObjectMeta { resource_version: Some("9".to_owned()), ..secret.metadata.clone() };
        cache.remember(Secret { metadata: later, ..secret.clone() });
        assert_eq!(cache.brief(&place).unwrap().0.get(id).unwrap().expose(), bytes);
        assert_eq!(cache.get(&place).unwrap().data, None);
        let encoded = serde_json::to_string(&secret.data.unwrap()[id]).unwrap();
        assert!(!String::from_utf8_lossy(cache.packer.dictionary()).contains(encoded.trim_matches('"')));
    }

    #[test]
    fn our_own_write_is_seen_before_the_watch_shows_it_and_its_echo_is_no_change() {
        let cache = cache();
        cache.remember(object("a", "1", 9));
        assert_eq!(held(&cache, "a").as_deref(), Some("9"));
        assert!(cache.observe(Event::Apply(object("a", "1", 7))).is_empty());
        assert!(cache.observe(Event::Apply(object("a", "1", 9))).is_empty());
        assert_eq!(held(&cache, "a").as_deref(), Some("9"));
    }

    #[test]
    fn an_answer_that_arrives_after_the_deletion_brings_nothing_back() {
        let cache = cache();
        cache.observe(Event::Apply(object("b", "2", 6)));
        cache.observe(Event::Delete(object("b", "2", 8)));
        cache.remember(object("b", "2", 6));
        assert_eq!(held(&cache, "b"), None);
    }

    #[test]
    fn the_deletion_of_a_predecessor_does_not_touch_the_successor() {
        let cache = cache();
        cache.remember(object("a", "2", 9));
        assert!(cache.observe(Event::Delete(object("a", "1", 8))).is_empty());
        assert_eq!(held(&cache, "a").as_deref(), Some("9"));
    }

    #[test]
    fn a_list_that_is_older_than_what_was_known_is_believed() {
        let cache = cache();
        cache.observe(Event::Apply(object("a", "1", 90)));
        cache.observe(Event::Init);
        let changes = cache.observe(Event::InitApply(object("a", "1", 5)));
        assert_eq!(changes[0].before, Some((Some("90".to_owned()), Some(owner()))));
        cache.observe(Event::InitDone);
        assert_eq!(held(&cache, "a").as_deref(), Some("5"));
        // What is written from now on has versions that were seen before.
        cache.remember(object("b", "2", 6));
        assert_eq!(held(&cache, "b").as_deref(), Some("6"));
    }

    #[test]
    fn what_we_wrote_during_a_list_is_not_undone_by_it() {
        let cache = cache();
        cache.observe(Event::Init);
        cache.remember(object("a", "1", 9));
        cache.observe(Event::InitApply(object("a", "1", 5)));
        cache.observe(Event::InitDone);
        assert_eq!(held(&cache, "a").as_deref(), Some("9"));
    }

    #[test]
    fn what_cannot_be_read_is_known_of_until_it_can_be_or_is_gone() {
        let cache = cache();
        let place = Place::new("ns", "a");
        cache.lose(&place, Lost::Unreadable);
        assert_eq!((held(&cache, "a"), cache.is_unreadable(&place)), (None, true));
        cache.observe(Event::Init);
        cache.lose(&place, Lost::Unreadable);
        cache.observe(Event::InitDone);
        assert!(cache.is_unreadable(&place));
        cache.observe(Event::Apply(object("a", "1", 9)));
        assert!(!cache.has_unreadable());
        cache.lose(&place, Lost::Unreadable);
        cache.lose(&place, Lost::Deleted);
        assert!(!cache.has_unreadable());
    }

    #[test]
    fn each_namespace_that_is_watched_is_read_by_itself() {
        let cache = Cache::of(["ns", "other"].map(|namespace| Some(namespace.to_owned())));
        let in_other = |name, version| {
            let mut object = object(name, "2", version);
            object.metadata.namespace = Some("other".to_owned());
            object
        };
        let list = |scope, objects: Vec<ConfigMap>| {
            cache.observe_in(Some(scope), Event::Init);
            for object in objects {
                cache.observe_in(Some(scope), Event::InitApply(object));
            }
            cache.observe_in(Some(scope), Event::InitDone).len()
        };
        list("ns", vec![object("a", "1", 50)]);
        assert!(!cache.is_complete());
        list("other", vec![in_other("a", 7)]);
        assert!(cache.is_complete());
        assert_eq!((list("ns", vec![]), cache.places()), (1, vec![Place::new("other", "a")]));
        // How far one watch has come says nothing of the other.
        cache.remember(in_other("b", 9));
        assert!(cache.has(&Place::new("other", "b")));
        cache.remember(object("b", "1", 9));
        assert!(!cache.has(&Place::new("ns", "b")));
    }

    #[test]
    fn what_is_watched_nowhere_is_not_kept() {
        let cache = Cache::of([]);
        assert!(cache.is_complete());
        cache.remember(object("a", "1", 9));
        assert!(cache.places().is_empty());
    }

    #[test]
    fn what_could_not_be_read_and_is_not_in_a_new_list_is_news() {
        let cache = cache();
        cache.observe(Event::Init);
        cache.observe(Event::InitApply(object("a", "1", 9)));
        cache.lose(&Place::new("ns", "odd"), Lost::Unreadable);
        assert!(cache.observe(Event::InitDone).is_empty());
        cache.observe(Event::Init);
        cache.observe(Event::InitApply(object("a", "1", 9)));
        let gone = cache.observe(Event::InitDone);
        assert_eq!(gone.iter().map(|change| change.place.name()).collect::<Vec<_>>(), ["odd"]);
        assert!(!cache.has_unreadable());
    }

    #[test]
    fn a_new_list_takes_away_what_it_does_not_name() {
        let cache = cache();
        cache.observe(Event::Init);
        cache.observe(Event::InitApply(object("b", "2", 9)));
        let gone = cache.observe(Event::InitDone);
        assert_eq!(gone.len(), 1);
        assert_eq!((held(&cache, "a"), cache.places_owned_by(&owner()).len()), (None, 1));
    }
}
