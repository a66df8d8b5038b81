//! Its identity, and its roles.

use super::*;

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
            ("our label", |o| binding(o, &view()).metadata.labels = None, anew),
            ("our annotations", |o| binding(o, &view()).metadata.annotations = None, anew),
            ("our owner reference", |o| binding(o, &view()).metadata.owner_references = None, anew),
            (
                "our owner reference, replaced by that of another kind",
                |o| {
                    let owners = &mut binding(o, &view()).metadata.owner_references;
                    owners.as_mut().unwrap()[0].kind = "ConfigMap".to_owned();
                    owners.as_mut().unwrap()[0].uid = "another".to_owned();
                },
                anew,
            ),
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
            ("of our name", |o| disown(binding(o, &view())), conflict),
            (
                "of our name, no longer wished",
                |o| {
                    disown(binding(o, &deployer()));
                    o.credential.spec.roles.truncate(1);
                },
                BOUND,
            ),
            (
                "while inactive it is in nobody's way",
                |o| {
                    disown(binding(o, &view()));
                    o.credential.spec.state = DesiredState::Inactive;
                },
                "unbind deployer in edge | Inactive Ready (CredentialInactive) | -",
            ),
            (
                "the other roles are bound all the same",
                |o| {
                    disown(binding(o, &view()));
                    add_role(o, grant(RoleKind::Role, "reader", None));
                },
                "bind reader in edge | Failed Usable Stalled (Conflict) | 10s",
            ),
            (
                "terminating, of others: it must be gone first",
                |o| {
                    let found = binding(o, &view());
                    disown(found);
                    found.metadata.deletion_timestamp = Some(Time(now()));
                },
                "- | Pending Usable Reconciling (Pending) | 10s",
            ),
            (
                "terminating, of ours",
                |o| binding(o, &view()).metadata.deletion_timestamp = Some(Time(now())),
                "unbind view in edge, bind view in edge | Active Ready Usable (Published) | -",
            ),
            (
                "of another role, with our owner reference",
                |o| binding(o, &view()).role_ref.name = "edit".to_owned(),
                conflict,
            ),
            (
                "of another name, with our owner reference",
                |o| binding(o, &view()).metadata.name = Some("theirs".to_owned()),
                "bind view in edge | Active Ready Usable (Published) | -",
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

/// Removes the owner references and annotations of the operator.
fn disown(found: &mut Binding) {
    found.metadata.owner_references = None;
    found.metadata.annotations = None;
}

#[test]
fn what_is_bound_outside_is_held_by_a_finalizer_for_just_as_long() {
    check(
        bound,
        &[
            (
                "first the finalizer",
                |o| add_role(o, view_in_team()),
                "hold, say team-a, bind view in team-a | Active Ready Usable (Published) | -",
            ),
            (
                "everywhere is outside",
                |o| add_role(o, nodes()),
                "hold, say *, bind nodes everywhere | Active Ready Usable (Published) | -",
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
fn what_is_bound_out_of_reach_holds_the_credential() {
    // An operator that works in the credential's own namespace alone sees nothing of the rest.
    let out_of_reach = || {
        let mut observed = bound_outside();
        observed.out_of_reach = vec!["*".to_owned(), "team-a".to_owned()];
        observed.bindings.retain(|binding| binding.metadata.namespace.as_deref() == Some("edge"));
        observed.policy = Some(breach(Severity::Refused));
        observed
    };
    let no_more = |observed: &mut Observed| {
        observed.credential.spec.roles = vec![view()];
        observed.policy = None;
    };
    check(
        out_of_reach,
        &[
            ("refused", |_| {}, "unbind view in edge, refuse | Failed Stalled (RoleNotBindable) | -"),
            ("no longer asked for", no_more, "- | Failed Usable Stalled (RoleNotBindable) | -"),
            ("ended", |o| end_at(o, NOW), "unbind view in edge | Expired Stalled (RoleNotBindable) | -"),
            ("deleted", terminate, "unbind view in edge | Failed Usable Stalled (RoleNotBindable) | -"),
            (
                "let go by hand",
                |o| {
                    o.credential.metadata.finalizers = None;
                    o.credential.spec.roles = vec![view()];
                    o.policy = None;
                },
                BOUND,
            ),
            (
                "in reach again",
                |o| {
                    o.out_of_reach.clear();
                    o.credential.spec.roles = vec![view()];
                    o.policy = None;
                },
                "let go | Active Ready Usable (Published) | -",
            ),
            (
                "deleted, in reach again",
                |o| {
                    o.out_of_reach.clear();
                    terminate(o);
                },
                "unbind view in edge, let go | - | -",
            ),
        ],
    );
    let mut observed = out_of_reach();
    no_more(&mut observed);
    let status = plan(&observed, now()).status.unwrap();
    assert_eq!(status.bound_in, ["*", "team-a"]);
    let said = &status.conditions[0].message;
    assert!(
        said.starts_with("roles of it stand bound in the whole cluster and namespace team-a, where"),
        "{said}"
    );
}

#[test]
fn a_binding_that_finalizers_keep_is_deleted_all_the_same() {
    let leaving = || {
        let mut observed = bound_outside();
        binding(&mut observed, &view_in_team()).metadata.deletion_timestamp = Some(Time(now()));
        observed
    };
    check(
        leaving,
        &[
            (
                "it is wished",
                |_| {},
                "unbind view in team-a, bind view in team-a | Active Ready Usable (Published) | -",
            ),
            (
                "its role was removed",
                |o| o.credential.spec.roles = vec![view(), nodes()],
                "unbind view in team-a | Active Ready Usable (Published) | -",
            ),
            (
                "nothing else is outside",
                |o| o.credential.spec.roles = vec![view()],
                "unbind nodes everywhere, unbind view in team-a, let go | Active Ready Usable (Published) | -",
            ),
            (
                "inactive",
                |o| o.credential.spec.state = DesiredState::Inactive,
                "unbind nodes everywhere, unbind view in edge, unbind view in team-a, let go | Inactive Ready (CredentialInactive) | -",
            ),
            (
                "expired",
                |o| end_at(o, NOW),
                "unbind nodes everywhere, unbind view in edge, unbind view in team-a, let go | Expired Ready (Expired) | -",
            ),
            (
                "refused",
                |o| o.policy = Some(breach(Severity::Refused)),
                "unbind nodes everywhere, unbind view in edge, unbind view in team-a, refuse, let go | Failed Stalled (PolicyViolation) | -",
            ),
            (
                "deleted",
                terminate,
                "unbind nodes everywhere, unbind view in edge, unbind view in team-a, let go | - | -",
            ),
        ],
    );
    // A credential of the name of an earlier one does not get its roles.
    let mut observed = bound();
    observed.credential.metadata.uid = Some("later".to_owned());
    observed.credential.status = None;
    observed.credential.spec.roles = Vec::new();
    observed.account = AccountSeen::Absent;
    binding(&mut observed, &view()).metadata.deletion_timestamp = Some(Time(now()));
    assert_eq!(
        told(&observed, now()),
        "unbind deployer in edge, unbind view in edge, account | Active Ready Usable (Published) | -"
    );
}
