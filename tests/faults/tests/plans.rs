//! Every scenario under faults, and proof that what is looked for would be found.
//!
//! `cargo test -p faults -- NAME` runs a part. A failing plan is one line, which
//! `cargo run --release --example soak -- --plan 'LINE'` replays.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{process::ExitCode, sync::Arc};

use faults::{
    bug::Bug,
    plan::Plan,
    run::{self, Report, Violation},
    sample,
    world::World,
};
use futures::{StreamExt, stream};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

/// How many runs at a time.
const WIDTH: usize = 16;
/// Of all plans of one fault at one write, so that the test stays within its minutes. `soak --singles` runs them all.
const SINGLES: usize = 200;
/// Which of them.
const SEED: u64 = 20_261_122;

/// How often the operator is killed while values are delivered once.
const KILLS: usize = 120;

/// Plans that found bugs once.
const REGRESSIONS: &[&str] = &[
    // A second leader drew a value on old news after the first had ended the token.
    "revoke: second-leader@create/secrets/credential-operator-keyring#1",
    "expire: second-leader@create/serviceaccounts/c-credential#1",
    // A token was issued for the credential before, which a frozen watch still showed, and deleted with it.
    "recreate: kill-before@create/serviceaccounts/c-credential#1, freeze-credentials@3",
    "recreate: freeze-credentials@update/credentials.status/c#1",
    // Two keys of one second: the new one sorted first, never signed, and was dropped.
    "rotate-keyring: clock-forward@update/credentials.status/c#2",
    // Not a bug of the operator but of the checker, which took the clock for what decides.
    "credential-ends: clock-back@update/credentials.status/c#2",
    // What was to be looked at again in ten seconds waited for the hour by which the clock had been set back.
    "foreign-secret-goes: clock-back@update/apitokens.status/t#1",
    // A leader whose watch lagged rotated back to the revision before, and the other on again.
    "rotate: second-leader@create/serviceaccounts/c-credential#1",
    // One took the copy under the new name for a leftover, and the other took the Secret of the old name away.
    "rename-secret: second-leader@create/secrets/c-credential#1",
    // A second leader that had not read the keys yet took the Secret of the first for planted, and deleted it.
    "edit-secret: second-leader@create/secrets/credential-operator-keyring#1",
    // A leader that still saw the credential suspended took away what the other had issued since.
    "mint-suspend: second-leader@create/secrets/t-token#1",
    // Likewise, of the credential's own; and two leaders each took the Secret that the other was about to fill.
    "mint-kubeconfig: second-leader@create/secrets/c-credential#1",
    // A leader that saw only the account before took away what the other had minted for the one made since.
    "mint-recreated: second-leader@create/secrets/t-token#1, 410-serviceaccounts@1",
    // Material was drawn anew after its end: the clock went back before the status could tell of it.
    "material-ends: clock-back@delete/secrets/c-credential#1, answer-503@1",
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = Arc::new(tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap());
    let world = (!arguments.list).then(|| Arc::new(runtime.block_on(World::start()).unwrap()));
    let trial = |name: &str, test: fn(&Runtime, &World) -> Result<(), Failed>| {
        let (runtime, world) = (runtime.clone(), world.clone());
        Trial::test(name, move || test(&runtime, &*world.ok_or("listed, not run")?))
    };
    let trials = vec![
        trial("a_sample_of_single_faults", |runtime, world| {
            let plans = runtime.block_on(async {
                world.prepare(WIDTH).await.unwrap();
                let all = sample::singles(world).await.unwrap();
                println!("{SINGLES} of {} plans of one fault at one write, by seed {SEED}", all.len());
                sample::part(&all, SINGLES, SEED)
            });
            all_hold(runtime, world, &plans)
        }),
        trial("killed_anywhere_it_delivers_a_value_once", |runtime, world| {
            let plans = runtime.block_on(sample::kills(world, "once-", KILLS, SEED)).unwrap();
            println!("{KILLS} plans that kill, by seed {SEED}");
            all_hold(runtime, world, &plans)
        }),
        trial("plans_that_found_bugs", |runtime, world| {
            let plans: Vec<Plan> = REGRESSIONS.iter().map(|line| line.parse().unwrap()).collect();
            all_strike_and_hold(runtime, world, &plans)
        }),
        trial("deliberate_bugs_are_caught", deliberate_bugs_are_caught),
    ];
    // One after the other: each keeps the machine busy.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(world);
    conclusion.exit_code()
}

/// A plan whose faults never strike proves nothing.
fn all_strike_and_hold(runtime: &Runtime, world: &World, plans: &[Plan]) -> Result<(), Failed> {
    let reports: Vec<_> = runtime.block_on(world.run_all(plans, WIDTH).collect());
    let idle = reports.iter().filter(|report| report.not_struck > 0);
    let idle: Vec<_> = idle.map(|report| format!("{}  its fault never struck", report.plan)).collect();
    no_violations(&reports)?;
    if idle.is_empty() { Ok(()) } else { Err(idle.join("\n").into()) }
}

fn all_hold(runtime: &Runtime, world: &World, plans: &[Plan]) -> Result<(), Failed> {
    let reports: Vec<_> = runtime.block_on(world.run_all(plans, WIDTH).collect());
    let idle = reports.iter().filter(|report| report.not_struck > 0).count();
    println!("{} plans, {idle} of them with a fault that had no occasion to strike", reports.len());
    no_violations(&reports)
}

fn no_violations(reports: &[Report]) -> Result<(), Failed> {
    let failed: Vec<_> = reports
        .iter()
        .flat_map(|report| {
            report.violations.iter().map(move |violation| format!("{}  {violation}", report.plan))
        })
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}

fn deliberate_bugs_are_caught(runtime: &Runtime, world: &World) -> Result<(), Failed> {
    let runs = stream::iter(Bug::ALL).map(async |(bug, line, law)| {
        let plan = Bug::plan(line);
        let undisturbed = world.undisturbed(&plan.scenario).await.unwrap();
        let report = run::run(world, &plan, Some(bug), Some(&undisturbed)).await;
        let breaks = |violation: &&Violation| law.split(' ').any(|law| law == violation.law);
        let caught = report.violations.iter().find(breaks);
        if report.not_struck > 0 {
            return Some(format!("{bug:?} under {line:?}: a fault never struck"));
        }
        match caught {
            Some(violation) => {
                println!("{bug:?}  {line}  {violation}");
                None
            }
            None => Some(format!("{bug:?} under {line:?} should break {law}, but: {:?}", report.violations)),
        }
    });
    let missed: Vec<_> = runtime.block_on(runs.buffer_unordered(WIDTH).collect());
    let missed: Vec<_> = missed.into_iter().flatten().collect();
    if missed.is_empty() { Ok(()) } else { Err(missed.join("\n").into()) }
}
