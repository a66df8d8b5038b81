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

mod laws;
mod life;
mod policies;
mod roles;
mod world;

use world::*;

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
        out_of_reach: Vec::new(),
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

fn breach(severity: Severity) -> Breach {
    Breach {
        severity,
        policy: Some("p".to_owned()),
        message: "CredentialPolicy p does not allow it".to_owned(),
        until: None,
    }
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
            Step::Say(status) => format!("say {}", status.bound_in.join(" ")),
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
