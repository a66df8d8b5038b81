//! Where an object is.

use std::{fmt, sync::Arc};

use kube::{Resource, api::ObjectMeta};

/// An object's place: its namespace (empty for a cluster-scoped one) and its name.
///
/// There is one in every cache and every schedule for each object, so it is a single piece of text that they share.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(Arc<str>);

impl Place {
    /// The place of that name.
    pub fn new(namespace: impl fmt::Display, name: impl fmt::Display) -> Self {
        // Neither may contain a slash: both are segments of a request's path.
        Self(format!("{namespace}/{name}").into())
    }

    /// The place of an object.
    pub fn of(object: &impl Resource) -> Self {
        Self::of_metadata(object.meta())
    }

    /// The place of the object with this metadata.
    #[must_use]
    pub fn of_metadata(metadata: &ObjectMeta) -> Self {
        let part = |part: &Option<String>| part.as_deref().unwrap_or_default().to_owned();
        Self::new(part(&metadata.namespace), part(&metadata.name))
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or(("", &self.0))
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.parts().1
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
