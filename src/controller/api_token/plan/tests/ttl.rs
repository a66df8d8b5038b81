//! Tokens that go after their end.

use super::*;

/// It ends at [`END`] and goes an hour later.
fn leaving(mut observed: Observed) -> Observed {
    observed.token.spec.ttl_after_expired = Some("1h".into());
    observed.token.metadata.resource_version = Some("7".to_owned());
    observed
}

fn goes_at() -> Timestamp {
    at(END) + 1.hour()
}

const GOES: &str = "delete token version 7 | - | -";
const GOES_WITH_SECRET: &str = "delete, delete token version 7 | - | -";

#[test]
fn a_token_goes_when_the_time_after_its_end_is_over() {
    let mut observed = leaving(issued());
    assert_eq!(told(&observed, at(END) - 1.nanosecond()), ISSUED);
    assert_eq!(told(&observed, at(END)), "delete | Expired Ready (Expired) | 1h");
    observed.token.status = plan(&observed, at(END)).status;
    observed.secret = SecretSeen::Absent;
    let said = &observed.token.status.as_ref().unwrap().conditions[0].message;
    assert!(said.ends_with("; this object is deleted at 2027-01-01T01:00:00Z"), "{said}");
    assert_eq!(told(&observed, goes_at() - 1.second()), "- | Expired Ready (Expired) | 1s");
    assert_eq!(told(&observed, goes_at()), GOES);
    assert_eq!(
        told(&observed, at(END) - 5.hours()),
        "- | Expired Ready (Expired) | 6h",
        "the clock went back"
    );
    assert_eq!(told(&leaving(issued()), goes_at()), GOES_WITH_SECRET, "nobody was there at its end");
}

#[test]
fn what_is_created_anew_has_no_value_and_goes_after_the_same_time() {
    let mut observed = leaving(fresh());
    observed.token.metadata.creation_timestamp = Some(Time(goes_at() + 24.hours()));
    let born = goes_at() + 24.hours() + 1.minute();
    assert_eq!(told(&observed, born), "- | Expired Ready (Expired) | 59m");
    assert_eq!(told(&observed, born + 59.minutes()), GOES);
}

#[test]
fn what_was_revoked_stays_as_long() {
    let mut observed = leaving(issued());
    observed.token.spec.revoked = Some(true);
    let revoked = format!("delete | Revoked Ready (Revoked) | {:#}", goes_at().duration_since(now()));
    assert_eq!(told(&observed, now()), revoked, "it would not be expired if it were created anew");
    assert_eq!(told(&observed, goes_at()), GOES_WITH_SECRET);
    observed.secret = SecretSeen::Foreign;
    assert_eq!(told(&observed, goes_at()), GOES, "what is others' stays");
}

#[test]
fn the_end_is_that_of_the_credential_where_it_comes_earlier() {
    let mut observed = leaving(issued());
    credential(&mut observed).spec.expires_at = Some(NOW.into());
    assert_eq!(told(&observed, now()), "delete | Expired Ready (Expired) | 1h");
    assert_eq!(told(&observed, now() + 1.hour()), GOES_WITH_SECRET);
    observed.credential = CredentialSeen::Absent;
    assert_eq!(told(&observed, at(END)), "delete | Expired Ready (Expired) | 1h", "its own");
}

#[test]
fn a_token_that_renews_goes_after_its_last_value() {
    let mut observed = leaving(fresh());
    observed.token.spec.expires_in = Some("60d".into());
    observed.token.spec.renew_before = Some("10d".into());
    assert_eq!(told(&observed, at(END)), "- | Expired Ready (Expired) | 1h");
    assert_eq!(told(&observed, goes_at()), GOES);
}

#[test]
fn a_status_that_was_forged_lets_no_token_go() {
    let mut observed = leaving(issued());
    status(&mut observed).state = Some(ApiTokenState::Expired);
    status(&mut observed).expires_at = Some("2020-01-01T00:00:00Z".into());
    let stays = format!("delete | Expired Ready (Expired) | {:#}", goes_at().duration_since(now()));
    assert_eq!(told(&observed, now()), stays);
}

#[test]
fn what_makes_no_sense_lets_no_token_go() {
    let expired = "delete | Expired Ready (Expired) | -";
    for (what, change) in [
        (
            "without expiresAt",
            (|o: &mut Observed| {
                o.token.spec.expires_at = None;
                o.token.spec.expires_in = Some("1d".into());
            }) as fn(&mut Observed),
        ),
        ("no span of time", |o| o.token.spec.ttl_after_expired = Some("1.5h".into())),
    ] {
        let mut observed = leaving(issued());
        change(&mut observed);
        assert_eq!(told(&observed, at(END) + 9.hours()), expired, "{what}");
    }
}
