//! The node that we are: it takes every pod that has none, and lives the lives of those that are its own.
//!
//! Knows nothing of what a pod does.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::Write,
    path::PathBuf,
    pin::pin,
    sync::Arc,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{
    address::Addresses,
    image::Images,
    leash::Leash,
    pod::{RETRY, live},
    report::{at_once, gone},
    root::Isolation,
    wall_clock,
};

/// The name of the node.
pub(super) const NODE: &str = "node";
/// Where the node is.
pub(super) const HOST_ADDRESS: &str = "127.0.0.1";

/// What the pods of a node share.
pub(super) struct Machine {
    pub(super) client: Client,
    pub(super) leash: Arc<Leash>,
    pub(super) folder: PathBuf,
    pub(super) images: Images,
    pub(super) isolation: Isolation,
    /// Host and port of the API server.
    pub(super) server: (String, String),
    pub(super) addresses: Addresses,
}

impl Machine {
    /// Makes the node known, ready for pods.
    pub(super) async fn register(&self) -> kube::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let labels = json!({
            "kubernetes.io/hostname": NODE,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        });
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE, "labels": labels },
        });
        let applied = PatchParams::apply("kubelet").force();
        nodes.patch(NODE, &applied, &Patch::Apply(node)).await?;
        // Who would lift the taint that the API server puts on a new node does not run here.
        let untainted = Patch::Merge(json!({ "spec": { "taints": null } }));
        nodes.patch(NODE, &PatchParams::default(), &untainted).await?;
        let room = json!({ "cpu": "64", "memory": "256Gi", "ephemeral-storage": "256Gi", "pods": "250" });
        let status = json!({
            "capacity": room,
            "allocatable": room,
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
            "addresses": [
                { "type": "InternalIP", "address": HOST_ADDRESS },
                { "type": "Hostname", "address": NODE },
            ],
        });
        let patch = Patch::Merge(json!({ "status": status }));
        nodes.patch_status(NODE, &PatchParams::default(), &patch).await.map(drop)
    }

    /// Follows the pods for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let mut events = pin!(watcher(pods, watcher::Config::default()).default_backoff());
        let mut lives =
            Lives { machine: self, known: HashMap::new(), listed: BTreeSet::new(), tasks: JoinSet::new() };
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(pod)) => lives.see(pod),
                Ok(Event::Delete(pod)) => lives.lose(&pod.uid().unwrap_or_default()),
                Ok(Event::Init) => lives.listed.clear(),
                Ok(Event::InitApply(pod)) => {
                    lives.listed.extend(pod.uid());
                    lives.see(pod);
                }
                Ok(Event::InitDone) => lives.lose_the_unlisted(),
                // It watches again by itself.
                Err(error) => lives.machine.note("watch pods", &error),
            }
        }
    }

    /// Writes down what went wrong and is tried again, which no status tells.
    pub(super) fn note(&self, what: &str, error: &dyn std::error::Error) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("kubelet.log"));
        // Without a log there is nowhere to say so.
        let _ = log.and_then(|mut log| writeln!(log, "{} could not {what}: {error}", wall_clock()));
    }

    /// Takes a pod that has no node.
    async fn bind(&self, pod: &Pod) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name, "uid": pod.uid() },
            "target": { "apiVersion": "v1", "kind": "Node", "name": NODE },
        });
        loop {
            let bound: kube::Result<Value> =
                pods.create_subresource("binding", &name, &PostParams::default(), &binding).await;
            match bound {
                Err(error) if !gone(&error) => self.note(&format!("bind pod {name}"), &error),
                _ => return,
            }
            sleep(RETRY).await;
        }
    }

    /// Deletes a pod of which nothing runs any more.
    pub(super) async fn delete(&self, pod: &Pod) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        loop {
            match pods.delete(&name, &at_once(pod)).await {
                Err(error) if !gone(&error) => self.note(&format!("delete pod {name}"), &error),
                _ => return,
            }
            sleep(RETRY).await;
        }
    }

    /// Waits for the deletion of a pod that had ended before we came.
    async fn wait_out(&self, mut seen: watch::Receiver<Option<Pod>>) {
        let deleted =
            |pod: &Option<Pod>| pod.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        let pod = seen.wait_for(deleted).await.ok().and_then(|pod| pod.clone());
        if let Some(pod) = pod {
            self.delete(&pod).await;
        }
    }
}

/// The pods of a node by their ids.
struct Lives {
    machine: Arc<Machine>,
    known: HashMap<String, watch::Sender<Option<Pod>>>,
    /// Those of a list that is not complete yet.
    listed: BTreeSet<String>,
    tasks: JoinSet<()>,
}

impl Lives {
    fn see(&mut self, pod: Pod) {
        // Those that have ended are of no interest.
        while self.tasks.try_join_next().is_some() {}
        let machine = self.machine.clone();
        match pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
            None if pod.metadata.deletion_timestamp.is_none() && !gated(&pod) => {
                self.tasks.spawn(async move { machine.bind(&pod).await });
            }
            Some(NODE) => self.of_ours(pod),
            _ => {}
        }
    }

    fn of_ours(&mut self, pod: Pod) {
        let uid = pod.uid().unwrap_or_default();
        if let Some(life) = self.known.get(&uid) {
            life.send_replace(Some(pod));
            return;
        }
        let machine = self.machine.clone();
        let ended = ended(&pod);
        let (life, seen) = watch::channel(Some(pod));
        self.known.insert(uid, life);
        self.tasks.spawn(async move {
            if ended {
                machine.wait_out(seen).await;
            } else {
                Box::pin(live(machine, seen)).await;
            }
        });
    }

    fn lose(&mut self, uid: &str) {
        if let Some(life) = self.known.remove(uid) {
            life.send_replace(None);
        }
    }

    fn lose_the_unlisted(&mut self) {
        let unlisted: Vec<_> = self.known.keys().filter(|uid| !self.listed.contains(*uid)).cloned().collect();
        for uid in unlisted {
            self.lose(&uid);
        }
    }
}

fn gated(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .is_some_and(|spec| spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()))
}

fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
