//! One scenario under one plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use credential_operator::{
    controller::{self, Config, Context, ControllerError},
    domain::{clock::Clock, reach::Reach, token::Prefix},
};
use jiff::{SignedDuration, Timestamp};
use kube::{Client, client::ClientBuilder};
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    asked::Asked,
    body::FROZEN,
    bug::{Bug, BugLayer},
    checker::Checker,
    plan::{Plan, Request},
    scenario,
    space::{self, DEADLINE, Outcome, ROLES_EVERYWHERE, RunClock, Space, clock},
    state::{MINTED, Spare, State},
    wire::{Instance as WireInstance, Signal, Wire, WireLayer},
    world::{Undisturbed, World},
};

/// How long a part of the control plane is paused.
const PAUSED: Duration = FROZEN;
/// How long nothing may be written for a run to count as calm.
const CALM: Duration = Duration::from_millis(1_200);
/// How long a request takes at most from an operator that was killed to the API server.
const ON_ITS_WAY: Duration = Duration::from_millis(100);
/// The Secret that the keys are in.
pub const KEYRING: &str = "credential-operator-keyring";

/// A clock that is slow by a minute.
struct Late(Arc<RunClock>);

impl Clock for Late {
    fn now(&self) -> Timestamp {
        self.0.now() - SignedDuration::from_mins(1)
    }
}

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant of docs/invariants.md, or `state` or `counts`: another end than undisturbed.
    pub law: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.law, self.what)
    }
}

/// What came of a run.
pub struct Report {
    /// The plan.
    pub plan: Plan,
    /// What must never be and was.
    pub violations: Vec<Violation>,
    /// What there was in the end.
    pub state: Option<State>,
    /// The operator's writes until the end.
    pub writes: Vec<Request>,
    /// How many of the plan's faults had no occasion to strike.
    pub not_struck: usize,
    /// The longest time from a value's end to the end of its Secret.
    pub slowest_end: Duration,
}

impl Report {
    fn of(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            violations: Vec::new(),
            state: None,
            writes: Vec::new(),
            not_struck: 0,
            slowest_end: Duration::ZERO,
        }
    }

    /// A run that could not be.
    #[must_use]
    pub fn failed(plan: &Plan, why: String) -> Self {
        Self { violations: vec![Violation { law: "L1", what: why }], ..Self::of(plan) }
    }
}

/// An operator at work.
struct Running {
    wire: Arc<WireInstance>,
    task: JoinHandle<Result<(), ControllerError>>,
    // Dropped, it would have the operator stop in peace.
    _stop: oneshot::Sender<()>,
}

/// A scenario under way.
pub struct Run<'a> {
    world: &'a World,
    /// Where.
    pub space: Space,
    /// The operator's clock.
    pub clock: Arc<RunClock>,
    wire: Arc<Wire>,
    bug: Option<Bug>,
    operators: Mutex<BTreeMap<usize, Running>>,
    started: AtomicUsize,
    signals: tokio::sync::Mutex<mpsc::UnboundedReceiver<Signal>>,
    ended: Mutex<Vec<String>>,
}

impl<'a> Run<'a> {
    /// A namespace of its own and an operator in it.
    ///
    /// # Errors
    /// When they cannot be made.
    pub async fn start(world: &'a World, plan: &Plan, bug: Option<Bug>) -> Outcome<Self> {
        let space = world.space(&plan.scenario).await?;
        space.policy(ROLES_EVERYWHERE).await?;
        if bug.is_some_and(Bug::is_unguarded) {
            space.unguard().await?;
        }
        let clock = clock();
        let (sender, signals) = mpsc::unbounded_channel();
        let wire = Wire::new(&space.namespace, clock.clone(), &plan.injections, sender);
        let run = Self {
            world,
            space,
            clock,
            wire,
            bug,
            operators: Mutex::default(),
            started: AtomicUsize::new(0),
            signals: tokio::sync::Mutex::new(signals),
            ended: Mutex::default(),
        };
        run.start_operator();
        Ok(run)
    }

    fn operators(&self) -> MutexGuard<'_, BTreeMap<usize, Running>> {
        self.operators.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one more operator.
    pub fn start_operator(&self) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let wire = self.wire.instance(number);
        let mut config = self.world.operator.config();
        config.default_retry = false;
        let Ok(builder) = ClientBuilder::try_from(config) else {
            return;
        };
        let wired = builder.with_layer(&WireLayer(wire.clone()));
        let client = match self.bug {
            Some(bug) => wired.with_layer(&BugLayer(bug)).build(),
            None => wired.build(),
        };
        let config = Config {
            namespace: self.space.namespace.clone(),
            keyring_secret: KEYRING.to_owned(),
            token_prefix: Prefix::default(),
            service_account_tokens: true,
            reach: Reach::default(),
        };
        let random = Box::new(UnwrapErr(SysRng));
        let ctx = Arc::new(Context::new(client, self.clock.clone(), random, config));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(controller::run(ctx, stopped));
        self.operators().insert(number, Running { wire, task, _stop: stop });
    }

    /// Starts a verifier that follows the namespace.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_verifier(&self) -> Outcome<Asked> {
        let mut config = self.world.control_plane.admin().config();
        config.default_retry = false;
        let builder = ClientBuilder::try_from(config).map_err(|error| error.to_string())?;
        let wire = self.wire.verifier(self.bug.and_then(Bug::unheard));
        let client: Client = builder.with_layer(&WireLayer(wire)).build();
        let clock: Arc<dyn Clock> = match self.bug {
            Some(Bug::LateVerifier) => Arc::new(Late(self.clock.clone())),
            _ => self.clock.clone(),
        };
        let careful = self.bug != Some(Bug::AnyAudience);
        Asked::start(client, &self.space.namespace, clock, careful).await
    }

    /// Kills every operator.
    pub fn stop_operators(&self) {
        let numbers: Vec<_> = self.operators().keys().copied().collect();
        for number in numbers {
            self.kill(number);
        }
    }

    fn kill(&self, number: usize) -> bool {
        let Some(killed) = self.operators().remove(&number) else {
            return false;
        };
        killed.wire.die();
        if killed.task.is_finished() {
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.push("an operator ended by itself".to_owned());
        }
        killed.task.abort();
        true
    }

    /// Does what the wire asks for, as long as the run goes on.
    async fn supervise(&self) {
        let mut signals = self.signals.lock().await;
        while let Some(signal) = signals.recv().await {
            match signal {
                Signal::Kill(number) => {
                    // Long enough for an answer to be heard where the plan says so.
                    sleep(Duration::from_millis(20)).await;
                    if self.kill(number) {
                        self.start_operator();
                    }
                }
                Signal::SecondLeader => self.start_operator(),
                Signal::Pause(part, paused) => {
                    let _ = self.world.control_plane.pause(part);
                    let _ = paused.send(());
                    sleep(PAUSED).await;
                    let _ = self.world.control_plane.resume(part);
                }
            }
        }
    }

    /// Waits until no operator has written for a while.
    async fn calm(&self) {
        let (mut writes, mut since) = (self.wire.writes().len(), Instant::now());
        while since.elapsed() < CALM {
            sleep(Duration::from_millis(50)).await;
            let now = self.wire.writes().len();
            if now != writes {
                (writes, since) = (now, Instant::now());
            }
        }
    }

    /// Ends it and has the namespace deleted.
    pub async fn end(self) {
        self.stop_operators();
        crate::state::release(&self.space).await;
        self.world.forget(&self.space);
    }
}

/// Runs a plan. Without an undisturbed run to compare with, only the laws are checked.
pub async fn run(world: &World, plan: &Plan, bug: Option<Bug>, undisturbed: Option<&Undisturbed>) -> Report {
    let Some(drive) = scenario::find(&plan.scenario) else {
        let known: Vec<_> = scenario::all().map(|(name, _)| name).collect();
        return Report::failed(
            plan,
            format!("there is no scenario {:?}; there are {known:?}", plan.scenario),
        );
    };
    let run = match Run::start(world, plan, bug).await {
        Ok(run) => run,
        Err(why) => return Report::failed(plan, why),
    };
    let checker = Checker::watch(&run.space, run.clock.clone());
    let mut report = Report::of(plan);
    let verifier = match run.start_verifier().await {
        Ok(verifier) => verifier,
        Err(why) => return Report::failed(plan, why),
    };
    let watched = async {
        if let Err(why) = drive(&run).await {
            report.violations.push(Violation { law: "L1", what: why });
        } else {
            settle(&run, &checker, undisturbed, &mut report).await;
            checker.conclude(&verifier).await;
            // One that knows only what there is now answers alike.
            match run.start_verifier().await {
                Ok(another) => match another.ready().await {
                    Ok(()) => checker.conclude(&another).await,
                    Err(why) => report.violations.push(Violation { law: "L1", what: why }),
                },
                Err(why) => report.violations.push(Violation { law: "L1", what: why }),
            }
        }
    };
    tokio::select! {
        () = watched => {}
        () = run.supervise() => {}
        () = checker.present_to(&verifier) => {}
    }
    run.stop_operators();
    report.not_struck = run.wire.not_struck();
    let requests = world.requests(&run.space).unwrap_or_default();
    report.violations.extend(checker.end(&run.space, &requests, plan.may_race()).await);
    report.slowest_end = checker.slowest_end();
    let ended = std::mem::take(&mut *run.ended.lock().unwrap_or_else(PoisonError::into_inner));
    report.violations.extend(ended.into_iter().map(|what| Violation { law: "crash", what }));
    run.end().await;
    report
}

/// Waits until all is as it is in an undisturbed run, and stays so over a restart.
async fn settle(run: &Run<'_>, checker: &Checker, undisturbed: Option<&Undisturbed>, report: &mut Report) {
    let state = async || {
        let audit = run.world.audit(&run.space).unwrap_or_default();
        State::read(&run.space, &audit).await
    };
    let deadline = Instant::now() + DEADLINE;
    let reached = loop {
        if undisturbed.is_none() {
            run.calm().await;
        }
        let state = state().await;
        let equal = undisturbed.is_none_or(|undisturbed| undisturbed.state.objects == state.objects);
        if equal || Instant::now() >= deadline {
            break state;
        }
        sleep(Duration::from_millis(150)).await;
    };
    report.writes = run.wire.writes();
    // Another operator that knows nothing finds all as it should be.
    run.stop_operators();
    // What it sent last may still be on its way, and the log says of a request when it arrived, but not at once.
    sleep(ON_ITS_WAY).await;
    let restarted_at = space::wall_clock();
    run.start_operator();
    sleep(CALM).await;
    let mut counts = BTreeSet::new();
    let audit = run.world.audit(&run.space).unwrap_or_default();
    for event in audit.into_iter().filter(|event| event.request_received_timestamp >= restarted_at) {
        let object = event.object_ref.unwrap_or_default();
        let read = ["get", "list", "watch"].contains(&event.verb.as_str());
        let refused = event.response_status.is_some_and(|status| status.code >= 300);
        // The count of a credential's tokens, or of a policy's credentials, may have been due just then.
        let counted = ["credentials", "credentialpolicies"].contains(&object.resource.as_str());
        let count = counted && object.subresource == "status";
        if !(read || refused || count && counts.insert((object.resource.clone(), object.name.clone()))) {
            let what = format!("a restart wrote: {} {}", event.verb, event.request_uri);
            report.violations.push(Violation { law: "S13", what });
        }
    }
    let last = state().await;
    if let Some(undisturbed) = undisturbed {
        let two_leaders = report.plan.has_two_leaders();
        // Each fault may leave a Secret of which nobody knows whether a token was minted for it; of two leaders, each may
        // take that of the other for one.
        let mints = undisturbed.state.counts.keys().any(|what| what.ends_with(MINTED));
        let spare = Spare {
            secrets: if report.plan.may_race() { checker.never_named() } else { 0 },
            mints: usize::from(mints) * report.plan.injections.len() * if two_leaders { 4 } else { 1 },
            two_leaders,
        };
        report.violations.extend(undisturbed.state.differences(&last, &spare));
    } else if last.objects != reached.objects {
        report.violations.extend(reached.differences(&last, &Spare::default()));
    }
    report.state = Some(last);
}
