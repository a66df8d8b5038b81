//! The charts, by a real Helm on a control plane whose kubelet runs their pods: installed, upgraded, rolled back, uninstalled and
//! installed again. It is no part of `cargo test`; tests/external/install builds Helm.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use control_plane::{ControlPlane, Kubelet};
use rcgen::{BasicConstraints, CertificateParams, CertifiedKey, IsCa, KeyPair};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Generous: it only has to tell a hang from work. Garbage collection looks for new kinds of owners every 30 seconds.
const DEADLINE: Duration = Duration::from_mins(2);
const WAIT: [&str; 2] = ["--wait", "--timeout=120s"];

const CRDS: &str = "charts/credential-operator-crds";
const CHART: &str = "charts/credential-operator";
const HOME: &str = "credential-operator";
const KEYRING: &str = "credential-operator-keyring";
/// The home of an operator for some namespaces alone, as deploy/namespaced.yaml has it.
const HOME_OF_ORDERS: &str = "credential-operator-orders";
const ACCOUNTS: &str = "controllerAccounts={credential-operator:credential-operator,\
                        credential-operator-orders:credential-operator}";

/// A credential that is bound outside its namespace, and a token of it.
const SHOP: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: monitoring}}
---
apiVersion: credential-operator.io/v1alpha1
kind: CredentialPolicy
metadata: {name: shop}
spec:
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}
  roles: [{kind: ClusterRole, name: view, namespaces: [monitoring]}]
---
apiVersion: credential-operator.io/v1alpha1
kind: Credential
metadata: {name: shop, namespace: shop}
spec:
  description: The shop
  roles: [{kind: ClusterRole, name: view}, {kind: ClusterRole, name: view, namespace: monitoring}]
---
apiVersion: credential-operator.io/v1alpha1
kind: ApiToken
metadata: {name: shop, namespace: shop}
spec: {credentialRef: {name: shop}, expiresIn: 30d}
";

/// Where an operator does not work but in some namespaces.
const ORDERS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: orders}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: stock}}
---
apiVersion: v1
kind: Namespace
metadata:
  name: credential-operator-orders
  labels: {pod-security.kubernetes.io/enforce: restricted}
";

/// What an operator for some namespaces has to do there.
const STOCK: &str = "
apiVersion: credential-operator.io/v1alpha1
kind: Credential
metadata: {name: stock, namespace: stock}
spec: {description: The stock, roles: [{kind: ClusterRole, name: view}]}
---
apiVersion: credential-operator.io/v1alpha1
kind: ApiToken
metadata: {name: stock, namespace: stock}
spec: {credentialRef: {name: stock}, expiresIn: 30d}
";

const ROUTE: &str =
    r#"verifier.routes=[{"name":"orders","audiences":["https://orders.example"],"scopes":["orders:read"]}]"#;

/// What pods are dressed in.
const DRESS: &str = r#"
imagePullSecrets: [{name: registry}]
controller:
  podAnnotations: {example.com/note: "{{ not a template }}"}
  podLabels: {team: platform}
  priorityClassName: system-cluster-critical
  nodeSelector: {kubernetes.io/os: linux}
  tolerations: [{key: infra, operator: Exists, effect: NoSchedule}]
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - {weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {team: platform}}}}
  topologySpreadConstraints:
  - {topologyKey: rack, maxSkew: 1, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {team: platform}}}
  resources: {requests: {memory: 200Mi}}
  extraArgs: [--token-prefix=acme]
verifier:
  podAnnotations: {example.com/note: "{{ not a template }}"}
  podLabels: {team: platform}
  priorityClassName: system-cluster-critical
  nodeSelector: {kubernetes.io/os: linux}
  tolerations: [{key: infra, operator: Exists, effect: NoSchedule}]
  resources: {}
  service: {port: 443, annotations: {example.com/note: "yes"}}
  extraArgs: [--max-staleness=60s, --stop-after=1s]
networkPolicy:
  apiServerPorts: [6443]
  verifierFrom: [{namespaceSelector: {matchLabels: {gateway: "true"}}}]
  metricsFrom: [{namespaceSelector: {}, podSelector: {matchLabels: {app: prometheus}}}]
"#;

/// Values, tried on a fresh installation.
struct Combination {
    what: &'static str,
    values: &'static [&'static str],
    /// What is to be seen in the Deployments then.
    seen: &'static str,
    /// What the verifiers say to a token that is none, at a path.
    says: Option<(&'static str, &'static str)>,
}

const fn combination(
    what: &'static str,
    values: &'static [&'static str],
    seen: &'static str,
    says: Option<(&'static str, &'static str)>,
) -> Combination {
    Combination { what, values, seen, says }
}

/// In the place of the name of the file that says [`DRESS`].
const DRESS_FILE: &str = "DRESS";

const COMBINATIONS: [Combination; 12] = [
    combination("defaults", &[], "--log-format=text", Some(("/introspect", "404"))),
    combination("one of each", &["--set", "controller.replicas=1,verifier.replicas=1"], "", None),
    combination("no verifier", &["--set", "verifier.enabled=false"], "", None),
    combination(
        "introspection",
        &["--set", "verifier.introspection=true"],
        "--introspection",
        Some(("/introspect", "405")),
    ),
    combination(
        "tokens of the API server",
        &["--set", "controller.serviceAccountTokens=true"],
        "--service-account-tokens",
        None,
    ),
    combination(
        "a certificate of the user",
        &["--set", "verifier.tls.mode=secret,verifier.tls.secret.name=given"],
        r#""secretName":"given""#,
        None,
    ),
    combination(
        "a certificate by an authority of the user",
        &["--set", "verifier.tls.generated.issuerSecret=authority,verifier.tls.dnsNames={verifier.example}"],
        "",
        Some(("/forward-auth", "401")),
    ),
    combination("routes", &["--set-json", ROUTE], "--routes=", Some(("/forward-auth/orders", "401"))),
    combination(
        "nothing that others would have to enforce",
        &["--set", "networkPolicy.enabled=false,podDisruptionBudget.enabled=false,rbac.people=false"],
        "",
        Some(("/forward-auth/orders", "404")),
    ),
    combination(
        "an image by its digest",
        &["--set", "image.digest=sha256:1a2b3c4d5e6f70811a2b3c4d5e6f70811a2b3c4d5e6f70811a2b3c4d5e6f7081"],
        "credential-operator@sha256:1a2b",
        None,
    ),
    combination(
        "logs as JSON, no roles to bind",
        &[
            "--set",
            r"log.format=json,log.level=info\,credential_operator=debug",
            "--set-json",
            "controller.bindableClusterRoles=[]",
        ],
        "--log=info,credential_operator=debug",
        None,
    ),
    combination("pods dressed", &["--values", DRESS_FILE], "--token-prefix=acme", None),
];

/// What a program says; an error where it fails.
fn run(program: &Path, arguments: &[&str], kubeconfig: Option<&Path>, input: &str) -> Result<String, String> {
    let mut process = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("KUBECONFIG", kubeconfig.unwrap_or(Path::new("/dev/null")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // From a thread of its own: who writes what is being read would wait for himself.
    let mut stdin = process.stdin.take().unwrap();
    let input = input.to_owned();
    let written = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = process.wait_with_output().unwrap();
    // Who fails may not have read all.
    let _ = written.join().unwrap();
    let (said, complaint) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    if output.status.success() { Ok(said) } else { Err(said + &complaint) }
}

fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/external/helm");
    assert!(program.is_file(), "{} is not there; see tests/external/install", program.display());
    program
}

/// Helm, where no cluster is needed.
fn render(arguments: &[&str]) -> Result<String, String> {
    run(&program(), arguments, None, "")
}

fn template(namespace: &str, rest: &[&str]) -> Result<String, String> {
    render(&[&["template", "credential-operator", CHART, "--namespace", namespace], rest].concat())
}

fn documents(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(yaml).map(|each| Value::deserialize(each).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

fn deployed(files: &[&str]) -> Vec<Value> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    files.iter().flat_map(|file| documents(&fs::read_to_string(here.join(file)).unwrap())).collect()
}

/// What rules allow, one by one: group, resource, name, verb.
fn allowed(role: &Value) -> BTreeSet<[String; 4]> {
    let list = |rule: &Value, key: &str| {
        let list = rule[key].as_array().cloned().unwrap_or_default();
        list.iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut allowed = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let names = if rule.get("resourceNames").is_some() {
            list(rule, "resourceNames")
        } else {
            vec!["any".to_owned()]
        };
        assert!(!names.is_empty(), "a rule of no names is one of all names: {rule}");
        for group in list(rule, "apiGroups") {
            for resource in list(rule, "resources") {
                for name in &names {
                    for verb in list(rule, "verbs") {
                        allowed.insert([group.clone(), resource.clone(), name.clone(), verb]);
                    }
                }
            }
        }
    }
    allowed
}

/// Which account may do what where, whatever the roles are called.
fn rights(objects: &[Value]) -> BTreeSet<(String, String, [String; 4])> {
    let mut rights = BTreeSet::new();
    for binding in objects.iter().filter(|object| object["kind"].as_str().unwrap().ends_with("Binding")) {
        let is_bound = |role: &&Value| {
            role["kind"] == binding["roleRef"]["kind"]
                && role["metadata"]["name"] == binding["roleRef"]["name"]
                && role["metadata"]["namespace"] == binding["metadata"]["namespace"]
        };
        let role = objects.iter().find(is_bound).unwrap();
        let place = binding["metadata"]["namespace"].as_str().unwrap_or("everywhere");
        for subject in binding["subjects"].as_array().unwrap() {
            let account = format!("{}:{}", subject["namespace"], subject["name"]);
            for right in allowed(role) {
                rights.insert((account.clone(), place.to_owned(), right));
            }
        }
    }
    assert!(!rights.is_empty());
    rights
}

/// Roles that are bound to nobody: name, what they are part of, rights.
fn people(objects: &[Value]) -> BTreeSet<(String, Vec<String>, BTreeSet<[String; 4]>)> {
    let bound: BTreeSet<_> = objects.iter().filter_map(|object| object["roleRef"]["name"].as_str()).collect();
    let roles = objects.iter().filter(|object| object["kind"] == "ClusterRole");
    let roles = roles.filter(|role| !bound.contains(role["metadata"]["name"].as_str().unwrap()));
    roles
        .map(|role| {
            let labels = role["metadata"]["labels"].as_object().cloned().unwrap_or_default();
            let part_of = labels.into_iter().map(|(label, _)| label);
            let part_of = part_of.filter(|label| label.starts_with("rbac.authorization.k8s.io/")).collect();
            (role["metadata"]["name"].as_str().unwrap().to_owned(), part_of, allowed(role))
        })
        .collect()
}

#[test]
fn charts_are_sound_and_typos_are_errors() {
    for chart in [CRDS, CHART] {
        let said = render(&["lint", "--strict", chart]).unwrap();
        assert!(said.contains("0 chart(s) failed"), "{said}");
    }
    for (values, complaint) in [
        ("controler.replicas=1", "additional properties 'controler' not allowed"),
        ("controller.replica=1", "additional properties 'replica' not allowed"),
        ("verifier.tls.generated.durations=90d", "additional properties 'durations' not allowed"),
        ("controller.replicas=two", "got string, want integer"),
        ("verifier.tls.mode=none", "value must be one of 'generated', 'certManager', 'secret'"),
        ("verifier.tls.mode=secret", "needs verifier.tls.secret.name"),
        ("verifier.tls.mode=certManager", "needs verifier.tls.certManager.issuerRef.name"),
        ("watchNamespaces={orders}", "verifier.tls.mode generated does not go with watchNamespaces"),
        ("watchNamespaces={credential-operator}", "where the keyring lives"),
        ("image.digest=latest", "does not match pattern"),
    ] {
        let refused = template(HOME, &["--set", values]).unwrap_err();
        assert!(refused.contains(complaint), "{values}: {refused}");
    }
    let refused =
        render(&["template", CRDS, "--set", "controllerAccounts={credential-operator}"]).unwrap_err();
    assert!(refused.contains("does not match pattern"), "{refused}");
    render(&["template", CRDS, "--set", "controllerAccount=a:b"]).unwrap_err();
}

#[test]
fn rights_are_those_of_deploy() {
    let render = |namespace, set: &str| documents(&template(namespace, &["--set", set]).unwrap());
    let plain = render(HOME, "serviceMonitor.enabled=true");
    let deploy = deployed(&["controller.yaml", "verifier.yaml"]);
    assert_eq!(rights(&plain), rights(&deploy));
    assert_eq!(people(&plain), people(&deployed(&["roles.yaml"])));
    assert!(people(&render(HOME, "rbac.people=false")).is_empty());

    let all = render(HOME, "controller.serviceAccountTokens=true,verifier.introspection=true");
    let more = deployed(&["service-account-tokens.yaml", "verifier-introspection.yaml"]);
    assert_eq!(rights(&all), rights(&[deploy, more].concat()));

    let within = "watchNamespaces={orders},verifier.tls.mode=secret,verifier.tls.secret.name=given";
    assert_eq!(rights(&render(HOME_OF_ORDERS, within)), rights(&deployed(&["namespaced.yaml"])));

    let none = template(HOME, &["--set-json", "controller.bindableClusterRoles=[]"]).unwrap();
    assert!(!none.contains("[bind]"));
}

#[test]
fn kinds_of_others_are_as_they_are_to_be() {
    let mode = "serviceMonitor.enabled=true,serviceMonitor.labels.release=prometheus,verifier.tls.mode=certManager,\
                verifier.tls.certManager.issuerRef.name=authority";
    let objects = documents(&template(HOME, &["--set", mode]).unwrap());
    let of_kind = |kind: &str| {
        let mut found = objects.iter().filter(|object| object["kind"] == kind);
        let first = found.next().unwrap().clone();
        assert!(found.next().is_none());
        first
    };
    let certificate = of_kind("Certificate");
    assert_eq!(certificate["spec"]["secretName"], "credential-operator-verifier-tls");
    assert_eq!(certificate["spec"]["dnsNames"][2], "credential-operator-verifier.credential-operator.svc");
    assert_eq!(certificate["spec"]["issuerRef"]["name"], "authority");
    let monitor = of_kind("ServiceMonitor");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let selected = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let with_metrics = objects.iter().filter(|object| {
        let mut ports = object["spec"]["ports"].as_array().into_iter().flatten();
        object["kind"] == "Service" && ports.any(|port| port["name"] == "metrics")
    });
    let labels: Vec<_> = with_metrics.map(|service| &service["metadata"]["labels"]).collect();
    assert_eq!(labels.len(), 2);
    assert!(labels.iter().all(|labels| selected.iter().all(|(key, value)| labels[key] == *value)));
    assert!(!objects.iter().any(|object| object["kind"] == "Credential"));
}

/// A cluster on which nothing is installed.
struct World {
    control_plane: ControlPlane,
    kubelet: Kubelet,
    folder: TempDir,
    kubectl: PathBuf,
}

impl World {
    async fn start() -> Self {
        let control_plane = ControlPlane::start().await.unwrap();
        let image = (HOME, env!("CARGO_BIN_EXE_credential-operator"));
        let kubelet = Kubelet::start(&control_plane, [image]).await.unwrap();
        let kubectl = control_plane.kubectl().unwrap();
        Self { control_plane, kubelet, folder: TempDir::new().unwrap(), kubectl }
    }

    fn run(&self, program: &Path, arguments: &[&str], input: &str) -> Result<String, String> {
        run(program, arguments, Some(self.control_plane.admin().kubeconfig()), input)
    }

    fn helm(&self, namespace: &str, arguments: &[&str]) -> Result<String, String> {
        let started = Instant::now();
        let outcome = self.run(&program(), &[&["--namespace", namespace], arguments].concat(), "");
        println!("helm {}: {:.1} s", arguments.join(" "), started.elapsed().as_secs_f32());
        if outcome.is_err() {
            println!("{}", self.seen(namespace));
        }
        outcome
    }

    /// What there is to see when something did not come.
    fn seen(&self, namespace: &str) -> String {
        let mut seen = vec![self.kubectl(&["get", "pods,credentials,jobs", "-n", namespace, "-o", "wide"])];
        for pod in self.names("pods", namespace) {
            let logs = ["controller", "verifier", "uninstall"]
                .map(|container| self.kubelet.log(namespace, &pod, container).unwrap());
            seen.push(format!("{pod}:\n{}", logs.concat()));
        }
        seen.join("\n")
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.run(&self.kubectl, arguments, "").unwrap()
    }

    fn apply(&self, yaml: &str) -> String {
        self.run(&self.kubectl, &["apply", "--server-side", "-f", "-"], yaml).unwrap()
    }

    fn names(&self, resource: &str, namespace: &str) -> Vec<String> {
        let path = "jsonpath={.items[*].metadata.name}";
        let names = self.kubectl(&["get", resource, "-n", namespace, "-o", path]);
        names.split_whitespace().map(str::to_owned).collect()
    }

    fn of_secret(&self, namespace: &str, name: &str, key: &str) -> String {
        let template = format!("--template={{{{index .data \"{key}\" | base64decode}}}}");
        self.kubectl(&["get", "secret", "-n", namespace, name, &template])
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what} did not come: {}", self.seen(HOME));
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// What each verifier says to a token, by its pod's own address, under the name of the Service, and whom the operator's
    /// certificate vouches for.
    fn asked(&self, token: &str, path: &str) -> Vec<String> {
        let authority = self.folder.path().join("ca.crt");
        fs::write(&authority, self.of_secret(HOME, "credential-operator-verifier-tls", "ca.crt")).unwrap();
        let component = "app.kubernetes.io/component=verifier";
        let path_of_ip = "jsonpath={.items[?(@.status.phase==\"Running\")].status.podIP}";
        let addresses = self.kubectl(&["get", "pods", "-n", HOME, "-l", component, "-o", path_of_ip]);
        let name = "credential-operator-verifier.credential-operator.svc";
        let ask = |address: &str| {
            let curl = Command::new("curl")
                .args(["--silent", "--show-error", "--max-time", "5", "--output", "/dev/null"])
                .args(["--write-out", "%{http_code}", "--cacert", authority.to_str().unwrap()])
                .args(["--resolve", &format!("{name}:8443:{address}")])
                .args(["--header", &format!("Authorization: Bearer {token}")])
                .arg(format!("https://{name}:8443{path}"))
                .output()
                .unwrap();
            let complaint = String::from_utf8(curl.stderr).unwrap();
            String::from_utf8(curl.stdout).unwrap() + &complaint
        };
        addresses.split_whitespace().map(ask).collect()
    }

    /// Waits until as many verifiers accept the token, and none refuses it.
    async fn accepted(&self, token: &str, by: usize) {
        let accepted = || {
            let asked = self.asked(token, "/forward-auth");
            asked.len() == by && asked.iter().all(|said| said == "200")
        };
        self.until("that the verifiers accept the token", accepted).await;
        assert_eq!(self.asked(&format!("{token}x"), "/forward-auth"), vec!["401"; by]);
    }

    /// The resource versions of what the chart has, less the Lease, which its holder renews.
    fn versions(&self, rendered: &str) -> String {
        let objects = documents(rendered).into_iter().filter(|object| object["kind"] != "Lease");
        let objects: Vec<_> = objects.map(|object| serde_json::to_string(&object).unwrap()).collect();
        let columns = "custom-columns=:kind,:metadata.namespace,:metadata.name,:metadata.resourceVersion";
        self.run(&self.kubectl, &["get", "-o", columns, "-f", "-"], &objects.join("\n---\n")).unwrap()
    }

    fn crds(&self) {
        let install =
            ["upgrade", "--install", "credential-operator-crds", CRDS, "--create-namespace", "--set"];
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

    async fn install(&self, namespace: &str, values: &[&str]) -> String {
        let install = ["upgrade", "--install", "--reset-values", "credential-operator", CHART];
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.helm(namespace, &[&install[..], values, &WAIT[..]].concat()) {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_release_comes_changes_goes_and_comes_again() {
    let world = World::start().await;
    world.crds();
    // What was refused half-way may be tried again.
    let wrong = ["--set", "verifier.tls.dnsNames={verifier.*}"];
    let refused = world.helm(HOME, &[&["install", "credential-operator", CHART], &wrong[..]].concat());
    assert!(refused.unwrap_err().contains("spec.tls.dnsNames"));
    let notes = world.install(HOME, &[]).await;
    assert!(notes.contains("kubectl get secret -n default first-token"), "{notes}");
    world.apply(SHOP);
    for object in ["credential/shop", "apitoken/shop"] {
        world.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "-n", "shop", object]);
    }
    let token = world.of_secret("shop", "shop-token", "token");
    world.accepted(&token, 2).await;
    let told = world.asked(&token, "/introspect");
    assert_eq!(told, ["404"; 2]);

    // Applied by hand as by Helm, it is the same, and nothing is written a second time.
    let rendered = template(HOME, &["--no-hooks"]).unwrap();
    world.apply(&rendered);
    let before = world.versions(&rendered);
    assert!(before.lines().count() > 25, "{before}");
    world.apply(&rendered);
    assert_eq!(world.versions(&rendered), before);

    let upgrade = ["upgrade", "credential-operator", CHART, "--set", "log.format=json,verifier.replicas=3"];
    // Whoever applied it by hand owns it, too.
    world.helm(HOME, &[&upgrade[..], &["--force-conflicts"], &WAIT[..]].concat()).unwrap();
    world.accepted(&token, 3).await;
    let pod = world.names("pods", HOME);
    let logs = |text: &str| {
        let logs = pod.iter().map(|pod| world.kubelet.log(HOME, pod, "verifier").unwrap());
        logs.filter(|log| log.lines().next().is_some_and(|line| line.starts_with(text))).count()
    };
    assert_eq!(logs("{"), 3);
    world
        .helm(HOME, &[&["rollback", "credential-operator", "--force-conflicts"], &WAIT[..]].concat())
        .unwrap();
    world.accepted(&token, 2).await;

    let elsewhere = || world.names("rolebindings", "monitoring");
    let finalizers = ["get", "credentials", "-A", "-o", "jsonpath={.items[*].metadata.finalizers}"];
    assert_eq!(elsewhere().len(), 1);
    assert!(world.kubectl(&finalizers).contains("credential-operator.io/bindings"));
    // What cannot be taken away keeps all else from going; once it can, it goes on.
    let bind_to = |account: &str| {
        let patch = format!(r#"[{{"op": "replace", "path": "/subjects/0/name", "value": "{account}"}}]"#);
        let binding =
            ["patch", "rolebinding", "credential-operator", "-n", HOME, "--type=json", "-p", &patch];
        world.kubectl(&binding);
    };
    bind_to("nobody");
    world.helm(HOME, &["uninstall", "credential-operator", "--timeout=5s"]).unwrap_err();
    assert_eq!(world.names("deployments,leases", HOME).len(), 3);
    assert_eq!(elsewhere().len(), 1);
    bind_to("credential-operator");
    world.helm(HOME, &[&["uninstall", "credential-operator"], &WAIT[..]].concat()).unwrap();
    world.helm(HOME, &[&["uninstall", "credential-operator-crds"], &WAIT[..]].concat()).unwrap();
    assert_eq!(elsewhere(), Vec::<String>::new());
    assert_eq!(world.kubectl(&finalizers), "");
    world.until("that the pods are gone", || world.names("pods", HOME).is_empty()).await;
    // What the chart brought is gone with it, but for what is kept: also the certificate, which is the verifier's.
    world.until("the end of the certificate", || world.names("secrets", HOME) == [KEYRING]).await;
    for (kind, count) in
        [("leases", 0), ("jobs", 0), ("services", 0), ("networkpolicies", 0), ("credentials", 0)]
    {
        assert_eq!(world.names(kind, HOME).len(), count, "{kind}");
    }
    let definitions = world.names("customresourcedefinitions", HOME);
    assert_eq!(definitions.iter().filter(|name| name.ends_with(".credential-operator.io")).count(), 3);
    assert_eq!(world.names("validatingadmissionpolicies", HOME).len(), 9);
    assert_eq!(world.names("validatingadmissionpolicybindings", HOME).len(), 9);
    assert_eq!(world.names("credentials,apitokens", "shop"), ["shop", "shop"]);
    assert_eq!(world.of_secret("shop", "shop-token", "token"), token);

    world.crds();
    world.install(HOME, &[]).await;
    world.accepted(&token, 2).await;
    assert_eq!(world.of_secret("shop", "shop-token", "token"), token);
    world.until("the binding elsewhere", || elsewhere().len() == 1).await;

    // And how to be rid of all of it.
    world.kubectl(&["delete", "credentials", "--all", "--all-namespaces", "--timeout=60s"]);
    world.until("that nothing is bound", || elsewhere().is_empty()).await;
    let both = ["uninstall", "credential-operator", "credential-operator-crds"];
    world.helm(HOME, &[&both[..], &WAIT[..]].concat()).unwrap();
    let part = "app.kubernetes.io/part-of=credential-operator";
    let admission = "validatingadmissionpolicybindings,validatingadmissionpolicies";
    world.kubectl(&["delete", admission, "-l", part]);
    for kind in ["credentials", "apitokens", "credentialpolicies"] {
        world.kubectl(&["delete", "crd", &format!("{kind}.credential-operator.io"), "--timeout=60s"]);
    }
    world.kubectl(&["delete", "namespace", HOME, "shop", "--timeout=60s"]);
    assert_eq!(world.kubectl(&["get", "clusterroles,clusterrolebindings", "-l", part, "-o", "name"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn combinations_of_values_install() {
    let world = World::start().await;
    world.crds();
    world.apply(ORDERS);
    let dress = world.folder.path().join("dress.yaml");
    fs::write(&dress, DRESS).unwrap();

    let names = ["credential-operator-verifier".to_owned()];
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority = authority.self_signed(&authority_key).unwrap();
    let secret = |namespace: &str, name: &str, certificate: &str, key: &str| {
        let metadata = format!(
            "name: {name}, namespace: {namespace}, labels: {{credential-operator.io/provided: \"true\"}}"
        );
        let data = serde_json::json!({ "tls.crt": certificate, "tls.key": key });
        world.apply(&format!(
            "{{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {{{metadata}}}, stringData: {data}}}"
        ));
    };
    for home in [HOME, HOME_OF_ORDERS] {
        secret(home, "given", &cert.pem(), &signing_key.serialize_pem());
    }
    secret(HOME, "authority", &authority.pem(), &authority_key.serialize_pem());

    let within = "watchNamespaces={orders,stock},verifier.tls.mode=secret,verifier.tls.secret.name=given,rbac.people=false,\
                  controller.serviceAccountTokens=true,verifier.introspection=true";
    world.install(HOME_OF_ORDERS, &["--set", within]).await;
    world.apply(STOCK);
    world.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "-n", "stock", "apitoken/stock"]);
    world.kubectl(&["delete", "credential", "stock", "-n", "stock", "--timeout=60s"]);
    world.helm(HOME_OF_ORDERS, &[&["uninstall", "credential-operator"], &WAIT[..]].concat()).unwrap();

    for Combination { what, values, seen, says } in COMBINATIONS {
        println!("{what}");
        let file = dress.to_str().unwrap();
        let values = values.iter().map(|value| if *value == DRESS_FILE { file } else { value });
        world.install(HOME, &values.collect::<Vec<_>>()).await;
        let running = world.kubectl(&["get", "deployments", "-n", HOME, "-o", "json"]);
        let running: Value = serde_json::from_str(&running).unwrap();
        let deployments = running["items"].as_array().unwrap();
        for deployment in deployments {
            let [wished, ready] = [&deployment["spec"]["replicas"], &deployment["status"]["readyReplicas"]];
            assert_eq!(wished, ready, "{what}");
        }
        let text = running.to_string();
        assert!(text.contains(seen), "{what}: {text}");
        assert_eq!(deployments.len(), if what == "no verifier" { 1 } else { 2 }, "{what}");
        if let Some((path, status)) = says {
            assert_eq!(world.asked("none", path), [status; 2], "{what}");
        }
        world.helm(HOME, &["uninstall", "credential-operator", "--no-hooks", "--wait"]).unwrap();
        world.until("that the pods are gone", || world.names("pods", HOME).is_empty()).await;
        // Otherwise the next certificate has to wait for the collection of the last.
        let certificate = "credential-operator-verifier-tls".to_owned();
        world.until("its end", || !world.names("secrets", HOME).contains(&certificate)).await;
    }
}
