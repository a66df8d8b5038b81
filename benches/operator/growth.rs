//! Growth: what one more token costs when there are many.

use std::{ops::Range, time::Duration};

use credential_operator::api::ApiToken;
use tokio::time::Instant;

use crate::{
    floor::{Floor, Watches, Workers},
    load::{self, FAR},
    measure::{float, milliseconds, quantile},
    operator::Operator,
    population::Population,
    secrets::Secrets,
    table::{Table, compared},
    world::{Space, World},
};

/// How many are asked for one after the other.
const ALONE: usize = 200;
/// How many are asked for at once, 32 at a time.
const BURST: usize = 1_000;

pub struct Growth {
    size: usize,
    ours: Cost,
    floor: Cost,
}

struct Cost {
    /// From create to Secret, when one is asked for after the other.
    alone: Duration,
    per_second: f64,
    /// CPU time of the operator for each of the burst, in ms.
    cpu: f64,
}

pub async fn measure(world: &World, floor: &Floor, population: &mut Population) -> Growth {
    let size = population.size;
    let operator = world.working_operator().await;
    let numbers = population.next(ALONE + BURST);
    let ours = cost(world, &population.space, Some(&operator), numbers, |_| {}).await;
    population.space.counted(population.size).await;
    drop(operator);

    let space = world.space("floor").await;
    let watches = Watches::open(world).await;
    let workers = Workers::start({
        let (floor, space) = (floor.clone(), space.clone());
        move |token| floor.clone().issue(space.clone(), token)
    });
    let bare = cost(world, &space, None, 0..ALONE + BURST, workers.feed()).await;
    workers.finish().await;
    drop(watches);
    space.remove().await;
    Growth { size, ours, floor: bare }
}

async fn cost(
    world: &World,
    space: &Space,
    operator: Option<&Operator>,
    numbers: Range<usize>,
    created: impl Fn(ApiToken) + Clone + Send + Sync + 'static,
) -> Cost {
    let secrets = Secrets::watch(space).await;
    let middle = numbers.start + ALONE;
    let mut waits = Vec::new();
    for number in numbers.start..middle {
        let sent = load::create(space, number..number + 1, 1, FAR, created.clone()).await;
        let appeared = secrets.appeared(number + 1 - numbers.start).await;
        waits.extend(sent.iter().map(|(name, sent)| appeared[name].duration_since(*sent)));
    }
    let processes = world.processes(operator);
    let before = processes.cpu();
    let started_at = Instant::now();
    load::create(space, middle..numbers.end, 32, FAR, created).await;
    let appeared = secrets.appeared(numbers.len()).await;
    let last = appeared.values().max().copied().unwrap_or(started_at);
    let cpu = processes.cpu() - before;
    Cost {
        alone: quantile(&waits, 0.5),
        per_second: float(BURST) / last.duration_since(started_at).as_secs_f64(),
        cpu: cpu.operator * 1e3 / float(BURST),
    }
}

pub fn print(growths: &[Growth]) {
    let mut table = Table::new(
        format!("Growth: one more token; p50 of {ALONE} alone, from create to Secret, in ms"),
        &["tokens present", "ours", "floor", "ratio", "ours against the first"],
    );
    let against_first = |ours: f64, first: f64| format!("{:.2}", ours / first);
    for growth in growths {
        let [ours, floor, first] =
            [&growth.ours, &growth.floor, &growths[0].ours].map(|cost| milliseconds(cost.alone));
        let cells = compared(ours, floor, 1);
        table.row(growth.size.to_string(), cells.into_iter().chain([against_first(ours, first)]));
    }
    table.print();

    let mut table = Table::new(
        format!("Growth: {BURST} more, 32 at a time, in tokens/s; and CPU of the operator for each, in ms"),
        &[
            "tokens present",
            "ours",
            "floor",
            "ratio",
            "ours against the first",
            "CPU",
            "CPU against the first",
        ],
    );
    for growth in growths {
        let first = &growths[0].ours;
        let cells = compared(growth.ours.per_second, growth.floor.per_second, 0);
        table.row(
            growth.size.to_string(),
            cells.into_iter().chain([
                against_first(growth.ours.per_second, first.per_second),
                format!("{:.2}", growth.ours.cpu),
                against_first(growth.ours.cpu, first.cpu),
            ]),
        );
    }
    table.print();
}
