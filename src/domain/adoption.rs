//! Adoption: a Credential takes over the material of an earlier Credential of the same name, in a Secret that was restored from a
//! backup or kept by `kubectl delete --cascade=orphan`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use super::{
    attested, delivery,
    digest::{self, MaterialAttestation},
    keyring::Keyring,
    made_for::MadeFor,
    material,
};
use crate::api::{Credential, CredentialType, Instant, credential::MaterialStatus};

/// The attestation of the material in `found` for this Credential, if the Credential adopts it. It has no proof yet.
///
/// The operator must have created the Secret at this place for a Credential of this name, and its data must be unchanged. It must have
/// no owner: one that no longer exists means that garbage collection is about to delete the Secret. Values that the verifier or the API
/// server accepts are not adopted, because a value that was revoked or expired must not become valid again.
#[must_use]
pub fn adopted(
    credential: &Credential,
    found: &Secret,
    keyring: &Keyring,
    now: Timestamp,
) -> Option<MaterialAttestation> {
    let metadata = &found.metadata;
    let has_owners = metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
    if has_owners || metadata.deletion_timestamp.is_some() || !may_adopt(credential, now) {
        return None;
    }
    let made = MadeFor::of(metadata)?;
    let is_its = made.kind == "Credential" && Some(&made.name) == credential.metadata.name.as_ref();
    if !is_its || made.verify(keyring).is_err() || found.type_.as_deref() != Some(secret_type(credential)) {
        return None;
    }
    let (attestation, entries) = attested::material(found, &made.uid, keyring)?;
    let is_sealed = delivery::recipients(credential.spec.delivery.as_ref()).is_some();
    if attestation.sealed.is_some() != is_sealed {
        return None;
    }
    let uid = credential.metadata.uid.as_deref()?;
    let key = keyring.get(digest::key_id(attestation.material.digest.as_deref()?)?)?;
    // The digest of sealed material covers a value that nobody here can read.
    let attestation = if is_sealed { attestation } else { attestation.signed(key, uid, &entries, None) };
    Some(MaterialAttestation { proof: String::new(), ..attestation })
}

/// Whether a Credential has had no material yet, and can have some.
fn may_adopt(credential: &Credential, now: Timestamp) -> bool {
    let had = credential.status.as_ref().and_then(|status| status.material.as_ref());
    let end = credential.spec.expires_at.as_ref().map(Instant::timestamp);
    had.is_none_or(|material| *material == MaterialStatus::default())
        && credential.metadata.deletion_timestamp.is_none()
        && end.is_none_or(|end| end.is_ok_and(|end| end > now))
        && !is_accepted(credential)
}

/// Whether the verifier or the API server accepts the material, so that it is issued again and never adopted.
#[must_use]
pub fn is_accepted(credential: &Credential) -> bool {
    let kind = material::kind(credential.spec.credential_type);
    credential.spec.credential_type == CredentialType::Kubeconfig
        || kind.and_then(|kind| kind.generated.as_ref()).is_some_and(|generated| generated.bearer)
}

/// The type of the Secret in which a Credential publishes. Sealed material does not have the keys that the types of Kubernetes require.
#[must_use]
pub fn secret_type(credential: &Credential) -> &'static str {
    let is_sealed = delivery::recipients(credential.spec.delivery.as_ref()).is_some();
    let kind = material::kind(credential.spec.credential_type).filter(|_| !is_sealed);
    kind.map_or(material::OPAQUE, |kind| kind.secret_type)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::OwnerReference};
    use kube::api::ObjectMeta;
    use serde_json::json;

    use super::*;
    use crate::{
        api::{CredentialStatus, credential::DesiredState},
        domain::{binding::Owner, keyring::Key, material::Entries, name, redacted::Redacted},
    };

    const NOW: &str = "2026-06-01T00:00:00Z";

    fn key() -> Key {
        Key::read("20270115T080000Z-abcd", &[1; 32]).unwrap()
    }

    fn credential(spec: &serde_json::Value) -> Credential {
        let mut credential = Credential::new("db", serde_json::from_value(spec.clone()).unwrap());
        credential.metadata.namespace = Some("n".to_owned());
        credential.metadata.uid = Some("later".to_owned());
        credential
    }

    /// What the operator published for the Credential that is gone, restored.
    fn restored(secret_type: &str) -> Secret {
        let entries: Entries = [("password".to_owned(), Redacted::new(b"secret".to_vec()))].into();
        let material = MaterialStatus { serial: Some(3), ..MaterialStatus::default() };
        let said = MaterialAttestation { material, ..MaterialAttestation::default() };
        let said = said.signed(&key(), "earlier", &entries, None);
        let owner = Owner { namespace: "n".to_owned(), name: "db".to_owned(), uid: "earlier".to_owned() };
        let made = MadeFor::new(&owner.reference(), "n/db-credential".to_owned()).signed(&key());
        Secret {
            metadata: ObjectMeta {
                namespace: Some("n".to_owned()),
                name: Some("db-credential".to_owned()),
                annotations: Some(
                    [
                        (name::MADE_FOR_ANNOTATION.to_owned(), made.text()),
                        (name::ATTESTATION_ANNOTATION.to_owned(), json!(said).to_string()),
                    ]
                    .into(),
                ),
                ..ObjectMeta::default()
            },
            type_: Some(secret_type.to_owned()),
            data: Some([("password".to_owned(), ByteString(b"secret".to_vec()))].into()),
            ..Secret::default()
        }
    }

    fn is_adopted(credential: &Credential, found: &Secret, keyring: &Keyring) -> bool {
        adopted(credential, found, keyring, NOW.parse().unwrap()).is_some()
    }

    #[test]
    fn each_type_adopts_its_own_material_unless_it_is_accepted() {
        let keyring: Keyring = [key()].into_iter().collect();
        for credential_type in CredentialType::ALL {
            let credential = credential(&json!({ "type": credential_type }));
            let Some(kind) = material::kind(credential_type) else { continue };
            let expected =
                !matches!(credential_type, CredentialType::ClientSecret | CredentialType::Kubeconfig);
            let found = restored(kind.secret_type);
            assert_eq!(is_adopted(&credential, &found, &keyring), expected, "{credential_type:?}");
        }
    }

    #[test]
    fn adopted_material_keeps_its_serial_and_fits_the_new_uid() {
        let keyring: Keyring = [key()].into_iter().collect();
        let credential = credential(&json!({"type": "Opaque"}));
        let found = restored("Opaque");
        let said = adopted(&credential, &found, &keyring, NOW.parse().unwrap()).unwrap();
        assert_eq!(said.serial(), 3);
        let text = json!(said.resigned(&key(), "later")).to_string();
        let metadata = &mut found.metadata.clone();
        metadata.annotations.as_mut().unwrap().insert(name::ATTESTATION_ANNOTATION.to_owned(), text);
        let signed = Secret { metadata: metadata.clone(), ..found };
        assert!(attested::material(&signed, "later", &keyring).is_some());
        assert!(attested::material(&signed, "earlier", &keyring).is_none());
    }

    #[test]
    fn nothing_else_is_adopted() {
        type Change = fn(&mut Credential, &mut Secret);
        let keyring: Keyring = [key()].into_iter().collect();
        let rows: [(&str, Change); 13] = [
            ("an owner", |_, found| {
                found.metadata.owner_references = Some(vec![OwnerReference::default()]);
            }),
            ("being deleted", |_, found| {
                found.metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(NOW.parse().unwrap()));
            }),
            ("another name", |_, found| found.metadata.name = Some("other".to_owned())),
            ("another namespace", |_, found| found.metadata.namespace = Some("m".to_owned())),
            ("another type of Secret", |_, found| found.type_ = Some("example.com/any".to_owned())),
            ("another value", |_, found| {
                found.data = Some([("password".to_owned(), ByteString(b"other".to_vec()))].into());
            }),
            ("more values", |_, found| {
                found.data.as_mut().unwrap().insert("more".to_owned(), ByteString(b"x".to_vec()));
            }),
            ("no annotations", |_, found| found.metadata.annotations = None),
            ("another Credential", |credential, _| credential.metadata.name = Some("other".to_owned())),
            ("a Credential with material", |credential, _| {
                let material = Some(MaterialStatus { serial: Some(0), ..MaterialStatus::default() });
                credential.status = Some(CredentialStatus { material, ..CredentialStatus::default() });
            }),
            ("a Credential that is being deleted", |credential, found| {
                credential.metadata.deletion_timestamp = found
                    .metadata
                    .creation_timestamp
                    .clone()
                    .or(Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(NOW.parse().unwrap())));
            }),
            ("a Credential that has expired", |credential, _| {
                credential.spec.expires_at = Some(Instant::from(NOW));
            }),
            ("sealed by now", |credential, _| {
                let delivery = json!({"mode": "Sealed", "recipients": ["age1x"]});
                credential.spec.delivery = Some(serde_json::from_value(delivery).unwrap());
            }),
        ];
        for (what, change) in rows {
            let mut pair = (credential(&json!({"type": "Opaque"})), restored("Opaque"));
            assert!(is_adopted(&pair.0, &pair.1, &keyring), "{what}");
            change(&mut pair.0, &mut pair.1);
            assert!(!is_adopted(&pair.0, &pair.1, &keyring), "{what}");
        }
        let mut inactive = credential(&json!({"type": "Opaque"}));
        inactive.spec.state = DesiredState::Inactive;
        assert!(is_adopted(&inactive, &restored("Opaque"), &keyring), "it is lost otherwise");
        assert!(!is_adopted(
            &credential(&json!({"type": "Opaque"})),
            &restored("Opaque"),
            &Keyring::default()
        ));
    }
}
