//! Why a container cannot start.
//!
//! Knows nothing of who reads it.

/// Why a container cannot start, in the words of its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Problem {
    /// It has no folder of its own, or a volume is not there. The reason is a kubelet's, until a pod's volumes are
    /// mounted; it tells the rest in events.
    pub(super) fn creating(message: impl Into<String>) -> Self {
        Self { reason: "ContainerCreating", message: message.into() }
    }

    /// What it is to be started with is not there.
    pub(super) fn config(message: impl Into<String>) -> Self {
        Self { reason: "CreateContainerConfigError", message: message.into() }
    }

    /// There is no such image.
    pub(super) fn image(image: &str) -> Self {
        let message = format!("no program of this machine stands for the image {image:?}");
        Self { reason: "ErrImagePull", message }
    }

    /// The system started no process.
    pub(super) fn run(message: impl Into<String>) -> Self {
        Self { reason: "RunContainerError", message: message.into() }
    }
}
