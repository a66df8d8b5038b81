//! What is to be done about a `Credential`, from what was observed and the time.
//!
//! Pure and infallible: no client, no clock, no randomness. A spec that makes no sense is a plan too.

mod bound;
mod policy;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use self::bound::out_of_reach;
use self::{bound::Bound, policy::Policy};
use super::material::{self, plan::Trouble};
use crate::{
    api::{
        Condition, Credential, CredentialState, CredentialStatus, Instant, Reason,
        condition::{ConditionType, Finding, conditions},
        credential::{DesiredState, ObjectReference, TokenCount},
    },
    controller::api_token::plan::LOOK_AGAIN_AFTER,
    domain::{
        adoption,
        binding::{Binding, BindingKey, Owner, Ownership},
        material as domain_material, name,
        policy::Breach,
    },
};

/// All that a decision is made from.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The credential as it is stored.
    pub credential: Credential,
    /// The `ServiceAccount` of its name.
    pub account: AccountSeen,
    /// Every binding of its names, and every one that says it is for it.
    pub bindings: Vec<Binding>,
    /// Its material, where its type has any.
    pub material: Option<material::Seen>,
    /// What policies have against it.
    pub policy: Option<Breach>,
    /// Where roles of it may stand bound, as its status says, and the operator does not work.
    pub out_of_reach: Vec<String>,
    /// Whether its end was reached already, whatever the clock says now.
    pub ended: bool,
    /// Its tokens, counted, when the status may be brought up to date now.
    pub tokens: Option<Tokens>,
}

/// The `ServiceAccount` of a credential's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountSeen {
    /// None.
    Absent,
    /// Being deleted.
    Terminating,
    /// Of an earlier Credential of the same name; garbage collection will take it.
    Predecessors,
    /// Somebody else's.
    Foreign,
    /// Ours.
    Ours {
        /// Its UID.
        uid: String,
        /// The version that was looked at.
        resource_version: String,
        /// Whether label, owner reference and proof are there.
        intact: bool,
    },
}

/// The tokens of a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// How many.
    pub count: TokenCount,
    /// The earliest end among the active ones.
    pub next_end: Option<Timestamp>,
}

/// What to do, what to say, and when to look again.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The writes before the status, in their order.
    pub steps: Vec<Step>,
    /// The status after them; `None` leaves it alone.
    pub status: Option<CredentialStatus>,
    /// When to decide again though nothing happened.
    pub wake: Option<Timestamp>,
    /// Whether to decide again at once when all of this is done.
    pub again: bool,
    /// Whether something of others is in the way, that no watch shows.
    pub waits_for_others: bool,
}

impl Plan {
    /// Whether it puts new material in the place of what is there, or takes any away before the end.
    #[must_use]
    pub fn destroys_material(&self) -> bool {
        let status = self.status.as_ref();
        let published = status.is_some_and(|status| status.secret.is_some());
        let lives = status.is_some_and(|status| status.state != Some(CredentialState::Expired));
        self.steps.iter().any(|step| match step {
            Step::Material(material::plan::Step::Publish(recipe)) => recipe.into.is_some() || recipe.once,
            Step::Material(material::plan::Step::Mint(minted)) => minted.recipe.into.is_some() || published,
            Step::Material(material::plan::Step::Delete { .. }) => lives,
            _ => false,
        })
    }

    /// Whether it takes rights away.
    #[must_use]
    pub fn unbinds(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::DeleteBinding { .. }))
    }
}

/// One write.
#[derive(Clone, Debug)]
pub enum Step {
    /// Report in the status where roles are about to be bound.
    Say(Box<CredentialStatus>),
    /// Report in the status that a policy refuses its values, by which the verifier learns of it.
    Refuse(Box<CredentialStatus>),
    /// Create the `ServiceAccount`, then sign it as what it is by its UID, which goes into the status.
    CreateAccount,
    /// Put label, owner reference and proof on the `ServiceAccount` of this UID and version.
    MendAccount {
        /// Its UID.
        uid: String,
        /// Its version.
        resource_version: String,
    },
    /// Hold the credential's deletion until its bindings outside the namespace are gone.
    AddFinalizer,
    /// Let the credential go.
    RemoveFinalizer,
    /// Create this binding.
    CreateBinding(Box<Binding>),
    /// Something about the material.
    Material(material::plan::Step),
    /// Delete the binding of this UID.
    DeleteBinding {
        /// Where it stands.
        key: BindingKey,
        /// Its UID.
        uid: String,
    },
}

impl Step {
    /// Whether it ends access. Such steps come first, and one that fails does not keep the others.
    #[must_use]
    pub const fn ends_access(&self) -> bool {
        matches!(
            self,
            Self::DeleteBinding { .. }
                | Self::Refuse(_)
                | Self::Material(material::plan::Step::Delete { .. })
        )
    }
}

/// Decides.
#[must_use]
pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let credential = &observed.credential;
    let owner = owner(credential);
    let terminating = credential.metadata.deletion_timestamp.is_some();
    let end = match credential.spec.expires_at.as_ref().map(Instant::timestamp) {
        None => Ok(None),
        Some(Ok(end)) => Ok(Some(end)),
        Some(Err(_)) => Err(()),
    };
    // Once expired, always expired: a clock that is set back must not bind a role again.
    let expired_before = end != Ok(None) && (observed.ended || is_expired(credential));
    let past_end = matches!(end, Ok(Some(end)) if now >= end);
    let expired = expired_before || past_end;
    let policy = Policy::of(observed);
    let active = !terminating && !expired && end.is_ok() && credential.spec.state == DesiredState::Active;
    let usable = active && policy.refusal().is_none();
    let makes_account = observed.account == AccountSeen::Absent && policy.allows_account();
    // A role bound to a ServiceAccount that is not ours would be somebody else's right.
    let bindable = makes_account || matches!(observed.account, AccountSeen::Ours { .. });
    let mut wished =
        if usable && bindable { owner.bindings(&credential.spec.roles) } else { BTreeMap::new() };
    let all_wished = wished.len();
    policy.leave_what_is_there(&owner, &mut wished);
    let lacks_account = usable && observed.account == AccountSeen::Absent && !makes_account;
    let withheld = lacks_account || wished.len() < all_wished;

    let mut steps = Vec::new();
    let mut in_the_way = Vec::new();
    let kept = keep_or_delete(&owner, observed, &wished, &mut steps, &mut in_the_way);
    let bound = Bound::of(observed, wished.keys());
    let outside = !bound.elsewhere().is_empty();
    let held = is_held(&credential.metadata);
    let wanted = match (terminating, past_end, expired_before) {
        (_, true, _) => material::plan::Wanted::No,
        (true, false, _) if adoption::is_accepted(credential) => material::plan::Wanted::No,
        // Garbage collection deletes the material, unless the user wants to keep it (`--cascade=orphan`).
        (true, false, _) | (false, false, true) => material::plan::Wanted::Untouched,
        (false, false, false) => material::plan::Wanted::Yes,
    };
    let withholds = policy.breach.map(Trouble::from);
    let material = observed.material.as_ref();
    let material = material.map(|seen| material::plan::plan(credential, seen, wanted, withholds, now));
    let material = material.unwrap_or_default();
    let (ending, mut publishing): (Vec<_>, Vec<_>) = (material.steps, Vec::new());
    let only_deletes = ending.iter().all(|step| matches!(step, material::plan::Step::Delete { .. }));
    if terminating || (only_deletes && end.is_ok()) {
        steps.extend(ending.into_iter().map(Step::Material));
    } else {
        publishing = ending;
    }
    // What ends access comes first: no write into an object that others may edit precedes it.
    let ending = steps.len();
    if terminating {
        if held && !outside {
            steps.push(Step::RemoveFinalizer);
        }
        let status = held.then(|| bound.told(credential.status.clone().unwrap_or_default(), now));
        let status = status.filter(|status| outside && Some(status) != credential.status.as_ref());
        return Plan { steps, status, wake: None, again: false, waits_for_others: false };
    }
    steps.extend(account_step(&observed.account, makes_account));
    if outside && !held {
        steps.push(Step::AddFinalizer);
    }
    steps.extend(bound.say_first());
    let missing = wished.into_iter().filter(|(key, _)| !kept.contains(key) && !in_the_way.contains(key));
    steps.extend(missing.map(|(_, binding)| Step::CreateBinding(Box::new(binding))));
    if held && !outside {
        steps.push(Step::RemoveFinalizer);
    }

    if end.is_ok() {
        steps.extend(publishing.into_iter().map(Step::Material));
    }

    let verdict = if end.is_err() {
        Verdict::Invalid
    } else if expired {
        Verdict::Expired
    } else if let Some(breach) = policy.refusal() {
        Verdict::Refused(breach.message.clone())
    } else {
        let trouble = policy.trouble(withheld).or(material.trouble);
        judge(observed, &in_the_way, trouble.as_ref())
    };
    let end = end.ok().flatten();
    let waits_for_others = verdict.waits_for_others();
    let look_again = waits_for_others.then(|| now.checked_add(LOOK_AGAIN_AFTER).ok()).flatten();
    let delivered_at = material.material.as_ref().and_then(|material| material.delivered_at.clone());
    let status = CredentialStatus {
        secret: material.secret,
        material: material.material,
        bound_in: bound.elsewhere().into_iter().collect(),
        ..status(observed, verdict, delivered_at, end, now)
    };
    let status = bound.told(status, now);
    if status.is_refused_by_policy() {
        steps.splice(ending..ending, refuse_first(credential, &status));
    }
    let wakes = end.filter(|_| !past_end).into_iter().chain(look_again).chain(material.wake);
    let wake = wakes.chain(policy.heals_at(now)).min();
    Plan { steps, status: Some(status), wake, again: material.again, waits_for_others }
}

/// Reports first that a policy refuses the values, if the stored status does not say so: the verifier goes by that.
fn refuse_first(credential: &Credential, status: &CredentialStatus) -> Option<Step> {
    let before = credential.status.clone().filter(|before| !before.is_refused_by_policy())?;
    let refused = CredentialStatus {
        conditions: status.conditions.clone(),
        state: status.state,
        observed_generation: status.observed_generation,
        ..before
    };
    Some(Step::Refuse(Box::new(refused)))
}

/// What the `ServiceAccount` needs, if anything.
fn account_step(account: &AccountSeen, makes_account: bool) -> Option<Step> {
    match account {
        AccountSeen::Absent => makes_account.then_some(Step::CreateAccount),
        AccountSeen::Ours { uid, resource_version, intact: false } => {
            Some(Step::MendAccount { uid: uid.clone(), resource_version: resource_version.clone() })
        }
        AccountSeen::Ours { .. }
        | AccountSeen::Terminating
        | AccountSeen::Predecessors
        | AccountSeen::Foreign => None,
    }
}

/// Whether our finalizer holds the credential.
#[must_use]
pub fn is_held(metadata: &ObjectMeta) -> bool {
    metadata.finalizers.iter().flatten().any(|finalizer| finalizer == name::FINALIZER)
}

/// Whether its status says that it has ended.
#[must_use]
pub fn is_expired(credential: &Credential) -> bool {
    credential.status.as_ref().is_some_and(|status| status.state == Some(CredentialState::Expired))
}

/// Deletes what is ours and not wished as it is; tells what stays, and what others have put in the way.
fn keep_or_delete(
    owner: &Owner,
    observed: &Observed,
    wished: &BTreeMap<BindingKey, Binding>,
    steps: &mut Vec<Step>,
    in_the_way: &mut Vec<BindingKey>,
) -> Vec<BindingKey> {
    let mut kept = Vec::new();
    for found in &observed.bindings {
        let key = found.key();
        let delete =
            || Step::DeleteBinding { key: key.clone(), uid: found.metadata.uid.clone().unwrap_or_default() };
        match owner.ownership(found) {
            Ownership::Ours if wished.get(&key).is_some_and(|wished| wished.is_intact_in(found)) => {
                kept.push(key);
            }
            // Also while it is being deleted, since it grants the role until its finalizers are removed. A predecessor no longer exists:
            // this Credential has its name.
            Ownership::Ours | Ownership::Predecessors => steps.push(delete()),
            Ownership::Foreign => in_the_way.push(key),
        }
    }
    in_the_way.retain(|key| wished.contains_key(key));
    kept
}

enum Verdict {
    Invalid,
    Expired,
    /// By a policy.
    Refused(String),
    Conflict(String),
    Waiting(String),
    Trouble(Trouble),
    Inactive,
    Active,
}

impl Verdict {
    fn waits_for_others(&self) -> bool {
        match self {
            Self::Conflict(_) | Self::Waiting(_) => true,
            Self::Trouble(trouble) => trouble.waits_for_others,
            Self::Invalid | Self::Expired | Self::Refused(_) | Self::Inactive | Self::Active => false,
        }
    }
}

fn judge(observed: &Observed, in_the_way: &[BindingKey], trouble: Option<&Trouble>) -> Verdict {
    let account = name::service_account(observed.credential.metadata.name.as_deref().unwrap_or_default());
    match &observed.account {
        AccountSeen::Foreign => Verdict::Conflict(format!(
            "ServiceAccount {account} exists and is not this credential's; delete it if it is not needed, or choose \
             another name for the credential; it was not touched, and no role is bound to it"
        )),
        AccountSeen::Predecessors => Verdict::Waiting(format!(
            "ServiceAccount {account} belongs to an earlier Credential of this name; waiting for its garbage collection"
        )),
        AccountSeen::Terminating => {
            Verdict::Waiting(format!("ServiceAccount {account} is being deleted; waiting for that"))
        }
        AccountSeen::Absent | AccountSeen::Ours { .. } => {
            let leaves = |key: &BindingKey| {
                observed
                    .bindings
                    .iter()
                    .any(|found| found.metadata.deletion_timestamp.is_some() && found.key() == *key)
            };
            let (leaving, staying): (Vec<_>, Vec<_>) = in_the_way.iter().partition(|key| leaves(key));
            match (staying.first(), leaving.first(), trouble, observed.credential.spec.state) {
                (Some(key), ..) => Verdict::Conflict(format!(
                    "{key} exists and is not this credential's; delete it if it is not needed; it was not touched, and the \
                 role is not bound"
                )),
                (None, Some(key), ..) => Verdict::Waiting(format!(
                    "{key} is being deleted; waiting for that, then the role is bound"
                )),
                (None, None, Some(trouble), _) => Verdict::Trouble(trouble.clone()),
                (None, None, None, DesiredState::Inactive) => Verdict::Inactive,
                (None, None, None, DesiredState::Active) => Verdict::Active,
            }
        }
    }
}

fn status(
    observed: &Observed,
    verdict: Verdict,
    delivered_at: Option<Instant>,
    end: Option<Timestamp>,
    now: Timestamp,
) -> CredentialStatus {
    let credential = &observed.credential;
    let before = credential.status.clone().unwrap_or_default();
    let finding =
        |kind, holds, reason, message: &str| Finding { kind, holds, reason, message: message.to_owned() };
    let both = |ready, usable, reason, message: &str| {
        vec![
            finding(ConditionType::Ready, ready, reason, message),
            finding(ConditionType::Usable, usable, reason, message),
        ]
    };
    let (state, findings) = match verdict {
        Verdict::Invalid => {
            let say = "spec.expiresAt is not an instant; set it to an RFC 3339 one with an offset, such as 2027-06-30T00:00:00Z";
            let mut findings = both(false, false, Reason::InvalidSpec, say);
            findings.push(finding(ConditionType::Stalled, true, Reason::InvalidSpec, say));
            (CredentialState::Failed, findings)
        }
        Verdict::Expired => {
            let end = end.map(|end| end.to_string()).unwrap_or_default();
            let say = format!(
                "the credential ended at {end}; its roles are unbound and its tokens refused, for good"
            );
            (CredentialState::Expired, both(true, false, Reason::Expired, &say))
        }
        Verdict::Refused(say) => {
            let mut findings = both(false, false, Reason::PolicyViolation, &say);
            findings.push(finding(ConditionType::Stalled, true, Reason::PolicyViolation, &say));
            (CredentialState::Failed, findings)
        }
        Verdict::Conflict(say) => {
            // The tokens are judged by spec and UID; a name that is taken does not make them worse.
            let mut findings = vec![finding(ConditionType::Ready, false, Reason::Conflict, &say)];
            findings.push(usability(credential));
            findings.push(finding(ConditionType::Stalled, true, Reason::Conflict, &say));
            (CredentialState::Failed, findings)
        }
        Verdict::Waiting(say) => {
            let mut findings = vec![finding(ConditionType::Ready, false, Reason::Pending, &say)];
            findings.push(usability(credential));
            findings.push(finding(ConditionType::Reconciling, true, Reason::Pending, &say));
            (CredentialState::Pending, findings)
        }
        Verdict::Trouble(Trouble { reason, message, .. }) => {
            let stalled =
                !matches!(reason, Reason::Pending | Reason::QuotaExceeded | Reason::AdmissionMissing);
            let (kind, state) = if stalled {
                (ConditionType::Stalled, CredentialState::Failed)
            } else {
                (ConditionType::Reconciling, CredentialState::Pending)
            };
            let mut findings = vec![finding(ConditionType::Ready, false, reason, &message)];
            findings.push(usability(credential));
            findings.push(finding(kind, true, reason, &message));
            (state, findings)
        }
        Verdict::Inactive => {
            let ready = finding(ConditionType::Ready, true, Reason::CredentialInactive, "no role is bound");
            (CredentialState::Inactive, vec![ready, usability(credential)])
        }
        Verdict::Active => {
            let (reason, mut say) = what_is_published(delivered_at);
            if let Some((every, kept)) = domain_material::cost::lengthened(&credential.spec) {
                say = format!(
                    "{say}; spec.rotation.every is {every}, but this material takes long to generate and is rotated every {kept:#}"
                );
            }
            let ready = finding(ConditionType::Ready, true, reason, &say);
            (CredentialState::Active, vec![ready, usability(credential)])
        }
    };
    let service_account = match &observed.account {
        AccountSeen::Ours { uid, .. } => Some(ObjectReference {
            name: name::service_account(credential.metadata.name.as_deref().unwrap_or_default()),
            uid: uid.clone(),
        }),
        AccountSeen::Absent | AccountSeen::Terminating | AccountSeen::Predecessors | AccountSeen::Foreign => {
            None
        }
    };
    let roles: Vec<_> = credential.spec.roles.iter().map(|grant| grant.name.as_str()).collect();
    let (tokens, next_expiry_at) = match &observed.tokens {
        Some(tokens) => {
            let own_end = end.filter(|_| state != CredentialState::Expired);
            (Some(tokens.count), tokens.next_end.into_iter().chain(own_end).min().map(Into::into))
        }
        None => (before.tokens, before.next_expiry_at),
    };
    CredentialStatus {
        observed_generation: credential.metadata.generation,
        conditions: conditions(&before.conditions, findings, credential.metadata.generation, now),
        state: Some(state),
        service_account,
        secret: None,
        material: None,
        roles: (!roles.is_empty()).then(|| roles.join(", ")),
        bound_in: Vec::new(),
        tokens,
        next_expiry_at,
    }
}

fn what_is_published(delivered_at: Option<Instant>) -> (Reason, String) {
    match delivered_at {
        Some(at) => (Reason::Delivered, format!("the roles are bound; the material was delivered by {at}")),
        None => (Reason::Published, "the roles are bound".to_owned()),
    }
}

fn usability(credential: &Credential) -> Finding {
    let active = credential.spec.state == DesiredState::Active;
    let (reason, message) = if active {
        (Reason::Published, "its tokens are accepted, each until its end".to_owned())
    } else {
        let say = "its tokens are refused while state is Inactive; nothing is lost";
        let of_the_material = domain_material::kind(credential.spec.credential_type)
            .map(|kind| format!("; of the material: {}", kind.when_inactive));
        (Reason::CredentialInactive, say.to_owned() + of_the_material.as_deref().unwrap_or_default())
    };
    Finding { kind: ConditionType::Usable, holds: active, reason, message }
}

fn refused_by_policy(status: &CredentialStatus) -> Option<Finding> {
    let message = usable(status).filter(|_| status.is_refused_by_policy())?.message.clone();
    let (kind, reason) = (ConditionType::Usable, Reason::PolicyViolation);
    Some(Finding { kind, holds: false, reason, message })
}

fn ended(status: &CredentialStatus) -> Option<Finding> {
    let message = usable(status).filter(|_| status.state == Some(CredentialState::Expired))?.message.clone();
    Some(Finding { kind: ConditionType::Usable, holds: false, reason: Reason::Expired, message })
}

fn usable(status: &CredentialStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.kind == ConditionType::Usable.as_str())
}

/// What the status says while something that takes long is being made.
pub fn put_off(credential: &Credential, planned: &mut CredentialStatus, now: Timestamp) {
    let before = credential.status.clone().unwrap_or_default();
    let say = "the material is being drawn";
    let finding = |kind, holds| Finding { kind, holds, reason: Reason::Pending, message: say.to_owned() };
    let findings = vec![
        finding(ConditionType::Ready, false),
        usability(credential),
        finding(ConditionType::Reconciling, true),
    ];
    planned.conditions = conditions(&before.conditions, findings, credential.metadata.generation, now);
    planned.state = Some(CredentialState::Pending);
    planned.secret = before.secret;
    planned.material = before.material;
}

/// What the status says after a write was refused: nothing that happened, and what to do.
#[must_use]
pub fn refused(
    credential: &Credential,
    planned: CredentialStatus,
    reason: Reason,
    message: &str,
    now: Timestamp,
) -> CredentialStatus {
    let before = credential.status.clone().unwrap_or_default();
    let blame = |kind, holds| Finding { kind, holds, reason, message: message.to_owned() };
    let stalled = matches!(
        reason,
        Reason::RoleNotBindable
            | Reason::RoleNotFound
            | Reason::Conflict
            | Reason::InvalidSpec
            | Reason::MaterialInvalid
    );
    // That its values are refused does not wait for what could not be written.
    let refuses = refused_by_policy(&planned).or_else(|| ended(&planned));
    let findings = vec![
        blame(ConditionType::Ready, false),
        refuses.unwrap_or_else(|| usability(credential)),
        blame(ConditionType::Reconciling, !stalled),
        blame(ConditionType::Stalled, stalled),
    ];
    let state = match (planned.state, stalled) {
        // Once expired, always expired: a clock that is set back must not bind a role again.
        (Some(CredentialState::Expired), _) => CredentialState::Expired,
        (_, true) => CredentialState::Failed,
        (_, false) => CredentialState::Pending,
    };
    let service_account = planned.service_account.clone().or(before.service_account);
    let conditions = conditions(&before.conditions, findings, credential.metadata.generation, now);
    // What was to be published is not.
    let (secret, material) = match reason {
        Reason::RoleNotBindable | Reason::RoleNotFound => (planned.secret.clone(), planned.material.clone()),
        _ => (before.secret, before.material),
    };
    CredentialStatus { conditions, state: Some(state), service_account, secret, material, ..planned }
}

/// The credential as the owner of bindings.
#[must_use]
pub fn owner(credential: &Credential) -> Owner {
    owner_of(&credential.metadata)
}

/// The same of one that need not be readable.
#[must_use]
pub fn owner_of(metadata: &ObjectMeta) -> Owner {
    Owner {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
