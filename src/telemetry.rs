//! Logs, and what kubelet and Prometheus ask.

pub mod health;

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Starts logging to standard error, filtered by `RUST_LOG` syntax in `filter`.
///
/// # Errors
/// When `filter` is not of that syntax.
pub fn start(format: LogFormat, filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    // kube-client logs a whole response body at WARN when it cannot parse it, and a body may be a Secret.
    let filter = EnvFilter::try_new(format!("{filter},kube_client::client=error"))?;
    let lines = match format {
        LogFormat::Text => {
            // Colours are for people; what collects logs would keep their codes.
            fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).boxed()
        }
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(())
}
