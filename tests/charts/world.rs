//! A control plane with a kubelet, and what is done to it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use control_plane::{ControlPlane, Kubelet};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    ACCOUNTS, CHART, CRDS, DEADLINE, HOME, SHOP, WAIT,
    deploy::IMAGE,
    helm::{program, run},
    rendered::documents,
};

/// A cluster on which nothing is installed.
pub struct World {
    pub control_plane: ControlPlane,
    pub kubelet: Kubelet,
    pub folder: TempDir,
    pub kubectl: PathBuf,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with([]).await
    }

    /// With more images than that of this version: references, and the programs that they stand for.
    pub async fn start_with(more: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        let control_plane = ControlPlane::start().await.unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_credential-operator"));
        let images = [HOME, IMAGE].map(|image| (image.to_owned(), program.clone()));
        let kubelet = Kubelet::start(&control_plane, more.into_iter().chain(images)).await.unwrap();
        let kubectl = control_plane.kubectl().unwrap();
        Self { control_plane, kubelet, folder: TempDir::new().unwrap(), kubectl }
    }

    pub fn run(&self, program: &Path, arguments: &[&str], input: &str) -> Result<String, String> {
        run(program, arguments, Some(self.control_plane.admin().kubeconfig()), input)
    }

    pub fn helm(&self, namespace: &str, arguments: &[&str]) -> Result<String, String> {
        let started = Instant::now();
        let outcome = self.run(&program(), &[&["--namespace", namespace], arguments].concat(), "");
        println!("helm {}: {:.1} s", arguments.join(" "), started.elapsed().as_secs_f32());
        if outcome.is_err() {
            println!("{}", self.seen(namespace));
        }
        outcome
    }

    /// What there is to see when something did not come.
    pub fn seen(&self, namespace: &str) -> String {
        let mut seen = vec![self.kubectl(&["get", "pods,credentials,jobs", "-n", namespace, "-o", "wide"])];
        for pod in self.names("pods", namespace) {
            let logs = ["controller", "verifier", "uninstall"]
                .map(|container| self.kubelet.log(namespace, &pod, container).unwrap());
            seen.push(format!("{pod}:\n{}", logs.concat()));
        }
        seen.join("\n")
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.run(&self.kubectl, arguments, "").unwrap()
    }

    pub fn apply(&self, yaml: &str) -> String {
        self.run(&self.kubectl, &["apply", "--server-side", "-f", "-"], yaml).unwrap()
    }

    /// Has a credential and a token made; the value of the token.
    pub fn shop(&self) -> String {
        self.apply(SHOP);
        for object in ["credential/shop", "apitoken/shop"] {
            self.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "-n", "shop", object]);
        }
        self.of_secret("shop", "shop-token", "token")
    }

    pub fn names(&self, resource: &str, namespace: &str) -> Vec<String> {
        let path = "jsonpath={.items[*].metadata.name}";
        let names = self.kubectl(&["get", resource, "-n", namespace, "-o", path]);
        names.split_whitespace().map(str::to_owned).collect()
    }

    pub fn of_secret(&self, namespace: &str, name: &str, key: &str) -> String {
        let template = format!("--template={{{{index .data \"{key}\" | base64decode}}}}");
        self.kubectl(&["get", "secret", "-n", namespace, name, &template])
    }

    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what} did not come: {}", self.seen(HOME));
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Somebody who presents tokens to the verifiers.
    pub fn asker(&self) -> Asker {
        let authority = self.folder.path().join("ca.crt");
        fs::write(&authority, self.of_secret(HOME, "credential-operator-verifier-tls", "ca.crt")).unwrap();
        let kubeconfig = self.control_plane.admin().kubeconfig().to_owned();
        Asker { authority, kubectl: self.kubectl.clone(), kubeconfig }
    }

    /// What each verifier says to a token.
    pub fn asked(&self, token: &str, path: &str) -> Vec<String> {
        let asker = self.asker();
        let component = "app.kubernetes.io/component=verifier";
        let path_of_ip = "jsonpath={.items[?(@.status.phase==\"Running\")].status.podIP}";
        let addresses = self.kubectl(&["get", "pods", "-n", HOME, "-l", component, "-o", path_of_ip]);
        addresses.split_whitespace().map(|address| asker.ask(address, token, path)).collect()
    }

    /// Waits until as many verifiers accept the token, and none refuses it.
    pub async fn accepted(&self, token: &str, by: usize) {
        let accepted = || {
            let asked = self.asked(token, "/forward-auth");
            asked.len() == by && asked.iter().all(|said| said == "200")
        };
        self.until("that the verifiers accept the token", accepted).await;
        assert_eq!(self.asked(&format!("{token}x"), "/forward-auth"), vec!["401"; by]);
    }

    /// The resource versions of what the chart has, less the Lease, which its holder renews.
    pub fn versions(&self, rendered: &str) -> String {
        let objects = documents(rendered).into_iter().filter(|object| object["kind"] != "Lease");
        let objects: Vec<_> = objects.map(|object| serde_json::to_string(&object).unwrap()).collect();
        let columns = "custom-columns=:kind,:metadata.namespace,:metadata.name,:metadata.resourceVersion";
        self.run(&self.kubectl, &["get", "-o", columns, "-f", "-"], &objects.join("\n---\n")).unwrap()
    }

    pub fn crds(&self) {
        self.crds_of(CRDS);
    }

    pub fn crds_of(&self, chart: &str) {
        let install =
            ["upgrade", "--install", "credential-operator-crds", chart, "--create-namespace", "--set"];
        self.helm(HOME, &[&install[..], &[ACCOUNTS], &WAIT[..]].concat()).unwrap();
        // The API server itself refuses pods that may more than they should.
        self.kubectl(&[
            "label",
            "namespace",
            HOME,
            "pod-security.kubernetes.io/enforce=restricted",
            "--overwrite",
        ]);
    }

    pub async fn install(&self, namespace: &str, values: &[&str]) -> String {
        self.install_chart(CHART, namespace, values).await
    }

    pub async fn install_chart(&self, chart: &str, namespace: &str, values: &[&str]) -> String {
        let install = ["upgrade", "--install", "--reset-values", "credential-operator", chart];
        let install = [&install[..], values, &WAIT[..]].concat();
        self.once_synced(|| self.helm(namespace, &install)).await
    }

    /// Applies what is in a folder by kustomize.
    pub async fn kustomize(&self, folder: &str) {
        let apply = ["apply", "--server-side", "-k", folder];
        self.once_synced(|| self.run(&self.kubectl, &apply, "")).await;
    }

    async fn once_synced(&self, attempt: impl Fn() -> Result<String, String>) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match attempt() {
                Ok(said) => return said,
                // Policies that have come just now hold the certificate to CredentialPolicies that the API server has yet to read.
                Err(refused) if refused.contains("not yet synced") && Instant::now() < deadline => {
                    sleep(Duration::from_millis(500)).await;
                }
                Err(refused) => panic!("{refused}"),
            }
        }
    }
}

/// Somebody who asks verifiers, under the name of their Service, and whom the operator's certificate vouches for.
pub struct Asker {
    authority: PathBuf,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
}

impl Asker {
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        run(&self.kubectl, arguments, Some(&self.kubeconfig), "").unwrap()
    }

    /// The status of the answer at a pod's own address, and what curl has to complain of.
    pub fn ask(&self, address: &str, token: &str, path: &str) -> String {
        let name = "credential-operator-verifier.credential-operator.svc";
        let curl = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "5", "--output", "/dev/null"])
            .args(["--write-out", "%{http_code}", "--cacert", self.authority.to_str().unwrap()])
            .args(["--resolve", &format!("{name}:8443:{address}")])
            .args(["--header", &format!("Authorization: Bearer {token}")])
            .arg(format!("https://{name}:8443{path}"))
            .output()
            .unwrap();
        let complaint = String::from_utf8(curl.stderr).unwrap();
        String::from_utf8(curl.stdout).unwrap() + &complaint
    }
}
