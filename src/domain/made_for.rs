//! The annotation `made-for`, which names the owner of an object that the operator created.
//!
//! Garbage collection uses the owner reference, but `kubectl delete --cascade=orphan` removes it, and a restored backup has
//! the UID of an owner that does not exist. An object without an owner reference and with a proof that its owner no longer
//! exists is an orphan.

use k8s_openapi::{
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    attested,
    binding::controller,
    digest::{self, DigestError},
    keyring::{Key, Keyring},
    mint::MintAttestation,
    name,
};

/// An owner, and the object that the operator created for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFor {
    /// The kind of the owner.
    pub kind: String,
    /// The name of the owner.
    pub name: String,
    /// The UID of the owner.
    pub uid: String,
    /// The `namespace/name` of the created object. A copy under another name is not owned.
    #[serde(rename = "as")]
    pub at: String,
    /// Whether the object is a Secret for a token that the API server accepts by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    minted: bool,
    /// A keyed digest over the other fields.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    proof: String,
}

impl MadeFor {
    /// The annotation, without a proof, for an object that is created at `namespace/name` for this owner.
    #[must_use]
    pub fn new(owner: &OwnerReference, at: String) -> Self {
        let OwnerReference { kind, name, uid, .. } = owner.clone();
        Self { kind, name, uid, at, minted: false, proof: String::new() }
    }

    /// The same for a Secret that gets a token of the API server.
    #[must_use]
    pub fn minted(self) -> Self {
        Self { minted: true, ..self }
    }

    /// Adds a proof.
    #[must_use]
    pub fn signed(self, key: &Key) -> Self {
        let proof = digest::origin(key, &self.fields());
        Self { proof, ..self }
    }

    /// Adds a proof that is valid only for the object with this UID, so that it cannot be copied to another object, or to a
    /// later object of the same name. This takes a separate write, since the UID is known only after the creation.
    #[must_use]
    pub fn signed_as(self, key: &Key, own_uid: &str) -> Self {
        let proof = digest::origin(key, &self.fields_as(own_uid));
        Self { proof, ..self }
    }

    /// The value of the annotation.
    #[must_use]
    pub fn text(&self) -> String {
        json!(self).to_string()
    }

    /// Parses the annotation of an object, without verifying the proof.
    #[must_use]
    pub fn read(found: &ObjectMeta) -> Option<Self> {
        serde_json::from_str(found.annotations.as_ref()?.get(name::MADE_FOR_ANNOTATION)?).ok()
    }

    /// Parses the annotation of an object that has the namespace and name of the annotation, written as the operator writes them: the
    /// admission policy `managed-secrets` searches for this text.
    #[must_use]
    pub fn of(found: &ObjectMeta) -> Option<Self> {
        let at = format!("{}/{}", found.namespace.as_deref()?, found.name.as_deref()?);
        let text = found.annotations.as_ref()?.get(name::MADE_FOR_ANNOTATION)?;
        let names_it = text.contains(&format!("\"as\":\"{at}\""));
        Self::read(found).filter(|made| names_it && made.at == at)
    }

    /// The same of an object that has no controlling owner and is not being deleted.
    #[must_use]
    pub fn of_orphan(found: &ObjectMeta) -> Option<Self> {
        let unowned = controller(found).is_none() && found.deletion_timestamp.is_none();
        Self::of(found).filter(|_| unowned)
    }

    /// Verifies a proof without the UID of the object.
    ///
    /// # Errors
    /// When the proof is invalid, or its key is no longer in the keyring.
    pub fn verify(&self, keyring: &Keyring) -> Result<(), DigestError> {
        digest::verify_origin(keyring, &self.proof, &self.fields())
    }

    /// Verifies a proof that includes this UID of the object.
    ///
    /// # Errors
    /// When the proof is invalid, or its key is no longer in the keyring.
    pub fn verify_as(&self, keyring: &Keyring, own_uid: &str) -> Result<(), DigestError> {
        digest::verify_origin(keyring, &self.proof, &self.fields_as(own_uid))
    }

    /// Whether this annotation of a Secret proves that the operator created the Secret: the proof includes the UID of the
    /// Secret, or the data of the Secret is exactly what its attestation covers.
    #[must_use]
    pub fn is_proven_of(&self, found: &Secret, keyring: &Keyring) -> bool {
        let uid = found.metadata.uid.as_deref().unwrap_or_default();
        self.verify_as(keyring, uid).is_ok()
            || (self.verify(keyring).is_ok() && attested::is_attested(found, &self.uid, keyring))
    }

    /// Whether `found` has a valid proof for this owner, its own namespace and name, and its own UID.
    #[must_use]
    pub fn is_proven(found: &ObjectMeta, owner: &OwnerReference, keyring: &Keyring) -> bool {
        let own_uid = found.uid.as_deref().unwrap_or_default();
        Self::of(found).is_some_and(|made| {
            (&made.kind, &made.name, &made.uid) == (&owner.kind, &owner.name, &owner.uid)
                && made.verify_as(keyring, own_uid).is_ok()
        })
    }

    fn fields_as(&self, own_uid: &str) -> Vec<String> {
        let mut fields = self.fields();
        fields.push(own_uid.to_owned());
        fields
    }

    fn fields(&self) -> Vec<String> {
        let fields = [&self.kind, &self.name, &self.uid, &self.at].map(Clone::clone);
        fields.into_iter().chain(self.minted.then(|| "minted".to_owned())).collect()
    }
}

/// Whether a Secret is for a token that the API server accepts by itself. Version 0.2 reports it only in the attestation.
#[must_use]
pub fn is_minted(found: &ObjectMeta) -> bool {
    let annotation = |name| found.annotations.as_ref().and_then(|all| all.get(name));
    MadeFor::read(found).is_some_and(|made| made.minted)
        || annotation(name::ATTESTATION_ANNOTATION)
            .is_some_and(|text| serde_json::from_str::<MintAttestation>(text).is_ok())
}

/// Whether the object with this UID controls `found` by an owner reference, and the operator created `found`.
///
/// Any user who can update an object can add an owner reference to it, but an admission policy allows only controllers to
/// add the annotations of the operator. A copy of a Secret under another name has the annotation of the original.
#[must_use]
pub fn is_owned_by(found: &ObjectMeta, owner_uid: Option<&str>) -> bool {
    let has = |name| found.annotations.as_ref().is_some_and(|all| all.contains_key(name));
    let created = if has(name::MADE_FOR_ANNOTATION) {
        MadeFor::of(found).is_some()
    } else {
        has(name::ATTESTATION_ANNOTATION)
    };
    created && controller(found).is_some_and(|owner| Some(owner.uid.as_str()) == owner_uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> OwnerReference {
        OwnerReference {
            kind: "ApiToken".to_owned(),
            name: "t".to_owned(),
            uid: "uid".to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        }
    }

    fn wearing(made: &MadeFor) -> ObjectMeta {
        ObjectMeta {
            namespace: Some("n".to_owned()),
            name: Some("t-token".to_owned()),
            annotations: Some([(name::MADE_FOR_ANNOTATION.to_owned(), made.text())].into()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn an_orphan_stands_where_it_was_made_and_is_nobodys() {
        let made = MadeFor::new(&owner(), "n/t-token".to_owned());
        assert_eq!(MadeFor::of_orphan(&wearing(&made)), Some(made.clone()));
        let owned = ObjectMeta { owner_references: Some(vec![owner()]), ..wearing(&made) };
        let copied = ObjectMeta { name: Some("copy".to_owned()), ..wearing(&made) };
        let elsewhere = ObjectMeta { namespace: Some("other".to_owned()), ..wearing(&made) };
        let bare = ObjectMeta { annotations: None, ..wearing(&made) };
        let leaving = ObjectMeta {
            deletion_timestamp: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                jiff::Timestamp::UNIX_EPOCH,
            )),
            ..wearing(&made)
        };
        for other in [owned, copied, elsewhere, bare, leaving] {
            assert_eq!(MadeFor::of_orphan(&other), None, "{other:?}");
        }
    }

    #[test]
    fn nobody_else_can_say_so() {
        let key = Key::read("20270115T080000Z-abcd", &[1; 32]).unwrap();
        let keyring: Keyring = [key.clone()].into_iter().collect();
        let made = MadeFor::new(&owner(), "n/t-token".to_owned()).signed(&key);
        assert_eq!(made.verify(&keyring), Ok(()));
        for (what, forged) in [
            ("kind", MadeFor { kind: "Credential".to_owned(), ..made.clone() }),
            ("name", MadeFor { name: "u".to_owned(), ..made.clone() }),
            ("uid", MadeFor { uid: "other".to_owned(), ..made.clone() }),
            ("place", MadeFor { at: "n/u-token".to_owned(), ..made.clone() }),
            ("minted", made.clone().minted()),
            ("proof", MadeFor { proof: String::new(), ..made.clone() }),
        ] {
            assert_eq!(forged.verify(&keyring), Err(DigestError::Mismatch), "{what}");
        }
        assert_eq!(made.verify(&Keyring::default()), Err(DigestError::KeyMissing));
    }

    #[test]
    fn an_owner_reference_alone_does_not_make_an_object_owned() {
        let made = MadeFor::new(&owner(), "n/t-token".to_owned());
        let owned = ObjectMeta { owner_references: Some(vec![owner()]), ..wearing(&made) };
        let attested = [(name::ATTESTATION_ANNOTATION.to_owned(), "{}".to_owned())].into();
        for (what, found, uid, expected) in [
            ("owned", owned.clone(), "uid", true),
            ("of another owner", owned.clone(), "other", false),
            ("without an owner reference", wearing(&made), "uid", false),
            ("foreign", ObjectMeta { annotations: None, ..owned.clone() }, "uid", false),
            ("a copy", ObjectMeta { name: Some("copy".to_owned()), ..owned.clone() }, "uid", false),
            ("of version 0.1", ObjectMeta { annotations: Some(attested), ..owned }, "uid", true),
        ] {
            assert_eq!(is_owned_by(&found, Some(uid)), expected, "{what}");
        }
    }

    #[test]
    fn a_proof_with_a_uid_holds_for_that_object_only() {
        let key = Key::read("20270115T080000Z-abcd", &[1; 32]).unwrap();
        let keyring: Keyring = [key.clone()].into_iter().collect();
        let made = MadeFor::new(&owner(), "n/t-token".to_owned());
        let signed = made.clone().signed_as(&key, "own");
        let found = |made: &MadeFor, uid: &str| ObjectMeta { uid: Some(uid.to_owned()), ..wearing(made) };
        assert_eq!(signed.verify_as(&keyring, "own"), Ok(()));
        assert!(MadeFor::is_proven(&found(&signed, "own"), &owner(), &keyring));
        let other_owner = OwnerReference { uid: "other".to_owned(), ..owner() };
        let renamed = ObjectMeta { name: Some("u-token".to_owned()), ..found(&signed, "own") };
        let moved = ObjectMeta { namespace: Some("m".to_owned()), ..found(&signed, "own") };
        for (what, found, owner, keyring) in [
            ("a later object of the same name", found(&signed, "later"), owner(), &keyring),
            ("another owner", found(&signed, "own"), other_owner, &keyring),
            ("another name", renamed, owner(), &keyring),
            ("another namespace", moved, owner(), &keyring),
            ("no proof", found(&made, "own"), owner(), &keyring),
            ("a proof without a UID", found(&made.clone().signed(&key), "own"), owner(), &keyring),
            ("a key that is gone", found(&signed, "own"), owner(), &Keyring::default()),
        ] {
            assert!(!MadeFor::is_proven(&found, &owner, keyring), "{what}");
        }
        assert_eq!(signed.verify(&keyring), Err(DigestError::Mismatch), "nor does it hold without the UID");
    }
}
