//! Issue: many tokens at once, and one beside many.

use std::{collections::HashMap, time::Duration};

use credential_operator::api::{ApiToken, ApiTokenState};
use tokio::time::{Instant, sleep};

use crate::{
    Arguments,
    floor::{Floor, Watches, Workers},
    load::{self, FAR},
    measure::{Cpu, float, median, milliseconds, quantile},
    operator::Operator,
    secrets::Secrets,
    table::{Table, compared},
    world::{Space, World},
};

/// How many tokens are asked for one by one beside the many.
const PROBES: usize = 10;
/// So many that whoever waited behind them would show it.
const MANY: usize = 2_000;

/// One burst.
struct Burst {
    per_second: f64,
    p50: f64,
    p99: f64,
    cpu: Cpu,
    requests: f64,
}

pub async fn run(world: &World, arguments: &Arguments) {
    let floor = Floor::learn(world).await;
    // The first writes of a control plane are slow.
    burst_of_floor(world, &floor, 500, 32).await;
    for tokens in arguments.tokens_or(&[5_000]) {
        for concurrency in arguments.concurrency_or(&[32, 64]) {
            let (mut ours, mut bare) = (Vec::new(), Vec::new());
            for round in 0..arguments.rounds_or(2) {
                // Each goes first in turn, so that neither always finds the larger store.
                for first in [true, false] {
                    if first == (round % 2 == 0) {
                        bare.push(burst_of_floor(world, &floor, tokens, concurrency).await);
                    } else {
                        ours.push(burst(world, tokens, concurrency).await);
                    }
                }
            }
            print(tokens, concurrency, &ours, &bare);
        }
        beside_many(world, &floor, tokens.min(MANY)).await;
    }
}

async fn burst(world: &World, tokens: usize, concurrency: usize) -> Burst {
    let operator = world.working_operator().await;
    let space = world.space("issue").await;
    let burst = measured(world, &space, Some(&operator), tokens, concurrency, |_| {}).await;
    space.all_are(ApiTokenState::Active, tokens).await;
    let requests = world.requests(&space.namespace, jiff::Timestamp::UNIX_EPOCH);
    let requests: usize = requests.into_iter().map(|(_, count)| count).sum();
    drop(operator);
    space.remove().await;
    Burst { requests: float(requests) / float(tokens), ..burst }
}

async fn burst_of_floor(world: &World, floor: &Floor, tokens: usize, concurrency: usize) -> Burst {
    let space = world.space("floor").await;
    let watches = Watches::open(world).await;
    let workers = workers(floor, &space);
    let burst = measured(world, &space, None, tokens, concurrency, workers.feed()).await;
    workers.finish().await;
    drop(watches);
    space.remove().await;
    Burst { requests: 2.0, ..burst }
}

fn workers(floor: &Floor, space: &Space) -> Workers {
    let (floor, space) = (floor.clone(), space.clone());
    Workers::start(move |token| floor.clone().issue(space.clone(), token))
}

async fn measured(
    world: &World,
    space: &Space,
    operator: Option<&Operator>,
    tokens: usize,
    concurrency: usize,
    created: impl Fn(ApiToken) + Send + Sync + 'static,
) -> Burst {
    let secrets = Secrets::watch(space).await;
    let processes = world.processes(operator);
    let before = processes.cpu();
    let started_at = Instant::now();
    let sent = load::create(space, 0..tokens, concurrency, FAR, created).await;
    let appeared = secrets.appeared(tokens).await;
    let cpu = processes.cpu() - before;
    let last = appeared.values().max().copied().unwrap_or(started_at);
    let waits = waits(&sent, &appeared);
    Burst {
        per_second: float(tokens) / last.duration_since(started_at).as_secs_f64(),
        p50: milliseconds(quantile(&waits, 0.5)),
        p99: milliseconds(quantile(&waits, 0.99)),
        cpu,
        requests: f64::NAN,
    }
}

fn waits(sent: &HashMap<String, Instant>, appeared: &HashMap<String, Instant>) -> Vec<Duration> {
    sent.iter().map(|(name, sent)| appeared[name].duration_since(*sent)).collect()
}

fn print(tokens: usize, concurrency: usize, ours: &[Burst], bare: &[Burst]) {
    let title = format!(
        "Issue: {tokens} tokens created {concurrency} at a time; median of {} round(s)",
        ours.len().min(bare.len())
    );
    let mut table = Table::new(title, &["", "ours", "floor", "ratio"]);
    let both = |of: fn(&Burst) -> f64| (median(ours.iter().map(of)), median(bare.iter().map(of)));
    let mut row = |name: &str, of: fn(&Burst) -> f64, decimals| {
        let (ours, bare) = both(of);
        table.row(name, compared(ours, bare, decimals));
    };
    row("tokens/s to the last Secret", |burst| burst.per_second, 0);
    row("create to Secret, p50, ms", |burst| burst.p50, 0);
    row("create to Secret, p99, ms", |burst| burst.p99, 0);
    row("requests for each token", |burst| burst.requests, 3);
    row("CPU, etcd, s", |burst| burst.cpu.etcd, 2);
    row("CPU, kube-apiserver, s", |burst| burst.cpu.api_server, 2);
    row("CPU, operator or floor, and the load, s", |burst| burst.cpu.operator + burst.cpu.bench, 2);
    table.print();
    let rounds = |bursts: &[Burst]| {
        let rounds = bursts.iter().map(|burst| format!("{:.0}", burst.per_second));
        rounds.collect::<Vec<_>>().join(", ")
    };
    println!("  tokens/s by round: ours {}; floor {}", rounds(ours), rounds(bare));
}

/// One namespace has many waiting; another asks for one, and again. The floor serves the many as fast as it can, and
/// the one by a client of its own, at once.
async fn beside_many(world: &World, floor: &Floor, tokens: usize) {
    let [many, one] = [world.space("many").await, world.space("one").await];
    let watches = Watches::open(world).await;
    let (waiting, created) = futures::channel::mpsc::unbounded();
    load::create(&many, 0..tokens, 64, FAR, move |token| waiting.unbounded_send(token).unwrap()).await;
    let (all, ones) = (workers(floor, &many), workers(floor, &one));
    let secrets = Secrets::watch(&many).await;
    let feed = all.feed();
    futures::StreamExt::for_each(created, |token| {
        feed(token);
        std::future::ready(())
    })
    .await;
    let bare = probe(&one, &secrets, ones.feed()).await;
    secrets.appeared(tokens).await;
    drop(feed);
    all.finish().await;
    ones.finish().await;
    drop(watches);
    many.remove().await;
    one.remove().await;

    let [many, one] = [world.space("many").await, world.space("one").await];
    load::create(&many, 0..tokens, 64, FAR, |_| {}).await;
    let secrets = Secrets::watch(&many).await;
    let operator = world.operator();
    let ours = probe(&one, &secrets, |_| {}).await;
    secrets.appeared(tokens).await;
    drop(operator);
    many.remove().await;
    one.remove().await;

    let title = format!(
        "Issue: {tokens} wait in one namespace, one at a time is created in another; {} and {} of them",
        ours.len(),
        bare.len()
    );
    let mut table = Table::new(title, &["", "ours", "floor", "ratio"]);
    for (name, at) in [("create to Secret, p50, ms", 0.5), ("create to Secret, longest, ms", 1.0)] {
        table.row(name, compared(milliseconds(quantile(&ours, at)), milliseconds(quantile(&bare, at)), 0));
    }
    table.print();
}

/// Creates tokens one by one while the many are served, and tells how long each waited for its Secret.
async fn probe(
    one: &Space,
    many: &Secrets,
    created: impl Fn(ApiToken) + Clone + Send + Sync + 'static,
) -> Vec<Duration> {
    let secrets = Secrets::watch(one).await;
    // Not before the first of the many is served.
    many.appeared(1).await;
    let mut waits = Vec::new();
    for number in 0..PROBES {
        let sent = load::create(one, number..number + 1, 1, FAR, created.clone()).await;
        let appeared = secrets.appeared(number + 1).await;
        waits.extend(sent.iter().map(|(name, sent)| appeared[name].duration_since(*sent)));
        sleep(Duration::from_millis(100)).await;
    }
    waits
}
