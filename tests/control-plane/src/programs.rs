//! The programs of a control plane: found, or built once a machine.

use std::{
    env,
    fs::{self, File},
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Error, file};

const ETCD: &str = "etcd";
const API_SERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";
const KUBECTL: &str = "kubectl";

/// Names a folder with a kube-apiserver and a kube-controller-manager of another version, to be used with the usual etcd.
const OTHER_KUBERNETES: &str = "CONTROL_PLANE_KUBERNETES";

/// The modules that pin what is built, and their sums.
const MODULES: [(&str, &str, &str); 2] = [
    ("kubernetes", include_str!("../go/kubernetes/go.mod"), include_str!("../go/kubernetes/go.sum")),
    ("etcd", include_str!("../go/etcd/go.mod"), include_str!("../go/etcd/go.sum")),
];

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub etcd: PathBuf,
    pub api_server: PathBuf,
    pub controller_manager: PathBuf,
}

impl Programs {
    /// All three, or none.
    fn within(folder: &Path) -> Option<Self> {
        let [etcd, api_server, controller_manager] =
            [ETCD, API_SERVER, CONTROLLER_MANAGER].map(|name| folder.join(name));
        let complete = [&etcd, &api_server, &controller_manager].into_iter().all(|program| program.is_file());
        complete.then_some(Self { etcd, api_server, controller_manager })
    }

    /// With the Kubernetes of that folder.
    fn with_kubernetes(self, folder: &Path) -> Result<Self, Error> {
        let [api_server, controller_manager] = [API_SERVER, CONTROLLER_MANAGER].map(|name| folder.join(name));
        let program = |path: PathBuf| {
            let found = path.canonicalize();
            found.map_err(file(format!("find {}, as {OTHER_KUBERNETES} says", path.display())))
        };
        Ok(Self {
            api_server: program(api_server)?,
            controller_manager: program(controller_manager)?,
            ..self
        })
    }

    pub(crate) fn kubectl(&self) -> Result<PathBuf, Error> {
        let output = |program: &Path, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
            String::from_utf8(output.stdout).ok()
        };
        // "Kubernetes v1.36.3"
        let server = output(&self.api_server, &["--version"]).and_then(|text| minor(&text));
        let client = output(Path::new(KUBECTL), &["version", "--client", "-o", "json"])
            .and_then(|text| serde_json::from_str::<Value>(&text).ok())
            .and_then(|version| minor(version["clientVersion"]["gitVersion"].as_str()?));
        if let (Some(server), Some(client)) = (server, client)
            && server.abs_diff(client) <= 1
        {
            return Ok(KUBECTL.into());
        }
        let beside = self.api_server.with_file_name(KUBECTL);
        if beside.is_file() { Ok(beside) } else { Ok(build()?.join(KUBECTL)) }
    }
}

/// The 36 of `v1.36.3`.
fn minor(text: &str) -> Option<u32> {
    text.split_once("v1.")?.1.split('.').next()?.parse().ok()
}

/// Finds the programs, or builds them.
pub(crate) fn find() -> Result<Programs, Error> {
    let usual = usual()?;
    match env::var_os(OTHER_KUBERNETES) {
        Some(folder) => usual.with_kubernetes(Path::new(&folder)),
        None => Ok(usual),
    }
}

fn usual() -> Result<Programs, Error> {
    if let Some(found) =
        env::var_os("KUBEBUILDER_ASSETS").and_then(|folder| Programs::within(Path::new(&folder)))
    {
        return Ok(found);
    }
    if let Some(found) = envtest_folders().iter().find_map(|folder| Programs::within(folder)) {
        return Ok(found);
    }
    Programs::within(&build()?).ok_or(Error::NoPrograms)
}

/// The folders of setup-envtest's store that are for this machine, the newest version first.
fn envtest_folders() -> Vec<PathBuf> {
    let Some(home) = env::home_dir() else {
        return Vec::new();
    };
    let data = if cfg!(target_os = "macos") {
        home.join("Library/Application Support/io.kubebuilder.envtest")
    } else {
        env::var_os("XDG_DATA_HOME")
            .map_or_else(|| home.join(".local/share"), PathBuf::from)
            .join("kubebuilder-envtest")
    };
    let mut folders: Vec<_> = fs::read_dir(data.join("k8s"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(&machine()))
        .map(|entry| entry.path())
        .collect();
    let version = |folder: &PathBuf| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let numbers = name
            .split('-')
            .next()
            .unwrap_or_default()
            .split('.')
            .map(|part| part.parse::<u32>().unwrap_or(0));
        numbers.collect::<Vec<_>>()
    };
    folders.sort_by_key(|folder| std::cmp::Reverse(version(folder)));
    folders
}

/// How Go, and so setup-envtest, names this machine: `-linux-amd64`.
fn machine() -> String {
    let system = if cfg!(target_os = "macos") { "darwin" } else { env::consts::OS };
    let processor = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("-{system}-{processor}")
}

fn cache_folder() -> PathBuf {
    let home = || env::home_dir().unwrap_or_else(env::temp_dir);
    let cache = if cfg!(target_os = "macos") {
        home().join("Library/Caches")
    } else {
        env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from)
    };
    cache.join("credential-operator/control-plane")
}

/// Builds the programs unless that was done before, and tells their folder.
fn build() -> Result<PathBuf, Error> {
    let mut hash = Sha256::new();
    for (name, module, sums) in MODULES {
        for part in [name, module, sums] {
            hash.update(part);
            hash.update([0]);
        }
    }
    hash.update(env::consts::OS);
    hash.update(env::consts::ARCH);
    let id = hash.finalize().iter().take(8).fold(String::new(), |id, byte| format!("{id}{byte:02x}"));
    let cache = cache_folder();
    let built = cache.join(&id);
    if built.is_dir() {
        return Ok(built);
    }
    fs::create_dir_all(&cache).map_err(file(format!("make {}", cache.display())))?;
    let lock = File::create(cache.join(format!("{id}.lock"))).map_err(file("make the lock of the build"))?;
    lock.lock().map_err(file("wait for another build"))?;
    if built.is_dir() {
        return Ok(built);
    }
    if Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return Err(Error::NoPrograms);
    }
    // What a build that was killed left behind is in the way of nobody but this one, which has the lock.
    let unfinished = cache.join(format!("{id}.unfinished"));
    let _ = fs::remove_dir_all(&unfinished);
    for (name, module, sums) in MODULES {
        let folder = unfinished.join(name);
        fs::create_dir_all(&folder).map_err(file("make a build folder"))?;
        fs::write(folder.join("go.mod"), module).map_err(file("write go.mod"))?;
        fs::write(folder.join("go.sum"), sums).map_err(file("write go.sum"))?;
    }
    let programs = unfinished.join("programs");
    fs::create_dir(&programs).map_err(file("make a build folder"))?;
    let version = kubernetes_version();
    let (major, minor) = version.trim_start_matches('v').split_once('.').unwrap_or(("1", ""));
    let minor = minor.split('.').next().unwrap_or_default();
    let variable = "k8s.io/component-base/version.git";
    let stamp =
        format!("-s -w -X {variable}Version={version} -X {variable}Major={major} -X {variable}Minor={minor}");
    let kubernetes =
        [API_SERVER, CONTROLLER_MANAGER, KUBECTL].map(|name| format!("k8s.io/kubernetes/cmd/{name}"));
    let kubernetes: Vec<_> = kubernetes.iter().map(String::as_str).collect();
    compile(
        "etcd (1 of 2)",
        &unfinished.join("etcd"),
        &programs.join(ETCD),
        "-s -w",
        &["go.etcd.io/etcd/server/v3"],
    )?;
    compile("Kubernetes (2 of 2)", &unfinished.join("kubernetes"), &programs, &stamp, &kubernetes)?;
    fs::rename(&programs, &built).map_err(file("put the programs into the cache"))?;
    let _ = fs::remove_dir_all(&unfinished);
    Ok(built)
}

/// The version that go.mod requires.
fn kubernetes_version() -> &'static str {
    let (_, module, _) = MODULES[0];
    let mut required = module
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("require ").strip_prefix("k8s.io/kubernetes "));
    required.next().and_then(|version| version.split_whitespace().next()).unwrap_or_default()
}

fn compile(
    what: &'static str,
    folder: &Path,
    target: &Path,
    link: &str,
    packages: &[&str],
) -> Result<(), Error> {
    let log = folder.join("build.log");
    let output =
        || File::options().create(true).append(true).open(&log).map_err(file("open the build's log"));
    let compiler = Command::new("go")
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", link, "-o"])
        .arg(target)
        .args(packages)
        .current_dir(folder)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        // What somebody has set for their own builds is not for these.
        .env_remove("GOFLAGS")
        .env_remove("GOOS")
        .env_remove("GOARCH")
        .stdin(Stdio::null())
        .stdout(output()?)
        .stderr(output()?)
        .spawn()
        .map_err(file("start the Go compiler"))?;
    if wait_with_progress(what, compiler)? {
        return Ok(());
    }
    let output = fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<_> = output.lines().collect();
    Err(Error::Build { what, output: lines[lines.len().saturating_sub(20)..].join("\n") })
}

/// Minutes of silence look like a hang, so something is said all the while.
#[expect(clippy::disallowed_methods, reason = "the time that a person waits is no input of a decision")]
fn wait_with_progress(what: &str, mut compiler: Child) -> Result<bool, Error> {
    let started = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut said = None;
    loop {
        if let Some(status) = compiler.try_wait().map_err(file("wait for the Go compiler"))? {
            if said.is_some() && terminal {
                eprintln!();
            }
            return Ok(status.success());
        }
        let seconds = started.elapsed().as_secs();
        let due = if terminal { said != Some(seconds) } else { said.is_none_or(|last| seconds >= last + 15) };
        if due {
            let line = format!(
                "control plane: building {what}, once on this machine, about 5 minutes in all: {seconds} s"
            );
            if terminal {
                eprint!("\r{line}");
            } else {
                eprintln!("{line}");
            }
            // Progress that cannot be shown is no reason to stop.
            let _ = std::io::stderr().flush();
            said = Some(seconds);
        }
        thread::sleep(Duration::from_millis(200));
    }
}
