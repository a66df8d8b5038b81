//! A real Kubernetes control plane for tests, examples and benches: etcd, kube-apiserver and
//! kube-controller-manager, started in a few seconds and gone without a trace when its user is, however it ends.
//!
//! ```no_run
//! # async fn example() -> Result<(), control_plane::Error> {
//! let control_plane = control_plane::ControlPlane::start().await?;
//! let client = control_plane.admin().client()?;
//! # Ok(()) }
//! ```
//!
//! The programs are looked for in `$KUBEBUILDER_ASSETS`, then in setup-envtest's store; otherwise they are built, once
//! a machine, from the Go modules under `go/`, which pin their versions.
//!
//! Knows nothing of the operator that is tested on it.

mod audit;
mod certificates;
mod identity;
mod part;
mod programs;

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, core::params::PostParams};
use thiserror::Error;
use tokio::time::Instant;

pub use self::{audit::AuditEvent, identity::Identity};
use self::{
    certificates::Authority,
    part::{Janitor, Process},
    programs::Programs,
};

const READY_WITHIN: Duration = Duration::from_mins(1);
/// How often a start is tried when another process takes a port that was free a moment before.
const START_ATTEMPTS: u32 = 3;

/// Less than everything: the control plane's own chatter would be most of the log.
const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ["system:masters"]}
- {level: None, users: ["system:apiserver", "system:kube-controller-manager", "system:anonymous"]}
- {level: None, userGroups: ["system:serviceaccounts:kube-system"]}
- {level: Request, verbs: [delete, deletecollection]}
- {level: Metadata}
"#;

/// Why there is no control plane.
#[derive(Debug, Error)]
pub enum Error {
    /// There are no programs, and nothing to build them with.
    #[error(
        "no etcd, kube-apiserver and kube-controller-manager here; either install Go 1.26 or newer (https://go.dev/dl), and \
         they are built, or set KUBEBUILDER_ASSETS to a folder that has all three"
    )]
    NoPrograms,
    /// The programs could not be built.
    #[error("could not build {what}:\n{output}")]
    Build {
        /// What was built.
        what: &'static str,
        /// The last lines of the compiler.
        output: String,
    },
    /// A file or folder of ours could not be used.
    #[error("could not {what}")]
    File {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A part did not start.
    #[error("{part} did not get ready; the end of its log:\n{log}")]
    NotReady {
        /// Which.
        part: Part,
        /// The last lines of its log.
        log: String,
    },
    /// A certificate could not be made.
    #[error("could not make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A client could not be made, or a request of ours failed.
    #[error("could not {what}")]
    Client {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// A kubeconfig of ours was not accepted.
    #[error("could not read a kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// A signal did not reach a part.
    #[error("could not signal {part}")]
    Signal {
        /// Which.
        part: Part,
        /// Why it failed.
        #[source]
        source: rustix::io::Errno,
    },
    /// A line of the audit log is not what it should be.
    #[error("could not read the audit log")]
    Audit(#[source] serde_json::Error),
}

pub(crate) fn file(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::File { what, source }
}

/// The parts of a control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The store.
    Etcd,
    /// The API server.
    ApiServer,
    /// Garbage collection, namespaces, service accounts and quotas.
    ControllerManager,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
        })
    }
}

/// A running control plane. Dropping it stops it.
#[derive(Debug)]
pub struct ControlPlane {
    programs: Programs,
    directory: PathBuf,
    server: String,
    authority: Authority,
    admin: Identity,
    // Dropped in this order: who writes goes before what is written to, and the folder last.
    controller_manager: Process,
    api_server: Process,
    etcd: Process,
    _janitor: Janitor,
}

impl ControlPlane {
    /// Starts a control plane and waits until it serves. Takes a few seconds, and some minutes the first time on a
    /// machine where the programs have to be built; then a progress line on standard error says so.
    ///
    /// # Errors
    /// When the programs are missing and cannot be built, or one of them does not get ready.
    pub async fn start() -> Result<Self, Error> {
        // Another provider may be installed already; either will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let programs = tokio::task::spawn_blocking(programs::find)
            .await
            .unwrap_or(Err(Error::NoPrograms))?;
        let mut attempt = 1;
        loop {
            match Self::start_once(&programs).await {
                Err(Error::NotReady { log, .. })
                    if attempt < START_ATTEMPTS && log.contains("address already in use") =>
                {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_once(programs: &Programs) -> Result<Self, Error> {
        let directory = tempfile::Builder::new()
            .prefix("control-plane-")
            .tempdir()
            .map_err(file("make a temporary folder"))?;
        let directory = directory.keep();
        let janitor = Janitor::new(&directory)?;
        let [etcd_port, peer_port, api_port, manager_port] = free_ports()?;
        let authority = Authority::new()?;
        write(&directory.join("ca.crt"), &authority.certificate())?;
        write_pair(&directory, "server", &authority.server()?)?;
        write_pair(&directory, "accounts", &certificates::key_pair()?)?;
        write(&directory.join("audit-policy.yaml"), AUDIT_POLICY)?;
        let server = format!("https://127.0.0.1:{api_port}");
        let admin = Identity::certified(&authority, &directory, &server, "admin", Some("system:masters"))?;
        let manager = Identity::certified(
            &authority,
            &directory,
            &server,
            "system:kube-controller-manager",
            None,
        )?;

        let path = |name: &str| directory.join(name).display().to_string();
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let etcd = Process::start(
            Part::Etcd,
            &programs.etcd,
            &directory,
            &[
                // Nothing here outlives a power cut, so nothing needs to wait for the disk.
                "--unsafe-no-fsync".to_owned(),
                format!("--data-dir={}", path("etcd")),
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
                "--quota-backend-bytes=8589934592".to_owned(),
            ],
        )?;
        let api_server = Process::start(
            Part::ApiServer,
            &programs.api_server,
            &directory,
            &[
                format!("--etcd-servers={etcd_url}"),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={api_port}"),
                format!("--tls-cert-file={}", path("server.crt")),
                format!("--tls-private-key-file={}", path("server.key")),
                format!("--client-ca-file={}", path("ca.crt")),
                "--authorization-mode=RBAC".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={}", path("accounts.crt")),
                format!("--service-account-signing-key-file={}", path("accounts.key")),
                "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
                format!("--cert-dir={}", path("certificates")),
                format!("--audit-policy-file={}", path("audit-policy.yaml")),
                format!("--audit-log-path={}", path("audit.log")),
            ],
        )?;
        let controller_manager = Process::start(Part::ControllerManager, &programs.controller_manager, &directory, &[
            format!("--kubeconfig={}", manager.kubeconfig().display()),
            format!("--service-account-private-key-file={}", path("accounts.key")),
            format!("--root-ca-file={}", path("ca.crt")),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={manager_port}"),
            format!("--cert-dir={}", path("certificates")),
            "--controllers=*,-nodeipam,-nodelifecycle,-cloud-node-lifecycle,-service-lb-controller,-node-route-controller,\
             -attachdetach"
                .to_owned(),
        ])?;
        let programs = programs.clone();
        let control_plane = Self {
            programs,
            directory,
            server,
            authority,
            admin,
            controller_manager,
            api_server,
            etcd,
            _janitor: janitor,
        };
        control_plane.ready().await?;
        Ok(control_plane)
    }

    /// Waits until the API server serves and the controller manager works.
    async fn ready(&self) -> Result<(), Error> {
        let client = self.admin.client()?;
        self.eventually(Part::ApiServer, || async {
            let Ok(ready) = http::Request::get("/readyz").body(Vec::new()) else {
                return false;
            };
            client.request_text(ready).await.is_ok()
        })
        .await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
        self.eventually(Part::ControllerManager, || async {
            accounts.get("default").await.is_ok()
        })
        .await
    }

    async fn eventually<F: Future<Output = bool>>(
        &self,
        part: Part,
        check: impl Fn() -> F,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            // A check that hangs must not outlast the deadline.
            if tokio::time::timeout(Duration::from_secs(5), check()).await == Ok(true) {
                return Ok(());
            }
            let ended = [&self.etcd, &self.api_server, &self.controller_manager]
                .into_iter()
                .find(|process| process.ended());
            if let Some(part) = ended
                .map(Process::part)
                .or((Instant::now() > deadline).then_some(part))
            {
                return Err(Error::NotReady {
                    part,
                    log: self.log_end(part),
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log_end(&self, part: Part) -> String {
        let log = fs::read_to_string(self.directory.join(format!("{part}.log"))).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The URL of the API server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The folder of this control plane: logs, certificates, kubeconfigs. It goes with the control plane.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Somebody who may do everything. Left out of the audit log.
    #[must_use]
    pub fn admin(&self) -> &Identity {
        &self.admin
    }

    /// A user of that name, in that group, by client certificate, with whatever rights RBAC gives them.
    ///
    /// # Errors
    /// When no certificate can be made or its files cannot be written.
    pub fn user(&self, name: &str, group: Option<&str>) -> Result<Identity, Error> {
        Identity::certified(&self.authority, &self.directory, &self.server, name, group)
    }

    /// A `ServiceAccount` that exists, by a token for a day.
    ///
    /// # Errors
    /// When the API server mints no token or a file cannot be written.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<Identity, Error> {
        use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
        let what = || format!("mint a token for ServiceAccount {namespace}/{name}");
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.client()?, namespace);
        let spec = TokenRequestSpec {
            expiration_seconds: Some(24 * 60 * 60),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest {
            spec,
            ..TokenRequest::default()
        };
        let minted = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await;
        let minted = minted.map_err(|source| Error::Client {
            what: what(),
            source: Box::new(source),
        })?;
        let token = minted.status.map(|status| status.token).unwrap_or_default();
        Identity::with_token(
            &self.directory,
            &self.server,
            &format!("{namespace}-{name}"),
            &token,
        )
    }

    /// A kubectl that fits the API server: the one on PATH if it is within one minor version, else one that came with
    /// the other programs.
    ///
    /// # Errors
    /// When there is neither.
    pub fn kubectl(&self) -> Result<PathBuf, Error> {
        self.programs.kubectl()
    }

    /// What the API server wrote down so far. Requests of [`ControlPlane::admin`] and of the control plane itself are
    /// left out; of deletions the body is there.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn audit_log(&self) -> Result<Vec<AuditEvent>, Error> {
        audit::read(&self.directory.join("audit.log"))
    }

    fn process(&self, part: Part) -> &Process {
        match part {
            Part::Etcd => &self.etcd,
            Part::ApiServer => &self.api_server,
            Part::ControllerManager => &self.controller_manager,
        }
    }

    /// The process ids of all parts.
    #[must_use]
    pub fn process_ids(&self) -> Vec<u32> {
        [Part::Etcd, Part::ApiServer, Part::ControllerManager]
            .map(|part| self.process(part).id())
            .to_vec()
    }

    /// Halts a part where it stands (SIGSTOP): its connections stay open and nothing answers.
    ///
    /// # Errors
    /// When the part has ended.
    pub fn pause(&self, part: Part) -> Result<(), Error> {
        self.process(part).signal(rustix::process::Signal::STOP)
    }

    /// Lets a paused part go on.
    ///
    /// # Errors
    /// When the part has ended.
    pub fn resume(&self, part: Part) -> Result<(), Error> {
        self.process(part).signal(rustix::process::Signal::CONT)
    }

    /// Kills a part, starts it again on the same port and data, and waits until all is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn restart(&mut self, part: Part) -> Result<(), Error> {
        let process = match part {
            Part::Etcd => &mut self.etcd,
            Part::ApiServer => &mut self.api_server,
            Part::ControllerManager => &mut self.controller_manager,
        };
        process.restart()?;
        self.ready().await
    }
}

fn write(path: &Path, content: &str) -> Result<(), Error> {
    fs::write(path, content).map_err(file(format!("write {}", path.display())))
}

fn write_pair(directory: &Path, name: &str, pair: &certificates::Pair) -> Result<(), Error> {
    write(&directory.join(format!("{name}.crt")), &pair.public)?;
    write(&directory.join(format!("{name}.key")), &pair.private)
}

/// Ports that nobody listens on. All are held until all are found, so that none is found twice.
fn free_ports<const N: usize>() -> Result<[u16; N], Error> {
    let mut ports = [0; N];
    let mut held = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(file("find a free port"))?;
        *port = listener.local_addr().map_err(file("find a free port"))?.port();
        held.push(listener);
    }
    Ok(ports)
}
