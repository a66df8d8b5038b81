//! `Credential`: a named service identity, and what it may do.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Condition, ConditionType, Delivery, Instant, Reason,
    api_token::SecretOptions,
    material::{
        BasicAuth, HashedPassword, HelmRepository, Kubeconfig, ObjectStore, Opaque, Provided, Registry,
        Rotation, SshKey, Tls, Totp,
    },
};

/// The most characters of a Credential's name: `<name>-credential` must fit a ServiceAccount's 63.
pub const MAX_NAME_LENGTH: usize = 52;

/// The most roles that a Credential may be granted.
pub const MAX_GRANTS: usize = 16;

/// A Credential is a named service identity: who it is, what it may do, and whether it may do it now. Its tokens
/// are ApiTokens that refer to it.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "credential-operator.io",
    version = "v1alpha1",
    kind = "Credential",
    plural = "credentials",
    doc = "A Credential is a named service identity: who it is, what it may do, and whether it may do it now. Its tokens are ApiTokens that refer to it.",
    namespaced,
    shortname = "cred",
    category = "access",
    status = "CredentialStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 52").message("the name must have at most 52 characters, because the credential's ServiceAccount is named <name>-credential; choose a shorter name"),
    selectable = ".spec.type",
    selectable = ".status.state",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Roles", type_ = "string", json_path = ".status.roles"),
    printcolumn(name = "Tokens", type_ = "integer", json_path = ".status.tokens.active"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Display Name", type_ = "string", json_path = ".spec.displayName", priority = 1),
    printcolumn(name = "Description", type_ = "string", json_path = ".spec.description", priority = 1),
    printcolumn(name = "Next Expiry", type_ = "string", json_path = ".status.nextExpiryAt", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(oldSelf.expiresAt) || (has(self.expiresAt) && self.expiresAt <= oldSelf.expiresAt)").message("expiresAt can only be brought forward; for a longer life create another credential").field_path(".expiresAt"),
    validation = Rule::new("!has(self.roles) || self.roles.all(a, self.roles.exists_one(b, a == b))").message("a role is granted twice with the same target; remove one of the two").field_path(".roles"),
    validation = Rule::new("!has(self.scopes) || self.scopes.all(a, self.scopes.exists_one(b, a == b))").message("a scope is named twice; name it once").field_path(".scopes"),
    validation = Rule::new("!has(self.audiences) || self.audiences.all(a, self.audiences.exists_one(b, a == b))").message("an audience is named twice; name it once").field_path(".audiences"),
    validation = Rule::new("!has(self.basicAuth) || self.type == 'BasicAuth'").message("basicAuth goes with type BasicAuth only; remove it, or create a credential of that type").field_path(".basicAuth"),
    validation = Rule::new("!has(self.sshKey) || self.type == 'SshKey'").message("sshKey goes with type SshKey only; remove it, or create a credential of that type").field_path(".sshKey"),
    validation = Rule::new("!has(self.tls) || self.type == 'Tls'").message("tls goes with type Tls only; remove it, or create a credential of that type").field_path(".tls"),
    validation = Rule::new("!has(self.objectStore) || self.type == 'ObjectStore'").message("objectStore goes with type ObjectStore only; remove it, or create a credential of that type").field_path(".objectStore"),
    validation = Rule::new("!has(self.registry) || self.type == 'Registry'").message("registry goes with type Registry only; remove it, or create a credential of that type").field_path(".registry"),
    validation = Rule::new("!has(self.helmRepository) || self.type == 'HelmRepository'").message("helmRepository goes with type HelmRepository only; remove it, or create a credential of that type").field_path(".helmRepository"),
    validation = Rule::new("!has(self.kubeconfig) || self.type == 'Kubeconfig'").message("kubeconfig goes with type Kubeconfig only; remove it, or create a credential of that type").field_path(".kubeconfig"),
    validation = Rule::new("!has(self.opaque) || self.type == 'Opaque'").message("opaque goes with type Opaque only; remove it, or create a credential of that type").field_path(".opaque"),
    validation = Rule::new("!has(self.hashedPassword) || self.type == 'HashedPassword'").message("hashedPassword goes with type HashedPassword only; remove it, or create a credential of that type").field_path(".hashedPassword"),
    validation = Rule::new("!has(self.totp) || self.type == 'Totp'").message("totp goes with type Totp only; remove it, or create a credential of that type").field_path(".totp"),
    validation = Rule::new("self.type != 'Token' || (!has(self.rotation) && !has(self.provided) && !has(self.secret) && !has(self.delivery))").message("a credential of type Token holds no material: remove rotation, provided, secret and delivery, or choose another type").field_path(".type"),
    validation = Rule::new("has(self.provided) || !(self.type in ['GpgKey', 'SwarmToken', 'DockerSwarm', 'KubernetesApi', 'Vpn', 'AmazonEc2', 'Azure', 'Exoscale', 'GoogleCloud', 'OpenStack'])").message("material of this type is not generated: set provided.secretRef to the Secret that has it").field_path(".type"),
    validation = Rule::new("!has(self.provided) || !(has(self.rotation) || has(self.delivery) || has(self.basicAuth) || has(self.sshKey) || has(self.tls) || has(self.objectStore) || has(self.registry) || has(self.helmRepository) || has(self.kubeconfig) || has(self.opaque) || has(self.totp))").message("provided material is neither drawn nor rotated, and published as it is: remove rotation, delivery and the options of the type").field_path(".provided"),
    validation = Rule::new("has(self.provided) || self.type != 'Registry' || has(self.registry)").message("set registry.server, such as registry.example, so that the login can name it").field_path(".type"),
    validation = Rule::new("has(self.provided) || self.type != 'Kubeconfig' || has(self.kubeconfig)").message("set kubeconfig.server, such as https://api.example:6443, as those reach it who use the file").field_path(".type"),
    validation = Rule::new("self.type != 'Kubeconfig' || !has(self.delivery) || self.delivery.mode == 'Secret'").message("the token in a kubeconfig lives in its Secret and dies with it: set delivery.mode to Secret or remove delivery").field_path(".delivery"),
    validation = Rule::new("has(self.provided) || self.type != 'Opaque' || has(self.opaque)").message("set opaque.fields, such as [{name: api-key}]").field_path(".type"),
    validation = Rule::new("(has(self.delivery) ? self.delivery.mode : 'Secret') == (has(oldSelf.delivery) ? oldSelf.delivery.mode : 'Secret')").message("delivery.mode is immutable; create another credential to have its material delivered otherwise").field_path(".delivery"),
    validation = Rule::new("!has(self.delivery) || !has(self.delivery.window) || !has(self.rotation) || !has(self.rotation.every) || int(self.delivery.window.substring(0, self.delivery.window.size() - 1)) * (self.delivery.window.endsWith('m') ? 1 : self.delivery.window.endsWith('h') ? 60 : self.delivery.window.endsWith('d') ? 1440 : self.delivery.window.endsWith('w') ? 10080 : 525600) <= int(self.rotation.every.substring(0, self.rotation.every.size() - 1)) * (self.rotation.every.endsWith('m') ? 1 : self.rotation.every.endsWith('h') ? 60 : self.rotation.every.endsWith('d') ? 1440 : self.rotation.every.endsWith('w') ? 10080 : 525600)").message("delivery.window is longer than rotation.every, after which there is another value; shorten it").field_path(".delivery"),
    validation = Rule::new("!has(self.rotation) || !has(self.rotation.overlap) || self.type == 'ClientSecret'").message("overlap goes with type ClientSecret only: of other material nobody can be told that two are valid; remove it").field_path(".rotation.overlap")
)]
pub struct CredentialSpec {
    /// A name for people, free to change. Example: "Edge nodes".
    #[schemars(length(max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,

    /// How or by whom the credential is used, free to change. Example: "Registers edge nodes".
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,

    /// Active or Inactive. Inactive unbinds the roles and fails every token; nothing is lost, and Active brings
    /// all of it back with the same values.
    #[serde(default)]
    pub state: DesiredState,

    /// What kind of material the credential itself holds. Token: none, only ApiTokens. ClientSecret, BasicAuth, SshKey,
    /// Tls, ObjectStore, Registry, HelmRepository, Kubeconfig, Opaque, HashedPassword and Totp are generated, or provided by you;
    /// GpgKey, SwarmToken, DockerSwarm, KubernetesApi, Vpn, AmazonEc2, Azure, Exoscale, GoogleCloud and OpenStack are
    /// provided only. Immutable.
    #[serde(default, rename = "type")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("type is immutable; create another credential for another type"))]
    pub credential_type: CredentialType,

    /// What the identity may do in the Kubernetes API: at most 16 grants of a Role or ClusterRole, each with one
    /// target. Example: {kind: ClusterRole, name: view}.
    #[schemars(length(max = MAX_GRANTS), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Grant>,

    /// Rights in applications, reported by the verifier: RFC 6749 scope tokens. A token may narrow them.
    /// Example: [orders:read].
    #[schemars(length(max = 64), inner(length(min = 1, max = 256), regex(pattern = r"^[\x21\x23-\x5B\x5D-\x7E]+$")), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,

    /// The services that its tokens are for. Absent: the one audience `credential-operator`. A token may narrow
    /// them. Example: [orders.example].
    #[schemars(length(max = 16), inner(length(min = 1, max = 512)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audiences: Option<Vec<String>>,

    /// The end of the whole credential, RFC 3339 with an offset, before the year 2200; absent: no end. It can only
    /// be brought forward. From that instant its roles are unbound and its tokens refused, for good.
    /// Example: 2027-06-30T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Instant>,

    /// True: the credential can be deleted only once the annotation credential-operator.io/confirm-delete has its name, or
    /// together with its namespace. Deleting it deletes its tokens and its Secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deletion_protection: bool,

    /// When generated material is drawn anew. Example: {every: 90d}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,

    /// How generated material comes to whom it is for. Absent: mode Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,

    /// Material that you bring: it is checked, and published under the keys of the type. Absent: it is generated.
    /// Example: {secretRef: {name: my-secret}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provided: Option<Provided>,

    /// The Secret that the material is published in. Not for type Token, which has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretOptions>,

    /// Options of type BasicAuth. A change draws a new password. Example: {username: svc}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,

    /// Options of type SshKey. A change draws a new key. Example: {algorithm: Rsa, size: 4096}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_key: Option<SshKey>,

    /// Options of type Tls. A change draws a new key and certificate. Example: {dnsNames: [orders.example]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// Options of type ObjectStore. A change is published beside the same keys. Example: {bucket: backups}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<ObjectStore>,

    /// Options of type Registry, which needs them. A change draws a new password. Example: {server: registry.example}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,

    /// Options of type HelmRepository. A change draws a new password. Example: {username: charts}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helm_repository: Option<HelmRepository>,

    /// Options of type Kubeconfig, which needs them, and a controller with --service-account-tokens. A change has another
    /// token minted. Example: `{server: "https://api.example:6443"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<Kubeconfig>,

    /// Options of type Opaque, which needs them. A change draws all fields anew. Example: {fields: [{name: api-key}]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque: Option<Opaque>,

    /// Options of type HashedPassword. A change draws a new password. Example: {algorithm: Argon2id}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashed_password: Option<HashedPassword>,

    /// Options of type Totp. A change draws a new seed. Example: {account: alice}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totp: Option<Totp>,
}

/// Whether a credential may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum DesiredState {
    #[default]
    #[expect(missing_docs, reason = "told at CredentialSpec::state, where kubectl explain shows it")]
    Active,
    #[expect(missing_docs, reason = "told at CredentialSpec::state, where kubectl explain shows it")]
    Inactive,
}

/// What kind of material a credential holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "told at CredentialSpec::credential_type, where kubectl explain shows it")]
pub enum CredentialType {
    #[default]
    Token,
    ClientSecret,
    BasicAuth,
    SshKey,
    Tls,
    ObjectStore,
    Registry,
    HelmRepository,
    Kubeconfig,
    Opaque,
    HashedPassword,
    Totp,
    GpgKey,
    SwarmToken,
    DockerSwarm,
    KubernetesApi,
    Vpn,
    AmazonEc2,
    Azure,
    Exoscale,
    GoogleCloud,
    OpenStack,
}

impl CredentialType {
    /// Every type.
    pub const ALL: [Self; 22] = [
        Self::Token,
        Self::ClientSecret,
        Self::BasicAuth,
        Self::SshKey,
        Self::Tls,
        Self::ObjectStore,
        Self::Registry,
        Self::HelmRepository,
        Self::Kubeconfig,
        Self::Opaque,
        Self::HashedPassword,
        Self::Totp,
        Self::GpgKey,
        Self::SwarmToken,
        Self::DockerSwarm,
        Self::KubernetesApi,
        Self::Vpn,
        Self::AmazonEc2,
        Self::Azure,
        Self::Exoscale,
        Self::GoogleCloud,
        Self::OpenStack,
    ];
}

/// One role granted to the credential's ServiceAccount, with one target.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.clusterWide) && self.clusterWide) || self.kind == 'ClusterRole'").message("clusterWide needs kind ClusterRole: a Role holds in its own namespace only").field_path(".clusterWide"),
    validation = Rule::new("!(has(self.clusterWide) && self.clusterWide) || !has(self.__namespace__)").message("clusterWide grants in every namespace; remove either clusterWide or namespace").field_path(".clusterWide"),
    validation = Rule::new("self.name != '.' && self.name != '..' && !self.name.contains('/') && !self.name.contains('%')").message("not the name of a role: it may be neither . nor .. and contain neither / nor %").field_path(".name")
)]
pub struct Grant {
    /// Role (in the target namespace) or ClusterRole.
    pub kind: RoleKind,
    /// The role's name. Example: view.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The namespace in which the role is granted; absent: the credential's own.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// True grants a ClusterRole in every namespace and on cluster-scoped objects.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cluster_wide: bool,
}

/// Kinds of RBAC roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum RoleKind {
    #[expect(missing_docs, reason = "the RBAC kind of that name")]
    Role,
    #[expect(missing_docs, reason = "the RBAC kind of that name")]
    ClusterRole,
}

impl RoleKind {
    /// The kind as RBAC writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Role => "Role",
            Self::ClusterRole => "ClusterRole",
        }
    }
}

/// What the operator last saw and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
// Before the operator's first answer there would be no status, which tools that wait take for done (kstatus).
#[schemars(extend("default" = {"observedGeneration": -1}))]
pub struct CredentialStatus {
    /// The generation of the spec that this status speaks of; -1 before the operator's first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Usable and, while they hold, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Active, Inactive, Expired, Pending or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<CredentialState>,
    /// The identity that the roles are bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ObjectReference>,
    /// The Secret that the material is published in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectReference>,
    /// The material, as far as it may be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub material: Option<MaterialStatus>,
    /// The names of the granted roles, for the column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<String>,
    /// Where roles are bound beside its own namespace: the namespaces, and * for the whole cluster. Said before any is bound, and
    /// until all are unbound, so that an operator that works in fewer namespaces than before knows what it cannot see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub bound_in: Vec<String>,
    /// How many ApiTokens refer to the credential; brought up to date at most every 10 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenCount>,
    /// The earliest end among its active ApiTokens and of its own; brought up to date with `tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_expiry_at: Option<Instant>,
}

impl CredentialStatus {
    /// Whether a policy has the credential's values refused: `Usable` is not True for that reason. It is `Usable` that tells,
    /// since a credential is `Failed` also for what makes its values no worse; and whatever the generation that it was said
    /// of, since who edits a credential must not have its values accepted until somebody has judged what it is now.
    #[must_use]
    pub fn is_refused_by_policy(&self) -> bool {
        let usable = self.conditions.iter().filter(|said| said.kind == ConditionType::Usable.as_str());
        usable
            .into_iter()
            .any(|said| said.status != "True" && said.reason == Reason::PolicyViolation.as_str())
    }
}

/// The state of a credential, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "told at CredentialStatus::state, where kubectl explain shows it")]
pub enum CredentialState {
    Active,
    Inactive,
    Expired,
    Pending,
    Failed,
}

/// An object in the same namespace, by name and by UID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct ObjectReference {
    /// Its name.
    pub name: String,
    /// Its UID, which no other object ever has.
    pub uid: String,
}

/// What may be told of material.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
pub struct MaterialStatus {
    /// The number of the value, from 0; each that is drawn or provided anew is the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<i64>,
    /// The public id: a client id, an access key id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `hmac-sha256:<key id>:<hex>` over the Credential's UID, the serial and the material.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The fingerprint of the public part: of an SSH key, as ssh-keygen -l prints it; of a certificate, SHA-256 in hex; of
    /// a GPG key, as gpg prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The rotation.revision that was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The annotation credential-operator.io/rotate-requested-at that was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_answered: Option<String>,
    /// A digest of the options that the material was made by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<String>,
    /// A keyed digest of what was provided: as long as the provided Secret holds that, nothing is published anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// When it was drawn, or taken over from the provided Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Instant>,
    /// When it ends of itself: a certificate by its own date, a client secret by rotation.every and rotation.overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Instant>,
    /// With delivery Once: when it was taken for delivered. From then on no Secret holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Instant>,
    /// When it is to be drawn anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotates_at: Option<Instant>,
    /// Valid, Invalid or Unknown: what the check of provided material, or of a certificate's date, says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity: Option<Validity>,
    /// The client secret before this one, while rotation.overlap keeps it valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousMaterial>,
}

/// Whether material is what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "told at MaterialStatus::validity, where kubectl explain shows it")]
pub enum Validity {
    Valid,
    Invalid,
    Unknown,
}

/// A client secret that was replaced and is still valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
pub struct PreviousMaterial {
    /// Its number.
    pub serial: i64,
    /// Its public id.
    pub id: String,
    /// Its digest.
    pub digest: String,
    /// From this instant it is refused.
    pub expires_at: Instant,
}

/// How many ApiTokens a credential has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct TokenCount {
    /// Those that a verifier accepts now.
    pub active: i64,
    /// All of them, whatever their state.
    pub total: i64,
}
