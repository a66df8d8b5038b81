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
//! a machine, from the Go modules under `go/`, which pin their versions. Whoever wants another version of Kubernetes names the
//! folder of its kube-apiserver and kube-controller-manager by `$CONTROL_PLANE_KUBERNETES`.
//!
//! Nothing runs a pod, unless a [`Kubelet`] is started on it.
//!
//! Knows nothing of the operator that is tested on it.

mod audit;
mod certificates;
mod error;
mod identity;
mod kubelet;
mod namespaced;
mod part;
mod programs;
mod start;
mod wait;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client, core::params::PostParams};
use rustix::process::Signal;

pub use self::{
    audit::{AuditEvent, AuditObject, AuditStatus, AuditTail, AuditUser},
    error::Error,
    identity::Identity,
    kubelet::Kubelet,
    namespaced::Namespaced,
    start::Builder,
};
use self::{
    certificates::Authority,
    error::file,
    kubelet::leash::{Leash, Leashes},
    part::{Janitor, Process},
    programs::Programs,
};

/// The parts of a control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    manager_url: String,
    authority: Authority,
    admin: Identity,
    // Dropped in this order: who writes goes before what is written to, and the folder last.
    leashes: Leashes,
    controller_manager: Process,
    api_server: Process,
    etcd: Process,
    janitor: Janitor,
}

impl ControlPlane {
    /// Starts a control plane and waits until it serves. Takes a few seconds, and some minutes the first time on a
    /// machine where the programs have to be built; then a progress line on standard error says so.
    ///
    /// # Errors
    /// When the programs are missing and cannot be built, or one of them does not get ready.
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// For a control plane that differs from the usual one.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Waits until the API server serves and the controller manager works.
    async fn ready(&self) -> Result<(), Error> {
        let client = self.admin.client()?;
        let processes = [&self.etcd, &self.api_server, &self.controller_manager];
        let serves = || says_ok(&client, "/readyz");
        wait::until(&self.directory, &processes, Part::ApiServer, serves).await?;
        let manager = self.admin.client_of(&self.manager_url)?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        let works = || async { says_ok(&manager, "/healthz").await && accounts.get("default").await.is_ok() };
        wait::until(&self.directory, &processes, Part::ControllerManager, works).await
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
        let spec = TokenRequestSpec { expiration_seconds: Some(24 * 60 * 60), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let minted = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let minted = minted.map_err(|source| Error::Client { what: what(), source: Box::new(source) })?;
        let token = minted.status.map(|status| status.token).unwrap_or_default();
        Identity::with_token(&self.directory, &self.server, &format!("{namespace}-{name}"), &token)
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
    /// left out; of deletions and new bindings the body is there.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn audit_log(&self) -> Result<Vec<AuditEvent>, Error> {
        self.audit_tail().read()
    }

    /// The audit log, to be read bit by bit.
    #[must_use]
    pub fn audit_tail(&self) -> AuditTail {
        AuditTail::new(self.directory.join("audit.log"))
    }

    /// What holds the processes of a kubelet.
    fn leash(&self) -> Result<Arc<Leash>, Error> {
        Ok(self.leashes.add(Leash::new(&self.janitor)?))
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
        [Part::Etcd, Part::ApiServer, Part::ControllerManager].map(|part| self.process(part).id()).to_vec()
    }

    /// Halts a part where it stands (SIGSTOP): its connections stay open and nothing answers.
    ///
    /// # Errors
    /// When the part has ended.
    pub fn pause(&self, part: Part) -> Result<(), Error> {
        self.process(part).signal(Signal::STOP)
    }

    /// Lets a paused part go on.
    ///
    /// # Errors
    /// When the part has ended.
    pub fn resume(&self, part: Part) -> Result<(), Error> {
        self.process(part).signal(Signal::CONT)
    }

    /// Kills a part (SIGKILL). It stays away until [`ControlPlane::restart`].
    ///
    /// # Errors
    /// When the part has ended.
    pub fn kill(&self, part: Part) -> Result<(), Error> {
        self.process(part).signal(Signal::KILL)
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
        process.restart(&self.janitor)?;
        self.ready().await
    }
}

fn write(path: &Path, content: &str) -> Result<(), Error> {
    fs::write(path, content).map_err(file(format!("write {}", path.display())))
}

async fn says_ok(client: &Client, path: &str) -> bool {
    match http::Request::get(path).body(Vec::new()) {
        Ok(request) => client.request_text(request).await.is_ok(),
        Err(_) => false,
    }
}
