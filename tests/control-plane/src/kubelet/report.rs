//! What the API is told of a pod: its status, and at last that it may go.
//!
//! Knows nothing of how a pod runs.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::time::sleep;

use super::{
    pod::{Life, RETRY},
    status::status,
    wall_clock,
};

impl Life {
    /// Keeps the status as the containers are. Returns when the pod was to end and has, and was deleted.
    pub(super) async fn report(&self) {
        let (mut progress, mut seen, mut stop) =
            (self.progress.subscribe(), self.seen.clone(), self.stop.subscribe());
        let mut written = PodStatus::default();
        let first = self.pod.status.as_ref().and_then(|status| status.conditions.clone());
        let mut conditions = first.unwrap_or_default();
        loop {
            let stopping = stop.borrow_and_update().is_some();
            let pod = seen.borrow_and_update().clone().unwrap_or_default();
            let now = progress.borrow_and_update().clone();
            let wanted = status(&pod, self.address, self.began_at, &now, &conditions, wall_clock());
            if wanted != written {
                match self.write(&wanted).await {
                    Ok(()) => conditions = wanted.conditions.clone().unwrap_or_default(),
                    Err(kube::Error::Api(status)) if status.is_not_found() => return,
                    Err(error) => {
                        self.machine.note(&format!("write the status of pod {}", self.name()), &error);
                        sleep(RETRY).await;
                        continue;
                    }
                }
                written = wanted;
            }
            if now.over && stopping {
                return self.machine.delete(&self.pod).await;
            }
            tokio::select! {
                _ = progress.changed() => {}
                _ = seen.changed() => {}
                _ = stop.changed() => {}
            }
        }
    }

    async fn write(&self, status: &PodStatus) -> kube::Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.machine.client.clone(), self.namespace());
        // By the id, the status of a pod is not written to its successor of the same name.
        let patch = json!({ "metadata": { "uid": self.pod.metadata.uid }, "status": status });
        pods.patch_status(self.name(), &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
    }
}

/// Whether the pod is no more, or another one has its name.
pub(super) fn gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found() || status.is_conflict())
}

/// Deletes this pod and no other one of its name.
pub(super) fn at_once(pod: &Pod) -> DeleteParams {
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), ..Preconditions::default() };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) }
}
