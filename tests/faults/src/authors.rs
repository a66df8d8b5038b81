//! S7: whoever writes Credentials gains no rights by it. Every binding goes back to a write whose author could have made the
//! binding.

use std::collections::BTreeSet;

use control_plane::AuditEvent;
use credential_operator::{
    api::credential::Grant,
    domain::binding::{Binding, BindingKey},
};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{Api, Client, api::PostParams};
use serde::Deserialize;

/// Whose writes of Credentials are looked at. An administrator could have made any binding.
pub const AUTHOR: &str = "author";

/// What authors may do, whatever Credentials say: bind `view` anywhere. The operator may bind `edit`, too.
pub const RIGHTS: &str = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: author}
rules:
- {apiGroups: [credential-operator.io], resources: [credentials, apitokens], verbs: [get, create, patch, delete, issue]}
- {apiGroups: [''], resources: [secrets], verbs: [get, create]}
- {apiGroups: [rbac.authorization.k8s.io], resources: [rolebindings, clusterrolebindings], verbs: [create]}
- {apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], verbs: [bind], resourceNames: [view]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: author}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: author}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: author}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: more-bindable}
rules:
- {apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], verbs: [bind], resourceNames: [edit]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: more-bindable}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: more-bindable}
subjects: [{kind: ServiceAccount, name: credential-operator, namespace: credential-operator}]
";

/// The bindings that go back to no write, or to one of somebody who could not have made them. `made` is what the operator
/// did, `written` what authors did.
pub async fn gained(client: &Client, made: &[AuditEvent], written: &[AuditEvent]) -> Vec<String> {
    let mut gained = Vec::new();
    for event in made {
        let Some(binding) = made_by(event) else { continue };
        let key = binding.key();
        let role = format!("{} {}", binding.role_ref.kind, binding.role_ref.name);
        let before = written.iter().filter(|written| {
            written.request_received_timestamp <= event.request_received_timestamp && succeeded(written)
        });
        let authors: BTreeSet<_> = before.filter(|written| asks_for(written, &binding)).map(author).collect();
        let mut could = false;
        for author in &authors {
            could |= could_make(client, author, &key, &binding).await;
        }
        if authors.is_empty() {
            gained.push(format!("{key} grants {role}, which nobody asked for"));
        } else if !could {
            gained.push(format!("{key} grants {role}, which {authors:?} asked for and could not have bound"));
        }
    }
    gained
}

fn succeeded(event: &AuditEvent) -> bool {
    event.response_status.as_ref().is_some_and(|status| status.code < 300)
}

fn author(event: &AuditEvent) -> String {
    event.user.username.clone()
}

/// The binding that was made by a request.
fn made_by(event: &AuditEvent) -> Option<Binding> {
    if event.verb != "create" || !succeeded(event) {
        return None;
    }
    let body = event.request_object.clone()?;
    match event.object_ref.as_ref()?.resource.as_str() {
        "rolebindings" => serde_json::from_value::<RoleBinding>(body).ok().map(Into::into),
        "clusterrolebindings" => serde_json::from_value::<ClusterRoleBinding>(body).ok().map(Into::into),
        _ => None,
    }
}

/// Whether a write of a Credential has grants of which the binding is one.
fn asks_for(event: &AuditEvent, binding: &Binding) -> bool {
    let (Some(object), Some(owner)) = (&event.object_ref, binding.claimed_owner()) else {
        return false;
    };
    let body = event.request_object.as_ref();
    let roles = body.map(|body| &body["spec"]["roles"]).filter(|roles| roles.is_array());
    let grants = roles.and_then(|roles| Vec::<Grant>::deserialize(roles).ok()).unwrap_or_default();
    let asked = owner.bindings(&grants);
    let granted = asked.get(&binding.key()).is_some_and(|asked| asked.grants_the_same(binding));
    granted && (&object.namespace, &object.name) == (&owner.namespace, &owner.name)
}

async fn could_make(client: &Client, author: &str, key: &BindingKey, binding: &Binding) -> bool {
    let role = binding.role_ref.kind.to_lowercase() + "s";
    let made = if key.namespace.is_some() { "rolebindings" } else { "clusterrolebindings" };
    let namespace = key.namespace.as_deref();
    may(client, author, "create", made, None, namespace).await
        && may(client, author, "bind", &role, Some(&binding.role_ref.name), namespace).await
}

async fn may(
    client: &Client,
    author: &str,
    verb: &str,
    resource: &str,
    name: Option<&str>,
    namespace: Option<&str>,
) -> bool {
    let owned = |text: &str| Some(text.to_owned());
    let attributes = ResourceAttributes {
        group: owned("rbac.authorization.k8s.io"),
        verb: owned(verb),
        resource: owned(resource),
        name: name.map(ToOwned::to_owned),
        namespace: namespace.map(ToOwned::to_owned),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: owned(author),
        groups: Some(vec!["system:authenticated".to_owned()]),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let reviewed = Api::all(client.clone()).create(&PostParams::default(), &review).await;
    reviewed.is_ok_and(|reviewed| reviewed.status.is_some_and(|status| status.allowed))
}
