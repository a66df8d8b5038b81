//! Ends, many at once: by the clock, by revocation, by deletion of the tokens and of their credential.

use std::time::Duration;

use credential_operator::api::{ApiToken, ApiTokenState, Credential};
use jiff::SignedDuration;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::{
    Arguments,
    floor::{Floor, Watches, Workers},
    load::{self, FAR},
    measure::{float, median},
    operator::Operator,
    secrets::Secrets,
    table::{Table, compared},
    world::{Space, World},
};

/// How many revocations and deletions users have under way at a time.
const USERS: usize = 32;

#[derive(Clone, Copy)]
enum End {
    Due,
    Revoked,
    Deleted,
    WithoutCredential,
}

/// How long it took until the last Secret was gone, in seconds, and what the operator asked for meanwhile.
struct Ended {
    seconds: f64,
    requests: Vec<(String, usize)>,
}

pub async fn run(world: &World, arguments: &Arguments) {
    let floor = Floor::learn(world).await;
    for tokens in arguments.tokens_or(&[1_000]) {
        let rounds = arguments.rounds_or(1);
        let title =
            format!("Expire: the last of {tokens} Secrets is gone after, in s; median of {rounds} round(s)");
        let mut table = Table::new(title, &["", "ours", "floor", "ratio", "requests for each token"]);
        for (name, end) in [
            ("all due at one instant, after it", End::Due),
            ("revoked, 32 at a time, after the first was", End::Revoked),
            ("ApiTokens deleted, 32 at a time (by Kubernetes)", End::Deleted),
            ("credential deleted", End::WithoutCredential),
        ] {
            let (mut ours, mut bare) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                bare.push(floor_of(world, &floor, end, tokens).await);
                ours.push(ended(world, end, tokens).await);
            }
            let cells = compared(median(ours.iter().map(|ended| ended.seconds)), median(bare), 2);
            let requests = ours.last().map(|ended| told(&ended.requests, tokens)).unwrap_or_default();
            table.row(name, cells.into_iter().chain([requests]));
        }
        table.print();
    }
}

fn told(requests: &[(String, usize)], tokens: usize) -> String {
    let each = requests.iter().filter(|(_, count)| count * 2 > tokens);
    let each: Vec<_> =
        each.map(|(request, count)| format!("{request} {:.2}", float(*count) / float(tokens))).collect();
    if each.is_empty() { "none".to_owned() } else { each.join(", ") }
}

async fn ended(world: &World, end: End, tokens: usize) -> Ended {
    let operator = world.working_operator().await;
    let space = world.space("ends").await;
    let due_at = issue(&space, end, tokens).await;
    let secrets = Secrets::watch(&space).await;
    let since = load::now();
    let ended_at = match end {
        End::Due => due_at.unwrap(),
        End::Revoked => revoke(&space, tokens, |_| {}).await,
        End::Deleted => delete(&space, tokens).await,
        End::WithoutCredential => delete_credential(&space).await,
    };
    let last = secrets.gone(tokens).await;
    match end {
        End::Due => space.all_are(ApiTokenState::Expired, tokens).await,
        End::Revoked => space.all_are(ApiTokenState::Revoked, tokens).await,
        End::Deleted | End::WithoutCredential => {}
    }
    let requests = world.requests(&space.namespace, since);
    drop::<Operator>(operator);
    space.remove().await;
    Ended { seconds: since_instant(ended_at, last), requests }
}

async fn floor_of(world: &World, floor: &Floor, end: End, tokens: usize) -> f64 {
    let operator = world.working_operator().await;
    let space = world.space("floor").await;
    let due_at = issue(&space, if matches!(end, End::Due) { End::Revoked } else { end }, tokens).await;
    drop::<Operator>(operator);
    debug_assert!(due_at.is_none());
    let all = space.api::<ApiToken>().list(&ListParams::default()).await.unwrap().items;
    let watches = Watches::open(world).await;
    let workers = Workers::start({
        let (floor, space) = (floor.clone(), space.clone());
        move |token| {
            let (floor, space) = (floor.clone(), space.clone());
            async move {
                match end {
                    End::WithoutCredential => floor.take_away(space, token).await,
                    End::Due | End::Revoked | End::Deleted => floor.end(space, token).await,
                }
            }
        }
    });
    let secrets = Secrets::watch(&space).await;
    let ended_at = match end {
        End::Due => {
            let started_at = Instant::now();
            all.into_iter().for_each(workers.feed());
            started_at
        }
        End::Revoked => revoke(&space, tokens, workers.feed()).await,
        End::Deleted => delete(&space, tokens).await,
        End::WithoutCredential => {
            let started_at = delete_credential(&space).await;
            all.into_iter().for_each(workers.feed());
            started_at
        }
    };
    let last = secrets.gone(tokens).await;
    workers.finish().await;
    drop(watches);
    space.remove().await;
    since_instant(ended_at, last)
}

/// Issues tokens that are to end like that; where it is by the clock, returns just before their end and tells it.
async fn issue(space: &Space, end: End, tokens: usize) -> Option<Instant> {
    let secrets = Secrets::watch(space).await;
    let due_in =
        Duration::from_secs(5) + Duration::from_millis(10) * u32::try_from(tokens).unwrap_or(u32::MAX);
    let due = matches!(end, End::Due)
        .then(|| (Instant::now() + due_in, load::now() + SignedDuration::try_from(due_in).unwrap()));
    let end = due.map_or_else(|| FAR.to_owned(), |(_, end)| end.to_string());
    load::create(space, 0..tokens, USERS, &end, |_| {}).await;
    secrets.appeared(tokens).await;
    space.all_are(ApiTokenState::Active, tokens).await;
    let due_at = due.map(|(at, _)| at);
    if let Some(at) = due_at {
        assert!(Instant::now() < at, "the machine is too slow to issue {tokens} tokens within {due_in:?}");
        sleep_until(at - Duration::from_millis(500)).await;
    }
    due_at
}

/// Tells when the first was asked for.
async fn revoke(
    space: &Space,
    tokens: usize,
    revoked: impl Fn(ApiToken) + Clone + Send + Sync + 'static,
) -> Instant {
    let started_at = Instant::now();
    let revoke = |number| {
        let (api, revoked) = (space.api::<ApiToken>(), revoked.clone());
        async move {
            let patch = Patch::Merge(json!({"spec": {"revoked": true}}));
            revoked(api.patch(&load::name(number), &PatchParams::default(), &patch).await.unwrap());
        }
    };
    load::each(0..tokens, USERS, revoke).await;
    started_at
}

async fn delete(space: &Space, tokens: usize) -> Instant {
    let started_at = Instant::now();
    let delete = |number| {
        let api = space.api::<ApiToken>();
        async move {
            api.delete(&load::name(number), &DeleteParams::default()).await.unwrap();
        }
    };
    load::each(0..tokens, USERS, delete).await;
    started_at
}

async fn delete_credential(space: &Space) -> Instant {
    let started_at = Instant::now();
    space.api::<Credential>().delete("c", &DeleteParams::default()).await.unwrap();
    started_at
}

fn since_instant(start: Instant, end: Instant) -> f64 {
    // Negative where a Secret went too early, which no run may show.
    if end >= start {
        end.duration_since(start).as_secs_f64()
    } else {
        -start.duration_since(end).as_secs_f64()
    }
}
