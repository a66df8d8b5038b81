//! The two laws, on clusters in which anything may have happened.

use super::*;

fn grants() -> Vec<Grant> {
    vec![
        view(),
        grant(RoleKind::ClusterRole, "view", Some("edge")),
        deployer(),
        view_in_team(),
        grant(RoleKind::Role, "deployer", Some("team-a")),
        nodes(),
    ]
}

fn instants() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![END, NOW, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00+02:60"])
}

/// A binding of each target or none, and what was done to it.
fn bindings() -> impl Strategy<Value = Vec<Binding>> {
    prop::collection::vec(0..14_u8, grants().len()).prop_map(|fates| {
        let wished = owner(&fresh().credential).bindings(&grants());
        let dealt = wished.into_values().zip(fates).enumerate();
        dealt
            .filter_map(|(index, (mut binding, fate))| {
                let metadata = &mut binding.metadata;
                metadata.uid = Some(format!("found-{index}"));
                match fate {
                    0..4 => return None,
                    4 => metadata.labels = None,
                    5 => binding.subjects.clear(),
                    6 => metadata.deletion_timestamp = Some(Time(now())),
                    7 => metadata.owner_references = None,
                    8 => metadata.annotations = None,
                    9 => {
                        for owner in metadata.owner_references.iter_mut().flatten() {
                            owner.uid = "earlier".to_owned();
                        }
                        let annotations = metadata.annotations.as_mut()?;
                        annotations.insert(name::OWNER_UID_ANNOTATION.to_owned(), "earlier".to_owned());
                    }
                    _ => {}
                }
                Some(binding)
            })
            .collect()
    })
}

prop_compose! {
    fn statuses()(
        state in prop::option::of(prop::sample::select(vec![
            CredentialState::Active, CredentialState::Inactive, CredentialState::Expired,
            CredentialState::Pending, CredentialState::Failed,
        ])),
        account in prop::option::of(prop::sample::select(vec!["account-uid", "earlier"])),
        counted in prop::option::of(Just(TokenCount { active: 1, total: 2 })),
        next_expiry_at in prop::option::of(instants()),
        bound_in in prop::sample::subsequence(vec!["*", "team-a", "team-b"], 0..=3),
    ) -> CredentialStatus {
        CredentialStatus {
            state,
            service_account: account.map(|uid| ObjectReference {
                name: "nodes-credential".to_owned(),
                uid: uid.to_owned(),
            }),
            tokens: counted,
            next_expiry_at: next_expiry_at.map(Into::into),
            bound_in: bound_in.into_iter().map(ToOwned::to_owned).collect(),
            ..CredentialStatus::default()
        }
    }
}

prop_compose! {
    fn worlds()(
        roles in prop::sample::subsequence(grants(), 0..=grants().len()),
        inactive in prop::bool::weighted(0.2),
        expires_at in prop::option::weighted(0.3, instants()),
        terminating in prop::bool::weighted(0.1),
        finalizers in prop::sample::subsequence(vec![name::FINALIZER, "example.com/other"], 0..=2),
        status in prop::option::of(statuses()),
        account in prop_oneof![
            2 => Just(AccountSeen::Absent),
            4 => any::<bool>().prop_map(|intact| ours("account-uid", intact)),
            1 => Just(AccountSeen::Foreign),
            1 => Just(AccountSeen::Predecessors),
            1 => Just(AccountSeen::Terminating),
        ],
        bindings in bindings(),
        tokens in prop::option::of(prop::option::of(Just("2026-07-01T00:00:00Z"))),
        severity in prop::option::weighted(0.4, prop::sample::select(vec![
            Severity::Refused, Severity::Unguarded, Severity::Unknown, Severity::Count, Severity::Terms,
        ])),
        narrow in prop::bool::weighted(0.3),
    ) -> World {
        let mut observed = Observed { account, bindings, policy: severity.map(breach), ..fresh() };
        let mut roles = roles;
        if narrow {
            roles.retain(|grant| !grant.cluster_wide && grant.namespace.as_deref().is_none_or(|place| place == "edge"));
            observed.bindings.retain(|binding| binding.metadata.namespace.as_deref() == Some("edge"));
        }
        observed.tokens = tokens.map(|end| Tokens {
            count: TokenCount { active: i64::from(end.is_some()), total: 3 },
            next_end: end.map(at),
        });
        let credential = &mut observed.credential;
        credential.spec.roles = roles;
        credential.spec.state = if inactive { DesiredState::Inactive } else { DesiredState::Active };
        credential.spec.expires_at = expires_at.map(Into::into);
        credential.metadata.finalizers = Some(finalizers.into_iter().map(ToOwned::to_owned).collect());
        if narrow {
            observed.out_of_reach = status.iter().flat_map(|status| status.bound_in.clone()).collect();
        }
        let credential = &mut observed.credential;
        credential.status = status;
        if terminating {
            terminate(&mut observed);
        }
        World::of(observed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn law_planning_again_yields_nothing(world in worlds()) {
        let mut after = world;
        let first = plan(&after.seen, now());
        prop_assert!(first.wake.is_none_or(|wake| wake > now()));
        after.apply(first, LIMIT);
        if !after.gone {
            let again = plan(&after.seen, now());
            prop_assert!(again.steps.is_empty());
            if again.status.is_some() {
                prop_assert_eq!(again.status, after.seen.credential.status);
            }
        }
    }

    #[test]
    fn law_stopping_anywhere_ends_the_same(world in worlds()) {
        let undisturbed = world.clone().settle();
        for limit in 0.. {
            let mut disturbed = world.clone();
            if !disturbed.apply(plan(&world.seen, now()), limit) {
                break;
            }
            prop_assert_eq!(&disturbed.settle(), &undisturbed, "after {} writes", limit);
        }
    }

    /// No role outlives the wish for it, and none of others is touched.
    #[test]
    fn what_is_ours_in_the_end_is_what_is_wished(world in worlds()) {
        let settled = world.clone().settle();
        let owner = owner(&world.seen.credential);
        let wished = owner.bindings(&world.seen.credential.spec.roles);
        let foreign = |binding: &&Binding| owner.ownership(binding) == Ownership::Foreign;
        let before: Vec<_> = world.seen.bindings.iter().filter(foreign).collect();
        let after: Vec<_> = settled.seen.bindings.iter().filter(foreign).collect();
        prop_assert_eq!(before, after);
        for binding in &settled.seen.bindings {
            prop_assert!(foreign(&binding) || wished.contains_key(&binding.key()));
            let refused = world.seen.policy.as_ref().is_some_and(|breach| breach.severity == Severity::Refused);
            prop_assert!(foreign(&binding) || !refused);
        }
    }

    /// What cannot be seen is not taken for gone.
    #[test]
    fn what_is_bound_out_of_reach_holds_on(world in worlds()) {
        let stranded = world.seen.out_of_reach.clone();
        let held = world.held();
        let settled = world.clone().settle();
        if held && !stranded.is_empty() {
            prop_assert!(settled.held() && !settled.gone);
            let said = settled.seen.credential.status.unwrap();
            prop_assert!(stranded.iter().all(|place| said.bound_in.contains(place)));
            prop_assert_eq!(&said.conditions[0].reason, Reason::RoleNotBindable.as_str());
        }
    }
}
