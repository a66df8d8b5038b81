//! The files of a volume, all of which change at once.
//!
//! As a kubelet's do: the files are in a folder of their own, `..data` is a symbolic link to it, and the paths that a
//! container reads are links through `..data`. So whoever reads two files reads them of one version, unless the link
//! moves in between.
//!
//! Knows nothing of where the files come from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::KeyToPath;

use super::store::Data;

/// The mode of a file of which nothing else is said.
pub(super) const MODE: u32 = 0o644;

/// Contents and modes by paths within the volume.
pub(super) type Payload = BTreeMap<PathBuf, (Vec<u8>, u32)>;

/// A mode as the API has it.
pub(super) fn mode(said: Option<i32>, otherwise: u32) -> u32 {
    said.and_then(|mode| mode.try_into().ok()).unwrap_or(otherwise)
}

/// The files that values become: all of them, or those of the items by the items' paths.
///
/// # Errors
/// In words, when an item has no value and has to have one.
pub(super) fn files(
    mut data: Data,
    items: Option<&Vec<KeyToPath>>,
    usual: u32,
    optional: Option<bool>,
) -> Result<Payload, String> {
    let Some(items) = items else {
        return Ok(data.into_iter().map(|(key, value)| (key.into(), (value, usual))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.remove(&item.key) {
            Some(value) => {
                payload.insert(item.path.clone().into(), (value, mode(item.mode, usual)));
            }
            None if optional == Some(true) => {}
            None => return Err(format!("references non-existent key: {}", item.key)),
        }
    }
    Ok(payload)
}

/// Puts a version of the files in the place of the one before.
pub(super) fn put(volume: &Path, payload: &Payload, version: u64) -> io::Result<()> {
    let data = volume.join("..data");
    let before = fs::read_link(&data).ok();
    let name = format!("..version-{version}");
    for (path, (content, mode)) in payload {
        let file = volume.join(&name).join(path);
        fs::create_dir_all(file.parent().unwrap_or(volume))?;
        fs::write(&file, content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(*mode))?;
    }
    fs::create_dir_all(volume.join(&name))?;
    let next = volume.join("..data_tmp");
    let _ = fs::remove_file(&next);
    symlink(&name, &next)?;
    fs::rename(&next, &data)?;
    link(volume, payload)?;
    match before {
        Some(before) => fs::remove_dir_all(volume.join(before)),
        None => Ok(()),
    }
}

/// Makes the paths that a container reads, and takes away those that nothing is behind any more.
fn link(volume: &Path, payload: &Payload) -> io::Result<()> {
    let first = |path: &PathBuf| path.components().find(|part| matches!(part, Component::Normal(_))).map(own);
    let wanted: BTreeSet<PathBuf> = payload.keys().filter_map(first).collect();
    for name in &wanted {
        let link = volume.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    for entry in fs::read_dir(volume)?.flatten() {
        let name = PathBuf::from(entry.file_name());
        if entry.path().is_symlink() && name.as_os_str() != "..data" && !wanted.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn own(part: Component<'_>) -> PathBuf {
    PathBuf::from(part.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files.iter().map(|(path, text)| (path.into(), (text.as_bytes().to_vec(), 0o600))).collect()
    }

    #[test]
    fn a_version_takes_the_place_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let read = |path: &str| fs::read_to_string(folder.path().join(path)).ok();
        put(folder.path(), &payload(&[("a", "1"), ("gone", "1"), ("deep/b", "1")]), 1).unwrap();
        assert_eq!(read("deep/b").as_deref(), Some("1"));
        put(folder.path(), &payload(&[("a", "2"), ("deep/c", "2")]), 2).unwrap();
        assert_eq!((read("a").as_deref(), read("deep/c").as_deref()), (Some("2"), Some("2")));
        assert_eq!((read("gone"), read("deep/b")), (None, None));
        let names = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name());
        let names: BTreeSet<_> = names.map(|name| name.into_string().unwrap()).collect();
        assert_eq!(names, ["..data", "..version-2", "a", "deep"].map(str::to_owned).into());
        let mode = fs::metadata(folder.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn items_choose_and_name_the_files() {
        let data = || Data::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
        let item = |key: &str| KeyToPath { key: key.to_owned(), path: "x/y".to_owned(), mode: Some(0o400) };
        let chosen = files(data(), Some(&vec![item("b")]), MODE, None).unwrap();
        assert_eq!(chosen, Payload::from([("x/y".into(), (b"2".to_vec(), 0o400))]));
        assert_eq!(files(data(), None, MODE, None).unwrap().len(), 2);
        assert!(files(data(), Some(&vec![item("c")]), MODE, None).is_err());
        assert!(files(data(), Some(&vec![item("c")]), MODE, Some(true)).unwrap().is_empty());
    }
}
