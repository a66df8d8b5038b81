//! Delivered once. The Secret was created an hour ago, and its window is two hours.

use super::*;

fn once(window: Option<&str>) -> World {
    let mut world = World::fresh();
    let delivery =
        Delivery { mode: DeliveryMode::Once, window: window.map(Into::into), recipients: Vec::new() };
    world.token.as_mut().unwrap().spec.delivery = Some(delivery);
    world
}

/// As it is after an hour.
fn open() -> Observed {
    once(Some("2h")).settle(now() - 1.hour()).observe().unwrap()
}

/// As it is for good, once its window has ended.
fn delivered() -> Observed {
    once(Some("2h")).settle(now() - 3.hours()).settle(now() - 1.minute()).observe().unwrap()
}

fn acknowledge(observed: &mut Observed, id: Option<String>) {
    let annotations = observed.token.metadata.annotations.get_or_insert_default();
    annotations.insert(name::ACKNOWLEDGED_ANNOTATION.to_owned(), id.unwrap());
}

const OPEN: &str = "- | Active Ready Usable (Issued) | 1h";
const CLOSED: &str = "say Active, delete | Active Ready Usable (Delivered) | end";
const DELIVERED: &str = "- | Active Ready Usable (Delivered) | end";

#[test]
fn a_window_ends_as_long_after_the_secrets_creation_as_is_said() {
    assert_eq!(
        told(&once(Some("2h")).observe().unwrap(), now()),
        "create 0 | Active Ready Usable (Issued) | 2h"
    );
    assert_eq!(told(&once(None).observe().unwrap(), now()), "create 0 | Active Ready Usable (Issued) | 15m");
    let observed = open();
    let closes_at = now() + 1.hour();
    assert_eq!(told(&observed, now()), OPEN);
    assert_eq!(told(&observed, closes_at - 1.nanosecond()), "- | Active Ready Usable (Issued) | 1ns");
    assert_eq!(told(&observed, closes_at), CLOSED);
    // Made longer while it is open, it is open for longer.
    let mut observed = open();
    observed.token.spec.delivery.as_mut().unwrap().window = Some("150m".into());
    assert_eq!(told(&observed, now()), "- | Active Ready Usable (Issued) | 1h 30m");
}

#[test]
fn it_is_said_to_be_delivered_before_its_secret_goes() {
    let observed = open();
    let closes_at = now() + 1.hour();
    let plan = plan(&observed, closes_at);
    let [Step::Say(said), Step::DeleteSecret { secret, resource_version: None }] = &plan.steps[..] else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!((&said.delivered_at, said.secret.as_ref()), (&Some(closes_at.into()), Some(secret)));
    let status = plan.status.unwrap();
    assert_eq!((&status.delivered_at, &status.secret), (&Some(closes_at.into()), &None));
    let before = observed.token.status.unwrap();
    assert_eq!((status.token_id, status.digest), (before.token_id, before.digest), "it lives on");
}

#[test]
fn only_the_id_of_this_very_value_acknowledges_it() {
    let id = |observed: &Observed| observed.token.status.as_ref().unwrap().token_id.clone();
    check(
        open,
        &[
            ("its id", |o| acknowledge(o, o.token.status.as_ref().unwrap().token_id.clone()), CLOSED),
            ("another", |o| acknowledge(o, Some("aaaaaaaaaaaa".to_owned())), OPEN),
            ("nothing", |o| acknowledge(o, Some(String::new())), OPEN),
        ],
    );
    // Of a value that the status does not know yet, too.
    let mut observed = open();
    acknowledge(&mut observed, id(&open()));
    let issued_at = Some(now() - 1.hour());
    let value =
        Value { seed: 1, serial: 0, term: None, key: KEY, previous: None, sealed_for: None, issued_at };
    let attestation = value.attestation();
    secret(&mut observed).content = Content::Attested(Box::new(attestation));
    observed.token.status = None;
    assert_eq!(told(&observed, now()), CLOSED);
    assert_eq!(plan(&observed, now()).status.unwrap().token_id, id(&open()));
}

#[test]
fn its_deletion_by_whomever_is_delivery() {
    for seen in
        [SecretSeen::Absent, SecretSeen::Terminating(None), SecretSeen::Predecessors, SecretSeen::Foreign]
    {
        let mut observed = open();
        observed.secret = seen;
        assert_eq!(told(&observed, now()), DELIVERED);
        let (before, after) = (status(&mut observed).clone(), plan(&observed, now()).status.unwrap());
        assert_eq!((after.digest, after.serial), (before.digest, before.serial));
        assert_eq!((after.delivered_at, after.secret), (Some(NOW.into()), None));
        assert_eq!(after.replaced_at, []);
    }
    let mut planted = open();
    secret(&mut planted).content = Content::Strange;
    assert_eq!(told(&planted, now()), "say Active, delete version 1 | Active Ready Usable (Delivered) | end");
}

#[test]
fn what_is_delivered_stays_so() {
    let was = delivered().token.status.unwrap().delivered_at.unwrap();
    check(
        delivered,
        &[
            ("left alone", |_| {}, DELIVERED),
            ("something of others in the place", |o| o.secret = SecretSeen::Foreign, DELIVERED),
            (
                "its window made longer",
                |o| o.token.spec.delivery.as_mut().unwrap().window = Some("9w".into()),
                DELIVERED,
            ),
            (
                "its Secret not deleted yet",
                |o| {
                    o.secret = open().secret;
                    status(o).secret = Some(secret(o).reference.clone());
                },
                "delete | Active Ready Usable (Delivered) | end",
            ),
            (
                "a copy of its Secret put back",
                |o| {
                    o.secret = open().secret;
                    secret(o).content = Content::Strange;
                },
                "delete version 1 | Active Ready Usable (Delivered) | end",
            ),
            (
                "its credential inactive",
                |o| credential(o).spec.state = DesiredState::Inactive,
                "- | Suspended Ready (CredentialInactive) | end",
            ),
            ("a policy against it", |o| o.policy = Some(breach(Severity::Terms)), DELIVERED),
            ("revoked", |o| o.token.spec.revoked = Some(true), "- | Revoked Ready (Revoked) | -"),
        ],
    );
    // Also where the clock was set back to before.
    for now in [now(), now() - 2.hours(), at("2026-05-01T00:00:00Z")] {
        let plan = plan(&delivered(), now);
        assert!(plan.steps.is_empty());
        assert_eq!(plan.status.unwrap().delivered_at, Some(was.clone()));
    }
    assert!(told(&delivered(), at(END)).starts_with("- | Expired Ready"));
}

#[test]
fn its_window_ends_though_it_is_suspended_or_its_key_is_gone() {
    let closes_at = now() + 1.hour();
    let mut observed = open();
    credential(&mut observed).spec.state = DesiredState::Inactive;
    assert_eq!(told(&observed, now()), "- | Suspended Ready (CredentialInactive) | 1h");
    assert_eq!(
        told(&observed, closes_at),
        "say Suspended, delete | Suspended Ready (CredentialInactive) | end"
    );
    let mut observed = open();
    observed.key_known = false;
    secret(&mut observed).content = Content::Strange;
    assert_eq!(told(&observed, now()), "- | Failed Stalled (KeyringMissing) | 1h");
    assert_eq!(told(&observed, closes_at), "say Failed, delete | Failed Stalled (KeyringMissing) | end");
}

#[test]
fn a_value_whose_status_was_not_written_is_adopted_with_its_window() {
    let mut world = once(Some("2h"));
    world.shown = now();
    assert!(world.apply(plan(&world.observe().unwrap(), now()), 1));
    assert_eq!(told(&world.observe().unwrap(), now()), "- | Active Ready Usable (Issued) | 2h");
    let late = world.observe().unwrap();
    assert_eq!(told(&late, now() + 2.hours()), CLOSED);
    let status = plan(&late, now() + 2.hours()).status.unwrap();
    assert!(status.digest.is_some() && status.replaced_at.is_empty());
    assert_eq!(status.credential_uid.as_deref(), Some(CREDENTIAL_UID), "so that it is accepted");
}

#[test]
fn a_value_that_went_before_its_status_was_written_is_delivered() {
    let mut observed = open();
    let issued_at = Some(now() - 1.minute());
    let value =
        Value { seed: 1, serial: 0, term: None, key: KEY, previous: None, sealed_for: None, issued_at };
    observed.unsaid = Some(value.attestation());
    observed.token.status = None;
    for seen in [SecretSeen::Absent, SecretSeen::Terminating(None), SecretSeen::Foreign] {
        observed.secret = seen;
        assert_eq!(told(&observed, now()), DELIVERED);
        let status = plan(&observed, now()).status.unwrap();
        assert_eq!((status.token_id, status.serial), (Some(value.attestation().id), Some(0)));
        assert_eq!(status.credential_uid.as_deref(), Some(CREDENTIAL_UID));
    }
}

#[test]
fn each_value_that_follows_has_a_secret_and_a_window_of_its_own() {
    let mut world = once(Some("2h"));
    let spec = &mut world.token.as_mut().unwrap().spec;
    (spec.expires_in, spec.renew_before) = (Some("40d".into()), Some("10d".into()));
    // The first value was delivered a month ago.
    let world = world.settle(now() - (24 * 31).hours()).settle(now() - (24 * 30).hours());
    let first = world.token.as_ref().unwrap().status.clone().unwrap();
    assert!(first.delivered_at.is_some() && world.secret.is_none());
    let told_now = told(&world.observe().unwrap(), now());
    assert_eq!(told_now, "create 1 | Active Ready Usable (Issued) | 2h");
    let planned = plan(&world.observe().unwrap(), now());
    let status = planned.status.clone().unwrap();
    assert_eq!((status.delivered_at, status.term), (None, Some(1)));
    assert_eq!(status.previous.map(|previous| previous.digest), first.digest);
    // Died after its Secret was created: it is adopted, and the first one is not taken for it.
    let mut died = world.clone();
    died.shown = now();
    assert!(died.apply(planned, 1));
    let adopted = died.clone().settle(now());
    assert_eq!(adopted, world.clone().settle(now()));
    // The window is over: the next waits for its term.
    let closed = adopted.settle(now() + 2.hours());
    assert_eq!(closed.token.as_ref().unwrap().status.as_ref().unwrap().serial, Some(1));
    assert!(closed.secret.is_none());

    // In the way of the next one, the value that is there goes on.
    let mut observed = world.observe().unwrap();
    observed.secret = SecretSeen::Foreign;
    let plan = plan(&observed, now());
    let held_back = plan.status.unwrap();
    assert_eq!((held_back.serial, &held_back.digest), (Some(0), &first.digest));
    assert!(holds(&held_back, ConditionType::Usable) && holds(&held_back, ConditionType::Stalled));
    assert_eq!((plan.steps.len(), plan.wake), (0, Some(now() + LOOK_AGAIN_AFTER)));
}

#[test]
fn a_value_that_is_still_there_makes_way_for_the_next() {
    let mut world = once(Some("9w"));
    let spec = &mut world.token.as_mut().unwrap().spec;
    (spec.expires_in, spec.renew_before) = (Some("40d".into()), Some("10d".into()));
    let world = world.settle(now() - (24 * 2).hours());
    assert_eq!(
        told(&world.observe().unwrap(), now()),
        "say Active, delete, create 1 | Active Ready Usable (Issued) | 204h"
    );
    let undisturbed = world.clone().settle(now());
    for limit in 0..4 {
        let mut died = world.clone();
        died.shown = now();
        died.apply(plan(&world.observe().unwrap(), now()), limit);
        assert_eq!(died.settle(now()), undisturbed, "after {limit} writes");
    }
}

#[test]
fn a_lifetime_that_is_none_is_the_shortest() {
    let mut observed = open();
    observed.token.spec.delivery.as_mut().unwrap().window = Some(Lifetime::from("soon"));
    assert_eq!(told(&observed, now()), CLOSED);
}

#[test]
fn a_window_ends_also_where_the_credential_cannot_be_read() {
    let closes_at = now() + 1.hour();
    let mut observed = open();
    spoil(&mut observed);
    assert_eq!(told(&observed, now()), "- | Failed Stalled (InvalidSpec) | 1h");
    assert_eq!(told(&observed, closes_at), "say Failed, delete | Failed Stalled (InvalidSpec) | end");
    observed.secret = SecretSeen::Absent;
    assert!(plan(&observed, now()).status.unwrap().delivered_at.is_some(), "its deletion is delivery");
    // One that the status does not tell of is not forgotten, or another would be made under its number.
    let mut unsaid = open();
    let said = unsaid.token.status.take().unwrap();
    let recorded = once(Some("2h")).settle(now() - 1.hour()).secret.unwrap().value.unwrap();
    secret(&mut unsaid).content = Content::Attested(Box::new(recorded.attestation()));
    spoil(&mut unsaid);
    assert_eq!(told(&unsaid, closes_at), "- | Failed Stalled (InvalidSpec) | end");
    unsaid.token.status = Some(said);
    secret(&mut unsaid).content =
        Content::Attested(Box::new(Attestation { serial: 1, ..recorded.attestation() }));
    assert_eq!(told(&unsaid, closes_at), "- | Failed Stalled (InvalidSpec) | end");
}
