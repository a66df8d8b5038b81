//! Kills one leading controller after another while tokens come, go and end, then has two lead at once; tells how soon others
//! took over, and what was wrong.
//!
//! ```console
//! $ cargo run --release --example leaders -- --kills 50 --together 40
//! ```
//!
//! Each controller is a process of its own: this program, run again.

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
    api::{ApiToken, ApiTokenState, Credential},
    controller::{self, Candidate, Config, Context, election::LEASE},
    domain::{clock::Clock, reach::Reach, token::Prefix},
    telemetry::{self, LogFormat},
};
use faults::{
    asked::Asked,
    checker::Checker,
    run::{KEYRING, Violation},
    scenario::credential_with,
    space::{DEADLINE, ELSEWHERE, Outcome, ROLES_EVERYWHERE, RunClock, Space, clock},
    state,
    world::World,
};
use futures::StreamExt;
use jiff::SignedDuration;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{Api, ResourceExt, api::ListParams, runtime::watcher};
use rand::{
    RngExt, SeedableRng,
    rand_core::UnwrapErr,
    rngs::{StdRng, SysRng},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

/// How often users do something.
const LOAD_EVERY: Duration = Duration::from_millis(500);
/// How long a leader is left to work before it is killed.
const LEADS_FOR: Duration = Duration::from_secs(1);
/// How many tokens are asked for while a leader is killed.
const BATCH: usize = 10;
/// How long after the first of them at most.
const MIDST: Duration = Duration::from_millis(150);
/// How many credentials have tokens.
const CREDENTIALS: usize = 4;

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
    let text = |error: &dyn std::error::Error| error.to_string();
    telemetry::start(LogFormat::Text, "info").map_err(|error| text(&error))?;
    // The parent has it from the control plane that it started.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = kube::Config::infer().await.map_err(|error| text(&error))?;
    config.default_retry = false;
    let client = kube::Client::try_from(config).map_err(|error| text(&error))?;
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
    ended.map_err(|error| text(&error))
}

async fn attack(arguments: &Arguments) -> Outcome<bool> {
    eprintln!("starting a control plane");
    let world = World::start().await?;
    let space = world.space("leaders").await?;
    space.policy(ROLES_EVERYWHERE).await?;
    space.apply(LEASES).await?;
    let clock = clock();
    let checker = Checker::watch(&space, clock.clone());
    let follows = world.control_plane.admin().client().map_err(|error| error.to_string())?;
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
        kill_process(Pid::from_child(&self.child), signal).map_err(|error| error.to_string())
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
        let child = start().map_err(|error: std::io::Error| error.to_string())?;
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

/// The least, the median and the most.
fn range(times: &mut [Duration]) -> String {
    times.sort();
    let [least, median, most] = [0, times.len() / 2, times.len().saturating_sub(1)]
        .map(|at| times.get(at).copied().unwrap_or_default().as_secs_f32());
    format!("{least:.1} to {most:.1} s (median {median:.1} s)")
}

/// What a token is to be in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Active,
    Revoked,
    Expired,
    Deleted,
}

fn token(name: &str, credential: usize, spec: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: ApiToken\nmetadata: {{name: {name}}}\n\
         spec: {{credentialRef: {{name: c{credential}}}, {spec}}}\n"
    )
}

/// What users do, until they are to stop. Tells what each token is to be.
async fn use_it(space: &Space, clock: &RunClock, seed: u64, stop: &AtomicBool) -> Outcome<Vec<Fate>> {
    let mut random = StdRng::seed_from_u64(seed);
    let view = "{kind: ClusterRole, name: view}";
    let roles = [
        format!("roles: [{view}]"),
        format!("roles: [{view}, {{kind: ClusterRole, name: view, namespace: {ELSEWHERE}}}]"),
        format!("roles: [{view}, {{kind: ClusterRole, name: view, clusterWide: true}}]"),
    ];
    let apply =
        async |number: usize, roles: &str| space.apply(&credential_with(&format!("c{number}"), roles)).await;
    for number in 0..CREDENTIALS {
        apply(number, &roles[0]).await?;
    }
    let mut fates = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = random.random_range(0..CREDENTIALS);
        let alive: Vec<_> = (0..fates.len()).filter(|at| fates[*at] == Fate::Active).collect();
        let chosen = alive.get(random.random_range(0..alive.len().max(1))).copied();
        match (random.random_range(0..8), chosen) {
            (0, Some(chosen)) => {
                space.patch::<ApiToken>(&format!("t{chosen}"), json!({"spec": {"revoked": true}})).await?;
                fates[chosen] = Fate::Revoked;
            }
            (1, Some(chosen)) => {
                space.delete::<ApiToken>(&format!("t{chosen}")).await?;
                fates[chosen] = Fate::Deleted;
            }
            (2, _) => apply(number, &roles[random.random_range(0..roles.len())]).await?,
            (3, _) => {
                let name = format!("c{number}");
                space.patch::<Credential>(&name, json!({"spec": {"state": "Inactive"}})).await?;
                sleep(LOAD_EVERY).await;
                space.patch::<Credential>(&name, json!({"spec": {"state": "Active"}})).await?;
            }
            (4, _) => {
                let end = clock.now() + SignedDuration::from_secs(random.random_range(5..30));
                space
                    .apply(&token(&format!("t{}", fates.len()), number, &format!("expiresAt: {end:.0}")))
                    .await?;
                fates.push(Fate::Expired);
            }
            _ => {
                space.apply(&token(&format!("t{}", fates.len()), number, "expiresIn: 1h")).await?;
                fates.push(Fate::Active);
            }
        }
        sleep(LOAD_EVERY).await;
    }
    Ok(fates)
}

fn first_value(name: &str, token: &ApiToken) -> Outcome {
    let serial = token.status.as_ref().and_then(|status| status.serial);
    if serial == Some(0) {
        return Ok(());
    }
    Err(format!("ApiToken {name} has another value than its first: serial {serial:?}"))
}

/// Waits until each token is what it is to be, with a Secret if it is alive, and tells how many there were.
async fn settle(space: &Space, fates: &[Fate]) -> Outcome<String> {
    for (number, fate) in fates.iter().enumerate() {
        let name = format!("t{number}");
        let state = match fate {
            Fate::Active => ApiTokenState::Active,
            Fate::Revoked => ApiTokenState::Revoked,
            Fate::Expired => ApiTokenState::Expired,
            Fate::Deleted => {
                space.gone::<ApiToken>(&name).await?;
                space.gone::<Secret>(&format!("{name}-token")).await?;
                continue;
            }
        };
        let found = space.token(&name, state).await?;
        let secret = space.api::<Secret>().get_opt(&format!("{name}-token")).await;
        let has_secret = secret.map_err(|error| error.to_string())?.is_some();
        if has_secret != (*fate == Fate::Active) {
            return Err(format!("ApiToken {name} is {state:?}, and that it has a Secret is {has_secret}"));
        }
        if *fate == Fate::Active {
            first_value(&name, &found)?;
        }
    }
    let count = |fate: Fate| fates.iter().filter(|found| **found == fate).count();
    let secrets = space.api::<Secret>().list_metadata(&ListParams::default()).await;
    let secrets = secrets.map_err(|error| error.to_string())?;
    let of_tokens = secrets.iter().filter(|secret| secret.name_any().starts_with('t')).count();
    Ok(format!(
        "{} tokens: {} active, {} revoked, {} ended, {} deleted; {of_tokens} Secrets",
        fates.len(),
        count(Fate::Active),
        count(Fate::Revoked),
        count(Fate::Expired),
        count(Fate::Deleted)
    ))
}
