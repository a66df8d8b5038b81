//! One core for the server that is measured, the others for all else.

use std::{
    fs, io,
    process::{self, Child, Command},
    thread,
};

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// While it lives, the benches and the control plane stay off the first core; then they may go anywhere again.
pub struct Cores {
    all: CpuSet,
    first: CpuSet,
    others: Vec<u32>,
}

impl Cores {
    /// Keeps the benches and these processes off the first core. With one core alone there is nothing to divide.
    pub fn divide(others: &[u32]) -> Self {
        let all = sched_getaffinity(None).unwrap();
        let (mut first, mut rest) = (CpuSet::new(), all);
        let number = (0..CpuSet::MAX_CPU).find(|core| all.is_set(*core)).unwrap_or_default();
        first.set(number);
        if all.count() > 1 {
            rest.unset(number);
        } else {
            eprintln!("there is one core alone: server and load share it, and the figures say little");
        }
        let others = others.iter().copied().chain([process::id()]).collect();
        let cores = Self { all, first, others };
        cores.move_to(&rest);
        cores
    }

    /// Starts a program that has the first core, and knows of no other: so it has as many threads as one core wants.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        thread::scope(|scope| {
            let spawn = scope.spawn(|| {
                // What a thread may use, its children may.
                sched_setaffinity(None, &self.first)?;
                command.spawn()
            });
            spawn.join().unwrap()
        })
    }

    fn move_to(&self, cores: &CpuSet) {
        for process in &self.others {
            let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
            for thread in threads {
                let id = thread.file_name().to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
                // A thread may have ended since.
                let _ = sched_setaffinity(id, cores);
            }
        }
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        self.move_to(&self.all);
    }
}
