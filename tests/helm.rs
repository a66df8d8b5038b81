//! Helm installs, upgrades and uninstalls credentials by the rights of whoever runs it, under the admission policies. It is no
//! part of `cargo test`; tests/external/install builds it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use control_plane::{ControlPlane, Identity};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Generous: it only has to tell a hang from work. Garbage collection looks for new kinds of owners every 30 seconds.
const DEADLINE: Duration = Duration::from_mins(2);
const WAIT: [&str; 2] = ["--wait", "--timeout=120s"];

const CHART: &str = "{apiVersion: v2, name: shop, version: 0.1.0}\n";
const VALUES: &str =
    "roles: [{kind: ClusterRole, name: view}]\nprotected: false\ntoken: true\ndescription: the shop\n";
const TEMPLATE: &str = "
apiVersion: credential-operator.io/v1alpha1
kind: Credential
metadata: {name: shop}
spec:
  description: {{ .Values.description }}
  type: ClientSecret
  roles: {{ .Values.roles | toJson }}
  deletionProtection: {{ .Values.protected }}
{{- if .Values.token }}
---
apiVersion: credential-operator.io/v1alpha1
kind: ApiToken
metadata: {name: shop}
spec: {credentialRef: {name: shop}, expiresIn: 30d}
{{- end }}
";

/// Whom a namespace is given to, by Kubernetes' own roles.
const PEOPLE: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: jane, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: jane}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: joe, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: joe}]
";

/// The operator, killed when it is dropped.
struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct World {
    control_plane: ControlPlane,
    folder: TempDir,
    _operator: Operator,
}

impl World {
    async fn start() -> Self {
        let control_plane = ControlPlane::start().await.unwrap();
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("templates")).unwrap();
        for (name, text) in
            [("Chart.yaml", CHART), ("values.yaml", VALUES), ("templates/shop.yaml", TEMPLATE)]
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let kubectl = control_plane.kubectl().unwrap();
        let admin = control_plane.admin().kubeconfig().to_owned();
        let deployed = ["deploy/namespace.yaml", "deploy/controller.yaml", "deploy/roles.yaml"];
        for path in [["-k", "crds"]].into_iter().chain(deployed.map(|path| ["-f", path])) {
            run(&kubectl, &admin, &[&["apply", "--server-side"], &path[..]].concat(), "").unwrap();
        }
        run(&kubectl, &admin, &["wait", "--for=condition=Established", "crd", "--all"], "").unwrap();
        run(&kubectl, &admin, &["apply", "-f", "-"], PEOPLE).unwrap();
        let account =
            control_plane.service_account("credential-operator", "credential-operator").await.unwrap();
        let operator = Command::new(env!("CARGO_BIN_EXE_credential-operator"))
            .args(["controller", "--health-listen", "127.0.0.1:0"])
            .env("KUBECONFIG", account.kubeconfig())
            .stdin(Stdio::null())
            .stdout(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let world = Self { control_plane, folder, _operator: Operator(operator) };
        // Roles are put together, and policies taken in, a moment after they are applied.
        let deadline = Instant::now() + DEADLINE;
        let jane = world.person("jane");
        let may = ["auth", "can-i", "issue", "credentials.credential-operator.io/shop", "-n", "shop"];
        while run(&kubectl, jane.kubeconfig(), &may, "").is_err() {
            assert!(Instant::now() < deadline, "an admin of the namespace may not issue");
            sleep(Duration::from_millis(100)).await;
        }
        world
    }

    fn person(&self, name: &str) -> Identity {
        self.control_plane.user(name, None).unwrap()
    }

    /// Installs the chart or upgrades it.
    fn install(&self, person: &Identity, rest: &[&str]) -> Result<String, String> {
        let chart = self.folder.path().display().to_string();
        helm(person, &[&["upgrade", "--install", "shop", &chart], rest].concat())
    }

    fn kubectl(&self, person: &Identity, arguments: &[&str]) -> Result<String, String> {
        let program: PathBuf = self.control_plane.kubectl().unwrap();
        run(&program, person.kubeconfig(), &[&["--namespace", "shop"], arguments].concat(), "")
    }
}

fn helm(person: &Identity, arguments: &[&str]) -> Result<String, String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/external/helm");
    assert!(program.is_file(), "{} is not there; see tests/external/install", program.display());
    run(&program, person.kubeconfig(), &[&["--namespace", "shop"], arguments].concat(), "")
}

/// What a program says; an error where it fails.
fn run(program: &Path, kubeconfig: &Path, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut process = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_does_what_its_user_may_do_and_no_more() {
    let world = World::start().await;
    let (jane, joe) = (world.person("jane"), world.person("joe"));

    // An editor of the namespace may neither grant a role nor have a value made.
    let refused = world.install(&joe, &[]).unwrap_err();
    assert!(refused.contains("user joe may not"), "{refused}");
    helm(&joe, &["uninstall", "shop"]).unwrap();
    world.install(&joe, &["--set", "token=false", "--set-json", "roles=[]"]).unwrap();
    helm(&joe, &["uninstall", "shop"]).unwrap();

    // An admin of the namespace may, and Helm waits until all of it is ready.
    world.install(&jane, &WAIT).unwrap();
    world.kubectl(&jane, &["get", "secret", "shop-token", "shop-credential"]).unwrap();
    world.install(&jane, &[&WAIT[..], &["--set", "description=more,protected=true"]].concat()).unwrap();
    let refused = world
        .install(&jane, &["--set-json", r#"roles=[{"kind":"ClusterRole","name":"view","clusterWide":true}]"#])
        .unwrap_err();
    assert!(refused.contains("clusterrolebindings in the whole cluster is missing"), "{refused}");
    // What was refused is not there, and what was there stays.
    let roles = world.kubectl(&jane, &["get", "credential", "shop", "-o", "jsonpath={.spec.roles}"]).unwrap();
    assert_eq!(roles, r#"[{"kind":"ClusterRole","name":"view"}]"#);

    helm(&jane, &["rollback", "shop"]).unwrap();
    let uninstalled = helm(&jane, &["uninstall", "shop"]);
    assert!(uninstalled.is_err(), "a protected credential went: {uninstalled:?}");
    let confirmed = ["annotate", "credential", "shop", "credential-operator.io/confirm-delete=shop"];
    world.kubectl(&jane, &confirmed).unwrap();
    helm(&jane, &[&["uninstall", "shop"], &WAIT[..]].concat()).unwrap();
    // What Helm waits for is what the chart has; the Secrets and the account go after it.
    let ours = ["secret,serviceaccount", "-l", "app.kubernetes.io/managed-by=credential-operator"];
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = world.kubectl(&jane, &[&["get"], &ours[..]].concat()).unwrap();
        if left.contains("No resources found") {
            break;
        }
        assert!(Instant::now() < deadline, "{left}");
        sleep(Duration::from_millis(100)).await;
    }
    let left = world.kubectl(&jane, &["get", "credential,apitoken"]).unwrap();
    assert!(left.contains("No resources found"), "{left}");
}
