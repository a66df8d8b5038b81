//! The image: the program that image/build made for it, and what buildah makes of the Dockerfile's last stage, run as a node would run
//! it. It is no part of `cargo test`: `tests/external/install image` builds the program.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, Permissions},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use control_plane::ControlPlane;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// 25 MiB.
const LARGEST: u64 = 25 << 20;
const DEADLINE: Duration = Duration::from_mins(1);
const HOME: &str = "credential-operator";
/// Where a pod finds the token of its account.
const ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";

/// In mounts of its own: the image's files and the account's, read-only, and nothing else; as the user that the image names.
const CONTAINER: &str = r#"
root=$1 account=$2 user=$3
shift 3
mount --bind "$root" "$root"
mount --bind "$account" "$root/var/run/secrets/kubernetes.io/serviceaccount"
mount -o remount,bind,ro "$root/var/run/secrets/kubernetes.io/serviceaccount"
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" --groups= "$root" "$@"
"#;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn program() -> PathBuf {
    let program = here("target/external/image/credential-operator");
    assert!(program.is_file(), "{} is not there; see `tests/external/install image`", program.display());
    program
}

/// What a program says.
///
/// # Panics
/// When it fails.
fn run<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(here("")).stdin(Stdio::null()).output();
    let output =
        output.unwrap_or_else(|error| panic!("{command:?}: {error}; see `tests/external/install image`"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_program_is_static_and_small() {
    let program = program();
    let size = fs::metadata(&program).unwrap().len();
    println!("{size} bytes");
    assert!(size <= LARGEST, "{size} bytes are more than {LARGEST}");
    let program = program.to_str().unwrap();
    // No loader, and no library that it would load.
    assert!(!run("readelf", ["--wide", "--segments", program]).contains("INTERP"));
    assert!(!run("readelf", ["--wide", "--dynamic", program]).contains("(NEEDED)"));
}

#[test]
fn the_program_tells_the_crates_that_it_is_made_of() {
    let folder = TempDir::new().unwrap();
    let section = folder.path().join("section");
    let dump = format!(".dep-v0={}", section.display());
    run("objcopy", ["--dump-section", &dump, program().to_str().unwrap(), "/dev/null"]);
    let inflate = "import sys, zlib; print(zlib.decompress(open(sys.argv[1], 'rb').read()).decode())";
    let told: Value =
        serde_json::from_str(&run("python3", ["-c", inflate, section.to_str().unwrap()])).unwrap();
    let told: BTreeMap<_, _> = told["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["name"].as_str().unwrap(), package["version"].as_str().unwrap()))
        .collect();
    assert_eq!(told["credential-operator"], env!("CARGO_PKG_VERSION"));
    let locked = fs::read_to_string(here("Cargo.lock")).unwrap();
    for (name, version) in &told {
        assert!(
            locked.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")),
            "{name} {version}"
        );
    }
    for name in ["aws-lc-sys", "kube", "ring", "rustls"] {
        assert!(told.contains_key(name), "{name}: {told:?}");
    }
    // Tests have it, the program has not.
    assert!(!told.contains_key("russh"));
}

/// The image, unpacked.
struct Image {
    folder: TempDir,
    config: Value,
}

impl Image {
    /// Of the Dockerfile as it is, with our program in the place of the stage that would build it.
    fn build() -> Self {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::create_dir_all(path("build/out")).unwrap();
        fs::copy(program(), path("build/out/credential-operator")).unwrap();
        let (storage, state) = (path("storage"), path("state"));
        let buildah = |arguments: &[&str]| {
            let all = ["--storage-driver=vfs", "--root", &storage, "--runroot", &state];
            run("buildah", [&all[..], arguments].concat())
        };
        let given = format!("--build-context=build={}", path("build"));
        let build = ["build", "--isolation=chroot", &given, "--build-arg=REVISION=0123abc"];
        buildah(&[&build[..], &["--tag=image", "."]].concat());
        let output = format!("--output=type=local,dest={}", path("root"));
        buildah(&[&build[..], &[&output, "."]].concat());
        let inspected: Value = serde_json::from_str(&buildah(&["inspect", "--type=image", "image"])).unwrap();
        Self { config: inspected["OCIv1"]["config"].clone(), folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// The image's entry point with these arguments, as in a pod.
    fn container(&self, account: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation=private", "sh", "-ec", CONTAINER, "sh"])
            .args([&*self.root(), account])
            .arg(self.config["User"].as_str().unwrap())
            .args(self.config["Entrypoint"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }
}

/// Killed when it is no longer needed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_runs_as_nobody_with_nothing_to_write_to() {
    assert!(rustix::process::geteuid().is_root(), "mounts and another user need root");
    let image = Image::build();
    let words = |key: &str| image.config[key].to_string();
    assert_eq!([words("User"), words("Entrypoint")], [r#""65532:65532""#, r#"["/credential-operator"]"#]);
    let label = |name: &str| &image.config["Labels"][format!("org.opencontainers.image.{name}")];
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("description"), env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
    assert_eq!(label("title"), env!("CARGO_PKG_NAME"));
    assert_eq!(label("revision"), "0123abc");
    let mut files: Vec<_> =
        fs::read_dir(image.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["LICENSE", "credential-operator"]);

    // A node makes what it mounts something on, and lets everybody see the files.
    fs::create_dir_all(image.root().join(ACCOUNT)).unwrap();
    for folder in [image.folder.path(), &image.root()] {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    let account = image.folder.path().join("account");
    fs::create_dir(&account).unwrap();
    for (argument, said) in
        [("--version", env!("CARGO_PKG_VERSION")), ("--help", "Usage: credential-operator")]
    {
        let output = image.container(&account, &[argument]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(said), "{argument}: {output:?}");
    }

    let control_plane = ControlPlane::start().await.unwrap();
    let kubectl = |arguments: &[&str]| {
        let kubeconfig = control_plane.admin().kubeconfig().to_str().unwrap();
        let arguments = [&["--kubeconfig", kubeconfig], arguments].concat();
        run(control_plane.kubectl().unwrap(), arguments)
    };
    kubectl(&["apply", "--server-side", "-k", "crds"]);
    for file in ["deploy/namespace.yaml", "deploy/controller.yaml"] {
        kubectl(&["apply", "--server-side", "-f", file]);
    }
    let token = kubectl(&["create", "token", "credential-operator", "-n", HOME]);
    fs::write(account.join("token"), token.trim()).unwrap();
    fs::copy(control_plane.directory().join("ca.crt"), account.join("ca.crt")).unwrap();
    fs::write(account.join("namespace"), HOME).unwrap();

    let address = free_address();
    let (host, port) = control_plane.server().strip_prefix("https://").unwrap().rsplit_once(':').unwrap();
    let log = image.folder.path().join("log");
    let controller = image
        .container(&account, &["controller", "--health-listen", &address.to_string()])
        .env("POD_NAMESPACE", HOME)
        .env("KUBERNETES_SERVICE_HOST", host)
        .env("KUBERNETES_SERVICE_PORT", port)
        .stdout(File::create(&log).unwrap())
        .stderr(File::options().append(true).open(&log).unwrap())
        .spawn()
        .unwrap();
    let mut controller = Running(controller);
    for path in ["livez", "readyz"] {
        let deadline = Instant::now() + DEADLINE;
        let asked = || {
            let url = format!("http://{address}/{path}");
            let curl = Command::new("curl").args(["--silent", "--fail", "--max-time", "5", &url]).output();
            curl.unwrap().status.success()
        };
        while !asked() {
            let ended = controller.0.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{path} does not answer; {ended:?}: {}",
                fs::read_to_string(&log).unwrap()
            );
            sleep(Duration::from_millis(100)).await;
        }
    }
    let of_process = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", controller.0.id())).unwrap();
    let status = of_process("status");
    for line in ["Uid:\t65532\t65532\t65532\t65532\n", "CapEff:\t0000000000000000\n", "Groups:\t \n"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let mounts = of_process("mountinfo");
    let places: Vec<_> =
        mounts.lines().map(|line| line.split(' ').skip(4).take(2).collect::<Vec<_>>()).collect();
    assert_eq!(places.len(), 2, "{mounts}");
    for (place, options) in places.iter().map(|place| (place[0], place[1])) {
        assert!(["/", &format!("/{ACCOUNT}")].contains(&place), "{mounts}");
        assert!(options.split(',').any(|option| option == "ro"), "{mounts}");
    }
}
