//! What its credential and the policies have it do.

use super::*;

#[test]
fn a_fresh_token_waits_for_a_credential() {
    check(
        fresh,
        &[
            (
                "none yet",
                |o| o.credential = CredentialSeen::Absent,
                "- | Pending Reconciling (CredentialNotFound) | end",
            ),
            (
                "being deleted",
                |o| terminate(&mut credential(o).metadata),
                "- | Pending Reconciling (CredentialDeleted) | end",
            ),
            (
                "inactive: there is a value all the same",
                |o| credential(o).spec.state = DesiredState::Inactive,
                "create 0 | Suspended Ready (CredentialInactive) | end",
            ),
        ],
    );
}

#[test]
fn an_issued_token_follows_its_credential() {
    check(
        issued,
        &[
            ("gone", |o| o.credential = CredentialSeen::Gone, "delete, delete token | - | -"),
            (
                "gone, and the Secret too",
                |o| {
                    o.credential = CredentialSeen::Gone;
                    o.secret = SecretSeen::Absent;
                },
                "delete token | - | -",
            ),
            (
                "gone, and the token expired",
                |o| {
                    o.credential = CredentialSeen::Gone;
                    status(o).state = Some(ApiTokenState::Expired);
                },
                "delete, delete token | - | -",
            ),
            (
                "being deleted",
                |o| terminate(&mut credential(o).metadata),
                "- | Suspended Ready (CredentialDeleted) | end",
            ),
            (
                "ended",
                |o| credential(o).spec.expires_at = Some(NOW.into()),
                "delete | Expired Ready (Expired) | -",
            ),
        ],
    );
}

#[test]
fn suspended_and_resumed_it_keeps_its_value() {
    let before = issued();
    let mut observed = before.clone();
    credential(&mut observed).spec.state = DesiredState::Inactive;
    assert_eq!(told(&observed, now()), "- | Suspended Ready (CredentialInactive) | end");
    observed.token.status = plan(&observed, now()).status;
    assert_eq!(status(&mut observed).digest, before.token.status.as_ref().unwrap().digest);
    credential(&mut observed).spec.state = DesiredState::Active;
    assert_eq!(told(&observed, now()), ISSUED);
    let resumed = plan(&observed, now()).status.unwrap();
    assert_eq!(resumed.digest, before.token.status.unwrap().digest);
}

#[test]
fn what_a_policy_forbids_is_not_issued_and_what_is_there_keeps_its_value() {
    for (severity, held, there) in [
        (
            Severity::Refused,
            "- | Failed Stalled (PolicyViolation) | end",
            "- | Suspended Ready (PolicyViolation) | end",
        ),
        (Severity::Unguarded, "- | Pending Reconciling (AdmissionMissing) | end", ISSUED),
        (Severity::Unknown, "- | Pending Reconciling (Pending) | end", ISSUED),
        (Severity::Count, "- | Pending Reconciling (QuotaExceeded) | end", ISSUED),
        (Severity::Terms, "- | Failed Stalled (PolicyViolation) | end", ISSUED),
    ] {
        let policy = Some(breach(severity));
        assert_eq!(told(&Observed { policy: policy.clone(), ..fresh() }, now()), held);
        assert_eq!(told(&Observed { policy: policy.clone(), ..issued() }, now()), there);
        // A value that is lost is not replaced while nothing new is allowed.
        let mut lost = Observed { policy, ..issued() };
        lost.secret = SecretSeen::Absent;
        assert_eq!(told(&lost, now()), held);
        assert!(plan(&lost, now()).status.unwrap().digest.is_none());
    }
    // Refused or not, its end and its revocation take the Secret, and healed it is as it was.
    let mut observed = Observed { policy: Some(breach(Severity::Refused)), ..issued() };
    let suspended = plan(&observed, now()).status.unwrap();
    assert_eq!(suspended.digest, status(&mut observed).digest);
    assert!(told(&observed, at(END)).starts_with("delete | Expired"));
    observed.token.status = Some(suspended);
    observed.policy = None;
    assert_eq!(told(&observed, now()), ISSUED);
    observed.token.spec.revoked = Some(true);
    assert!(told(&observed, now()).starts_with("delete | Revoked"));
}

#[test]
fn a_spec_without_an_end_waits_for_a_human_and_destroys_nothing() {
    let invalid = "- | Failed Stalled (InvalidSpec) | -";
    let rows: &[Row] = &[
        ("expiresAt", |o| o.token.spec.expires_at = Some("2027-01-01T00:00:00+02:60".into()), invalid),
        (
            "expiresIn",
            |o| {
                o.token.spec.expires_at = None;
                o.token.spec.expires_in = Some("1.5h".into());
            },
            invalid,
        ),
        ("both", |o| o.token.spec.expires_in = Some("30d".into()), invalid),
        ("neither", |o| o.token.spec.expires_at = None, invalid),
        ("the credential's expiresAt", |o| credential(o).spec.expires_at = Some("tomorrow".into()), invalid),
    ];
    check(fresh, rows);
    check(issued, rows);
    check(
        || {
            let mut observed = issued();
            observed.secret = SecretSeen::Absent;
            observed
        },
        rows,
    );
}

#[test]
fn of_a_credential_that_cannot_be_read_nothing_is_issued_and_nothing_is_destroyed() {
    let unreadable = "- | Failed Stalled (InvalidSpec) | end";
    check(
        fresh,
        &[
            (
                "none yet",
                |o| {
                    spoil(o);
                },
                unreadable,
            ),
            (
                "revoked",
                |o| {
                    spoil(o);
                    o.token.spec.revoked = Some(true);
                },
                "- | Revoked Ready (Revoked) | -",
            ),
        ],
    );
    let spoilt = || {
        let mut observed = issued();
        spoil(&mut observed);
        observed
    };
    check(
        spoilt,
        &[
            ("issued", |_| {}, unreadable),
            ("lost", |o| o.secret = SecretSeen::Absent, unreadable),
            ("replaced", |o| secret(o).content = Content::Strange, unreadable),
            ("without an owner", |o| secret(o).owned = false, unreadable),
            ("revoked", |o| o.token.spec.revoked = Some(true), "delete | Revoked Ready (Revoked) | -"),
            ("ended", |o| o.token.spec.expires_at = Some(NOW.into()), "delete | Expired Ready (Expired) | -"),
            ("being deleted", |o| terminate(&mut o.token.metadata), "delete | - | -"),
            ("inactive", |o| spoil(o).inactive = true, unreadable),
            (
                "it ends",
                |o| spoil(o).ends_at = Some(at("2026-06-01T13:00:00Z")),
                "- | Failed Stalled (InvalidSpec) | 1h",
            ),
            ("it has ended", |o| spoil(o).ends_at = Some(now()), "delete | Expired Ready (Expired) | -"),
            (
                "it had ended before the clock was set back",
                |o| {
                    let unread = spoil(o);
                    (unread.ends_at, unread.expired) = (Some(at(END)), true);
                },
                "delete | Expired Ready (Expired) | -",
            ),
            ("then gone", |o| o.credential = CredentialSeen::Gone, "delete, delete token | - | -"),
        ],
    );
    // Mended, it is as it was; and what the credential said of its end holds meanwhile.
    let mut observed = issued();
    let before = observed.clone();
    let earlier = "2026-07-01T00:00:00Z";
    status(&mut observed).expires_at = Some(earlier.into());
    spoil(&mut observed);
    let told_of = plan(&observed, now()).status.unwrap();
    assert_eq!(told_of.expires_at, Some(earlier.into()));
    assert!(told_of.conditions[0].message.starts_with("Credential nodes does not fit the schema"));
    observed.token.status = Some(told_of);
    observed.credential = before.credential;
    assert_eq!(told(&observed, now()), ISSUED);
    let mended = plan(&observed, now()).status.unwrap();
    assert_eq!((mended.digest, mended.secret), {
        let before = before.token.status.unwrap();
        (before.digest, before.secret)
    });
}
