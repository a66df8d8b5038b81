//! Controllers beside one another, as processes: one leads, and when it goes, however it goes, another does.

use std::{
    fs::File,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use control_plane::Part;
use credential_operator::{admission::Account, api::ApiTokenState, controller::election::LEASE};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::DeleteParams};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::{
    Admission,
    case::{credential, object},
    clean_up,
};
use crate::support::{DEADLINE, OPERATOR_NAMESPACE, OPERATOR_USER, Space, World};

crate::tests![however_a_leader_goes_another_works_and_nothing_is_done_twice];

/// How often a leader is killed.
const KILLS: usize = 3;
/// How often a token is created meanwhile.
const LOAD_EVERY: Duration = Duration::from_millis(200);

/// A controller of its own, killed when it is dropped.
struct Process {
    child: Child,
    name: String,
}

impl Process {
    async fn start(world: &World, name: &str) -> Self {
        let account = world.control_plane.service_account(OPERATOR_NAMESPACE, "credential-operator").await;
        let log = File::create(world.control_plane.directory().join(format!("{name}.log"))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_credential-operator"))
            .args(["controller", "--identity", name])
            .env("KUBECONFIG", account.unwrap().kubeconfig())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, name: name.to_owned() }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lease, once that process holds it.
async fn led_by(world: &World, name: &str) -> Lease {
    let leases: Api<Lease> = Api::namespaced(world.admin.clone(), OPERATOR_NAMESPACE);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let lease = leases.get_opt(LEASE).await.ok().flatten();
        let holder = lease.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
        if holder.as_ref().is_some_and(|holder| holder.starts_with(&format!("{name}_"))) {
            return lease.unwrap();
        }
        assert!(Instant::now() < deadline, "{holder:?} holds the lease, and not {name}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Until when it is held if nobody renews it.
fn runs_out(lease: &Lease) -> Timestamp {
    let spec = lease.spec.clone().unwrap();
    spec.renew_time.unwrap().0 + SignedDuration::from_secs(spec.lease_duration_seconds.unwrap().into())
}

/// Creates tokens until it is told to stop; tells their names.
async fn load(space: Space, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut names = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let name = format!("t{}", names.len());
        let token =
            object("ApiToken", &format!("{{name: {name}}}"), "{credentialRef: {name: c}, expiresIn: 1h}");
        space.apply(&token).await;
        names.push(name);
        sleep(LOAD_EVERY).await;
    }
    names
}

async fn however_a_leader_goes_another_works_and_nothing_is_done_twice(world: Arc<World>, space: Space) {
    let admission = Admission::of(&world, &[Account::default()]).await;
    space.apply(&credential("{}")).await;
    let mut leader = Process::start(&world, "c0").await;
    led_by(&world, "c0").await;
    let stop = Arc::new(AtomicBool::new(false));
    let loading = tokio::spawn(load(space.clone(), stop.clone()));

    for number in 1..=KILLS {
        let next = Process::start(&world, &format!("c{number}")).await;
        // One that has nothing to lead is ready for it.
        sleep(Duration::from_secs(1)).await;
        leader.signal(Signal::KILL);
        leader.ended().await;
        led_by(&world, &next.name).await;
        leader = next;
    }

    // Halted for longer than its lease runs, and let go on when another leads: it finds out, and ends.
    let next = Process::start(&world, "after-halt").await;
    leader.signal(Signal::STOP);
    led_by(&world, &next.name).await;
    leader.signal(Signal::CONT);
    assert!(!leader.ended().await.success());

    // Told to stop, it does not have the next one wait until the lease has run out.
    let mut stopping = next;
    let next = Process::start(&world, "after-stop").await;
    sleep(Duration::from_secs(1)).await;
    let held = led_by(&world, &stopping.name).await;
    stopping.signal(Signal::TERM);
    assert!(stopping.ended().await.success());
    let taken = led_by(&world, &next.name).await.spec.unwrap().acquire_time.unwrap().0;
    assert!(taken < runs_out(&held), "the next one led at {taken}, and not before {}", runs_out(&held));

    stop.store(true, Ordering::Relaxed);
    let names = loading.await.unwrap();
    assert!(names.len() > 50, "{} tokens were created meanwhile", names.len());
    for name in &names {
        let issued = space.token(name, ApiTokenState::Active).await;
        assert_eq!(issued.status.unwrap().serial, Some(0), "{name}");
    }
    let created = world.control_plane.audit_log().unwrap().into_iter().filter(|event| {
        let object = event.object_ref.clone().unwrap_or_default();
        event.verb == "create"
            && (object.resource.as_str(), &object.namespace) == ("secrets", &space.namespace)
            && event.user.username == OPERATOR_USER
            && event.response_status.as_ref().is_some_and(|status| status.code == 201)
    });
    assert_eq!(created.count(), names.len(), "a Secret for each token");

    // One that cannot renew its lease does not work on by it.
    let mut alone = next;
    world.control_plane.pause(Part::ApiServer).unwrap();
    let ended = alone.ended().await;
    world.control_plane.resume(Part::ApiServer).unwrap();
    assert!(!ended.success());

    let leases: Api<Lease> = Api::namespaced(world.admin.clone(), OPERATOR_NAMESPACE);
    leases.delete(LEASE, &DeleteParams::default()).await.unwrap();
    admission.stop().await;
    clean_up(&space).await;
}
