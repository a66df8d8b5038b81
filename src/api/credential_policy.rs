//! `CredentialPolicy`: what namespaces may ask for.
//!
//! Every list is atomic, because absent and empty ones differ: of a list that is a set, server-side apply takes the last item
//! away together with the list, and what was to be none would be all. So is the block of a selector, and that of tokens: of
//! others it leaves null, which the schema refuses.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, CredentialType, DeliveryMode, Lifetime, credential::RoleKind};

/// A CredentialPolicy says what namespaces may ask for: types, roles, scopes, audiences, lifetimes and counts. Every policy
/// that selects a namespace must allow.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "credential-operator.io",
    version = "v1alpha1",
    kind = "CredentialPolicy",
    plural = "credentialpolicies",
    doc = "A CredentialPolicy says what namespaces may ask for: types, roles, scopes, audiences, lifetimes and counts. Every policy that selects a namespace must allow.",
    shortname = "credpol",
    category = "access",
    status = "CredentialPolicyStatus",
    derive = "PartialEq",
    printcolumn(name = "Namespaces", type_ = "integer", json_path = ".status.namespaces"),
    printcolumn(name = "Credentials", type_ = "integer", json_path = ".status.credentials"),
    printcolumn(name = "Violations", type_ = "integer", json_path = ".status.violations"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Max Credentials",
        type_ = "integer",
        json_path = ".spec.maxCredentials",
        priority = 1
    ),
    printcolumn(
        name = "Max Tokens",
        type_ = "integer",
        json_path = ".spec.tokens.maxPerCredential",
        priority = 1
    ),
    printcolumn(
        name = "Max Lifetime",
        type_ = "string",
        json_path = ".spec.tokens.maxLifetime",
        priority = 1
    )
)]
#[expect(
    clippy::duplicated_attributes,
    reason = "each column has a type of its own, also where two are the same"
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.scopes) || self.scopes.all(s, !s.contains('*') || s.indexOf('*') == s.size() - 1)").message("a * stands for anything at the end of an entry, and may stand nowhere else; write orders:* or orders:read").field_path(".scopes"),
    validation = Rule::new("!has(self.audiences) || self.audiences.all(a, !a.contains('*') || a.indexOf('*') == a.size() - 1)").message("a * stands for anything at the end of an entry, and may stand nowhere else; write https://orders.example or https://orders.example/*").field_path(".audiences")
)]
pub struct CredentialPolicySpec {
    /// The namespaces that the policy is about, by their labels. {} selects every namespace.
    /// Example: {matchLabels: {team: orders}}.
    pub namespace_selector: NamespaceSelector,

    /// The types of credentials that are allowed. Absent: all; []: none. Example: [Token, BasicAuth].
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<CredentialType>>,

    /// The roles that credentials may be granted. Absent: all, in the credential's own namespace; []: none. Grants in
    /// other namespaces, and those with clusterWide, always need an entry. Example: [{kind: ClusterRole, name: view}].
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<AllowedRole>>,

    /// The scopes that credentials may have; one that ends in * stands for all that begin so. Absent: all; []: none.
    /// Example: [orders:*].
    #[schemars(length(max = 64), inner(length(min = 1, max = 256), regex(pattern = r"^[\x21\x23-\x5B\x5D-\x7E]+$")), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,

    /// The audiences that credentials may have; one that ends in * stands for all that begin so. A credential that names
    /// none has the audience credential-operator. Absent: all; []: none. Example: [orders.example].
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audiences: Option<Vec<String>>,

    /// How many credentials a namespace may have. Of more, the oldest win; the others get nothing new, and keep what they
    /// have. Absent: any number. Example: 20.
    #[schemars(range(min = 0, max = 1_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_credentials: Option<i64>,

    /// What holds for tokens. What they violate keeps new values from being issued, and ends none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenPolicy>,
}

/// Namespaces, by their labels: those that fit all of matchLabels and matchExpressions.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.matchLabels) || self.matchLabels.all(k, k.size() <= 317 && self.matchLabels[k].matches('^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$') && k.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$'))").message("not a label, so that no namespace could have it: keys look like example.com/name, values like v1.2-a, with at most 63 characters").field_path(".matchLabels")
)]
pub struct NamespaceSelector {
    /// Labels that a namespace must have. Example: {team: orders}.
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,

    /// Conditions that a namespace's labels must fulfil. Example: [{key: tier, operator: NotIn, values: [trusted]}].
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelRequirement>,
}

/// One condition that labels must fulfil.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
#[x_kube(
    validation = Rule::new("(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)").message("In and NotIn need values, Exists and DoesNotExist take none").field_path(".values")
)]
pub struct LabelRequirement {
    /// The label's key. Example: kubernetes.io/metadata.name.
    #[schemars(
        length(min = 1, max = 317),
        regex(
            pattern = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$"
        )
    )]
    pub key: String,
    /// In or NotIn (values; what has no such label is NotIn), Exists or DoesNotExist.
    pub operator: LabelOperator,
    /// For In and NotIn. Example: [orders, billing].
    #[schemars(length(max = 64), inner(length(max = 63)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "told at LabelRequirement::operator, where kubectl explain shows it")]
pub enum LabelOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// Grants that are allowed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.clusterWide) && self.clusterWide) || self.kind == 'ClusterRole'").message("clusterWide needs kind ClusterRole: a Role holds in its own namespace only").field_path(".clusterWide"),
    validation = Rule::new("!self.name.contains('*') || self.name.indexOf('*') == self.name.size() - 1").message("a * stands for anything at the end of a name, and may stand nowhere else; write view-* or view").field_path(".name")
)]
pub struct AllowedRole {
    /// Role or ClusterRole.
    pub kind: RoleKind,
    /// The role's name; one that ends in * stands for all that begin so. Example: view.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// True allows grants with clusterWide, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cluster_wide: bool,
    /// The namespaces where it may be granted beside the credential's own; * stands for any. Example: [monitoring].
    #[schemars(length(max = 64), inner(length(min = 1, max = 63), regex(pattern = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$")), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
}

/// What holds for tokens.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline, extend("x-kubernetes-map-type" = "atomic"))]
#[serde(rename_all = "camelCase")]
pub struct TokenPolicy {
    /// How long one value may live at most; that of a ClientSecret, too, by its rotation.every and overlap, or by its
    /// expiresAt. Absent: any life. Example: 1y.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lifetime: Option<Lifetime>,

    /// The values that expiresIn of an ApiToken may have. One with expiresAt may live as long as the longest of them.
    /// Absent: all; []: none. Example: [1d, 7d, 30d].
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetimes: Option<Vec<Lifetime>>,

    /// How many ApiTokens a credential may have that have neither ended nor been revoked. Of more, the oldest win; the others
    /// get no new value. Absent: any number. Example: 10.
    #[schemars(range(min = 0, max = 1_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_credential: Option<i64>,

    /// How the values of ApiTokens may be delivered. Absent: all; []: none. Example: [Once, Sealed].
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<Vec<DeliveryMode>>,

    /// The types of ApiTokens that are allowed. Absent: all; []: none. Example: [Opaque].
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<TokenType>>,
}

/// Who draws a token's value, and judges it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "told at TokenPolicy::types, where kubectl explain shows it")]
pub enum TokenType {
    #[default]
    Opaque,
    ServiceAccount,
}

/// What the operator last saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialPolicyStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: the policy is enforced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many namespaces the policy selects. This and the other counts are brought up to date at most every 10 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<i64>,
    /// How many credentials there are in these namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<i64>,
    /// How many of these credentials violate the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub violations: Option<i64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_and_empty_lists_stay_what_they_are() {
        let lists = ["types", "roles", "scopes", "audiences"];
        let token_lists = ["lifetimes", "deliveries", "types"];
        let mut absent = json!({"namespaceSelector": {}, "tokens": {}});
        let read: CredentialPolicySpec = serde_json::from_value(absent.clone()).unwrap();
        assert_eq!(json!(read), absent);
        for list in lists {
            absent[list] = json!([]);
        }
        for list in token_lists {
            absent["tokens"][list] = json!([]);
        }
        let empty: CredentialPolicySpec = serde_json::from_value(absent.clone()).unwrap();
        assert_eq!(json!(empty), absent);
        assert_ne!(read, empty);
        assert!(empty.types.is_some_and(|types| types.is_empty()));
    }
}
