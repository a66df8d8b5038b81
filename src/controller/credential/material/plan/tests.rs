use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::CredentialType,
    domain::{
        material::{Problem, Request},
        sealed::Recipients,
        token::Prefix,
    },
};

mod edits;
mod kubeconfig;
mod once;
mod sealed;

/// A model of the cluster, as far as one credential's material goes.
struct World {
    credential: Credential,
    /// The Secrets by name, each with the number of the value in it.
    secrets: BTreeMap<String, (OwnSecret, u64)>,
    now: Timestamp,
    values: u64,
    uids: u64,
    /// Whether the next deletion of a version takes so long that the operator no longer waits for it.
    slow: bool,
    /// The deletions that are still under way.
    late: Vec<(ObjectReference, String)>,
    /// Why nothing new may be published.
    held: Option<Trouble>,
    /// What is being generated.
    generating: Option<(String, Timestamp)>,
}

const TYPES: [(&str, &str, &str); 10] = [
    ("ClientSecret", r"{}", r"{}"),
    ("BasicAuth", r#"{"basicAuth": {}}"#, r#"{"basicAuth": {"length": 40}}"#),
    ("SshKey", r#"{"sshKey": {}}"#, r#"{"sshKey": {"algorithm": "Ecdsa"}}"#),
    ("Tls", r#"{"tls": {}}"#, r#"{"tls": {"dnsNames": ["a.example"]}}"#),
    ("ObjectStore", r"{}", r"{}"),
    ("Registry", r#"{"registry": {"server": "r"}}"#, r#"{"registry": {"server": "s"}}"#),
    ("HelmRepository", r#"{"helmRepository": {}}"#, r#"{"helmRepository": {"username": "x"}}"#),
    ("Opaque", r#"{"opaque": {"fields": [{"name": "a"}]}}"#, r#"{"opaque": {"fields": [{"name": "b"}]}}"#),
    ("HashedPassword", r#"{"hashedPassword": {}}"#, r#"{"hashedPassword": {"algorithm": "Argon2id"}}"#),
    ("Totp", r#"{"totp": {}}"#, r#"{"totp": {"digits": 8}}"#),
];

fn merge(into: &mut Value, from: &Value) {
    match (into.as_object_mut(), from.as_object()) {
        (Some(into), Some(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert_with(|| json!({})), value);
                }
            }
        }
        _ => *into = from.clone(),
    }
}

impl World {
    fn new(kind: &str, options: &str) -> Self {
        let mut spec: Value = serde_json::from_str(options).unwrap();
        spec["type"] = json!(kind);
        let credential = serde_json::from_value(json!({
            "apiVersion": "credential-operator.io/v1alpha1",
            "kind": "Credential",
            "metadata": {"name": "c", "namespace": "orders", "uid": "c-uid"},
            "spec": spec,
        }));
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        Self {
            credential: credential.unwrap(),
            secrets: BTreeMap::new(),
            now,
            values: 0,
            uids: 0,
            slow: false,
            late: Vec::new(),
            held: None,
            generating: None,
        }
    }

    /// What was under way arrives, and does what it is allowed to.
    fn land(&mut self, late: Vec<(ObjectReference, String)>) {
        for (secret, version) in late {
            let is_it = |(own, _): &(OwnSecret, u64)| {
                own.reference.uid == secret.uid && own.resource_version == version
            };
            if self.secrets.get(&secret.name).is_some_and(is_it) {
                self.secrets.remove(&secret.name);
            }
        }
    }

    fn spec(&mut self, change: &Value) {
        *self.credential.metadata.generation.get_or_insert_default() += 1;
        let mut spec = json!(self.credential.spec);
        merge(&mut spec, change);
        self.credential.spec = serde_json::from_value(spec).unwrap();
    }

    fn options(&self) -> Result<String, Problem> {
        let request = Request {
            spec: &self.credential.spec,
            namespace: "orders",
            name: "c",
            now: self.now,
            prefix: &Prefix::default(),
            issuer: None,
        };
        material::options(material::kind(self.credential.spec.credential_type).unwrap(), &request)
    }

    fn seen(&self) -> Seen {
        let name = secret_name(&self.credential);
        let own = |name: &str| self.secrets.get(name).map(|(own, _)| own.clone());
        let recorded = self.credential.status.as_ref().and_then(|status| status.secret.clone());
        let secret = own(&name).map_or(SecretSeen::Absent, |own| SecretSeen::Ours(Box::new(own)));
        let copies = self.secrets.values().filter(|(own, _)| own.owned).map(|(own, _)| own.reference.clone());
        let serial = self.credential.status.as_ref().and_then(|status| status.material.as_ref()?.serial);
        let former = recorded.iter().cloned().chain(copies).filter(|other| other.name != name);
        let former = former.filter_map(|other| own(&other.name)).find(|own| {
            let attested = own.attested.as_ref().map(MaterialAttestation::serial);
            attested.is_some_and(|attested| serial.is_none_or(|serial| attested >= serial))
        });
        let former = former.filter(|_| matches!(secret, SecretSeen::Absent)).map(|own| (own, Entries::new()));
        let strays = self.secrets.values().filter(|(own, _)| own.owned);
        let strays = strays.map(|(own, _)| (own.reference.clone(), own.resource_version.clone()));
        let strays = strays.filter(|(other, _)| other.name != name).collect();
        Seen {
            secret,
            former,
            strays,
            source: SourceSeen::Unasked,
            issuer: None,
            options: self.options(),
            native: None,
            key_known: true,
            generating: self.generating.clone(),
        }
    }

    /// One round, of which only the first `limit` writes happen; tells whether anything was left to do.
    fn round(&mut self, over: bool, limit: usize) -> bool {
        let wanted = if over { Wanted::No } else { Wanted::Yes };
        let plan = plan(&self.credential, &self.seen(), wanted, self.held.clone(), self.now);
        let (mut secret, mut material) = (plan.secret, plan.material);
        let mut writes = 0;
        for step in plan.steps {
            if writes == limit {
                return true;
            }
            writes += 1;
            match step {
                Step::Publish(recipe) => self.publish(*recipe, &mut secret, &mut material),
                Step::Mint(_) => panic!("it is drawn"),
                Step::Mend(mend) => {
                    let (own, _) = self.secrets.get_mut(&mend.secret.name).unwrap();
                    assert_eq!(
                        (&own.reference, &own.resource_version),
                        (&mend.secret, &mend.resource_version)
                    );
                    for (labels, changes) in
                        [(&mut own.labels, mend.dress.labels), (&mut own.annotations, mend.dress.annotations)]
                    {
                        for (key, value) in changes {
                            match value {
                                Some(value) => labels.insert(key, value),
                                None => labels.remove(&key),
                            };
                        }
                    }
                    own.owned |= mend.own;
                    if mend.attest.is_some() {
                        own.attested = mend.attest;
                    }
                    self.uids += 1;
                    own.resource_version = self.uids.to_string();
                }
                Step::Delete { secret, resource_version: Some(version) } if self.slow => {
                    self.slow = false;
                    self.late.push((secret, version));
                    return true;
                }
                Step::Delete { secret, resource_version } => {
                    let gone = self.secrets.remove(&secret.name);
                    assert!(gone.is_none_or(|(own, _)| own.reference.uid == secret.uid
                        && resource_version.is_none_or(|version| own.resource_version == version)));
                }
            }
        }
        let status = self.credential.status.clone().unwrap_or_default();
        let told = crate::api::CredentialStatus { secret, material, ..status.clone() };
        if writes == limit {
            return true;
        }
        let news = told != status;
        self.credential.status = Some(told);
        writes > 0 || news
    }

    fn publish(
        &mut self,
        recipe: Recipe,
        secret: &mut Option<ObjectReference>,
        material: &mut Option<MaterialStatus>,
    ) {
        let (value, attestation, copied) = match recipe.content {
            Content::Copied(_) => {
                let (former, _) = self.seen().former.unwrap();
                let (_, value) = &self.secrets[&former.reference.name];
                (*value, recipe.attestation, true)
            }
            Content::Drawn | Content::Provided { .. } => {
                self.values += 1;
                let mut attestation = recipe.attestation;
                attestation.material.digest = Some(format!("digest of {}", self.values));
                attestation.material.id = Some(format!("id of {}", self.values));
                attestation.proof = "proof".to_owned();
                (self.values, attestation, false)
            }
        };
        self.uids += 1;
        let version = self.uids.to_string();
        let own = if let Some((reference, resource_version, _)) = &recipe.into {
            let (own, _) = &self.secrets[&reference.name];
            assert_eq!((&own.reference, &own.resource_version), (reference, resource_version));
            OwnSecret { attested: Some(attestation.clone()), resource_version: version, ..own.clone() }
        } else {
            assert!(!self.secrets.contains_key(&recipe.name), "409");
            let set = |changes: BTreeMap<String, Option<String>>| {
                changes.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
            };
            OwnSecret {
                reference: ObjectReference { name: recipe.name.clone(), uid: format!("uid {version}") },
                resource_version: version,
                labels: set(recipe.dress.labels),
                annotations: set(recipe.dress.annotations),
                owned: true,
                attested: Some(attestation.clone()),
                plain_intact: true,
                empty: false,
            }
        };
        if !copied {
            *secret = Some(own.reference.clone());
            if let Some(material) = material {
                material.digest.clone_from(&attestation.material.digest);
                material.id.clone_from(&attestation.material.id);
            }
        }
        self.secrets.insert(recipe.name, (own, value));
    }

    /// Rounds until nothing is left to do; the first of them is cut off after `limit` writes.
    fn settle(&mut self, limit: usize) {
        self.round(false, limit);
        for _ in 0..10 {
            // The user goes on while a deletion is waited for.
            if !self.late.is_empty() || !self.round(false, usize::MAX) {
                return;
            }
        }
        let plan = plan(&self.credential, &self.seen(), Wanted::Yes, self.held.clone(), self.now);
        panic!("it never comes to rest: {plan:?}");
    }

    fn value(&self) -> Option<u64> {
        self.secrets.get(&secret_name(&self.credential)).map(|(_, value)| *value)
    }
}

#[test]
fn while_a_policy_holds_it_nothing_is_published_and_nothing_goes() {
    let reason = Reason::PolicyViolation;
    let held = Trouble { reason, message: "not allowed".to_owned(), waits_for_others: false };
    for (of_type, options, other) in TYPES {
        let mut world = World::new(of_type, options);
        world.held = Some(held.clone());
        world.settle(usize::MAX);
        assert!(world.secrets.is_empty());
        let trouble =
            plan(&world.credential, &world.seen(), Wanted::Yes, world.held.clone(), world.now).trouble;
        assert_eq!(trouble, world.held);
        world.held = None;
        world.settle(usize::MAX);
        let value = world.value().unwrap();
        // Rotation and other options wait; another name, which destroys nothing, does not.
        world.held = Some(held.clone());
        world.spec(&json!({"rotation": {"revision": 7}, "secret": {"name": "elsewhere"}}));
        world.spec(&serde_json::from_str(other).unwrap());
        world.settle(usize::MAX);
        assert_eq!((world.secrets.len(), world.value()), (1, Some(value)), "{of_type}");
        world.held = None;
        world.settle(usize::MAX);
        assert_ne!(world.value(), Some(value), "{of_type}");
    }
}

#[test]
fn every_generated_type_is_among_those_that_are_edited() {
    for (kind, first, _) in TYPES {
        let world = World::new(kind, first);
        let kind = material::kind(world.credential.spec.credential_type).unwrap();
        assert!(kind.generated.is_some() && world.options().is_ok());
    }
    assert_eq!(CredentialType::default(), CredentialType::Token);
}

#[test]
fn a_name_that_is_given_back_brings_no_earlier_value_back() {
    for rounds in 0..4 {
        let mut world = World::new("Opaque", TYPES[7].1);
        world.settle(usize::MAX);
        let value = world.value();
        world.spec(&json!({"secret": {"name": "elsewhere"}}));
        world.round(false, usize::MAX);
        // There are two copies, and one of them is to be replaced.
        world.spec(&json!({"rotation": {"revision": 1}}));
        for _ in 0..rounds {
            world.round(false, usize::MAX);
        }
        world.spec(&json!({"secret": null}));
        world.settle(usize::MAX);
        assert_eq!((world.secrets.len(), world.values), (1, 2), "after {rounds} rounds");
        assert_ne!(world.value(), value, "after {rounds} rounds");
    }
}

#[test]
fn at_the_end_every_secret_of_it_goes() {
    let mut world = World::new("Opaque", TYPES[7].1);
    world.settle(usize::MAX);
    world.spec(&json!({"secret": {"name": "elsewhere"}}));
    // The copy is there, and nobody knows yet.
    world.round(false, 1);
    assert_eq!(world.secrets.len(), 2);
    while world.round(true, usize::MAX) {}
    assert_eq!((world.secrets.len(), world.credential.status.unwrap().secret), (0, None));
}

#[test]
fn a_deletion_that_arrives_late_finds_nothing_that_it_may_delete() {
    let mut world = World::new("Opaque", TYPES[7].1);
    world.settle(usize::MAX);
    let value = world.value();
    world.slow = true;
    world.spec(&json!({"secret": {"name": "elsewhere"}}));
    world.settle(usize::MAX);
    let late = std::mem::take(&mut world.late);
    assert_eq!((late.len(), world.secrets.len()), (1, 2));
    world.spec(&json!({"secret": null}));
    world.settle(usize::MAX);
    world.land(late);
    world.settle(usize::MAX);
    assert_eq!((world.secrets.len(), world.value()), (1, value));
}

#[test]
fn a_client_secret_is_rotated_before_its_end_whatever_became_of_the_wish() {
    let hour = SignedDuration::from_hours(1);
    for (change, after) in [
        (json!({"rotation": {"every": "3h", "overlap": "1h"}}), 3 * hour),
        (json!({"rotation": {"every": "1d", "overlap": "1h"}}), 2 * hour),
        (json!({"rotation": {"every": "1d", "overlap": null}}), 3 * hour),
        (json!({"rotation": null}), 3 * hour),
        // Sooner, and as it was.
        (json!({"rotation": {"every": "1h", "overlap": "1h"}}), hour),
        (json!({"description": "another"}), 2 * hour),
    ] {
        let mut world = World::new("ClientSecret", r#"{"rotation": {"every": "2h", "overlap": "1h"}}"#);
        world.settle(usize::MAX);
        let issued_at = world.now;
        world.spec(&change);
        // It was to end three hours after it was drawn, and does.
        world.settle(usize::MAX);
        let material = world.credential.status.clone().unwrap().material.unwrap();
        assert_eq!(material.expires_at, Some((issued_at + 3 * hour).into()), "{change}");
        assert_eq!(material.rotates_at, Some((issued_at + after).into()), "{change}");
    }
}

#[test]
fn what_a_status_is_made_to_say_is_put_right() {
    let mut world = World::new("ClientSecret", r#"{"rotation": {"every": "90d", "overlap": "1d"}}"#);
    world.settle(usize::MAX);
    world.now += SignedDuration::from_mins(2);
    world.spec(&json!({"rotation": {"revision": 1}}));
    world.settle(usize::MAX);
    let (before, value) = (world.credential.status.clone().unwrap(), world.value());
    let told = before.material.clone().unwrap();
    let previous = told.previous.clone().unwrap();
    let later = PreviousMaterial { expires_at: "2199-01-01T00:00:00Z".into(), ..previous };
    for forged in [
        MaterialStatus { serial: Some(99), ..told.clone() },
        MaterialStatus { previous: Some(later), ..told.clone() },
        MaterialStatus { previous: None, ..told.clone() },
        MaterialStatus::default(),
    ] {
        world.credential.status.as_mut().unwrap().material = Some(forged);
        world.settle(usize::MAX);
        assert_eq!((world.credential.status.clone().unwrap(), world.value()), (before.clone(), value));
    }
}

#[test]
fn an_end_that_only_the_status_tells_of_destroys_nothing() {
    let mut world = World::new("Opaque", TYPES[7].1);
    world.settle(usize::MAX);
    let before = world.credential.status.clone().unwrap();
    let plan = plan(&world.credential, &world.seen(), Wanted::Untouched, None, world.now);
    assert!(plan.steps.is_empty());
    assert_eq!((plan.secret, plan.material), (before.secret, before.material));
}

#[test]
fn costly_material_is_rotated_less_often_than_it_asks_for() {
    for (kind, options, seconds) in [
        ("HashedPassword", r#"{"hashedPassword": {"cost": 15}, "rotation": {"every": "1m"}}"#, 384),
        ("ClientSecret", r#"{"rotation": {"every": "1m"}}"#, 60),
    ] {
        let mut world = World::new(kind, options);
        world.settle(usize::MAX);
        let material = world.credential.status.clone().unwrap().material.unwrap();
        let issued_at = material.issued_at.unwrap().timestamp().unwrap();
        let rotates_at = material.rotates_at.unwrap().timestamp().unwrap();
        assert_eq!(rotates_at.duration_since(issued_at).as_secs(), seconds, "{kind}");
    }
}

#[test]
fn costly_material_is_generated_once_a_period_whatever_asks_for_it() {
    let costly = r#"{"hashedPassword": {"cost": 15}}"#;
    let period = SignedDuration::from_secs(384);
    for (what, options, free) in [
        ("revision", costly, false),
        ("annotation", costly, false),
        ("options", costly, false),
        ("deletion", costly, false),
        ("revision", r#"{"hashedPassword": {"algorithm": "Argon2id"}}"#, true),
    ] {
        let mut world = World::new("HashedPassword", options);
        world.settle(usize::MAX);
        let issued_at = world.now;
        for n in 1..=20 {
            world.now += SignedDuration::from_secs(10);
            match what {
                "revision" => world.spec(&json!({"rotation": {"revision": n}})),
                "options" => world.spec(&json!({"hashedPassword": {"length": 30 + n}})),
                "deletion" => world.secrets.clear(),
                _ => {
                    let annotations = world.credential.metadata.annotations.get_or_insert_default();
                    annotations.insert(name::ROTATE_ANNOTATION.to_owned(), n.to_string());
                }
            }
            world.settle(usize::MAX);
        }
        if free {
            assert_eq!(world.values, 21, "{what}");
            continue;
        }
        assert_eq!(world.values, 1, "{what}");
        let plan = plan(&world.credential, &world.seen(), Wanted::Yes, None, world.now);
        let trouble = plan.trouble.unwrap();
        assert_eq!((trouble.reason, plan.wake), (Reason::Pending, Some(issued_at + period)), "{what}");
        let expected = format!("The generation of new material is postponed until {}", issued_at + period);
        assert!(trouble.message.starts_with(&expected), "{what}: {}", trouble.message);
        // The last of them is answered, and none of those before it.
        world.now = issued_at + period;
        world.settle(usize::MAX);
        assert_eq!(world.values, 2, "{what}");
        assert_eq!(world.secrets.len(), 1, "{what}");
    }
}

#[test]
fn material_that_is_being_generated_is_not_replaced_by_the_next_wish_at_once() {
    let mut world = World::new("HashedPassword", r#"{"hashedPassword": {"cost": 15}}"#);
    let publishes = |world: &World| {
        let plan = plan(&world.credential, &world.seen(), Wanted::Yes, None, world.now);
        plan.steps.into_iter().find_map(|step| match step {
            Step::Publish(recipe) => Some(recipe.wish),
            _ => None,
        })
    };
    // It is requested, and takes a while.
    let first = publishes(&world).unwrap();
    world.generating = Some((first.clone(), world.now));
    world.now += SignedDuration::from_secs(1);
    assert_eq!(publishes(&world), Some(first.clone()), "the same goes on");
    world.spec(&json!({"hashedPassword": {"length": 40}}));
    assert_eq!(publishes(&world), None, "another one waits");
    world.spec(&json!({"hashedPassword": {"length": null}}));
    assert_eq!(publishes(&world), Some(first.clone()), "it is asked for again");
    world.spec(&json!({"hashedPassword": {"length": 40}}));
    world.now += SignedDuration::from_secs(384);
    assert!(publishes(&world).is_some_and(|wish| wish != first));
    // A clock that was set back does not hold it up.
    world.now -= SignedDuration::from_hours(1);
    assert!(publishes(&world).is_some());
}
