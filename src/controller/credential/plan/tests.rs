use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::*;
use crate::{
    api::{
        CredentialSpec,
        credential::{Grant, RoleKind},
    },
    domain::policy::Severity,
};

const NOW: &str = "2026-06-01T12:00:00Z";
const END: &str = "2027-01-01T00:00:00Z";
const UID: &str = "credential-uid";
const LIMIT: usize = usize::MAX;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at(NOW)
}

fn grant(kind: RoleKind, name: &str, namespace: Option<&str>) -> Grant {
    Grant { kind, name: name.to_owned(), namespace: namespace.map(ToOwned::to_owned), cluster_wide: false }
}

fn view() -> Grant {
    grant(RoleKind::ClusterRole, "view", None)
}

fn deployer() -> Grant {
    grant(RoleKind::Role, "deployer", None)
}

fn view_in_team() -> Grant {
    grant(RoleKind::ClusterRole, "view", Some("team-a"))
}

fn nodes() -> Grant {
    Grant { cluster_wide: true, ..grant(RoleKind::ClusterRole, "nodes", None) }
}

// The cluster as far as a credential sees it: what `observe` reads and `apply` writes.

#[derive(Clone, Debug)]
struct World {
    seen: Observed,
    /// It was let go.
    gone: bool,
    /// How many UIDs were handed out.
    drawn: u64,
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.gone == other.gone
            && self.seen.credential == other.seen.credential
            && self.seen.account == other.seen.account
            && self.by_key() == other.by_key()
    }
}

impl World {
    fn of(seen: Observed) -> Self {
        Self { seen, gone: false, drawn: 0 }
    }

    /// UIDs are dealt out by chance, so they do not count.
    fn by_key(&self) -> BTreeMap<BindingKey, Binding> {
        let mut bindings = self.seen.bindings.clone();
        for binding in &mut bindings {
            binding.metadata.uid = None;
        }
        bindings.into_iter().map(|binding| (binding.key(), binding)).collect()
    }

    fn uid(&mut self) -> String {
        self.drawn += 1;
        format!("drawn-{}", self.drawn)
    }

    fn held(&self) -> bool {
        let finalizers = &self.seen.credential.metadata.finalizers;
        finalizers.iter().flatten().any(|finalizer| finalizer == name::FINALIZER)
    }

    /// As `apply` does, but stops after `limit` writes, of which the status is the last. Tells whether it stopped.
    fn apply(&mut self, plan: Plan, limit: usize) -> bool {
        let stops = limit < plan.steps.len() + usize::from(plan.status.is_some());
        let mut status = plan.status;
        for step in plan.steps.into_iter().take(limit) {
            match step {
                Step::Material(_) => unreachable!("a Token holds no material"),
                Step::Refuse(status) => self.seen.credential.status = Some(*status),
                Step::CreateAccount => {
                    assert_eq!(self.seen.account, AccountSeen::Absent, "409");
                    let uid = "account-uid".to_owned();
                    if let Some(status) = &mut status {
                        status.service_account =
                            Some(ObjectReference { name: "nodes-credential".to_owned(), uid: uid.clone() });
                    }
                    self.seen.account = ours(&uid, true);
                }
                Step::MendAccount { uid, resource_version } => {
                    assert!(matches!(
                        &self.seen.account,
                        AccountSeen::Ours { uid: held, resource_version: version, .. }
                            if (held, version) == (&uid, &resource_version)
                    ));
                    self.seen.account = ours(&uid, true);
                }
                Step::AddFinalizer => {
                    let finalizers = &mut self.seen.credential.metadata.finalizers;
                    finalizers.get_or_insert_default().push(name::FINALIZER.to_owned());
                }
                Step::RemoveFinalizer => {
                    let metadata = &mut self.seen.credential.metadata;
                    let finalizers = metadata.finalizers.as_mut().unwrap();
                    finalizers.retain(|finalizer| finalizer != name::FINALIZER);
                    self.gone = metadata.deletion_timestamp.is_some() && finalizers.is_empty();
                }
                Step::CreateBinding(mut binding) => {
                    let key = binding.key();
                    assert!(!self.by_key().contains_key(&key), "409: {key} would be made twice");
                    assert!(
                        self.held() || key.namespace.as_deref() == Some("edge"),
                        "{key} would be left behind"
                    );
                    binding.metadata.uid = Some(self.uid());
                    self.seen.bindings.push(*binding);
                }
                Step::DeleteBinding { key, uid } => {
                    let at =
                        self.seen.bindings.iter().position(|found| {
                            found.key() == key && found.metadata.uid.as_ref() == Some(&uid)
                        });
                    self.seen.bindings.remove(at.unwrap());
                }
            }
        }
        if !stops && status.is_some() {
            self.seen.credential.status = status;
        }
        stops
    }

    /// Plans and applies until nothing changes any more.
    fn settle(mut self) -> Self {
        for _ in 0..10 {
            let before = self.clone();
            if self.gone {
                return self;
            }
            self.apply(plan(&self.seen, now()), LIMIT);
            if self == before {
                return self;
            }
        }
        panic!("never settles: {self:#?}");
    }
}

// Fixtures, and what a plan says in one line.

fn ours(uid: &str, intact: bool) -> AccountSeen {
    AccountSeen::Ours { uid: uid.to_owned(), resource_version: "1".to_owned(), intact }
}

fn fresh() -> Observed {
    let mut credential = Credential::new("nodes", CredentialSpec::default());
    credential.metadata.namespace = Some("edge".to_owned());
    credential.metadata.uid = Some(UID.to_owned());
    credential.metadata.generation = Some(1);
    credential.spec.roles = vec![view(), deployer()];
    Observed {
        credential,
        account: AccountSeen::Absent,
        bindings: Vec::new(),
        material: None,
        policy: None,
        ended: false,
        tokens: None,
    }
}

/// Bound inside its namespace.
fn bound() -> Observed {
    World::of(fresh()).settle().seen
}

/// Bound outside its namespace too, and so held by the finalizer.
fn bound_outside() -> Observed {
    let mut observed = fresh();
    observed.credential.spec.roles = vec![view(), view_in_team(), nodes()];
    World::of(observed).settle().seen
}

fn binding<'a>(observed: &'a mut Observed, grant: &Grant) -> &'a mut Binding {
    let wanted = name::binding("edge", "nodes", grant);
    let found = observed.bindings.iter_mut().find(|found| found.metadata.name.as_ref() == Some(&wanted));
    found.unwrap()
}

fn terminate(observed: &mut Observed) {
    observed.credential.metadata.deletion_timestamp = Some(Time(now()));
}

fn end_at(observed: &mut Observed, end: &str) {
    observed.credential.spec.expires_at = Some(end.into());
}

fn add_role(observed: &mut Observed, grant: Grant) {
    observed.credential.spec.roles.push(grant);
}

/// `view in edge`, `nodes everywhere`.
fn role(binding: &Binding) -> String {
    match &binding.metadata.namespace {
        Some(namespace) => format!("{} in {namespace}", binding.role_ref.name),
        None => format!("{} everywhere", binding.role_ref.name),
    }
}

/// `steps | state, what is True, why it is ready or not | when again`.
fn told(observed: &Observed, now: Timestamp) -> String {
    let plan = plan(observed, now);
    let mut steps: Vec<_> = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::Material(_) => unreachable!("a Token holds no material"),
            Step::Refuse(status) => {
                assert!(status.is_refused_by_policy());
                "refuse".to_owned()
            }
            Step::CreateAccount => "account".to_owned(),
            Step::MendAccount { .. } => "mend account".to_owned(),
            Step::AddFinalizer => "hold".to_owned(),
            Step::RemoveFinalizer => "let go".to_owned(),
            Step::CreateBinding(binding) => format!("bind {}", role(binding)),
            Step::DeleteBinding { key, uid } => {
                let found = observed.bindings.iter().find(|found| found.key() == *key);
                assert_eq!(found.unwrap().metadata.uid.as_ref(), Some(uid));
                format!("unbind {}", role(found.unwrap()))
            }
        })
        .collect();
    // Binds, and unbinds, are in the order of hashes, which says nothing to a reader.
    for part in steps.chunk_by_mut(|a, b| a.split(' ').next() == b.split(' ').next()) {
        part.sort();
    }
    let status = plan.status.map(|status| {
        assert_eq!(status.observed_generation, observed.credential.metadata.generation);
        let mut words = vec![format!("{:?}", status.state.unwrap())];
        let holding = status.conditions.iter().filter(|condition| condition.status == "True");
        words.extend(holding.map(|condition| condition.kind.clone()));
        format!("{} ({})", words.join(" "), status.conditions[0].reason)
    });
    let wake = plan.wake.map(|wake| {
        if wake == at(END) { "end".to_owned() } else { format!("{:#}", wake.duration_since(now)) }
    });
    assert_eq!(plan.waits_for_others, wake.as_deref() == Some("10s"));
    format!(
        "{} | {} | {}",
        if steps.is_empty() { "-".to_owned() } else { steps.join(", ") },
        status.as_deref().unwrap_or("-"),
        wake.as_deref().unwrap_or("-"),
    )
}

type Row = (&'static str, fn(&mut Observed), &'static str);

/// Each row changes `base` and says what is told of it.
fn check(base: impl Fn() -> Observed, rows: &[Row]) {
    for (what, change, expected) in rows {
        let mut observed = base();
        change(&mut observed);
        assert_eq!(told(&observed, now()), *expected, "{what}");
    }
}

const BOUND: &str = "- | Active Ready Usable (Published) | -";

// The life cycle.

#[test]
fn a_fresh_credential_gets_its_identity_and_roles() {
    assert_eq!(
        told(&fresh(), now()),
        "account, bind deployer in edge, bind view in edge | Active Ready Usable (Published) | -"
    );
    let status = plan(&fresh(), now()).status.unwrap();
    assert_eq!(status.roles.as_deref(), Some("view, deployer"));

    let mut observed = fresh();
    observed.credential.spec.roles.clear();
    assert_eq!(told(&observed, now()), "account | Active Ready Usable (Published) | -");
    assert_eq!(plan(&observed, now()).status.unwrap().roles, None);
}

#[test]
fn a_credential_as_it_should_be_is_left_alone() {
    for observed in [bound(), bound_outside()] {
        assert_eq!(told(&observed, now()), BOUND);
        let later = now() + jiff::SignedDuration::from_hours(1);
        assert_eq!(plan(&observed, later).status, observed.credential.status);
        let account = observed.credential.status.unwrap().service_account.unwrap();
        assert_eq!((&*account.name, &*account.uid), ("nodes-credential", "account-uid"));
    }
}

#[test]
fn without_an_account_of_its_own_no_role_is_bound() {
    check(
        bound,
        &[
            (
                "not intact",
                |o| o.account = ours("account-uid", false),
                "mend account | Active Ready Usable (Published) | -",
            ),
            (
                "gone: the bindings name it, not its UID",
                |o| o.account = AccountSeen::Absent,
                "account | Active Ready Usable (Published) | -",
            ),
            (
                "foreign",
                |o| o.account = AccountSeen::Foreign,
                "unbind deployer in edge, unbind view in edge | Failed Usable Stalled (Conflict) | 10s",
            ),
            (
                "a predecessor's",
                |o| o.account = AccountSeen::Predecessors,
                "unbind deployer in edge, unbind view in edge | Pending Usable Reconciling (Pending) | 10s",
            ),
            (
                "terminating",
                |o| o.account = AccountSeen::Terminating,
                "unbind deployer in edge, unbind view in edge | Pending Usable Reconciling (Pending) | 10s",
            ),
            (
                "foreign while inactive",
                |o| {
                    o.account = AccountSeen::Foreign;
                    o.credential.spec.state = DesiredState::Inactive;
                },
                "unbind deployer in edge, unbind view in edge | Failed Stalled (Conflict) | 10s",
            ),
        ],
    );
    for account in [AccountSeen::Foreign, AccountSeen::Predecessors, AccountSeen::Terminating] {
        let observed = Observed { account, ..fresh() };
        let plan = plan(&observed, now());
        assert!(plan.steps.is_empty());
        assert_eq!(plan.status.unwrap().service_account, None);
    }
}

#[test]
fn roles_follow_the_spec() {
    check(
        bound,
        &[
            (
                "one added",
                |o| add_role(o, grant(RoleKind::Role, "reader", None)),
                "bind reader in edge | Active Ready Usable (Published) | -",
            ),
            (
                "one removed",
                |o| o.credential.spec.roles.truncate(1),
                "unbind deployer in edge | Active Ready Usable (Published) | -",
            ),
            (
                "one replaced: the right goes before another comes",
                |o| o.credential.spec.roles = vec![view(), grant(RoleKind::ClusterRole, "deployer", None)],
                "unbind deployer in edge, bind deployer in edge | Active Ready Usable (Published) | -",
            ),
            (
                "the same target spelled out",
                |o| add_role(o, grant(RoleKind::ClusterRole, "view", Some("edge"))),
                BOUND,
            ),
        ],
    );
}

#[test]
fn two_grants_of_one_target_make_one_binding() {
    let mut observed = fresh();
    observed.credential.spec.roles = vec![view(), grant(RoleKind::ClusterRole, "view", Some("edge"))];
    assert_eq!(told(&observed, now()), "account, bind view in edge | Active Ready Usable (Published) | -");
}

#[test]
fn a_binding_that_drifted_is_made_anew() {
    let anew = "unbind view in edge, bind view in edge | Active Ready Usable (Published) | -";
    check(
        bound,
        &[
            ("its subjects", |o| binding(o, &view()).subjects.clear(), anew),
            ("its role", |o| binding(o, &view()).role_ref.kind = "Role".to_owned(), anew),
            ("our label", |o| binding(o, &view()).metadata.labels = None, anew),
            ("our annotations", |o| binding(o, &view()).metadata.annotations = None, anew),
            (
                "a predecessor's",
                |o| {
                    let owners = &mut binding(o, &view()).metadata.owner_references;
                    owners.as_mut().unwrap()[0].uid = "earlier".to_owned();
                },
                anew,
            ),
            (
                "a label of others is no drift",
                |o| {
                    let labels = binding(o, &view()).metadata.labels.as_mut().unwrap();
                    labels.insert("other".to_owned(), "tool".to_owned());
                },
                BOUND,
            ),
        ],
    );
    let anew = "unbind view in team-a, bind view in team-a | Active Ready Usable (Published) | -";
    check(
        bound_outside,
        &[
            ("outside, our label", |o| binding(o, &view_in_team()).metadata.labels = None, anew),
            (
                "outside, a predecessor's",
                |o| {
                    let annotations = binding(o, &view_in_team()).metadata.annotations.as_mut();
                    annotations.unwrap().insert(name::OWNER_UID_ANNOTATION.to_owned(), "earlier".to_owned());
                },
                anew,
            ),
        ],
    );
}

#[test]
fn a_binding_of_others_is_never_touched() {
    let conflict = "- | Failed Usable Stalled (Conflict) | 10s";
    check(
        bound,
        &[
            ("of our name", |o| binding(o, &view()).metadata.owner_references = None, conflict),
            (
                "of our name, no longer wished",
                |o| {
                    binding(o, &deployer()).metadata.owner_references = None;
                    o.credential.spec.roles.truncate(1);
                },
                BOUND,
            ),
            (
                "while inactive it is in nobody's way",
                |o| {
                    binding(o, &view()).metadata.owner_references = None;
                    o.credential.spec.state = DesiredState::Inactive;
                },
                "unbind deployer in edge | Inactive Ready (CredentialInactive) | -",
            ),
            (
                "the other roles are bound all the same",
                |o| {
                    binding(o, &view()).metadata.owner_references = None;
                    add_role(o, grant(RoleKind::Role, "reader", None));
                },
                "bind reader in edge | Failed Usable Stalled (Conflict) | 10s",
            ),
            (
                "terminating: it must be gone first",
                |o| binding(o, &view()).metadata.deletion_timestamp = Some(Time(now())),
                "- | Pending Usable Reconciling (Pending) | 10s",
            ),
        ],
    );
    check(
        bound_outside,
        &[
            ("outside, with other subjects", |o| binding(o, &view_in_team()).subjects.clear(), conflict),
            (
                "outside, without our annotation",
                |o| binding(o, &nodes()).metadata.annotations = None,
                conflict,
            ),
        ],
    );
}

#[test]
fn what_is_bound_outside_is_held_by_a_finalizer_for_just_as_long() {
    check(
        bound,
        &[
            (
                "first the finalizer",
                |o| add_role(o, view_in_team()),
                "hold, bind view in team-a | Active Ready Usable (Published) | -",
            ),
            (
                "everywhere is outside",
                |o| add_role(o, nodes()),
                "hold, bind nodes everywhere | Active Ready Usable (Published) | -",
            ),
        ],
    );
    check(
        bound_outside,
        &[
            (
                "the finalizer was stripped",
                |o| o.credential.metadata.finalizers = None,
                "hold | Active Ready Usable (Published) | -",
            ),
            (
                "one of two stays outside",
                |o| o.credential.spec.roles = vec![view(), nodes()],
                "unbind view in team-a | Active Ready Usable (Published) | -",
            ),
            (
                "none stays outside",
                |o| o.credential.spec.roles = vec![view()],
                "unbind nodes everywhere, unbind view in team-a, let go | Active Ready Usable (Published) | -",
            ),
            (
                "terminating",
                terminate,
                "unbind nodes everywhere, unbind view in edge, unbind view in team-a, let go | - | -",
            ),
        ],
    );
}

#[test]
fn terminating_it_only_unbinds() {
    check(
        bound,
        &[
            ("held by others", terminate, "unbind deployer in edge, unbind view in edge | - | -"),
            (
                "whatever the account",
                |o| {
                    terminate(o);
                    o.account = AccountSeen::Absent;
                    o.bindings.clear();
                },
                "- | - | -",
            ),
        ],
    );
}

#[test]
fn inactive_it_is_unbound_and_active_again_bound() {
    let mut observed = bound_outside();
    observed.credential.spec.state = DesiredState::Inactive;
    assert_eq!(
        told(&observed, now()),
        "unbind nodes everywhere, unbind view in edge, unbind view in team-a, let go \
         | Inactive Ready (CredentialInactive) | -"
    );
    let mut observed = World::of(observed).settle().seen;
    assert_eq!(told(&observed, now()), "- | Inactive Ready (CredentialInactive) | -");
    observed.credential.spec.state = DesiredState::Active;
    assert_eq!(
        told(&observed, now()),
        "hold, bind nodes everywhere, bind view in edge, bind view in team-a \
         | Active Ready Usable (Published) | -"
    );
}

#[test]
fn expired_it_is_unbound_for_good() {
    let mut observed = bound();
    end_at(&mut observed, END);
    let before = at(END) - jiff::SignedDuration::from_nanos(1);
    assert_eq!(told(&observed, now()), "- | Active Ready Usable (Published) | end");
    assert!(told(&observed, before).starts_with("- | Active"));
    let unbound = "unbind deployer in edge, unbind view in edge | Expired Ready (Expired) | -";
    assert_eq!(told(&observed, at(END)), unbound);

    // What is left, because only a clock that went back says that it is over, goes when it is.
    let after = unbound.replace("| -", "| end");
    observed.ended = true;
    assert_eq!(told(&observed, now()), after, "though the clock went back before the status could tell");
    observed.ended = false;

    observed.credential.status = plan(&observed, at(END)).status;
    let unbound = after;
    assert_eq!(told(&observed, now()), unbound, "though the clock went back");
    observed.credential.spec.state = DesiredState::Inactive;
    assert_eq!(told(&observed, now()), unbound, "inactive is less than expired");
}

#[test]
fn a_state_that_only_claims_to_be_expired_ends_nothing_without_an_end() {
    let mut observed = bound();
    observed.credential.status.as_mut().unwrap().state = Some(CredentialState::Expired);
    assert_eq!(told(&observed, now()), BOUND);
}

#[test]
fn without_a_readable_end_it_is_unbound_until_a_human_acts() {
    for text in ["2027-01-01T00:00:00+02:60", "tomorrow", ""] {
        let mut observed = bound();
        end_at(&mut observed, text);
        assert_eq!(
            told(&observed, now()),
            "unbind deployer in edge, unbind view in edge | Failed Stalled (InvalidSpec) | -",
            "{text}"
        );
    }
}

fn breach(severity: Severity) -> Breach {
    Breach {
        severity,
        policy: Some("p".to_owned()),
        message: "CredentialPolicy p does not allow it".to_owned(),
        until: None,
    }
}

fn violate(observed: &mut Observed, severity: Severity) {
    observed.policy = Some(breach(severity));
}

#[test]
fn what_a_policy_refuses_is_said_before_it_is_unbound_and_heals() {
    let mut observed = bound_outside();
    violate(&mut observed, Severity::Refused);
    let unbound = "unbind nodes everywhere, unbind view in edge, unbind view in team-a, let go";
    let refused = "Failed Stalled (PolicyViolation) | -";
    assert_eq!(told(&observed, now()), format!("refuse, {unbound} | {refused}"));
    // Whatever of it cannot be done, the values are refused.
    let planned = plan(&observed, now()).status.unwrap();
    let blamed = super::refused(&observed.credential, planned, Reason::Pending, "503", now());
    assert!(blamed.is_refused_by_policy());
    let mut said_already = observed.clone();
    said_already.credential.status = Some(blamed);
    assert_eq!(told(&said_already, now()), format!("{unbound} | {refused}"));

    let mut observed = World::of(observed).settle().seen;
    assert_eq!(told(&observed, now()), format!("- | {refused}"));
    assert!(observed.credential.status.as_ref().unwrap().is_refused_by_policy());
    // Who switches it off and on again changes nothing.
    observed.credential.spec.state = DesiredState::Inactive;
    assert_eq!(told(&observed, now()), format!("- | {refused}"));
    observed.credential.spec.state = DesiredState::Active;
    observed.policy = None;
    assert_eq!(
        told(&observed, now()),
        "hold, bind nodes everywhere, bind view in edge, bind view in team-a | Active Ready Usable (Published) | -"
    );
}

#[test]
fn a_policy_makes_nothing_of_what_is_over() {
    let mut observed = bound();
    violate(&mut observed, Severity::Refused);
    end_at(&mut observed, NOW);
    assert!(told(&observed, now()).ends_with("Expired Ready (Expired) | -"));
    terminate(&mut observed);
    assert_eq!(told(&observed, now()), "unbind deployer in edge, unbind view in edge | - | -");
}

#[test]
fn over_the_count_it_gets_nothing_new_and_keeps_what_it_has() {
    let over = |mut observed: Observed| {
        violate(&mut observed, Severity::Count);
        observed
    };
    assert_eq!(told(&over(fresh()), now()), "- | Pending Usable Reconciling (QuotaExceeded) | -");
    assert_eq!(told(&over(bound()), now()), "- | Pending Usable Reconciling (QuotaExceeded) | -");
    let mut observed = over(bound());
    add_role(&mut observed, nodes());
    assert_eq!(told(&observed, now()), "- | Pending Usable Reconciling (QuotaExceeded) | -");
    // Its account is put back, before somebody else makes one of that name.
    observed.account = AccountSeen::Absent;
    assert_eq!(told(&observed, now()), "account | Pending Usable Reconciling (QuotaExceeded) | -");
    observed.credential.spec.state = DesiredState::Inactive;
    assert!(told(&observed, now()).starts_with("unbind deployer in edge, unbind view in edge, account"));
    observed.policy = None;
    observed.account = ours("account-uid", true);
    observed.credential.spec.state = DesiredState::Active;
    assert_eq!(told(&observed, now()), "hold, bind nodes everywhere | Active Ready Usable (Published) | -");
}

#[test]
fn while_policies_are_not_known_or_not_in_force_it_waits_if_it_needs_something() {
    for (severity, reason) in [(Severity::Unknown, "Pending"), (Severity::Unguarded, "AdmissionMissing")] {
        let unknown = |mut observed: Observed| {
            violate(&mut observed, severity);
            observed
        };
        let waiting = format!("- | Pending Usable Reconciling ({reason}) | -");
        assert_eq!(told(&unknown(bound()), now()), BOUND);
        assert_eq!(told(&unknown(fresh()), now()), waiting);
        let mut observed = unknown(bound());
        add_role(&mut observed, nodes());
        assert_eq!(told(&observed, now()), waiting);
    }
}

#[test]
fn terms_that_are_not_allowed_stop_material_alone_until_they_are() {
    let mut observed = fresh();
    violate(&mut observed, Severity::Terms);
    observed.policy.as_mut().unwrap().until = Some(now() + jiff::SignedDuration::from_hours(2));
    assert_eq!(
        told(&observed, now()),
        "account, bind deployer in edge, bind view in edge | Failed Usable Stalled (PolicyViolation) | 2h"
    );
    observed.policy.as_mut().unwrap().until = Some(now());
    assert!(told(&observed, now()).ends_with("| -"));
}

#[test]
fn tokens_are_counted_when_the_status_may_say_so() {
    let count = TokenCount { active: 2, total: 3 };
    let tokens = |next_end: Option<&str>| Some(Tokens { count, next_end: next_end.map(at) });
    let soon = "2026-07-01T00:00:00Z";
    for (tokens, own, next) in [
        (tokens(None), None, None),
        (tokens(Some(soon)), None, Some(soon)),
        (tokens(Some(soon)), Some(END), Some(soon)),
        (tokens(None), Some(END), Some(END)),
        (tokens(None), Some(NOW), None),
    ] {
        let mut observed = bound();
        observed.tokens = tokens;
        observed.credential.spec.expires_at = own.map(Into::into);
        let status = plan(&observed, now()).status.unwrap();
        assert_eq!((status.tokens, status.next_expiry_at), (Some(count), next.map(Into::into)));
    }
    let mut observed = bound();
    let before = observed.credential.status.as_mut().unwrap();
    before.tokens = Some(count);
    before.next_expiry_at = Some(soon.into());
    assert_eq!(plan(&observed, now()).status, observed.credential.status);
}

#[test]
fn a_refused_binding_is_blamed_on_the_role_and_not_on_the_tokens() {
    let observed = bound();
    let planned = plan(&observed, now()).status.unwrap();
    for (reason, state, kind) in [
        (Reason::RoleNotBindable, CredentialState::Failed, "Stalled"),
        (Reason::RoleNotFound, CredentialState::Failed, "Stalled"),
        (Reason::QuotaExceeded, CredentialState::Pending, "Reconciling"),
    ] {
        let status = refused(&observed.credential, planned.clone(), reason, "no", now());
        assert_eq!(status.state, Some(state));
        let holding = status.conditions.iter().filter(|condition| condition.status == "True");
        let holding: Vec<_> = holding.map(|condition| &*condition.kind).collect();
        assert_eq!(holding, ["Usable", kind]);
        assert_eq!(status.conditions[0].reason, reason.as_str());
    }
}

// The two laws, on clusters in which anything may have happened.

fn grants() -> Vec<Grant> {
    vec![
        view(),
        grant(RoleKind::ClusterRole, "view", Some("edge")),
        deployer(),
        view_in_team(),
        grant(RoleKind::Role, "deployer", Some("team-a")),
        nodes(),
    ]
}

fn instants() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![END, NOW, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00+02:60"])
}

/// A binding of each target or none, and what was done to it.
fn bindings() -> impl Strategy<Value = Vec<Binding>> {
    prop::collection::vec(0..14_u8, grants().len()).prop_map(|fates| {
        let wished = owner(&fresh().credential).bindings(&grants());
        let dealt = wished.into_values().zip(fates).enumerate();
        dealt
            .filter_map(|(index, (mut binding, fate))| {
                let metadata = &mut binding.metadata;
                metadata.uid = Some(format!("found-{index}"));
                match fate {
                    0..4 => return None,
                    4 => metadata.labels = None,
                    5 => binding.subjects.clear(),
                    6 => metadata.deletion_timestamp = Some(Time(now())),
                    7 => metadata.owner_references = None,
                    8 => metadata.annotations = None,
                    9 => {
                        for owner in metadata.owner_references.iter_mut().flatten() {
                            owner.uid = "earlier".to_owned();
                        }
                        let annotations = metadata.annotations.as_mut()?;
                        annotations.insert(name::OWNER_UID_ANNOTATION.to_owned(), "earlier".to_owned());
                    }
                    _ => {}
                }
                Some(binding)
            })
            .collect()
    })
}

prop_compose! {
    fn statuses()(
        state in prop::option::of(prop::sample::select(vec![
            CredentialState::Active, CredentialState::Inactive, CredentialState::Expired,
            CredentialState::Pending, CredentialState::Failed,
        ])),
        account in prop::option::of(prop::sample::select(vec!["account-uid", "earlier"])),
        counted in prop::option::of(Just(TokenCount { active: 1, total: 2 })),
        next_expiry_at in prop::option::of(instants()),
    ) -> CredentialStatus {
        CredentialStatus {
            state,
            service_account: account.map(|uid| ObjectReference {
                name: "nodes-credential".to_owned(),
                uid: uid.to_owned(),
            }),
            tokens: counted,
            next_expiry_at: next_expiry_at.map(Into::into),
            ..CredentialStatus::default()
        }
    }
}

prop_compose! {
    fn worlds()(
        roles in prop::sample::subsequence(grants(), 0..=grants().len()),
        inactive in prop::bool::weighted(0.2),
        expires_at in prop::option::weighted(0.3, instants()),
        terminating in prop::bool::weighted(0.1),
        finalizers in prop::sample::subsequence(vec![name::FINALIZER, "example.com/other"], 0..=2),
        status in prop::option::of(statuses()),
        account in prop_oneof![
            2 => Just(AccountSeen::Absent),
            4 => any::<bool>().prop_map(|intact| ours("account-uid", intact)),
            1 => Just(AccountSeen::Foreign),
            1 => Just(AccountSeen::Predecessors),
            1 => Just(AccountSeen::Terminating),
        ],
        bindings in bindings(),
        tokens in prop::option::of(prop::option::of(Just("2026-07-01T00:00:00Z"))),
        severity in prop::option::weighted(0.4, prop::sample::select(vec![
            Severity::Refused, Severity::Unguarded, Severity::Unknown, Severity::Count, Severity::Terms,
        ])),
    ) -> World {
        let mut observed = Observed { account, bindings, policy: severity.map(breach), ..fresh() };
        observed.tokens = tokens.map(|end| Tokens {
            count: TokenCount { active: i64::from(end.is_some()), total: 3 },
            next_end: end.map(at),
        });
        let credential = &mut observed.credential;
        credential.spec.roles = roles;
        credential.spec.state = if inactive { DesiredState::Inactive } else { DesiredState::Active };
        credential.spec.expires_at = expires_at.map(Into::into);
        credential.metadata.finalizers = Some(finalizers.into_iter().map(ToOwned::to_owned).collect());
        credential.status = status;
        if terminating {
            terminate(&mut observed);
        }
        World::of(observed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn law_planning_again_yields_nothing(world in worlds()) {
        let mut after = world;
        let first = plan(&after.seen, now());
        prop_assert!(first.wake.is_none_or(|wake| wake > now()));
        after.apply(first, LIMIT);
        if !after.gone {
            let again = plan(&after.seen, now());
            prop_assert!(again.steps.is_empty());
            if again.status.is_some() {
                prop_assert_eq!(again.status, after.seen.credential.status);
            }
        }
    }

    #[test]
    fn law_stopping_anywhere_ends_the_same(world in worlds()) {
        let undisturbed = world.clone().settle();
        for limit in 0.. {
            let mut disturbed = world.clone();
            if !disturbed.apply(plan(&world.seen, now()), limit) {
                break;
            }
            prop_assert_eq!(&disturbed.settle(), &undisturbed, "after {} writes", limit);
        }
    }

    /// No role outlives the wish for it, and none of others is touched.
    #[test]
    fn what_is_ours_in_the_end_is_what_is_wished(world in worlds()) {
        let settled = world.clone().settle();
        let owner = owner(&world.seen.credential);
        let wished = owner.bindings(&world.seen.credential.spec.roles);
        let foreign = |binding: &&Binding| owner.ownership(binding) == Ownership::Foreign;
        let before: Vec<_> = world.seen.bindings.iter().filter(foreign).collect();
        let after: Vec<_> = settled.seen.bindings.iter().filter(foreign).collect();
        prop_assert_eq!(before, after);
        for binding in &settled.seen.bindings {
            let leaves = binding.metadata.deletion_timestamp.is_some();
            prop_assert!(leaves || foreign(&binding) || wished.contains_key(&binding.key()));
            let refused = world.seen.policy.as_ref().is_some_and(|breach| breach.severity == Severity::Refused);
            prop_assert!(leaves || foreign(&binding) || !refused);
        }
    }
}
