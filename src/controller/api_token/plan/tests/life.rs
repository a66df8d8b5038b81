//! From the first value to the end.

use super::*;

#[test]
fn a_fresh_token_gets_its_first_value() {
    assert_eq!(told(&fresh(), now()), "create 0 | Active Ready Usable (Issued) | end");
    let mut observed = fresh();
    options(&mut observed).labels = map(&[("app", "orders")]);
    let planned = plan(&observed, now());
    let Step::CreateSecret(recipe) = &planned.steps[0] else { panic!("{planned:?}") };
    let expected = Recipe {
        name: "laptop-token".to_owned(),
        serial: 0,
        term: None,
        claim: Claim { end: at(END), issued_at: None, credential: CREDENTIAL_UID.to_owned(), previous: None },
        recipients: None,
        dress: Dress {
            labels: wished(&[(name::MANAGED_BY_LABEL, name::MANAGED_BY), ("app", "orders")]),
            annotations: wished(&[(name::PUBLISHED_ANNOTATION, r#"{"annotations":[],"labels":["app"]}"#)]),
        },
    };
    assert_eq!(*recipe, expected);
    let status = planned.status.unwrap();
    assert_eq!(
        (status.serial, status.credential_uid.as_deref(), &status.replaced_at),
        (Some(0), Some(CREDENTIAL_UID), &vec![])
    );
    assert_eq!((status.issued_at, status.expires_at), (Some(NOW.into()), Some(END.into())));
}

#[test]
fn a_token_as_it_should_be_is_left_alone() {
    let observed = issued();
    assert_eq!(told(&observed, now()), ISSUED);
    assert_eq!(plan(&observed, now()).status, observed.token.status);
    let later = now() + 1.hour();
    assert_eq!(plan(&observed, later).status, observed.token.status, "time alone is no news");
}

#[test]
fn the_secret_may_be_named() {
    let mut observed = fresh();
    options(&mut observed).name = Some("chosen".to_owned());
    assert!(
        matches!(&plan(&observed, now()).steps[..], [Step::CreateSecret(recipe)] if recipe.name == "chosen")
    );
}

#[test]
fn revoked_or_deleted_it_has_no_value() {
    let revoked = "delete | Revoked Ready (Revoked) | -";
    check(
        issued,
        &[
            ("revoked", |o| o.token.spec.revoked = Some(true), revoked),
            ("revoked: false is none", |o| o.token.spec.revoked = Some(false), ISSUED),
            (
                "revoked, the credential gone",
                |o| {
                    o.token.spec.revoked = Some(true);
                    o.credential = CredentialSeen::Gone;
                },
                "delete, delete token | - | -",
            ),
            (
                "revoked, the spec invalid",
                |o| {
                    o.token.spec.revoked = Some(true);
                    o.token.spec.expires_at = None;
                },
                revoked,
            ),
            (
                "revoked, the Secret foreign",
                |o| {
                    o.token.spec.revoked = Some(true);
                    o.secret = SecretSeen::Foreign;
                },
                "- | Revoked Ready (Revoked) | -",
            ),
            ("being deleted", |o| terminate(&mut o.token.metadata), "delete | - | -"),
            (
                "being deleted without a Secret",
                |o| {
                    terminate(&mut o.token.metadata);
                    o.secret = SecretSeen::Absent;
                },
                "- | - | -",
            ),
        ],
    );
    let mut observed = issued();
    observed.token.spec.revoked = Some(true);
    let status = plan(&observed, now()).status.unwrap();
    assert_eq!((status.digest, status.secret), (None, None));
    assert!(status.token_id.is_some(), "the id stays, for whoever reads logs");
}

#[test]
fn it_expires_at_its_end_and_not_before() {
    let observed = issued();
    let expired = "delete | Expired Ready (Expired) | -";
    assert_eq!(told(&observed, at(END) - 1.nanosecond()), ISSUED);
    assert_eq!(told(&observed, at(END)), expired);

    let mut observed = observed;
    observed.token.status = plan(&observed, at(END)).status;
    assert_eq!(status(&mut observed).digest, None);
    assert_eq!(told(&observed, now()), expired, "though the clock went back");
    observed.token.spec.expires_at = Some("2027-06-01T00:00:00Z".into());
    assert_eq!(told(&observed, now()), expired, "whatever the spec says now");
    assert_eq!(plan(&observed, now()).status.unwrap().expires_at, Some(END.into()));
}

#[test]
fn the_end_is_the_earlier_of_its_own_and_the_credentials() {
    for (own, credentials, expected) in [
        (END, None, END),
        (END, Some("2026-12-01T00:00:00Z"), "2026-12-01T00:00:00Z"),
        (END, Some("2028-01-01T00:00:00Z"), END),
    ] {
        let mut observed = fresh();
        observed.token.spec.expires_at = Some(own.into());
        credential(&mut observed).spec.expires_at = credentials.map(Into::into);
        let plan = plan(&observed, now());
        assert_eq!(plan.status.unwrap().expires_at, Some(expected.into()));
        assert_eq!(plan.wake, Some(at(expected)));
        let [Step::CreateSecret(recipe)] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
        assert_eq!(recipe.claim.end, at(own), "the value is attested with the token's own end");
    }
}

#[test]
fn a_life_counts_from_creation() {
    let mut observed = fresh();
    observed.token.spec.expires_at = None;
    observed.token.spec.expires_in = Some("90d".into());
    assert_eq!(plan(&observed, now()).wake, Some(at("2026-07-30T00:00:00Z")));
    observed.token.spec.expires_in = Some("30d".into());
    assert_eq!(told(&observed, now()), "- | Expired Ready (Expired) | -", "born before, ended yesterday");
}

#[test]
fn an_end_in_the_past_is_never_issued() {
    let expired = "- | Expired Ready (Expired) | -";
    check(
        fresh,
        &[
            ("its own", |o| o.token.spec.expires_at = Some(NOW.into()), expired),
            (
                "the credential's",
                |o| credential(o).spec.expires_at = Some("2026-01-01T00:00:00Z".into()),
                expired,
            ),
            (
                "even without a credential",
                |o| {
                    o.token.spec.expires_at = Some(NOW.into());
                    o.credential = CredentialSeen::Absent;
                },
                expired,
            ),
        ],
    );
}
