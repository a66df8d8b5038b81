//! The roles for people say what the page says.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::ClusterRole;

use super::{case::Who, person::Person};
use crate::support::{Space, World};

crate::tests![each_role_holds_what_it_says, no_role_is_wide];

const SEES: [&str; 2] = ["get credentials", "list apitokens"];
const EDITS: [&str; 4] =
    ["create credentials", "patch apitokens", "update credentials", "deletecollection apitokens"];
const ISSUES: [&str; 3] = ["issue credentials", "issue credentials c", "create apitokens"];
const GRANTS: [&str; 1] = ["bind clusterroles view"];
/// What comes with none of them.
const NEVER: [&str; 9] = [
    "update credentials/status",
    "patch apitokens/status",
    "update credentialpolicies/status @*",
    "get credentialpolicies @*",
    "create credentialpolicies @*",
    "bind clusterroles edit",
    "bind clusterroles",
    "bind clusterroles view @*",
    "patch namespaces @*",
];

async fn each_role_holds_what_it_says(world: Arc<World>, space: Space) {
    let roles: [(&str, [bool; 4]); 7] = [
        ("credential-operator-viewer", [true, false, false, false]),
        ("credential-operator-editor", [true, true, false, false]),
        ("credential-operator-admin", [true, true, true, true]),
        ("view", [true, false, false, false]),
        ("edit", [true, true, false, false]),
        ("admin", [true, true, true, true]),
        ("credential-operator-issuer", [true, false, true, false]),
    ];
    for (role, expected) in roles {
        let of_role = world.space(role).await;
        let person: Person = Who::User(role).person(&world, &of_role).await;
        for (rights, expected) in [&SEES[..], &EDITS, &ISSUES, &GRANTS].into_iter().zip(expected) {
            for right in rights {
                // An issuer writes tokens, and no credentials; an editor writes tokens, which admission lets nobody create
                // without the verb.
                if right.ends_with("apitokens") && !expected && !role.contains("view") {
                    continue;
                }
                assert_eq!(person.may(right).await, expected, "{role}: {right}");
            }
        }
        for right in NEVER {
            assert!(!person.may(right).await, "{role}: {right}");
        }
    }
    let person = Person::user(&world, &space);
    person.bind_everywhere("credential-operator-policy-admin", "create credentialpolicies @*").await;
    for right in
        ["get credentials", "issue credentials", "update credentialpolicies/status @*", "create credentials"]
    {
        assert!(!person.may(right).await, "{right}");
    }
}

async fn no_role_is_wide(_: Arc<World>, _: Space) {
    let documents = include_str!("../../../deploy/roles.yaml").split("\n---\n");
    for role in documents.map(|document| serde_yaml_ng::from_str::<ClusterRole>(document).unwrap()) {
        for rule in role.rules.unwrap() {
            let lists = [rule.api_groups.unwrap(), rule.resources.unwrap(), rule.verbs];
            for entry in lists.iter().flatten() {
                assert!(!entry.contains('*') && !entry.contains('/'), "{:?}: {entry}", role.metadata.name);
            }
            // Roles are bound by name alone.
            assert!(
                !lists[2].contains(&"bind".to_owned())
                    || rule.resource_names.is_some_and(|names| !names.is_empty())
            );
        }
    }
}
