//! A sample of mutated requests at each protocol: nothing is accepted that should not be, and nothing breaks.
//!
//! `cargo run --release --example mutate` sends more.

use mutations::{Protocol, report, world::World};

const REQUESTS: u64 = 100_000;
const SEED: u64 = 20_261_125;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_value_itself_is_accepted() {
    let world = World::start(SEED).await.unwrap();
    for protocol in [Protocol::ForwardAuth, Protocol::Introspection] {
        let report = report::run(&world, SEED, protocol, REQUESTS).await.unwrap();
        println!("{protocol}\n{report}");
        assert!(report.is_good(), "{protocol}\n{report}");
    }
}
