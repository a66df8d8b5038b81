//! Names of what the operator creates, its labels and its annotations.

use sha2::{Digest, Sha256};

use crate::api::credential::Grant;

/// The key of a token's Secret that holds the value.
pub const TOKEN_KEY: &str = "token";
/// The key of a token's Secret that holds the value sealed.
pub const SEALED_KEY: &str = "token.age";

/// On everything that the operator creates; the watches select by it.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "credential-operator";
/// [`MANAGED_BY_LABEL`] as a label selector.
pub const MANAGED_BY_SELECTOR: &str = "app.kubernetes.io/managed-by=credential-operator";
/// The default name of the keyring's Secret.
pub const KEYRING: &str = "credential-operator-keyring";
/// On a token's Secret: the keyed proof of what it holds, see [`crate::domain::digest::Attestation`].
pub const ATTESTATION_ANNOTATION: &str = "credential-operator.io/attestation";
/// On what the operator creates in the namespace of a token or a credential: for which, see
/// [`crate::domain::made_for::MadeFor`].
pub const MADE_FOR_ANNOTATION: &str = "credential-operator.io/made-for";
/// On a token's Secret: which labels and annotations came from `spec.secret`, so that they can be taken back.
pub const PUBLISHED_ANNOTATION: &str = "credential-operator.io/published";
/// On a Secret that a user provides, with the value `true`: its owner's consent.
pub const PROVIDED_LABEL: &str = "credential-operator.io/provided";
/// [`PROVIDED_LABEL`] as a label selector.
pub const PROVIDED_SELECTOR: &str = "credential-operator.io/provided=true";
/// On a binding: the UID of the Credential that it is for.
pub const OWNER_UID_ANNOTATION: &str = "credential-operator.io/owner-uid";
/// On a binding: the `namespace/name` of the Credential that it is for.
pub const OWNER_ANNOTATION: &str = "credential-operator.io/owner";
/// On a Credential with bindings outside its namespace.
pub const FINALIZER: &str = "credential-operator.io/bindings";
/// On the keyring: any new value asks for a new signing key. On a Credential: for new material.
pub const ROTATE_ANNOTATION: &str = "credential-operator.io/rotate-requested-at";
/// On an ApiToken or a Credential whose values are delivered once: the id of the value that was received.
pub const ACKNOWLEDGED_ANNOTATION: &str = "credential-operator.io/acknowledged";
/// On a Credential with deletionProtection that is to be deleted all the same: its name.
pub const CONFIRM_DELETE_ANNOTATION: &str = "credential-operator.io/confirm-delete";
/// On the keyring: the last value of [`ROTATE_ANNOTATION`] that was answered.
pub const ROTATED_ANNOTATION: &str = "credential-operator.io/rotate-answered";

/// In memory only, instead of the labels of a namespace that has more of them than are read. Every policy selects such a namespace, and
/// nothing new is made there; the same if a user sets this label.
pub const TRUNCATED_LABEL: &str = "credential-operator.io/labels-truncated";

/// The ServiceAccount of a credential.
#[must_use]
pub fn service_account(credential: &str) -> String {
    format!("{credential}-credential")
}

/// The default Secret of a credential's material.
#[must_use]
pub fn material_secret(credential: &str) -> String {
    format!("{credential}-credential")
}

/// The default Secret of an `ApiToken`.
#[must_use]
pub fn token_secret(token: &str) -> String {
    format!("{token}-token")
}

/// The binding of a grant. The hash covers all that the API server would not let us change later, so another role
/// or target is another name, and the source namespace, so credentials of one name never meet in a third namespace.
#[must_use]
pub fn binding(namespace: &str, credential: &str, grant: &Grant) -> String {
    let target = grant.namespace.as_deref().unwrap_or(namespace);
    let outside = grant.cluster_wide || target != namespace;
    let target = if grant.cluster_wide { "" } else { target };
    let mut hash = Sha256::new();
    for part in [namespace, credential, target, grant.kind.as_str(), &grant.name] {
        hash.update(part);
        hash.update([0]);
    }
    let hash = hex(&hash.finalize()[..8]);
    let account = service_account(credential);
    if outside { format!("{namespace}.{account}-{hash}") } else { format!("{account}-{hash}") }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
