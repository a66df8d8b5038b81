//! Whether the verifier should be asked.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::service::Service;
use crate::telemetry::health::Probe;

/// A verifier, and whether it is about to stop: then it is alive and not ready.
pub struct Health {
    /// What is asked.
    pub service: Arc<Service>,
    /// Whether it is about to stop.
    pub stopping: AtomicBool,
}

impl Probe for Health {
    fn unready(&self) -> Option<&'static str> {
        let verifier = self.service.verifier();
        if self.stopping.load(Ordering::Relaxed) {
            Some("stopping")
        } else if verifier.is_ready(verifier.now()) {
            None
        } else {
            Some("not up to date with the API server, or without a keyring")
        }
    }

    fn metrics(&self) -> String {
        let verifier = self.service.verifier();
        self.service.metrics().text(verifier, verifier.now())
    }
}
