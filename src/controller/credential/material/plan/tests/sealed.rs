//! Sealed: other recipients get other material.

use super::*;
use crate::domain::digest::SealedMaterial;

const KEYS: [&str; 2] = [
    "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN",
];

fn sealed(kind: &str, options: &str) -> World {
    let mut world = World::new(kind, options);
    world.spec(&json!({"delivery": {"mode": "Sealed", "recipients": [KEYS[0]]}}));
    world.settle(usize::MAX);
    mark(&mut world);
    world
}

/// What publishing says of it.
fn mark(world: &mut World) {
    let recipients = world.credential.spec.delivery.as_ref().unwrap().recipients.clone();
    for (own, _) in world.secrets.values_mut() {
        let said = SealedMaterial::new(Recipients::mark_of(&recipients), &Entries::new());
        own.attested.as_mut().unwrap().sealed = Some(said);
    }
}

#[test]
fn other_recipients_get_other_material_and_the_one_before_is_refused() {
    for (kind, options, _) in TYPES {
        let mut world = sealed(kind, options);
        assert_eq!(world.value(), Some(1));
        world.now += jiff::SignedDuration::from_mins(10);
        world.spec(&json!({"delivery": {"recipients": [KEYS[1], KEYS[0]]}}));
        world.settle(usize::MAX);
        mark(&mut world);
        assert_eq!(world.value(), Some(2), "{kind}");
        world.spec(&json!({"delivery": {"recipients": [KEYS[0], KEYS[1]]}}));
        world.settle(usize::MAX);
        assert_eq!(world.value(), Some(2), "{kind}: the order makes no difference");
    }
    let mut world = sealed("ClientSecret", r#"{"rotation": {"every": "10d", "overlap": "1d"}}"#);
    world.spec(&json!({"rotation": {"revision": 1}}));
    world.settle(usize::MAX);
    mark(&mut world);
    let previous = |world: &World| world.credential.status.clone().unwrap().material.unwrap().previous;
    assert!(previous(&world).is_some(), "rotated for the same, with an overlap");
    world.spec(&json!({"delivery": {"recipients": [KEYS[1]]}}));
    world.settle(usize::MAX);
    assert_eq!(previous(&world), None);
}

#[test]
fn who_is_none_is_told_and_gets_nothing() {
    let mut world = sealed("ClientSecret", r"{}");
    let low_order = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z";
    for recipients in [json!(["age1mistyped"]), json!([low_order]), json!([])] {
        world.spec(&json!({"delivery": {"recipients": recipients}}));
        let plan = plan(&world.credential, &world.seen(), Wanted::Yes, None, world.now);
        let trouble = plan.trouble.unwrap();
        assert!(plan.steps.is_empty() && trouble.reason == Reason::InvalidSpec);
        assert!(trouble.message.contains("spec.delivery.recipients"), "{}", trouble.message);
        assert!(!trouble.message.contains("mistyped1") && plan.material.unwrap().serial == Some(0));
    }
}
