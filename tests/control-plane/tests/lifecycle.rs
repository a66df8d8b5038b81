//! A control plane starts, bears what tests do to it, and is gone when its user is, however that ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use control_plane::{ControlPlane, Kubelet, Part};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, PostParams},
    runtime::wait::await_condition,
};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

/// Set for a child that is this very test binary.
const CHILD: &str = "CONTROL_PLANE_CHILD";

#[tokio::test]
async fn it_serves_and_survives_pauses_and_restarts() {
    let mut control_plane = ControlPlane::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(control_plane.admin().client().unwrap(), "default");
    let metadata = ObjectMeta { name: Some("kept".to_owned()), ..ObjectMeta::default() };
    maps.create(&PostParams::default(), &ConfigMap { metadata, ..ConfigMap::default() }).await.unwrap();

    control_plane.pause(Part::ApiServer).unwrap();
    assert!(timeout(Duration::from_secs(1), maps.get("kept")).await.is_err());
    control_plane.resume(Part::ApiServer).unwrap();
    maps.get("kept").await.unwrap();

    for part in [Part::Etcd, Part::ApiServer, Part::ControllerManager] {
        control_plane.kill(part).unwrap();
        control_plane.restart(part).await.unwrap();
        maps.get("kept").await.unwrap();
    }
}

#[tokio::test]
async fn users_have_the_rights_that_rbac_gives_them_and_the_audit_log_tells() {
    let control_plane = ControlPlane::start().await.unwrap();
    let alice = control_plane.user("alice", Some("developers")).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(alice.client().unwrap(), "default");
    let denied = maps.delete("anything", &DeleteParams::default()).await.unwrap_err();
    assert!(matches!(denied, kube::Error::Api(status) if status.is_forbidden()));

    let kubectl = control_plane.kubectl().unwrap();
    let asked = Command::new(kubectl)
        .args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}"])
        .env("KUBECONFIG", alice.kubeconfig())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&asked.stdout), r#"alice ["developers","system:authenticated"]"#);

    let log = control_plane.audit_log().unwrap();
    let event = log.iter().find(|event| event.verb == "delete").unwrap();
    assert_eq!(event.user.username, "alice");
    assert_eq!(event.object_ref.as_ref().unwrap().resource, "configmaps");
    assert_eq!(event.response_status.as_ref().unwrap().code, 403);
}

#[tokio::test]
async fn dropping_it_leaves_nothing() {
    let control_plane = ControlPlane::start().await.unwrap();
    let (ids, directory) = (control_plane.process_ids(), control_plane.directory().to_owned());
    assert!(ids.iter().all(|id| runs(*id)));
    drop(control_plane);
    gone(&ids, &directory).await;
}

#[tokio::test]
async fn a_killed_user_leaves_nothing() {
    let (mut child, ids, directory) = child("wait");
    assert!(ids.iter().all(|id| runs(*id)));
    child.kill().unwrap();
    child.wait().unwrap();
    gone(&ids, &directory).await;
}

#[tokio::test]
async fn a_killed_user_leaves_nothing_that_was_paused() {
    let (mut child, ids, directory) = child("pause");
    child.kill().unwrap();
    child.wait().unwrap();
    gone(&ids, &directory).await;
}

#[tokio::test]
async fn a_killed_user_leaves_nothing_of_its_pods() {
    let (mut child, ids, directory) = child("pod");
    assert_eq!(ids.len(), 4);
    assert!(ids.iter().all(|id| runs(*id)));
    child.kill().unwrap();
    child.wait().unwrap();
    gone(&ids, &directory).await;
}

#[tokio::test]
async fn a_node_ends_with_its_kubelet_and_with_its_control_plane() {
    let control_plane = ControlPlane::start().await.unwrap();
    let kubelet = kubelet(&control_plane).await;
    let first = pod(&control_plane, &kubelet).await;
    drop(kubelet);
    stopped(first).await;

    // The pod is still there, for another one to run.
    let kubelet = self::kubelet(&control_plane).await;
    let second = said(&kubelet, 2).await;
    told(&control_plane, second).await;
    assert!(runs(second));
    let directory = control_plane.directory().to_owned();
    drop(control_plane);
    gone(&[second], &directory).await;
    drop(kubelet);
}

async fn kubelet(control_plane: &ControlPlane) -> Kubelet {
    Kubelet::start(control_plane, [("app", "/bin/sh")]).await.unwrap()
}

/// Runs a pod and tells the id of its process.
async fn pod(control_plane: &ControlPlane, kubelet: &Kubelet) -> u32 {
    let pods: Api<Pod> = Api::namespaced(control_plane.admin().client().unwrap(), "default");
    // Two dollars are one, as in any argument of a container.
    let script = "test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo $$$$; exec sleep 1000";
    let container = json!({ "name": "app", "image": "app", "args": ["-c", script] });
    let pod = json!({ "metadata": { "name": "pod" }, "spec": { "containers": [container] } });
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    said(kubelet, 1).await
}

/// What the pod has said as the last of so many lines.
async fn said(kubelet: &Kubelet, lines: usize) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let log = kubelet.log("default", "pod", "app").unwrap();
        if log.lines().count() == lines {
            return log.lines().last().unwrap().parse().unwrap();
        }
        assert!(Instant::now() < deadline, "{log}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the status of the pod says that this process is its container.
async fn told(control_plane: &ControlPlane, id: u32) {
    let pods: Api<Pod> = Api::namespaced(control_plane.admin().client().unwrap(), "default");
    let told = |pod: &Pod| pod.status.as_ref()?.container_statuses.as_ref()?[0].container_id.clone();
    let same = |pod: Option<&Pod>| pod.and_then(told) == Some(format!("process://{id}"));
    timeout(Duration::from_secs(20), await_condition(pods, "pod", same)).await.unwrap().unwrap();
}

async fn stopped(id: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while runs(id) {
        assert!(Instant::now() < deadline, "still there after 10 s: {id}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_part_that_cannot_start_is_named_at_once_with_its_log() {
    let start = ControlPlane::builder().api_server_arg("--no-such-flag").start();
    let error = timeout(Duration::from_secs(10), start).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, control_plane::Error::NotReady { part: Part::ApiServer, log } if log.contains("no-such-flag")),
        "{error}"
    );
}

#[tokio::test]
async fn a_panicking_user_leaves_nothing() {
    let (mut child, ids, directory) = child("panic");
    assert!(!child.wait().unwrap().success());
    gone(&ids, &directory).await;
}

/// Not a test of its own: what the children of the tests above run.
#[tokio::test]
async fn child_of_another_test() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let control_plane = ControlPlane::start().await.unwrap();
    if order == "pause" {
        control_plane.pause(Part::ApiServer).unwrap();
    }
    let mut ids = control_plane.process_ids();
    let mut node = None;
    if order == "pod" {
        let kubelet = kubelet(&control_plane).await;
        ids.push(pod(&control_plane, &kubelet).await);
        node = Some(kubelet);
    }
    // A line of its own: libtest has written the name of the test before it.
    println!("\nrunning {ids:?} {}", control_plane.directory().display());
    assert!(order != "panic", "as ordered");
    std::future::pending::<()>().await;
    drop(node);
}

fn child(order: &str) -> (Child, Vec<u32>, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_of_another_test", "--nocapture"])
        .env(CHILD, order)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.starts_with("running [")).unwrap();
    let (ids, directory) = line.trim_start_matches("running [").split_once("] ").unwrap();
    let ids = ids.split(", ").map(|id| id.parse().unwrap()).collect();
    (child, ids, directory.into())
}

fn runs(id: u32) -> bool {
    let id = rustix::process::Pid::from_raw(id.cast_signed()).unwrap();
    rustix::process::test_kill_process(id).is_ok()
}

async fn gone(ids: &[u32], directory: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while ids.iter().any(|id| runs(*id)) || directory.exists() {
        assert!(Instant::now() < deadline, "still there after 10 s: {ids:?}, {}", directory.display());
        sleep(Duration::from_millis(50)).await;
    }
}
