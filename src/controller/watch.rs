//! The watches: each feeds its cache, and asks for work on whatever a change concerns.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Namespace, Secret, ServiceAccount},
        rbac::v1::ClusterRoleBinding,
    },
};
use kube::{Resource, core::PartialObjectMeta, runtime::watcher::Event};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Context, Key, Place, admission,
    cache::{Cache, Change, Kept, Lost},
    keyring,
};
use crate::{
    api::{ApiToken, Credential, CredentialPolicy},
    client::{
        Objects, Readable, Watched,
        informer::{self, Selector},
    },
    domain::name,
};

/// How long a burst of token changes is gathered before their credential is counted.
const GATHER: Duration = Duration::from_secs(1);

/// How many events of a watch may wait to be taken in.
const AHEAD: usize = 100;

/// Starts all watches. They end with the set.
pub fn start(ctx: &Arc<Context>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for scope in ctx.config.reach.scopes() {
        watch_within(&mut tasks, ctx, scope.as_deref());
    }
    let keyring = Selector {
        fields: Some(format!("metadata.name={}", ctx.config.keyring_secret)),
        ..Selector::default()
    };
    let client = || ctx.client.clone();

    if ctx.config.reach.is_everywhere() {
        let bindings = Objects::<ClusterRoleBinding>::all(client());
        feed(&mut tasks, ctx, bindings, managed(), |ctx| &ctx.cluster_role_bindings, owner_changed);
    }
    let policies = Objects::<CredentialPolicy>::all(client());
    feed(&mut tasks, ctx, policies, Selector::default(), |ctx| &ctx.policies, policy_changed);
    let namespaces = Objects::<PartialObjectMeta<Namespace>>::all(client());
    feed(&mut tasks, ctx, namespaces, Selector::default(), |ctx| &ctx.namespaces, namespace_changed);
    let home = Objects::<Secret>::namespaced(client(), &ctx.config.namespace);
    feed(
        &mut tasks,
        ctx,
        home,
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
    fn objects<K>(ctx: &Context, scope: Option<&str>) -> Objects<K>
    where
        K: Readable + Resource<Scope = NamespaceResourceScope>,
    {
        Objects::scoped(ctx.client.clone(), scope)
    }

    let all = Selector::default;
    let provided = Selector { labels: Some(name::PROVIDED_SELECTOR.to_owned()), ..Selector::default() };
    feed(tasks, ctx, objects(ctx, scope), all(), |ctx| &ctx.tokens, token_changed);
    feed(tasks, ctx, objects(ctx, scope), all(), |ctx| &ctx.credentials, credential_changed);
    feed(tasks, ctx, objects(ctx, scope), managed(), |ctx| &ctx.secrets, owner_changed);
    feed(tasks, ctx, objects(ctx, scope), provided, |ctx| &ctx.provided, provided_changed);
    feed(tasks, ctx, objects(ctx, scope), managed(), |ctx| &ctx.accounts, account_changed);
    feed(tasks, ctx, objects(ctx, scope), managed(), |ctx| &ctx.role_bindings, owner_changed);
}

/// What the controller has created.
fn managed() -> Selector {
    Selector { labels: Some(name::MANAGED_BY_SELECTOR.to_owned()), ..Selector::default() }
}

/// Returns once every watch has shown all there is.
pub async fn complete(ctx: &Context) {
    while !ctx.has_seen_all() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a watch shows, or where something is that does not fit its kind: ours might have been stored before their rules.
/// `how` is what that means for it.
fn read<K>(Watched(shown): Watched<K>, how: Lost) -> Result<K, (Place, Lost)> {
    shown.map_err(|invalid| {
        let metadata = invalid.metadata;
        let place = Place::new(metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
        (place, how)
    })
}

/// Takes a watch in. It is read in a task of its own, so that the next page of a list is under way meanwhile.
fn feed<K: Kept + Readable + Send + 'static>(
    tasks: &mut JoinSet<()>,
    ctx: &Arc<Context>,
    objects: Objects<K>,
    selector: Selector,
    cache: fn(&Context) -> &Cache<K>,
    changed: fn(&Context, &Change<K>),
) {
    let (events, mut taken) = mpsc::channel(AHEAD);
    // The keyring's cache and those of what has no namespace are fed by one watch each.
    let scope = cache(ctx).scope_of(objects.namespace());
    tasks.spawn(informer::run(objects, selector, events));
    let ctx = ctx.clone();
    tasks.spawn(async move {
        while let Some(event) = taken.recv().await {
            take_in(&ctx, scope.as_deref(), event, cache(&ctx), changed);
        }
    });
}

fn take_in<K: Kept + Readable>(
    ctx: &Context,
    scope: Option<&str>,
    event: Event<Watched<K>>,
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
    ctx.count_tokens_soon(credential);
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
