//! What stands in its place, and what describes it.

use super::*;

#[test]
fn what_stands_in_the_place_of_a_first_secret_is_not_touched() {
    check(
        fresh,
        &[
            ("foreign", |o| o.secret = SecretSeen::Foreign, "- | Failed Stalled (Conflict) | 10s"),
            (
                "a predecessor's",
                |o| o.secret = SecretSeen::Predecessors,
                "- | Pending Reconciling (Pending) | 10s",
            ),
            (
                "terminating",
                |o| o.secret = SecretSeen::Terminating(None),
                "- | Pending Reconciling (Pending) | 10s",
            ),
        ],
    );
}

#[test]
fn what_took_the_place_of_its_secret_makes_the_value_unacceptable() {
    for seen in [SecretSeen::Foreign, SecretSeen::Predecessors, SecretSeen::Terminating(None)] {
        let mut observed = issued();
        observed.secret = seen;
        let plan = plan(&observed, now());
        assert!(plan.steps.is_empty());
        let status = plan.status.unwrap();
        assert_eq!((status.digest, status.token_id, status.secret), (None, None, None));
        assert_eq!(status.serial, Some(0), "so that the next value has the next number");
    }
}

#[test]
fn a_strange_secret_is_deleted_in_that_version_and_a_value_drawn_anew() {
    check(
        issued,
        &[(
            "replaced",
            |o| secret(o).content = Content::Strange,
            "delete version 1, create 1 | Active Ready Usable (Issued) | end",
        )],
    );
    let mut observed = issued();
    let own = observed.secret.clone();
    secret(&mut observed).content = Content::Strange;
    let replaced = plan(&observed, now()).status.unwrap();
    assert_eq!(replaced.replaced_at, [ago(0)]);

    let mut planted = fresh();
    planted.secret = own;
    secret(&mut planted).content = Content::Strange;
    assert_eq!(told(&planted, now()), "delete version 1, create 0 | Active Ready Usable (Issued) | end");
}

#[test]
fn a_value_whose_status_was_not_written_is_adopted() {
    let issued = issued();
    let recorded = issued.token.status.clone().unwrap();
    let attestation = |serial| {
        Content::Attested(Box::new(Attestation {
            serial,
            term: None,
            id: "the-id".to_owned(),
            end: END.into(),
            issued_at: None,
            credential: CREDENTIAL_UID.to_owned(),
            previous: None,
            sealed_for: None,
            digest: format!("hmac-sha256:{KEY}:anew"),
            proof: String::new(),
        }))
    };
    // The status before; the serial of the value; when it was issued, and replacements.
    for (before, serial, issued_at, replaced) in [
        (None, 0, ago(0), vec![]),
        (Some(recorded.clone()), 1, ago(0), vec![ago(0)]),
        (Some(recorded.clone()), 0, ago(3600), vec![]),
    ] {
        let mut observed = issued.clone();
        observed.token.status = before;
        secret(&mut observed).content = attestation(serial);
        assert_eq!(told(&observed, now()), ISSUED);
        let status = plan(&observed, now()).status.unwrap();
        assert_eq!(status.serial, Some(serial));
        assert_eq!(status.token_id.as_deref(), Some("the-id"));
        assert_eq!(status.digest, Some(format!("hmac-sha256:{KEY}:anew")));
        assert_eq!(status.secret, recorded.secret);
        assert_eq!(status.credential_uid, recorded.credential_uid);
        assert_eq!(status.issued_at, Some(issued_at), "value {serial}");
        assert_eq!(status.replaced_at, replaced, "value {serial}");
    }
}

#[test]
fn what_describes_the_secret_is_mended() {
    let value = || Value {
        seed: 1,
        serial: 0,
        term: None,
        key: KEY,
        previous: None,
        sealed_for: None,
        issued_at: None,
    };
    check(
        issued,
        &[
            (
                "the user's label added to the spec",
                |o| options(o).labels = map(&[("app", "orders")]),
                "mend | Active Ready Usable (Issued) | end",
            ),
            (
                "our label taken away",
                |o| secret(o).labels.clear(),
                "mend | Active Ready Usable (Issued) | end",
            ),
            (
                "our reference taken away",
                |o| secret(o).owned = false,
                "mend | Active Ready Usable (Issued) | end",
            ),
            (
                "somebody's own label added",
                |o| {
                    secret(o).labels.insert("other".to_owned(), "tool".to_owned());
                },
                ISSUED,
            ),
        ],
    );

    let mut observed = issued();
    secret(&mut observed).content = Content::Unattested(value().token());
    let plan = plan(&observed, now());
    let [Step::MendSecret(mend)] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
    let attest = mend.attest.as_ref().unwrap();
    assert_eq!((attest.value.id(), attest.serial, attest.claim.end), (value().token().id(), 0, at(END)));
    assert_eq!(plan.status, observed.token.status);
    assert_eq!(Some(&attest.claim.credential), plan.status.unwrap().credential_uid.as_ref());
}

#[test]
fn labels_and_annotations_follow_the_spec() {
    let mut world = World::fresh();
    let token = world.token.as_mut().unwrap();
    token.spec.secret = Some(SecretOptions {
        labels: map(&[("app", "orders"), ("tier", "a")]),
        annotations: map(&[("note", "x")]),
        ..SecretOptions::default()
    });
    let mut observed = world.settle(now()).observe().unwrap();
    assert_eq!(told(&observed, now()), ISSUED);

    secret(&mut observed).labels.insert("other".to_owned(), "tool".to_owned());
    secret(&mut observed).labels.insert("tier".to_owned(), "drifted".to_owned());
    options(&mut observed).labels.remove("app");
    let planned = plan(&observed, now());
    let [Step::MendSecret(mend)] = &planned.steps[..] else { panic!("{:?}", planned.steps) };
    let change = |key: &str, value: Option<&str>| (key.to_owned(), value.map(ToOwned::to_owned));
    assert_eq!(mend.dress.labels, [change("app", None), change("tier", Some("a"))].into());
    let published = r#"{"annotations":["note"],"labels":["tier"]}"#;
    assert_eq!(mend.dress.annotations, [change(name::PUBLISHED_ANNOTATION, Some(published))].into());

    observed.token.spec.secret = None;
    let planned = plan(&observed, now());
    let [Step::MendSecret(mend)] = &planned.steps[..] else { panic!("{:?}", planned.steps) };
    assert_eq!(mend.dress.labels, [change("app", None), change("tier", None)].into());
    assert_eq!(
        mend.dress.annotations,
        [change("note", None), change(name::PUBLISHED_ANNOTATION, None)].into()
    );
}

#[test]
fn the_list_of_what_was_published_takes_nothing_of_ours_away() {
    let mut observed = issued();
    let forged = format!(
        r#"{{"labels":["{}"],"annotations":["{}"]}}"#,
        name::MANAGED_BY_LABEL,
        name::ATTESTATION_ANNOTATION
    );
    let annotations = &mut secret(&mut observed).annotations;
    annotations.insert(name::ATTESTATION_ANNOTATION.to_owned(), "{}".to_owned());
    annotations.insert(name::PUBLISHED_ANNOTATION.to_owned(), forged);
    let planned = plan(&observed, now());
    let [Step::MendSecret(mend)] = &planned.steps[..] else { panic!("{:?}", planned.steps) };
    assert!(mend.dress.labels.is_empty());
    assert_eq!(mend.dress.annotations, [(name::PUBLISHED_ANNOTATION.to_owned(), None)].into());
}
