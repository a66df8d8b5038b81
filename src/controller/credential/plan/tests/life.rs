//! Suspended, at its end, and deleted; and what the status tells of its tokens.

use super::*;

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
        "hold, say * team-a, bind nodes everywhere, bind view in edge, bind view in team-a \
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
