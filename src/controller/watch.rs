//! The watches: each feeds its cache, and asks for work on whatever a change concerns.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Namespace, Secret, ServiceAccount},
        rbac::v1::{ClusterRoleBinding, RoleBinding},
    },
};
use kube::{
    Api, Resource,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::warn;

use super::{
    Context, Key, Place, admission,
    cache::{Cache, Change, Kept, Lost},
    keyring,
};
use crate::{
    api::{ApiToken, Credential, CredentialPolicy, lean::Lean},
    domain::name,
};

/// How long a burst of token changes is gathered before their credential is counted.
const GATHER: Duration = Duration::from_secs(1);

/// How many objects a list asks for at a time: what is read at once is in memory at once, and memory that was needed at
/// the start is not given back.
const PAGE: u32 = 100;

/// Starts all watches. They end with the set.
pub fn start(ctx: &Arc<Context>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for scope in ctx.config.reach.scopes() {
        watch_within(&mut tasks, ctx, scope.as_deref());
    }
    let all = watcher::Config::default().page_size(PAGE);
    let keyring = watcher::Config::default().fields(&format!("metadata.name={}", ctx.config.keyring_secret));
    let client = || ctx.client.clone();

    if ctx.config.reach.is_everywhere() {
        let ours = all.clone().labels(name::MANAGED_BY_SELECTOR);
        let bindings = watcher(Api::<Lean<ClusterRoleBinding>>::all(client()), ours);
        let kind = "ClusterRoleBinding";
        feed(&mut tasks, ctx, None, kind, bindings, |ctx| &ctx.cluster_role_bindings, owner_changed);
    }
    let policies = watcher(Api::<Lean<CredentialPolicy>>::all(client()), all.clone());
    feed(&mut tasks, ctx, None, "CredentialPolicy", policies, |ctx| &ctx.policies, policy_changed);
    let namespaces = watcher(Api::<Lean<PartialObjectMeta<Namespace>>>::all(client()), all);
    feed(&mut tasks, ctx, None, "Namespace", namespaces, |ctx| &ctx.namespaces, namespace_changed);
    let keyring = watcher(Api::<Lean<Secret>>::namespaced(client(), &ctx.config.namespace), keyring);
    feed(
        &mut tasks,
        ctx,
        None,
        "keyring",
        keyring,
        |ctx| &ctx.keyring_secret,
        |ctx, _| {
            keyring::read(ctx);
            ctx.queue.add(Key::Keyring);
        },
    );
    if ctx.needs_admission {
        admission::watch(&mut tasks, ctx);
    }
    tasks
}

/// Starts the watches of what is in namespaces: of one, or of all at once.
fn watch_within(tasks: &mut JoinSet<()>, ctx: &Arc<Context>, scope: Option<&str>) {
    let all = watcher::Config::default().page_size(PAGE);
    let ours = all.clone().labels(name::MANAGED_BY_SELECTOR);
    let provided = all.clone().labels(name::PROVIDED_SELECTOR);

    let tokens = watcher(api::<ApiToken>(ctx, scope), all.clone());
    feed(tasks, ctx, scope, "ApiToken", tokens, |ctx| &ctx.tokens, token_changed);
    let credentials = watcher(api::<Credential>(ctx, scope), all);
    feed(tasks, ctx, scope, "Credential", credentials, |ctx| &ctx.credentials, credential_changed);
    let secrets = watcher(api::<PartialObjectMeta<Secret>>(ctx, scope), ours.clone());
    feed(tasks, ctx, scope, "Secret", secrets, |ctx| &ctx.secrets, owner_changed);
    let provided = watcher(api::<PartialObjectMeta<Secret>>(ctx, scope), provided);
    feed(tasks, ctx, scope, "provided Secret", provided, |ctx| &ctx.provided, provided_changed);
    let accounts = watcher(api::<PartialObjectMeta<ServiceAccount>>(ctx, scope), ours.clone());
    feed(tasks, ctx, scope, "ServiceAccount", accounts, |ctx| &ctx.accounts, account_changed);
    let bindings = watcher(api::<RoleBinding>(ctx, scope), ours);
    feed(tasks, ctx, scope, "RoleBinding", bindings, |ctx| &ctx.role_bindings, owner_changed);
}

fn api<K>(ctx: &Context, scope: Option<&str>) -> Api<Lean<K>>
where
    Lean<K>: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match scope {
        Some(namespace) => Api::namespaced(ctx.client.clone(), namespace),
        None => Api::all(ctx.client.clone()),
    }
}

/// Returns once every watch has shown all there is.
pub async fn complete(ctx: &Context) {
    while !ctx.has_seen_all() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a watch shows, or where something is that does not parse: ours might have been stored before their rules. `how` is
/// what that means for it.
fn read<K>(Lean(shown): Lean<K>, how: Lost) -> Result<K, (Place, Lost)> {
    shown.map_err(|unread| {
        let metadata = unread.metadata;
        let place = Place::new(metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
        (place, how)
    })
}

/// Takes a watch in. It is read in a task of its own, so that the next page of a list is under way meanwhile.
fn feed<K: Kept + Send + 'static>(
    tasks: &mut JoinSet<()>,
    ctx: &Arc<Context>,
    scope: Option<&str>,
    kind: &'static str,
    events: impl Stream<Item = watcher::Result<Event<Lean<K>>>> + Send + 'static,
    cache: fn(&Context) -> &Cache<K>,
    changed: fn(&Context, &Change<K>),
) {
    let (read, mut taken) = mpsc::channel(PAGE as usize);
    tasks.spawn(async move {
        let mut events = std::pin::pin!(events.default_backoff());
        while let Some(event) = events.next().await {
            // Nobody takes it any more when the controller stops.
            if read.send(event).await.is_err() {
                return;
            }
        }
    });
    let (ctx, scope) = (ctx.clone(), scope.map(ToOwned::to_owned));
    tasks.spawn(async move {
        while let Some(event) = taken.recv().await {
            match event {
                Ok(event) => take_in(&ctx, scope.as_deref(), event, cache(&ctx), changed),
                Err(error) => warn!(kind, %error, "the watch was interrupted and is taken up again"),
            }
        }
    });
}

fn take_in<K: Kept>(
    ctx: &Context,
    scope: Option<&str>,
    event: Event<Lean<K>>,
    cache: &Cache<K>,
    changed: fn(&Context, &Change<K>),
) {
    let event = match event {
        Event::Init => Ok(Event::Init),
        Event::InitDone => Ok(Event::InitDone),
        Event::InitApply(shown) => read(shown, Lost::Unreadable).map(Event::InitApply),
        Event::Apply(shown) => read(shown, Lost::Unreadable).map(Event::Apply),
        Event::Delete(shown) => read(shown, Lost::Deleted).map(Event::Delete),
    };
    let news = match event {
        Ok(event) => cache.observe_in(scope, event),
        Err((place, how)) => vec![cache.lose(&place, how)],
    };
    for change in news {
        changed(ctx, &change);
    }
}

fn token_changed(ctx: &Context, change: &Change<ApiToken>) {
    ctx.queue.add(Key::ApiToken(change.place.clone()));
    let before = change.before.as_ref().map(|(brief, _)| brief);
    if before != change.after.as_ref().map(Kept::brief).as_ref() {
        for credential in change.owners() {
            count_soon(ctx, &credential);
        }
    }
}

/// Has the tokens of a credential counted after the burst.
pub fn count_soon(ctx: &Context, credential: &Key) {
    ctx.queue.add_after(credential, GATHER);
}

fn credential_changed(ctx: &Context, change: &Change<Credential>) {
    let key = Key::Credential(change.place.clone());
    if change.after.is_none() {
        ctx.queue.add(Key::Sweep);
    }
    let before = change.before.as_ref().map(|(brief, _)| brief);
    let after = change.after.as_ref().map(Kept::brief);
    // One that cannot be read comes, and goes, as a change from nothing to nothing.
    if before.map(|brief| &brief.identity) != after.as_ref().map(|brief| &brief.identity) || after.is_none() {
        for token in ctx.tokens.places_owned_by(&key) {
            ctx.queue.add(Key::ApiToken(token));
        }
    }
    ctx.count_policies_soon(change.place.namespace(), before, after.as_ref());
    ctx.queue.add(key);
}

fn provided_changed(ctx: &Context, change: &Change<PartialObjectMeta<Secret>>) {
    for credential in ctx.credentials.places_owned_by(&change.place) {
        ctx.queue.add(Key::Credential(credential));
    }
}

fn policy_changed(ctx: &Context, change: &Change<CredentialPolicy>) {
    let before = change.before.as_ref().map(|(brief, _)| brief);
    // One that cannot be read comes as a change from nothing to nothing.
    if before != change.after.as_ref().map(Kept::brief).as_ref() || change.after.is_none() {
        ctx.read_policies();
    }
    ctx.queue.add(Key::Policies);
}

fn namespace_changed(ctx: &Context, change: &Change<PartialObjectMeta<Namespace>>) {
    let before = change.before.as_ref().map(|(brief, _)| brief);
    if before != change.after.as_ref().map(Kept::brief).as_ref() {
        ctx.note_relabelled();
    }
}

fn account_changed(ctx: &Context, change: &Change<PartialObjectMeta<ServiceAccount>>) {
    owner_changed(ctx, change);
    for credential in change.owners() {
        ctx.wake_minted(&credential);
    }
}

/// Something that was made for an object changed.
fn owner_changed<K: Kept<Owner = Key>>(ctx: &Context, change: &Change<K>) {
    for owner in change.owners() {
        if change.after.is_none() {
            ctx.note_vanished(owner.clone());
        }
        ctx.queue.add(owner);
    }
}
