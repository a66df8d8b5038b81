//! Processes that never outlive us, without any unsafe code.
//!
//! Each runs under a small shell in a process group of its own, so that Ctrl-C, which a terminal sends to the group of
//! its user, does not reach it. The shell reads from a pipe that only we hold: when we end, in whatever way, the pipe
//! closes and the shell kills the group.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{Error, Part, file};

/// Descriptor 3 is the pipe: the shell would give its background process an empty standard input in place of ours.
const GUARD: &str =
    r#"exec 3<&0; "$@" 3<&- </dev/null & echo $!; exec >/dev/null; read -r _ <&3; kill -KILL 0"#;

/// Waits for the processes of the folder to be gone before the folder goes.
const SWEEP: &str = r#"read -r _; sleep 0.5; while :; do rm -rf "$1" && break; sleep 0.2; done"#;

/// One running part.
#[derive(Debug)]
pub(crate) struct Process {
    part: Part,
    program: PathBuf,
    directory: PathBuf,
    arguments: Vec<String>,
    guard: Child,
    id: u32,
}

impl Process {
    pub(crate) fn start(
        part: Part,
        program: &Path,
        directory: &Path,
        arguments: &[String],
    ) -> Result<Self, Error> {
        let (guard, id) = spawn(part, program, directory, arguments)?;
        Ok(Self {
            part,
            program: program.to_owned(),
            directory: directory.to_owned(),
            arguments: arguments.to_vec(),
            guard,
            id,
        })
    }

    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        self.stop();
        (self.guard, self.id) = spawn(self.part, &self.program, &self.directory, &self.arguments)?;
        Ok(())
    }

    pub(crate) fn part(&self) -> Part {
        self.part
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn ended(&self) -> bool {
        self.pid().is_none_or(|pid| test_kill_process(pid).is_err())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Error> {
        let sent = self
            .pid()
            .map_or(Err(rustix::io::Errno::SRCH), |pid| kill_process(pid, signal));
        sent.map_err(|source| Error::Signal {
            part: self.part,
            source,
        })
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.id.try_into().ok()?)
    }

    fn stop(&mut self) {
        // Closing the pipe is the order to kill; the guard ends with its group.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(part: Part, program: &Path, directory: &Path, arguments: &[String]) -> Result<(Child, u32), Error> {
    let log = directory.join(format!("{part}.log"));
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(file(format!("open {}", log.display())))?;
    let mut guard = shell(GUARD)
        .arg(program)
        .args(arguments)
        .current_dir(directory)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(file(format!("start {part}")))?;
    let mut line = String::new();
    if let Some(stdout) = guard.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(file(format!("start {part}")))?;
    }
    let id = line.trim().parse().map_err(|error| Error::File {
        what: format!("read the process id of {part}"),
        source: std::io::Error::other(error),
    })?;
    Ok((guard, id))
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", script, "control-plane"])
        .stdin(Stdio::piped())
        .process_group(0);
    command
}

/// Removes the folder of a control plane after its user has ended.
#[derive(Debug)]
pub(crate) struct Janitor(Child);

impl Janitor {
    pub(crate) fn new(directory: &Path) -> Result<Self, Error> {
        let mut command = shell(SWEEP);
        command.arg(directory).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self).map_err(file("start the janitor"))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
