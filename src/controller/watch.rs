//! The watches: each feeds its cache, and asks for work on whatever a change concerns.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use kube::{
    Api, Resource,
    core::DeserializeGuard,
    runtime::{WatchStreamExt, watcher},
};
use tokio::task::JoinSet;
use tracing::warn;

use super::{
    Context, Key,
    cache::{Cache, Change, Place},
    keyring,
};
use crate::{
    api::{ApiToken, Credential},
    domain::{binding::controller, name},
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

    let tokens = readable("ApiToken", watcher(Api::<DeserializeGuard<ApiToken>>::all(client()), all.clone()));
    tasks.spawn(feed(ctx.clone(), "ApiToken", tokens, |ctx| &ctx.tokens, token_changed));
    let credentials =
        readable("Credential", watcher(Api::<DeserializeGuard<Credential>>::all(client()), all));
    tasks.spawn(feed(ctx.clone(), "Credential", credentials, |ctx| &ctx.credentials, credential_changed));
    let secrets = watcher(Api::all(client()), ours.clone());
    tasks.spawn(feed(
        ctx.clone(),
        "Secret",
        secrets,
        |ctx| &ctx.secrets,
        |ctx, change| {
            for key in owners(change, "ApiToken") {
                ctx.queue.add(Key::ApiToken(key));
            }
        },
    ));
    let accounts = watcher(Api::all(client()), ours.clone());
    tasks.spawn(feed(
        ctx.clone(),
        "ServiceAccount",
        accounts,
        |ctx| &ctx.accounts,
        |ctx, change| {
            for key in owners(change, "Credential") {
                ctx.queue.add(Key::Credential(key));
            }
        },
    ));
    let bindings = watcher(Api::all(client()), ours.clone());
    tasks.spawn(feed(
        ctx.clone(),
        "RoleBinding",
        bindings,
        |ctx| &ctx.role_bindings,
        |ctx, change| {
            let found = [&change.before, &change.after].into_iter().flatten();
            bindings_changed(ctx, found.map(|found| (**found).clone().into()));
        },
    ));
    let bindings = watcher(Api::all(client()), ours);
    tasks.spawn(feed(
        ctx.clone(),
        "ClusterRoleBinding",
        bindings,
        |ctx| &ctx.cluster_role_bindings,
        |ctx, change| {
            let found = [&change.before, &change.after].into_iter().flatten();
            bindings_changed(ctx, found.map(|found| (**found).clone().into()));
        },
    ));
    let keyring = watcher(Api::namespaced(client(), &ctx.config.namespace), keyring);
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

/// Passes on what parses. An object that does not is as good as gone, and must not hide the others.
fn readable<K: Resource<DynamicType = ()> + Send>(
    kind: &'static str,
    events: impl Stream<Item = watcher::Result<watcher::Event<DeserializeGuard<K>>>> + Send,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send {
    let read = move |guard: DeserializeGuard<K>| match guard.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let metadata = &invalid.metadata;
            let place = Place::new(
                metadata.namespace.clone().unwrap_or_default(),
                metadata.name.clone().unwrap_or_default(),
            );
            warn!(%place, kind, error = invalid.error, "passed over: it does not fit the schema; mend or delete it");
            None
        }
    };
    events.filter_map(move |event| {
        use watcher::Event;
        let event = match event {
            Err(error) => Some(Err(error)),
            Ok(Event::Init) => Some(Ok(Event::Init)),
            Ok(Event::InitDone) => Some(Ok(Event::InitDone)),
            Ok(Event::InitApply(object)) => read(object).map(|object| Ok(Event::InitApply(object))),
            Ok(Event::Apply(object)) => read(object).map(|object| Ok(Event::Apply(object))),
            Ok(Event::Delete(object)) => read(object).map(|object| Ok(Event::Delete(object))),
        };
        std::future::ready(event)
    })
}

async fn feed<K: Resource>(
    ctx: Arc<Context>,
    kind: &'static str,
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
    cache: fn(&Context) -> &Cache<K>,
    changed: fn(&Context, &Change<K>),
) {
    let mut events = std::pin::pin!(events.default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                for change in cache(&ctx).observe(event) {
                    changed(&ctx, &change);
                }
            }
            Err(error) => warn!(kind, %error, "the watch was interrupted and is taken up again"),
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

fn bindings_changed(ctx: &Context, found: impl Iterator<Item = crate::domain::binding::Binding>) {
    for place in found.filter_map(|binding| super::context::claimed(&binding)) {
        ctx.queue.add(Key::Credential(place));
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
