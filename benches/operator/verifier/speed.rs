//! Speed: one core of the verifier beside one core of a bare server that answers a constant.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Server, caller,
    constant::{Answer, READ},
    cores::Cores,
    install,
    values::{self, Values},
    wire::{Connection, Load},
};
use crate::{
    Arguments,
    measure::{cpu_seconds, float, median, quantile},
    table::{Table, compared},
    world::World,
};

/// How long a round is, and what comes before it, so that all is warm.
const ROUND: Duration = Duration::from_secs(3);
const BEFORE: Duration = Duration::from_millis(500);

const FORWARD_AUTH: &str = "/forward-auth";
const INTROSPECT: &str = "/introspect";

/// As gateways ask.
pub fn forward_auth(tokens: usize) -> Arc<Vec<Vec<u8>>> {
    let request = |number| {
        let value = values::value(number);
        format!(
            "GET {FORWARD_AUTH} HTTP/1.1\r\nhost: verifier\r\nauthorization: Bearer {}\r\n\r\n",
            value.expose()
        )
    };
    requests(tokens, request)
}

/// As services ask, over and over with a token of Kubernetes.
fn introspection(path: &str, tokens: usize, caller: &str) -> Arc<Vec<Vec<u8>>> {
    let request = |number| {
        let form = format!("token={}", values::value(number).expose());
        format!(
            "POST {path} HTTP/1.1\r\nhost: verifier\r\nauthorization: Bearer {caller}\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
            form.len()
        )
    };
    requests(tokens, request)
}

fn requests(tokens: usize, request: impl Fn(usize) -> String) -> Arc<Vec<Vec<u8>>> {
    Arc::new((0..tokens).map(|number| request(number).into_bytes()).collect())
}

/// What is measured, and beside what.
struct Case {
    name: &'static str,
    ours: Arc<Vec<Vec<u8>>>,
    floor: Arc<Vec<Vec<u8>>>,
}

struct Round {
    /// CPU time of the server for each request, in µs.
    cpu: f64,
    /// How much of the time it worked, in percent.
    busy: f64,
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

pub async fn run(world: &World, arguments: &Arguments) {
    install(world).await;
    let (values, space) = (Values::learn(world).await, world.space("speed").await);
    let rounds = arguments.rounds_or(3);
    let mut known = 0;
    for tokens in arguments.tokens_or(&[1_000]) {
        values.issue(&space, known..tokens).await;
        known = tokens;
        let caller = caller(world).await;
        let (forward_auth, introspection) =
            (forward_auth(tokens), introspection(INTROSPECT, tokens, &caller));
        let reading = self::introspection(&reading_path(), tokens, &caller);
        let cores = Cores::divide(&world.process_ids());
        let verifier = Server::verifier(world, tokens, |command| cores.spawn(command)).await;
        let [authorized, introspected] =
            [answer(&verifier, &forward_auth).await, answer(&verifier, &introspection).await];
        let answers = [
            (FORWARD_AUTH.to_owned(), authorized),
            (INTROSPECT.to_owned(), introspected.clone()),
            (reading_path(), introspected),
        ];
        let floor = Server::constant(&answers.into(), |command| cores.spawn(command)).await;
        let cases = [
            Case { name: "forward-auth", ours: forward_auth.clone(), floor: forward_auth },
            Case { name: "introspection", ours: introspection.clone(), floor: introspection.clone() },
            Case { name: "introspection, the floor reads the form", ours: introspection, floor: reading },
        ];
        for case in &cases {
            for connections in arguments.concurrency_or(&[16, 64]) {
                let (mut ours, mut bare) = (Vec::new(), Vec::new());
                for _ in 0..rounds {
                    bare.push(round(&floor, &case.floor, connections).await);
                    ours.push(round(&verifier, &case.ours, connections).await);
                }
                let title = format!(
                    "Verify: {}; {connections} connections, {tokens} tokens known; median of {rounds} round(s) of {} s",
                    case.name,
                    ROUND.as_secs()
                );
                print(title, &ours, &bare);
            }
        }
    }
}

fn reading_path() -> String {
    INTROSPECT.to_owned() + READ
}

/// What the verifier answers.
async fn answer(verifier: &Server, requests: &[Vec<u8>]) -> Answer {
    let mut connection = Connection::open(verifier.address).await.unwrap();
    Answer::read(connection.ask(&requests[0]).await.unwrap())
}

async fn round(server: &Server, requests: &Arc<Vec<Vec<u8>>>, connections: usize) -> Round {
    let load = Load { address: server.address, requests: requests.clone(), connections };
    load.flood(BEFORE).await;
    let (cpu, started_at) = (cpu_seconds(server.id()), Instant::now());
    let took = load.flood(ROUND).await;
    let (cpu, seconds) = (cpu_seconds(server.id()) - cpu, started_at.elapsed().as_secs_f64());
    let requests = float(took.len());
    Round {
        cpu: cpu * 1e6 / requests,
        busy: cpu * 100.0 / seconds,
        per_second: requests / seconds,
        p50: quantile(&took, 0.5),
        p99: quantile(&took, 0.99),
    }
}

fn print(title: String, ours: &[Round], floor: &[Round]) {
    let mut table = Table::new(title, &["", "ours", "floor", "ratio"]);
    let mut row = |name: &str, decimals, figure: fn(&Round) -> f64| {
        let of = |rounds: &[Round]| median(rounds.iter().map(figure));
        table.row(name, compared(of(ours), of(floor), decimals));
    };
    row("CPU of the server for each request, µs", 2, |round| round.cpu);
    row("requests/s", 0, |round| round.per_second);
    row("its core was busy, %", 0, |round| round.busy);
    row("p50, µs", 0, |round| microseconds(round.p50));
    row("p99, µs", 0, |round| microseconds(round.p99));
    table.print();
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
