//! What runs on the node of a control plane runs as it would on a real one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::{
    env,
    fmt::Debug,
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::Command,
    time::Duration,
};

use control_plane::{ControlPlane, Kubelet, Namespaced};
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, ContainerStatus, Pod, Secret, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::OnceCell,
    time::{sleep, timeout},
};

/// What the program of the image, which is this very test binary, is to do.
const ORDER: &str = "APP_ORDER";
const IMAGE: &str = "registry.example:5000/team/app:v1";

struct Cluster {
    control_plane: ControlPlane,
    kubelet: Kubelet,
}

/// One for all tests, each of which has names of its own.
async fn cluster() -> &'static Cluster {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER
        .get_or_init(|| async {
            let control_plane = ControlPlane::start().await.unwrap();
            let program = env::current_exe().unwrap();
            let kubelet = Kubelet::start(&control_plane, [("registry.example:5000/team/app", program)]).await;
            Cluster { control_plane, kubelet: kubelet.unwrap() }
        })
        .await
}

impl Cluster {
    fn api<K: Namespaced>(&self) -> Api<K> {
        Api::namespaced(self.control_plane.admin().client().unwrap(), "default")
    }

    async fn create<K: Namespaced>(&self, object: Value) {
        let object: K = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap();
    }

    async fn until<K: Namespaced>(&self, name: &str, holds: impl Fn(Option<&K>) -> bool) -> Option<K> {
        let waited = timeout(Duration::from_secs(30), await_condition(self.api::<K>(), name, holds)).await;
        if let Ok(met) = waited {
            return met.unwrap();
        }
        let last = self.api::<K>().get_opt(name).await.unwrap();
        panic!("it did not come: {}", serde_json::to_value(&last).unwrap()["status"])
    }

    async fn phase(&self, name: &str, phase: &str) -> Pod {
        let holds =
            |pod: Option<&Pod>| pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()) == Some(phase);
        self.until(name, holds).await.unwrap()
    }

    async fn logged(&self, pod: &str, text: &str) -> String {
        for _ in 0..300 {
            let log = self.kubelet.log("default", pod, "app").unwrap();
            if log.contains(text) {
                return log;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("{pod} did not say {text:?}: {}", self.kubelet.log("default", pod, "app").unwrap())
    }

    fn kubectl(&self, arguments: &[&str]) {
        let kubectl = self.control_plane.kubectl().unwrap();
        let kubeconfig = self.control_plane.admin().kubeconfig();
        let ran = Command::new(kubectl).args(arguments).env("KUBECONFIG", kubeconfig).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
}

/// A container that follows an order, with more fields.
fn app(order: &str, more: Value) -> Value {
    let mut container = json!({
        "name": "app", "image": IMAGE, "args": ["--exact", "app_of_the_other_tests", "--nocapture"],
        "env": [
            { "name": ORDER, "value": order },
            { "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
        ],
    });
    merge(&mut container, more);
    container
}

/// A container that runs a script.
fn script(script: &str, more: Value) -> Value {
    let mut container = json!({ "name": "app", "image": IMAGE, "command": ["sh", "-c", script] });
    merge(&mut container, more);
    container
}

fn pod(name: &str, container: &Value, more: Value) -> Value {
    let mut spec = json!({ "restartPolicy": "Never", "containers": [container] });
    merge(&mut spec, more);
    json!({ "metadata": { "name": name }, "spec": spec })
}

fn merge(object: &mut Value, more: Value) {
    let more: serde_json::Map<String, Value> = serde_json::from_value(more).unwrap();
    object.as_object_mut().unwrap().extend(more);
}

fn first(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

fn exit_code(pod: &Pod) -> Option<i32> {
    Some(first(pod)?.state.as_ref()?.terminated.as_ref()?.exit_code)
}

#[tokio::test]
async fn a_deployment_rolls_out_and_an_update_replaces_its_pods() {
    let cluster = cluster().await;
    let container = |version: &str| {
        let probe = json!({ "httpGet": { "path": "/ready", "port": "http" }, "periodSeconds": 1 });
        let ports = json!([{ "name": "http", "containerPort": 8080 }]);
        app(&format!("serve {version}"), json!({ "readinessProbe": probe, "ports": ports }))
    };
    let labels = json!({ "app": "rolling" });
    let deployment = |version: &str| {
        json!({
            "metadata": { "name": "rolling" },
            "spec": {
                "replicas": 2, "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": { "containers": [container(version)] } },
            },
        })
    };
    cluster.create::<Deployment>(deployment("one")).await;
    for version in ["one", "two"] {
        let patch = Patch::Strategic(deployment(version));
        cluster.api::<Deployment>().patch("rolling", &PatchParams::default(), &patch).await.unwrap();
        cluster.kubectl(&["rollout", "status", "deployment/rolling", "--timeout=50s"]);
        let pods = cluster.api::<Pod>().list(&ListParams::default().labels("app=rolling")).await.unwrap();
        let live = pods.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let addresses: Vec<_> = live.map(|pod| pod.status.clone().unwrap().pod_ip.unwrap()).collect();
        assert_eq!(addresses.len(), 2);
        for address in addresses {
            assert_eq!(ask(&address), version);
        }
    }
}

/// What a server answers.
fn ask(address: &str) -> String {
    let mut stream = std::net::TcpStream::connect((address, 8080)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test]
async fn a_job_completes_and_a_failing_one_is_tried_again_up_to_its_limit() {
    let cluster = cluster().await;
    let job = |name: &str, code: u8| {
        let container = script(&format!("exit {code}"), json!({}));
        let pod = json!({ "restartPolicy": "OnFailure", "containers": [container] });
        json!({ "metadata": { "name": name }, "spec": { "backoffLimit": 1, "template": { "spec": pod } } })
    };
    cluster.create::<Job>(job("completes", 0)).await;
    cluster.create::<Job>(job("fails", 3)).await;
    let is = |kind: &'static str, reason: &'static str| {
        move |job: Option<&Job>| {
            let conditions = job.and_then(|job| job.status.as_ref()?.conditions.as_ref());
            conditions.into_iter().flatten().any(|condition| {
                condition.type_ == kind
                    && condition.status == "True"
                    && condition.reason.as_deref() == Some(reason)
            })
        }
    };
    cluster.until("completes", is("Complete", "CompletionsReached")).await;
    cluster.until("fails", is("Failed", "BackoffLimitExceeded")).await;
}

#[tokio::test]
async fn a_mounted_secret_changes_in_place() {
    let cluster = cluster().await;
    let secret = |value: &str| json!({ "metadata": { "name": "shown" }, "stringData": { "key": value } });
    cluster.create::<Secret>(secret("one")).await;
    let mounts = json!([{ "name": "shown", "mountPath": "/etc/app/deep/shown" }]);
    let volumes = json!([{ "name": "shown", "secret": { "secretName": "shown" } }]);
    let shows = app("show /etc/app/deep/shown/key", json!({ "volumeMounts": mounts }));
    cluster.create::<Pod>(pod("shows", &shows, json!({ "volumes": volumes }))).await;
    cluster.logged("shows", "shown: one").await;
    let patch = Patch::Merge(secret("two"));
    cluster.api::<Secret>().patch("shown", &PatchParams::default(), &patch).await.unwrap();
    let log = timeout(Duration::from_secs(5), cluster.logged("shows", "shown: two")).await.unwrap();
    assert_eq!(log.matches("started").count(), 1);
}

#[tokio::test]
async fn the_token_of_its_account_has_the_rights_that_rbac_gives_it() {
    let cluster = cluster().await;
    let named = |name: &str| json!({ "name": name });
    cluster.create::<ServiceAccount>(json!({ "metadata": named("reader") })).await;
    let rule = json!({ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"] });
    cluster.create::<Role>(json!({ "metadata": named("reader"), "rules": [rule] })).await;
    let reader = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader" });
    let subject = json!({ "kind": "ServiceAccount", "name": "reader" });
    let binding = json!({ "metadata": named("reader"), "roleRef": reader, "subjects": [subject] });
    cluster.create::<RoleBinding>(binding).await;
    let account = json!({ "serviceAccountName": "reader" });
    cluster.create::<Pod>(pod("reads", &app("list", json!({})), account)).await;
    let pod = cluster.phase("reads", "Succeeded").await;
    assert_eq!(exit_code(&pod), Some(0));
    let log = cluster.logged("reads", "configmaps").await;
    assert!(
        log.contains("configmaps in default: Ok") && log.contains("secrets in default: Err(403)"),
        "{log}"
    );
}

#[tokio::test]
async fn a_deleted_pod_is_told_to_end_and_killed_if_it_does_not() {
    let cluster = cluster().await;
    let hooked = json!({
        "lifecycle": { "preStop": { "exec": { "command": ["sh", "-c", "echo $POD > /scratch/hook"] } } },
        "env": [{ "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }],
    });
    let text = "trap 'cat /scratch/hook; exit' TERM; echo started; while :; do sleep 0.1; done";
    let volumes = json!({ "volumes": [{ "name": "scratch", "emptyDir": {} }] });
    cluster.create::<Pod>(pod("hooked", &script(text, hooked), volumes)).await;
    cluster.logged("hooked", "started").await;
    cluster.api::<Pod>().delete("hooked", &DeleteParams::default()).await.unwrap();
    for (name, order, grace) in [("heeds", "heed", 30), ("ignores", "ignore", 2)] {
        let grace = json!({ "terminationGracePeriodSeconds": grace });
        cluster.create::<Pod>(pod(name, &app(order, json!({})), grace)).await;
        cluster.logged(name, "started").await;
        cluster.api::<Pod>().delete(name, &DeleteParams::default()).await.unwrap();
    }
    let gone = |pod: Option<&Pod>| pod.is_none();
    cluster.until("heeds", gone).await;
    assert!(cluster.logged("heeds", "told to end").await.contains("ended"));
    cluster.until("hooked", gone).await;
    cluster.logged("hooked", "hooked").await;
    cluster.until("ignores", gone).await;
    assert!(!cluster.logged("ignores", "told to end").await.contains("ended"));
}

#[tokio::test]
async fn an_image_that_stands_for_no_program_cannot_be_pulled() {
    let cluster = cluster().await;
    let unknown = app("", json!({ "image": "registry.example:5000/none:v1" }));
    cluster.create::<Pod>(pod("unknown", &unknown, json!({}))).await;
    let reason = |pod: &Pod| first(pod)?.state.as_ref()?.waiting.as_ref()?.reason.clone();
    let pod =
        cluster.until("unknown", |pod: Option<&Pod>| pod.and_then(reason).as_deref() == Some("ErrImagePull"));
    assert_eq!(pod.await.unwrap().status.unwrap().phase.as_deref(), Some("Pending"));
}

#[tokio::test]
async fn a_container_finds_what_its_pod_gives_it() {
    let cluster = cluster().await;
    cluster
        .create::<Secret>(json!({ "metadata": { "name": "given" }, "stringData": { "key": "secret" } }))
        .await;
    cluster
        .create::<ConfigMap>(json!({ "metadata": { "name": "given" }, "data": { "MAPPED": "map" } }))
        .await;
    let env = json!([
        { "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "given", "key": "key" } } },
        { "name": "BOTH", "value": "$(KEY)-$(MAPPED)" },
        { "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
    ]);
    let mounts = json!([
        { "name": "scratch", "mountPath": "/scratch" },
        { "name": "all", "mountPath": "/etc/all", "readOnly": true },
        { "name": "all", "mountPath": "/opt/one", "subPath": "map/MAPPED" },
    ]);
    let volumes = json!([
        { "name": "scratch", "emptyDir": {} },
        { "name": "all", "projected": { "sources": [
            { "secret": { "name": "given", "items": [{ "key": "key", "path": "secret/key" }] } },
            { "configMap": { "name": "given", "items": [{ "key": "MAPPED", "path": "map/MAPPED" }] } },
            { "downwardAPI": { "items": [{ "path": "name", "fieldRef": { "fieldPath": "metadata.name" } }] } },
            { "serviceAccountToken": { "path": "token", "audience": "somebody" } },
        ] } },
    ]);
    let init = |name: &str, text: &str| {
        let mut container = script(text, json!({ "volumeMounts": mounts }));
        merge(&mut container, json!({ "name": name }));
        container
    };
    let check = r#"
        set -ex
        cat /scratch/order
        test "$(cat /scratch/order)" = "first
second"
        test "$1" = "$BOTH"
        test "$BOTH" = secret-map
        test "$NAME" = given
        test "$(pwd -P)" = "$(cd /usr && pwd -P)"
        test "$(cat /etc/all/secret/key /etc/all/map/MAPPED /etc/all/name)" = secretmapgiven
        test "$(cat /opt/one)" = map
        test -s /etc/all/token
        test -s /var/run/secrets/kubernetes.io/serviceaccount/token
        test "$(cat /var/run/secrets/kubernetes.io/serviceaccount/namespace)" = default
        test -r /etc/passwd
        ! touch /etc/all/written
    "#;
    let more = json!({
        "env": env, "envFrom": [{ "configMapRef": { "name": "given" } }], "volumeMounts": mounts,
        "workingDir": "/usr", "args": ["app", "$(BOTH)"],
    });
    let inits =
        json!([init("one", "echo first >> /scratch/order"), init("two", "echo second >> /scratch/order")]);
    let more_of_pod = json!({ "volumes": volumes, "initContainers": inits });
    cluster.create::<Pod>(pod("given", &script(check, more), more_of_pod)).await;
    let ended = |pod: Option<&Pod>| pod.and_then(exit_code).is_some();
    let pod = cluster.until("given", ended).await.unwrap();
    assert_eq!(exit_code(&pod), Some(0), "{}", cluster.kubelet.log("default", "given", "app").unwrap());
    assert!(!fs::exists("/scratch").unwrap() && !fs::exists("/etc/all").unwrap());
}

#[tokio::test]
async fn probes_tell_when_a_container_is_ready_and_when_it_has_to_be_restarted() {
    let cluster = cluster().await;
    let exec = |text: &str| json!({ "exec": { "command": ["sh", "-c", text] }, "periodSeconds": 1, "failureThreshold": 1 });
    let mut startup = exec("test -e /scratch/started");
    merge(&mut startup, json!({ "failureThreshold": 10 }));
    let port: u16 = cluster.control_plane.server().rsplit(':').next().unwrap().parse().unwrap();
    let api_server = json!({ "host": "127.0.0.1", "port": port, "path": "/readyz", "scheme": "HTTPS" });
    let more = json!({
        "startupProbe": startup,
        // The first run dies of it, the second lives.
        "livenessProbe": exec("test -e /scratch/second"),
        "readinessProbe": { "httpGet": api_server, "periodSeconds": 1 },
        "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }],
    });
    let text =
        "test -e /scratch/started && touch /scratch/second; sleep 1; touch /scratch/started; exec sleep 1000";
    let volumes = json!({
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 1,
        "volumes": [{ "name": "scratch", "emptyDir": {} }],
    });
    cluster.create::<Pod>(pod("probed", &script(text, more), volumes)).await;
    let ready = |pod: &Pod| first(pod).is_some_and(|status| status.ready && status.restart_count == 1);
    let pod = cluster.until("probed", |pod: Option<&Pod>| pod.is_some_and(ready)).await.unwrap();
    let conditions = pod.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
}

/// Not a test of its own: the program of the image.
#[tokio::test]
async fn app_of_the_other_tests() {
    let Ok(order) = env::var(ORDER) else { return };
    println!("\nstarted");
    let (order, rest) = order.split_once(' ').unwrap_or((&order, ""));
    match order {
        "serve" => serve(rest),
        "show" => show(rest).await,
        "list" => list().await,
        "heed" => {
            told_to_end().await;
            println!("ended");
        }
        _ => loop {
            told_to_end().await;
        },
    }
}

async fn told_to_end() {
    signal(SignalKind::terminate()).unwrap().recv().await;
    println!("told to end");
}

fn serve(version: &str) {
    let listener = TcpListener::bind((env::var("POD_IP").unwrap(), 8080)).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{version}", version.len());
        let _ = stream.write_all(answer.as_bytes());
    }
}

async fn show(path: &str) {
    let mut before = String::new();
    loop {
        let now = fs::read_to_string(path).unwrap();
        if now != before {
            println!("shown: {now}");
        }
        before = now;
        sleep(Duration::from_millis(100)).await;
    }
}

async fn list() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Config::incluster().unwrap();
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    println!("configmaps in {namespace}: {:?}", outcome(maps.list(&ListParams::default()).await));
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    println!("secrets in {namespace}: {:?}", outcome(secrets.list(&ListParams::default()).await));
}

/// Whether it went well, or the status that says why not.
fn outcome<T: Debug>(answer: kube::Result<T>) -> Result<(), u16> {
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(error) => panic!("{error}"),
    }
}
