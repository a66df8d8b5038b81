//! What users do.

use futures::future::BoxFuture;

use crate::{run::Run, space::Outcome};

mod credentials;
pub mod delivery;
mod material;
mod minted;
mod others;
mod policies;
mod renewal;
mod tokens;

/// Does it, and waits until the operator has followed.
pub type Drive = for<'a> fn(&'a Run<'_>) -> BoxFuture<'a, Outcome>;

/// All of them, by name.
pub fn all() -> impl Iterator<Item = (&'static str, Drive)> {
    [
        tokens::ALL,
        renewal::ALL,
        minted::ALL,
        delivery::ALL,
        credentials::ALL,
        material::ALL,
        others::ALL,
        policies::ALL,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// The one of that name.
#[must_use]
pub fn find(name: &str) -> Option<Drive> {
    all().find(|(known, _)| *known == name).map(|(_, drive)| drive)
}

/// A valid credential.
#[must_use]
pub fn credential(name: &str) -> String {
    credential_with(name, "displayName: Test")
}

/// A valid credential with that in its spec.
#[must_use]
pub fn credential_with(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// A valid token of the credential `c`.
#[must_use]
pub fn token(name: &str) -> String {
    token_with(name, "expiresIn: 30d")
}

/// A valid token of the credential `c` with that in its spec.
#[must_use]
pub fn token_with(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: ApiToken\nmetadata: {{name: {name}}}\nspec: {{credentialRef: {{name: c}}, {spec}}}\n"
    )
}
