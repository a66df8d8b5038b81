//! Sealed: for recipients, who may change.

use super::*;

pub(super) const AGE: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
pub(super) const SSH: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN";

fn sealed(recipients: &[&str]) -> World {
    let mut world = World::fresh();
    let recipients = recipients.iter().map(|recipient| (*recipient).to_owned()).collect();
    let delivery = Delivery { mode: DeliveryMode::Sealed, window: None, recipients };
    world.token.as_mut().unwrap().spec.delivery = Some(delivery);
    world
}

fn issued() -> Observed {
    sealed(&[AGE]).settle(now() - 1.hour()).observe().unwrap()
}

fn recipients(observed: &mut Observed) -> &mut Vec<String> {
    &mut observed.token.spec.delivery.as_mut().unwrap().recipients
}

#[test]
fn a_value_is_sealed_for_its_recipients() {
    let observed = sealed(&[AGE, SSH]).observe().unwrap();
    assert_eq!(told(&observed, now()), "create 0 | Active Ready Usable (Issued) | end");
    let plan = plan(&observed, now());
    let [Step::CreateSecret(recipe)] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
    assert_eq!(recipe.recipients.as_ref().unwrap().mark(), Recipients::mark_of(&[SSH, AGE].map(Into::into)));
    assert_eq!(told(&issued(), now()), ISSUED);
}

#[test]
fn other_recipients_get_another_value_and_the_one_before_is_refused() {
    let renewed = "renew 1 | Active Ready Usable (Issued) | end";
    check(
        issued,
        &[
            ("one more", |o| recipients(o).push(SSH.to_owned()), renewed),
            ("another", |o| *recipients(o) = vec![SSH.to_owned()], renewed),
            ("the same twice", |o| recipients(o).push(AGE.to_owned()), ISSUED),
        ],
    );
    let mut world = sealed(&[AGE]);
    let spec = &mut world.token.as_mut().unwrap().spec;
    (spec.expires_in, spec.renew_before) = (Some("40d".into()), Some("10d".into()));
    // In its second term, with the value of the first still good; and with the third due just now.
    for (before, now) in [(now() - 1.hour(), now()), (now(), now() + (24 * 40).hours())] {
        let mut observed = world.clone().settle(before - 48.hours()).settle(before).observe().unwrap();
        recipients(&mut observed).push(SSH.to_owned());
        let plan = plan(&observed, now);
        let [Step::RenewSecret(recipe, _)] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
        assert_eq!((recipe.serial, &recipe.claim.previous), (2, &None));
        let status = plan.status.unwrap();
        assert_eq!((status.serial, status.previous, status.replaced_at), (Some(2), None, vec![]));
    }
}

#[test]
fn who_is_none_is_told_and_gets_nothing() {
    let invalid = "- | Failed Stalled (InvalidSpec) | end";
    let mistyped = || AGE.replace("t7rx", "t7rr");
    let mut observed = sealed(&[AGE, &mistyped()]).observe().unwrap();
    assert_eq!(told(&observed, now()), invalid);
    let message = plan(&observed, now()).status.unwrap().conditions[0].message.clone();
    assert!(message.contains("recipients[1]") && !message.contains(&mistyped()), "{message}");
    recipients(&mut observed).clear();
    assert_eq!(told(&observed, now()), invalid);
    // What there is goes on, until who it is for is right again.
    let mut observed = issued();
    recipients(&mut observed).push(mistyped());
    let plan = plan(&observed, now());
    let status = plan.status.unwrap();
    assert!(plan.steps.is_empty() && plan.wake == Some(at(END)));
    assert!(holds(&status, ConditionType::Usable) && holds(&status, ConditionType::Stalled));
    assert_eq!(status.digest, observed.token.status.as_ref().unwrap().digest);
    recipients(&mut observed).pop();
    assert_eq!(told(&observed, now()), ISSUED);
    assert!(told(&observed, at(END)).starts_with("delete | Expired"));
}

#[test]
fn a_policy_holds_what_is_sealed_anew_back() {
    let mut observed = issued();
    observed.policy = Some(breach(Severity::Terms));
    assert_eq!(told(&observed, now()), ISSUED);
    recipients(&mut observed).push(SSH.to_owned());
    let plan = plan(&observed, now());
    assert!(plan.steps.is_empty() && holds(plan.status.as_ref().unwrap(), ConditionType::Usable));
}

#[test]
fn the_first_ciphertext_is_the_one_that_counts() {
    let mut world = sealed(&[AGE]);
    world.shown = now();
    assert!(world.apply(plan(&world.observe().unwrap(), now()), 1));
    let sealed = world.secret.clone();
    let after = world.settle(now());
    assert_eq!(after.secret, sealed);
    // Without what the operator said of it, nobody can tell what it holds.
    let mut edited = after;
    edited.secret.as_mut().unwrap().attested = false;
    let observed = edited.observe().unwrap();
    assert_eq!(told(&observed, now()), "delete version 1, create 1 | Active Ready Usable (Issued) | end");
}

#[test]
fn a_stored_recipient_of_low_order_is_reported_and_replaced_by_another_value() {
    // A version that took it has issued the value.
    let zero = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z".to_owned();
    let mut observed = issued();
    *recipients(&mut observed) = vec![zero.clone()];
    let SecretSeen::Ours(secret) = &mut observed.secret else { panic!() };
    secret.sealed_for = Some(Recipients::mark_of(&[zero]));
    let before = observed.token.status.clone().unwrap();
    let told = plan(&observed, now());
    let status = told.status.unwrap();
    assert!(told.steps.is_empty());
    assert_eq!((&status.digest, &status.secret), (&before.digest, &before.secret));
    assert!(holds(&status, ConditionType::Stalled) && !holds(&status, ConditionType::Ready));
    let message = &status.conditions[0].message;
    assert!(message.contains("spec.delivery.recipients[0] is a key of low order"), "{message}");
    *recipients(&mut observed) = vec![AGE.to_owned()];
    assert!(matches!(&plan(&observed, now()).steps[..], [Step::RenewSecret(..)]));
}
