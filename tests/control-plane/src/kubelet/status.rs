//! The status of a pod, as its containers are.
//!
//! Knows no client and no clock.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{machine::HOST_ADDRESS, problem::Problem};

/// How far the containers of a pod have come.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) init: Vec<Run>,
    pub(super) containers: Vec<Run>,
    /// Nothing more will run.
    pub(super) over: bool,
}

/// How far one container has come.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) status: ContainerStatus,
    /// It will not run again.
    pub(super) over: bool,
}

impl Run {
    /// It has not run yet.
    pub(super) fn new(container: &Container, reason: &str) -> Self {
        let status = ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            state: Some(waiting(reason, None)),
            started: Some(false),
            ..ContainerStatus::default()
        };
        Self { status, over: false }
    }

    /// It waits for something.
    pub(super) fn wait(&mut self, problem: &Problem) {
        self.status.state = Some(waiting(problem.reason, Some(&problem.message)));
    }

    /// It runs, as that process.
    pub(super) fn run(&mut self, id: i32, started_at: Timestamp) {
        self.status.container_id = Some(format!("process://{id}"));
        let running = ContainerStateRunning { started_at: Some(Time(started_at)) };
        self.status.state = Some(ContainerState { running: Some(running), ..ContainerState::default() });
    }

    /// It has ended.
    pub(super) fn end(&mut self, exit_code: i32, started_at: Timestamp, finished_at: Timestamp) {
        let terminated = ContainerStateTerminated {
            container_id: self.status.container_id.clone(),
            exit_code,
            reason: Some(if exit_code == 0 { "Completed" } else { "Error" }.to_owned()),
            started_at: Some(Time(started_at)),
            finished_at: Some(Time(finished_at)),
            ..ContainerStateTerminated::default()
        };
        self.status.state =
            Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
        self.status.ready = false;
        self.status.started = Some(false);
    }

    /// It has ended and will run again, after a while.
    pub(super) fn back_off(&mut self, message: &str) {
        self.status.last_state = self.status.state.replace(waiting("CrashLoopBackOff", Some(message)));
    }

    /// It runs again.
    pub(super) fn again(&mut self) {
        self.status.restart_count += 1;
    }

    /// It will not run again; where it was about to, it counts as ended.
    pub(super) fn finish(&mut self) {
        if self.waits() && self.status.last_state.is_some() {
            self.status.state = self.status.last_state.take();
        }
        self.over = true;
    }

    /// With what it has ended; nothing while it runs or waits.
    pub(super) fn exit_code(&self) -> Option<i32> {
        Some(self.status.state.as_ref()?.terminated.as_ref()?.exit_code)
    }

    pub(super) fn waits(&self) -> bool {
        self.status.state.as_ref().is_some_and(|state| state.waiting.is_some())
    }

    fn never_ran(&self) -> bool {
        self.waits() && self.status.last_state.is_none()
    }

    fn succeeded(&self) -> bool {
        self.over && self.exit_code() == Some(0)
    }
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    let waiting =
        ContainerStateWaiting { reason: Some(reason.to_owned()), message: message.map(str::to_owned) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// The status to write; `before` are the conditions that were written last.
pub(super) fn status(
    pod: &Pod,
    address: Ipv4Addr,
    began_at: Timestamp,
    progress: &Progress,
    before: &[PodCondition],
    now: Timestamp,
) -> PodStatus {
    let list = |runs: &[Run]| {
        let statuses: Vec<_> = runs.iter().map(|run| run.status.clone()).collect();
        (!statuses.is_empty()).then_some(statuses)
    };
    PodStatus {
        phase: Some(phase(progress).to_owned()),
        conditions: Some(conditions(pod, progress, before, now)),
        init_container_statuses: list(&progress.init),
        container_statuses: list(&progress.containers),
        host_ip: Some(HOST_ADDRESS.to_owned()),
        host_ips: Some(vec![HostIP { ip: HOST_ADDRESS.to_owned() }]),
        pod_ip: Some(address.to_string()),
        pod_ips: Some(vec![PodIP { ip: address.to_string() }]),
        start_time: Some(Time(began_at)),
        ..PodStatus::default()
    }
}

fn phase(progress: &Progress) -> &'static str {
    let Progress { init, containers, .. } = progress;
    if init.iter().any(|run| run.over && !run.succeeded()) {
        return "Failed";
    }
    if !init.iter().all(Run::succeeded) || containers.iter().any(Run::never_ran) {
        return "Pending";
    }
    match containers.iter().all(|run| run.over) {
        true if containers.iter().all(Run::succeeded) => "Succeeded",
        true => "Failed",
        false => "Running",
    }
}

fn conditions(pod: &Pod, progress: &Progress, before: &[PodCondition], now: Timestamp) -> Vec<PodCondition> {
    let phase = phase(progress);
    let initialised = unmet("init containers", &progress.init, Run::succeeded, "ContainersNotInitialized");
    let ready = match phase {
        "Succeeded" => Some(("PodCompleted", None)),
        "Failed" => Some(("PodFailed", None)),
        _ => unmet("containers", &progress.containers, |run| run.status.ready, "ContainersNotReady"),
    };
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let holds = |gate: &str| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.clone().any(|condition| condition.type_ == gate && condition.status == "True")
    };
    let missing = gates.map(|gate| &gate.condition_type).find(|gate| !holds(gate));
    let missing = missing.map(|gate| {
        (
            "ReadinessGatesNotReady",
            Some(format!("corresponding condition of pod readiness gate {gate:?} is not true")),
        )
    });
    [
        ("Initialized", initialised),
        ("Ready", ready.clone().or(missing)),
        ("ContainersReady", ready),
        ("PodScheduled", None),
    ]
    .map(|(kind, unmet)| condition(kind, unmet, before, now))
    .into()
}

/// Why a condition does not hold.
type Unmet = Option<(&'static str, Option<String>)>;

fn unmet(what: &str, runs: &[Run], holds: impl Fn(&Run) -> bool, reason: &'static str) -> Unmet {
    let names: Vec<_> = runs.iter().filter(|run| !holds(run)).map(|run| run.status.name.as_str()).collect();
    let state = if what == "containers" { "unready" } else { "incomplete" };
    let message = format!("{what} with {state} status: [{}]", names.join(" "));
    (!names.is_empty()).then_some((reason, Some(message)))
}

fn condition(kind: &str, unmet: Unmet, before: &[PodCondition], now: Timestamp) -> PodCondition {
    let status = if unmet.is_none() { "True" } else { "False" };
    let same = before.iter().find(|condition| condition.type_ == kind && condition.status == status);
    let since = same.and_then(|condition| condition.last_transition_time.clone());
    let (reason, message) = unmet.map_or((None, None), |(reason, message)| (Some(reason), message));
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        message,
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..PodCondition::default()
    }
}

#[cfg(test)]
mod tests;
