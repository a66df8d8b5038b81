//! Sends a real verifier what nobody should send it, and looks whether any of it is ever accepted.
//!
//! Each request is drawn by a seed and its number, goes over a real connection as bytes, and says beforehand what may
//! come of it. Now and then one is valid and must be accepted, so that a verifier that refuses everything is noticed.

pub mod client;
pub mod draw;
pub mod forward_auth;
pub mod introspection;
pub mod noise;
pub mod report;
pub mod value;
pub mod world;

/// How the verifier is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// As a gateway asks.
    ForwardAuth,
    /// As a service asks, RFC 7662.
    Introspection,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ForwardAuth => "forward-auth",
            Self::Introspection => "introspection",
        })
    }
}
