//! Figures: quantiles, CPU time and memory.

use std::{fs, process, time::Duration};

/// The median, or any other quantile, of what need not be sorted.
pub fn quantile(values: &[Duration], quantile: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a few thousand"
    )]
    let index = (last as f64 * quantile).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<_> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(sorted[half - 1], sorted[half]),
        _ => sorted[half],
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers far below 2^52")]
pub fn float(number: usize) -> f64 {
    number as f64
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// CPU time, in seconds, of all that takes part.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub etcd: f64,
    pub api_server: f64,
    pub operator: f64,
    /// The benches themselves: who creates, who looks on, and the floor.
    pub bench: f64,
}

impl std::ops::Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            etcd: self.etcd - before.etcd,
            api_server: self.api_server - before.api_server,
            operator: self.operator - before.operator,
            bench: self.bench - before.bench,
        }
    }
}

/// The processes whose CPU time is counted.
pub struct Processes {
    etcd: u32,
    api_server: u32,
    operator: Option<u32>,
}

impl Processes {
    /// Of the parts of a control plane in their order, and an operator.
    pub fn new(parts: &[u32], operator: Option<u32>) -> Self {
        Self { etcd: parts[0], api_server: parts[1], operator }
    }

    pub fn cpu(&self) -> Cpu {
        Cpu {
            etcd: cpu_seconds(self.etcd),
            api_server: cpu_seconds(self.api_server),
            operator: self.operator.map(cpu_seconds).unwrap_or_default(),
            bench: cpu_seconds(process::id()),
        }
    }
}

/// User and system time so far, from /proc/PID/stat (proc(5)), which counts in hundredths of a second.
pub fn cpu_seconds(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name of the program is in brackets and may hold anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok());
    f64::from(ticks.sum::<u32>()) / 100.0
}

/// Resident memory in KiB.
#[derive(Clone, Copy)]
pub struct Memory {
    pub peak: f64,
    pub now: f64,
}

pub fn memory(process: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
    };
    Memory { peak: kib("VmHWM:"), now: kib("VmRSS:") }
}
