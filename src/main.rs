//! `credential-operator`: arguments, client, clock and source of randomness. Decides nothing else.

use std::{process::ExitCode, sync::Arc};

use clap::{Args, Parser, Subcommand};
use credential_operator::{
    api,
    controller::{self, Config, Context},
    domain::{clock::Clock, token::Prefix},
    telemetry::{self, LogFormat},
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
    /// Print the CustomResourceDefinitions as YAML, for `kubectl apply -f -`.
    Crds,
}

#[derive(Args)]
struct ControllerArguments {
    /// The operator's own namespace, where its keyring lives.
    #[arg(long, env = "POD_NAMESPACE", default_value = "credential-operator")]
    namespace: String,
    /// The name of the Secret that holds the keyring. It is created when there is none.
    #[arg(long, default_value = "credential-operator-keyring")]
    keyring_secret: String,
    /// What tokens start with: 2 to 16 lower-case letters and digits, a letter first.
    #[arg(long, default_value = "cop")]
    token_prefix: Prefix,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// What is logged, such as `info` or `info,credential_operator=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
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
        Command::Controller(arguments) => run_controller(arguments),
        Command::Crds => print_crds(),
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

fn print_crds() -> Outcome {
    for crd in api::crds() {
        println!("---\n{}", serde_yaml_ng::to_string(&crd)?.trim_end());
    }
    Ok(())
}

#[tokio::main]
async fn run_controller(arguments: ControllerArguments) -> Outcome {
    telemetry::start(arguments.log_format, &arguments.log)?;
    // kube's features name the provider too, but another crate that names a second one would make the choice ambiguous.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    let mut config = kube::Config::infer().await?;
    // Every write has a deadline and comes back through the queue; a client that repeats a POST by itself would meet
    // its own first attempt.
    config.default_retry = false;
    let client = Client::try_from(config)?;
    let config = Config {
        namespace: arguments.namespace,
        keyring_secret: arguments.keyring_secret,
        token_prefix: arguments.token_prefix,
    };
    let ctx = Context::new(client, Arc::new(SystemClock), Box::new(UnwrapErr(SysRng)), config);
    let (stop, stopped) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("stopping");
        // The receiver is gone only when the controller has ended by itself.
        let _ = stop.send(());
    });
    controller::run(Arc::new(ctx), stopped).await?;
    Ok(())
}
