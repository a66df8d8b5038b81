//! Credentials and expiring API tokens as Kubernetes objects.
//!
//! Dependencies point one way, and the shells never import each other (`tests/tidy.rs` holds both):
//!
//! ```text
//! api  <-  domain  <-  client  <-  {controller, verifier}  <-  main
//!                  <-  admission                           <-
//! ```
//!
//! - [`api`]: the kinds, as users write them. No client.
//! - [`domain`]: what a token, a digest, a binding and an end are. No client, no runtime, no clock of its own.
//! - [`admission`]: what the API server is to refuse, as objects.
//! - [`chart`]: the kinds and that, as templates of Helm.
//! - [`client`]: requests to the API server, whose answers are read leniently and in bounded memory.
//! - [`controller`]: reads the cluster, decides, writes.

#![warn(clippy::disallowed_types)]

pub mod admission;
pub mod api;
pub mod chart;
pub mod client;
pub mod controller;
pub mod domain;
pub mod telemetry;
pub mod verifier;
