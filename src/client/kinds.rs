//! Declares which metadata the client retains of each kind.

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

/// The maximum length of a label value (63 characters in Kubernetes) with its quotation marks.
const LABEL: usize = 65;
/// The labels with which the controller selects managed objects and the Secrets that users provide.
const LABELS: &[(&str, usize)] = &[(name::MANAGED_BY_LABEL, LABEL), (name::PROVIDED_LABEL, LABEL)];

/// The maximum number of bytes of an annotation with a fixed format.
const SHORT: usize = 1 << 10;
/// The maximum number of bytes of a Secret's attestation, which lists the keys of the Secret.
const ATTESTATION: usize = 64 << 10;
/// The maximum number of bytes of the annotation that lists the requested labels and annotations of a Secret.
const PUBLISHED: usize = 16 << 10;

/// The annotations of `ServiceAccount`s and bindings that the controller reads.
const MARKS: &[(&str, usize)] = &[
    (name::MADE_FOR_ANNOTATION, SHORT),
    (name::OWNER_ANNOTATION, SHORT),
    (name::OWNER_UID_ANNOTATION, SHORT),
];
/// The annotations of Secrets that the controller reads.
const SECRET_MARKS: &[(&str, usize)] = &[
    (name::ATTESTATION_ANNOTATION, ATTESTATION),
    (name::MADE_FOR_ANNOTATION, SHORT),
    (name::PUBLISHED_ANNOTATION, PUBLISHED),
    (name::ROTATE_ANNOTATION, SHORT),
    (name::ROTATED_ANNOTATION, SHORT),
];
/// The annotations by which users make requests.
const REQUESTS: &[(&str, usize)] =
    &[(name::ACKNOWLEDGED_ANNOTATION, SHORT), (name::ROTATE_ANNOTATION, SHORT)];

/// The number of bytes of foreign labels that are retained of a Secret. Users can request 16 labels.
const REQUESTED_LABELS: usize = 8 << 10;
/// The number of bytes of foreign annotations that are retained of a Secret. Users can request 16 annotations of 1,024
/// characters.
const REQUESTED_ANNOTATIONS: usize = 24 << 10;
/// The number of bytes of labels that are retained of a namespace.
const NAMESPACE_LABELS: usize = 16 << 10;

/// A kind that the client reads.
pub trait Readable: Resource<DynamicType = ()> + DeserializeOwned {
    /// The metadata that the client retains.
    const KEEP: Keep;
    /// The number of bytes that an object can take. A larger one is invalid.
    const MAX_SIZE: usize = usize::MAX;
}

/// The number of bytes that an object with a status can take. etcd refuses objects over 1.5 MiB by default; beyond this limit, an
/// object could not be revoked or deleted, or its status could not be written.
const STATUS_FITS: usize = 1 << 20;

const NONE: Keys = Keys { named: &[], prefix: "", others: 0 };

/// For objects that users write: the annotations by which they make requests.
const USERS: Keep = Keep {
    labels: NONE,
    annotations: Keys { named: REQUESTS, prefix: "credential-operator.io/", others: SHORT },
    // Whether an object has any finalizer decides which JSON patch adds one.
    finalizers: 1,
    finalizer: name::FINALIZER,
    truncated: None,
};

/// For objects that the controller writes: its own labels and annotations.
const MANAGED: Keep =
    Keep { labels: Keys { named: LABELS, ..NONE }, annotations: Keys { named: MARKS, ..NONE }, ..USERS };

/// For Secrets: also the labels and annotations that users can request.
const SECRET: Keep = Keep {
    labels: Keys { others: REQUESTED_LABELS, ..MANAGED.labels },
    annotations: Keys { named: SECRET_MARKS, others: REQUESTED_ANNOTATIONS, ..NONE },
    ..MANAGED
};

/// For namespaces: the labels, by which policies select them.
const NAMESPACE: Keep = Keep {
    labels: Keys { others: NAMESPACE_LABELS, ..NONE },
    annotations: NONE,
    truncated: Some(name::TRUNCATED_LABEL),
    ..USERS
};

macro_rules! readable {
    ($keep:expr => $($kind:ty),+ $(,)?) => {
        $(impl Readable for $kind { const KEEP: Keep = $keep; })+
    };
}

impl Readable for ApiToken {
    const KEEP: Keep = USERS;
    const MAX_SIZE: usize = STATUS_FITS;
}

impl Readable for Credential {
    const KEEP: Keep = USERS;
    const MAX_SIZE: usize = STATUS_FITS;
}

readable!(USERS => CredentialPolicy);
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

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::{
        client::{
            Watched,
            prune::{Document, Pruner, Shape},
        },
        domain::{
            digest::MaterialAttestation,
            material::{MAX_NAMES, SEPARATOR},
        },
    };

    /// The metadata of a Secret as the client reads it.
    fn read(metadata: &serde_json::Value) -> kube::api::ObjectMeta {
        let mut found = None;
        let mut pruner = Pruner::new(Shape::Object, Secret::KEEP);
        let json = json!({ "metadata": metadata }).to_string();
        pruner.feed(json.as_bytes(), &mut |document| found = Some(document)).unwrap();
        let Some(Document::Item(json, _)) = found else { panic!("nothing was read") };
        Watched::<PartialObjectMeta<Secret>>::read(&json, json.len()).unwrap().0.unwrap().metadata
    }

    #[test]
    fn the_attestation_of_a_secret_with_as_many_keys_as_allowed_is_read() {
        for length in [1, 10, 253] {
            let keys = (0..MAX_NAMES / (length + SEPARATOR)).map(|_| "k".repeat(length)).collect();
            let attestation =
                MaterialAttestation { keys, proof: "p".repeat(100), ..MaterialAttestation::default() };
            let text = json!(attestation).to_string();
            let metadata = read(&json!({"name": "s", "annotations": {name::ATTESTATION_ANNOTATION: text}}));
            assert_eq!(metadata.annotations.unwrap()[name::ATTESTATION_ANNOTATION], text, "{length}");
        }
    }

    #[test]
    fn what_users_may_request_of_a_secret_is_read_beside_the_annotations_of_the_controller() {
        let key = |n: usize| format!("{}.x/{}", format!("a{n:02}").repeat(83), "n".repeat(63));
        let labels: Map<_, _> = (0..16).map(|n| (key(n), json!("v".repeat(63)))).collect();
        let requested = |n: usize| (key(n), json!("v".repeat(1024)));
        let mut annotations: Map<_, _> = (0..16).map(requested).collect();
        let published = json!({"labels": labels.keys().collect::<Vec<_>>(), "annotations": annotations.keys().collect::<Vec<_>>()});
        annotations.insert(name::PUBLISHED_ANNOTATION.to_owned(), json!(published.to_string()));
        let metadata = read(&json!({"name": "s", "labels": labels, "annotations": annotations}));
        assert_eq!(json!(metadata.labels), json!(labels));
        assert_eq!(json!(metadata.annotations), json!(annotations));
    }
}
