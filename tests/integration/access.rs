//! What the audit log says of the whole run: the operator used each right that it has, and missed none.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::rbac::v1::ClusterRole;

use crate::support::{OPERATOR_NAMESPACE, OPERATOR_USER, Space, World};

crate::tests![each_right_was_used, each_denial_was_provoked, each_deletion_named_a_uid];

/// Verb, resource, and the name where the right is for one object alone.
type Right = (String, String, Option<String>);

fn granted() -> BTreeSet<Right> {
    let files = [
        include_str!("../../deploy/controller.yaml"),
        include_str!("../../deploy/service-account-tokens/rights.yaml"),
    ];
    let documents = files.into_iter().flat_map(|documents| documents.split("\n---\n"));
    let roles = documents.filter(|document| document.contains("\nkind: ClusterRole\n"));
    let roles = roles.map(|document| serde_yaml_ng::from_str::<ClusterRole>(document).unwrap());
    let granted = roles.flat_map(|role| role.rules.unwrap_or_default());
    granted
        .flat_map(|rule| {
            let names = rule.resource_names.filter(|names| !names.is_empty());
            let names = names.map_or(vec![None], |names| names.into_iter().map(Some).collect());
            let mut rights = Vec::new();
            for resource in rule.resources.unwrap_or_default() {
                for verb in &rule.verbs {
                    rights.extend(names.iter().map(|name| (verb.clone(), resource.clone(), name.clone())));
                }
            }
            rights
        })
        .collect()
}

async fn each_right_was_used(world: Arc<World>, _: Space) {
    let log = world.control_plane.audit_log().unwrap();
    let mut used: BTreeSet<_> = log
        .iter()
        .filter(|event| event.user.username == OPERATOR_USER)
        // What was not found was looked for by right.
        .filter(|event| {
            event.response_status.as_ref().is_some_and(|status| status.code < 300 || status.code == 404)
        })
        .filter_map(|event| Some((event, event.object_ref.clone()?)))
        .flat_map(|(event, object)| {
            let subresource = if object.subresource.is_empty() {
                String::new()
            } else {
                format!("/{}", object.subresource)
            };
            let right = |name| (event.verb.clone(), format!("{}{subresource}", object.resource), name);
            [right(None), right(Some(object.name.clone()))]
        })
        .collect();
    // That right the API server itself asks for: whoever binds a role with rights beyond their own must have it.
    let bound = log.iter().filter(|event| {
        event.user.username == OPERATOR_USER
            && event.verb == "create"
            && event.response_status.as_ref().is_some_and(|status| status.code == 201)
    });
    used.extend(bound.filter_map(|event| {
        let role = &event.request_object.as_ref()?["roleRef"];
        let resource = role["kind"].as_str()?.to_lowercase() + "s";
        Some(("bind".to_owned(), resource, Some(role["name"].as_str()?.to_owned())))
    }));
    let granted = granted();
    let unused: Vec<_> = granted.difference(&used).collect();
    assert!(unused.is_empty(), "granted in deploy, but no test made the operator use it: {unused:?}");
}

async fn each_denial_was_provoked(world: Arc<World>, _: Space) {
    // By these tests, and nothing else: a role that the operator may not bind.
    let provoking = [
        "a-role-that-the-operator-may-not-bind",
        "a-role-that-the-controller-only-has",
        "what-cannot-succeed",
        "each-state-is-told",
    ];
    let log = world.control_plane.audit_log().unwrap();
    let unexpected: Vec<_> = log
        .iter()
        .filter(|event| event.user.username == OPERATOR_USER)
        .filter(|event| event.response_status.as_ref().is_some_and(|status| status.code == 403))
        .filter(|event| {
            let object = event.object_ref.clone().unwrap_or_default();
            let provoked = object.resource == "rolebindings"
                && event.verb == "create"
                && provoking.iter().any(|test| object.namespace.contains(test));
            // Whoever makes something anew may come too late in a namespace that is being deleted.
            let ending = event.verb == "create" && object.namespace.contains("ends-namespace");
            // What shows that the admission policies are in force.
            let canary = event.verb == "create"
                && object.resource == "credentials"
                && object.namespace == OPERATOR_NAMESPACE;
            !(provoked || ending || canary)
        })
        .map(|event| format!("{} {}", event.verb, event.request_uri))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}

async fn each_deletion_named_a_uid(world: Arc<World>, _: Space) {
    let log = world.control_plane.audit_log().unwrap();
    let deletions: Vec<_> =
        log.iter().filter(|event| event.user.username == OPERATOR_USER && event.verb == "delete").collect();
    assert!(deletions.len() > 1_000);
    for event in deletions {
        let body = event.request_object.as_ref();
        let uid = body.and_then(|body| body["preconditions"]["uid"].as_str());
        assert!(uid.is_some_and(|uid| !uid.is_empty()), "{} without a UID", event.request_uri);
    }
    let collections =
        log.iter().filter(|event| event.user.username == OPERATOR_USER && event.verb == "deletecollection");
    assert_eq!(collections.count(), 0);
}
