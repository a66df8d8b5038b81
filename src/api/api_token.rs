//! `ApiToken`: one expiring bearer token of a credential.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Condition, Delivery, Instant, Lifetime, credential::ObjectReference, credential_policy::TokenType,
};

/// An ApiToken is one expiring bearer token of a Credential. The operator draws its value once and keeps it in a
/// Secret, key `token`, until the end; only a keyed digest of it is in the status.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "credential-operator.io",
    version = "v1alpha1",
    kind = "ApiToken",
    plural = "apitokens",
    doc = "An ApiToken is one expiring bearer token of a Credential. The operator draws its value once and keeps it in a Secret, key token, until the end; only a keyed digest of it is in the status.",
    namespaced,
    shortname = "atok",
    category = "access",
    status = "ApiTokenStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 247").message("the name must have at most 247 characters, because the token's Secret is named <name>-token; choose a shorter name"),
    selectable = ".spec.credentialRef.name",
    selectable = ".status.state",
    printcolumn(name = "Credential", type_ = "string", json_path = ".spec.credentialRef.name"),
    printcolumn(name = "Token ID", type_ = "string", json_path = ".status.tokenId"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expiresAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Scopes", type_ = "string", json_path = ".spec.scopes", priority = 1),
    printcolumn(name = "Delivery", type_ = "string", json_path = ".spec.delivery.mode", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Usable\")].reason", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.scopes) || self.scopes.all(a, self.scopes.exists_one(b, a == b))").message("a scope is named twice; name it once").field_path(".scopes"),
    validation = Rule::new("!has(self.audiences) || self.audiences.all(a, self.audiences.exists_one(b, a == b))").message("an audience is named twice; name it once").field_path(".audiences"),
    validation = Rule::new("has(self.renewBefore) || has(self.expiresIn) != has(self.expiresAt)").message("set exactly one of expiresIn (a span of time, such as 30d) and expiresAt (an instant, such as 2027-01-01T00:00:00Z); both only together with renewBefore"),
    validation = Rule::new("!has(self.renewBefore) || has(self.expiresIn)").message("renewBefore needs expiresIn, the life of each value; set expiresIn, such as 30d, or remove renewBefore").field_path(".renewBefore"),
    validation = Rule::new("!has(self.renewBefore) || !has(self.expiresIn) || 2 * int(self.renewBefore.substring(0, self.renewBefore.size() - 1)) * (self.renewBefore.endsWith('m') ? 1 : self.renewBefore.endsWith('h') ? 60 : self.renewBefore.endsWith('d') ? 1440 : self.renewBefore.endsWith('w') ? 10080 : 525600) <= int(self.expiresIn.substring(0, self.expiresIn.size() - 1)) * (self.expiresIn.endsWith('m') ? 1 : self.expiresIn.endsWith('h') ? 60 : self.expiresIn.endsWith('d') ? 1440 : self.expiresIn.endsWith('w') ? 10080 : 525600)").message("renewBefore is more than half of expiresIn, but at most two values are valid at a time; shorten renewBefore, or give the values a longer life").field_path(".renewBefore"),
    validation = Rule::new("has(self.renewBefore) == has(oldSelf.renewBefore) && (!has(self.renewBefore) || self.renewBefore == oldSelf.renewBefore)").message("renewBefore is immutable; create another ApiToken to renew otherwise").field_path(".renewBefore"),
    validation = Rule::new("has(self.expiresIn) == has(oldSelf.expiresIn) && (!has(self.expiresIn) || self.expiresIn == oldSelf.expiresIn)").message("expiresIn is immutable; create another ApiToken for another life").field_path(".expiresIn"),
    validation = Rule::new("!has(oldSelf.expiresAt) || (has(self.expiresAt) && self.expiresAt <= oldSelf.expiresAt)").message("expiresAt can only be brought forward; for a longer life create another ApiToken").field_path(".expiresAt"),
    validation = Rule::new("!has(self.ttlAfterExpired) || has(self.expiresAt)").message("ttlAfterExpired needs expiresAt: a token with expiresIn alone would live again when a tool creates it anew; set expiresAt too or instead, or remove ttlAfterExpired").field_path(".ttlAfterExpired"),
    validation = Rule::new("!has(oldSelf.scopes) || (has(self.scopes) && self.scopes.all(s, s in oldSelf.scopes))").message("scopes may only shrink; create another ApiToken for more").field_path(".scopes"),
    validation = Rule::new("!has(oldSelf.audiences) || (has(self.audiences) && self.audiences.all(a, a in oldSelf.audiences))").message("audiences may only shrink; create another ApiToken for more").field_path(".audiences"),
    validation = Rule::new("(has(self.secret) && has(self.secret.name) ? self.secret.name : '') == (has(oldSelf.secret) && has(oldSelf.secret.name) ? oldSelf.secret.name : '')").message("secret.name is immutable; create another ApiToken for another Secret").field_path(".secret"),
    validation = Rule::new("(has(self.delivery) ? self.delivery.mode : 'Secret') == (has(oldSelf.delivery) ? oldSelf.delivery.mode : 'Secret')").message("delivery.mode is immutable; create another ApiToken to have it delivered otherwise").field_path(".delivery"),
    validation = Rule::new("!has(self.delivery) || !has(self.delivery.window) || !has(self.expiresIn) || int(self.delivery.window.substring(0, self.delivery.window.size() - 1)) * (self.delivery.window.endsWith('m') ? 1 : self.delivery.window.endsWith('h') ? 60 : self.delivery.window.endsWith('d') ? 1440 : self.delivery.window.endsWith('w') ? 10080 : 525600) <= int(self.expiresIn.substring(0, self.expiresIn.size() - 1)) * (self.expiresIn.endsWith('m') ? 1 : self.expiresIn.endsWith('h') ? 60 : self.expiresIn.endsWith('d') ? 1440 : self.expiresIn.endsWith('w') ? 10080 : 525600)").message("delivery.window is longer than expiresIn, the life of the value; shorten it").field_path(".delivery"),
    validation = Rule::new("!has(oldSelf.revoked) || (has(self.revoked) && self.revoked)").message("a revoked token stays revoked; create another ApiToken").field_path(".revoked"),
    validation = Rule::new("self.type != 'ServiceAccount' || !has(self.expiresIn) || !self.expiresIn.endsWith('m') || int(self.expiresIn.substring(0, self.expiresIn.size() - 1)) >= 10").message("the API server mints no token for less than ten minutes; set expiresIn to 10m or more, or choose type Opaque").field_path(".expiresIn"),
    validation = Rule::new("self.type != 'ServiceAccount' || !has(self.scopes)").message("scopes go with type Opaque: what a ServiceAccount token may do is what the roles of its credential say; remove scopes").field_path(".scopes"),
    validation = Rule::new("self.type != 'ServiceAccount' || !has(self.audiences) || self.audiences.size() > 0").message("a ServiceAccount token is for somebody: name the audiences, or remove audiences for the API server's own; to stop the token set revoked").field_path(".audiences"),
    validation = Rule::new("self.type != 'ServiceAccount' || !has(self.delivery) || self.delivery.mode == 'Secret'").message("a ServiceAccount token lives in its Secret and dies with it: set delivery.mode to Secret or remove delivery, or choose type Opaque").field_path(".delivery"),
    validation = Rule::new("!has(self.revoked) || self.revoked").message("revoked is true or absent; remove the field, or set it to true to revoke the token for good").field_path(".revoked")
)]
pub struct ApiTokenSpec {
    /// The credential whose token this is. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("credentialRef is immutable; create another ApiToken for another credential"))]
    pub credential_ref: CredentialReference,

    /// Who uses the token, and where. Example: "laptop of the night shift".
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,

    /// Opaque: the operator draws the value and its verifier judges it. ServiceAccount: the API server mints the value for
    /// the credential's ServiceAccount, so that it can use the credential's roles at the Kubernetes API; it is bound to its
    /// Secret and dies with it. Needs a controller with --service-account-tokens. Immutable.
    #[serde(default, rename = "type")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("type is immutable; create another ApiToken for another type"))]
    pub token_type: TokenType,

    /// How long the token lives from its creation, or, with renewBefore, each value of it: a whole number and m, h, d
    /// (24 h), w or y (365 d), at most 10y. Exactly one of expiresIn and expiresAt is set; both only with renewBefore.
    /// Immutable. Example: 30d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Lifetime>,

    /// The end of the token, RFC 3339 with an offset, before the year 2200. It can only be brought forward. In a
    /// Git repository prefer it to expiresIn: a token that is created anew keeps its end.
    /// Example: 2027-01-01T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Instant>,

    /// How long before the end of a value the next one takes its place in the Secret; both are accepted until that end.
    /// At most half of expiresIn, which it needs. Value n ends at creation + expiresIn + n * (expiresIn - renewBefore),
    /// until expiresAt, else on and on. Whoever reads the Secret again within this time is never without a valid value.
    /// Absent: there is one value. Immutable. Example: 7d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_before: Option<Lifetime>,

    /// Narrows the credential's scopes. Absent: all of the credential's; []: none. May only shrink.
    /// Example: [orders:read].
    #[schemars(length(max = 64), inner(length(min = 1, max = 256), regex(pattern = r"^[\x21\x23-\x5B\x5D-\x7E]+$")), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,

    /// Narrows the credential's audiences. Absent: all of the credential's, or, of a ServiceAccount token, the API server's
    /// own; []: none. May only shrink.
    /// Example: [orders.example].
    #[schemars(length(max = 16), inner(length(min = 1, max = 512)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audiences: Option<Vec<String>>,

    /// How the value comes to whom it is for. Absent: mode Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,

    /// The Secret that the value is kept in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretOptions>,

    /// True revokes the token for good: it is refused at once and its Secret is deleted. Otherwise absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<bool>,

    /// How long this object stays after its end, or, where it was created later than that, after its creation; then the
    /// operator deletes it. A revoked one stays as long. Needs expiresAt, so that what a GitOps tool creates anew is
    /// expired from the beginning, and has no Secret. Absent: it stays until somebody deletes it. Example: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_after_expired: Option<Lifetime>,
}

/// A credential in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct CredentialReference {
    /// The credential's name. Example: edge-nodes.
    #[schemars(length(min = 1, max = 52))]
    pub name: String,
}

/// How the Secret looks to others.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
#[x_kube(
    validation = Rule::new("!has(self.labels) || self.labels.all(k, k in ['app.kubernetes.io/name', 'app.kubernetes.io/instance', 'app.kubernetes.io/component', 'app.kubernetes.io/part-of', 'app.kubernetes.io/version'] || !k.split('/')[0].matches('(^|[.])(kubernetes[.]io|k8s[.]io|credential-operator[.]io)$') || !k.contains('/'))").message("labels of kubernetes.io, k8s.io and credential-operator.io are reserved, except app.kubernetes.io/name, instance, component, part-of and version; choose another prefix").field_path(".labels"),
    validation = Rule::new("!has(self.annotations) || self.annotations.all(k, !k.split('/')[0].matches('(^|[.])(kubernetes[.]io|k8s[.]io|credential-operator[.]io)$') || !k.contains('/'))").message("annotations of kubernetes.io, k8s.io and credential-operator.io are reserved; choose another prefix").field_path(".annotations"),
    validation = Rule::new("!has(self.labels) || self.labels.all(k, k.size() <= 317 && self.labels[k].matches('^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$') && k.indexOf('/') <= 253 && k.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$'))").message("not a label: keys look like example.com/name, values like v1.2-a, with at most 63 characters").field_path(".labels"),
    validation = Rule::new("!has(self.annotations) || self.annotations.all(k, k.size() <= 317 && k.indexOf('/') <= 253 && k.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$'))").message("not an annotation: keys look like example.com/name").field_path(".annotations")
)]
pub struct SecretOptions {
    /// The Secret's name; absent: <name>-token for an ApiToken, whose choice is immutable, and <name>-credential for a
    /// Credential. A Secret of that name that is not the operator's own is never touched.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels for the Secret, in addition to those of the operator. Labels of kubernetes.io, k8s.io and credential-operator.io are
    /// reserved, except app.kubernetes.io/name, instance, component, part-of and version. Example: {app: orders}.
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations for the Secret, beside the operator's own.
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 1024}))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What the operator last saw and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
// Before the operator's first answer there would be no status, which tools that wait take for done (kstatus).
#[schemars(extend("default" = {"observedGeneration": -1}))]
pub struct ApiTokenStatus {
    /// The generation of the spec that this status speaks of; -1 before the operator's first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Usable and, while they hold, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Pending, Active, Suspended, Expired, Revoked or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ApiTokenState>,
    /// The number of the value, from 0; a value that was lost or renewed is followed by the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<i64>,
    /// With renewBefore: the n of the value by which it ends at creation + expiresIn + n * (expiresIn - renewBefore).
    /// Unlike the serial it goes by the time alone: a lost value is followed by one of the same term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,
    /// The public id inside the value: cop_<id>_..., or the jti of a ServiceAccount token, by which the API server's audit
    /// log names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// `hmac-sha256:<key id>:<hex>` over the ApiToken's UID, the serial, the term if there is one, the token id and the
    /// secret. A ServiceAccount token has none: the API server judges it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When the value was drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Instant>,
    /// From this instant the value is refused: the earlier of the token's own end and its credential's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Instant>,
    /// Of a ServiceAccount token: what the API server granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minted: Option<MintedToken>,
    /// With delivery Once: when the value was taken for delivered. From then on no Secret holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Instant>,
    /// The value before this one, while it is still accepted after a renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousToken>,
    /// The UID of the credential that the value was issued for; a later one of the same name is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_uid: Option<String>,
    /// The Secret that holds the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectReference>,
    /// When lost values were replaced, the latest last, as far as it bounds how often that is done.
    #[schemars(length(max = 3))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced_at: Vec<Instant>,
}

/// What the API server granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
pub struct MintedToken {
    /// The UID of the ServiceAccount that the value is for.
    pub service_account_uid: String,
    /// The end of the value by itself, by the operator's clock. Where that is before `expiresAt`, the value is followed by
    /// another in time.
    pub expires_at: Instant,
}

/// A value that was renewed and is still accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
pub struct PreviousToken {
    /// Its number.
    pub serial: i64,
    /// Its term.
    pub term: i64,
    /// Its public id.
    pub token_id: String,
    /// Its digest.
    pub digest: String,
    /// From this instant it is refused.
    pub expires_at: Instant,
}

/// The state of a token, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "told at ApiTokenStatus::state, where kubectl explain shows it")]
pub enum ApiTokenState {
    Pending,
    Active,
    Suspended,
    Expired,
    Revoked,
    Failed,
}
