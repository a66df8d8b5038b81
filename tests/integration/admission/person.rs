//! Somebody with rights of their own.

use std::time::Duration;

use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{DEADLINE, Space, World, apply};

/// A user by certificate, or a `ServiceAccount`.
pub struct Person {
    pub client: Client,
    pub identity: control_plane::Identity,
    /// As the API server calls them.
    pub user: String,
    subject: Value,
    admin: Client,
    namespace: String,
}

/// `VERB RESOURCE [NAME] [@NAMESPACE]`; `@*` is everywhere, without it the namespace of the case is meant.
struct Right {
    verb: String,
    group: &'static str,
    resource: String,
    name: Option<String>,
    namespace: Option<String>,
}

impl Right {
    fn parse(text: &str, own: &str) -> Self {
        let (words, place): (Vec<_>, Vec<_>) =
            text.split_whitespace().partition(|word| !word.starts_with('@'));
        let namespace = place.first().map_or(own, |place| &place[1..]);
        let resource = words[1];
        let group = match resource.split('/').next().unwrap_or_default() {
            "clusterroles" | "roles" | "rolebindings" | "clusterrolebindings" => "rbac.authorization.k8s.io",
            "secrets" | "serviceaccounts" | "namespaces" | "configmaps" => "",
            "validatingadmissionpolicies" => "admissionregistration.k8s.io",
            _ => "credential-operator.io",
        };
        Self {
            verb: words[0].to_owned(),
            group,
            resource: resource.to_owned(),
            name: words.get(2).map(|name| (*name).to_owned()),
            namespace: (namespace != "*").then(|| namespace.to_owned()),
        }
    }
}

impl Person {
    pub fn user(world: &World, space: &Space) -> Self {
        let user = format!("{}-user", space.namespace);
        let identity = world.control_plane.user(&user, None).unwrap();
        let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user});
        Self::new(world, space, identity, user, subject)
    }

    pub async fn account(world: &World, namespace: &str, name: &str, space: &Space) -> Self {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(world.admin.clone(), namespace);
        match accounts.create(&PostParams::default(), &account).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
        let identity = world.control_plane.service_account(namespace, name).await.unwrap();
        let subject = json!({"kind": "ServiceAccount", "namespace": namespace, "name": name});
        Self::new(world, space, identity, format!("system:serviceaccount:{namespace}:{name}"), subject)
    }

    /// Whoever may do everything.
    pub fn admin(world: &World, space: &Space) -> Self {
        let identity = world.control_plane.admin().clone();
        Self::new(world, space, identity, "admin".to_owned(), Value::Null)
    }

    fn new(
        world: &World,
        space: &Space,
        identity: control_plane::Identity,
        user: String,
        subject: Value,
    ) -> Self {
        Self {
            client: identity.client().unwrap(),
            identity,
            user,
            subject,
            admin: world.admin.clone(),
            namespace: space.namespace.clone(),
        }
    }

    /// Binds a ClusterRole in the namespace of the case, and waits until that holds; `right` is one that comes with it.
    pub async fn bind(&self, role: &str, right: &str) {
        self.bound(role, Some(&self.namespace)).await;
        self.holds(&Right::parse(right, &self.namespace)).await;
    }

    /// Binds a ClusterRole everywhere.
    pub async fn bind_everywhere(&self, role: &str, right: &str) {
        self.bound(role, None).await;
        self.holds(&Right::parse(right, &self.namespace)).await;
    }

    /// Gives a right, and waits until it holds.
    pub async fn give(&self, right: &str) {
        let right = Right::parse(right, &self.namespace);
        let (verb, resource, name) =
            (&right.verb, &right.resource, right.name.as_deref().unwrap_or_default());
        let role = format!("{}.{verb}.{}.{name}", self.namespace, resource.replace('/', "-"));
        let mut granted = json!({"apiGroups": [right.group], "resources": [resource], "verbs": [verb]});
        if let Some(name) = &right.name {
            granted["resourceNames"] = json!([name]);
        }
        let object = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": role}, "rules": [granted],
        });
        apply(&self.admin, "", object).await.unwrap();
        if let Some(other) = right.namespace.as_ref().filter(|namespace| **namespace != self.namespace) {
            let other = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}});
            apply(&self.admin, "", other).await.unwrap();
        }
        self.bound(&role, right.namespace.as_deref()).await;
        self.holds(&right).await;
    }

    /// Binds a ClusterRole, in one namespace or everywhere.
    async fn bound(&self, role: &str, namespace: Option<&str>) {
        let kind = if namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
        let name = format!("{}.{role}", self.user.replace(':', "."));
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [self.subject],
        });
        apply(&self.admin, namespace.unwrap_or_default(), binding).await.unwrap();
    }

    async fn holds(&self, right: &Right) {
        let deadline = Instant::now() + DEADLINE;
        while !self.has(right).await {
            assert!(Instant::now() < deadline, "{} has not {} {}", self.user, right.verb, right.resource);
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn has(&self, right: &Right) -> bool {
        let (resource, subresource) = right.resource.split_once('/').unwrap_or((&right.resource, ""));
        let attributes = ResourceAttributes {
            verb: Some(right.verb.clone()),
            group: Some(right.group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource: Some(subresource.to_owned()),
            name: right.name.clone(),
            namespace: right.namespace.clone(),
            ..ResourceAttributes::default()
        };
        let spec =
            SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let reviewed = reviews.create(&PostParams::default(), &review).await.unwrap();
        reviewed.status.is_some_and(|status| status.allowed)
    }

    /// Whether the person has a right, written as for [`Person::give`].
    pub async fn may(&self, right: &str) -> bool {
        self.has(&Right::parse(right, &self.namespace)).await
    }
}
