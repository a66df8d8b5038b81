//! The control plane, the controller and verifiers: the real programs, each by its own `ServiceAccount`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use control_plane::{ControlPlane, Identity};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use crate::{gateway::free_address, program::Program};

/// Generous: it only has to tell a hang from work.
pub const DEADLINE: Duration = Duration::from_mins(1);

const NAMESPACE: &str = "credential-operator";
const OPERATOR: &str = env!("CARGO_BIN_EXE_credential-operator");

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/verify").join(name)
}

/// All that the tests share.
pub struct World {
    control_plane: ControlPlane,
    kubectl: PathBuf,
    folder: TempDir,
    verifiers: Identity,
    controller: Program,
}

impl World {
    pub async fn start() -> Self {
        let control_plane = ControlPlane::start().await.unwrap();
        let kubectl = control_plane.kubectl().unwrap();
        let folder = TempDir::new().unwrap();
        let all = [
            ["-k", "crds"],
            ["-f", "deploy/namespace.yaml"],
            ["-f", "deploy/controller.yaml"],
            ["-f", "deploy/verifier.yaml"],
            ["-f", "deploy/verifier-introspection/rights.yaml"],
            ["-f", "examples/verify/may-introspect.yaml"],
        ];
        let kubeconfig = control_plane.admin().kubeconfig();
        for [option, path] in all {
            run(&kubectl, kubeconfig, &["apply", "--server-side", option, path], None).unwrap();
        }
        run(&kubectl, kubeconfig, &["wait", "--for=condition=Established", "crd", "--all"], None).unwrap();
        let operator = control_plane.service_account(NAMESPACE, "credential-operator").await.unwrap();
        let verifiers =
            control_plane.service_account(NAMESPACE, "credential-operator-verifier").await.unwrap();
        let environment = [("KUBECONFIG", operator.kubeconfig())];
        let log = folder.path().join("controller");
        let arguments = ["controller", "--health-listen", "127.0.0.1:0"].map(ToOwned::to_owned);
        let controller = Program::start(Path::new(OPERATOR), &arguments, &environment, log);
        let world = Self { control_plane, kubectl, folder, verifiers, controller };
        // The one namespace that a route of examples/verify names.
        world.orders("shop");
        world
    }

    /// What kubectl says to an administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        run(&self.kubectl, self.control_plane.admin().kubeconfig(), arguments, None)
            .unwrap_or_else(|said| panic!("kubectl {arguments:?}: {said}\n{}", self.controller.log()))
    }

    pub fn apply(&self, namespace: &str, yaml: &str) {
        let arguments = ["apply", "--server-side", "-n", namespace, "-f", "-"];
        run(&self.kubectl, self.control_plane.admin().kubeconfig(), &arguments, Some(yaml)).unwrap();
    }

    /// A namespace with the credential and the token of examples/verify, and the value of that token.
    pub fn orders(&self, namespace: &str) -> String {
        self.kubectl(&["create", "namespace", namespace]);
        self.apply(namespace, &fs::read_to_string(example("orders.yaml")).unwrap());
        self.value(namespace, "reports-nightly")
    }

    /// Another token of that credential.
    pub fn token(&self, namespace: &str, name: &str, spec: &str) -> String {
        let object = format!(
            "{{apiVersion: credential-operator.io/v1alpha1, kind: ApiToken, metadata: {{name: {name}}}, spec: {{credentialRef: {{name: reports}}, {spec}}}}}"
        );
        self.apply(namespace, &object);
        self.value(namespace, name)
    }

    fn value(&self, namespace: &str, token: &str) -> String {
        let active = "--for=jsonpath={.status.state}=Active";
        self.kubectl(&["wait", "-n", namespace, active, "--timeout=40s", &format!("atok/{token}")]);
        let template = "--template={{.data.token | base64decode}}";
        self.kubectl(&["get", "secret", "-n", namespace, &format!("{token}-token"), template])
    }

    pub fn object(&self, namespace: &str, name: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", "-n", namespace, "-o", "json", name])).unwrap()
    }

    /// A verifier by the routes of examples/verify.
    pub async fn verifier(&self) -> Verifier {
        self.verifier_by(self.verifiers.kubeconfig(), &[]).await
    }

    /// One that serves TLS, and introspection.
    pub async fn verifier_with_tls(&self) -> Verifier {
        let folder = TempDir::new_in(self.folder.path()).unwrap().keep();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of verifiers");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["verifier.example", "localhost"].map(str::to_owned);
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let certificate = write("tls.crt", certificate.pem());
        let key = write("tls.key", key.serialize_pem());
        write("ca.crt", authority.pem());
        let tls = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--introspection"];
        let mut verifier = self.verifier_by(self.verifiers.kubeconfig(), &tls).await;
        verifier.authority = Some(folder.join("ca.crt"));
        verifier
    }

    /// One that is strict about what it knows, and what lies between it and the API server.
    pub async fn strict_verifier(&self) -> (Verifier, Relay) {
        let server = self.control_plane.server();
        let target: SocketAddr = server.trim_start_matches("https://").parse().unwrap();
        let relay = Relay::start(free_address(), target).await;
        let text = fs::read_to_string(self.verifiers.kubeconfig()).unwrap();
        let kubeconfig = self.folder.path().join(format!("relayed-{}", relay.address.port()));
        fs::write(&kubeconfig, text.replace(server, &format!("https://{}", relay.address))).unwrap();
        (self.verifier_by(&kubeconfig, &["--max-staleness", "10s"]).await, relay)
    }

    async fn verifier_by(&self, kubeconfig: &Path, more: &[&str]) -> Verifier {
        let (address, health) = (free_address(), free_address());
        let mut arguments = ["verifier", "--stop-after", "0s", "--routes"].map(str::to_owned).to_vec();
        arguments.push(example("routes.yaml").display().to_string());
        arguments.extend(["--listen".to_owned(), address.to_string()]);
        arguments.extend(["--health-listen".to_owned(), health.to_string()]);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let log = self.folder.path().join(format!("verifier-{}", address.port()));
        let start = (arguments, kubeconfig.to_owned(), log);
        let mut verifier = Verifier { address, health, authority: None, start, program: None };
        verifier.start().await;
        verifier
    }

    /// What an example of a service that introspects says to a token, as the `ServiceAccount` of that name.
    pub fn introspect(
        &self,
        program: &str,
        verifier: &Verifier,
        account: &str,
        token: &str,
    ) -> Result<Value, String> {
        let minted = self.folder.path().join(account);
        fs::write(&minted, self.kubectl(&["create", "token", account])).unwrap();
        let mut command = Command::new(example(program));
        command
            .env("KUBERNETES_TOKEN", minted)
            .env("VERIFIER", format!("https://localhost:{}", verifier.address.port()))
            .env("VERIFIER_CA", verifier.authority.as_ref().unwrap());
        output(&mut command, Some(token)).map(|said| serde_json::from_str(&said).unwrap())
    }
}

fn run(kubectl: &Path, kubeconfig: &Path, arguments: &[&str], input: Option<&str>) -> Result<String, String> {
    let mut command = Command::new(kubectl);
    command.args(arguments).env("KUBECONFIG", kubeconfig).current_dir(env!("CARGO_MANIFEST_DIR"));
    // The user's cache of what API servers offer has no use for one that is gone in a minute.
    command.env("KUBECACHEDIR", kubeconfig.with_file_name("kubectl-cache"));
    output(&mut command, input)
}

fn output(command: &mut Command, input: Option<&str>) -> Result<String, String> {
    use std::io::Write;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    running.stdin.take().unwrap().write_all(input.unwrap_or_default().as_bytes()).unwrap();
    let output = running.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// A verifier that runs, or did.
pub struct Verifier {
    pub address: SocketAddr,
    /// Who vouches for its certificate, where it serves TLS.
    pub authority: Option<PathBuf>,
    health: SocketAddr,
    start: (Vec<String>, PathBuf, PathBuf),
    program: Option<Program>,
}

impl Verifier {
    /// Starts it, and waits until it is ready.
    pub async fn start(&mut self) {
        let (arguments, kubeconfig, log) = &self.start;
        let environment = [("KUBECONFIG", kubeconfig.as_path())];
        let program = Program::start(Path::new(OPERATOR), arguments, &environment, log.clone());
        let deadline = Instant::now() + DEADLINE;
        let caller = crate::service::Caller::new();
        loop {
            let request = http::Request::get(format!("http://{}/readyz", self.health));
            let answer = caller.send(request.body(http_body_util::Full::default()).unwrap(), false).await;
            if answer.is_some_and(|answer| answer.status == 200) {
                break;
            }
            assert!(Instant::now() < deadline, "the verifier is not ready: {}", program.log());
            sleep(Duration::from_millis(20)).await;
        }
        self.program = Some(program);
    }

    pub fn kill(&mut self) {
        self.program = None;
    }

    /// Halts it where it stands: its connections stay open, and nothing answers.
    pub fn pause(&self) {
        self.program.as_ref().unwrap().pause();
    }

    pub fn resume(&self) {
        self.program.as_ref().unwrap().signal("CONT");
    }
}

/// A way to the API server that can be cut.
pub struct Relay {
    address: SocketAddr,
    target: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    async fn start(address: SocketAddr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut far = TcpStream::connect(target).await?;
                    copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Self { address, target, task }
    }

    pub fn cut(&self) {
        self.task.abort();
    }

    pub async fn mend(&mut self) {
        *self = Self::start(self.address, self.target).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
