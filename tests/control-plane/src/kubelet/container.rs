//! One container of a pod: a process that is started, watched, ended and started again.
//!
//! Knows nothing of the other containers.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::Container;
use tokio::time::{Instant, timeout_at};

use super::{
    action::{Action, act},
    environment::{Environment, environment, expand},
    leash::Process,
    pod::{Life, Place, RETRY},
    probe,
    problem::Problem,
    root::{Mount, enter, lay, on_host},
    status::Run,
    volumes::mounts,
    wall_clock,
};

/// The second restart waits for so long, and each one after it twice as long: a tenth of what a kubelet waits, since it
/// is tests that wait.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LAST_BACK_OFF: Duration = Duration::from_secs(30);
/// Who has run for so long is restarted as if for the first time.
const FORGIVEN_AFTER: Duration = Duration::from_mins(1);

/// Runs a container as often as its pod says; returns when it will not run again.
pub(super) async fn run(life: &Life, place: Place, container: &Container) {
    let mut crashes = 0;
    while !life.stopping() {
        let started = Instant::now();
        let Some(exit_code) = once(life, place, container).await else {
            life.pause(RETRY).await;
            continue;
        };
        if life.stopping() || !restarts(life, place, exit_code) {
            break;
        }
        crashes = if started.elapsed() > FORGIVEN_AFTER { 0 } else { crashes };
        let time = back_off(crashes);
        life.tell(place, |run| run.back_off(&format!("back-off {time:?} restarting failed container")));
        life.pause(time).await;
        crashes += 1;
        if !life.stopping() {
            life.tell(place, Run::again);
        }
    }
    life.tell(place, Run::finish);
}

fn restarts(life: &Life, place: Place, exit_code: i32) -> bool {
    match life.spec().restart_policy.as_deref() {
        Some("Never") => false,
        Some("OnFailure") => exit_code != 0,
        _ => exit_code != 0 || !place.init,
    }
}

/// Before the next restart, of a container that was restarted so often already.
fn back_off(crashes: u32) -> Duration {
    let doubled = crashes.checked_sub(1).map(|times| FIRST_BACK_OFF * 2_u32.pow(times.min(10)));
    doubled.unwrap_or_default().min(LAST_BACK_OFF)
}

/// Runs it once and tells its exit code; nothing if it could not start.
async fn once(life: &Life, place: Place, container: &Container) -> Option<i32> {
    let started = match Setting::prepare(life, container).await {
        Ok(setting) => setting.start(life, container).await.map(|process| (setting, process)),
        Err(problem) => Err(problem),
    };
    let (setting, mut process) = match started {
        Ok(started) => started,
        Err(problem) => {
            life.tell(place, |run| run.wait(&problem));
            return None;
        }
    };
    let started_at = wall_clock();
    life.tell(place, |run| run.run(process.id(), started_at));
    let within = Inside { life, container, setting: &setting };
    let deadline = tokio::select! {
        exit_code = process.ended() => Err(exit_code),
        grace = probe::attend(&within, place) => Ok(Instant::now() + grace),
        deadline = life.stopped() => Ok(deadline),
    };
    let exit_code = match deadline {
        Ok(deadline) => end(&within, &mut process, deadline).await,
        Err(exit_code) => exit_code,
    };
    life.tell(place, |run| run.end(exit_code, started_at, wall_clock()));
    Some(exit_code)
}

/// Asks a process to end, and kills it at the deadline.
async fn end(within: &Inside<'_>, process: &mut Process, deadline: Instant) -> i32 {
    let hook = within.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(hook) = hook {
        tokio::select! {
            // Whatever comes of it, the process has to end.
            _ = timeout_at(deadline, act(within, Action::from(hook))) => {}
            exit_code = process.ended() => return exit_code,
        }
    }
    process.terminate();
    if let Ok(exit_code) = timeout_at(deadline, process.ended()).await {
        return exit_code;
    }
    process.kill();
    process.ended().await
}

/// A container that runs, as its probes and hooks see it.
#[derive(Clone, Copy)]
pub(super) struct Inside<'a> {
    pub(super) life: &'a Life,
    pub(super) container: &'a Container,
    setting: &'a Setting,
}

impl Inside<'_> {
    /// Runs a command where the container runs, and tells whether it succeeded. What it says is lost, as on a node.
    pub(super) async fn run(&self, command: Vec<String>) -> bool {
        let command = self.setting.enter(self.life, command);
        match self.life.machine.leash.start(Path::new("/dev/null"), &command).await {
            Ok(mut process) => process.ended().await == 0,
            Err(_) => false,
        }
    }
}

/// What a container is started with.
#[derive(Debug)]
struct Setting {
    root: PathBuf,
    mounts: Vec<Mount>,
    environment: Environment,
    command: Vec<String>,
    /// That it is in at first.
    folder: String,
}

impl Setting {
    async fn prepare(life: &Life, container: &Container) -> Result<Self, Problem> {
        let image = container.image.as_deref().unwrap_or_default();
        let program = life.machine.images.program(image).ok_or_else(|| Problem::image(image))?;
        let environment = environment(life, container).await?;
        let words = |words: &Option<Vec<String>>| {
            let words = words.iter().flatten().map(|word| expand(word, &environment));
            words.collect::<Vec<_>>()
        };
        let mut command = words(&container.command);
        match command.first_mut() {
            None => command.push(on_host(program)),
            // Wherever the image has it.
            Some(named) if PathBuf::from(&*named).file_name() == program.file_name() => {
                *named = on_host(program);
            }
            Some(_) => {}
        }
        command.extend(words(&container.args));
        let root = life.folder.join("roots").join(&container.name);
        let mounts = mounts(life, container, &environment)?;
        let mounts = lay(&root, mounts).map_err(|error| Problem::run(error.to_string()))?;
        let folder = container.working_dir.as_deref().filter(|folder| !folder.is_empty()).unwrap_or("/");
        Ok(Self { root, mounts, environment, command, folder: folder.to_owned() })
    }

    fn enter(&self, life: &Life, command: Vec<String>) -> Vec<String> {
        let variables = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let command = variables.chain(command).collect();
        enter(life.machine.isolation, &self.root, &self.mounts, &self.folder, command)
    }

    async fn start(&self, life: &Life, container: &Container) -> Result<Process, Problem> {
        let command = self.enter(life, self.command.clone());
        let log = life.log(container);
        let folder = log.parent().unwrap_or(&log);
        fs::create_dir_all(folder).map_err(|error| Problem::run(error.to_string()))?;
        let started = life.machine.leash.start(&log, &command).await;
        started.map_err(|error| Problem::run(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_comes_at_once_and_the_others_ever_later() {
        let seconds = [0, 1, 2, 3, 5, 6, 60].map(|crashes| back_off(crashes).as_secs());
        assert_eq!(seconds, [0, 1, 2, 4, 16, 30, 30]);
    }
}
