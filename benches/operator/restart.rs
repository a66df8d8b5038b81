//! Restart: what a start costs when many tokens are there, and how long new work waits for it.

use std::time::Duration;

use credential_operator::api::ApiToken;
use kube::api::PostParams;
use tokio::time::{Instant, sleep};

use crate::{
    floor::{Floor, Watches},
    load::{self, FAR},
    measure::{Memory, float},
    population::Population,
    secrets::Secrets,
    table::{Table, compared},
    world::{Space, World},
};

/// How long the operator is watched after a start with nothing to do: longer than it puts anything off.
const QUIET: Duration = Duration::from_secs(12);

pub struct Restart {
    size: usize,
    writes: usize,
    reads: usize,
    memory: Memory,
    /// In the namespace of the many, listed after all of them.
    same: f64,
    /// In another namespace.
    other: f64,
    floor: f64,
}

pub async fn measure(world: &World, floor: &Floor, population: &mut Population) -> Restart {
    let size = population.size;
    let since = load::now();
    let operator = world.operator();
    sleep(QUIET).await;
    let memory = operator.memory();
    drop(operator);
    let requests = world.requests("", since);
    let count = |read: bool| {
        let found = requests.iter().filter(|(request, _)| request.starts_with("get ") == read);
        found.map(|(_, count)| count).sum()
    };

    let other = world.space("other").await;
    let last = format!("zz{size}");
    let secrets = [Secrets::watch(&population.space).await, Secrets::watch(&other).await];
    create(&population.space, &last).await;
    population.size += 1;
    create(&other, "first").await;
    let operator = world.operator();
    let [same_at, other_at] = [first(&secrets[0]).await, first(&secrets[1]).await];
    let started_at = operator.started_at;
    // Its count is to be written by this one, not by the next.
    population.space.counted(population.size).await;
    drop(operator);
    other.remove().await;
    Restart {
        size,
        writes: count(false),
        reads: count(true),
        memory,
        same: same_at.duration_since(started_at).as_secs_f64(),
        other: other_at.duration_since(started_at).as_secs_f64(),
        floor: floor_of(world, floor).await,
    }
}

/// Reads all that the operator reads, then issues the one token.
async fn floor_of(world: &World, floor: &Floor) -> f64 {
    let space = world.space("floor").await;
    let secrets = Secrets::watch(&space).await;
    let token = create(&space, "first").await;
    let started_at = Instant::now();
    let watches = Watches::open(world).await;
    floor.clone().issue(space.clone(), token).await;
    let issued_at = first(&secrets).await;
    drop(watches);
    space.remove().await;
    issued_at.duration_since(started_at).as_secs_f64()
}

async fn create(space: &Space, name: &str) -> ApiToken {
    space.api().create(&PostParams::default(), &load::token(name, FAR)).await.unwrap()
}

async fn first(secrets: &Secrets) -> Instant {
    secrets.appeared(1).await.values().min().copied().unwrap()
}

pub fn print(restarts: &[Restart]) {
    let mut table = Table::new(
        "Restart: from the start of the process to the first new Secret, in s",
        &["tokens present", "same namespace", "another", "floor", "ratio", "writes", "gets"],
    );
    for restart in restarts {
        let [other, floor, ratio] = compared(restart.other, restart.floor, 2);
        let [writes, reads] = [restart.writes, restart.reads].map(|count| count.to_string());
        let same = format!("{:.2}", restart.same);
        table.row(restart.size.to_string(), [same, other, floor, ratio, writes, reads]);
    }
    table.print();

    let mut table = Table::new(
        format!("Memory of the operator, {} s after such a start with nothing to do", QUIET.as_secs()),
        &[
            "tokens present",
            "peak, MiB",
            "settled, MiB",
            "peak, B for each further",
            "settled, B for each further",
        ],
    );
    for (index, restart) in restarts.iter().enumerate() {
        let further = |of: fn(&Memory) -> f64| {
            let Some(before) = index.checked_sub(1).map(|before| &restarts[before]) else {
                return "-".to_owned();
            };
            let more = float(restart.size - before.size);
            format!("{:.0}", (of(&restart.memory) - of(&before.memory)) * 1024.0 / more)
        };
        let mebibytes = |kibibytes: f64| format!("{:.1}", kibibytes / 1024.0);
        table.row(
            restart.size.to_string(),
            [
                mebibytes(restart.memory.peak),
                mebibytes(restart.memory.now),
                further(|memory| memory.peak),
                further(|memory| memory.now),
            ],
        );
    }
    table.print();
}
