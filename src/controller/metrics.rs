//! What Prometheus is told of the controller. Never anything of a single object.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::{
    Context, Key,
    write::{RequestError, Trouble},
};
use crate::telemetry::health::Probe;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// All of it.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<Labels, Counter>,
    panics: Family<OfKind, Counter>,
    seconds: Family<OfKind, Histogram>,
    objects: Family<OfKind, Gauge>,
    invalid: Family<OfKind, Gauge>,
    policy_passes: Counter,
    waiting: Gauge,
    failing: Gauge,
    unproven: Gauge,
    orphaned: Gauge,
    leading: Gauge,
    guarded: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("credential_operator_controller");
        let reconciles = Family::<Labels, Counter>::default();
        let panics = Family::<OfKind, Counter>::default();
        let seconds = Family::<OfKind, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(1e-3, 2.0, 15))
        });
        let objects = Family::<OfKind, Gauge>::default();
        let invalid = Family::<OfKind, Gauge>::default();
        let policy_passes = Counter::default();
        let [waiting, failing, unproven, orphaned, leading, guarded] = [(); 6].map(|()| Gauge::default());
        registry.register(
            "reconciles",
            "Looks at an object, by kind and result: done, moved (it changed meanwhile, and is looked at again), refused, failed",
            reconciles.clone(),
        );
        registry.register(
            "reconcile_panics",
            "Reconciles that panicked, by kind. Each is a bug; the log has its message",
            panics.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "How long a look took, with its writes",
            seconds.clone(),
        );
        registry.register("objects", "Objects that are there, by kind", objects.clone());
        registry.register(
            "invalid_objects",
            "Objects that do not fit their kind, by kind: nothing is made for them",
            invalid.clone(),
        );
        registry.register(
            "policy_passes",
            "Passes over all Credentials of a namespace to evaluate CredentialPolicies, at most one per namespace and second",
            policy_passes.clone(),
        );
        registry.register("waiting", "Objects that wait for their turn", waiting.clone());
        registry.register("failing", "Objects whose last look failed, to be tried again", failing.clone());
        registry.register(
            "unproven_objects",
            "Secrets and ServiceAccounts that claim to belong to an object that is gone, without a valid proof. They are not deleted",
            unproven.clone(),
        );
        registry.register(
            "orphaned_secrets",
            "Secrets with material of a Credential that no longer exists. They are not deleted",
            orphaned.clone(),
        );
        registry.register("leading", "1 while this controller works, 0 while another may", leading.clone());
        registry.register(
            "admission_in_force",
            "1 while the admission policies are in force, 0 while nothing new is made for want of them",
            guarded.clone(),
        );
        Self {
            registry,
            reconciles,
            panics,
            seconds,
            objects,
            invalid,
            policy_passes,
            waiting,
            failing,
            unproven,
            orphaned,
            leading,
            guarded,
        }
    }
}

impl Metrics {
    /// Notes a reconcile.
    pub(super) fn note(&self, key: &Key, outcome: &Result<(), RequestError>, took: Duration) {
        let kind = kind(key);
        let result = match outcome.as_ref().map_err(RequestError::trouble) {
            Ok(()) => "done",
            Err(Trouble::Exists | Trouble::Moved) => "moved",
            Err(Trouble::Refused { .. }) => "refused",
            Err(Trouble::Gone | Trouble::Passing) => "failed",
        };
        self.reconciles.get_or_create(&Labels { kind, result }).inc();
        self.seconds.get_or_create(&OfKind { kind }).observe(took.as_secs_f64());
    }

    /// Counts a reconcile that panicked.
    pub(super) fn note_panic(&self, key: &Key) {
        self.panics.get_or_create(&OfKind { kind: kind(key) }).inc();
    }

    /// Counts a pass over the credentials of a namespace.
    pub(super) fn note_policy_pass(&self) {
        self.policy_passes.inc();
    }

    /// Notes whether it works.
    pub(super) fn note_leading(&self, leading: bool) {
        self.leading.set(leading.into());
    }
}

const fn kind(key: &Key) -> &'static str {
    match key {
        Key::Credential(_) => "Credential",
        Key::ApiToken(_) => "ApiToken",
        Key::Keyring => "Keyring",
        Key::Sweep => "Sweep",
        Key::Policies => "CredentialPolicy",
        Key::Admission => "ValidatingAdmissionPolicy",
    }
}

impl Probe for Context {
    fn unready(&self) -> Option<&'static str> {
        (!self.has_seen_all()).then_some("has not read yet what there is")
    }

    fn metrics(&self) -> String {
        let metrics = &self.metrics;
        let whole = |number: usize| number.try_into().unwrap_or(i64::MAX);
        for (kind, number) in [
            ("Credential", self.credentials.count()),
            ("ApiToken", self.tokens.count()),
            ("CredentialPolicy", self.policies.count()),
        ] {
            metrics.objects.get_or_create(&OfKind { kind }).set(whole(number));
        }
        for (kind, number) in [
            ("Credential", self.credentials.count_unreadable()),
            ("ApiToken", self.tokens.count_unreadable()),
            ("CredentialPolicy", self.policies.count_unreadable()),
            ("Secret", self.secrets.count_unreadable()),
            ("ServiceAccount", self.accounts.count_unreadable()),
            ("RoleBinding", self.role_bindings.count_unreadable()),
            ("ClusterRoleBinding", self.cluster_role_bindings.count_unreadable()),
        ] {
            metrics.invalid.get_or_create(&OfKind { kind }).set(whole(number));
        }
        metrics.waiting.set(whole(self.queue.waiting()));
        metrics.failing.set(whole(self.queue.failing()));
        metrics.unproven.set(whole(self.unproven()));
        metrics.orphaned.set(whole(self.orphaned()));
        metrics.guarded.set((!self.is_unguarded()).into());
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &metrics.registry);
        text
    }
}
