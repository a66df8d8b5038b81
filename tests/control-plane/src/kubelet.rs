//! A small kubelet: it runs the containers of pods as processes of this machine, so that Deployments roll out, Jobs
//! complete and `helm --wait` waits for something.
//!
//! ```no_run
//! # async fn example(program: &str) -> Result<(), control_plane::Error> {
//! use control_plane::{ControlPlane, Kubelet};
//! let control_plane = ControlPlane::start().await?;
//! let kubelet = Kubelet::start(&control_plane, [("registry.example/app", program)]).await?;
//! // Pods whose image is registry.example/app, of whatever tag, run that program.
//! # Ok(()) }
//! ```
//!
//! As on a real node:
//! - commands, arguments and environment, with `$(NAME)`, Secrets, `ConfigMaps` and fields of the pod; init containers,
//!   restarts, back-off, exit codes;
//! - volumes of Secrets, `ConfigMaps`, fields, tokens, emptyDir and hostPath at the paths where they are mounted, renewed in place;
//! - the account's token, by which the in-cluster configuration of a client works;
//! - startup, readiness and liveness probes by HTTP, HTTPS, TCP and command;
//! - SIGTERM at deletion, after `preStop`, and SIGKILL at the end of the grace period;
//! - status and conditions of the pod.
//!
//! Otherwise than on a real node:
//! - An image is a program of this machine, and its entry point. A command of the same file name is that program; any
//!   other is looked for on this machine, whose files a container sees. What it writes outside of volumes stays there.
//! - The id of a container in its status is that of its process, as `process://1234`, for whoever wants to signal it.
//! - All pods share the network. Each has an address of its own, `status.podIP`, so two of them may listen on the same
//!   port if each binds to its own. There are no Services: nothing answers at a cluster IP or a name of the cluster's DNS.
//! - It schedules, too: every pod without a node is its own, whatever the pod asks for.
//! - A `securityContext` changes nothing: processes run as whoever runs the tests, or as root of a user namespace.
//!   Resources are neither reserved nor limited.
//! - Back-off is a tenth of a kubelet's, and an unknown image stays `ErrImagePull`.
//! - Not there: sidecars (init containers that go on), ephemeral containers, `postStart`, gRPC probes,
//!   `resourceFieldRef`, persistent volumes, events, `kubectl logs` and `exec`.
//!
//! It works in Linux alone, where the machine lets us make mount namespaces (root may, others by user namespaces).

mod action;
mod address;
mod container;
mod environment;
mod image;
pub(crate) mod leash;
mod machine;
mod payload;
mod pod;
mod probe;
mod problem;
mod report;
mod root;
mod status;
mod store;
mod token;
mod volumes;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use jiff::Timestamp;
use tokio::{runtime, sync::oneshot};

use self::{
    address::Addresses,
    image::Images,
    leash::Leash,
    machine::{HOST_ADDRESS, Machine},
    root::Isolation,
};
use crate::{ControlPlane, Error, Identity, file};

/// A node with its kubelet. Dropping it ends all that runs on it at once, and leaves its pods in the API as they are.
#[derive(Debug)]
pub struct Kubelet {
    leash: Arc<Leash>,
    folder: PathBuf,
}

impl Kubelet {
    /// Starts a node that runs these programs for these images, each given by its whole reference or by its repository.
    /// It has a thread of its own, so whoever has it may block. One at a time to a control plane.
    ///
    /// # Errors
    /// When this machine lets us make no mount namespaces, or the node cannot be registered.
    pub async fn start<I: Into<String>, P: Into<PathBuf>>(
        control_plane: &ControlPlane,
        images: impl IntoIterator<Item = (I, P)>,
    ) -> Result<Self, Error> {
        let folder = control_plane.directory().join("kubelet");
        fs::create_dir_all(&folder).map_err(file(format!("make {}", folder.display())))?;
        let start = Start {
            admin: control_plane.admin().clone(),
            folder: folder.clone(),
            images: Images::new(images),
            isolation: root::isolation().await?,
            leash: control_plane.leash()?,
        };
        let leash = start.leash.clone();
        let (ready, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("kubelet".to_owned()).spawn(|| start.run(ready, stopped));
        leash.bind(stop, thread.map_err(file("start the kubelet"))?);
        let kubelet = Self { leash, folder };
        started.await.unwrap_or_else(|_| Err(Error::KubeletEnded))?;
        Ok(kubelet)
    }

    /// What the runs of a container have written to its standard output and error so far; of pods of the same name
    /// together. Empty if none has run.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self, namespace: &str, pod: &str, container: &str) -> Result<String, Error> {
        let path = log(&self.folder, namespace, pod, container);
        match fs::read(&path) {
            Ok(log) => Ok(String::from_utf8_lossy(&log).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(file(format!("read {}", path.display()))(error)),
        }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.leash.let_go();
    }
}

/// What the thread of a kubelet starts with.
struct Start {
    admin: Identity,
    folder: PathBuf,
    images: Images,
    isolation: Isolation,
    leash: Arc<Leash>,
}

impl Start {
    fn run(self, ready: oneshot::Sender<Result<(), Error>>, stopped: oneshot::Receiver<()>) {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime.map_err(file("start the kubelet's runtime")) {
            Ok(runtime) => runtime,
            // Nobody listens any more, or hears why there will be no kubelet.
            Err(error) => return drop(ready.send(Err(error))),
        };
        runtime.block_on(async {
            let machine = match self.machine().await {
                Ok(machine) => machine,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            tokio::select! {
                () = Arc::new(machine).follow() => {}
                _ = stopped => {}
            }
        });
    }

    async fn machine(self) -> Result<Machine, Error> {
        let port = self.admin.config().cluster_url.port_u16().unwrap_or(443);
        let machine = Machine {
            client: self.admin.client()?,
            leash: self.leash,
            folder: self.folder,
            images: self.images,
            isolation: self.isolation,
            server: (HOST_ADDRESS.to_owned(), port.to_string()),
            addresses: Addresses::new(port),
        };
        let registered = machine.register().await;
        let what = || "register the node".to_owned();
        registered.map_err(|source| Error::Client { what: what(), source: Box::new(source) })?;
        Ok(machine)
    }
}

fn log(folder: &Path, namespace: &str, pod: &str, container: &str) -> PathBuf {
    folder.join("logs").join(namespace).join(pod).join(format!("{container}.log"))
}

/// The time to write into a status.
#[expect(clippy::disallowed_methods, reason = "a kubelet has the clock of its machine")]
fn wall_clock() -> Timestamp {
    Timestamp::now()
}
