//! Helm, as a program.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::CHART;

/// What a program says; an error where it fails.
pub fn run(
    program: &Path,
    arguments: &[&str],
    kubeconfig: Option<&Path>,
    input: &str,
) -> Result<String, String> {
    let mut process = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("KUBECONFIG", kubeconfig.unwrap_or(Path::new("/dev/null")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // From a thread of its own: who writes what is being read would wait for himself.
    let mut stdin = process.stdin.take().unwrap();
    let input = input.to_owned();
    let written = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = process.wait_with_output().unwrap();
    // Who fails may not have read all.
    let _ = written.join().unwrap();
    let (said, complaint) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    if output.status.success() { Ok(said) } else { Err(said + &complaint) }
}

pub fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/external/helm");
    assert!(program.is_file(), "{} is not there; see tests/external/install", program.display());
    program
}

/// Helm, where no cluster is needed.
pub fn render(arguments: &[&str]) -> Result<String, String> {
    run(&program(), arguments, None, "")
}

pub fn template(namespace: &str, rest: &[&str]) -> Result<String, String> {
    render(&[&["template", "credential-operator", CHART, "--namespace", namespace], rest].concat())
}
