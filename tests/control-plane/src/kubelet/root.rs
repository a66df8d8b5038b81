//! What a container sees as its file system: this machine's, with the volumes of its pod where it mounts them.
//!
//! Paths of volumes stand in arguments and configuration files and, as that of the account's token does, in code, so
//! they have to be real. A mount namespace makes them so for one process, and leaves the machine's own folders as they are:
//! the process has a root of its own, in which the folders on the way to a volume are ours, and all else in them are
//! symbolic links to the machine's root, which is mounted at `/.host`. Root may make such a namespace; anybody else
//! makes a user namespace around it, where the machine allows that.
//!
//! Knows nothing of what is in the volumes.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Component, Path, PathBuf},
};

use tokio::process::Command;

use crate::Error;

/// Where the machine's own root is.
const HOST: &str = ".host";

/// Mounts the machine and the volumes, triples of source, target and mode, below its first argument, and becomes what
/// comes after `--`: a folder to be in, then an environment and a command as env(1) takes them.
const ENTER: &str = r#"
set -e
root=$1
shift
mount --rbind / "$root/.host"
while [ "$1" != -- ]; do
  mount --bind "$1" "$root$2"
  [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
  shift 3
done
shift
exec chroot "$root" /bin/sh -c 'cd "$1" && shift && exec env -i "$@"' sh "$@"
"#;

/// What makes a mount namespace here.
pub(super) type Isolation = &'static [&'static str];

/// How this machine lets us make mount namespaces.
///
/// # Errors
/// When it does not.
pub(super) async fn isolation() -> Result<Isolation, Error> {
    const WAYS: [Isolation; 2] =
        [&["unshare", "--mount"], &["unshare", "--user", "--map-root-user", "--mount"]];
    for way in WAYS {
        let tried = Command::new(way[0]).args(&way[1..]).arg("true").output().await;
        if tried.is_ok_and(|tried| tried.status.success()) {
            return Ok(way);
        }
    }
    Err(Error::NoNamespaces)
}

/// A volume, or a part of one, in the file system of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) read_only: bool,
}

/// The path of a file of this machine, whatever is mounted in its place.
pub(super) fn on_host(path: &Path) -> String {
    Path::new("/").join(HOST).join(path.strip_prefix("/").unwrap_or(path)).display().to_string()
}

/// The command that runs another one, which env(1) would take, in that folder below that root.
pub(super) fn enter(
    isolation: Isolation,
    root: &Path,
    mounts: &[Mount],
    folder: &str,
    command: Vec<String>,
) -> Vec<String> {
    let mut all: Vec<String> = isolation.iter().map(|&word| word.to_owned()).collect();
    all.extend(["/bin/sh", "-c", ENTER, "pod"].map(str::to_owned));
    all.push(root.display().to_string());
    for mount in mounts {
        all.push(mount.source.display().to_string());
        all.push(mount.target.display().to_string());
        all.push(if mount.read_only { "ro" } else { "rw" }.to_owned());
    }
    all.extend(["--".to_owned(), folder.to_owned()]);
    all.extend(command);
    all
}

/// Makes the folder that is to be the root, and tells the mounts by the paths that they really have there, outer ones
/// first.
pub(super) fn lay(root: &Path, mounts: Vec<Mount>) -> io::Result<Vec<Mount>> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    fs::create_dir_all(root.join(HOST))?;
    let mut ours = BTreeSet::new();
    let mut laid: Vec<Mount> = Vec::new();
    for mut mount in mounts {
        mount.target = resolve(&mount.target, &mut ours);
        laid.push(mount);
    }
    laid.sort_by(|one, other| one.target.cmp(&other.target));
    for (index, mount) in laid.iter().enumerate() {
        // One within another has its place in that one's volume.
        let outer = laid[..index].iter().rev().find(|outer| mount.target.starts_with(&outer.target));
        let place = match outer {
            Some(outer) => {
                outer.source.join(mount.target.strip_prefix(&outer.target).unwrap_or(Path::new("")))
            }
            None => below(root, &mount.target),
        };
        make_place(&place, mount.source.is_dir())?;
    }
    let volume = |path: &Path| laid.iter().any(|mount| path.starts_with(&mount.target));
    ours.retain(|folder| !volume(folder));
    // All of them before any link, which would be in the way of one.
    for folder in &ours {
        fs::create_dir_all(below(root, folder))?;
    }
    for folder in &ours {
        link_the_rest(root, folder)?;
    }
    Ok(laid)
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_place(place: &Path, folder: bool) -> io::Result<()> {
    if folder {
        return fs::create_dir_all(place);
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::File::options().create(true).append(true).open(place).map(drop)
}

/// The path without symbolic links, and into `ours` the folders that lead there, by either path.
fn resolve(path: &Path, ours: &mut BTreeSet<PathBuf>) -> PathBuf {
    let mut resolved = PathBuf::from("/");
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    for name in names {
        ours.insert(resolved.clone());
        let next = resolved.join(name);
        resolved = if next.is_symlink() { next.canonicalize().unwrap_or(next) } else { next };
        ours.extend(resolved.ancestors().skip(1).map(Path::to_owned));
    }
    resolved
}

/// Puts into a folder of ours what the machine has in it and we have not.
fn link_the_rest(root: &Path, folder: &Path) -> io::Result<()> {
    let place = below(root, folder);
    let Ok(entries) = fs::read_dir(folder) else {
        // The machine has none.
        return Ok(());
    };
    for entry in entries.flatten() {
        let link = place.join(entry.file_name());
        // A link of the machine's leads where it leads by our folders.
        let target = fs::read_link(entry.path()).unwrap_or_else(|_| on_host(&entry.path()).into());
        if link.symlink_metadata().is_err() {
            symlink(target, link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_has_places_for_its_mounts_and_links_for_all_else() {
        let folder = tempfile::tempdir().unwrap();
        let (root, volume) = (folder.path().join("root"), folder.path().join("volume"));
        fs::create_dir(&volume).unwrap();
        let mount = |target: &str| Mount { source: volume.clone(), target: target.into(), read_only: true };
        let laid = lay(&root, vec![mount("/etc/none/such/inner"), mount("/etc/none/such")]).unwrap();
        let targets: Vec<_> = laid.iter().map(|mount| mount.target.to_str().unwrap()).collect();
        assert_eq!(targets, ["/etc/none/such", "/etc/none/such/inner"]);
        assert!(root.join("etc/none/such").is_dir() && volume.join("inner").is_dir());
        assert_eq!(fs::read_link(root.join("etc/passwd")).unwrap(), Path::new("/.host/etc/passwd"));
        assert_eq!(fs::read_link(root.join("usr")).unwrap(), Path::new("/.host/usr"));
        assert!(!Path::new("/etc/none").exists());
    }
}
