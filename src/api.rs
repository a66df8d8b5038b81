//! The kinds of `credential-operator.io/v1alpha1`, as users write them and `kubectl explain` tells them.
//!
//! Knows nothing of clients, controllers or how a token is made. Every type here parses leniently: what the
//! schema would refuse today may have been stored before the rule existed, so a field that is a duration or an
//! instant stays a string until somebody asks for its meaning.

pub mod api_token;
pub mod condition;
pub mod credential;
pub mod credential_policy;
pub mod delivery;
pub mod instant;
pub mod lifetime;
pub mod material;

pub use api_token::{ApiToken, ApiTokenSpec, ApiTokenState, ApiTokenStatus};
pub use condition::{Condition, ConditionType, Reason};
pub use credential::{Credential, CredentialSpec, CredentialState, CredentialStatus, CredentialType};
pub use credential_policy::{CredentialPolicy, CredentialPolicySpec, CredentialPolicyStatus};
pub use delivery::{Delivery, DeliveryMode};
pub use instant::Instant;
pub use lifetime::Lifetime;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

/// The API group of every kind of ours.
pub const GROUP: &str = "credential-operator.io";

/// The audience of a credential that names none, and of a route that names none.
pub const DEFAULT_AUDIENCE: &str = "credential-operator";

/// The `CustomResourceDefinition`s of all kinds, in the order in which they are printed.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    [Credential::crd(), ApiToken::crd(), CredentialPolicy::crd()].into_iter().map(polished).collect()
}

/// The schema as users should meet it: descriptions without the line breaks of our source, and no `nullable`, so
/// that an explicit null means absent to defaults and rules alike.
fn polished(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            polish(schema);
        }
    }
    crd
}

fn polish(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(description) = &mut schema.description {
        *description = description.replace("\n\n", "\0").replace('\n', " ").replace('\0', "\n\n");
    }
    schema.properties.iter_mut().flatten().for_each(|(_, property)| polish(property));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        polish(items);
    }
}
