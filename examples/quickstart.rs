//! See it work: `cargo run --example quickstart`.
//!
//! Starts a Kubernetes control plane of its own, installs the operator there and runs it with exactly the rights of
//! `deploy/controller.yaml`, beside it a verifier with those of `deploy/verifier.yaml`, applies the YAML files of this folder,
//! and shows what comes of them: the objects, a token, a service that takes it, the rights of the identity, and the end of a
//! token that lives for a minute. Whatever is printed was answered by the API server and by the verifier.
//!
//! - `--keep` leaves all of it running until Ctrl-C.
//! - `--context NAME` does the same on a cluster of yours.

#[path = "quickstart/cluster.rs"]
mod cluster;
#[path = "quickstart/error.rs"]
mod error;
#[path = "quickstart/guarded.rs"]
mod guarded;
#[path = "quickstart/tour.rs"]
mod tour;

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
use credential_operator::{
    admission::{self, Account},
    api::{self, ApiToken},
    controller::{self, Config, Context, ControllerError},
    domain::{clock::Clock, name, reach::Reach, token::Prefix},
    telemetry::{self, LogFormat},
};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::ListParams,
    runtime::wait::{await_condition, conditions},
};
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
    time::Instant,
};

use crate::{
    cluster::{ASK_EVERY, Cluster, NAMESPACE, reason, who},
    error::{Error, PATIENCE, While, within},
    guarded::Guarded,
    tour::{IDENTITY, tour},
};

const OPERATOR: &str = "credential-operator";
const VERIFIER: &str = "credential-operator-verifier";
const RBAC: [&str; 3] = [
    include_str!("../deploy/namespace.yaml"),
    include_str!("../deploy/controller.yaml"),
    include_str!("../deploy/verifier.yaml"),
];
/// See it work: a control plane, the operator, a token, and its end.
#[derive(Parser)]
struct Arguments {
    /// Leave everything running until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Use the cluster of this context of your kubeconfig, instead of starting one. The operator must not run there.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// What the operator logs, such as `info` or `info,credential_operator=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "warn")]
    log: String,
}

struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// How the quickstart ended, where it did not fail.
enum End {
    Shown,
    Interrupted,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match Box::pin(run(&arguments)).await {
        Ok(End::Shown) => ExitCode::SUCCESS,
        // There is no other way to end it.
        Ok(End::Interrupted) if arguments.keep => ExitCode::SUCCESS,
        // What a shell reports of a program that Ctrl-C ended.
        Ok(End::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("\nerror: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<End, Error> {
    let started = Instant::now();
    let mut interrupt = Interrupt::new().or_could_not("listen for Ctrl-C")?;
    // Another provider may be installed already; either will do.
    let _ = rustls::crypto::ring::default_provider().install_default();

    heading("The cluster");
    let cluster = async {
        match &arguments.context {
            Some(context) => Cluster::existing(context).await,
            None => Cluster::start().await,
        }
    };
    let cluster = tokio::select! {
        cluster = cluster => cluster?,
        () = interrupt.received() => return Ok(End::Interrupted),
    };
    println!("  {}, {}", cluster.describe().await?, after(started));
    // Not earlier: while a control plane starts, every request of ours that comes too soon would be logged.
    telemetry::start(LogFormat::Text, &arguments.log).or_could_not("start logging")?;

    let outcome = Box::pin(operate(&cluster, &mut interrupt, started, arguments.keep)).await;
    if cluster.is_the_users() {
        tell_what_is_left(&cluster);
    }
    outcome
}

/// Shows everything with the operator running, and stops it in the end.
async fn operate(
    cluster: &Cluster,
    interrupt: &mut Interrupt,
    started: Instant,
    keep: bool,
) -> Result<End, Error> {
    let (mut operator, guarded) = tokio::select! {
        running = install(cluster) => running?,
        () = interrupt.received() => return Ok(End::Interrupted),
    };
    let seen = async {
        Box::pin(tour(cluster, &guarded, started)).await?;
        tell_how_to_go_on(cluster, &guarded, keep);
        if keep {
            std::future::pending::<()>().await;
        }
        Ok(End::Shown)
    };
    let outcome = tokio::select! {
        outcome = seen => outcome,
        error = operator.ended() => Err(error),
        () = interrupt.received() => Ok(End::Interrupted),
    };
    if matches!(outcome, Ok(End::Interrupted)) {
        println!("\n  stopping");
    }
    operator.stop().await;
    guarded.stop().await;
    outcome
}

/// Puts the kinds and the rights into the cluster, and starts the operator and the verifier with them.
async fn install(cluster: &Cluster) -> Result<(Operator, Guarded), Error> {
    heading("The operator");
    for crd in api::crds() {
        let yaml = serde_yaml_ng::to_string(&crd).or_could_not("write a CustomResourceDefinition as YAML")?;
        cluster.apply(&yaml).await?;
    }
    for rights in RBAC {
        cluster.apply(rights).await?;
    }
    let crds: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    for crd in api::crds() {
        let name = crd.metadata.name.unwrap_or_default();
        let established = async {
            let condition = conditions::is_crd_established();
            await_condition(crds.clone(), &name, condition).await.or_could_not(format!("watch {name}"))
        };
        within(PATIENCE, format!("{name} to be Established"), established).await?;
    }
    let policies = admission::yaml(&[Account::default()], name::KEYRING)
        .or_could_not("write the admission policies as YAML")?;
    cluster.apply(&policies).await?;
    let client = cluster.service_account(OPERATOR, OPERATOR).await?;
    // The API server grants a binding's rights, and serves an Established kind, a moment after it says so.
    let tokens: Api<ApiToken> = Api::all(client.clone());
    let served = async {
        loop {
            match tokens.list(&ListParams::default().limit(1)).await {
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                    tokio::time::sleep(ASK_EVERY).await;
                }
                listed => {
                    return listed.map_err(reason).or_could_not("list ApiTokens as the operator");
                }
            }
        }
    };
    within(PATIENCE, "the operator to be allowed to list ApiTokens", served).await?;
    println!("  running as {}", who(&client).await?);
    let verifier = cluster.service_account(OPERATOR, VERIFIER).await?;
    println!("  the verifier as {}", who(&verifier).await?);
    Ok((Operator::start(client), Guarded::start(verifier).await?))
}

/// The operator, in a task.
struct Operator {
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), ControllerError>>,
}

impl Operator {
    fn start(client: Client) -> Self {
        let config = Config {
            namespace: OPERATOR.to_owned(),
            keyring_secret: format!("{OPERATOR}-keyring"),
            token_prefix: Prefix::default(),
            service_account_tokens: false,
            reach: Reach::default(),
        };
        let ctx = Context::new(client, Arc::new(SystemClock), Box::new(UnwrapErr(SysRng)), config).guarded();
        let (stop, stopped) = oneshot::channel();
        Self { stop, running: tokio::spawn(controller::run(Arc::new(ctx), stopped)) }
    }

    /// Returns only when the operator ends though nobody stopped it.
    async fn ended(&mut self) -> Error {
        Error::Operator(match (&mut self.running).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.into()),
            Err(error) => Some(error.into()),
        })
    }

    async fn stop(self) {
        // Where it has ended already, that was told, and nobody is there to be stopped.
        if self.stop.send(()).is_ok() {
            let _ = self.running.await;
        }
    }
}

fn tell_how_to_go_on(cluster: &Cluster, guarded: &Guarded, keep: bool) {
    heading("By hand");
    if keep {
        println!("  All of it runs on. In another shell:\n");
        for line in cluster.exports() {
            println!("{line}");
        }
    } else {
        println!("  With --keep all of it runs on until Ctrl-C, and you can try:\n");
    }
    let revoke = r#"{"spec":{"revoked":true}}"#;
    let deactivate = r#"{"spec":{"state":"Inactive"}}"#;
    let identity = format!("--as=system:serviceaccount:{NAMESPACE}:{IDENTITY}");
    for command in [
        &["explain", "apitoken.spec"][..],
        &["describe", "atok", "nightly-export"],
        &["auth", "can-i", "list", "pods", &identity],
        &["patch", "atok", "night-shift", "--type=merge", "-p", revoke],
        &["patch", "cred", "edge-nodes", "--type=merge", "-p", deactivate],
        &["get", "access", "-o", "wide"],
    ] {
        println!("{}", cluster.command(command));
    }
    if keep {
        let value = ["get", "secret", "night-shift-token", "--template={{.data.token | base64decode}}"];
        let value = cluster.command(&value);
        println!("curl -i -H \"Authorization: Bearer $({value})\" {}/orders", guarded.url);
        println!("\n  Ctrl-C stops it.");
    }
}

/// What stays in a cluster that is the user's, and how to be rid of it.
fn tell_what_is_left(cluster: &Cluster) {
    heading("What is left in your cluster");
    println!(
        "  The operator ran in this program and has stopped; the objects stay until you delete them. The second of"
    );
    println!(
        "  these commands deletes every credential and token in the cluster, not only those of this example.\n"
    );
    for objects in [
        &["atok/quickstart-one-minute", "atok/night-shift", "atok/nightly-export", "cred/edge-nodes"][..],
        &["crd/apitokens.credential-operator.io", "crd/credentials.credential-operator.io"],
        &[
            "clusterrolebinding/credential-operator",
            "clusterrolebinding/credential-operator-verifier",
            "clusterrole/credential-operator",
            "clusterrole/credential-operator-verifier",
            "namespace/credential-operator",
        ],
    ] {
        let delete = ["delete", "--ignore-not-found"];
        println!("{}", cluster.command(&[&delete, objects].concat()));
    }
}

fn heading(text: &str) {
    println!("\n== {text}");
}

fn after(started: Instant) -> String {
    format!("after {:.1} s", started.elapsed().as_secs_f64())
}

/// Ctrl-C, or the polite signal of whatever runs this.
struct Interrupt(Signal, Signal);

impl Interrupt {
    fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}
