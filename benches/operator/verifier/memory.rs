//! Memory: what the verifier holds for each token, beside the token's id.

use std::{
    process::{self, Command},
    time::Duration,
};

use credential_operator::{
    domain::token::ID_LENGTH,
    verifier::{
        index::Index,
        record::{Facts, Kind, Stated},
    },
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    Server, install,
    values::{self, Values},
};
use crate::{
    Arguments, load,
    measure::{Memory, float, memory},
    table::Table,
    world::World,
};

/// How long the verifier is left alone before it is measured: longer than it waits before it asks whether it missed anything.
const QUIET: Duration = Duration::from_secs(12);
/// How many tokens an index alone is fed with.
const FED: [usize; 3] = [1_000, 100_000, 1_000_000];

pub async fn run(world: &World, arguments: &Arguments) {
    install(world).await;
    let (values, space) = (Values::learn(world).await, world.space("memory").await);
    let mut sizes = arguments.tokens_or(&[1_000, 10_000]);
    sizes.sort_unstable();
    let title =
        format!("Memory of the verifier, {} s after its start, beside one without tokens", QUIET.as_secs());
    let mut table = Table::new(title, &["tokens", "peak, MiB", "settled, MiB", "B for each, beyond the id"]);
    let (mut known, mut empty) = (0, None);
    for tokens in [0].into_iter().chain(sizes) {
        if tokens > known {
            values.issue(&space, known..tokens).await;
            known = tokens;
        }
        let verifier = Server::verifier(world, tokens, |mut command| command.spawn()).await;
        sleep(QUIET).await;
        let found = memory(verifier.id());
        let empty = *empty.get_or_insert(found);
        row(&mut table, tokens, empty, found);
    }
    table.print();

    let mut table = Table::new(
        "Memory of an index alone",
        &["tokens", "peak, MiB", "settled, MiB", "B for each, beyond the id"],
    );
    for tokens in FED {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--feed", &tokens.to_string()]).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let figures: Vec<f64> = told.split_whitespace().map(|kib| kib.parse().unwrap()).collect();
        row(
            &mut table,
            tokens,
            Memory { peak: figures[0], now: figures[1] },
            Memory { peak: figures[2], now: figures[3] },
        );
    }
    table.print();
}

fn row(table: &mut Table, tokens: usize, empty: Memory, found: Memory) {
    let mebibytes = |kibibytes: f64| format!("{:.1}", kibibytes / 1024.0);
    let each = (found.now - empty.now) * 1024.0 / float(tokens) - float(ID_LENGTH);
    let each = if tokens == 0 { "-".to_owned() } else { format!("{each:.0}") };
    table.row(tokens.to_string(), [mebibytes(found.peak), mebibytes(found.now), each]);
}

/// Feeds an index, and prints the memory of this process, which does nothing else, before and after.
pub fn feed(tokens: usize) {
    let (values, index) = (Values::alike(), Index::default());
    let before = memory(process::id());
    for number in 0..tokens {
        let mut token = values::token(number);
        let uid = |high, low: usize| Uuid::from_u64_pair(high, low as u64);
        let credential = &token.spec.credential_ref.name.clone();
        let owner = uid(1, number / values::PER_CREDENTIAL);
        if number % values::PER_CREDENTIAL == 0 {
            index.put_facts("feed", credential, owner, Facts::of(&values::credential(number)));
        }
        token.metadata.uid = Some(uid(2, number).to_string());
        token.metadata.creation_timestamp = Some(Time(load::now()));
        let issued = values.issued(token, number, &owner.to_string());
        index.put(
            Kind::ApiToken,
            "feed",
            issued.metadata.name.as_deref().unwrap(),
            Stated::of_token(&issued),
        );
    }
    assert_eq!(index.len(), tokens);
    let after = memory(process::id());
    println!("{} {} {} {}", before.peak, before.now, after.peak, after.now);
}
