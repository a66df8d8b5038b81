//! Which plans there are, and samples of them.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    plan::{At, Fault, Injection, Plan, Request},
    scenario,
    space::Outcome,
    world::World,
};

/// The places in a scenario where a fault can strike: its writes when nothing goes wrong. Of objects that differ by a
/// number alone (`t0`, `t1`, ...) the first stands for all.
///
/// # Errors
/// When the scenario goes wrong undisturbed.
pub async fn places(world: &World, scenario: &str) -> Outcome<Vec<At>> {
    let undisturbed = world.undisturbed(scenario).await?;
    let mut count: BTreeMap<&Request, usize> = BTreeMap::new();
    let mut alike = BTreeSet::new();
    let mut places = Vec::new();
    for write in &undisturbed.writes {
        let nth = count.entry(write).or_default();
        *nth += 1;
        let class =
            (&write.verb, &write.resource, write.name.replace(|c: char| c.is_ascii_digit(), ""), *nth);
        if alike.insert(class) {
            places.push(At::Request(write.clone(), *nth));
        }
    }
    Ok(places)
}

/// Every plan of one fault at one write, of every scenario.
///
/// # Errors
/// When a scenario goes wrong undisturbed.
pub async fn singles(world: &World) -> Outcome<Vec<Plan>> {
    let mut plans = Vec::new();
    for (scenario, _) in scenario::all() {
        for at in places(world, scenario).await? {
            let injection = |fault| Injection { fault, at: at.clone() };
            plans.extend(Fault::all().map(|fault| Plan::of(scenario, vec![injection(fault)])));
        }
    }
    Ok(plans)
}

/// That many plans of one fault or two, drawn by a seed. Two in three are pairs; a pair's second fault strikes while
/// the operator recovers from the first.
///
/// # Errors
/// When a scenario goes wrong undisturbed.
pub async fn draw(world: &World, count: usize, seed: u64) -> Outcome<Vec<Plan>> {
    let mut random = StdRng::seed_from_u64(seed);
    let scenarios: Vec<_> = scenario::all().map(|(name, _)| name).collect();
    let mut plans = Vec::with_capacity(count);
    for _ in 0..count {
        let scenario = scenarios.choose(&mut random).copied().unwrap_or_default();
        let places = places(world, scenario).await?;
        let Some(first) = places.choose(&mut random) else { continue };
        let mut injections = vec![Injection { fault: any(&mut random), at: first.clone() }];
        if random.random_ratio(2, 3) {
            let at = At::Number(random.random_range(1..=3));
            injections.push(Injection { fault: any(&mut random), at });
        }
        plans.push(Plan::of(scenario, injections));
    }
    Ok(plans)
}

/// That many plans that kill the operator at a write, and mostly again while it recovers, in the scenarios whose names begin
/// so; drawn by a seed.
///
/// # Errors
/// When a scenario goes wrong undisturbed.
pub async fn kills(world: &World, prefix: &str, count: usize, seed: u64) -> Outcome<Vec<Plan>> {
    let mut random = StdRng::seed_from_u64(seed);
    let scenarios: Vec<_> =
        scenario::all().map(|(name, _)| name).filter(|name| name.starts_with(prefix)).collect();
    let mut plans = Vec::with_capacity(count);
    while plans.len() < count {
        let scenario = scenarios.choose(&mut random).copied().unwrap_or_default();
        let places = places(world, scenario).await?;
        let mut kill =
            || [Fault::KillBefore, Fault::KillCommitted, Fault::KillAnswered].choose(&mut random).copied();
        let faults = [kill(), kill()].map(|fault| fault.unwrap_or(Fault::KillBefore));
        let Some(first) = places.choose(&mut random) else { continue };
        let mut injections = vec![Injection { fault: faults[0], at: first.clone() }];
        if random.random_ratio(2, 3) {
            injections.push(Injection { fault: faults[1], at: At::Number(random.random_range(1..=3)) });
        }
        plans.push(Plan::of(scenario, injections));
    }
    Ok(plans)
}

/// A part of `plans`, drawn by a seed.
#[must_use]
pub fn part(plans: &[Plan], count: usize, seed: u64) -> Vec<Plan> {
    let mut random = StdRng::seed_from_u64(seed);
    plans.sample(&mut random, count).cloned().collect()
}

/// Mostly faults of one request; those that every run feels are rare, since they need the control plane to themselves.
fn any(random: &mut impl Rng) -> Fault {
    let from: &[Fault] = match random.random_range(0..100) {
        0..4 => &Fault::OF_SHARED_PARTS,
        4..36 => &Fault::OF_SURROUNDINGS,
        _ => &Fault::OF_REQUESTS,
    };
    from.choose(random).copied().unwrap_or(Fault::KillBefore)
}
