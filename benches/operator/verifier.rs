//! The verifier as it is shipped: its binary, a process of its own, with the rights of deploy/verifier.yaml.

pub mod constant;
pub mod cores;
pub mod memory;
pub mod speed;
pub mod values;
pub mod visible;
pub mod wire;

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, api::PostParams};
use tokio::time::{Instant, sleep};

use self::wire::Connection;
use crate::world::{DEADLINE, OPERATOR_NAMESPACE, World, apply};

/// The rights of the verifier, and a service that may introspect.
const RIGHTS: [&str; 3] = [
    include_str!("../../deploy/verifier.yaml"),
    include_str!("../../deploy/verifier-introspection/rights.yaml"),
    r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: service, namespace: credential-operator}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: introspect}
rules: [{nonResourceURLs: [/introspect], verbs: [create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: introspect}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: introspect}
subjects: [{kind: ServiceAccount, name: service, namespace: credential-operator}]
",
];

/// Gives the verifier and the service their rights.
pub async fn install(world: &World) {
    for document in RIGHTS.into_iter().flat_map(|documents| documents.split("\n---\n")) {
        apply(&world.admin, serde_yaml_ng::from_str(document).unwrap()).await;
    }
}

/// The token of the service that may introspect.
pub async fn caller(world: &World) -> String {
    use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
    let accounts: Api<ServiceAccount> = Api::namespaced(world.admin.clone(), OPERATOR_NAMESPACE);
    let spec = TokenRequestSpec { expiration_seconds: Some(24 * 60 * 60), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    accounts
        .create_token_request("service", &PostParams::default(), &request)
        .await
        .unwrap()
        .status
        .unwrap()
        .token
}

/// A server that is measured, a process of its own. It is killed when it is dropped.
pub struct Server {
    process: Child,
    pub address: SocketAddr,
}

impl Server {
    /// The verifier, started by `spawn`. It is ready as soon as it knows `tokens` tokens.
    pub async fn verifier(
        world: &World,
        tokens: usize,
        spawn: impl FnOnce(Command) -> io::Result<Child>,
    ) -> Self {
        let identity = world.service_account("credential-operator-verifier").await;
        let [address, health] = [free_address(), free_address()];
        let mut command = Command::new(env!("CARGO_BIN_EXE_credential-operator"));
        command
            .args(["verifier", "--introspection"])
            .args(["--listen", &address.to_string(), "--health-listen", &health.to_string()])
            .env("KUBECONFIG", identity.kubeconfig())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(world.directory().join("verifier.log")).unwrap());
        let server = Self { process: spawn(command).unwrap(), address };
        let line = format!("credential_operator_verifier_tokens {tokens}\n");
        until(|| async {
            answer(health, "/readyz").await.is_some_and(|told| told.contains(" 200 OK"))
                && answer(health, "/metrics").await.is_some_and(|told| told.contains(&line))
        })
        .await;
        server
    }

    /// A bare server that answers a constant, started by `spawn`.
    pub async fn constant(
        answers: &constant::Answers,
        spawn: impl FnOnce(Command) -> io::Result<Child>,
    ) -> Self {
        let address = free_address();
        let answers = serde_json::to_string(answers).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--listen", &address.to_string(), "--answers", &answers]).stdin(Stdio::null());
        let server = Self { process: spawn(command).unwrap(), address };
        until(|| async { Connection::open(address).await.is_ok() }).await;
        server
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn until<F: Future<Output = bool>>(reached: impl Fn() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !reached().await {
        assert!(Instant::now() < deadline, "the server does not get ready");
        sleep(Duration::from_millis(20)).await;
    }
}

pub async fn answer(address: SocketAddr, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: v\r\n\r\n");
    let mut connection = Connection::open(address).await.ok()?;
    let answer = connection.ask(request.as_bytes()).await.ok()?;
    Some(String::from_utf8_lossy(answer).into_owned())
}

/// An address that nobody listens on. Whoever else takes a port meanwhile is given another one.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
