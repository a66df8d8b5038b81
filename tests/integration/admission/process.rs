//! The operator as a process, with the account of deploy/controller.yaml.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use credential_operator::controller::election::LEASE;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::support::{DEADLINE, OPERATOR_NAMESPACE, World};

/// One of them, killed when it is dropped.
pub struct Process {
    child: Child,
    pub name: String,
    log: PathBuf,
}

impl Process {
    /// A controller, once it is ready, also while another leads.
    pub async fn controller(world: &World, name: &str) -> Self {
        let process =
            Self::start(world, name, &["controller", "--identity", name, "--health-listen", "127.0.0.1:0"])
                .await;
        process.until_ready().await;
        process
    }

    /// A verifier, once it is ready.
    pub async fn verifier(world: &World, name: &str) -> Self {
        let listen = ["verifier", "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"];
        let process = Self::start(world, name, &listen).await;
        process.until_ready().await;
        process
    }

    async fn until_ready(&self) {
        let deadline = Instant::now() + DEADLINE;
        while self.ask("/readyz").await.is_none_or(|answer| !answer.starts_with("HTTP/1.1 200")) {
            assert!(Instant::now() < deadline, "{} is not ready: {}", self.name, self.log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn start(world: &World, name: &str, arguments: &[&str]) -> Self {
        let account = world.control_plane.service_account(OPERATOR_NAMESPACE, "credential-operator").await;
        let log = world.control_plane.directory().join(format!("{name}.log"));
        let file = File::create(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_credential-operator"))
            .args(arguments)
            .args(["--log-format", "json"])
            .env("KUBECONFIG", account.unwrap().kubeconfig())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, name: name.to_owned(), log }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// What it answers, once it has said where.
    pub async fn ask(&self, path: &str) -> Option<String> {
        let log = self.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let place = lines.find_map(|line| Some(line["fields"]["health"].as_str()?.to_owned()))?;
        let mut stream = TcpStream::connect(place).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.ok()?;
        Some(said)
    }

    /// What Prometheus is told of it, by this name; 0 of what was never counted.
    pub async fn metric(&self, name: &str) -> f64 {
        let said = self.ask("/metrics").await.unwrap();
        let value = said
            .lines()
            .find_map(|line| line.strip_prefix(&format!("credential_operator_controller_{name} ")));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// The sum of all values of a metric, whatever the other labels.
    pub async fn metric_of(&self, name: &str, label: &str) -> f64 {
        let answer = self.ask("/metrics").await.unwrap_or_default();
        let start = format!("credential_operator_controller_{name}{{");
        let lines = answer.lines().filter(|line| line.starts_with(&start) && line.contains(label));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// The most resident memory that it has had so far, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lease, once that process holds it.
pub async fn led_by(world: &World, name: &str) -> Lease {
    let leases: Api<Lease> = Api::namespaced(world.admin.clone(), OPERATOR_NAMESPACE);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let lease = leases.get_opt(LEASE).await.ok().flatten();
        let holder = lease.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
        if holder.as_ref().is_some_and(|holder| holder.starts_with(&format!("{name}_"))) {
            return lease.unwrap();
        }
        assert!(Instant::now() < deadline, "{holder:?} holds the lease, and not {name}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until it says so itself, and that it may make something new.
pub async fn until_it_leads(process: &Process) {
    let deadline = Instant::now() + DEADLINE;
    while process.metric("leading").await < 1.0 || process.metric("admission_in_force").await < 1.0 {
        assert!(Instant::now() < deadline, "{} does not work", process.name);
        sleep(Duration::from_millis(50)).await;
    }
    let done = r#"reconciles_total{kind="Credential",result="done"}"#;
    while process.metric(done).await < 1.0 {
        assert!(Instant::now() < deadline, "{} does nothing", process.name);
        sleep(Duration::from_millis(50)).await;
    }
}
