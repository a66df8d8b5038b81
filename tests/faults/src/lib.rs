//! Runs the real controllers on a real control plane while everything around them fails, and checks what must hold all
//! the same.
//!
//! A [`scenario`] is what users do. A [`plan`] is a line of text that says what goes wrong meanwhile: it replays
//! exactly. The [`wire`] makes it go wrong: it sees every request that an operator sends and every answer that it gets.
//! A [`run`] is one scenario under one plan; in the end its [`state`] is compared with that of an undisturbed run, and a
//! [`checker`] has watched the API server throughout and presented every value to a verifier that was [`asked`] all the
//! while, so that it can be told what must never be [accepted](acceptance). [`bug`]s are put in on purpose, to prove that they are caught.
//!
//! Whoever writes Credentials has rights of their own ([`authors`]), and the [`admission`] policies are in force.
//!
//! Nothing of this is in the operator: the harness links the library and has a `main` of its own.

pub mod acceptance;
pub mod admission;
pub mod asked;
pub mod authors;
pub mod body;
pub mod bug;
pub mod checker;
pub mod deliveries;
pub mod minted;
pub mod plan;
pub mod run;
pub mod sample;
pub mod scenario;
pub mod space;
pub mod state;
pub mod wire;
pub mod world;
