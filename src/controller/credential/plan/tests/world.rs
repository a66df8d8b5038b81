//! The cluster as far as a credential sees it: what `observe` reads and `apply` writes.

use super::*;

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) seen: Observed,
    /// It was let go.
    pub(super) gone: bool,
    /// How many UIDs were handed out.
    pub(super) drawn: u64,
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.gone == other.gone
            && self.seen.credential == other.seen.credential
            && self.seen.account == other.seen.account
            && self.by_key() == other.by_key()
    }
}

impl World {
    pub(super) fn of(seen: Observed) -> Self {
        Self { seen, gone: false, drawn: 0 }
    }

    /// UIDs are dealt out by chance, so they do not count.
    pub(super) fn by_key(&self) -> BTreeMap<BindingKey, Binding> {
        let mut bindings = self.seen.bindings.clone();
        for binding in &mut bindings {
            binding.metadata.uid = None;
        }
        bindings.into_iter().map(|binding| (binding.key(), binding)).collect()
    }

    pub(super) fn uid(&mut self) -> String {
        self.drawn += 1;
        format!("drawn-{}", self.drawn)
    }

    pub(super) fn held(&self) -> bool {
        let finalizers = &self.seen.credential.metadata.finalizers;
        finalizers.iter().flatten().any(|finalizer| finalizer == name::FINALIZER)
    }

    /// As `apply` does, but stops after `limit` writes, of which the status is the last. Tells whether it stopped.
    pub(super) fn apply(&mut self, plan: Plan, limit: usize) -> bool {
        let stops = limit < plan.steps.len() + usize::from(plan.status.is_some());
        let mut status = plan.status;
        for step in plan.steps.into_iter().take(limit) {
            match step {
                Step::Material(_) => unreachable!("a Token holds no material"),
                Step::Say(status) | Step::Refuse(status) => self.seen.credential.status = Some(*status),
                Step::CreateAccount => {
                    assert_eq!(self.seen.account, AccountSeen::Absent, "409");
                    let uid = "account-uid".to_owned();
                    if let Some(status) = &mut status {
                        status.service_account =
                            Some(ObjectReference { name: "nodes-credential".to_owned(), uid: uid.clone() });
                    }
                    self.seen.account = ours(&uid, true);
                }
                Step::MendAccount { uid, resource_version } => {
                    assert!(matches!(
                        &self.seen.account,
                        AccountSeen::Ours { uid: held, resource_version: version, .. }
                            if (held, version) == (&uid, &resource_version)
                    ));
                    self.seen.account = ours(&uid, true);
                }
                Step::AddFinalizer => {
                    let finalizers = &mut self.seen.credential.metadata.finalizers;
                    finalizers.get_or_insert_default().push(name::FINALIZER.to_owned());
                }
                Step::RemoveFinalizer => {
                    let metadata = &mut self.seen.credential.metadata;
                    let finalizers = metadata.finalizers.as_mut().unwrap();
                    finalizers.retain(|finalizer| finalizer != name::FINALIZER);
                    self.gone = metadata.deletion_timestamp.is_some() && finalizers.is_empty();
                }
                Step::CreateBinding(mut binding) => {
                    let key = binding.key();
                    assert!(!self.by_key().contains_key(&key), "409: {key} would be made twice");
                    assert!(
                        self.held() || key.namespace.as_deref() == Some("edge"),
                        "{key} would be left behind"
                    );
                    let place = key.namespace.as_deref().unwrap_or("*");
                    let said = self
                        .seen
                        .credential
                        .status
                        .as_ref()
                        .is_some_and(|status| status.bound_in.iter().any(|said| said == place));
                    assert!(said || place == "edge", "nobody would know of {key}");
                    binding.metadata.uid = Some(self.uid());
                    self.seen.bindings.push(*binding);
                }
                Step::DeleteBinding { key, uid } => {
                    let at =
                        self.seen.bindings.iter().position(|found| {
                            found.key() == key && found.metadata.uid.as_ref() == Some(&uid)
                        });
                    self.seen.bindings.remove(at.unwrap());
                }
            }
        }
        if !stops && status.is_some() {
            self.seen.credential.status = status;
        }
        stops
    }

    /// Plans and applies until nothing changes any more.
    pub(super) fn settle(mut self) -> Self {
        for _ in 0..10 {
            let before = self.clone();
            if self.gone {
                return self;
            }
            self.apply(plan(&self.seen, now()), LIMIT);
            if self == before {
                return self;
            }
        }
        panic!("never settles: {self:#?}");
    }
}
