//! How the parts are started: with which arguments, in which order.
//!
//! Knows nothing of what is done to a control plane that runs.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
};

use crate::{
    ControlPlane, Error, Identity, Part,
    certificates::{self, Authority, Pair},
    file,
    kubelet::leash::Leashes,
    part::{Janitor, Process},
    programs::{self, Programs},
    wait, write,
};

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
- level: Request
  verbs: [create]
  resources: [{group: rbac.authorization.k8s.io, resources: [rolebindings, clusterrolebindings]}]
"#;
/// Of all else, that it was.
const AUDIT_THE_REST: &str = "- {level: Metadata}\n";

/// What is not as usual in a control plane.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    audited: String,
    api_server_arguments: Vec<String>,
}

impl Builder {
    /// What the audit log tells beside what it always does: more rules of an `audit.k8s.io/v1` `Policy`, as YAML. They
    /// come before the last one, by which everything else is told without its body.
    #[must_use]
    pub fn audit(mut self, rules: &str) -> Self {
        self.audited.push_str(rules);
        self
    }

    /// One more argument of kube-apiserver, such as `--enable-admission-plugins=AlwaysPullImages`. The last of several
    /// that set the same flag wins.
    #[must_use]
    pub fn api_server_arg(mut self, argument: impl Into<String>) -> Self {
        self.api_server_arguments.push(argument.into());
        self
    }

    /// Starts the control plane, as [`ControlPlane::start`] does.
    ///
    /// # Errors
    /// When the programs are missing and cannot be built, or one of them does not get ready.
    pub async fn start(self) -> Result<ControlPlane, Error> {
        // Another provider may be installed already; either will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let programs = tokio::task::spawn_blocking(programs::find).await.unwrap_or(Err(Error::NoPrograms))?;
        let mut attempt = 1;
        loop {
            match self.start_once(&programs).await {
                Err(Error::NotReady { log, .. })
                    if attempt < START_ATTEMPTS && log.contains("address already in use") =>
                {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_once(&self, programs: &Programs) -> Result<ControlPlane, Error> {
        let directory = tempfile::Builder::new()
            .prefix("control-plane-")
            .tempdir()
            .map_err(file("make a temporary folder"))?;
        let janitor = Janitor::new(directory.path())?;
        let directory = directory.keep();
        let ports = Ports::find()?;
        let authority = Authority::new()?;
        write(&directory.join("ca.crt"), &authority.certificate())?;
        write_pair(&directory, "server", &authority.server()?)?;
        write_pair(&directory, "accounts", &certificates::key_pair()?)?;
        let policy = [AUDIT_POLICY, &self.audited, AUDIT_THE_REST].concat();
        write(&directory.join("audit-policy.yaml"), &policy)?;
        let server = format!("https://127.0.0.1:{}", ports.api_server);
        let certified = |name, group| Identity::certified(&authority, &directory, &server, name, group);
        let admin = certified("admin", Some("system:masters"))?;
        let manager = certified("system:kube-controller-manager", None)?;

        let start = |part, program, arguments| Process::start(part, program, &directory, arguments, &janitor);
        let etcd = start(Part::Etcd, &programs.etcd, etcd(&directory, &ports))?;
        let mut arguments = api_server(&directory, &ports);
        arguments.extend_from_slice(&self.api_server_arguments);
        let api_server = start(Part::ApiServer, &programs.api_server, arguments)?;
        // The controller manager gives up when the API server is not healthy within 10 s, which on a busy machine it
        // would not be if both were started at once. To listen is nearly to be healthy.
        let listens = || async { TcpStream::connect((Ipv4Addr::LOCALHOST, ports.api_server)).is_ok() };
        wait::until(&directory, &[&etcd, &api_server], Part::ApiServer, listens).await?;
        let controller_manager = start(
            Part::ControllerManager,
            &programs.controller_manager,
            controller_manager(&directory, &ports, manager.kubeconfig()),
        )?;
        let control_plane = ControlPlane {
            programs: programs.clone(),
            manager_url: format!("https://127.0.0.1:{}", ports.controller_manager),
            directory,
            server,
            authority,
            admin,
            leashes: Leashes::default(),
            controller_manager,
            api_server,
            etcd,
            janitor,
        };
        control_plane.ready().await?;
        Ok(control_plane)
    }
}

fn etcd(directory: &Path, ports: &Ports) -> Vec<String> {
    let url = format!("http://127.0.0.1:{}", ports.etcd);
    vec![
        // Nothing here outlives a power cut, so nothing needs to wait for the disk.
        "--unsafe-no-fsync".to_owned(),
        format!("--data-dir={}", directory.join("etcd").display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls=http://127.0.0.1:{}", ports.etcd_peer),
        "--quota-backend-bytes=8589934592".to_owned(),
    ]
}

fn api_server(directory: &Path, ports: &Ports) -> Vec<String> {
    let path = |name: &str| directory.join(name).display().to_string();
    vec![
        format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd),
        "--bind-address=127.0.0.1".to_owned(),
        // Otherwise that of the default route, without which it would not start.
        "--advertise-address=127.0.0.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--secure-port={}", ports.api_server),
        format!("--tls-cert-file={}", path("server.crt")),
        format!("--tls-private-key-file={}", path("server.key")),
        format!("--client-ca-file={}", path("ca.crt")),
        "--authorization-mode=RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", path("accounts.crt")),
        format!("--service-account-signing-key-file={}", path("accounts.key")),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        format!("--cert-dir={}", path("certificates")),
        // Tests with thousands of objects are to be slowed down by their subject alone.
        "--max-requests-inflight=4000".to_owned(),
        "--max-mutating-requests-inflight=2000".to_owned(),
        format!("--audit-policy-file={}", path("audit-policy.yaml")),
        format!("--audit-log-path={}", path("audit.log")),
        // An answer that has arrived is in the log.
        "--audit-log-mode=blocking".to_owned(),
        // In MB. By default the log moves to another file after 100.
        "--audit-log-maxsize=100000".to_owned(),
    ]
}

fn controller_manager(directory: &Path, ports: &Ports, kubeconfig: &Path) -> Vec<String> {
    let path = |name: &str| directory.join(name).display().to_string();
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--service-account-private-key-file={}", path("accounts.key")),
        format!("--root-ca-file={}", path("ca.crt")),
        "--use-service-account-credentials".to_owned(),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", ports.controller_manager),
        format!("--tls-cert-file={}", path("server.crt")),
        format!("--tls-private-key-file={}", path("server.key")),
        // Each controller has its own client, of 20 requests a second by default.
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=2000".to_owned(),
        // What is about nodes and clouds, which are not here.
        "--controllers=*,-nodeipam,-nodelifecycle,-cloud-node-lifecycle,-service-lb-controller,\
         -node-route-controller,-attachdetach"
            .to_owned(),
    ]
}

fn write_pair(directory: &Path, name: &str, pair: &Pair) -> Result<(), Error> {
    write(&directory.join(format!("{name}.crt")), &pair.public)?;
    write(&directory.join(format!("{name}.key")), &pair.private)
}

/// Ports that nobody listens on.
struct Ports {
    etcd: u16,
    etcd_peer: u16,
    api_server: u16,
    controller_manager: u16,
}

impl Ports {
    fn find() -> Result<Self, Error> {
        let failed = || file("find a free port");
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed());
        // All are held until all are found, so that none is found twice.
        let held = [free()?, free()?, free()?, free()?];
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        let number = |index: usize| port(&held[index]).map_err(failed());
        Ok(Self {
            etcd: number(0)?,
            etcd_peer: number(1)?,
            api_server: number(2)?,
            controller_manager: number(3)?,
        })
    }
}
