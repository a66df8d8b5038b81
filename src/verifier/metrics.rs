//! What Prometheus is told. Never anything of a single token.

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

use super::{Verifier, pulse::Moment};

/// How a request was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// By a gateway.
    ForwardAuth,
    /// By RFC 7662.
    Introspection,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The token is accepted.
    Accepted,
    /// It is not, or there is none.
    Refused,
    /// The request makes no sense.
    Malformed,
    /// The caller may not ask.
    Unauthorized,
    /// Nobody can tell now.
    Unavailable,
}

/// In the order of the variants.
const PROTOCOLS: [&str; 2] = ["forward_auth", "introspection"];
const OUTCOMES: [&str; 5] = ["accepted", "refused", "malformed", "unauthorized", "unavailable"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    protocol: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProtocol {
    protocol: &'static str,
}

/// All of it, each counter at hand without a look-up.
pub struct Metrics {
    registry: Registry,
    requests: [[Counter; OUTCOMES.len()]; PROTOCOLS.len()],
    seconds: [Histogram; PROTOCOLS.len()],
    tokens: Gauge,
    staleness: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("credential_operator_verifier");
        let requests = Family::<Labels, Counter>::default();
        let seconds = Family::<OfProtocol, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(50e-6, 2.0, 12))
        });
        let (tokens, staleness) = (Gauge::default(), Gauge::default());
        registry.register("requests", "Requests, by protocol and result", requests.clone());
        registry.register(
            "request_duration_seconds",
            "How long requests took, from their headers to the answer",
            seconds.clone(),
        );
        registry.register("tokens", "Values that may be accepted", tokens.clone());
        registry.register(
            "staleness_seconds",
            "For how long the verifier may be behind the API server; -1 before it has read everything",
            staleness.clone(),
        );
        let counter =
            |protocol| OUTCOMES.map(|result| requests.get_or_create_owned(&Labels { protocol, result }));
        Self {
            requests: PROTOCOLS.map(counter),
            seconds: PROTOCOLS.map(|protocol| seconds.get_or_create_owned(&OfProtocol { protocol })),
            registry,
            tokens,
            staleness,
        }
    }
}

impl Metrics {
    /// Notes a request.
    pub fn note(&self, protocol: Protocol, outcome: Outcome, took: Duration) {
        self.requests[protocol as usize][outcome as usize].inc();
        self.seconds[protocol as usize].observe(took.as_secs_f64());
    }

    /// All of it as text.
    pub fn text(&self, verifier: &Verifier, now: Moment) -> String {
        self.tokens.set(verifier.index().len().try_into().unwrap_or(i64::MAX));
        self.staleness.set(verifier.staleness(now).map_or(-1.0, |age| age.as_secs_f64()));
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
