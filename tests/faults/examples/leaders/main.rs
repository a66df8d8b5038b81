//! Kills one leading controller after another while tokens come, go and end, then has two lead at once; tells how soon others
//! took over, and what was wrong.
//!
//! ```console
//! $ cargo run --release --example leaders -- --kills 50 --together 40
//! ```
//!
//! Each controller is a process of its own: this program, run again.

mod users;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::{Parser, Subcommand};
use credential_operator::{
    api::ApiTokenState,
    controller::{self, Candidate, Config, Context, election::LEASE},
    domain::{reach::Reach, token::Prefix},
    telemetry::{self, LogFormat},
};
use faults::{
    asked::Asked,
    checker::Checker,
    run::{KEYRING, Violation},
    space::{DEADLINE, Outcome, ROLES_EVERYWHERE, RunClock, Space, clock},
    state,
    world::World,
};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, runtime::watcher};
use rand::{
    RngExt, SeedableRng,
    rand_core::UnwrapErr,
    rngs::{StdRng, SysRng},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use users::{first_value, settle, token, use_it};

/// How long a leader is left to work before it is killed.
const LEADS_FOR: Duration = Duration::from_secs(1);
/// How many tokens are asked for while a leader is killed.
const BATCH: usize = 10;
/// How long after the first of them at most.
const MIDST: Duration = Duration::from_millis(150);

/// What is allowed in the namespace of the run, beside what deploy/controller.yaml does in the operator's own.
const LEASES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: leases}
rules:
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create, get, list, watch, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: leases}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: leases}
subjects: [{kind: ServiceAccount, name: credential-operator, namespace: credential-operator}]
";

/// Has controllers lead one after another, and two at a time.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// How many leaders to kill.
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// For how many seconds two lead at once.
    #[arg(long, default_value_t = 40)]
    together: u64,
    /// What users do is drawn by it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand)]
enum Role {
    /// What this program runs itself as.
    #[command(hide = true)]
    Controller {
        namespace: String,
        name: String,
        /// Without asking whether another leads.
        #[arg(long)]
        unelected: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.role {
        Some(Role::Controller { namespace, name, unelected }) => {
            control(namespace, name, !unelected).await.map(|()| true)
        }
        None => Box::pin(attack(&arguments)).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a controller until it is killed, or does not lead any more.
async fn control(namespace: &str, name: &str, elected: bool) -> Outcome {
    telemetry::start(LogFormat::Text, "info").map_err(text)?;
    // The parent has it from the control plane that it started.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = kube::Config::infer().await.map_err(text)?;
    config.default_retry = false;
    let client = kube::Client::try_from(config).map_err(text)?;
    let config = Config {
        namespace: namespace.to_owned(),
        keyring_secret: KEYRING.to_owned(),
        token_prefix: Prefix::default(),
        service_account_tokens: false,
        reach: Reach::default(),
    };
    let candidate = Candidate::new(
        client.clone(),
        Arc::new(RunClock::default()),
        namespace,
        name,
        &mut UnwrapErr(SysRng),
    );
    let ctx = Context::new(client, Arc::new(RunClock::default()), Box::new(UnwrapErr(SysRng)), config);
    let (_never, stop) = oneshot::channel();
    let ended = if elected {
        controller::run_elected(Arc::new(ctx), candidate, stop).await
    } else {
        controller::run(Arc::new(ctx), stop).await
    };
    ended.map_err(text)
}

async fn attack(arguments: &Arguments) -> Outcome<bool> {
    eprintln!("starting a control plane");
    let world = World::start().await?;
    let space = world.space("leaders").await?;
    space.policy(ROLES_EVERYWHERE).await?;
    space.apply(LEASES).await?;
    let clock = clock();
    let checker = Checker::watch(&space, clock.clone());
    let follows = world.control_plane.admin().client().map_err(text)?;
    let verifier = Asked::start(follows, &space.namespace, clock.clone(), true).await?;
    let mut cast = Cast { world: &world, space: &space, started: 0 };
    let stop = AtomicBool::new(false);
    let play = async {
        let (used, took) = tokio::join!(use_it(&space, &clock, arguments.seed, &stop), async {
            let took = lead(&mut cast, arguments).await;
            stop.store(true, Ordering::Relaxed);
            took
        });
        let (used, (took, last)) = (used?, took?);
        println!("{} kills; {took}", arguments.kills);
        let said = settle(&space, &used).await?;
        println!("{said}");
        checker.conclude(&verifier).await;
        Outcome::Ok(last)
    };
    let last = tokio::select! {
        last = play => last?,
        () = checker.present_to(&verifier) => unreachable!("it never ends"),
    };
    drop(last);
    let requests = world.requests(&space)?;
    let violations = checker.end(&space, &requests, true).await;
    for Violation { law, what } in &violations {
        println!("{law}: {what}");
    }
    let never_named = checker.never_named();
    println!(
        "{} violations; {never_named} values that no status ever named; the slowest Secret was gone {:.1} s after its end",
        violations.len(),
        checker.slowest_end().as_secs_f32()
    );
    state::release(&space).await;
    Ok(violations.is_empty())
}

/// A controller, killed when it is dropped.
struct Controller {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Controller {
    fn signal(&self, signal: Signal) -> Outcome {
        kill_process(Pid::from_child(&self.child), signal).map_err(text)
    }

    /// What it said last: its log goes with the control plane.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Waits until it has ended, by itself or not.
    async fn ended(&mut self) -> Outcome {
        let ends = async {
            while let Ok(None) = self.child.try_wait() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = timeout(DEADLINE, ends).await;
        ended.map_err(|_| format!("{} goes on:\n{}", self.name, self.last_words()))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where controllers come from.
struct Cast<'a> {
    world: &'a World,
    space: &'a Space,
    started: usize,
}

impl Cast<'_> {
    fn start(&mut self, elected: bool) -> Outcome<Controller> {
        let name = format!("l{}", self.started);
        self.started += 1;
        let log = self.world.control_plane.directory().join(format!("{name}.log"));
        let start = || {
            let file = File::create(&log)?;
            Command::new(std::env::current_exe()?)
                .args(["controller", &self.space.namespace, &name])
                .args((!elected).then_some("--unelected"))
                .env("KUBECONFIG", self.world.operator.kubeconfig())
                .stdin(Stdio::null())
                .stdout(file.try_clone()?)
                .stderr(file)
                .spawn()
        };
        let child = start().map_err(text)?;
        Ok(Controller { name, child, log })
    }

    /// Waits until it holds the lease.
    async fn led_by(&self, controller: &Controller) -> Outcome {
        let leases: Api<Lease> = Api::namespaced(self.space.client.clone(), &self.space.namespace);
        let holder = format!("{}_", controller.name);
        let held = async {
            let mut seen = std::pin::pin!(watcher::watch_object(leases, LEASE));
            while let Some(lease) = seen.next().await {
                let lease = lease.ok().flatten().and_then(|lease| lease.spec?.holder_identity);
                if lease.is_some_and(|held_by| held_by.starts_with(&holder)) {
                    return;
                }
            }
        };
        let held = timeout(DEADLINE, held).await;
        held.map_err(|_| format!("{} does not lead:\n{}", controller.name, controller.last_words()))
    }

    /// Asks for tokens.
    async fn ask(&self, names: &[String]) -> Outcome {
        let tokens: Vec<_> = names.iter().map(|name| token(name, 0, "expiresIn: 1h")).collect();
        self.space.apply(&tokens.join("---\n")).await
    }

    /// Waits until they are there, with the first values that they had.
    async fn issued(&self, names: &[String]) -> Outcome {
        for name in names {
            let found = self.space.token(name, ApiTokenState::Active).await?;
            first_value(name, &found)?;
        }
        Ok(())
    }
}

/// Has leaders come and go; tells how soon others took over, and leaves those that work in the end.
async fn lead(cast: &mut Cast<'_>, arguments: &Arguments) -> Outcome<(String, Vec<Controller>)> {
    let mut random = StdRng::seed_from_u64(arguments.seed);
    let mut leader = cast.start(true)?;
    cast.led_by(&leader).await?;
    let (mut taken, mut issued) = (Vec::new(), Vec::new());
    for kill in 0..arguments.kills {
        let next = cast.start(true)?;
        sleep(LEADS_FOR).await;
        // Killed somewhere in the midst of them.
        let names: Vec<_> = (0..BATCH).map(|number| format!("k{kill}-{number}")).collect();
        let (asked, killed) = tokio::join!(cast.ask(&names), async {
            sleep(MIDST.mul_f32(random.random())).await;
            leader.signal(Signal::KILL).map(|()| Instant::now())
        });
        asked?;
        let killed_at = killed?;
        leader.ended().await?;
        let (led, works) =
            tokio::join!(async { cast.led_by(&next).await.map(|()| killed_at.elapsed()) }, async {
                cast.issued(&names).await.map(|()| killed_at.elapsed())
            },);
        taken.push(led?);
        issued.push(works?);
        leader = next;
        eprintln!("kill {}: {:.1} s", kill + 1, taken[kill].as_secs_f32());
    }
    // Halted until another leads; it goes on where it was, and has to find out.
    let next = cast.start(true)?;
    leader.signal(Signal::STOP)?;
    cast.led_by(&next).await?;
    leader.signal(Signal::CONT)?;
    let went_on_at = Instant::now();
    leader.ended().await?;
    let ended = went_on_at.elapsed().as_secs_f32();

    // As if the lease had been given to two.
    drop(next);
    let two = vec![cast.start(false)?, cast.start(false)?];
    sleep(Duration::from_secs(arguments.together)).await;
    for mut controller in two {
        if let Ok(Some(status)) = controller.child.try_wait() {
            return Err(format!(
                "{} ended by itself: {status}\n{}",
                controller.name,
                controller.last_words()
            ));
        }
    }
    let last = cast.start(false)?;
    let told = format!(
        "another led after {}, all tokens were issued after {}; one that was halted ended {ended:.1} s after it went on; two led for {} s",
        range(&mut taken),
        range(&mut issued),
        arguments.together
    );
    Ok((told, vec![last]))
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}

/// The least, the median and the most.
fn range(times: &mut [Duration]) -> String {
    times.sort();
    let [least, median, most] = [0, times.len() / 2, times.len().saturating_sub(1)]
        .map(|at| times.get(at).copied().unwrap_or_default().as_secs_f32());
    format!("{least:.1} to {most:.1} s (median {median:.1} s)")
}
