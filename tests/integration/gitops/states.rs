//! An object of ours in each of its states, and what Argo CD, Flux and kstatus make of it.

/// What is said of an object by who has applied it and waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Argo CD, by examples/gitops/argocd-cm.yaml.
    pub argo_cd: &'static str,
    /// Flux, by examples/gitops/flux-kustomization.yaml.
    pub flux: &'static str,
    /// Helm, and Flux without that.
    pub kstatus: &'static str,
}

const fn told(argo_cd: &'static str, flux: &'static str, kstatus: &'static str) -> Told {
    Told { argo_cd, flux, kstatus }
}

/// As Git wants it.
const FINE: Told = told("Healthy", "Current", "Current");
/// It gets there by itself.
const WAITS: Told = told("Progressing", "InProgress", "InProgress");
/// Somebody must act.
const STUCK: Told = told("Degraded", "Failed", "Failed");

/// Deleted, and held.
const GOING: Told = told("Progressing", "InProgress", "Terminating");

/// When an object is looked at.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Once its `Ready` has this reason.
    Says(&'static str),
    /// At once, before the operator can have seen it.
    New,
    /// Once it was ready, and this was merged into its spec: at once.
    Edited(&'static str),
    /// Once it was ready, and was deleted while a finalizer of somebody else's holds it: at once.
    Deleted,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct State {
    pub kind: &'static str,
    pub name: &'static str,
    pub spec: &'static str,
    pub when: When,
    pub told: Told,
}

const fn credential(name: &'static str, spec: &'static str, when: When, told: Told) -> State {
    State { kind: "Credential", name, spec, when, told }
}

const fn token(name: &'static str, spec: &'static str, when: When, told: Told) -> State {
    State { kind: "ApiToken", name, spec, when, told }
}

const fn policy(name: &'static str, spec: &'static str, when: When, told: Told) -> State {
    State { kind: "CredentialPolicy", name, spec, when, told }
}

use When::{Deleted, Edited, New, Says};

/// The states, each after those that it needs. There is a Secret `taken` that is nobody's. Not among them are those that nobody
/// else could work in: without a keyring, or without admission policies.
#[rustfmt::skip]
pub const STATES: &[State] = &[
    // Where the operator sees a part of the cluster, nobody answers for a policy: a new one has to pass for applied.
    policy("drafted", "{namespaceSelector: {matchLabels: {nobody: has}}}", New, FINE),
    policy("enforced", "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $ns}}, scopes: ['orders:*']}", Says("Published"), FINE),
    policy("loosened", "{namespaceSelector: {matchLabels: {nobody: has}}}", Edited("{scopes: ['*']}"), WAITS),

    credential("new", "{roles: [{kind: ClusterRole, name: view}]}", New, WAITS),
    credential("active", "{roles: [{kind: ClusterRole, name: view}]}", Says("Published"), FINE),
    credential("published", "{type: Opaque, opaque: {fields: [{name: key}]}}", Says("Published"), FINE),
    credential("inactive", "{state: Inactive}", Says("CredentialInactive"), FINE),
    credential("expired", "{expiresAt: '2020-01-01T00:00:00Z'}", Says("Expired"), FINE),
    credential("edited", "{roles: [{kind: ClusterRole, name: view}]}", Edited("{roles: []}"), WAITS),
    credential("no-role", "{roles: [{kind: ClusterRole, name: no-such-role}]}", Says("RoleNotFound"), STUCK),
    credential("too-strong", "{roles: [{kind: ClusterRole, name: cluster-admin}]}", Says("RoleNotBindable"), STUCK),
    credential("refused", "{scopes: [stock]}", Says("PolicyViolation"), STUCK),
    credential("conflict", "{type: ClientSecret, secret: {name: taken}}", Says("Conflict"), STUCK),
    credential("unprovided", "{type: Vpn, provided: {secretRef: {name: nowhere}}}", Says("MaterialInvalid"), STUCK),
    credential("weak", "{type: BasicAuth, basicAuth: {length: 8, alphabet: '01'}}", Says("InvalidSpec"), STUCK),
    credential("going", "{}", Deleted, GOING),

    token("asked", "{credentialRef: {name: active}, expiresIn: 1h}", New, WAITS),
    token("issued", "{credentialRef: {name: active}, expiresIn: 1h}", Says("Issued"), FINE),
    token("suspended", "{credentialRef: {name: inactive}, expiresIn: 1h}", Says("CredentialInactive"), FINE),
    token("revoked", "{credentialRef: {name: active}, expiresIn: 1h, revoked: true}", Says("Revoked"), FINE),
    token("over", "{credentialRef: {name: active}, expiresAt: '2020-01-01T00:00:00Z'}", Says("Expired"), FINE),
    token("being-revoked", "{credentialRef: {name: active}, expiresIn: 1h}", Edited("{revoked: true}"), WAITS),
    token("alone", "{credentialRef: {name: nobody}, expiresIn: 1h}", Says("CredentialNotFound"), WAITS),
    token("in-the-way", "{credentialRef: {name: active}, expiresIn: 1h, secret: {name: taken}}", Says("Conflict"), STUCK),
    token("of-none", "{credentialRef: {name: refused}, expiresIn: 1h}", Says("PolicyViolation"), STUCK),
    token("too-late", "{credentialRef: {name: going}, expiresIn: 1h}", Says("CredentialDeleted"), WAITS),
    token("leaving", "{credentialRef: {name: active}, expiresIn: 1h}", Deleted, GOING),

    policy("full", "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $ns}}, maxCredentials: 1}", Says("Published"), FINE),
    credential("one-too-many", "{}", Says("QuotaExceeded"), WAITS),
];
