//! Images, which here are programs of this machine.
//!
//! Knows nothing of pods.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// The programs by the images that stand for them.
#[derive(Debug)]
pub(super) struct Images(HashMap<String, PathBuf>);

impl Images {
    pub(super) fn new<I: Into<String>, P: Into<PathBuf>>(images: impl IntoIterator<Item = (I, P)>) -> Self {
        Self(images.into_iter().map(|(image, program)| (image.into(), program.into())).collect())
    }

    /// The program of an image, which is known by its whole reference or by its repository.
    pub(super) fn program(&self, image: &str) -> Option<&Path> {
        let program = self.0.get(image).or_else(|| self.0.get(repository(image)));
        program.map(PathBuf::as_path)
    }
}

/// The reference without its tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    // A colon before the last slash belongs to the port of a registry.
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_reference_or_its_repository() {
        let images = Images::new([("registry:5000/team/app", "/app"), ("tool:v2", "/tool")]);
        for image in
            ["registry:5000/team/app", "registry:5000/team/app:v1", "registry:5000/team/app:v1@sha256:ab"]
        {
            assert_eq!(images.program(image), Some(Path::new("/app")), "{image}");
        }
        assert_eq!(images.program("tool:v2"), Some(Path::new("/tool")));
        assert_eq!(images.program("tool:v1"), None);
    }
}
