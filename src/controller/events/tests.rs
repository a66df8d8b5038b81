use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::api::{ApiTokenSpec, CredentialSpec, credential::MaterialStatus, material::Rotation};

const CREATED: &str = "2026-01-01T00:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn ready(status: &str, reason: &str) -> Vec<Condition> {
    let said = |kind: &str, status: &str| Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        observed_generation: Some(1),
        last_transition_time: CREATED.into(),
        reason: reason.to_owned(),
        message: format!("because of {reason}"),
    };
    vec![said("Usable", "False"), said("Ready", status)]
}

/// A token whose values live for thirty days and have a successor after twenty.
fn token(conditions: Vec<Condition>) -> ApiToken {
    let mut token = ApiToken::new(
        "t",
        ApiTokenSpec {
            expires_in: Some("30d".into()),
            renew_before: Some("10d".into()),
            ..ApiTokenSpec::default()
        },
    );
    token.metadata.creation_timestamp = Some(Time(at(CREATED)));
    token.status = Some(ApiTokenStatus {
        conditions,
        digest: Some("digest".to_owned()),
        term: Some(0),
        ..ApiTokenStatus::default()
    });
    token
}

fn told(before: &ApiToken, after: &ApiToken, now: &str) -> Option<(&'static str, String)> {
    let incident = token_incident(before, after.status.as_ref().unwrap(), at(now))?;
    Some((incident.reason, incident.note))
}

#[test]
fn an_incident_is_told_once_and_success_never() {
    let now = "2026-01-02T00:00:00Z";
    let fine = token(ready("True", "Issued"));
    let new = ApiToken { status: None, ..fine.clone() };
    let conflict = token(ready("False", "Conflict"));
    let pending = token(ready("False", "Pending"));
    let event = Some(("Conflict", "because of Conflict".to_owned()));
    for before in [&new, &fine, &pending] {
        assert_eq!(told(before, &conflict, now), event);
        assert_eq!(told(before, &fine, now), None);
        assert_eq!(told(before, &pending, now), None, "that passes by itself");
    }
    assert_eq!(told(&conflict, &conflict, now), None, "it is known");
    assert_eq!(told(&conflict, &fine, now), None, "it is over");
}

#[test]
fn a_renewal_has_failed_when_it_is_due_and_there_is_a_value() {
    let (early, due) = ("2026-01-20T00:00:00Z", "2026-01-21T00:00:00Z");
    let fine = token(ready("True", "Issued"));
    for reason in ["Pending", "QuotaExceeded", "PolicyViolation"] {
        let failed = token(ready("False", reason));
        assert_eq!(told(&fine, &failed, early), None, "{reason}");
        assert_eq!(told(&fine, &failed, due), Some(("RenewalFailed", format!("because of {reason}"))));
        assert_eq!(told(&failed, &failed, due), None, "{reason} is known");
    }
    let mut nothing = token(ready("False", "Pending"));
    nothing.status.as_mut().unwrap().digest = None;
    assert_eq!(told(&fine, &nothing, due), None, "there is nothing to renew");
    let mut renewed = token(ready("False", "Pending"));
    renewed.status.as_mut().unwrap().term = Some(1);
    assert_eq!(told(&fine, &renewed, due), None, "it was renewed");
    assert_eq!(told(&fine, &token(ready("False", "Conflict")), due).unwrap().0, "Conflict");
}

#[test]
fn a_rotation_has_failed_when_it_is_due_or_was_asked_for() {
    let credential = |conditions: Vec<Condition>| {
        let mut credential = Credential::new("c", CredentialSpec::default());
        let material = MaterialStatus {
            digest: Some("digest".to_owned()),
            revision: Some(1),
            rotates_at: Some("2026-02-01T00:00:00Z".into()),
            ..MaterialStatus::default()
        };
        credential.status =
            Some(CredentialStatus { conditions, material: Some(material), ..CredentialStatus::default() });
        credential
    };
    let fine = credential(ready("True", "Published"));
    let failed = credential(ready("False", "QuotaExceeded"));
    let told = |before: &Credential, after: &Credential, now: &str| {
        credential_incident(before, after.status.as_ref().unwrap(), at(now)).map(|incident| incident.reason)
    };
    let (early, due) = ("2026-01-31T00:00:00Z", "2026-02-01T00:00:00Z");
    assert_eq!(told(&fine, &failed, early), None);
    assert_eq!(told(&fine, &failed, due), Some("RotationFailed"));
    assert_eq!(told(&failed, &failed, due), None);
    let mut asked = fine.clone();
    asked.metadata.annotations = Some([(name::ROTATE_ANNOTATION.to_owned(), "now".to_owned())].into());
    assert_eq!(told(&asked, &failed, early), Some("RotationFailed"));
    let mut raised = fine.clone();
    raised.spec.rotation = Some(Rotation { revision: Some(2), ..Rotation::default() });
    assert_eq!(told(&raised, &failed, early), Some("RotationFailed"));
    let mut inactive = raised;
    inactive.spec.state = DesiredState::Inactive;
    assert_eq!(told(&inactive, &failed, due), None, "nothing is rotated then");
    let invalid = credential(ready("False", "MaterialInvalid"));
    assert_eq!(told(&fine, &invalid, due), Some("MaterialInvalid"));
}

#[tokio::test(start_paused = true)]
async fn no_more_are_sent_than_the_recorder_can_look_through() {
    let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
    });
    let events = Events::new(Client::new(service, "default"));
    assert_eq!((0..AT_MOST + 100).filter(|_| events.may_send()).count(), AT_MOST);
    tokio::time::advance(WINDOW).await;
    assert!(events.may_send());
}
