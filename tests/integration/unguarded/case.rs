//! A case: what is there, what somebody does, what the operator says and makes of it, and when it goes on.

use std::{collections::BTreeMap, fmt::Debug};

use control_plane::Namespaced;
use credential_operator::api::{ApiToken, Credential};
use k8s_openapi::api::{
    core::v1::{Secret, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{Api, Resource, ResourceExt, api::ListParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    admission::case::{Act, Kind, placed},
    support::{Space, World, apply, condition, documents},
};

/// What is refused, and then is not.
pub struct Tried {
    pub name: &'static str,
    /// What the admin applied before. What of it is ours has come to rest when the attack begins.
    pub given: String,
    /// What somebody does who may do everything. `$uid` is the UID of the credential `c`.
    pub act: Act,
    /// Who says so.
    pub of: (Kind, &'static str),
    pub reason: &'static str,
    pub says: &'static str,
    /// What is there then that was not, and what was there and is not. All else is untouched.
    pub leaves: Left,
    /// What makes it pass.
    pub remedy: Act,
    /// What is there then that was not, beside what was done for it.
    pub then: &'static [&'static str],
}

/// Reasons for being ready: what somebody did is of no account.
const IT_GOES_ON: [&str; 2] = ["Published", "Issued"];

/// What may be different while something is refused.
pub enum Left {
    /// These are there (`+`), or not any more (`-`).
    These(&'static [&'static str]),
    /// No Secret was made, and none touched; no role is bound that was not.
    NothingNew,
}

/// By kind and name, the UID and the version.
pub type Seen = BTreeMap<String, (String, String)>;

impl Tried {
    pub async fn run(&self, world: &World, space: &Space) {
        let other =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": placed("$other", space)}});
        apply(&space.client, "", other).await.unwrap();
        for document in documents(&placed(&self.given, space)) {
            apply(&space.client, &space.namespace, document).await.unwrap();
        }
        settled::<Credential>(space).await;
        settled::<ApiToken>(space).await;
        let uid = space.api::<Credential>().get_metadata_opt("c").await.unwrap();
        let uid = uid.and_then(|found| found.metadata.uid).unwrap_or_default();

        let before = seen(space).await;
        run(&self.act.with("$uid", &uid), world, space).await;
        let says = placed(self.says, space);
        let goes_on = IT_GOES_ON.contains(&self.reason);
        let expected = |said: &(bool, String, String)| {
            said.0 == goes_on && said.1 == self.reason && said.2.contains(&says)
        };
        self.until(space, expected).await;
        let after = seen(space).await;
        match self.leaves {
            Left::These(expected) => {
                let expected: Vec<_> = expected.iter().map(|change| placed(change, space)).collect();
                assert_eq!(differences(&before, &after), expected, "{}", self.name);
            }
            Left::NothingNew => {
                let new = differences(&before, &after);
                let bad = |change: &&String| {
                    change.contains(" Secret ") && !change.starts_with('-')
                        || change.starts_with("+ ") && change.contains("Binding ")
                        || change.starts_with("- Secret")
                };
                let bad: Vec<_> = new.iter().filter(bad).collect();
                assert!(bad.is_empty(), "{}: {bad:?}", self.name);
            }
        }

        run(&self.remedy.with("$uid", &uid), world, space).await;
        self.until(space, |said| said.0).await;
        let made = differences(&before, &seen(space).await);
        let missing: Vec<_> = self
            .then
            .iter()
            .map(|wanted| placed(wanted, space))
            .filter(|wanted| !made.contains(wanted))
            .collect();
        assert!(missing.is_empty(), "{}: without {missing:?}, but {made:?}", self.name);
    }

    /// Waits until the object says so of its latest generation.
    async fn until(&self, space: &Space, expected: impl Fn(&(bool, String, String)) -> bool) {
        match self.of {
            (Kind::Credential, name) => until::<Credential>(space, name, expected).await,
            (Kind::ApiToken, name) => until::<ApiToken>(space, name, expected).await,
            (other, _) => panic!("{other:?} says nothing"),
        }
    }
}

/// What is applied is applied by the manager who applied what was there before, so that fields can be taken away.
async fn run(act: &Act, world: &World, space: &Space) {
    match act {
        Act::Apply(yaml) => space.apply(&placed(yaml, space)).await,
        act => act.run(&world.admin, space).await.unwrap(),
    }
}

async fn until<K>(space: &Space, name: &str, expected: impl Fn(&(bool, String, String)) -> bool)
where
    K: Namespaced,
{
    space
        .until::<K>(name, |found| {
            found.is_some_and(|found| answered(found) && expected(&condition(found, "Ready")))
        })
        .await;
}

/// Whether the operator has said anything of the latest generation.
fn answered<K: Resource + Serialize>(object: &K) -> bool {
    json!(object)["status"]["observedGeneration"] == json!(object.meta().generation)
}

/// Waits until the operator has said something of each.
async fn settled<K>(space: &Space)
where
    K: Namespaced,
{
    for object in space.api::<K>().list_metadata(&ListParams::default()).await.unwrap() {
        space
            .until::<K>(&object.name_any(), |found| {
                found.is_some_and(|found| answered(found) && condition(found, "Ready").1 != "Pending")
            })
            .await;
    }
}

/// All that the operator could make or touch for the namespace.
pub async fn seen(space: &Space) -> Seen {
    let other = placed("$other", space);
    let mut seen = Seen::new();
    for namespace in [&space.namespace, &other] {
        let place = if *namespace == other { " elsewhere" } else { "" };
        note(&mut seen, Api::<Secret>::namespaced(space.client.clone(), namespace), place).await;
        note(&mut seen, Api::<ServiceAccount>::namespaced(space.client.clone(), namespace), place).await;
        note(&mut seen, Api::<RoleBinding>::namespaced(space.client.clone(), namespace), place).await;
    }
    let mut everywhere = Seen::new();
    note(&mut everywhere, Api::<ClusterRoleBinding>::all(space.client.clone()), "").await;
    let prefix = format!("ClusterRoleBinding {}.", space.namespace);
    seen.extend(everywhere.into_iter().filter(|(name, _)| name.starts_with(&prefix)));
    seen
}

async fn note<K>(seen: &mut Seen, api: Api<K>, place: &str)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    for found in api.list_metadata(&ListParams::default()).await.unwrap() {
        let name = found.name_any();
        // Comes with each namespace, some time.
        if name == "default" {
            continue;
        }
        let version = (found.uid().unwrap_or_default(), found.resource_version().unwrap_or_default());
        seen.insert(format!("{} {name}{place}", K::kind(&())), version);
    }
}

/// `+` what is new, `-` what is gone, `~` what is another of that name or was written to. Hashes in names are left out.
fn differences(before: &Seen, after: &Seen) -> Vec<String> {
    let mut found: Vec<_> = before
        .keys()
        .filter(|name| !after.contains_key(*name))
        .map(|name| format!("- {}", short(name)))
        .collect();
    for (name, version) in after {
        match before.get(name) {
            None => found.push(format!("+ {}", short(name))),
            Some(known) if known != version => found.push(format!("~ {}", short(name))),
            Some(_) => {}
        }
    }
    found
}

fn short(name: &str) -> String {
    let hash = |part: &str| part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (name, place) = name.strip_suffix(" elsewhere").map_or((name, ""), |name| (name, " elsewhere"));
    match name.rsplit_once('-') {
        Some((start, end)) if hash(end) => format!("{start}{place}"),
        _ => format!("{name}{place}"),
    }
}
