//! A namespace, a clock, and what users do there.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use control_plane::Namespaced;
use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential, CredentialState, GROUP},
    domain::clock::Clock,
};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    runtime::wait::{Condition, await_condition},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::admission::UNGUARDED;

/// By when the desired state must be reached once nothing goes wrong any more (L1): generous, since what an etcd that was paused
/// has to catch up with takes a busy machine more than a minute.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// The wall clock, set off by as much as a plan or a scenario likes.
#[derive(Default)]
pub struct RunClock(Mutex<SignedDuration>);

impl RunClock {
    /// Steps it.
    pub fn step(&self, by: SignedDuration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    /// Sees to it that it is `at` or later.
    pub fn advance_to(&self, at: Timestamp) {
        let ahead = at.duration_since(self.now());
        if ahead.is_positive() {
            self.step(ahead);
        }
    }
}

impl Clock for RunClock {
    fn now(&self) -> Timestamp {
        wall_clock() + *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time as the API server has it, whatever the operator is told.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the tests' main is where their clock comes from")]
pub fn wall_clock() -> Timestamp {
    Timestamp::now()
}

/// A rule of a policy: roles elsewhere, and for the whole cluster.
pub const ROLES_EVERYWHERE: &str = "roles: [{kind: ClusterRole, name: view, clusterWide: true}, {kind: ClusterRole, name: '*', namespaces: ['*']}]";

/// The namespace that all runs grant roles in.
pub const ELSEWHERE: &str = "elsewhere";

/// A namespace of a run's own, as an administrator sees it.
#[derive(Clone)]
pub struct Space {
    /// The administrator's client.
    pub client: Client,
    /// The client of who writes Credentials and ApiTokens.
    pub author: Client,
    /// The namespace.
    pub namespace: String,
}

/// What users do failed, or what they wait for did not come.
pub type Outcome<T = ()> = Result<T, String>;

impl Space {
    /// The API of a kind in the namespace.
    #[must_use]
    pub fn api<K: Namespaced>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The API of a kind in the namespace, for who writes it.
    fn written<K: Namespaced>(&self) -> Api<K> {
        let client = if K::group(&()) == GROUP { &self.author } else { &self.client };
        Api::namespaced(client.clone(), &self.namespace)
    }

    /// What the names of this run's bindings outside its namespace begin with.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{}.", self.namespace)
    }

    /// Applies documents of YAML; the API server may be paused meanwhile, so until it works.
    ///
    /// # Errors
    /// When it does not work in time.
    pub async fn apply(&self, yaml: &str) -> Outcome {
        let documents = serde_yaml_ng::Deserializer::from_str(yaml).map(DynamicObject::deserialize);
        let objects: Result<Vec<_>, _> = documents.collect();
        for object in objects.map_err(|error| error.to_string())? {
            let types = object.types.clone().unwrap_or_default();
            let (group, version) = types.api_version.rsplit_once('/').unwrap_or(("", &types.api_version));
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
            let name = object.metadata.name.clone().unwrap_or_default();
            let everywhere = ["Namespace", "ClusterRole", "ClusterRoleBinding", "CredentialPolicy"]
                .contains(&types.kind.as_str());
            let api: Api<DynamicObject> = if everywhere {
                Api::all_with(self.client.clone(), &resource)
            } else {
                let client = if group == GROUP { &self.author } else { &self.client };
                Api::namespaced_with(client.clone(), &self.namespace, &resource)
            };
            let params = PatchParams::apply("user").force();
            let patch = Patch::Apply(&object);
            stubbornly(|| api.patch(&name, &params, &patch)).await?;
        }
        Ok(())
    }

    /// Takes this namespace out of what the admission policies judge.
    ///
    /// # Errors
    /// When it does not work in time.
    pub async fn unguard(&self) -> Outcome {
        let metadata = format!("{{name: {}, labels: {{{UNGUARDED}: 'true'}}}}", self.namespace);
        self.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {metadata}\n")).await
    }

    /// Sets the policy of this namespace: the one that it has, with these rules. It is known by its label to the operators
    /// of this run alone.
    ///
    /// # Errors
    /// When it does not work in time.
    pub async fn policy(&self, rules: &str) -> Outcome {
        let name = &self.namespace;
        let metadata = format!("{{name: {name}, labels: {{run: {name}}}}}");
        let selector = format!("{{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}");
        self.apply(&format!(
            "apiVersion: credential-operator.io/v1alpha1\nkind: CredentialPolicy\nmetadata: {metadata}\n\
             spec: {{namespaceSelector: {selector}, {rules}}}\n"
        ))
        .await
    }

    /// A merge patch.
    ///
    /// # Errors
    /// When it does not work in time.
    pub async fn patch<K>(&self, name: &str, patch: Value) -> Outcome
    where
        K: Namespaced,
    {
        let api = self.written::<K>();
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        stubbornly(|| api.patch(name, &params, &patch)).await.map(drop)
    }

    /// A merge patch that is to be refused, by a message that contains this; whether it was.
    ///
    /// # Errors
    /// When the API server says neither in time.
    pub async fn is_refused<K>(&self, name: &str, patch: Value, says: &str) -> Outcome<bool>
    where
        K: Namespaced,
    {
        let api = self.written::<K>();
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        stubbornly(|| async {
            match api.patch(name, &params, &patch).await {
                Err(kube::Error::Api(status)) if status.message.contains(says) => Ok(true),
                other => other.map(|_| false),
            }
        })
        .await
    }

    /// Deletes an object, which may be gone already.
    ///
    /// # Errors
    /// When it does not work in time.
    pub async fn delete<K>(&self, name: &str) -> Outcome
    where
        K: Namespaced,
    {
        self.delete_by::<K>(name, &DeleteParams::background()).await
    }

    /// Deletes an object in that way; it may be gone already.
    ///
    /// # Errors
    /// When it does not work in time.
    pub async fn delete_by<K>(&self, name: &str, params: &DeleteParams) -> Outcome
    where
        K: Namespaced,
    {
        let api = self.written::<K>();
        stubbornly(|| async {
            match api.delete(name, params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(drop),
            }
        })
        .await
    }

    /// Waits until an object is as `expected`.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn until<K>(&self, name: &str, expected: impl Condition<K> + Clone) -> Outcome<Option<K>>
    where
        K: Namespaced,
    {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match timeout_at(deadline, await_condition(self.api::<K>(), name, expected.clone())).await {
                Ok(Ok(found)) => return Ok(found),
                // The API server may be paused.
                Ok(Err(_)) => sleep(Duration::from_millis(100)).await,
                Err(_) => {
                    let last = timeout(Duration::from_secs(5), self.api::<K>().get_opt(name)).await;
                    // The status alone: a Secret's data has no business in a message.
                    let last = last.map(|last| last.map(|last| json!(last)["status"].clone()));
                    let what = format!("{} {name} did not become what was expected", K::kind(&()));
                    return Err(format!("{what}; its status is {last:?}"));
                }
            }
        }
    }

    /// Waits until an object is gone.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn gone<K>(&self, name: &str) -> Outcome
    where
        K: Namespaced,
    {
        self.until::<K>(name, |found: Option<&K>| found.is_none()).await.map(drop)
    }

    /// Waits until a token is in a state.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn token(&self, name: &str, state: ApiTokenState) -> Outcome<ApiToken> {
        let there = move |token: Option<&ApiToken>| {
            token.is_some_and(|token| {
                let status = token.status.as_ref();
                status.and_then(|status| status.state) == Some(state)
                    && status.and_then(|status| status.observed_generation) == token.metadata.generation
            })
        };
        self.until(name, there).await?.ok_or_else(|| format!("ApiToken {name} is gone"))
    }

    /// Waits until a credential is in a state.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn credential(&self, name: &str, state: CredentialState) -> Outcome<Credential> {
        let there = move |credential: Option<&Credential>| {
            credential.is_some_and(|credential| {
                let status = credential.status.as_ref();
                status.and_then(|status| status.state) == Some(state)
                    && status.and_then(|status| status.observed_generation) == credential.metadata.generation
            })
        };
        self.until(name, there).await?.ok_or_else(|| format!("Credential {name} is gone"))
    }
}

/// Until it works, or the deadline.
async fn stubbornly<T, F: Future<Output = kube::Result<T>>>(act: impl Fn() -> F) -> Outcome<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match timeout_at(deadline, act()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) if Instant::now() >= deadline => return Err(error.to_string()),
            Ok(Err(_)) => sleep(Duration::from_millis(200)).await,
            Err(_) => return Err("the API server does not answer".to_owned()),
        }
    }
}

/// A clock to share.
#[must_use]
pub fn clock() -> Arc<RunClock> {
    Arc::default()
}
