//! The floor: the writes that the operator cannot do without, by a client that does nothing else.
//!
//! It has the operator's watches open, as many workers, an account with the same rights, and writes objects of the
//! same shape and size. It decides nothing: it is told which token to write for by whoever created or changed it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use credential_operator::{
    api::{ApiToken, ApiTokenState, ApiTokenStatus, Credential},
    domain::name::MANAGED_BY_SELECTOR,
};
use futures::{Stream, StreamExt, channel::mpsc};
use k8s_openapi::api::{
    core::v1::{Secret, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::watcher::{self, Event, watcher},
};
use serde_json::json;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Duration, Instant, sleep},
};

use crate::{
    operator::WORKERS,
    world::{DEADLINE, Space, World},
};

/// What the operator writes, to be written again under other names.
#[derive(Clone)]
pub struct Floor {
    client: Client,
    secret: Arc<Secret>,
    issued: Arc<ApiTokenStatus>,
    ended: Arc<ApiTokenStatus>,
}

impl Floor {
    /// Has the operator issue and revoke a token, and keeps what it wrote.
    pub async fn learn(world: &World) -> Self {
        let operator = world.operator();
        let space = world.space("learn").await;
        space.issue_one("t0000").await;
        let issued = status(&space, ApiTokenState::Active).await;
        let secret = space.api::<Secret>().get("t0000-token").await.unwrap();
        let revoke = Patch::Merge(json!({"spec": {"revoked": true}}));
        space.api::<ApiToken>().patch("t0000", &PatchParams::default(), &revoke).await.unwrap();
        let ended = status(&space, ApiTokenState::Revoked).await;
        drop(operator);
        space.remove().await;
        Self {
            client: world.floor.clone(),
            secret: Arc::new(secret),
            issued: Arc::new(issued),
            ended: Arc::new(ended),
        }
    }

    /// Issues: a Secret, then the status.
    pub async fn issue(self, space: Space, token: ApiToken) {
        let name = token.metadata.name.clone().unwrap();
        let mut secret = Secret::clone(&self.secret);
        secret.metadata.name = Some(format!("{name}-token"));
        secret.metadata.namespace.clone_from(&token.metadata.namespace);
        secret.metadata.uid = None;
        secret.metadata.resource_version = None;
        secret.metadata.creation_timestamp = None;
        secret.metadata.managed_fields = None;
        for owner in secret.metadata.owner_references.iter_mut().flatten() {
            owner.name.clone_from(&name);
            owner.uid = token.metadata.uid.clone().unwrap();
        }
        let params = PostParams { field_manager: Some("floor".to_owned()), ..PostParams::default() };
        let secret = space.api_of::<Secret>(&self.client).create(&params, &secret).await.unwrap();
        let mut status = ApiTokenStatus::clone(&self.issued);
        if let Some(recorded) = &mut status.secret {
            recorded.name = secret.metadata.name.unwrap();
            recorded.uid = secret.metadata.uid.unwrap();
        }
        self.write_status(&space, token, status).await;
    }

    /// Ends: the Secret goes, then the status.
    pub async fn end(self, space: Space, token: ApiToken) {
        self.delete_secret(&space, &token).await;
        let mut status = ApiTokenStatus::clone(&self.ended);
        status.observed_generation = token.metadata.generation;
        self.write_status(&space, token, status).await;
    }

    /// As for a token whose credential is gone: the Secret goes, then the token.
    pub async fn take_away(self, space: Space, token: ApiToken) {
        self.delete_secret(&space, &token).await;
        let only = only(token.metadata.uid.clone());
        space.api_of::<ApiToken>(&self.client).delete(&token.metadata.name.unwrap(), &only).await.unwrap();
    }

    async fn delete_secret(&self, space: &Space, token: &ApiToken) {
        let secret = token.status.as_ref().and_then(|status| status.secret.clone()).unwrap();
        let only = only(Some(secret.uid));
        space.api_of::<Secret>(&self.client).delete(&secret.name, &only).await.unwrap();
    }

    async fn write_status(&self, space: &Space, token: ApiToken, status: ApiTokenStatus) {
        let name = token.metadata.name.clone().unwrap();
        let token = ApiToken { status: Some(status), ..token };
        let tokens = space.api_of::<ApiToken>(&self.client);
        tokens.replace_status(&name, &PostParams::default(), &token).await.unwrap();
    }
}

/// The status of the one token of a space, once it is in that state.
pub async fn status(space: &Space, state: ApiTokenState) -> ApiTokenStatus {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let token = space.api::<ApiToken>().get("t0000").await.unwrap();
        if let Some(status) = token.status.filter(|status| status.state == Some(state)) {
            return status;
        }
        assert!(Instant::now() < deadline, "the token does not become {state:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn only(uid: Option<String>) -> DeleteParams {
    DeleteParams::background().preconditions(Preconditions { uid, resource_version: None })
}

/// As many workers as the operator has. They take tokens in the order in which they are sent.
pub struct Workers {
    queue: mpsc::UnboundedSender<ApiToken>,
    task: JoinHandle<()>,
}

impl Workers {
    pub fn start<F: Future<Output = ()> + Send + 'static>(
        work: impl Fn(ApiToken) -> F + Send + 'static,
    ) -> Self {
        let (queue, tokens) = mpsc::unbounded();
        let task = tokio::spawn(tokens.for_each_concurrent(WORKERS, move |token| {
            let task = tokio::spawn(work(token));
            async move { task.await.unwrap() }
        }));
        Self { queue, task }
    }

    /// Hands them tokens, one by one.
    pub fn feed(&self) -> impl Fn(ApiToken) + Clone + Send + Sync + 'static + use<> {
        let queue = self.queue.clone();
        move |token| queue.unbounded_send(token).unwrap()
    }

    /// Waits until all is done.
    pub async fn finish(self) {
        drop(self.queue);
        self.task.await.unwrap();
    }
}

/// The operator's watches.
pub struct Watches {
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Opens them and waits until each has shown what is there.
    pub async fn open(world: &World) -> Self {
        let client = || world.floor.clone();
        let all = watcher::Config::default();
        let ours = watcher::Config::default().labels(MANAGED_BY_SELECTOR);
        let keyring = watcher::Config::default().fields("metadata.name=credential-operator-keyring");
        let listed = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(read(
            watcher(Api::<DeserializeGuard<ApiToken>>::all(client()), all.clone()),
            listed.clone(),
        ));
        tasks.spawn(read(watcher(Api::<DeserializeGuard<Credential>>::all(client()), all), listed.clone()));
        tasks.spawn(read(
            watcher(Api::<PartialObjectMeta<Secret>>::all(client()), ours.clone()),
            listed.clone(),
        ));
        tasks.spawn(read(
            watcher(Api::<PartialObjectMeta<ServiceAccount>>::all(client()), ours.clone()),
            listed.clone(),
        ));
        tasks.spawn(read(watcher(Api::<RoleBinding>::all(client()), ours.clone()), listed.clone()));
        tasks.spawn(read(watcher(Api::<ClusterRoleBinding>::all(client()), ours), listed.clone()));
        let namespace = Api::<Secret>::namespaced(client(), "credential-operator");
        tasks.spawn(read(watcher(namespace, keyring), listed.clone()));
        let (count, deadline) = (tasks.len(), Instant::now() + DEADLINE);
        while listed.load(Ordering::Relaxed) < count {
            assert!(Instant::now() < deadline, "the floor's watches do not open");
            sleep(Duration::from_millis(2)).await;
        }
        Self { _tasks: tasks }
    }
}

async fn read<K>(events: impl Stream<Item = watcher::Result<Event<K>>>, listed: Arc<AtomicUsize>) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        if matches!(event.unwrap(), Event::InitDone) {
            listed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
