//! The operator as it is shipped: its binary, a process of its own, with the rights of deploy/controller.yaml.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use control_plane::Identity;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::{
    measure::{Memory, memory},
    verifier::{answer, free_address},
};

/// How many objects the operator works on at a time, and so the floor too.
pub const WORKERS: usize = 32;

/// The operator is killed if it takes longer to stop.
const STOPPED_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// A running operator. It is stopped when it is dropped, and releases the lease: the next one leads at once.
pub struct Operator {
    process: Child,
    log: PathBuf,
    health: SocketAddr,
    pub started_at: Instant,
}

impl Operator {
    pub fn start(identity: &Identity, directory: &Path) -> Self {
        let log = directory.join("operator.log");
        let (started_at, health) = (Instant::now(), free_address());
        let process = Command::new(env!("CARGO_BIN_EXE_credential-operator"))
            .args(["controller", "--health-listen", &health.to_string()])
            .env("KUBECONFIG", identity.kubeconfig())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { process, log, health, started_at }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it answers to a request for its health or its metrics, once it listens.
    pub async fn ask(&self, path: &str) -> Option<String> {
        answer(self.health, path).await
    }

    pub fn memory(&self) -> Memory {
        memory(self.id())
    }

    /// How many lines of WARN and worse it wrote; a run without trouble has none.
    pub fn warnings(&self) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR ")).count()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let ended = self.process.try_wait().ok().flatten();
        let warnings = self.warnings();
        if ended.is_some() || warnings > 0 || std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(5)..];
            eprintln!(
                "the operator warned {warnings} times; ended: {ended:?}; its last lines:\n{}",
                last.join("\n")
            );
        }
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let deadline = Instant::now() + STOPPED_WITHIN;
        while self.process.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() >= deadline {
                let _ = self.process.kill();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
