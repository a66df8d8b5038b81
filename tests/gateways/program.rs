//! A program that runs beside the tests and never outlives them.

use std::{
    fs::{self, DirEntry},
    io::{self, BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// Runs its arguments, tells their process id, and kills them when we are gone, in whatever way: then its input ends.
const GUARD: &str = r#""$@" </dev/null >"$0" 2>&1 & echo $!; read -r _; kill -KILL $!; wait"#;

pub struct Program {
    guard: Child,
    input: Option<ChildStdin>,
    id: String,
    log: PathBuf,
}

impl Program {
    pub fn start(program: &Path, arguments: &[String], environment: &[(&str, &Path)], log: PathBuf) -> Self {
        let mut guard = Command::new("/bin/sh")
            .args(["-c", GUARD])
            .arg(&log)
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut id = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut id).unwrap();
        let input = guard.stdin.take();
        Self { guard, input, id: id.trim().to_owned(), log }
    }

    /// Sends a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("/bin/kill").args([&format!("-{name}"), &self.id]).status().unwrap();
        assert!(sent.success(), "SIG{name} does not reach {}", self.id);
    }

    /// Halts it. A signal stops the threads of a program one after the other; returns when all stand still.
    pub fn pause(&self) {
        self.signal("STOP");
        let stands = |thread: io::Result<DirEntry>| {
            let state = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        };
        while !fs::read_dir(format!("/proc/{}/task", self.id)).unwrap().all(stands) {
            sleep(Duration::from_millis(1));
        }
    }

    /// The last that it said.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        let _ = fs::File::open(&self.log).and_then(|mut file| file.read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.guard.wait();
    }
}
