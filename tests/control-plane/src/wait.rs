//! Waiting for parts, and telling why one did not come.
//!
//! Knows nothing of what is waited for.

use std::{fs, path::Path, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{Error, Part, part::Process};

const READY_WITHIN: Duration = Duration::from_mins(1);

/// Waits until the check holds. Fails when one of the processes ends, or at the deadline, which is laid at the door of
/// `part`.
pub(crate) async fn until<F: Future<Output = bool>>(
    directory: &Path,
    processes: &[&Process],
    part: Part,
    check: impl Fn() -> F,
) -> Result<(), Error> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        // A check that hangs must not outlast the deadline.
        if timeout(Duration::from_secs(5), check()).await == Ok(true) {
            return Ok(());
        }
        let ended = processes.iter().find(|process| process.ended());
        let late = (Instant::now() > deadline).then_some(part);
        if let Some(part) = ended.map(|process| process.part()).or(late) {
            let log = log_end(directory, part);
            return Err(Error::NotReady { part, log });
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn log_end(directory: &Path, part: Part) -> String {
    let log = fs::read(directory.join(format!("{part}.log"))).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
