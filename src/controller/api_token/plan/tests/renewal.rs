//! Renewal. The token was created 31 days ago; a value lives for 40 days and has a successor after 30.

use super::*;

fn renewing() -> World {
    let mut world = World::fresh();
    let spec = &mut world.token.as_mut().unwrap().spec;
    (spec.expires_in, spec.renew_before) = (Some("40d".into()), Some("10d".into()));
    world
}

/// As it is that many days after now, having been left alone for as long before.
fn renewing_since(days: i64) -> Observed {
    renewing().settle(now() + (24 * days).hours()).observe().unwrap()
}

fn told_after(observed: &Observed, days: i64) -> String {
    told(observed, now() + (24 * days).hours())
}

#[test]
fn a_value_is_renewed_by_the_time_alone() {
    let mut observed = renewing_since(-2);
    assert_eq!(status(&mut observed).expires_at, Some("2026-06-10T00:00:00Z".into()));
    assert_eq!(told_after(&observed, -2), "- | Active Ready Usable (Issued) | 12h");
    let first = status(&mut observed).clone();
    // Its successor lives on from the formula, however late it comes; a previous value ends when it always would have.
    for (days, term, end, previous, wake) in [
        (0, 1, "2026-07-10T00:00:00Z", Some("2026-06-10T00:00:00Z"), "204h"),
        (8, 1, "2026-07-10T00:00:00Z", Some("2026-06-10T00:00:00Z"), "12h"),
        (9, 1, "2026-07-10T00:00:00Z", None, "468h"),
        (61, 3, "2026-09-08T00:00:00Z", None, "660h"),
    ] {
        assert_eq!(
            told_after(&observed, days),
            format!("renew 1 | Active Ready Usable (Issued) | {wake}"),
            "after {days} days"
        );
        let planned = plan(&observed, now() + (24 * days).hours());
        let [Step::RenewSecret(recipe, held)] = &planned.steps[..] else { panic!("{planned:?}") };
        assert_eq!((recipe.serial, recipe.term, recipe.claim.end), (1, Some(term), at(end)));
        assert_eq!((&held.secret.uid[..], &held.resource_version[..]), ("secret-1", "1"));
        let status = planned.status.unwrap();
        assert_eq!((status.serial, status.term, status.expires_at), (Some(1), Some(term), Some(end.into())));
        let expected = previous.map(|end| PreviousToken {
            serial: 0,
            term: 0,
            token_id: first.token_id.clone().unwrap(),
            digest: first.digest.clone().unwrap(),
            expires_at: end.into(),
        });
        assert_eq!(status.previous, expected);
        assert_eq!(recipe.claim.previous, status.previous.map(Into::into));
    }
}

#[test]
fn the_last_value_is_not_renewed_and_ends_with_the_token() {
    let mut world = renewing();
    world.token.as_mut().unwrap().spec.expires_at = Some("2026-06-30T00:00:00Z".into());
    let mut observed = world.settle(now()).observe().unwrap();
    assert_eq!(status(&mut observed).expires_at, Some("2026-06-30T00:00:00Z".into()));
    assert_eq!(told_after(&observed, 20), "- | Active Ready Usable (Issued) | 204h");
    assert_eq!(told_after(&observed, 29), "delete | Expired Ready (Expired) | -");
}

#[test]
fn the_value_before_is_told_until_its_end_and_forgotten_with_the_rest() {
    let mut world = renewing().settle(now() - 48.hours()).settle(now());
    let mut observed = world.observe().unwrap();
    assert!(status(&mut observed).previous.is_some());
    assert_eq!(told(&observed, now()), "- | Active Ready Usable (Issued) | 204h");
    assert_eq!(plan(&observed, now()).status, observed.token.status, "time alone is no news");
    world = world.settle(at("2026-06-10T00:00:00Z"));
    assert_eq!(status(&mut world.observe().unwrap()).previous, None);

    for change in [
        (|o: &mut Observed| o.token.spec.revoked = Some(true)) as fn(&mut Observed),
        |o| o.token.spec.expires_at = Some(NOW.into()),
        |o| o.secret = SecretSeen::Foreign,
        |o| o.secret = SecretSeen::Absent,
    ] {
        let mut observed = observed.clone();
        change(&mut observed);
        assert_eq!(plan(&observed, now()).status.unwrap().previous, None);
    }
    credential(&mut observed).spec.expires_at = Some("2026-06-03T00:00:00Z".into());
    let previous = plan(&observed, now()).status.unwrap().previous.unwrap();
    assert_eq!(previous.expires_at, "2026-06-03T00:00:00Z".into(), "it ends with its credential");
}

#[test]
fn a_lost_value_is_followed_by_one_of_its_term() {
    let mut observed = renewing_since(0);
    observed.secret = SecretSeen::Absent;
    assert_eq!(told(&observed, now()), "create 1 | Active Ready Usable (Issued) | 684h");
    let replaced = plan(&observed, now()).status.unwrap();
    assert_eq!((replaced.serial, replaced.term), (Some(1), Some(1)));
    assert_eq!(replaced.expires_at, status(&mut observed).expires_at, "it lives no longer than the lost one");
    assert_eq!(replaced.replaced_at, [ago(0)]);
    // And the next term has the next number.
    observed = renewing_since(0);
    status(&mut observed).serial = Some(5);
    assert!(told_after(&observed, 29).starts_with("renew 6 "), "{}", told_after(&observed, 29));
}

#[test]
fn a_renewal_whose_status_was_not_written_is_adopted_with_the_value_before() {
    let mut world = renewing().settle(now() - 48.hours());
    let before = world.token.as_ref().unwrap().status.clone().unwrap();
    let whole = world.clone().settle(now());
    for times in 1..3 {
        // We die after the renewal, and again in the next term.
        let time = now() + (30 * 24 * (times - 1)).hours();
        assert!(world.apply(plan(&world.observe().unwrap(), time), 1));
    }
    let observed = world.observe().unwrap();
    let late = now() + (30 * 24).hours();
    assert_eq!(told(&observed, late), "- | Active Ready Usable (Issued) | 204h");
    let adopted = plan(&observed, late).status.unwrap();
    assert_eq!((adopted.serial, adopted.term, &*adopted.replaced_at), (Some(2), Some(2), &[][..]));
    assert_eq!(adopted.previous.map(|previous| previous.serial), Some(1));

    // A status from which somebody took the value before away is put right.
    let mut world = whole;
    let status = world.token.as_mut().unwrap().status.as_mut().unwrap();
    let previous = status.previous.take();
    assert_eq!(previous.as_ref().map(|previous| &previous.digest), before.digest.as_ref());
    assert_eq!(world.settle(now()).token.unwrap().status.unwrap().previous, previous);
}

#[test]
fn it_renews_while_it_is_suspended_and_only_if_its_key_is_known() {
    let mut observed = renewing_since(-2);
    credential(&mut observed).spec.state = DesiredState::Inactive;
    assert_eq!(told(&observed, now()), "renew 1 | Suspended Ready (CredentialInactive) | 204h");
    observed.key_known = false;
    secret(&mut observed).content = Content::Strange;
    assert_eq!(told(&observed, now()), "- | Failed Stalled (KeyringMissing) | end");
}

#[test]
fn a_policy_holds_the_next_value_back_and_takes_none() {
    let mut observed = renewing_since(-2);
    let [before, due, over] = [-2, 0, 10];
    let said = |observed: &Observed, days: i64| {
        let plan = plan(observed, now() + (24 * days).hours());
        assert!(plan.steps.is_empty(), "{:?}", plan.steps);
        let status = plan.status.unwrap();
        let said = ["Ready", "Usable"].map(|kind| {
            let mut conditions = status.conditions.iter();
            let said = conditions.find(|condition| condition.kind == kind).unwrap();
            format!("{} {}", said.status, said.reason)
        });
        assert_eq!((status.serial, status.digest.is_some()), (Some(0), true), "the value is as it was");
        (status.state.unwrap(), said.join(", "), plan.wake.map(|wake| wake.to_string()))
    };
    let end = "2026-06-10T00:00:00Z";
    for (severity, reason, state) in [
        (Severity::Terms, "PolicyViolation", ApiTokenState::Failed),
        (Severity::Count, "QuotaExceeded", ApiTokenState::Pending),
        (Severity::Unguarded, "AdmissionMissing", ApiTokenState::Pending),
        (Severity::Unknown, "Pending", ApiTokenState::Pending),
    ] {
        observed.policy = Some(breach(severity));
        assert_eq!(told_after(&observed, before), "- | Active Ready Usable (Issued) | 12h");
        let held_back = format!("False {reason}, True Issued");
        assert_eq!(said(&observed, due), (ApiTokenState::Active, held_back, Some(end.to_owned())));
        assert_eq!(
            said(&observed, over),
            (state, format!("False {reason}, False {reason}"), Some(at(END).to_string()))
        );
    }
    observed.policy = Some(breach(Severity::Refused));
    let refused = "True PolicyViolation, False PolicyViolation".to_owned();
    assert_eq!(said(&observed, due), (ApiTokenState::Suspended, refused, Some(end.to_owned())));
    // It still ends with its credential, and allowed again, it goes on where time is by then.
    credential(&mut observed).spec.expires_at = Some("2026-07-01T00:00:00Z".into());
    assert_eq!(said(&observed, over).2.as_deref(), Some("2026-07-01T00:00:00Z"));
    observed.policy = None;
    assert!(told_after(&observed, over).starts_with("renew 1 | Active Ready Usable (Issued)"));
}

#[test]
fn a_renewal_that_is_refused_changes_no_value() {
    let observed = renewing_since(-2);
    let before = observed.token.status.clone().unwrap();
    let planned = plan(&observed, now()).status;
    let told = refused(&observed.token, planned.as_ref(), Reason::Pending, "no room", now());
    assert_eq!((told.serial, told.term, &told.digest), (before.serial, before.term, &before.digest));
    assert_eq!((told.previous, told.expires_at), (None, before.expires_at));
}
