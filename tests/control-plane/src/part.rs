//! Processes that never outlive us, without any unsafe code.
//!
//! Each runs under a small shell in a process group of its own, so that Ctrl-C, which a terminal sends to the group of
//! its user, does not reach it. The shell reads from a pipe that only we hold: when we end, in whatever way, the pipe
//! closes and the shell kills the group.
//!
//! Knows nothing of what the processes do.

use std::{
    io::{BufRead, BufReader, PipeWriter, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{Error, Part, file};

/// Runs its arguments, tells their process id, and kills the group when either they or we end.
///
/// - We may be gone before the id is told; without the trap, that write would end the shell and leave the part behind.
/// - 3 is the order to end: a background process would be given an empty standard input in place of ours.
/// - 4 (our folder) and 5 (our ear) are held open by the part until the kernel has taken it down.
/// - The wait reaps a part that ends by itself, so that its id is free again and it counts as ended.
const GUARD: &str = r#"
trap : HUP INT TERM PIPE
exec 3<&0 4>&2 2>>"$1"
shift
{ read -r _ <&3; kill -KILL 0; } >/dev/null &
"$@" 5>&1 </dev/null >&2 3<&- &
echo $!
exec >/dev/null
wait $!
kill -KILL 0
"#;

/// Its input ends when neither we nor any part hold it any more.
const SWEEP: &str = r#"trap '' HUP INT TERM; read -r _; rm -rf -- "$1""#;

/// One running part.
#[derive(Debug)]
pub(crate) struct Process {
    part: Part,
    program: PathBuf,
    directory: PathBuf,
    arguments: Vec<String>,
    guarded: Guarded,
}

#[derive(Debug)]
struct Guarded {
    guard: Child,
    /// At its end when the part is gone.
    alive: BufReader<ChildStdout>,
    id: u32,
}

impl Process {
    pub(crate) fn start(
        part: Part,
        program: &Path,
        directory: &Path,
        arguments: Vec<String>,
        janitor: &Janitor,
    ) -> Result<Self, Error> {
        Ok(Self {
            part,
            program: program.to_owned(),
            directory: directory.to_owned(),
            guarded: Guarded::new(part, program, directory, &arguments, janitor)?,
            arguments,
        })
    }

    pub(crate) fn restart(&mut self, janitor: &Janitor) -> Result<(), Error> {
        self.stop();
        self.guarded = Guarded::new(self.part, &self.program, &self.directory, &self.arguments, janitor)?;
        Ok(())
    }

    pub(crate) fn part(&self) -> Part {
        self.part
    }

    pub(crate) fn id(&self) -> u32 {
        self.guarded.id
    }

    pub(crate) fn ended(&self) -> bool {
        self.pid().is_none_or(|pid| test_kill_process(pid).is_err())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Error> {
        let sent = self.pid().map_or(Err(rustix::io::Errno::SRCH), |pid| kill_process(pid, signal));
        sent.map_err(|source| Error::Signal { part: self.part, source })
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.guarded.id.try_into().ok()?)
    }

    /// Returns when the part has let go of its port and files.
    fn stop(&mut self) {
        // Closing the pipe is the order to kill; the guard ends with its group.
        drop(self.guarded.guard.stdin.take());
        let _ = self.guarded.alive.read_to_end(&mut Vec::new());
        let _ = self.guarded.guard.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Guarded {
    fn new(
        part: Part,
        program: &Path,
        directory: &Path,
        arguments: &[String],
        janitor: &Janitor,
    ) -> Result<Self, Error> {
        let failed = || file(format!("start {part}"));
        let mut guard = shell(GUARD)
            .arg(directory.join(format!("{part}.log")))
            .arg(program)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(janitor.pipe()?)
            .spawn()
            .map_err(failed())?;
        let output = guard.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe.into());
        let mut alive = BufReader::new(output.map_err(failed())?);
        let mut line = String::new();
        alive.read_line(&mut line).map_err(failed())?;
        let id = line.trim().parse().map_err(std::io::Error::other).map_err(failed())?;
        Ok(Self { guard, alive, id })
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "control-plane"]).process_group(0);
    command
}

/// Removes the folder of a control plane when its user and its parts have ended.
#[derive(Debug)]
pub(crate) struct Janitor {
    shell: Child,
    pipe: Option<PipeWriter>,
}

impl Janitor {
    pub(crate) fn new(directory: &Path) -> Result<Self, Error> {
        let (input, pipe) = std::io::pipe().map_err(file("make a pipe"))?;
        let mut command = shell(SWEEP);
        command.arg(directory).stdin(input).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { shell: command.spawn().map_err(file("start the janitor"))?, pipe: Some(pipe) })
    }

    fn pipe(&self) -> Result<Stdio, Error> {
        Ok(self.hold()?.map_or_else(Stdio::null, Stdio::from))
    }

    /// The folder stays as long as somebody holds this.
    pub(crate) fn hold(&self) -> Result<Option<PipeWriter>, Error> {
        self.pipe.as_ref().map(PipeWriter::try_clone).transpose().map_err(file("share a pipe"))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.shell.wait();
    }
}
