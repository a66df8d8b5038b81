use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::*;
use crate::{
    api::credential::{Grant, RoleKind},
    client::Flaw,
    domain::name,
};

const NOW: &str = "2026-06-01T00:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// One that is held by our finalizer.
fn credential() -> InvalidObject {
    let metadata = ObjectMeta {
        namespace: Some("edge".to_owned()),
        name: Some("nodes".to_owned()),
        uid: Some("uid".to_owned()),
        finalizers: Some(vec![name::FINALIZER.to_owned()]),
        ..ObjectMeta::default()
    };
    InvalidObject { metadata, ..InvalidObject::default() }
}

/// Its binding there.
fn binding(namespace: &str) -> Binding {
    let namespace = Some(namespace.to_owned());
    let grant =
        Grant { kind: RoleKind::ClusterRole, name: "view".to_owned(), namespace, cluster_wide: false };
    let bindings = owner_of(&credential().metadata).bindings(&[grant]);
    let mut binding = bindings.into_values().next().unwrap();
    binding.metadata.uid = binding.metadata.namespace.clone();
    binding
}

/// What is unbound, whether it is let go, and when it is looked at again.
fn told(unread: &InvalidObject, bindings: &[Binding]) -> String {
    let in_reach = ["edge", "stock"];
    let stranded: Vec<_> =
        unread.bound_in.iter().filter(|place| !in_reach.contains(&place.as_str())).cloned().collect();
    let plan = plan(unread, bindings, &stranded, now());
    let unbound: Vec<_> = plan.unbind.into_iter().map(|(_, uid)| uid).collect();
    let wake = plan.wake.map(|at| format!("{:#}", at.duration_since(now())));
    let release = if plan.release { "let go" } else { "-" };
    let held = plan.held_by.map(|by| format!(", held by {}", by.split(',').next().unwrap()));
    format!("{} {release}{} {}", unbound.join("+"), held.unwrap_or_default(), wake.unwrap_or_default())
}

fn terminate(metadata: &mut ObjectMeta) {
    metadata.deletion_timestamp = Some(Time(now()));
}

type Row<T> = (&'static str, fn(&mut InvalidObject), T);

#[test]
fn what_grants_nothing_any_more_is_unbound_and_nothing_else_is() {
    let rows: [Row<&str>; 9] = [
        ("nothing is known", |_| {}, " - "),
        ("it ends", |o| o.ends_at = Some("2026-06-02T00:00:00Z".parse().unwrap()), " - 24h"),
        ("ended", |o| o.ends_at = Some(now()), "edge+stock - "),
        ("ended before", |o| o.expired = true, "edge+stock - "),
        ("inactive", |o| o.inactive = true, "edge+stock - "),
        ("too large", |o| o.flaw = Flaw::Size { is: 2, allowed: 1 }, "edge+stock - "),
        ("being deleted", |o| terminate(&mut o.metadata), "edge+stock - 10s"),
        (
            "not held any more",
            |o| {
                terminate(&mut o.metadata);
                o.metadata.finalizers = None;
            },
            "edge+stock - ",
        ),
        (
            "inactive, and it ends",
            |o| {
                o.inactive = true;
                o.ends_at = Some("2026-06-02T00:00:00Z".parse().unwrap());
            },
            "edge+stock - 24h",
        ),
    ];
    for (what, change, expected) in rows {
        let mut unread = credential();
        change(&mut unread);
        assert_eq!(told(&unread, &[binding("edge"), binding("stock")]), expected, "{what}");
    }
}

#[test]
fn it_is_let_go_when_nothing_of_it_stands() {
    let mut unread = credential();
    assert_eq!(told(&unread, &[]), " - ");
    terminate(&mut unread.metadata);
    assert_eq!(told(&unread, &[]), " let go ");
    // One that is being deleted still grants.
    let mut leaving = binding("stock");
    terminate(&mut leaving.metadata);
    assert_eq!(told(&unread, &[leaving]), "stock - 10s");
    let mut predecessors = binding("stock");
    let earlier = [(name::OWNER_UID_ANNOTATION.to_owned(), "earlier".to_owned())];
    predecessors.metadata.annotations.get_or_insert_default().extend(earlier);
    assert_eq!(told(&unread, &[predecessors]), "stock - 10s");
    // Others' is neither touched nor waited for.
    let mut foreign = binding("stock");
    foreign.role_ref.name = "edit".to_owned();
    assert_eq!(told(&unread, &[foreign]), " let go ");
    // Nobody sees what stands there.
    unread.bound_in = vec!["stock".to_owned(), "far".to_owned()];
    assert_eq!(told(&unread, &[]), " -, held by roles of it stand bound in namespace far ");
    unread.bound_in.pop();
    assert_eq!(told(&unread, &[]), " let go ");
    unread.metadata.finalizers = None;
    assert_eq!(told(&unread, &[]), " - ");
}

#[test]
fn the_secret_of_a_token_goes_at_its_end() {
    let rows: [Row<bool>; 8] = [
        ("nothing is known", |_| {}, false),
        ("revoked", |o| o.revoked = true, true),
        ("being deleted", |o| terminate(&mut o.metadata), true),
        ("ended before", |o| o.expired = true, true),
        ("ended", |o| o.ends_at = Some(now()), true),
        ("it ends", |o| o.ends_at = Some(Timestamp::MAX), false),
        ("its value has ended", |o| o.value_ends_at = Some(now()), true),
        ("its value ends", |o| o.value_ends_at = Some(Timestamp::MAX), false),
    ];
    for (what, change, expected) in rows {
        let mut unread = credential();
        change(&mut unread);
        assert_eq!(takes_secret(&unread, now()), expected, "{what}");
        let end = unread.ends_at.or(unread.value_ends_at).filter(|end| *end > now());
        assert_eq!(token_ends_at(&unread, now()), end, "{what}");
    }
}
