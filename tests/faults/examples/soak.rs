//! Runs plans by the hundred, and prints each that breaks a law as a line that replays it.
//!
//! ```console
//! $ cargo run --release --example soak -- --plans 600 --seed 1
//! $ cargo run --release --example soak -- --singles
//! $ cargo run --release --example soak -- --plan 'issue: kill-committed@create/secrets/t-token#1'
//! ```

use std::{collections::BTreeMap, fmt::Write, process::ExitCode, time::Duration};

use clap::Parser;
use faults::{plan::Plan, run::Report, sample, space::Outcome, world::World};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

/// Runs the operator through faults on a control plane of its own.
#[derive(Parser)]
struct Arguments {
    /// How many plans of one fault or two to draw.
    #[arg(long, default_value_t = 600)]
    plans: usize,
    /// What to draw them by.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run every plan of one fault at one write instead.
    #[arg(long)]
    singles: bool,
    /// Of these, run only those whose line contains this; given more than once, any of them.
    #[arg(long)]
    only: Vec<String>,
    /// Run this plan instead; may be given more than once.
    #[arg(long)]
    plan: Vec<Plan>,
    /// How many at a time, of those that no other run feels.
    #[arg(long, default_value_t = 8)]
    width: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(soak(&Arguments::parse())).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn soak(arguments: &Arguments) -> Outcome<bool> {
    let started = Instant::now();
    eprintln!("starting a control plane");
    let world = World::start().await?;
    eprintln!("running each scenario undisturbed");
    world.prepare(arguments.width).await?;
    let plans = if !arguments.plan.is_empty() {
        arguments.plan.clone()
    } else if arguments.singles {
        sample::singles(&world).await?
    } else {
        sample::draw(&world, arguments.plans, arguments.seed).await?
    };
    let asked = |plan: &Plan| {
        let line = plan.to_string();
        arguments.only.is_empty() || arguments.only.iter().any(|only| line.contains(only))
    };
    let plans: Vec<_> = plans.into_iter().filter(asked).collect();
    let bar = ProgressBar::new(plans.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    let mut reports = Vec::new();
    let mut runs = std::pin::pin!(world.run_all(&plans, arguments.width));
    while let Some(report) = runs.next().await {
        for violation in &report.violations {
            bar.suspend(|| println!("{}\n    {violation}", report.plan));
        }
        reports.push(report);
        bar.inc(1);
        if bar.is_hidden() && reports.len() % 100 == 0 {
            let (all, seconds) = (plans.len(), started.elapsed().as_secs_f32());
            eprintln!("{} of {all} after {seconds:.0} s", reports.len());
        }
    }
    bar.finish_and_clear();
    println!("{}", table(&reports));
    let failed = reports.iter().filter(|report| !report.violations.is_empty()).count();
    let idle = reports.iter().filter(|report| report.not_struck > 0).count();
    let slowest = reports.iter().map(|report| report.slowest_end).max().unwrap_or_default();
    println!(
        "{} plans in {:.0} s: {failed} with violations; {idle} with a fault that had no occasion to strike; \
         the slowest Secret was gone {:.1} s after its end",
        reports.len(),
        started.elapsed().as_secs_f32(),
        slowest.max(Duration::ZERO).as_secs_f32(),
    );
    Ok(failed == 0)
}

/// By scenario and fault: how many plans, and how many of them broke a law.
fn table(reports: &[Report]) -> String {
    let mut cells: BTreeMap<&str, BTreeMap<String, (usize, usize)>> = BTreeMap::new();
    for report in reports {
        let row = cells.entry(&report.plan.scenario).or_default();
        for injection in &report.plan.injections {
            let fault = injection.fault.to_string();
            let family = fault.split('-').next().unwrap_or_default().to_owned();
            let (all, bad) = row.entry(family).or_default();
            *all += 1;
            *bad += usize::from(!report.violations.is_empty());
        }
    }
    let mut faults: Vec<_> = cells.values().flat_map(BTreeMap::keys).cloned().collect();
    faults.sort();
    faults.dedup();
    let mut text = format!("{:<22}", "");
    for fault in &faults {
        let _ = write!(text, "{fault:>9}");
    }
    for (scenario, row) in cells {
        let _ = write!(text, "\n{scenario:<22}");
        for fault in &faults {
            let cell = row.get(fault).map_or_else(String::new, |(all, bad)| {
                if *bad == 0 { all.to_string() } else { format!("{bad}!/{all}") }
            });
            let _ = write!(text, "{cell:>9}");
        }
    }
    text
}
