//! What policies do to it.

use super::*;

fn violate(observed: &mut Observed, severity: Severity) {
    observed.policy = Some(breach(severity));
}

#[test]
fn violating_credential_is_unbound_before_its_status_is_written_and_heals() {
    let mut observed = bound_outside();
    violate(&mut observed, Severity::Refused);
    let unbound = "unbind nodes everywhere, unbind view in edge, unbind view in team-a";
    let refused = "Failed Stalled (PolicyViolation) | -";
    assert_eq!(told(&observed, now()), format!("{unbound}, refuse, let go | {refused}"));
    // Whatever of it cannot be done, the values are refused.
    let planned = plan(&observed, now()).status.unwrap();
    let blamed = super::refused(&observed.credential, planned, Reason::Pending, "503", now());
    assert!(blamed.is_refused_by_policy());
    let mut said_already = observed.clone();
    said_already.credential.status = Some(blamed);
    assert_eq!(told(&said_already, now()), format!("{unbound}, let go | {refused}"));

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
        "hold, say * team-a, bind nodes everywhere, bind view in edge, bind view in team-a | Active Ready Usable (Published) | -"
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
    assert_eq!(
        told(&observed, now()),
        "hold, say *, bind nodes everywhere | Active Ready Usable (Published) | -"
    );
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
