//! Tokens by the thousand that stay, and what a restart and one more cost beside them.

use std::ops::Range;

use crate::{
    Arguments, Bench,
    floor::Floor,
    growth::{self, Growth},
    load::{self, FAR},
    operator::Operator,
    restart::{self, Restart},
    world::{Space, World},
};

/// How many tokens are created at a time to fill it.
const FILLERS: usize = 64;

/// A namespace whose tokens stay.
pub struct Population {
    pub space: Space,
    pub size: usize,
}

impl Population {
    /// The numbers of the next tokens, which from now on are there.
    pub fn next(&mut self, count: usize) -> Range<usize> {
        self.size += count;
        self.size - count..self.size
    }

    /// Has tokens issued until there are `size`, and waits until the operator has nothing left to do.
    async fn grow(&mut self, world: &World, size: usize) {
        let operator = world.working_operator().await;
        let missing = self.next(size.saturating_sub(self.size));
        load::create(&self.space, missing, FILLERS, FAR, |_| {}).await;
        self.space.counted(self.size).await;
        drop::<Operator>(operator);
    }
}

/// Runs `restart`, `growth`, or both on the same tokens.
pub async fn run(world: &World, arguments: &Arguments, benches: &[Bench]) {
    let floor = Floor::learn(world).await;
    let mut population = Population { space: world.space("many").await, size: 0 };
    let (mut restarts, mut growths): (Vec<Restart>, Vec<Growth>) = (Vec::new(), Vec::new());
    let mut sizes = arguments.tokens_or(&[1_000, 10_000]);
    sizes.sort_unstable();
    for size in sizes {
        population.grow(world, size).await;
        if benches.contains(&Bench::Restart) {
            restarts.push(restart::measure(world, &floor, &mut population).await);
        }
        if benches.contains(&Bench::Growth) {
            growths.push(growth::measure(world, &floor, &mut population).await);
        }
    }
    if !restarts.is_empty() {
        restart::print(&restarts);
    }
    if !growths.is_empty() {
        growth::print(&growths);
    }
}
