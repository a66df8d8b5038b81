//! The life of one pod on our node, from where it is bound to where it is deleted.
//!
//! Knows nothing of how a container runs, only that it does.

use std::{fs, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use futures::future::{join_all, pending};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    container, log,
    machine::Machine,
    problem::Problem,
    status::{Progress, Run},
    volumes::Volumes,
    wall_clock,
};

/// Until what failed is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(250);
/// Between two looks at what the volumes show.
const REFRESH: Duration = Duration::from_secs(1);

/// A pod that lives here.
pub(super) struct Life {
    pub(super) machine: Arc<Machine>,
    /// As it was at first. What of it may change is in [`Life::latest`].
    pub(super) pod: Pod,
    spec: PodSpec,
    pub(super) address: Ipv4Addr,
    /// Its volumes and its containers' roots.
    pub(super) folder: PathBuf,
    pub(super) began_at: Timestamp,
    pub(super) seen: watch::Receiver<Option<Pod>>,
    mounted: watch::Sender<bool>,
    pub(super) progress: watch::Sender<Progress>,
    /// When what has not ended by itself is killed, once it was told to end.
    pub(super) stop: watch::Sender<Option<Instant>>,
}

/// Which container of a pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) init: bool,
    pub(super) index: usize,
}

/// Lives the life of a pod, which comes in its versions; none when it is gone from the API.
pub(super) async fn live(machine: Arc<Machine>, seen: watch::Receiver<Option<Pod>>) {
    let Some(pod) = seen.borrow().clone() else { return };
    let address = loop {
        match machine.addresses.take() {
            Some(address) => break address,
            None => sleep(RETRY).await,
        }
    };
    let life = Life::new(machine, pod, address, seen);
    // What another kubelet of this control plane has left of it, if there was one.
    let _ = fs::remove_dir_all(&life.folder);
    let work = async {
        life.work().await;
        pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        () = life.keep_volumes() => {}
        () = life.report() => {}
        () = life.obey() => {}
    }
    life.machine.addresses.give_back(address);
    // What cannot be removed goes with the control plane.
    let _ = fs::remove_dir_all(&life.folder);
}

impl Life {
    fn new(machine: Arc<Machine>, pod: Pod, address: Ipv4Addr, seen: watch::Receiver<Option<Pod>>) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let waits = if spec.init_containers.is_some() { "PodInitializing" } else { "ContainerCreating" };
        let init = spec.init_containers.iter().flatten();
        let progress = Progress {
            init: init.map(|container| Run::new(container, "ContainerCreating")).collect(),
            containers: spec.containers.iter().map(|container| Run::new(container, waits)).collect(),
            over: false,
        };
        Self {
            folder: machine.folder.join("pods").join(pod.metadata.uid.as_deref().unwrap_or_default()),
            machine,
            pod,
            spec,
            address,
            began_at: wall_clock(),
            seen,
            mounted: watch::Sender::new(false),
            progress: watch::Sender::new(progress),
            stop: watch::Sender::new(None),
        }
    }

    pub(super) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn spec(&self) -> &PodSpec {
        &self.spec
    }

    pub(super) fn latest(&self) -> Pod {
        self.seen.borrow().clone().unwrap_or_else(|| self.pod.clone())
    }

    /// Where the output of a container goes.
    pub(super) fn log(&self, container: &Container) -> PathBuf {
        log(&self.machine.folder, self.namespace(), self.name(), &container.name)
    }

    /// Writes down how far a container has come.
    pub(super) fn tell(&self, place: Place, what: impl FnOnce(&mut Run)) {
        self.progress.send_modify(|progress| {
            let runs = if place.init { &mut progress.init } else { &mut progress.containers };
            what(&mut runs[place.index]);
        });
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Waits until the pod has to end, and tells when it is killed.
    pub(super) async fn stopped(&self) -> Instant {
        let mut stop = self.stop.subscribe();
        match stop.wait_for(Option::is_some).await.map(|stop| *stop) {
            Ok(Some(deadline)) => deadline,
            _ => pending().await,
        }
    }

    /// Sleeps, but not beyond the order to end.
    pub(super) async fn pause(&self, time: Duration) {
        tokio::select! {
            () = sleep(time) => {}
            _ = self.stopped() => {}
        }
    }

    /// Runs the containers; returns when none runs and none will.
    async fn work(&self) {
        let mut mounted = self.mounted.subscribe();
        tokio::select! {
            _ = mounted.wait_for(|mounted| *mounted) => {}
            _ = self.stopped() => {}
        }
        if self.initialise().await {
            let containers = self.spec().containers.iter().enumerate();
            let runs = containers
                .map(|(index, container)| container::run(self, Place { init: false, index }, container));
            join_all(runs).await;
        }
        self.progress.send_modify(|progress| progress.over = true);
    }

    /// Runs the init containers, one after the other, and tells whether all have succeeded.
    async fn initialise(&self) -> bool {
        for (index, container) in self.spec().init_containers.iter().flatten().enumerate() {
            container::run(self, Place { init: true, index }, container).await;
            if self.progress.borrow().init[index].exit_code() != Some(0) {
                return false;
            }
        }
        true
    }

    async fn keep_volumes(&self) {
        let mut volumes = Volumes::default();
        while !self.progress.borrow().over {
            match volumes.refresh(self).await {
                Ok(()) => drop(self.mounted.send_replace(true)),
                Err(problem) if !*self.mounted.borrow() => self.wait_for_volumes(&problem),
                // What is shown stays until there is something else to show.
                Err(_) => {}
            }
            sleep(if *self.mounted.borrow() { REFRESH } else { RETRY }).await;
        }
        pending::<()>().await;
    }

    fn wait_for_volumes(&self, problem: &Problem) {
        self.progress.send_modify(|progress| {
            for run in progress.init.iter_mut().chain(&mut progress.containers) {
                run.wait(problem);
            }
        });
    }

    /// Has the pod end when it is deleted; returns when it is gone from the API.
    async fn obey(&self) {
        let mut seen = self.seen.clone();
        loop {
            let grace = match &*seen.borrow_and_update() {
                None => return,
                Some(pod) => pod.metadata.deletion_timestamp.as_ref().map(|_| grace(pod)),
            };
            if let (Some(grace), false) = (grace, self.stopping()) {
                self.stop.send_replace(Some(Instant::now() + grace));
            }
            if seen.changed().await.is_err() {
                return;
            }
        }
    }
}

fn grace(pod: &Pod) -> Duration {
    Duration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0).unsigned_abs())
}
