//! A cluster to try things by hand on: a control plane and a node, until Ctrl-C.
//!
//! ```console
//! $ cargo build
//! $ cargo run --example cluster -- --image registry.example/credential-operator=target/debug/credential-operator
//! ```

use std::{error::Error, path::PathBuf};

use clap::Parser;
use control_plane::{ControlPlane, Kubelet};

/// Starts a cluster, and says how to reach it.
#[derive(Parser)]
struct Arguments {
    /// A program of this machine that stands for an image: REPOSITORY=PATH. May be given more than once.
    #[arg(long, value_parser = image)]
    image: Vec<(String, PathBuf)>,
}

fn image(text: &str) -> Result<(String, PathBuf), String> {
    let (image, program) = text.split_once('=').ok_or("write REPOSITORY=PATH")?;
    let program = PathBuf::from(program).canonicalize().map_err(|error| format!("{program}: {error}"))?;
    Ok((image.to_owned(), program))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    eprintln!("starting a cluster");
    let control_plane = ControlPlane::start().await?;
    let _node = Kubelet::start(&control_plane, arguments.image).await?;
    let kubectl = control_plane.kubectl()?;
    println!("export KUBECONFIG={}", control_plane.admin().kubeconfig().display());
    println!("# kubectl is {}; Ctrl-C ends it, and nothing stays", kubectl.display());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
