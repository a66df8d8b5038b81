//! Lost values, and writes that are refused.

use super::*;

#[test]
fn a_lost_value_is_replaced_but_not_endlessly() {
    let issue = |serial| format!("create {serial} | Active Ready Usable (Issued) | end");
    let wait = |span| format!("- | Pending Reconciling (Pending) | {span}");
    for (replaced, expected) in [
        (&[][..], issue(1)),
        (&[59], wait("1s")),
        (&[60], issue(2)),
        (&[300, 59], wait("1s")),
        (&[300, 60], issue(3)),
        // The fourth within ten minutes, and just outside.
        (&[599, 300, 120], "- | Failed Stalled (Conflict) | 58m".to_owned()),
        (&[600, 300, 120], issue(4)),
        (&[600, 300, 10], wait("50s")),
        // The clock was set back.
        (&[-30], issue(2)),
    ] {
        let mut observed = issued();
        lost(&mut observed, replaced);
        assert_eq!(told(&observed, now()), expected, "{replaced:?}");
    }
}

#[test]
fn a_strange_secret_goes_though_its_replacement_waits() {
    let strange = issued().secret;
    for (replaced, expected) in [
        (&[10][..], "delete version 1 | Pending Reconciling (Pending) | 50s"),
        (&[300, 200, 100], "delete version 1 | Failed Stalled (Conflict) | 58m 20s"),
    ] {
        let mut observed = issued();
        lost(&mut observed, replaced);
        observed.secret = strange.clone();
        secret(&mut observed).content = Content::Strange;
        assert_eq!(told(&observed, now()), expected);
        assert_eq!(plan(&observed, now()).status.unwrap().digest, None);
    }
}

#[test]
fn lost_too_often_it_waits_for_a_touch_or_an_hour() {
    let stalled = |last| {
        let mut observed = issued();
        lost(&mut observed, &[last + 240, last + 120, last]);
        stalled_since(&mut observed, last - 60);
        observed
    };
    assert_eq!(
        told(&stalled(1800), now()),
        "- | Failed Stalled (Conflict) | 30m",
        "also long after the ten minutes"
    );
    assert_eq!(
        told(&stalled(3590), now()),
        "- | Failed Stalled (Conflict) | 10s",
        "though the first loss is more than an hour ago"
    );
    assert_eq!(told(&stalled(3600), now()), "create 4 | Active Ready Usable (Issued) | end", "after an hour");
    let mut touched = stalled(1800);
    touched.touched = true;
    assert_eq!(told(&touched, now()), "create 4 | Active Ready Usable (Issued) | end");
    assert_eq!(plan(&touched, now()).status.unwrap().replaced_at, [ago(0)]);
    // A touch that is older than the trouble does not count.
    let mut observed = issued();
    lost(&mut observed, &[240, 120, 60]);
    observed.touched = true;
    assert_eq!(told(&observed, now()), "- | Failed Stalled (Conflict) | 59m");
}

#[test]
fn replacements_are_remembered_as_far_as_they_matter() {
    let mut observed = issued();
    lost(&mut observed, &[9000, 8000, 7000]);
    assert_eq!(plan(&observed, now()).status.unwrap().replaced_at, [ago(8000), ago(7000), ago(0)]);
}

#[test]
fn a_conflict_that_is_over_is_not_a_value_lost_too_often() {
    let mut observed = issued();
    lost(&mut observed, &[1500, 1300, 1200]);
    stalled_since(&mut observed, 300);
    assert_eq!(
        told(&observed, now()),
        "create 4 | Active Ready Usable (Issued) | end",
        "the fourth loss came twenty minutes after the first"
    );
}

#[test]
fn without_the_key_of_its_digest_nothing_is_drawn_anew() {
    let missing = "- | Failed Stalled (KeyringMissing) | end";
    check(
        || {
            let mut observed = issued();
            observed.key_known = false;
            secret(&mut observed).content = Content::Strange;
            observed
        },
        &[
            ("the Secret there", |_| {}, missing),
            ("the Secret gone", |o| o.secret = SecretSeen::Absent, missing),
            ("revoked", |o| o.token.spec.revoked = Some(true), "delete | Revoked Ready (Revoked) | -"),
            ("ended", |o| o.token.spec.expires_at = Some(NOW.into()), "delete | Expired Ready (Expired) | -"),
            ("the credential gone", |o| o.credential = CredentialSeen::Gone, "delete, delete token | - | -"),
        ],
    );
    let mut observed = issued();
    observed.key_known = false;
    let digest = status(&mut observed).digest.clone();
    assert_eq!(plan(&observed, now()).status.unwrap().digest, digest, "the key may come back");
}

#[test]
fn a_refused_write_blames_the_server_and_changes_no_value() {
    let observed = issued();
    let before = observed.token.status.clone().unwrap();
    let planned = plan(&observed, now()).status;
    let status = refused(&observed.token, planned.as_ref(), Reason::QuotaExceeded, "no room", now());
    assert_eq!((&status.digest, status.state), (&before.digest, before.state));
    let told: Vec<_> = status
        .conditions
        .iter()
        .map(|condition| (&*condition.kind, &*condition.status, &*condition.reason))
        .collect();
    assert_eq!(
        told,
        [
            ("Ready", "False", "QuotaExceeded"),
            ("Usable", "True", "Issued"),
            ("Reconciling", "True", "QuotaExceeded")
        ]
    );
    let status = refused(
        &fresh().token,
        plan(&fresh(), now()).status.as_ref(),
        Reason::QuotaExceeded,
        "no room",
        now(),
    );
    assert_eq!(status.state, Some(ApiTokenState::Pending));
    assert!(
        status
            .conditions
            .iter()
            .any(|condition| { (&*condition.kind, &*condition.status) == ("Usable", "False") })
    );
}

#[test]
fn revoked_token_is_suspended_while_its_secret_cannot_be_deleted() {
    let mut observed = issued();
    observed.token.spec.revoked = Some(true);
    let planned = plan(&observed, now()).status;
    let status = refused(&observed.token, planned.as_ref(), Reason::Pending, "no deletes here", now());
    assert_eq!((status.state, status.digest.as_deref()), (Some(ApiTokenState::Suspended), None));
    assert!(status.secret.is_some(), "so that it is found again");
    assert!(!holds(&status, ConditionType::Usable) && !holds(&status, ConditionType::Ready));
    let status = refused(&issued().token, None, Reason::Pending, "no deletes here", now());
    assert!(!holds(&status, ConditionType::Usable), "of a credential that is gone");
}

#[test]
fn an_expired_credential_issues_nothing_when_the_clock_goes_back() {
    let mut observed = fresh();
    if let CredentialSeen::Present(credential) = &mut observed.credential {
        credential.spec.expires_at = Some(END.into());
        credential.status.get_or_insert_default().state = Some(CredentialState::Expired);
    }
    let planned = plan(&observed, now());
    assert!(planned.steps.is_empty());
    assert_eq!(planned.status.unwrap().state, Some(ApiTokenState::Expired));
}
