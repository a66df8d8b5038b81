//! Random edits of a credential of every type, of its Secret and of what was provided, while the operator is restarted
//! again and again: material changes where the documents say so, and nowhere else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use credential_operator::{
    api::{Credential, CredentialType},
    domain::{
        material::{self, Kind},
        name,
    },
};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use crate::support::{Data, Space, SystemClock, World};

crate::tests![material_of_every_type_changes_only_for_a_reason];

/// For each type.
const EDITS: usize = 300;
/// How long an operator runs before the next takes its place.
const RUN: Duration = Duration::from_secs(7);
/// More than the operator puts filling a deleted Secret off.
const MINUTE: SignedDuration = SignedDuration::from_secs(61);

async fn material_of_every_type_changes_only_for_a_reason(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let (stop, mut stopped) = oneshot::channel::<()>();
    let operators = tokio::spawn({
        let (world, clock) = (world.clone(), clock.clone());
        async move {
            loop {
                let operator = world.operator(clock.clone()).await;
                let over = timeout(RUN, &mut stopped).await.is_ok();
                operator.stop().await;
                if over {
                    return;
                }
            }
        }
    });
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/types")).unwrap() {
        space.apply(&std::fs::read_to_string(file.unwrap().path()).unwrap()).await;
    }
    let credentials = space.api::<Credential>().list(&ListParams::default()).await.unwrap();
    let mut edited = JoinSet::new();
    // A kubeconfig follows time and state, too: tests of its own know by what.
    let drawn = |credential: &Credential| credential.spec.credential_type != CredentialType::Kubeconfig;
    for (seed, credential) in (0..).zip(credentials.into_iter().filter(drawn)) {
        let (space, clock) = (space.clone(), clock.clone());
        edited.spawn(async move {
            let mut subject = Subject::new(space, clock, &credential).await;
            let mut random = StdRng::seed_from_u64(seed);
            for number in 0..EDITS {
                subject.edit(number, &mut random).await;
            }
            subject.settle(&format!("after {EDITS} edits")).await;
            subject.draws
        });
    }
    for draws in edited.join_all().await {
        assert!(draws > EDITS / 20, "only {draws} of the edits were reasons");
    }
    stop.send(()).unwrap();
    operators.await.unwrap();
}

/// The options of a type that material depends on, in two states; its example is in neither.
fn options(credential_type: CredentialType) -> Option<[Value; 2]> {
    Some(match credential_type {
        CredentialType::BasicAuth => {
            [json!({"basicAuth": {"length": 30}}), json!({"basicAuth": {"length": 24}})]
        }
        CredentialType::SshKey => {
            [json!({"sshKey": {"algorithm": "Ecdsa"}}), json!({"sshKey": {"algorithm": "Ed25519"}})]
        }
        CredentialType::Tls => {
            [json!({"tls": {"dnsNames": ["a.example"]}}), json!({"tls": {"dnsNames": ["b.example"]}})]
        }
        CredentialType::Registry => {
            [json!({"registry": {"server": "a.example"}}), json!({"registry": {"server": "b.example"}})]
        }
        CredentialType::HelmRepository => {
            [json!({"helmRepository": {"username": "a"}}), json!({"helmRepository": {"username": "b"}})]
        }
        CredentialType::Opaque => [
            json!({"opaque": {"fields": [{"name": "a", "length": 40}]}}),
            json!({"opaque": {"fields": [{"name": "b"}, {"name": "c"}]}}),
        ],
        CredentialType::HashedPassword => {
            [json!({"hashedPassword": {"length": 21}}), json!({"hashedPassword": {"length": 22}})]
        }
        CredentialType::Totp => [json!({"totp": {"account": "a"}}), json!({"totp": {"account": "b"}})],
        _ => return None,
    })
}

/// A credential, and what it must have.
struct Subject {
    space: Space,
    clock: Arc<SystemClock>,
    credential_type: CredentialType,
    kind: &'static Kind,
    name: String,
    /// The provided Secret, and what is taken from it.
    source: Option<(String, Data)>,
    secret: String,
    /// The names that its Secret had before.
    former: BTreeSet<String>,
    serial: i64,
    data: Data,
    draws: usize,
    /// How often its options were changed.
    changes: usize,
}

impl Subject {
    async fn new(space: Space, clock: Arc<SystemClock>, credential: &Credential) -> Self {
        let credential_type = credential.spec.credential_type;
        let name = credential.name_any();
        let published = space.published(&name, 0).await;
        let secret = published.status.unwrap().secret.unwrap().name;
        let data = space.data(&secret).await;
        let provided = credential.spec.provided.as_ref();
        let source = provided.map(|provided| (provided.secret_ref.name.clone(), data.clone()));
        let kind = material::kind(credential_type).unwrap();
        Self {
            space,
            clock,
            credential_type,
            kind,
            name,
            source,
            secret,
            former: BTreeSet::new(),
            serial: 0,
            data,
            draws: 0,
            changes: 0,
        }
    }

    /// One edit; some have many ways. The next may come before the operator has seen it.
    async fn edit(&mut self, number: usize, random: &mut StdRng) {
        if random.random_ratio(1, 7) {
            self.settle(&format!("before edit {number}")).await;
            let edit = self.reason(number, random).await;
            self.draws += 1;
            self.serial += 1;
            let before = std::mem::take(&mut self.data);
            let context = format!("{:?}, edit {number}: {edit}", self.credential_type);
            self.data = self.await_serial(&context).await;
            match &self.source {
                Some((_, taken)) => assert!(self.data == *taken, "{context}: not what was provided"),
                None => {
                    assert!(Self::secrets(&self.data) != Self::secrets(&before), "{context}: not drawn anew");
                }
            }
            return;
        }
        let edit = self.triviality(number, random).await;
        if random.random_ratio(1, 3) {
            self.settle(&format!("edit {number}: {edit}")).await;
        }
    }

    /// Does what the documents say is a reason for new material.
    async fn reason(&mut self, number: usize, random: &mut StdRng) -> String {
        let options = options(self.credential_type);
        if self.credential_type == CredentialType::HashedPassword {
            // What takes long to hash is hashed once in 48 s.
            self.clock.step(MINUTE);
        }
        match random.random_range(0..4) {
            0 => {
                self.clock.step(MINUTE);
                self.space.api::<Secret>().delete(&self.secret, &DeleteParams::default()).await.unwrap();
                "the Secret was deleted".to_owned()
            }
            way => match (&mut self.source, way, options) {
                (Some((source, taken)), _, _) => {
                    let key = self.kind.provided.required[0];
                    taken.get_mut(key).unwrap().push(b'\n');
                    let text = String::from_utf8(taken[key].clone()).unwrap();
                    self.space.patch::<Secret>(source, json!({"stringData": {key: text}})).await.unwrap();
                    "something else was provided".to_owned()
                }
                (None, 1, Some(states)) => {
                    let state = states[self.changes % 2].clone();
                    self.changes += 1;
                    self.spec(state.clone()).await;
                    state.to_string()
                }
                (None, 1 | 2, _) => {
                    self.spec(json!({"rotation": {"revision": number + 1}})).await;
                    "another revision".to_owned()
                }
                (None, ..) => {
                    let at = format!("2026-01-01T00:{:02}:{:02}Z", number / 60, number % 60);
                    let ask = json!({"metadata": {"annotations": {name::ROTATE_ANNOTATION: at}}});
                    self.space.patch::<Credential>(&self.name, ask).await.unwrap();
                    "rotation was asked for".to_owned()
                }
            },
        }
    }

    /// Does something that is no reason for new material.
    async fn triviality(&mut self, number: usize, random: &mut StdRng) -> String {
        let text = format!("edit-{number}");
        let edit = match random.random_range(0..12) {
            0 => json!({"description": text}),
            1 => json!({"scopes": [text]}),
            2 => json!({"displayName": text}),
            3 => json!({"secret": {"labels": {"example.com/edit": text}}}),
            4 => json!({"secret": {"labels": null, "annotations": {"example.com/edit": text}}}),
            5 => {
                self.spec(json!({"state": "Inactive"})).await;
                if random.random() {
                    self.settle(&format!("inactive, edit {number}")).await;
                }
                json!({"state": "Active"})
            }
            6 if self.source.is_none() => {
                let every = if random.random() { "60d" } else { "80d" };
                json!({"rotation": {"every": every}})
            }
            6 => {
                let (source, _) = self.source.as_ref().unwrap();
                let labels =
                    json!({"metadata": {"labels": {"example.com/edit": text}}, "stringData": {"more": text}});
                self.space.patch::<Secret>(source, labels).await.unwrap();
                return "the provided Secret was labelled".to_owned();
            }
            7 => {
                let wished = [None, Some("one"), Some("two")][random.random_range(0..3)];
                let wished = wished.map(|suffix| format!("{}-{suffix}", self.name));
                self.former.insert(self.secret.clone());
                self.secret = wished.clone().unwrap_or_else(|| name::material_secret(&self.name));
                json!({"secret": {"name": wished}})
            }
            way @ 8..11 => {
                self.settle(&format!("before edit {number}")).await;
                let metadata = match way {
                    8 => json!({"labels": {"example.com/theirs": text}}),
                    9 => json!({"annotations": {name::ATTESTATION_ANNOTATION: null}}),
                    _ => json!({"labels": {"app.kubernetes.io/managed-by": null}, "ownerReferences": null}),
                };
                let edit = json!({ "metadata": metadata });
                self.space.patch::<Secret>(&self.secret, edit.clone()).await.unwrap();
                return format!("of the Secret {edit}");
            }
            _ => {
                let labels = json!({"metadata": {"labels": {"example.com/edit": text}}});
                self.space.patch::<Credential>(&self.name, labels).await.unwrap();
                return "the credential was labelled".to_owned();
            }
        };
        self.spec(edit.clone()).await;
        edit.to_string()
    }

    async fn spec(&self, spec: Value) {
        self.space.patch::<Credential>(&self.name, json!({ "spec": spec })).await.unwrap();
    }

    /// Waits until the operator has answered, and checks that nothing was drawn.
    async fn settle(&self, after: &str) {
        let data = self.await_serial(after).await;
        assert!(data == self.data, "{:?} changed, {after}", self.credential_type);
    }

    async fn await_serial(&self, context: &str) -> Data {
        let published = self
            .space
            .until::<Credential>(&self.name, |credential| {
                credential.is_some_and(|credential| {
                    let secret = credential.status.as_ref().and_then(|status| status.secret.as_ref());
                    Space::is_published(credential, self.serial)
                        && secret.is_some_and(|secret| secret.name == self.secret)
                })
            })
            .await;
        // As long as there is another copy, it takes the place of one that is deleted.
        for former in self.former.iter().filter(|former| **former != self.secret) {
            self.space.until::<Secret>(former, |secret| secret.is_none()).await;
        }
        let serial = published.unwrap().status.unwrap().material.unwrap().serial;
        assert_eq!(
            serial,
            Some(self.serial),
            "{:?} was drawn without a reason, {context}",
            self.credential_type
        );
        self.space.data(&self.secret).await
    }

    /// Less what is published beside the secrets and follows the spec.
    fn secrets(data: &Data) -> BTreeMap<String, Vec<u8>> {
        let public = ["username", "client-id", "AWS_ACCESS_KEY_ID"];
        data.iter()
            .filter(|(key, _)| !public.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}
