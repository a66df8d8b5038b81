//! A case: what is there, who asks for what, and what comes of it.

use std::time::Duration;

use credential_operator::{
    admission::CANARY_ANNOTATION,
    api::{
        ApiToken, Credential, CredentialPolicy,
        credential::{Grant, RoleKind},
    },
    domain::name,
};
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingAdmissionPolicy,
    authentication::v1::TokenRequest,
    core::v1::{Namespace, Secret, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{
    Api, Client, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
        PropagationPolicy,
    },
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Case, SECOND_CONTROLLER, person::Person};
use crate::support::{DEADLINE, Space, World, apply, documents, dynamic};

/// Kinds that are asked about by name.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Credential,
    ApiToken,
    CredentialPolicy,
    Namespace,
    Policy,
    Secret,
    ServiceAccount,
    RoleBinding,
}

impl Kind {
    pub fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        let namespaced = |resource| Api::namespaced_with(client.clone(), namespace, &resource);
        let all = |resource| Api::all_with(client.clone(), &resource);
        match self {
            Self::Credential => namespaced(ApiResource::erase::<Credential>(&())),
            Self::ApiToken => namespaced(ApiResource::erase::<ApiToken>(&())),
            Self::CredentialPolicy => all(ApiResource::erase::<CredentialPolicy>(&())),
            Self::Namespace => all(ApiResource::erase::<Namespace>(&())),
            Self::Policy => all(ApiResource::erase::<ValidatingAdmissionPolicy>(&())),
            Self::Secret => namespaced(ApiResource::erase::<Secret>(&())),
            Self::ServiceAccount => namespaced(ApiResource::erase::<ServiceAccount>(&())),
            Self::RoleBinding => namespaced(ApiResource::erase::<RoleBinding>(&())),
        }
    }
}

/// One request. In all texts `$ns` is the namespace of the case, and `$other` another one.
#[derive(Clone, Debug)]
pub enum Act {
    /// Server-side apply of a document, by a manager of its own.
    Apply(String),
    /// Creates what the document says.
    Create(String),
    /// Nothing comes of it.
    DryRun(Box<Act>),
    /// A dry run with the annotation of the canary of a policy that judges nothing of it.
    AsCanary(Box<Act>),
    /// Reads the object, changes it so, and writes it back whole.
    Replace(Kind, &'static str, Value),
    Merge(Kind, &'static str, Value),
    Status(Kind, &'static str, Value),
    Delete(Kind, &'static str, Option<PropagationPolicy>),
    DeleteAll(Kind),
    /// A token for a `ServiceAccount`.
    Mint(&'static str),
}

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Real,
    DryRun,
    /// A dry run with the annotation of a canary.
    Canary,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    /// A user with that ClusterRole in the namespace.
    User(&'static str),
    /// A ServiceAccount of the namespace with that ClusterRole in it.
    Account(&'static str),
    /// A ServiceAccount that may do everything, as GitOps controllers may.
    GitOps,
    /// The admin of the cluster, of the group `system:masters`.
    Admin,
    /// The account of a controller.
    Controller,
}

pub const EDITOR: Who = Who::User("credential-operator-editor");

/// What makes it pass.
#[derive(Clone, Debug)]
pub enum Remedy {
    /// Rights, as [`Person::give`] reads them.
    Rights(&'static [&'static str]),
    /// That the admin applies this.
    Applied(String),
    /// That the same person first does that.
    First(Act),
    /// That somebody else does it.
    By(Who),
    /// That the credential is asked of the right place: the same person does this instead.
    Instead(Act),
}

/// Something that is refused until a remedy is there.
#[derive(Clone, Debug)]
pub struct Attack {
    pub name: &'static str,
    /// What the admin applied before.
    pub given: String,
    pub who: Who,
    /// What they may do beside what their role says.
    pub may: &'static [&'static str],
    pub act: Act,
    /// The policy, or `RBAC`.
    pub refused_by: &'static str,
    pub says: &'static str,
    pub remedy: Remedy,
}

/// Something that passes.
#[derive(Clone, Debug)]
pub struct Allowed {
    pub name: &'static str,
    pub given: String,
    pub who: Who,
    pub may: &'static [&'static str],
    pub act: Act,
}

/// The credential `c` with that spec.
pub fn credential(spec: &str) -> String {
    named("c", spec)
}

pub fn named(name: &str, spec: &str) -> String {
    object("Credential", &format!("{{name: {name}}}"), spec)
}

/// The token `t` of the credential `c` with that beside it in its spec.
pub fn token(spec: &str) -> String {
    object("ApiToken", "{name: t}", &format!("{{credentialRef: {{name: c}}, {spec}}}"))
}

pub fn object(kind: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n---\n"
    )
}

/// A Secret whose owner consents to its use.
pub fn secret(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, labels: {{credential-operator.io/provided: 'true'}}}}\n\
         stringData: {{username: u, password: p}}\n---\n"
    )
}

/// A policy for the namespace of the case.
pub fn policy(spec: &str) -> String {
    let own = "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $ns}}";
    object("CredentialPolicy", "{name: $ns}", &format!("{{{own}, {spec}}}"))
}

impl Who {
    pub async fn person(self, world: &World, space: &Space) -> Person {
        let created = "create credentials";
        match self {
            Self::User(role) => {
                let person = Person::user(world, space);
                person
                    .bind(role, if role.ends_with("viewer") { "get credentials" } else { "list credentials" })
                    .await;
                person
            }
            Self::Account(role) => {
                let person = Person::account(world, &space.namespace, "somebody", space).await;
                person.bind(role, created).await;
                person
            }
            Self::GitOps => {
                let person = Person::account(world, &space.namespace, "gitops", space).await;
                person.bind_everywhere("cluster-admin", created).await;
                person
            }
            Self::Controller => {
                let (namespace, name) = SECOND_CONTROLLER;
                let person = Person::account(world, namespace, name, space).await;
                for kind in ["credentials", "apitokens", "credentialpolicies"] {
                    person.give(&format!("patch {kind}/status @*")).await;
                }
                person
            }
            Self::Admin => Person::admin(world, space),
        }
    }
}

impl Act {
    /// The same, with that for each `what`.
    pub fn with(&self, what: &str, text: &str) -> Self {
        let value = |value: &Value| serde_json::from_str(&value.to_string().replace(what, text)).unwrap();
        match self {
            Self::Apply(yaml) => Self::Apply(yaml.replace(what, text)),
            Self::Create(yaml) => Self::Create(yaml.replace(what, text)),
            Self::DryRun(act) => Self::DryRun(Box::new(act.with(what, text))),
            Self::AsCanary(act) => Self::AsCanary(Box::new(act.with(what, text))),
            Self::Replace(kind, name, patch) => Self::Replace(*kind, name, value(patch)),
            Self::Merge(kind, name, patch) => Self::Merge(*kind, name, value(patch)),
            Self::Status(kind, name, status) => Self::Status(*kind, name, value(status)),
            Self::Delete(..) | Self::DeleteAll(_) | Self::Mint(_) => self.clone(),
        }
    }

    pub async fn run(&self, client: &Client, space: &Space) -> kube::Result<()> {
        self.send(client, space, Mode::Real).await
    }

    /// Whether it creates what canaries are.
    fn creates_credentials(&self, given: &str) -> bool {
        match self {
            Self::Apply(yaml) | Self::Create(yaml) => {
                yaml.contains("kind: Credential\n") && !given.contains("kind: Credential\n")
            }
            Self::DryRun(act) | Self::AsCanary(act) => act.creates_credentials(given),
            _ => false,
        }
    }

    async fn send(&self, client: &Client, space: &Space, mode: Mode) -> kube::Result<()> {
        let namespace = &space.namespace;
        let dry_run = mode != Mode::Real;
        let annotations = (mode == Mode::Canary)
            .then(|| json!({"metadata": {"annotations": {CANARY_ANNOTATION: "other"}}}));
        let disguised = |mut object: Value| {
            if let Some(annotations) = &annotations {
                merge(&mut object, annotations);
            }
            object
        };
        let api = |kind: &Kind| kind.api(client, namespace);
        let place =
            |value: &Value| -> Value { serde_json::from_str(&placed(&value.to_string(), space)).unwrap() };
        let params = PatchParams { dry_run, ..PatchParams::default() };
        let post = PostParams { dry_run, ..PostParams::default() };
        match self {
            Self::Apply(yaml) | Self::Create(yaml) => {
                for document in documents(&placed(yaml, space)) {
                    let mut object: DynamicObject = serde_json::from_value(disguised(document)).unwrap();
                    object.metadata.namespace.get_or_insert_with(|| namespace.clone());
                    if matches!(self, Self::Create(_)) {
                        dynamic(client, &object).create(&post, &object).await?;
                        continue;
                    }
                    let params = PatchParams { dry_run, ..PatchParams::apply("somebody").force() };
                    dynamic(client, &object)
                        .patch(&object.name_any(), &params, &Patch::Apply(&object))
                        .await?;
                }
            }
            Self::DryRun(act) => Box::pin(act.send(client, space, mode.max(Mode::DryRun))).await?,
            Self::AsCanary(act) => Box::pin(act.send(client, space, Mode::Canary)).await?,
            Self::Replace(kind, name, patch) => {
                let found = kind.api(&space.client, namespace).get(&placed(name, space)).await?;
                let mut changed = json!(found);
                merge(&mut changed, &disguised(place(patch)));
                let changed: DynamicObject = serde_json::from_value(changed).unwrap();
                api(kind).replace(&placed(name, space), &post, &changed).await?;
            }
            Self::Merge(kind, name, patch) => {
                api(kind)
                    .patch(&placed(name, space), &params, &Patch::Merge(disguised(place(patch))))
                    .await?;
            }
            Self::Status(kind, name, status) => {
                let patch = Patch::Merge(disguised(json!({"status": place(status)})));
                api(kind).patch_status(&placed(name, space), &params, &patch).await?;
            }
            Self::Delete(kind, name, policy) => {
                let policy = policy.clone();
                let params = DeleteParams { dry_run, propagation_policy: policy, ..DeleteParams::default() };
                api(kind).delete(&placed(name, space), &params).await?;
            }
            Self::DeleteAll(kind) => {
                let params = DeleteParams { dry_run, ..DeleteParams::default() };
                api(kind).delete_collection(&params, &ListParams::default()).await?;
            }
            Self::Mint(account) => {
                let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
                let asked: TokenRequest =
                    serde_json::from_value(disguised(json!({"metadata": {}, "spec": {}}))).unwrap();
                accounts.create_token_request(account, &post, &asked).await?;
            }
        }
        Ok(())
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

/// `$bound` is the name of the binding of the ClusterRole view for the credential `c`, `$there` that in the other namespace,
/// and `$everywhere` that in the whole cluster.
pub fn placed(text: &str, space: &Space) -> String {
    let (own, other) = (&space.namespace, format!("{}-other", space.namespace));
    let view = |namespace, cluster_wide| Grant {
        kind: RoleKind::ClusterRole,
        name: "view".to_owned(),
        namespace,
        cluster_wide,
    };
    text.replace("$ns", own)
        .replace("$other", &other)
        .replace("$bound", &name::binding(own, "c", &view(None, false)))
        .replace("$there", &name::binding(own, "c", &view(Some(other), false)))
        .replace("$everywhere", &name::binding(own, "c", &view(None, true)))
}

async fn prepared(world: &World, space: &Space, given: &str, who: Who, may: &[&'static str]) -> Person {
    for document in documents(&placed(given, space)) {
        apply(&space.client, &space.namespace, document).await.unwrap();
    }
    let person = who.person(world, space).await;
    for right in may {
        person.give(&placed(right, space)).await;
    }
    person
}

impl Case for Attack {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn run(&self, world: &World, space: &Space) {
        let person = prepared(world, space, &self.given, self.who, self.may).await;
        if self.refused_by.ends_with("limits") {
            self.until_refused(&person.client, space).await;
        }
        self.is_refused(self.act.run(&person.client, space).await, &person, space);
        // The exception for canaries is for them only.
        if !self.act.creates_credentials(&self.given) {
            let disguised = self.act.send(&person.client, space, Mode::Canary).await;
            self.is_refused(disguised, &person, space);
        }
        let (mut client, mut act) = (person.client.clone(), &self.act);
        match &self.remedy {
            Remedy::Rights(rights) => {
                for right in *rights {
                    person.give(&placed(right, space)).await;
                }
            }
            Remedy::Applied(yaml) => {
                for document in documents(&placed(yaml, space)) {
                    apply(&space.client, &space.namespace, document).await.unwrap();
                }
            }
            Remedy::First(first) => first.run(&client, space).await.unwrap(),
            Remedy::By(who) => client = who.person(world, space).await.client,
            Remedy::Instead(other) => act = other,
        }
        let deadline = Instant::now() + DEADLINE;
        while let Err(error) = act.run(&client, space).await {
            // What the admin changes is known to admission a moment later.
            let waits = matches!(self.remedy, Remedy::Applied(_)) && Instant::now() < deadline;
            assert!(waits, "{}: refused with all that it takes: {error}", self.name);
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Attack {
    /// By whom, and in which words, the attack says.
    fn is_refused(&self, outcome: kube::Result<()>, person: &Person, space: &Space) {
        let Err(kube::Error::Api(status)) = outcome else {
            panic!("{}: not refused, but {outcome:?}", self.name);
        };
        assert_eq!(status.code, 403, "{}: {status:?}", self.name);
        assert_eq!(status.reason, "Forbidden", "{}", self.name);
        let by = if self.refused_by == "RBAC" {
            format!("User \"{}\" cannot", person.user)
        } else {
            let policy = format!("{}.credential-operator.io", self.refused_by);
            format!("ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: ")
        };
        let says = placed(self.says, space).replace("$user", &person.user);
        for expected in [&by, &says] {
            assert!(
                status.message.contains(expected.as_str()),
                "{}: refused otherwise than by {expected:?}: {}",
                self.name,
                status.message
            );
        }
    }

    /// Waits until admission knows of the policy, by what comes to nothing.
    async fn until_refused(&self, client: &Client, space: &Space) {
        let deadline = Instant::now() + DEADLINE;
        while self.act.send(client, space, Mode::DryRun).await.is_ok() {
            assert!(Instant::now() < deadline, "{}: not refused", self.name);
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Case for Allowed {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn run(&self, world: &World, space: &Space) {
        let person = prepared(world, space, &self.given, self.who, self.may).await;
        if let Err(error) = self.act.run(&person.client, space).await {
            panic!("{}: refused: {error}", self.name);
        }
    }
}
