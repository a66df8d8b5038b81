//! What a token, a digest, a binding and an end are, and the rules that hold among them.
//!
//! Pure: no client, no runtime, no tracing, no environment, no clock and no randomness but what is passed in.

pub mod adoption;
pub mod attested;
pub mod binding;
pub mod clock;
pub mod delivery;
pub mod digest;
pub mod expiry;
pub mod keyring;
pub mod made_for;
pub mod material;
pub mod mint;
pub mod name;
pub mod policy;
pub mod reach;
pub mod redacted;
pub mod sealed;
pub mod token;
