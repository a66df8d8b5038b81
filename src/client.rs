//! Requests to the API server whose answers are read leniently, in bounded memory.
//!
//! This is the only module that names kube's own `Api`, whose answers are all or nothing: an object that one user has written so
//! that it does not parse would fail every request about it, and every list that it is in. Knows nothing of what is decided by the
//! answers.

pub mod informer;
mod kinds;
mod objects;
pub mod prune;
mod read;

pub use self::{
    kinds::Readable,
    objects::{Deleted, Events, Objects, Page, WatchEvent},
    read::{Flaw, InvalidObject, Untyped, Watched},
};
