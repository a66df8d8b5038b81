//! Whatever is edited, and whenever.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
pub(super) enum Edit {
    /// Something that the material does not depend on.
    Idle(usize),
    Rename(u8),
    /// And the deletion under the former name takes long.
    RenameSlowly(u8),
    Flip,
    Options,
    Revise,
    Request,
    Delete,
    /// Somebody takes off what says whose the Secret is.
    Disown,
    Wait(i64),
}

pub(super) const IDLE: [&str; 9] = [
    r#"{"description": "another"}"#,
    r#"{"displayName": "Another"}"#,
    r#"{"scopes": ["a"]}"#,
    r#"{"roles": [{"kind": "ClusterRole", "name": "view"}]}"#,
    r#"{"roles": null}"#,
    r#"{"secret": {"labels": {"app": "orders"}}}"#,
    r#"{"secret": {"labels": null, "annotations": {"note": "x"}}}"#,
    r#"{"rotation": {"every": "10y"}}"#,
    r#"{"expiresAt": "2199-01-01T00:00:00Z"}"#,
];

pub(super) fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        6 => (0..IDLE.len()).prop_map(Edit::Idle),
        2 => (0..3_u8).prop_map(Edit::Rename),
        1 => (0..3_u8).prop_map(Edit::RenameSlowly),
        2 => Just(Edit::Flip),
        1 => Just(Edit::Options),
        1 => Just(Edit::Revise),
        1 => Just(Edit::Request),
        1 => Just(Edit::Delete),
        1 => Just(Edit::Disown),
        1 => (1..48_i64).prop_map(Edit::Wait),
    ]
}

pub(super) fn perform(world: &mut World, edit: &Edit, [first, second]: [&str; 2], count: usize) {
    match edit {
        Edit::Idle(at) => world.spec(&serde_json::from_str(IDLE[*at]).unwrap()),
        Edit::Rename(to) | Edit::RenameSlowly(to) => {
            world.slow = matches!(edit, Edit::RenameSlowly(_));
            world.spec(&json!({"secret": {"name": format!("name-{to}")}}));
        }
        Edit::Flip => {
            let state =
                if world.credential.spec.state == DesiredState::Active { "Inactive" } else { "Active" };
            world.spec(&json!({ "state": state }));
        }
        Edit::Options => {
            world.spec(&serde_json::from_str(if count.is_multiple_of(2) { first } else { second }).unwrap());
        }
        Edit::Revise => world.spec(&json!({"rotation": {"revision": count + 1}})),
        Edit::Request => {
            let annotations = world.credential.metadata.annotations.get_or_insert_default();
            annotations.insert(name::ROTATE_ANNOTATION.to_owned(), count.to_string());
        }
        Edit::Delete => {
            world.secrets.clear();
        }
        Edit::Disown => {
            for (own, _) in world.secrets.values_mut() {
                own.owned = false;
            }
        }
        Edit::Wait(hours) => world.now += SignedDuration::from_hours(*hours),
    }
}

/// What must hold of the material when the operator comes to rest.
struct Expected {
    /// What it was the last time.
    value: Option<u64>,
    /// By which options.
    options: Result<String, Problem>,
    /// Whether there was a reason to draw since.
    owed: bool,
    /// Whether it may be another all the same: options were changed and changed back, or the Secret was deleted, for which
    /// there is no new one while the credential is inactive.
    free: bool,
}

impl Expected {
    fn check(&mut self, world: &World, edit: &Edit) -> Result<(), TestCaseError> {
        let kind = world.credential.spec.credential_type;
        let owed = self.owed || self.options != world.options();
        if owed && world.credential.spec.state == DesiredState::Active {
            let drawn = world.value().is_some() && world.value() != self.value;
            prop_assert!(drawn, "{kind:?} {edit:?} drew nothing");
            (self.owed, self.free) = (false, false);
            self.options = world.options();
        } else if !self.free {
            prop_assert_eq!(world.value(), self.value, "{:?} {:?} changed the material", kind, edit);
        }
        self.value = world.value();
        self.free &= world.credential.spec.state == DesiredState::Inactive;
        prop_assert!(world.secrets.len() <= 1, "{kind:?} {edit:?} left a Secret behind");
        Ok(())
    }
}

/// As the documentation says: by rotation, by a change of an option, by the deletion of its Secret, by nothing else; and
/// wherever the operator dies in between, and whatever the user does meanwhile, a value that is not replaced is never lost.
fn material_changes_only_for_a_reason(at: usize, edits: &[(Edit, usize, bool)]) -> Result<(), TestCaseError> {
    let (kind, first, second) = TYPES[at];
    let mut world = World::new(kind, first);
    world.settle(usize::MAX);
    let mut expected = Expected { value: world.value(), options: world.options(), owed: false, free: false };
    for (count, (edit, limit, calm)) in edits.iter().enumerate() {
        let late = std::mem::take(&mut world.late);
        // Past the minute within which a deleted Secret is not filled again.
        world.now += SignedDuration::from_mins(2);
        if matches!(edit, Edit::Flip | Edit::Disown) {
            // Whether something was drawn before it became inactive, nobody could tell afterwards; nor whose a copy is that
            // no status names yet.
            world.slow = false;
            world.settle(*limit);
            expected.check(&world, edit)?;
        }
        let material = world.credential.status.clone().unwrap().material;
        perform(&mut world, edit, [first, second], count);
        expected.owed |= matches!(edit, Edit::Revise | Edit::Request | Edit::Delete);
        expected.free |= matches!(edit, Edit::Options | Edit::Delete);
        let rotates_at = material.and_then(|material| material.rotates_at).map(|at| at.timestamp().unwrap());
        expected.owed |= rotates_at.is_some_and(|at| at <= world.now);
        if late.is_empty() && !*calm && !matches!(edit, Edit::Flip) {
            // The next edit comes before all is done.
            world.round(false, *limit);
            continue;
        }
        world.settle(*limit);
        world.land(late);
        world.settle(usize::MAX);
        if world.late.is_empty() {
            expected.check(&world, edit)?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn material_changes_only_for_a_reason_in_300_edits_of_each_type(
        edits in proptest::collection::vec(
            (edit(), prop_oneof![Just(usize::MAX), 0..3_usize], proptest::bool::ANY),
            5,
        ),
    ) {
        for at in 0..TYPES.len() {
            material_changes_only_for_a_reason(at, &edits)?;
        }
    }
}
