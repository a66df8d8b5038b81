//! The processes of a kubelet: all end with it, and with its control plane, however either ends.
//!
//! Each runs under a small shell, as the parts of the control plane do (see `part.rs`), but one pipe holds them all, and
//! the shell tells how its process ended.
//!
//! Knows nothing of pods.

use std::{
    io::{self, PipeReader, PipeWriter},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::JoinHandle,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::oneshot,
};

use crate::{Error, file, part::Janitor};

/// Runs its arguments, tells their process id and how they ended, and kills the group when either they or we end. Its
/// first argument is the log.
const GUARD: &str = r#"
trap : HUP INT TERM PIPE
exec 3<&0 4>&2 2>>"$1"
shift
{ read -r _ <&3; kill -KILL 0; } >/dev/null &
"$@" </dev/null >&2 3<&- &
echo $!
wait $!
echo $?
kill -KILL 0
"#;

/// What the shell of a process that was killed with it could not tell.
const KILLED: i32 = 137;

/// What processes of pods find their programs by, unless the pod says otherwise.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Holds the processes of one kubelet, and the thread that looks after them.
#[derive(Debug)]
pub(crate) struct Leash {
    held: Mutex<Option<Held>>,
    thread: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

#[derive(Debug)]
struct Held {
    /// What the shells read from; they kill when nobody holds the other end.
    order: PipeReader,
    _other_end: PipeWriter,
    /// The folder of the control plane stays until the processes have ended.
    folder: Option<PipeWriter>,
}

impl Leash {
    pub(crate) fn new(janitor: &Janitor) -> Result<Self, Error> {
        let (order, other_end) = io::pipe().map_err(file("make a pipe"))?;
        let held = Held { order, _other_end: other_end, folder: janitor.hold()? };
        Ok(Self { held: Mutex::new(Some(held)), thread: Mutex::default() })
    }

    /// Has a thread end with the processes: it is told by the channel, then waited for.
    pub(super) fn bind(&self, stop: oneshot::Sender<()>, thread: JoinHandle<()>) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some((stop, thread));
    }

    /// Ends all processes at once, and the thread. To be called again does nothing.
    pub(crate) fn let_go(&self) {
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = thread {
            // Who has ended already hears nothing and needs not.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }

    /// Starts a process whose output goes to the end of the log.
    pub(super) async fn start(&self, log: &Path, command: &[String]) -> io::Result<Process> {
        let mut guard = self.guard(log, command)?;
        let output = guard.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut told = BufReader::new(output).lines();
        let id = told.next_line().await?.unwrap_or_default();
        let id = id.parse().ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let group = guard.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Process { guard, told, id, group, code: None })
    }

    fn guard(&self, log: &Path, command: &[String]) -> io::Result<Child> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let folder = held.folder.as_ref().map(PipeWriter::try_clone).transpose()?;
        Command::new("/bin/sh")
            .args(["-c", GUARD, "kubelet"])
            .arg(log)
            .args(command)
            .env_clear()
            .env("PATH", PATH)
            .process_group(0)
            .stdin(held.order.try_clone()?)
            .stdout(Stdio::piped())
            .stderr(folder.map_or_else(Stdio::null, Stdio::from))
            .spawn()
    }
}

/// The leashes of a control plane's kubelets. A process that nobody ends would keep the control plane from ending.
#[derive(Debug, Default)]
pub(crate) struct Leashes(Mutex<Vec<Weak<Leash>>>);

impl Leashes {
    pub(crate) fn add(&self, leash: Leash) -> Arc<Leash> {
        let leash = Arc::new(leash);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&leash));
        leash
    }
}

impl Drop for Leashes {
    fn drop(&mut self) {
        let leashes = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        leashes.iter().filter_map(Weak::upgrade).for_each(|leash| leash.let_go());
    }
}

/// One running process. Dropping it kills it, and whatever it has started.
#[derive(Debug)]
pub(super) struct Process {
    guard: Child,
    told: Lines<BufReader<ChildStdout>>,
    id: Pid,
    group: Option<Pid>,
    code: Option<i32>,
}

impl Process {
    pub(super) fn id(&self) -> i32 {
        self.id.as_raw_pid()
    }

    /// Waits for the end, and tells the exit code; of what a signal has ended, 128 more than the signal. May be dropped
    /// and called again.
    pub(super) async fn ended(&mut self) -> i32 {
        if let Some(code) = self.code {
            return code;
        }
        // Nothing told, or no longer to be heard: somebody has killed the whole group.
        let told = self.told.next_line().await.ok().flatten();
        let code = told.and_then(|code| code.parse().ok()).unwrap_or(KILLED);
        self.code = Some(code);
        code
    }

    /// Asks it to end (SIGTERM).
    pub(super) fn terminate(&self) {
        if self.code.is_none() {
            // It may have ended just now, which is what was asked for.
            let _ = kill_process(self.id, Signal::TERM);
        }
    }

    /// Ends it, and whatever it has started (SIGKILL).
    pub(super) fn kill(&mut self) {
        // Once its shell is waited for, the id of the group may be somebody else's.
        let runs = self.guard.try_wait().is_ok_and(|status: Option<ExitStatus>| status.is_none());
        if let (true, Some(group)) = (runs, self.group) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
