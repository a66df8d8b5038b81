//! What the operator and the verifier cost on a real control plane.
//!
//! Every bench measures the release binary and, in the same run on the same control plane, the floor: the same writes by
//! a client that does nothing else, or the same answers by a server that does nothing else. It prints both and their ratio
//! and asserts no time. What is measured, and the table of one run, are in docs/performance.md.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on ends")]

mod admission;
mod expire;
mod floor;
mod generation;
mod growth;
mod issue;
mod load;
mod material;
mod measure;
mod metadata;
mod operator;
mod poison;
mod policies;
mod population;
mod restart;
mod secrets;
mod table;
mod verifier;
mod world;

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};
use tokio::time::Instant;

use world::World;

/// Measures the operator and the verifier beside the floor.
#[derive(Parser)]
struct Arguments {
    /// Which benches to run; all of them by default.
    benches: Vec<Bench>,
    /// How many tokens, or credentials, instead of each bench's own numbers; several are separated by commas.
    #[arg(long, value_delimiter = ',')]
    tokens: Vec<usize>,
    /// How many requests are under way at a time, instead of each bench's own numbers; several are separated by commas.
    #[arg(long, value_delimiter = ',')]
    concurrency: Vec<usize>,
    /// How often operator and floor are measured in turn; the median is printed.
    #[arg(long)]
    rounds: Option<usize>,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
    /// Feeds an index with so many tokens, and does nothing else.
    #[arg(long, hide = true)]
    feed: Option<usize>,
    /// Answers this, and does nothing else.
    #[arg(long, hide = true, requires = "listen")]
    answers: Option<String>,
    /// Where to answer.
    #[arg(long, hide = true)]
    listen: Option<SocketAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Many tokens at once.
    Issue,
    /// Many ends at once: by the clock, by revocation, by deletion.
    Expire,
    /// A token that can never have its Secret, among many.
    Poison,
    /// Many credentials with material at once.
    Material,
    /// A start with many tokens there.
    Restart,
    /// One more token, when there are many.
    Growth,
    /// Tokens presented to the verifier, as many as one core can answer.
    Verify,
    /// Changes, until the verifier answers by them.
    Visible,
    /// Memory of the verifier for each token.
    Memory,
    /// Credentials by the thousand over the count of a policy.
    Policies,
    /// The CPU time of material that takes long, and how much of it one credential may use.
    Generation,
    /// Memory of the controller and the verifier beside objects with as much metadata as fits.
    Metadata,
    /// Credentials created, with the admission policies and without; and what it costs to see that they are in force.
    Admission,
}

impl Arguments {
    fn tokens_or(&self, default: &[usize]) -> Vec<usize> {
        if self.tokens.is_empty() { default.to_vec() } else { self.tokens.clone() }
    }

    fn concurrency_or(&self, default: &[usize]) -> Vec<usize> {
        if self.concurrency.is_empty() { default.to_vec() } else { self.concurrency.clone() }
    }

    fn rounds_or(&self, default: usize) -> usize {
        self.rounds.unwrap_or(default).max(1)
    }
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    if let Some(tokens) = arguments.feed {
        return verifier::memory::feed(tokens);
    }
    if let Some((answers, address)) = arguments.answers.as_ref().zip(arguments.listen) {
        return verifier::constant::serve(address, serde_json::from_str(answers).unwrap()).await;
    }
    let all = arguments.benches.is_empty();
    let asked = |bench: &Bench| all || arguments.benches.contains(bench);
    let started = Instant::now();
    let benches: Vec<_> = Bench::value_variants().iter().copied().filter(asked).collect();
    // What needs no control plane.
    if benches.contains(&Bench::Generation) {
        generation::run(&arguments);
    }
    let benches = benches.into_iter().filter(|bench| *bench != Bench::Generation);
    // What needs thousands of tokens to begin with shares them.
    let (alone, together): (Vec<_>, Vec<_>) =
        benches.partition(|bench| !matches!(bench, Bench::Restart | Bench::Growth));
    let groups = alone.iter().map(std::slice::from_ref).chain([together.as_slice()]);
    for (index, group) in groups.filter(|group| !group.is_empty()).enumerate() {
        // A control plane each, so that none pays for what another left behind.
        let world = World::start().await;
        if index == 0 {
            println!("{}", world.machine().await);
        }
        match group {
            [Bench::Issue] => issue::run(&world, &arguments).await,
            [Bench::Expire] => expire::run(&world, &arguments).await,
            [Bench::Poison] => poison::run(&world, &arguments).await,
            [Bench::Material] => material::run(&world, &arguments).await,
            [Bench::Verify] => verifier::speed::run(&world, &arguments).await,
            [Bench::Visible] => verifier::visible::run(&world, &arguments).await,
            [Bench::Memory] => verifier::memory::run(&world, &arguments).await,
            [Bench::Policies] => policies::run(&world, &arguments).await,
            [Bench::Metadata] => metadata::run(&world, &arguments).await,
            [Bench::Admission] => admission::run(&world, &arguments).await,
            together => population::run(&world, &arguments, together).await,
        }
    }
    println!("\n{} s in all", started.elapsed().as_secs());
}
