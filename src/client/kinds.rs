//! What is kept of the metadata of each kind that is read.

use k8s_openapi::{
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        authentication::v1::{SelfSubjectReview, TokenRequest, TokenReview},
        authorization::v1::SubjectAccessReview,
        coordination::v1::Lease,
        core::v1::{ConfigMap, Namespace, Secret, ServiceAccount},
        rbac::v1::{ClusterRoleBinding, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Resource, core::PartialObjectMeta};
use serde::de::DeserializeOwned;

use super::prune::{Keep, Keys};
use crate::{
    api::{ApiToken, Credential, CredentialPolicy},
    domain::name,
};

/// The label by which our Secrets, accounts and bindings are watched, and the one of Secrets that users provide.
const LABELS: &[&str] = &[name::MANAGED_BY_LABEL, name::PROVIDED_LABEL];
/// The annotations that the controller writes and goes by.
const ANNOTATIONS: &[&str] = &[
    name::ATTESTATION_ANNOTATION,
    name::MADE_FOR_ANNOTATION,
    name::OWNER_ANNOTATION,
    name::OWNER_UID_ANNOTATION,
    name::PUBLISHED_ANNOTATION,
    name::ROTATE_ANNOTATION,
    name::ROTATED_ANNOTATION,
];

/// What users ask for by annotation.
const REQUESTS: &[&str] = &[name::ACKNOWLEDGED_ANNOTATION, name::ROTATE_ANNOTATION];
/// How many bytes one of these may take, and all others of our group together.
const REQUEST: usize = 1 << 10;
/// How many bytes one annotation of the controller may take: an attestation lists what else is in a Secret.
const PROOF: usize = 64 << 10;
/// How many bytes of foreign labels, and of foreign annotations, are kept of a Secret: users may ask for some there.
const ASKED_FOR: usize = 16 << 10;
/// How many finalizers, owner references and subjects are kept of an object.
const ELEMENTS: usize = 16;
/// How many bytes of labels are kept of a namespace.
const SELECTED_BY: usize = 16 << 10;

/// A kind that is read.
pub trait Readable: Resource<DynamicType = ()> + DeserializeOwned {
    /// What is kept of its metadata.
    const KEEP: Keep;
}

/// On objects that users write: what they ask for by annotation.
const USERS: Keep = Keep {
    labels: Keys { named: &[], value: 0, prefix: "", others: 0 },
    annotations: Keys { named: REQUESTS, value: REQUEST, prefix: "credential-operator.io/", others: REQUEST },
    elements: ELEMENTS,
    finalizer: name::FINALIZER,
    truncated: None,
};

/// On objects that the controller writes: its own mark and proof.
const MANAGED: Keep = Keep {
    labels: Keys { named: LABELS, value: 64, prefix: "", others: 0 },
    annotations: Keys { named: ANNOTATIONS, value: PROOF, prefix: "", others: 0 },
    elements: ELEMENTS,
    finalizer: name::FINALIZER,
    truncated: None,
};

/// On Secrets, what users ask for, too.
const SECRET: Keep = Keep {
    labels: Keys { others: ASKED_FOR, ..MANAGED.labels },
    annotations: Keys { others: ASKED_FOR, ..MANAGED.annotations },
    ..MANAGED
};

/// Of a namespace the labels, by which policies select it.
const NAMESPACE: Keep = Keep {
    labels: Keys { named: &[], value: 0, prefix: "", others: SELECTED_BY },
    annotations: Keys { named: &[], value: 0, prefix: "", others: 0 },
    elements: ELEMENTS,
    finalizer: name::FINALIZER,
    truncated: Some(name::TRUNCATED_LABEL),
};

macro_rules! readable {
    ($keep:expr => $($kind:ty),+ $(,)?) => {
        $(impl Readable for $kind { const KEEP: Keep = $keep; })+
    };
}

readable!(USERS => ApiToken, Credential, CredentialPolicy);
readable!(SECRET => Secret);
readable!(MANAGED => ServiceAccount, RoleBinding, ClusterRoleBinding);
readable!(NAMESPACE => Namespace);
readable!(
    USERS =>
    ConfigMap, CustomResourceDefinition, Lease, SelfSubjectReview, SubjectAccessReview, TokenRequest, TokenReview,
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
);

impl<K: Readable> Readable for PartialObjectMeta<K> {
    const KEEP: Keep = K::KEEP;
}
