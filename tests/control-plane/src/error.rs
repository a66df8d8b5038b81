//! What can go wrong with a control plane.
//!
//! Knows nothing of how any of it is done.

use std::io;

use thiserror::Error;

use crate::Part;

/// Why there is no control plane.
#[derive(Debug, Error)]
pub enum Error {
    /// There are no programs, and nothing to build them with.
    #[error(
        "no etcd, kube-apiserver and kube-controller-manager here; either install Go 1.26 or newer (https://go.dev/dl), and \
         they are built, or set KUBEBUILDER_ASSETS to a folder that has all three"
    )]
    NoPrograms,
    /// The programs could not be built.
    #[error("could not build {what}:\n{output}")]
    Build {
        /// What was built.
        what: &'static str,
        /// The last lines of the compiler.
        output: String,
    },
    /// A file or folder of ours could not be used.
    #[error("could not {what}")]
    File {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A part did not start.
    #[error("{part} did not get ready; the end of its log:\n{log}")]
    NotReady {
        /// Which.
        part: Part,
        /// The last lines of its log.
        log: String,
    },
    /// A certificate could not be made.
    #[error("could not make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A client could not be made, or a request of ours failed.
    #[error("could not {what}")]
    Client {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// A kubeconfig of ours was not accepted.
    #[error("could not read a kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// A URL of ours is none.
    #[error("could not read the URL {url}")]
    Url {
        /// The text.
        url: String,
        /// Why it failed.
        #[source]
        source: http::uri::InvalidUri,
    },
    /// A signal did not reach a part.
    #[error("could not signal {part}")]
    Signal {
        /// Which.
        part: Part,
        /// Why it failed.
        #[source]
        source: rustix::io::Errno,
    },
    /// A kubelet cannot give pods their volumes here.
    #[error(
        "this machine lets us make no mount namespaces, by which pods get their volumes; either run as root, in a container with \
         CAP_SYS_ADMIN, or allow user namespaces"
    )]
    NoNamespaces,
    /// A kubelet ended before it had started.
    #[error("the kubelet ended before it had started")]
    KubeletEnded,
    /// A line of the audit log is not what it should be.
    #[error("could not read the audit log")]
    Audit(#[source] serde_json::Error),
}

pub(crate) fn file(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::File { what, source }
}
