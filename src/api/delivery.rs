//! How a generated value comes to whom it is for.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Lifetime;

/// How a generated value comes to whom it is for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
#[x_kube(
    validation = Rule::new("!has(self.window) || self.mode == 'Once'").message("window goes with mode Once only: remove it, or create the object anew with mode Once").field_path(".window"),
    validation = Rule::new("!has(self.recipients) || self.mode == 'Sealed'").message("recipients go with mode Sealed only: remove them, or create the object anew with mode Sealed"),
    validation = Rule::new("self.mode != 'Sealed' || (has(self.recipients) && self.recipients.size() > 0)").message("mode Sealed needs recipients: the public keys that the value is sealed for, such as age1... (age-keygen) or a line of id_ed25519.pub"),
    // On the parent: an error of an item repeats the item, and somebody may have put a private key there.
    validation = Rule::new("!has(self.recipients) || self.recipients.all(r, r.matches('^(age1[02-9ac-hj-np-z]{58}|ssh-(ed25519|rsa) AAAA[A-Za-z0-9+/]{40,}={0,2}( [ -~]*)?)$'))").message("a recipient is no public key of age or SSH: write age1... as age-keygen prints it, or a line that begins with ssh-ed25519 or ssh-rsa, such as id_ed25519.pub has; a private key that was sent here may be in logs by now, so stop using it")
)]
pub struct Delivery {
    /// Secret: the value is kept in the Secret until its end. Once: it is kept for the window, or until it is acknowledged,
    /// and lives on when the Secret is gone. Sealed: the Secret holds ciphertext alone, which only the recipients can open.
    /// Immutable.
    pub mode: DeliveryMode,

    /// With Once: how long a value is kept from its issue, unless the annotation credential-operator.io/acknowledged names it
    /// before. Absent: 15m. Example: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Lifetime>,

    /// With Sealed: the public keys that the value is sealed for, of age (X25519) or SSH (Ed25519, RSA). Never a private key.
    /// Other recipients get a new value, and the one before is refused. Example: [age1...].
    #[schemars(length(max = 16), inner(length(max = 1024)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
}

/// The ways in which a value comes to whom it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "told at Delivery::mode, where kubectl explain shows it")]
pub enum DeliveryMode {
    #[default]
    Secret,
    Once,
    Sealed,
}
