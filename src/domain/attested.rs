//! Checks whether the data of a Secret is exactly what its attestation covers.
//!
//! A Secret is created in one write, before its UID is known, so its annotations could be copied to a later Secret of the
//! same name. The attestation covers the data, so a foreign Secret with other data does not match it.

use k8s_openapi::api::core::v1::Secret;

use super::{
    digest::{Attestation, MaterialAttestation, Subject, client_secret, verify_material},
    keyring::Keyring,
    material::Entries,
    mint::MintAttestation,
    name,
    redacted::Redacted,
    token::Token,
};

/// Whether the data of `found` is exactly what the operator published for the object with this UID.
#[must_use]
pub fn is_attested(found: &Secret, uid: &str, keyring: &Keyring) -> bool {
    let annotations = found.metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|all| all.get(name::ATTESTATION_ANNOTATION)) else { return false };
    let Some(data) = &found.data else { return false };
    let entries: Entries =
        data.iter().map(|(key, value)| (key.clone(), Redacted::new(value.0.clone()))).collect();
    is_minted(found, text, uid, &entries, keyring)
        || is_token(text, uid, &entries, keyring)
        || material(found, uid, keyring).is_some()
}

/// Whether the Secret has the token that the API server minted for it. The proof includes the UID of the Secret, so other
/// entries are allowed.
fn is_minted(found: &Secret, text: &str, uid: &str, entries: &Entries, keyring: &Keyring) -> bool {
    let said = serde_json::from_str::<MintAttestation>(text).ok();
    let value = entries.get(name::TOKEN_KEY).and_then(|value| std::str::from_utf8(value.expose()).ok());
    match (said, value, &found.metadata.uid) {
        (Some(said), Some(value), Some(secret)) => said.verify(keyring, uid, secret, value).is_ok(),
        _ => false,
    }
}

fn is_token(text: &str, uid: &str, entries: &Entries, keyring: &Keyring) -> bool {
    let Ok(said) = serde_json::from_str::<Attestation>(text) else { return false };
    let mut all = entries.iter();
    let (Some((key, value)), None) = (all.next(), all.next()) else { return false };
    match key.as_str() {
        name::SEALED_KEY => said.verify_sealed(keyring, uid, value.expose()).is_ok(),
        name::TOKEN_KEY => {
            let value = std::str::from_utf8(value.expose()).ok().and_then(|text| Token::parse(text).ok());
            value.is_some_and(|value| said.verify(keyring, uid, &value).is_ok())
        }
        _ => false,
    }
}

/// Whether the verifier accepts the material that the operator published in `found` for the Credential with this UID.
#[must_use]
pub fn is_accepted(found: &Secret, uid: &str, keyring: &Keyring) -> bool {
    material(found, uid, keyring)
        .is_some_and(|(said, entries)| client_secret(&entries, said.material.id.as_deref()).is_some())
}

/// The attestation and the secret entries of the material that the operator published for the Credential with this UID, if the data of
/// `found` is exactly that.
#[must_use]
pub fn material(found: &Secret, uid: &str, keyring: &Keyring) -> Option<(MaterialAttestation, Entries)> {
    let text = found.metadata.annotations.as_ref()?.get(name::ATTESTATION_ANNOTATION)?;
    let data = found.data.as_ref()?;
    let mut entries: Entries =
        data.iter().map(|(key, value)| (key.clone(), Redacted::new(value.0.clone()))).collect();
    let said = MaterialAttestation::read(text, keyring, uid).ok()?;
    for (key, value) in &said.plain {
        entries.remove(key).filter(|held| held.expose() == value.as_bytes())?;
    }
    if !entries.keys().eq(&said.keys) {
        return None;
    }
    if let Some(sealed) = &said.sealed {
        return sealed.is_of(&entries).then_some((said, entries));
    }
    let subject = Subject { uid: uid.to_owned(), serial: said.serial(), term: None };
    let digest = said.material.digest.as_deref()?;
    verify_material(keyring, digest, &subject, said.material.id.as_deref(), &entries).ok()?;
    Some((said, entries))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use kube::api::ObjectMeta;
    use rand::{SeedableRng, rngs::StdRng};
    use serde_json::json;

    use super::*;
    use crate::domain::{digest::Claim, keyring::Key, token::Prefix};

    const UID: &str = "owner-uid";

    fn key() -> Key {
        Key::read("20270115T080000Z-abcd", &[1; 32]).unwrap()
    }

    fn keyring() -> Keyring {
        [key()].into_iter().collect()
    }

    fn secret(attestation: &serde_json::Value, data: &[(&str, &str)]) -> Secret {
        let annotation = (name::ATTESTATION_ANNOTATION.to_owned(), attestation.to_string());
        let metadata = ObjectMeta {
            uid: Some("secret-uid".to_owned()),
            annotations: Some([annotation].into()),
            ..ObjectMeta::default()
        };
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        Secret { metadata, data: Some(data.collect()), ..Secret::default() }
    }

    fn token() -> (Token, serde_json::Value) {
        let token = Token::draw(&Prefix::default(), &mut StdRng::seed_from_u64(1));
        let claim = Claim {
            end: jiff::Timestamp::UNIX_EPOCH,
            issued_at: None,
            credential: "credential-uid".to_owned(),
            previous: None,
        };
        let subject = Subject { uid: UID.to_owned(), serial: 0, term: None };
        let attestation = json!(Attestation::new(&key(), &subject, &token, claim));
        (token, attestation)
    }

    #[test]
    fn a_token_is_attested_where_the_secret_holds_it_and_nothing_else() {
        let (token, said) = token();
        let value = token.expose();
        let other = Token::draw(&Prefix::default(), &mut StdRng::seed_from_u64(2));
        let other = other.expose();
        for (data, attested) in [
            (&[("token", value)][..], true),
            (&[("token", other)], false),
            (&[("token", value), ("more", "theirs")], false),
            (&[("password", value)], false),
            (&[("password", "theirs")], false),
            (&[], false),
        ] {
            assert_eq!(is_attested(&secret(&said, data), UID, &keyring()), attested, "{}", data.len());
        }
        let whole = secret(&said, &[("token", value)]);
        assert!(!is_attested(&whole, "another", &keyring()));
        assert!(!is_attested(&whole, UID, &Keyring::default()));
        assert!(!is_attested(&secret(&json!({}), &[("token", value)]), UID, &keyring()));
    }

    #[test]
    fn material_is_attested_with_its_plain_entries_and_no_others() {
        let entries: Entries = [("a".to_owned(), Redacted::new(b"1".to_vec()))].into();
        let plain = [("region".to_owned(), "x".to_owned())].into();
        let said = MaterialAttestation { plain, ..MaterialAttestation::default() };
        let said = json!(said.signed(&key(), UID, &entries, None));
        for (data, attested) in [
            (&[("a", "1"), ("region", "x")][..], true),
            (&[("a", "1")], false),
            (&[("a", "2"), ("region", "x")], false),
            (&[("a", "1"), ("region", "y")], false),
            (&[("a", "1"), ("region", "x"), ("more", "theirs")], false),
            (&[("b", "1"), ("region", "x")], false),
        ] {
            assert_eq!(is_attested(&secret(&said, data), UID, &keyring()), attested, "{data:?}");
        }
    }

    #[test]
    fn a_minted_token_is_attested_in_its_own_secret_whatever_else_that_holds() {
        let said = MintAttestation {
            serial: 0,
            term: None,
            id: None,
            account: "account-uid".to_owned(),
            credential: "credential-uid".to_owned(),
            audiences: Vec::new(),
            issued_at: jiff::Timestamp::UNIX_EPOCH.into(),
            expires_at: jiff::Timestamp::UNIX_EPOCH.into(),
            proof: String::new(),
        };
        let here = json!(said.clone().signed(&key(), UID, "secret-uid", "minted"));
        let elsewhere = json!(said.signed(&key(), UID, "another", "minted"));
        assert!(is_attested(&secret(&here, &[("token", "minted"), ("more", "x")]), UID, &keyring()));
        assert!(!is_attested(&secret(&here, &[("token", "other")]), UID, &keyring()));
        assert!(!is_attested(&secret(&elsewhere, &[("token", "minted")]), UID, &keyring()));
    }
}
