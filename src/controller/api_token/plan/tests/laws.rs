//! The two laws, on clusters in which anything may have happened.

use super::*;

fn instants() -> impl Strategy<Value = Option<Instant>> {
    prop_oneof![
        4 => Just(Some(END.into())),
        1 => Just(None),
        1 => Just(Some(NOW.into())),
        1 => Just(Some("2026-08-01T00:00:00Z".into())),
        1 => Just(Some("2027-01-01T00:00:00+02:60".into())),
    ]
}

prop_compose! {
    fn specs()(
        expires_at in instants(),
        expires_in in prop::option::weighted(0.1, prop::sample::select(vec!["90d", "1m", "1.5h"])),
        renew_before in prop::option::weighted(0.4, prop::sample::select(vec!["1w", "5d", "1m"])),
        revoked in prop::option::weighted(0.1, any::<bool>()),
        ttl in prop::option::weighted(0.3, prop::sample::select(vec!["1m", "1h", "30d", "10y", "1.5h"])),
        delivery in prop::option::of(deliveries()),
        labels in prop::option::of(labels()),
        annotations in labels(),
    ) -> ApiTokenSpec {
        // Chance alone would hardly ever make one that renews.
        let expires_in = expires_in.or(renew_before.map(|_| "3w"));
        ApiTokenSpec {
            credential_ref: CredentialReference { name: "nodes".to_owned() },
            expires_at,
            expires_in: expires_in.map(Into::into),
            renew_before: renew_before.map(Into::into),
            revoked,
            ttl_after_expired: ttl.map(Into::into),
            delivery,
            secret: labels.map(|labels| SecretOptions { name: None, labels, annotations }),
            ..ApiTokenSpec::default()
        }
    }
}

fn deliveries() -> impl Strategy<Value = Delivery> {
    let window = prop::option::of(prop::sample::select(vec!["30m", "2h", "9w", "soon"]));
    let recipients = prop::sample::subsequence(vec![sealed::AGE, sealed::SSH, "age1mistyped"], 0..3);
    let mode = prop::sample::select(vec![DeliveryMode::Secret, DeliveryMode::Once, DeliveryMode::Sealed]);
    (mode, window, recipients).prop_map(|(mode, window, recipients)| Delivery {
        mode,
        window: window.map(Into::into),
        recipients: recipients.into_iter().map(ToOwned::to_owned).collect(),
    })
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[ab]", "[xy]", 0..3)
}

prop_compose! {
    fn values()(
        seed in 100..103_u64,
        serial in 0..4_i64,
        term in prop::option::weighted(0.3, 0..4_i64),
        key in prop::sample::select(vec![KEY, "old"]),
        previous in prop::option::weighted(0.3, predecessors()),
        sealed_for in prop::option::of(prop::sample::select(vec![sealed::AGE, sealed::SSH])),
        issued_at in prop::option::of(recently()),
    ) -> Value {
        let sealed_for = sealed_for.map(|key| Recipients::mark_of(&[key.to_owned()]));
        Value { seed, serial, term, key, previous, sealed_for, issued_at }
    }
}

fn recently() -> impl Strategy<Value = Timestamp> {
    prop::sample::select(vec![-60, 0, 1700, 1800, 4000]).prop_map(|age| now() - age.seconds())
}

fn predecessors() -> impl Strategy<Value = Predecessor> {
    (0..3_i64, 0..4_i64, "[ab]").prop_map(|(serial, term, id)| {
        let digest = format!("hmac-sha256:{KEY}:{id}");
        Predecessor { serial, term, id, digest }
    })
}

prop_compose! {
    fn secrets()(
        uid in prop::sample::select(vec!["secret-a", "secret-b"]),
        owner in prop_oneof![
            4 => Just(Whose::This),
            1 => Just(Whose::Predecessor),
            1 => Just(Whose::Other)
        ],
        terminating in prop::bool::weighted(0.1),
        mut labels in labels(),
        mut annotations in labels(),
        ours in any::<bool>(),
        published in prop::option::of(prop::sample::select(vec![
            r#"{"labels":["a","b"],"annotations":["a"]}"#,
            r#"{"labels":["app.kubernetes.io/managed-by"],"annotations":["credential-operator.io/attestation"]}"#,
            "nonsense",
        ])),
        attested in any::<bool>(),
        value in prop::option::weighted(0.8, values()),
    ) -> Stored {
        labels.extend(ours.then(|| (name::MANAGED_BY_LABEL.to_owned(), name::MANAGED_BY.to_owned())));
        annotations.extend(published.map(|text| (name::PUBLISHED_ANNOTATION.to_owned(), text.to_owned())));
        Stored {
            uid: uid.to_owned(), version: 1, owner, terminating, labels,
            annotations, attested, value,
        }
    }
}

prop_compose! {
    fn statuses()(
        state in prop::option::of(prop::sample::select(vec![
            ApiTokenState::Pending, ApiTokenState::Active, ApiTokenState::Suspended,
            ApiTokenState::Expired, ApiTokenState::Revoked, ApiTokenState::Failed,
        ])),
        value in prop::option::weighted(0.8, values()),
        serial in prop::option::weighted(0.2, 0..4_i64),
        term in prop::option::weighted(0.2, 0..4_i64),
        previous in prop::option::weighted(0.3, predecessors()),
        digested in prop::bool::weighted(0.8),
        uid in prop::option::weighted(0.8, prop::sample::select(vec!["secret-a", "secret-b"])),
        issued_for in prop::option::weighted(0.8, prop_oneof![
            6 => Just(CREDENTIAL_UID.to_owned()), 1 => Just("earlier".to_owned())
        ]),
        issued_at in prop::option::of(prop_oneof![
            1 => Just("2026-05-02T00:00:00Z".into()),
            1 => Just("long ago".into()),
            2 => recently().prop_map(Instant::from),
        ]),
        delivered_at in prop::option::weighted(0.3, Just("2026-05-03T00:00:00Z")),
        mut replaced in prop::collection::vec(-60..4000_i64, 0..4),
        stalled in prop::option::weighted(0.3, 0..4000_i64),
        observed_generation in prop::option::of(1..3_i64),
    ) -> ApiTokenStatus {
        replaced.sort_unstable_by(|a, b| b.cmp(a));
        let attestation = value.as_ref().map(Value::attestation);
        ApiTokenStatus {
            observed_generation,
            state,
            serial: serial.or(value.as_ref().map(|value| value.serial)),
            term: term.or(value.and_then(|value| value.term)),
            previous: previous.map(|previous| PreviousToken {
                serial: previous.serial,
                term: previous.term,
                token_id: previous.id,
                digest: previous.digest,
                expires_at: NOW.into(),
            }),
            token_id: attestation.as_ref().map(|attestation| attestation.id.clone()),
            digest: attestation.map(|attestation| attestation.digest).filter(|_| digested),
            minted: None,
            issued_at,
            expires_at: None,
            delivered_at: delivered_at.map(Into::into),
            credential_uid: issued_for,
            secret: uid.map(|uid| ObjectReference { name: "laptop-token".to_owned(), uid: uid.to_owned() }),
            replaced_at: replaced.into_iter().map(ago).collect(),
            conditions: stalled.map(|since| Condition {
                kind: "Stalled".to_owned(),
                status: "True".to_owned(),
                observed_generation,
                last_transition_time: ago(since),
                reason: "Conflict".to_owned(),
                message: String::new(),
            }).into_iter().collect(),
        }
    }
}

prop_compose! {
    fn credentials()(
        uid in prop_oneof![6 => Just(CREDENTIAL_UID), 1 => Just("another")],
        inactive in any::<bool>(),
        terminating in prop::bool::weighted(0.2),
        expires_at in prop::option::weighted(0.3, instants()),
    ) -> Credential {
        let mut credential = Credential::new("nodes", CredentialSpec::default());
        credential.metadata.uid = Some(uid.to_owned());
        credential.spec.state = if inactive { DesiredState::Inactive } else { DesiredState::Active };
        credential.spec.expires_at = expires_at.flatten();
        if terminating {
            terminate(&mut credential.metadata);
        }
        credential
    }
}

prop_compose! {
    fn worlds()(
        spec in specs().boxed(),
        terminating in prop::bool::weighted(0.05),
        mut status in prop::option::weighted(0.9, statuses().boxed()),
        credential in prop::option::weighted(0.9, credentials().boxed()),
        mut secret in prop::option::weighted(0.8, secrets().boxed()),
        in_step in prop::bool::weighted(0.6),
        after_crash in prop::bool::weighted(0.3),
        in_place in any::<bool>(),
        old_key in prop::bool::weighted(0.8),
        acknowledged in prop::bool::weighted(0.2),
        annotations_changed in any::<bool>(),
        policy in prop::option::weighted(0.3, prop::sample::select(vec![
            Severity::Refused, Severity::Unguarded, Severity::Unknown, Severity::Count, Severity::Terms,
        ])),
    ) -> World {
        // Chance alone would hardly ever let the Secret hold what the status says, or the next value.
        let renews = spec.renew_before.is_some();
        let is_sealed = delivery::recipients(spec.delivery.as_ref()).is_some();
        if let (true, Some(secret), Some(status)) = (in_step, &mut secret, &mut status)
            && let (Some(value), Some(serial)) = (&mut secret.value, status.serial)
        {
            value.serial = if after_crash { serial + 1 } else { serial };
            if value.sealed_for.is_some() != is_sealed {
                value.sealed_for = is_sealed.then(|| Recipients::mark_of(&[sealed::AGE.to_owned()]));
            }
            if let Some(recorded) = &status.secret && (!after_crash || in_place && renews) {
                secret.uid.clone_from(&recorded.uid);
            }
            let term = status.term.unwrap_or_default();
            value.term = renews.then_some(if after_crash { term + 1 } else { term });
            if after_crash && renews {
                value.previous = status.token_id.clone().zip(status.digest.clone()).map(|(id, digest)| {
                    Predecessor { serial, term, id, digest }
                });
            }
            if !after_crash {
                status.term = value.term;
                status.digest = status.digest.take().map(|_| value.attestation().digest);
                status.token_id = status.token_id.take().map(|_| value.attestation().id);
            }
        }
        // What is said there is keyed, so of a token that does not renew it names none before. A status may name any.
        if let Some(value) = secret.as_mut().and_then(|secret| secret.value.as_mut()) && !renews {
            value.previous = None;
        }
        let mut world = World::fresh();
        let token = world.token.as_mut().unwrap();
        token.spec = spec;
        if acknowledged {
            token.metadata.annotations = status.as_ref().and_then(|status| {
                Some([(name::ACKNOWLEDGED_ANNOTATION.to_owned(), status.token_id.clone()?)].into())
            });
        }
        token.status = status;
        if terminating {
            terminate(&mut token.metadata);
        }
        // The context remembers annotations only while a token is stalled.
        let annotations_changed = annotations_changed && token.status.as_ref().is_some_and(|status| holds(status, ConditionType::Stalled));
        World {
            credential,
            secret,
            keys: if old_key { vec![KEY, "old"] } else { vec![KEY] },
            annotations_changed,
            policy: policy.map(breach),
            ..world
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn law_planning_again_yields_nothing(world in worlds()) {
        let mut after = world;
        after.apply(plan(&after.observe().unwrap(), now()), usize::MAX);
        if let Some(observed) = after.observe() {
            let again = plan(&observed, now());
            prop_assert!(again.steps.is_empty(), "{:?}", again.steps);
            if again.status.is_some() {
                prop_assert_eq!(again.status, observed.token.status);
            }
        }
    }

    #[test]
    fn law_stopping_anywhere_ends_the_same(world in worlds()) {
        let undisturbed = world.clone().settle(now());
        for limit in 0.. {
            let mut disturbed = world.clone();
            if !disturbed.apply(plan(&world.observe().unwrap(), now()), limit) {
                break;
            }
            prop_assert_eq!(&disturbed.settle(now()), &undisturbed, "after {} steps", limit);
        }
    }

    /// A token goes with its credential, or for its `ttlAfterExpired`, which nobody's status makes shorter.
    #[test]
    fn a_token_goes_for_a_reason_alone(world in worlds(), hours in 0..20_000_i64) {
        let now = now() + hours.hours();
        let observed = world.observe().unwrap();
        let plan = plan(&observed, now);
        let goes = plan.steps.iter().any(|step| matches!(step, Step::DeleteToken { .. }));
        let token = &observed.token;
        if goes && !matches!(observed.credential, CredentialSeen::Gone) {
            let at = |at: &Option<Instant>| at.as_ref().and_then(|at| at.timestamp().ok());
            let ends = [at(&token.spec.expires_at), world.credential.and_then(|held| at(&held.spec.expires_at))];
            let end = ends.into_iter().flatten().min().unwrap();
            let ttl = token.spec.ttl_after_expired.as_ref().unwrap().duration().unwrap();
            prop_assert!(end + ttl <= now && token.spec.expires_at.is_some());
            let created_at = token.metadata.creation_timestamp.as_ref().unwrap().0;
            prop_assert!(created_at + ttl <= now);
        }
        let last = plan.steps.len().checked_sub(1);
        let goes_last = last.is_none_or(|last| {
            let first = plan.steps[..last].iter();
            first.clone().all(|step| !matches!(step, Step::DeleteToken { .. }))
        });
        prop_assert!(goes_last && (!goes || plan.status.is_none()), "nothing is done or said after it");
    }

    /// Each wake lies ahead, and following them leads to an end even if nobody else ever acts.
    #[test]
    fn waking_is_never_late_and_does_not_go_on_forever(world in worlds()) {
        let (mut world, mut now) = (world, now());
        for _ in 0..80 {
            world.shown = now;
            let Some(observed) = world.observe() else { return Ok(()) };
            let plan = plan(&observed, now);
            world.apply(plan.clone(), usize::MAX);
            let Some(wake) = plan.wake else { return Ok(()) };
            prop_assert!(wake > now);
            // Others may stand in the way until the end.
            let others = observed.secret.waits_for_others();
            now = if others { wake.max(at(END)) } else { wake };
        }
        let spec = world.token.unwrap().spec;
        prop_assert!(spec.renew_before.is_some() && spec.expires_at.is_none(), "still waking at {now}");
    }
}
