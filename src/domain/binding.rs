//! From grants to RBAC bindings: which there should be, and which of those that there are is ours.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::name;
use crate::api::{
    GROUP,
    credential::{Grant, RoleKind},
};

/// The Credential that bindings are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A `RoleBinding`, or, without a namespace, a `ClusterRoleBinding`; both have the same parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// Its metadata; a `ClusterRoleBinding` has no namespace.
    pub metadata: ObjectMeta,
    /// The role.
    pub role_ref: RoleRef,
    /// Who has it.
    pub subjects: Vec<Subject>,
}

/// Where a binding stands. Orders and names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingKey {
    /// `None` for a `ClusterRoleBinding`.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for BindingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "RoleBinding {namespace}/{}", self.name),
            None => write!(f, "ClusterRoleBinding {}", self.name),
        }
    }
}

/// Whose a binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Made by us for this Credential.
    Ours,
    /// Made by us for an earlier Credential of the same name.
    Predecessors,
    /// Somebody else's.
    Foreign,
}

impl Owner {
    /// The bindings that grant `grants`, by where they stand. Two grants of one target are one binding.
    #[must_use]
    pub fn bindings(&self, grants: &[Grant]) -> BTreeMap<BindingKey, Binding> {
        grants.iter().map(|grant| self.binding(grant)).map(|binding| (binding.key(), binding)).collect()
    }

    fn binding(&self, grant: &Grant) -> Binding {
        let namespace =
            (!grant.cluster_wide).then(|| grant.namespace.clone().unwrap_or_else(|| self.namespace.clone()));
        let within = namespace.as_deref() == Some(&self.namespace);
        let annotations = [
            (name::OWNER_ANNOTATION.to_owned(), format!("{}/{}", self.namespace, self.name)),
            (name::OWNER_UID_ANNOTATION.to_owned(), self.uid.clone()),
        ];
        Binding {
            metadata: ObjectMeta {
                name: Some(name::binding(&self.namespace, &self.name, grant)),
                namespace,
                labels: Some([(name::MANAGED_BY_LABEL.to_owned(), name::MANAGED_BY.to_owned())].into()),
                annotations: Some(annotations.into()),
                // Outside the namespace a reference would name an object that is not there, and garbage collection
                // would delete the binding.
                owner_references: within.then(|| vec![self.reference()]),
                ..ObjectMeta::default()
            },
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned(),
                kind: grant.kind.as_str().to_owned(),
                name: grant.name.clone(),
            },
            subjects: vec![self.subject()],
        }
    }

    /// The controller owner reference of what is made for this Credential in its namespace.
    #[must_use]
    pub fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: "credential-operator.io/v1alpha1".to_owned(),
            kind: "Credential".to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }

    fn subject(&self) -> Subject {
        Subject {
            kind: "ServiceAccount".to_owned(),
            name: name::service_account(&self.name),
            namespace: Some(self.namespace.clone()),
            api_group: None,
        }
    }

    /// Whose `found` is: its role and name must be those that this Credential would have, which no user can change, and it must have
    /// an owner reference inside the namespace, or the annotation and the same subjects. Any user who can update a binding can change
    /// its owner references; to change its annotations and subjects, they need permission to bind the role.
    #[must_use]
    pub fn ownership(&self, found: &Binding) -> Ownership {
        let uid = if found.metadata.namespace.as_ref() == Some(&self.namespace) {
            let owned = controller(&found.metadata)
                .filter(|owner| is_of_kind(owner, "Credential") && owner.name == self.name)
                .filter(|_| self.would_name(found).is_some())
                .map(|owner| &owner.uid);
            let annotated = || found.annotation(name::OWNER_UID_ANNOTATION);
            owned.or_else(|| annotated().filter(|_| self.would_make(found)))
        } else if self.would_make(found) {
            found.annotation(name::OWNER_UID_ANNOTATION)
        } else {
            None
        };
        match uid {
            Some(uid) if *uid == self.uid => Ownership::Ours,
            Some(_) => Ownership::Predecessors,
            None => Ownership::Foreign,
        }
    }

    /// Whether `found` is a binding inside the namespace that was made for this very Credential and lost its owner
    /// reference, so that garbage collection does not delete it.
    #[must_use]
    pub fn orphaned(&self, found: &Binding) -> bool {
        controller(&found.metadata).is_none_or(|owner| owner.uid != self.uid)
            && found.metadata.deletion_timestamp.is_none()
            && found.metadata.namespace.as_ref() == Some(&self.namespace)
            && found.annotation(name::OWNER_UID_ANNOTATION) == Some(&self.uid)
            && self.would_make(found)
    }

    /// Whether `found` is, but for the UID of its owner, a binding that this Credential's grants could ask for.
    fn would_make(&self, found: &Binding) -> bool {
        self.would_name(found).is_some_and(|made| made.grants_the_same(found))
    }

    /// The binding that this Credential would have for the role of `found`, if it has the name of `found`.
    fn would_name(&self, found: &Binding) -> Option<Binding> {
        let kind = match found.role_ref.kind.as_str() {
            "Role" => RoleKind::Role,
            "ClusterRole" => RoleKind::ClusterRole,
            _ => return None,
        };
        let made = self.binding(&Grant {
            kind,
            name: found.role_ref.name.clone(),
            namespace: found.metadata.namespace.clone(),
            cluster_wide: found.metadata.namespace.is_none(),
        });
        Some(made).filter(|made| made.metadata.name == found.metadata.name)
    }
}

impl Binding {
    /// Where it stands.
    #[must_use]
    pub fn key(&self) -> BindingKey {
        BindingKey {
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone().unwrap_or_default(),
        }
    }

    /// Whether role and subjects are equal.
    #[must_use]
    pub fn grants_the_same(&self, other: &Self) -> bool {
        self.role_ref == other.role_ref && self.subjects == other.subjects
    }

    /// Whether `found` is this binding with its labels, annotations and owner reference, and is not being deleted.
    #[must_use]
    pub fn is_intact_in(&self, found: &Self) -> bool {
        let has_all = |wished: &Option<BTreeMap<String, String>>,
                       found: &Option<BTreeMap<String, String>>| {
            wished
                .iter()
                .flatten()
                .all(|(key, value)| found.as_ref().is_some_and(|found| found.get(key) == Some(value)))
        };
        let owner = |binding: &Self| controller(&binding.metadata).map(|owner| owner.uid.clone());
        found.metadata.deletion_timestamp.is_none()
            && (owner(self).is_none() || owner(self) == owner(found))
            && self.grants_the_same(found)
            && has_all(&self.metadata.labels, &found.metadata.labels)
            && has_all(&self.metadata.annotations, &found.metadata.annotations)
    }

    /// The Credential that it says it is for, when it says so.
    #[must_use]
    pub fn claimed_owner(&self) -> Option<Owner> {
        let (namespace, name) = self.annotation(name::OWNER_ANNOTATION)?.split_once('/')?;
        let uid = self.annotation(name::OWNER_UID_ANNOTATION)?;
        Some(Owner { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.clone() })
    }

    fn annotation(&self, key: &str) -> Option<&String> {
        self.metadata.annotations.as_ref()?.get(key)
    }
}

/// Whether an owner reference names an object of that kind of ours: others may have kinds of that name, too.
#[must_use]
pub fn is_of_kind(owner: &OwnerReference, kind: &str) -> bool {
    owner.kind == kind && owner.api_version.split('/').next() == Some(GROUP)
}

/// The controller owner reference of an object.
#[must_use]
pub fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

impl From<RoleBinding> for Binding {
    fn from(found: RoleBinding) -> Self {
        Self {
            metadata: found.metadata,
            role_ref: found.role_ref,
            subjects: found.subjects.unwrap_or_default(),
        }
    }
}

impl From<ClusterRoleBinding> for Binding {
    fn from(found: ClusterRoleBinding) -> Self {
        Self {
            metadata: found.metadata,
            role_ref: found.role_ref,
            subjects: found.subjects.unwrap_or_default(),
        }
    }
}

impl From<Binding> for RoleBinding {
    fn from(binding: Binding) -> Self {
        Self { metadata: binding.metadata, role_ref: binding.role_ref, subjects: Some(binding.subjects) }
    }
}

impl From<Binding> for ClusterRoleBinding {
    fn from(binding: Binding) -> Self {
        Self { metadata: binding.metadata, role_ref: binding.role_ref, subjects: Some(binding.subjects) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (Owner, Binding) {
        let owner = Owner { namespace: "n".to_owned(), name: "c".to_owned(), uid: "u".to_owned() };
        let grant = Grant {
            kind: RoleKind::ClusterRole,
            name: "view".to_owned(),
            namespace: None,
            cluster_wide: false,
        };
        let binding = owner.binding(&grant);
        (owner, binding)
    }

    #[test]
    fn an_owner_reference_of_another_group_does_not_make_a_binding_owned() {
        let (owner, made) = made();
        for (uid, expected) in [("u", Ownership::Ours), ("earlier", Ownership::Predecessors)] {
            let mut found = made.clone();
            found.metadata.owner_references.as_mut().unwrap()[0].uid = uid.to_owned();
            assert_eq!(owner.ownership(&found), expected);
            found.metadata.owner_references.as_mut().unwrap()[0].api_version = "other.example/v1".to_owned();
            found.metadata.annotations = None;
            assert_eq!(owner.ownership(&found), Ownership::Foreign);
            assert!(!owner.orphaned(&found));
        }
    }

    /// Any user who can update bindings can replace the owner references, without permission to bind the role.
    #[test]
    fn a_binding_whose_owner_reference_was_replaced_is_still_owned() {
        let (owner, made) = made();
        let mut found = made.clone();
        let other = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            uid: "another".to_owned(),
            ..owner.reference()
        };
        found.metadata.owner_references = Some(vec![other]);
        assert_eq!(owner.ownership(&found), Ownership::Ours);
        assert!(owner.orphaned(&found), "garbage collection does not delete it");
        assert!(!made.is_intact_in(&found), "it is created again with the owner reference");
        let mut with_others = found.clone();
        with_others.subjects.push(Subject { name: "default".to_owned(), ..owner.subject() });
        assert_eq!(owner.ownership(&with_others), Ownership::Foreign);
    }

    #[test]
    fn only_a_binding_that_the_credential_could_have_made_is_an_orphan_of_it() {
        type Change = (&'static str, fn(&mut Binding));

        let (owner, mut orphan) = made();
        orphan.metadata.owner_references = None;
        assert!(owner.orphaned(&orphan));
        let changes: [Change; 6] = [
            ("name", |found| found.metadata.name = Some("mine".to_owned())),
            ("namespace", |found| found.metadata.namespace = Some("m".to_owned())),
            ("role", |found| found.role_ref.name = "edit".to_owned()),
            ("kind of role", |found| found.role_ref.kind = "Role".to_owned()),
            ("subject", |found| found.subjects[0].name = "default".to_owned()),
            ("one more subject", |found| found.subjects.push(found.subjects[0].clone())),
        ];
        for (what, change) in changes {
            let mut found = orphan.clone();
            change(&mut found);
            assert!(!owner.orphaned(&found), "{what}");
        }
    }
}
