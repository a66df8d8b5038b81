//! Delivered once: shown for a while, otherwise drawn anew.

use proptest::prelude::*;

use super::{edits::*, *};

const ONCE: &str = r#"{"delivery": {"mode": "Once", "window": "1h"}}"#;

fn once(kind: &str, options: &str) -> World {
    let mut world = World::new(kind, options);
    world.spec(&serde_json::from_str(ONCE).unwrap());
    world.settle(usize::MAX);
    world
}

fn material(world: &World) -> MaterialStatus {
    world.credential.status.clone().unwrap().material.unwrap()
}

fn acknowledge(world: &mut World, id: &str) {
    let annotations = world.credential.metadata.annotations.get_or_insert_default();
    annotations.insert(name::ACKNOWLEDGED_ANNOTATION.to_owned(), id.to_owned());
}

/// Whether the value is nowhere, and said to be delivered.
fn is_delivered(world: &World) -> bool {
    let status = world.credential.status.clone().unwrap();
    let said = status.material.is_some_and(|material| material.delivered_at.is_some());
    assert_eq!(said, world.secrets.is_empty(), "said and done");
    said && status.secret.is_none()
}

#[test]
fn the_window_an_acknowledgement_and_a_deletion_deliver_it() {
    let hour = SignedDuration::from_hours(1);
    for (kind, options, _) in TYPES {
        let mut world = once(kind, options);
        let plan = plan(&world.credential, &world.seen(), Wanted::Yes, None, world.now);
        let first = [material(&world).rotates_at.map(|at| at.timestamp().unwrap()), Some(world.now + hour)];
        assert_eq!(plan.wake, first.into_iter().flatten().min(), "{kind}");
        acknowledge(&mut world, "another");
        world.now += hour - SignedDuration::from_nanos(1);
        world.settle(usize::MAX);
        assert!(!is_delivered(&world), "{kind}");
        world.now += SignedDuration::from_nanos(1);
        world.settle(usize::MAX);
        assert!(is_delivered(&world), "{kind}");

        let mut world = once(kind, options);
        let id = material(&world).id.unwrap();
        acknowledge(&mut world, &id);
        world.settle(usize::MAX);
        assert!(is_delivered(&world), "{kind}");

        let mut world = once(kind, options);
        let digest = material(&world).digest;
        world.secrets.clear();
        world.settle(usize::MAX);
        assert!(is_delivered(&world), "{kind}");
        assert_eq!(material(&world).digest, digest);
    }
}

#[test]
fn it_is_drawn_anew_for_a_reason_and_shown_again() {
    let mut world = once("ClientSecret", r#"{"rotation": {"every": "10d", "overlap": "1d"}}"#);
    let first = material(&world);
    world.now += SignedDuration::from_hours(2);
    world.settle(usize::MAX);
    assert!(is_delivered(&world));
    world.now += SignedDuration::from_hours(24 * 9);
    world.settle(usize::MAX);
    assert!(is_delivered(&world), "nothing was due");
    world.now += SignedDuration::from_hours(24);
    world.settle(usize::MAX);
    let second = material(&world);
    assert_eq!((second.serial, second.delivered_at.is_none(), world.value()), (Some(1), true, Some(2)));
    assert_eq!(second.previous.map(|previous| previous.digest), first.digest);
    // While it is still there: the one that is there is said to be delivered first.
    world.spec(&json!({"rotation": {"revision": 3}}));
    world.round(false, usize::MAX);
    assert!(material(&world).delivered_at.is_some() && world.value() == Some(2));
    world.settle(usize::MAX);
    assert_eq!((material(&world).serial, world.value()), (Some(2), Some(3)));
    // Not while it is inactive, nor while a policy is against it.
    world.now += SignedDuration::from_hours(2);
    world.spec(&json!({"state": "Inactive", "rotation": {"revision": 4}}));
    world.settle(usize::MAX);
    assert!(is_delivered(&world));
    let reason = Reason::PolicyViolation;
    world.held = Some(Trouble { reason, message: "not allowed".to_owned(), waits_for_others: false });
    world.spec(&json!({"state": "Active"}));
    world.settle(usize::MAX);
    assert!(is_delivered(&world));
    world.held = None;
    world.settle(usize::MAX);
    assert_eq!(world.value(), Some(4));
}

#[test]
fn what_is_in_the_place_of_the_next_one_is_told() {
    let mut world = once("ClientSecret", r"{}");
    world.secrets.clear();
    world.settle(usize::MAX);
    world.spec(&json!({"rotation": {"revision": 1}}));
    let seen = Seen { secret: SecretSeen::Foreign, ..world.seen() };
    let plan = plan(&world.credential, &seen, Wanted::Yes, None, world.now);
    let trouble = plan.trouble.unwrap();
    assert_eq!((trouble.reason, trouble.waits_for_others, plan.steps.len()), (Reason::Conflict, true, 0));
    assert_eq!(plan.material.unwrap().delivered_at, material(&world).delivered_at);
}

#[test]
fn without_its_key_the_window_ends_and_nothing_is_drawn() {
    let mut world = once("ClientSecret", r"{}");
    world.now += SignedDuration::from_hours(2);
    world.spec(&json!({"rotation": {"revision": 1}}));
    let unknown = |world: &World| {
        let mut seen = Seen { key_known: false, ..world.seen() };
        if let SecretSeen::Ours(own) = &mut seen.secret {
            own.attested = None;
        }
        seen
    };
    let said = plan(&world.credential, &unknown(&world), Wanted::Yes, None, world.now);
    assert!(said.steps.is_empty() && said.material.clone().unwrap().delivered_at.is_some());
    world.credential.status.as_mut().unwrap().material = said.material;
    let gone = plan(&world.credential, &unknown(&world), Wanted::Yes, None, world.now);
    assert!(matches!(gone.steps[..], [Step::Delete { resource_version: Some(_), .. }]) && !gone.again);
}

/// Each value is in one Secret at most, never after it was said to be delivered, and never goes before.
fn once_holds(at: usize, edits: &[(Edit, usize)]) -> Result<(), TestCaseError> {
    let (kind, first, second) = TYPES[at];
    let mut world = once(kind, first);
    let mut shown = BTreeMap::new();
    let mut said = std::collections::BTreeSet::new();
    for (count, (edit, limit)) in edits.iter().enumerate() {
        world.now += SignedDuration::from_mins(2);
        perform(&mut world, edit, [first, second], count);
        let late = std::mem::take(&mut world.late);
        world.land(late);
        for limit in [*limit, usize::MAX, usize::MAX, usize::MAX, usize::MAX, usize::MAX] {
            let there: Vec<_> = world.secrets.values().map(|(own, value)| (own.clone(), *value)).collect();
            world.round(false, limit);
            let status = world.credential.status.clone().unwrap();
            let told = status.material.unwrap_or_default();
            if told.delivered_at.is_some() {
                said.insert(told.digest.clone());
            }
            for (own, value) in world.secrets.values() {
                let attested = own.attested.clone().unwrap().material;
                let known = there.iter().any(|(before, _)| before.reference.uid == own.reference.uid);
                prop_assert!(known || !said.contains(&attested.digest), "{kind} {edit:?}: shown again");
                prop_assert_eq!(*shown.entry(attested.serial).or_insert(*value), *value, "two of one serial");
            }
            for (own, _) in &there {
                let is_there =
                    world.secrets.values().any(|(other, _)| other.reference.uid == own.reference.uid);
                let digest = own.attested.clone().unwrap().material.digest;
                prop_assert!(is_there || said.contains(&digest), "{kind} {edit:?}: gone before it was said");
            }
        }
        let told = world.credential.status.clone().unwrap().material.unwrap_or_default();
        prop_assert_eq!(told.delivered_at.is_some(), world.secrets.is_empty(), "{} {:?}", kind, edit);
        prop_assert!(world.secrets.len() <= 1);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn once_holds_in_all_edits_of_each_type(
        edits in proptest::collection::vec(
            // Whose a Secret is that nobody can tell any more is another matter.
            (edit().prop_filter("told", |edit| !matches!(edit, Edit::Disown)), prop_oneof![Just(usize::MAX), 0..3_usize]),
            6,
        ),
    ) {
        for at in 0..TYPES.len() {
            once_holds(at, &edits)?;
        }
    }
}
