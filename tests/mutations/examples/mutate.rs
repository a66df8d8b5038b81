//! Sends a real verifier requests by the million that nobody should, and tells what came of them.
//!
//! ```console
//! $ cargo run --release --example mutate -- --requests 1000000 --seed 1
//! ```

use std::process::ExitCode;

use clap::Parser;
use mutations::{
    Protocol, report,
    world::{Outcome, World},
};
use tokio::time::Instant;

/// Sends mutated requests to a verifier on a control plane of its own.
#[derive(Parser)]
struct Arguments {
    /// How many, of each protocol.
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// What to draw them by.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Outcome<bool> {
    let &Arguments { requests, seed } = arguments;
    let world = World::start(seed).await?;
    let mut good = true;
    for protocol in [Protocol::ForwardAuth, Protocol::Introspection] {
        let started = Instant::now();
        let report = report::run(&world, seed, protocol, requests).await?;
        println!(
            "{protocol}: {requests} requests by seed {seed} in {} s\n{report}",
            started.elapsed().as_secs()
        );
        good &= report.is_good();
    }
    Ok(good)
}
