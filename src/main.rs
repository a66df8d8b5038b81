//! `credential-operator`: arguments, client, clock and source of randomness. Decides nothing else.

use std::{fs, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand};
use credential_operator::{
    admission::{self, Account},
    api,
    controller::{self, Candidate, Config, Context},
    domain::{clock::Clock, name, reach::Reach, token::Prefix},
    telemetry::{self, LogFormat, health},
    verifier::{
        self, Listen, Source, TlsFiles, Verifier,
        routes::Routes,
        service::{Introspection, Service},
    },
};
use kube::Client;
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// Credentials and expiring API tokens as Kubernetes objects.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller.
    Controller(ControllerArguments),
    /// Take away what the controller bound outside the namespaces of credentials, before it is uninstalled. Credentials, tokens and
    /// Secrets stay.
    Uninstall(CommonArguments),
    /// Run the verifier, which tells gateways and services whether a token is accepted.
    Verifier(Box<VerifierArguments>),
    /// Print the CustomResourceDefinitions, and the admission policies that belong to them, as YAML, for `kubectl apply --server-side -f -`.
    Crds(CrdsArguments),
}

/// What controller and verifier have in common.
#[derive(Args)]
struct CommonArguments {
    /// The operator's own namespace, where its keyring lives.
    #[arg(long, env = "POD_NAMESPACE", default_value = "credential-operator")]
    namespace: String,
    /// The name of the Secret that holds the keyring. The controller creates it when there is none.
    #[arg(long, default_value = name::KEYRING)]
    keyring_secret: String,
    /// The namespaces to work in, such as `orders,stock`: rights are needed there, and elsewhere nothing is read or written.
    /// Without it, in all.
    #[arg(long, value_delimiter = ',', value_parser = namespace)]
    watch_namespaces: Vec<String>,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// What is logged, such as `info` or `info,credential_operator=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
}

impl CommonArguments {
    /// Where to work.
    ///
    /// # Errors
    /// When that is where the keyring lives: who is given a namespace may read the Secrets in it.
    fn reach(&self) -> Result<Reach, String> {
        if self.watch_namespaces.contains(&self.namespace) {
            return Err(format!(
                "--watch-namespaces names {}, where the keyring lives: whoever may read Secrets there could sign tokens; give the \
                 operator a namespace of its own by --namespace, or take this one out",
                self.namespace
            ));
        }
        Ok(Reach::within(self.watch_namespaces.iter().cloned()))
    }
}

#[derive(Args)]
struct ControllerArguments {
    #[command(flatten)]
    common: CommonArguments,
    /// What tokens start with: 2 to 16 lower-case letters and digits, a letter first.
    #[arg(long, default_value = "cop")]
    token_prefix: Prefix,
    /// Where to answer /livez, /readyz and /metrics, always without TLS.
    #[arg(long, default_value = "0.0.0.0:8082")]
    health_listen: SocketAddr,
    /// Work only while no other controller of the namespace does, by a Lease there. Without it, one alone may run.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    leader_elect: bool,
    /// What the holder of the Lease is called, beside some random characters.
    #[arg(long, env = "HOSTNAME", default_value = "credential-operator")]
    identity: String,
    /// Have the API server mint tokens for credentials: ApiTokens of type ServiceAccount, and Kubeconfig credentials. Needs
    /// the right in deploy/service-account-tokens/rights.yaml.
    #[arg(long)]
    service_account_tokens: bool,
}

#[derive(Args)]
struct CrdsArguments {
    /// The ServiceAccount that the controller runs as, NAMESPACE:NAME; of each of several controllers, if there are several.
    /// They alone may write statuses.
    #[arg(long = "controller-account", default_value = "credential-operator:credential-operator")]
    controller_accounts: Vec<Account>,
    /// The controllers' --keyring-secret: the name of the Secret that a controller may change in its own namespace.
    #[arg(long, default_value = name::KEYRING, value_parser = secret_name)]
    keyring_secret: String,
}

#[derive(Args)]
struct VerifierArguments {
    #[command(flatten)]
    common: CommonArguments,
    /// Where to answer: without TLS, a loopback address.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where to answer /livez, /readyz and /metrics, always without TLS.
    #[arg(long, default_value = "0.0.0.0:8081")]
    health_listen: SocketAddr,
    /// The certificate to serve TLS with, and those between it and the root, PEM. Read again when it changes.
    #[arg(long, requires = "tls_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, requires = "tls_cert_file")]
    tls_key_file: Option<PathBuf>,
    /// The authorities of clients, PEM: whoever shows a certificate of theirs may introspect.
    #[arg(long, requires = "tls_cert_file")]
    client_ca_file: Option<PathBuf>,
    /// A YAML file of routes: what a token must be good for at /forward-auth/NAME and /introspect/NAME.
    #[arg(long)]
    routes: Option<PathBuf>,
    /// Offer introspection (RFC 7662). Callers show a Kubernetes token, which needs rights that the verifier has not without
    /// it, or a certificate of --client-ca-file.
    #[arg(long)]
    introspection: bool,
    /// What introspection says tokens are issued by.
    #[arg(long, default_value = "credential-operator")]
    issuer: String,
    /// How old the verifier's knowledge may be, such as 30s; when it is older, nothing is answered. 10s to 10m.
    #[arg(long, default_value = "30s", value_parser = staleness)]
    max_staleness: Duration,
    /// How long to answer on after the word to stop, while /readyz says no already.
    #[arg(long, default_value = "5s", value_parser = duration)]
    stop_after: Duration,
}

fn namespace(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let whole = (1..=63).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-');
    // Nothing between two commas, or in a value that was left empty, must not come to mean all.
    if whole && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("write names of namespaces, such as orders,stock".to_owned())
    }
}

/// What stands in an expression must not be able to end the string there.
fn secret_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if (1..=253).contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("not the name of a Secret; use lower-case letters, digits, - and .".to_owned())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|parsed| parsed.try_into().ok());
    parsed.ok_or_else(|| "write a number and a unit, such as 30s or 5m".to_owned())
}

fn staleness(text: &str) -> Result<Duration, String> {
    let parsed = duration(text)?;
    let allowed = Duration::from_secs(10)..=Duration::from_mins(10);
    if allowed.contains(&parsed) { Ok(parsed) } else { Err("choose 10s to 10m".to_owned()) }
}

struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Controller(arguments) => run(run_controller(arguments)),
        Command::Uninstall(arguments) => run(run_uninstall(arguments)),
        Command::Verifier(arguments) => run(run_verifier(*arguments)),
        Command::Crds(arguments) => print_crds(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn run(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(work);
    // A key that is being drawn in a thread of its own is nobody's yet, and not waited for.
    runtime.shutdown_background();
    outcome
}

fn print_crds(arguments: &CrdsArguments) -> Outcome {
    for crd in api::crds() {
        println!("---\n{}", serde_yaml_ng::to_string(&crd)?.trim_end());
    }
    println!(
        "---\n{}",
        admission::yaml(&arguments.controller_accounts, &arguments.keyring_secret)?.trim_end()
    );
    Ok(())
}

async fn run_controller(arguments: ControllerArguments) -> Outcome {
    let reach = arguments.common.reach()?;
    let client = start(&arguments.common).await?;
    controller::server::ask(&client).await?;
    let config = Config {
        namespace: arguments.common.namespace,
        keyring_secret: arguments.common.keyring_secret,
        token_prefix: arguments.token_prefix,
        service_account_tokens: arguments.service_account_tokens,
        reach,
    };
    let candidate =
        arguments.leader_elect.then(|| candidate(&client, &config.namespace, &arguments.identity));
    let ctx = Context::new(client, Arc::new(SystemClock), Box::new(UnwrapErr(SysRng)), config).guarded();
    let (ctx, stop) = (Arc::new(ctx), stopped()?);
    let listener = health::bind(arguments.health_listen).await?;
    tracing::info!(health = %listener.local_addr()?, "listening");
    let healthy = health::serve(&listener, ctx.clone());
    let running = async {
        match candidate {
            Some(candidate) => controller::run_elected(ctx, candidate, stop).await,
            None => controller::run(ctx, stop).await,
        }
    };
    tokio::select! {
        ended = running => Ok(ended?),
        () = healthy => Ok(()),
    }
}

fn candidate(client: &Client, namespace: &str, identity: &str) -> Candidate {
    Candidate::new(client.clone(), Arc::new(SystemClock), namespace, identity, &mut UnwrapErr(SysRng))
}

async fn run_uninstall(arguments: CommonArguments) -> Outcome {
    let reach = arguments.reach()?;
    let client = start(&arguments).await?;
    let config = Config {
        namespace: arguments.namespace,
        keyring_secret: arguments.keyring_secret,
        token_prefix: Prefix::default(),
        service_account_tokens: false,
        reach,
    };
    let candidate = candidate(&client, &config.namespace, "uninstall");
    let context = || {
        let random = Box::new(UnwrapErr(SysRng));
        Arc::new(Context::new(client.clone(), Arc::new(SystemClock), random, config.clone()))
    };
    controller::uninstall::run(&candidate, context).await?;
    Ok(())
}

async fn run_verifier(arguments: VerifierArguments) -> Outcome {
    let routes = match &arguments.routes {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            Routes::read(&text).map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => Routes::default(),
    };
    let reach = arguments.common.reach()?;
    let client = start(&arguments.common).await?;
    let source = Source {
        namespace: arguments.common.namespace,
        keyring_secret: arguments.common.keyring_secret,
        reach,
        max_staleness: arguments.max_staleness,
    };
    let introspection = arguments
        .introspection
        .then(|| Introspection { reviewer: Some(client.clone()), issuer: arguments.issuer });
    let tls = arguments.tls_cert_file.zip(arguments.tls_key_file).map(|(certificate, key)| TlsFiles {
        certificate,
        key,
        client_authorities: arguments.client_ca_file,
    });
    let listen = Listen {
        address: arguments.listen,
        tls,
        health: arguments.health_listen,
        stop_after: arguments.stop_after,
    };
    let verifier = Arc::new(Verifier::new(source, Arc::new(SystemClock)));
    let service = Arc::new(Service::new(verifier, routes, introspection));
    Box::pin(verifier::run(service, client, listen, |_, _| {}, stopped()?)).await?;
    Ok(())
}

/// Starts logging, and makes the client.
async fn start(common: &CommonArguments) -> Result<Client, Box<dyn std::error::Error>> {
    telemetry::start(common.log_format, &common.log)?;
    // kube's features name the provider too, but another crate that names a second one would make the choice ambiguous.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    let mut config = kube::Config::infer().await?;
    // Every write has a deadline and comes back through the queue; a client that repeats a POST by itself would meet
    // its own first attempt.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Resolves when the process is to stop.
fn stopped() -> std::io::Result<oneshot::Receiver<()>> {
    let (stop, stopped) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("stopping");
        // The receiver is gone only when all has ended by itself.
        let _ = stop.send(());
    });
    Ok(stopped)
}
