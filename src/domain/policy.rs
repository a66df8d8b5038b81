//! What policies allow: every policy that selects a namespace must.
//!
//! Absent lists mean all and empty ones none; only grants outside the credential's own namespace need an entry that names
//! them, also where no policy selects the namespace. So a policy that is added to others never widens what these allow, and
//! the first one widens by nothing but the grants that it names.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::material::kubeconfig;
use crate::api::{
    ApiTokenSpec, CredentialPolicy, CredentialSpec, CredentialType, DEFAULT_AUDIENCE, Instant, Lifetime,
    Reason,
    credential::Grant,
    credential_policy::{AllowedRole, LabelOperator, NamespaceSelector, TokenPolicy, TokenType},
};

use super::{delivery, name};

/// The labels of a namespace.
pub type Labels = BTreeMap<String, String>;

/// All policies.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// In the order of their names, so that of two that object the same one is named.
    policies: Vec<CredentialPolicy>,
    /// The names of those that cannot be read.
    unreadable: Vec<String>,
}

/// The policies that hold in one namespace.
#[derive(Clone, Debug)]
pub struct Rules<'a> {
    selecting: Vec<&'a CredentialPolicy>,
    /// Why these may not be all.
    unknown: Option<String>,
}

/// How much a breach forbids; the first is the gravest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// By type, scope, audience or grant: roles are unbound and values refused.
    Refused,
    /// The admission policies are not in force: nothing new is made.
    Unguarded,
    /// Which policies hold is not known: nothing new is made.
    Unknown,
    /// There are too many: nothing new is made.
    Count,
    /// A value would live too long, or is not to be had so: none is issued.
    Terms,
}

/// Why something is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// What is forbidden by it.
    pub severity: Severity,
    /// The policy that is violated; none where it is not known, or where no policy allows what needs one.
    pub policy: Option<String>,
    /// Why, and what to do.
    pub message: String,
    /// When it heals by itself.
    pub until: Option<Timestamp>,
}

impl Breach {
    /// Nothing new may be made in any namespace, for that reason.
    #[must_use]
    pub fn unguarded(message: String) -> Self {
        breach(Severity::Unguarded, None, message)
    }

    /// A role cannot be granted, whatever policies allow, for that reason.
    #[must_use]
    pub fn out_of_reach(message: String) -> Self {
        breach(Severity::Refused, None, message)
    }

    /// Nobody knows what policies allow, so nothing new may be made in any namespace.
    #[must_use]
    pub const fn unknown(message: String) -> Self {
        Self { severity: Severity::Unknown, policy: None, message, until: None }
    }

    /// The reason that conditions give.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self.severity {
            Severity::Refused | Severity::Terms => Reason::PolicyViolation,
            Severity::Unguarded => Reason::AdmissionMissing,
            Severity::Unknown => Reason::Pending,
            Severity::Count => Reason::QuotaExceeded,
        }
    }
}

/// The gravest breach, of those the first.
#[must_use]
pub fn gravest(breaches: Vec<Breach>) -> Option<Breach> {
    breaches.into_iter().min_by_key(|breach| breach.severity)
}

/// One of many that are counted. What is less has its place first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing<'a> {
    /// Whether it has not got yet what it asks for: who has keeps it, and his place.
    pub asks: bool,
    /// When it was created; who is older comes first.
    pub created_at: Option<Timestamp>,
    /// Its name, which tells apart what was created in one second.
    pub name: &'a str,
}

/// What a credential asks for, and where.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What it asks for.
    pub spec: &'a CredentialSpec,
    /// Its namespace.
    pub namespace: &'a str,
    /// How many credentials of the namespace come before it.
    pub behind: usize,
}

impl Policies {
    /// These policies, and those of these names, which cannot be read.
    #[must_use]
    pub fn new(mut policies: Vec<CredentialPolicy>, mut unreadable: Vec<String>) -> Self {
        policies.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
        unreadable.sort();
        Self { policies, unreadable }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.unreadable.is_empty()
    }

    /// Those that can be read.
    #[must_use]
    pub fn all(&self) -> &[CredentialPolicy] {
        &self.policies
    }

    /// The names of those that can be read.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.policies.iter().map(name)
    }

    /// Whether any limits how many credentials there may be.
    #[must_use]
    pub fn count_credentials(&self) -> bool {
        self.policies.iter().any(|policy| policy.spec.max_credentials.is_some())
    }

    /// Whether any limits how many tokens there may be.
    #[must_use]
    pub fn count_tokens(&self) -> bool {
        self.policies.iter().any(|policy| max_tokens(policy).is_some())
    }

    /// Those that hold in a namespace with such labels; `None`: nobody knows its labels yet.
    #[must_use]
    pub fn within(&self, labels: Option<&Labels>) -> Rules<'_> {
        let mut unknown = self.unreadable.first().map(|name| {
            format!(
                "CredentialPolicy {name} cannot be read, so nobody knows what it allows, and nothing new is made; mend it \
                 (kubectl explain credentialpolicy.spec), or delete it"
            )
        });
        let selects_all =
            |policy: &&CredentialPolicy| policy.spec.namespace_selector == NamespaceSelector::default();
        let selecting: Vec<_> = match labels {
            Some(labels) => {
                let selects = |policy: &&CredentialPolicy| selects(&policy.spec.namespace_selector, labels);
                self.policies.iter().filter(selects).collect()
            }
            None => self.policies.iter().filter(selects_all).collect(),
        };
        if labels.is_none() && selecting.len() < self.policies.len() {
            let say = "the labels of the namespace are not known yet, by which policies select it; waiting for that";
            unknown.get_or_insert_with(|| say.to_owned());
        }
        // A policy that allows something must not select a namespace only because its labels are too long to be read.
        if labels.is_some_and(|labels| labels.contains_key(name::TRUNCATED_LABEL)) {
            unknown.get_or_insert_with(|| TRUNCATED.to_owned());
        }
        Rules { selecting, unknown }
    }
}

/// What is reported where the labels of a namespace are longer than the client reads.
const TRUNCATED: &str = "the labels of the namespace take more than 16 KiB, so every CredentialPolicy counts as selecting it and \
                         nothing new is made; remove labels of the namespace, and the label \
                         credential-operator.io/labels-truncated if it is there";

fn selects(selector: &NamespaceSelector, labels: &Labels) -> bool {
    // It is unknown which policies do not select it.
    if labels.contains_key(name::TRUNCATED_LABEL) {
        return true;
    }
    let equal = selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().all(|required| {
            let value = labels.get(&required.key);
            let among = value.is_some_and(|value| required.values.contains(value));
            match required.operator {
                LabelOperator::In => among,
                LabelOperator::NotIn => !among,
                LabelOperator::Exists => value.is_some(),
                LabelOperator::DoesNotExist => value.is_none(),
            }
        })
}

impl<'a> Rules<'a> {
    /// The names of the policies.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.selecting.iter().map(|policy| name(policy))
    }

    /// The policies.
    pub fn all(&self) -> impl Iterator<Item = &'a CredentialPolicy> {
        self.selecting.iter().copied()
    }

    /// Whether it matters how many credentials come before one.
    #[must_use]
    pub fn count_credentials(&self) -> bool {
        self.selecting.iter().any(|policy| policy.spec.max_credentials.is_some())
    }

    /// Whether it matters how many tokens come before one.
    #[must_use]
    pub fn count_tokens(&self) -> bool {
        self.selecting.iter().any(|policy| max_tokens(policy).is_some())
    }

    /// What policies have against a credential, at most one breach each.
    #[must_use]
    pub fn credential(&self, asked: &Asked<'_>, now: Timestamp) -> Vec<Breach> {
        let mut breaches: Vec<_> =
            self.unknown.iter().map(|say| breach(Severity::Unknown, None, say.clone())).collect();
        // What only a policy can allow is refused where none does; that there may be one more makes nothing of it certain.
        let outside = asked.spec.roles.iter().find(|grant| is_outside(grant, asked.namespace));
        if let Some(grant) = outside.filter(|_| self.selecting.is_empty() && self.unknown.is_none()) {
            let say = format!(
                "no CredentialPolicy selects this namespace, so there is none that allows the grant of {}; remove it from \
                 spec.roles, or have it named in the roles of a policy",
                told(grant, asked.namespace)
            );
            breaches.push(breach(Severity::Refused, None, say));
        }
        breaches.extend(self.selecting.iter().filter_map(|policy| {
            let refused = refusal(policy, asked).map(|say| breach(Severity::Refused, Some(policy), say));
            refused.or_else(|| count(policy, asked)).or_else(|| too_long(policy, asked.spec, now))
        }));
        breaches
    }

    /// What policies have against a token, beside what they have against its credential; `behind` so many of the same
    /// credential, and created then.
    #[must_use]
    pub fn token(&self, spec: &ApiTokenSpec, created_at: Timestamp, behind: usize) -> Vec<Breach> {
        let against = |policy: &&CredentialPolicy| {
            let tokens = policy.spec.tokens.as_ref()?;
            let terms = terms(tokens, spec, created_at).map(|say| {
                let say = format!("CredentialPolicy {} {say}", name(policy));
                breach(Severity::Terms, Some(policy), say)
            });
            let too_many = tokens.max_per_credential.filter(|max| reaches(behind, *max)).map(|max| {
                let say = format!(
                    "CredentialPolicy {} allows a credential {max} tokens, and older ones have these places; revoke or delete \
                     one that is not needed, or have tokens.maxPerCredential raised",
                    name(policy)
                );
                breach(Severity::Count, Some(policy), say)
            });
            terms.or(too_many)
        };
        self.selecting.iter().copied().filter_map(|policy| against(&policy)).collect()
    }
}

fn breach(severity: Severity, policy: Option<&CredentialPolicy>, message: String) -> Breach {
    Breach { severity, policy: policy.map(|policy| name(policy).to_owned()), message, until: None }
}

fn name(policy: &CredentialPolicy) -> &str {
    policy.metadata.name.as_deref().unwrap_or_default()
}

/// How many tokens of one credential a policy allows, where it limits them.
#[must_use]
pub fn max_tokens(policy: &CredentialPolicy) -> Option<i64> {
    policy.spec.tokens.as_ref().and_then(|tokens| tokens.max_per_credential)
}

/// Whether there is no place left behind so many.
fn reaches(behind: usize, max: i64) -> bool {
    usize::try_from(max).map_or(true, |max| behind >= max)
}

/// Whether a pattern stands for a text: that ends in `*` for all that begin so, any other for itself.
fn matches(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == text, |start| text.starts_with(start))
}

pub(super) fn is_outside(grant: &Grant, own: &str) -> bool {
    grant.cluster_wide || grant.namespace.as_deref().is_some_and(|namespace| namespace != own)
}

fn allows(entry: &AllowedRole, grant: &Grant, own: &str) -> bool {
    let there = if grant.cluster_wide {
        entry.cluster_wide
    } else {
        let target = grant.namespace.as_deref().unwrap_or(own);
        target == own || entry.namespaces.iter().any(|namespace| namespace == "*" || namespace == target)
    };
    there && entry.kind == grant.kind && matches(&entry.name, &grant.name)
}

pub(super) fn told(grant: &Grant, own: &str) -> String {
    let role = format!("{} {}", grant.kind.as_str(), grant.name);
    match grant.namespace.as_deref() {
        _ if grant.cluster_wide => format!("{role} in the whole cluster"),
        Some(namespace) if namespace != own => format!("{role} in namespace {namespace}"),
        _ => role,
    }
}

/// What a credential has or does that the policy does not allow.
fn refusal(policy: &CredentialPolicy, asked: &Asked<'_>) -> Option<String> {
    let (allowed, spec, name) = (&policy.spec, asked.spec, name(policy));
    if let Some(types) = &allowed.types
        && !types.contains(&spec.credential_type)
    {
        return Some(format!(
            "CredentialPolicy {name} does not allow type {:?}, only {types:?}; create a credential of an allowed type, or have \
             the policy's types extended",
            spec.credential_type
        ));
    }
    let is_allowed = |grant: &&Grant| match &allowed.roles {
        Some(roles) => roles.iter().any(|entry| allows(entry, grant, asked.namespace)),
        None => !is_outside(grant, asked.namespace),
    };
    if let Some(grant) = spec.roles.iter().find(|grant| !is_allowed(grant)) {
        return Some(format!(
            "CredentialPolicy {name} does not allow the grant of {}; remove it from spec.roles, or have it named in the policy's \
             roles",
            told(grant, asked.namespace)
        ));
    }
    let missing = |allowed: &Option<Vec<String>>, asked: &[String]| {
        let allowed = allowed.as_ref()?;
        asked.iter().find(|one| !allowed.iter().any(|pattern| matches(pattern, one))).cloned()
    };
    if let Some(scope) = missing(&allowed.scopes, spec.scopes.as_deref().unwrap_or_default()) {
        return Some(format!(
            "CredentialPolicy {name} does not allow the scope {scope}; remove it from spec.scopes, or have it named in the \
             policy's scopes"
        ));
    }
    let own = [DEFAULT_AUDIENCE.to_owned()];
    let audience = missing(&allowed.audiences, spec.audiences.as_deref().unwrap_or(&own))?;
    let by_default = if spec.audiences.is_none() { ", which a credential has that names none" } else { "" };
    Some(format!(
        "CredentialPolicy {name} does not allow the audience {audience}{by_default}; set spec.audiences to allowed ones, or have \
         it named in the policy's audiences"
    ))
}

fn count(policy: &CredentialPolicy, asked: &Asked<'_>) -> Option<Breach> {
    let max = policy.spec.max_credentials.filter(|max| reaches(asked.behind, *max))?;
    let say = format!(
        "CredentialPolicy {} allows {max} credentials in this namespace, and older ones have these places; delete one that is \
         not needed, or have maxCredentials raised",
        name(policy)
    );
    Some(breach(Severity::Count, Some(policy), say))
}

/// Whether a client secret that is drawn now would live too long.
fn too_long(policy: &CredentialPolicy, spec: &CredentialSpec, now: Timestamp) -> Option<Breach> {
    if spec.credential_type == CredentialType::Kubeconfig && spec.provided.is_none() {
        return minted(policy, spec);
    }
    let text = policy.spec.tokens.as_ref()?.max_lifetime.as_ref()?;
    let max = most(text);
    if spec.credential_type != CredentialType::ClientSecret {
        return None;
    }
    let rotation = spec.rotation.clone().unwrap_or_default();
    let span = |life: &Option<Lifetime>| life.as_ref().map(Lifetime::duration).and_then(Result::ok);
    let by_rotation = span(&rotation.every).filter(|_| spec.provided.is_none());
    let by_rotation =
        by_rotation.map(|every| every.saturating_add(span(&rotation.overlap).unwrap_or_default()));
    let end = spec.expires_at.as_ref().map(Instant::timestamp).and_then(Result::ok);
    let by_end = end.map(|end| end.duration_since(now));
    if by_rotation.into_iter().chain(by_end).any(|life| life <= max) {
        return None;
    }
    let say = format!(
        "CredentialPolicy {} allows a value to live {text}, and a client secret of this credential would live longer, so none \
         is issued; set rotation.every, or an expiresAt that is near enough, or have tokens.maxLifetime raised",
        name(policy)
    );
    let until = end.and_then(|end| end.checked_sub(max).ok());
    Some(Breach { until, ..breach(Severity::Terms, Some(policy), say) })
}

/// Whether the tokens in a kubeconfig are not allowed, or not for as long.
fn minted(policy: &CredentialPolicy, spec: &CredentialSpec) -> Option<Breach> {
    let tokens = policy.spec.tokens.as_ref()?;
    let by_type = tokens.types.as_ref().is_some_and(|types| !types.contains(&TokenType::ServiceAccount));
    let max = tokens.max_lifetime.as_ref().filter(|max| kubeconfig::duration(spec) > most(max));
    let why = match (by_type, max) {
        (true, _) => "does not allow tokens of type ServiceAccount, which a kubeconfig has; have it added to tokens.types".to_owned(),
        (false, Some(max)) => format!(
            "allows a value to live {max}, and a token of this kubeconfig would live longer, so none is issued; set a shorter \
             kubeconfig.duration, or have tokens.maxLifetime raised"
        ),
        (false, None) => return None,
    };
    Some(breach(Severity::Terms, Some(policy), format!("CredentialPolicy {} {why}", name(policy))))
}

/// What cannot be read allows no life at all.
fn most(life: &Lifetime) -> SignedDuration {
    life.duration().unwrap_or_default()
}

/// What a policy has against a token as it is, whatever others there are. The name of the policy comes before it.
fn terms(policy: &TokenPolicy, spec: &ApiTokenSpec, created_at: Timestamp) -> Option<String> {
    let (of_type, by) = (spec.token_type, delivery::mode(spec.delivery.as_ref()));
    if policy.types.as_ref().is_some_and(|types| !types.contains(&of_type)) {
        return Some(format!("does not allow ApiTokens of type {of_type:?}; have it added to tokens.types"));
    }
    if policy.deliveries.as_ref().is_some_and(|deliveries| !deliveries.contains(&by)) {
        return Some(format!("does not allow delivery by {by:?}; have it added to tokens.deliveries"));
    }
    // By the spec alone, as the end is: where it makes no sense, nothing is issued anyway.
    let life = match (&spec.expires_in, &spec.expires_at) {
        (Some(life), _) => life.duration().ok()?,
        (None, end) => end.as_ref()?.timestamp().ok()?.duration_since(created_at),
    };
    if let Some(max) = policy.max_lifetime.as_ref().filter(|max| life > most(max)) {
        return Some(format!(
            "allows a value to live {max}, and this token's would live longer; create another ApiToken with a shorter life, or \
             have tokens.maxLifetime raised"
        ));
    }
    let lifetimes = policy.lifetimes.as_ref()?;
    let listed = lifetimes.iter().filter_map(|life| life.duration().ok());
    let allowed = match &spec.expires_in {
        Some(_) => listed.clone().any(|allowed| allowed == life),
        None => listed.clone().any(|allowed| allowed >= life),
    };
    let all = || lifetimes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    (!allowed).then(|| {
        format!(
            "allows tokens these lifetimes alone: [{}]; create another ApiToken with one of them as expiresIn, or have \
             tokens.lifetimes extended",
            all()
        )
    })
}

#[cfg(test)]
mod tests;
