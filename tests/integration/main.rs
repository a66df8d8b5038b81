//! The operator on a real control plane.
//!
//! One control plane for all: first the tests that share one running operator, in parallel, each in a namespace of its
//! own; then those that need an operator, a clock or a schema to themselves, one after the other; and last, what the
//! API server's audit log says of the whole run.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod access;
mod admission;
mod applied;
mod bad_input;
mod bearer;
mod canary;
mod churn;
mod conflict;
mod credential;
mod delivery;
mod edits;
mod emptied;
mod ends;
mod events;
mod gitops;
mod held;
mod hostile;
mod isolation;
mod keyring;
mod kubeconfig;
mod lag;
mod listed;
mod mass;
mod material;
mod memory;
mod minted;
mod poisoned;
mod policy;
mod renewal;
mod restore;
mod rights;
mod support;
mod token;
mod ttl;
mod unguarded;
mod unreadable;
mod verifier;

use std::{process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Trial};
use support::World;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let runtime = Arc::new(tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap());
    // Listing names starts nothing.
    let world = (!arguments.list).then(|| Arc::new(runtime.block_on(World::start())));
    // Several parts of names may be given, with commas between them.
    let (chosen, exact) = (arguments.filter.take(), arguments.exact);
    let fits = |name: &str, part: &str| if exact { name == part } else { name.contains(part) };
    let is_chosen = |test: &support::Test| {
        chosen.as_ref().is_none_or(|chosen| chosen.split(',').any(|part| fits(test.name(), part)))
    };
    let trials = |tests: Vec<support::Test>| -> Vec<Trial> {
        let tests = tests.into_iter().filter(is_chosen);
        tests.map(|test| test.trial(runtime.clone(), world.clone())).collect()
    };
    let shared = [
        applied::tests(),
        token::tests(),
        credential::tests(),
        conflict::tests(),
        bad_input::tests(),
        emptied::tests(),
        kubeconfig::tests(),
        material::tests(),
        minted::tests(),
        policy::tests(),
        restore::tests(),
        policy::counts::tests(),
        unguarded::tests(),
        unguarded::forged::tests(),
        verifier::tests(),
        verifier::introspection::tests(),
        ends::tests(),
        events::tests(),
        gitops::tests(),
        held::tests(),
        hostile::tests(),
        listed::tests(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let alone = [
        canary::tests(),
        churn::tests(),
        delivery::tests(),
        delivery::material::tests(),
        edits::tests(),
        ends::ends_alone::tests(),
        hostile::hostile_alone::tests(),
        isolation::tests(),
        keyring::tests(),
        kubeconfig::kubeconfig_alone::tests(),
        lag::tests(),
        mass::tests(),
        memory::tests(),
        minted::minted_alone::tests(),
        poisoned::tests(),
        policy::passes::tests(),
        policy::policy_alone::tests(),
        renewal::tests(),
        rights::tests(),
        ttl::tests(),
        unguarded::own_operator::tests(),
        unguarded::crd::tests(),
        unguarded::forged::forged_alone::tests(),
        unreadable::tests(),
        verifier::verifier_alone::tests(),
        // Last, since whoever writes a status by hand cannot while these run.
        admission::tests(),
    ]
    .into_iter()
    .flatten()
    .collect();

    let mut failed = libtest_mimic::run(&arguments, trials(shared)).has_failed();
    if let Some(world) = &world {
        runtime.block_on(world.stop_shared_operator());
    }
    arguments.test_threads = Some(1);
    failed |= libtest_mimic::run(&arguments, trials(alone)).has_failed();
    // A part of the tests does not use all of the rights.
    if chosen.is_none() {
        failed |= libtest_mimic::run(&arguments, trials(access::tests())).has_failed();
    }
    drop(world);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
