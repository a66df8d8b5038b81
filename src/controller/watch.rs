//! The watches: each feeds its cache, and asks for work on whatever a change concerns.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use k8s_openapi::api::{
    core::v1::{Secret, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{
    Api, Resource,
    core::{DeserializeGuard, PartialObjectMeta, error_boundary::InvalidObject},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::task::JoinSet;
use tracing::warn;

use super::{
    Context, Key,
    cache::{Cache, Change, Lost, Place},
    context::claimed,
    keyring,
};
use crate::{
    api::{ApiToken, Credential},
    domain::{
        binding::{Binding, controller},
        name,
    },
};

/// How long a burst of token changes is gathered before their credential is counted.
const GATHER: Duration = Duration::from_secs(1);

/// Starts all watches. They end with the set.
pub fn start(ctx: &Arc<Context>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let all = watcher::Config::default();
    let ours = watcher::Config::default().labels(name::MANAGED_BY_SELECTOR);
    let keyring = watcher::Config::default().fields(&format!("metadata.name={}", ctx.config.keyring_secret));
    let client = || ctx.client.clone();

    let tokens = watcher(Api::<DeserializeGuard<ApiToken>>::all(client()), all.clone());
    tasks.spawn(feed(ctx.clone(), "ApiToken", tokens, |ctx| &ctx.tokens, token_changed));
    let credentials = watcher(Api::<DeserializeGuard<Credential>>::all(client()), all);
    tasks.spawn(feed(ctx.clone(), "Credential", credentials, |ctx| &ctx.credentials, credential_changed));
    let secrets = watcher(Api::<PartialObjectMeta<Secret>>::all(client()), ours.clone());
    tasks.spawn(feed(
        ctx.clone(),
        "Secret",
        secrets,
        |ctx| &ctx.secrets,
        |ctx, change| {
            for key in owners(change, "ApiToken") {
                let key = Key::ApiToken(key);
                if change.after.is_none() {
                    ctx.note_vanished(key.clone());
                }
                ctx.queue.add(key);
            }
        },
    ));
    let accounts = watcher(Api::<PartialObjectMeta<ServiceAccount>>::all(client()), ours.clone());
    tasks.spawn(feed(
        ctx.clone(),
        "ServiceAccount",
        accounts,
        |ctx| &ctx.accounts,
        |ctx, change| {
            for key in owners(change, "Credential") {
                let key = Key::Credential(key);
                if change.after.is_none() {
                    ctx.note_vanished(key.clone());
                }
                ctx.queue.add(key);
            }
        },
    ));
    let bindings = watcher(Api::<RoleBinding>::all(client()), ours.clone());
    tasks.spawn(feed(ctx.clone(), "RoleBinding", bindings, |ctx| &ctx.role_bindings, bindings_changed));
    let bindings = watcher(Api::<ClusterRoleBinding>::all(client()), ours);
    tasks.spawn(feed(
        ctx.clone(),
        "ClusterRoleBinding",
        bindings,
        |ctx| &ctx.cluster_role_bindings,
        bindings_changed,
    ));
    let keyring = watcher(Api::<Secret>::namespaced(client(), &ctx.config.namespace), keyring);
    tasks.spawn(feed(
        ctx.clone(),
        "keyring",
        keyring,
        |ctx| &ctx.keyring_secret,
        |ctx, _| {
            keyring::read(ctx);
            ctx.queue.add(Key::Keyring);
        },
    ));
    tasks
}

/// Returns once every watch has shown all there is.
pub async fn complete(ctx: &Context) {
    loop {
        let complete = ctx.tokens.is_complete()
            && ctx.credentials.is_complete()
            && ctx.secrets.is_complete()
            && ctx.accounts.is_complete()
            && ctx.role_bindings.is_complete()
            && ctx.cluster_role_bindings.is_complete()
            && ctx.keyring_secret.is_complete();
        if complete {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a watch shows: most kinds always parse; ours might have been stored before their rules.
trait Shown<K> {
    /// The object, or where one is that does not parse; `how` is what that means for it.
    fn read(self, how: Lost) -> Result<K, (Place, Lost)>;
}

impl<K> Shown<K> for K {
    fn read(self, _: Lost) -> Result<K, (Place, Lost)> {
        Ok(self)
    }
}

impl<K> Shown<K> for DeserializeGuard<K> {
    fn read(self, how: Lost) -> Result<K, (Place, Lost)> {
        self.0.map_err(|InvalidObject { metadata, .. }| {
            let place = Place::new(metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
            (place, how)
        })
    }
}

async fn feed<S: Shown<K>, K: Resource>(
    ctx: Arc<Context>,
    kind: &'static str,
    events: impl Stream<Item = watcher::Result<Event<S>>> + Send,
    cache: fn(&Context) -> &Cache<K>,
    changed: fn(&Context, &Change<K>),
) {
    let mut events = std::pin::pin!(events.default_backoff());
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(Event::Init) => Ok(Event::Init),
            Ok(Event::InitDone) => Ok(Event::InitDone),
            Ok(Event::InitApply(shown)) => shown.read(Lost::Unreadable).map(Event::InitApply),
            Ok(Event::Apply(shown)) => shown.read(Lost::Unreadable).map(Event::Apply),
            Ok(Event::Delete(shown)) => shown.read(Lost::Deleted).map(Event::Delete),
            Err(error) => {
                warn!(kind, %error, "the watch was interrupted and is taken up again");
                continue;
            }
        };
        let news = match event {
            Ok(event) => cache(&ctx).observe(event),
            Err((place, how)) => vec![cache(&ctx).lose(&place, how)],
        };
        for change in news {
            changed(&ctx, &change);
        }
    }
}

fn token_changed(ctx: &Context, change: &Change<ApiToken>) {
    ctx.queue.add(Key::ApiToken(change.place.clone()));
    let state =
        |token: &ApiToken| token.status.as_ref().map(|status| (status.state, status.expires_at.clone()));
    let counted = match (&change.before, &change.after) {
        (Some(before), Some(after)) => state(before) != state(after),
        _ => true,
    };
    if counted && let Some(token) = change.after.as_ref().or(change.before.as_ref()) {
        count_soon(ctx, token);
    }
}

/// Has the tokens of this one's credential counted after the burst.
pub fn count_soon(ctx: &Context, token: &ApiToken) {
    let place = Place::new(
        token.metadata.namespace.clone().unwrap_or_default(),
        token.spec.credential_ref.name.clone(),
    );
    ctx.queue.add_after(&Key::Credential(place), GATHER);
}

fn credential_changed(ctx: &Context, change: &Change<Credential>) {
    ctx.queue.add(Key::Credential(change.place.clone()));
    if change.after.is_none() {
        ctx.queue.add(Key::Sweep);
    }
    let same = matches!((&change.before, &change.after), (Some(before), Some(after))
        if before.spec == after.spec
            && before.metadata.uid == after.metadata.uid
            && before.metadata.deletion_timestamp == after.metadata.deletion_timestamp);
    if !same {
        for token in ctx.tokens.owned_by(&change.place) {
            ctx.queue.add(Key::api_token(&token));
        }
    }
}

fn bindings_changed<K: Clone + Into<Binding>>(ctx: &Context, change: &Change<K>) {
    let found = [&change.before, &change.after].into_iter().flatten();
    for place in found.filter_map(|found| claimed(&(**found).clone().into())) {
        let key = Key::Credential(place);
        if change.after.is_none() {
            ctx.note_vanished(key.clone());
        }
        ctx.queue.add(key);
    }
}

/// The controllers of that kind, before the change and after it.
fn owners<K: Resource>(change: &Change<K>, kind: &str) -> Vec<Place> {
    let found = [&change.before, &change.after].into_iter().flatten();
    let owners = found.filter_map(|found| controller(found.meta())).filter(|owner| owner.kind == kind);
    let mut places: Vec<_> = owners.map(|owner| Place::new(&change.place.namespace, &owner.name)).collect();
    places.dedup();
    places
}
