//! The verifier behind real gateways, by the set-ups of examples/verify: Caddy, nginx and Traefik. They are no part of
//! `cargo test`; tests/external/install puts them there.
//!
//! One control plane and one controller for all; each test has a gateway, a service and mostly a verifier of its own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod cases;
mod gateway;
mod program;
mod service;
mod world;

use std::{process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Trial};

use crate::world::World;

macro_rules! for_each_gateway {
    ($runtime:ident, $world:ident: $($case:ident),* $(,)?) => {
        gateway::ALL.into_iter().flat_map(|kind| {
            [$({
                let (runtime, world) = ($runtime.clone(), $world.clone());
                Trial::test(format!("{}::{}", kind.name(), stringify!($case)), move || {
                    runtime.block_on(cases::$case(world.ok_or("listed, not run")?, kind));
                    Ok(())
                })
            }),*]
        })
    };
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = Arc::new(tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap());
    // Listing names starts nothing.
    let world = (!arguments.list).then(|| Arc::new(runtime.block_on(World::start())));
    let of_gateways = for_each_gateway![runtime, world:
        who_is_accepted_reaches_the_service_and_is_named,
        who_is_refused_does_not_reach_the_service,
        nobody_says_himself_who_he_is,
        the_end_of_a_token_is_exact,
        without_a_verifier_nobody_passes,
        a_verifier_that_does_not_answer_lets_nobody_pass,
        a_verifier_that_is_not_up_to_date_lets_nobody_pass,
        by_tls_only_the_right_verifier_is_believed,
    ];
    let (at, of) = (runtime.clone(), world.clone());
    let introspects = Trial::test("a_service_introspects", move || {
        at.block_on(cases::a_service_introspects(of.ok_or("listed, not run")?));
        Ok(())
    });
    let trials = of_gateways.chain([introspects]).collect();
    let failed = libtest_mimic::run(&arguments, trials).has_failed();
    drop(world);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
