//! Attacks on roles.

use serde_json::json;

use super::case::{Act, Attack, EDITOR, Kind, Remedy, Who, credential, object};

const CREATE: &str = "create rolebindings";
const VIEW: &str = "roles: [{kind: ClusterRole, name: view}]";
const BIND_VIEW: Remedy = Remedy::Rights(&["bind clusterroles view"]);
const BIND_EDIT: Remedy = Remedy::Rights(&["bind clusterroles edit"]);
const NO_BIND_OF_EDIT: &str = "user $user may not grant ClusterRole edit in namespace $ns: the verb bind on clusterroles/edit in \
                               namespace $ns is missing; ask for it, or remove the grant from spec.roles";

fn attack(name: &'static str, given: String, act: Act, says: &'static str, remedy: Remedy) -> Attack {
    Attack { name, given, who: EDITOR, may: &[CREATE], act, refused_by: "grants-1", says, remedy }
}

fn inactive(spec: &str) -> String {
    credential(&format!("{{state: Inactive, {spec}}}"))
}

fn active(spec: &str) -> String {
    credential(&format!("{{{spec}}}"))
}

/// Sixteen grants in as many namespaces, the last of a role of its own.
fn sixteen() -> String {
    let grants = (0..16).map(|number| {
        let name = if number == 15 { "edit" } else { "view" };
        format!("{{kind: ClusterRole, name: {name}, namespace: n{number}}}")
    });
    format!("roles: [{}]", grants.collect::<Vec<_>>().join(", "))
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub fn attacks() -> Vec<Attack> {
    let edit = json!({"kind": "ClusterRole", "name": "edit"});
    let view = json!({"kind": "ClusterRole", "name": "view"});
    let roles = |roles: &[&serde_json::Value]| json!({"spec": {"roles": roles}});
    let merge = |patch| Act::Merge(Kind::Credential, "c", patch);
    vec![
        attack(
            "a strong role from the start",
            String::new(),
            Act::Apply(active("roles: [{kind: ClusterRole, name: edit}]")),
            NO_BIND_OF_EDIT,
            BIND_EDIT,
        ),
        Attack {
            may: &["bind clusterroles view"],
            ..attack(
                "a role by who creates no bindings",
                String::new(),
                Act::Apply(active(VIEW)),
                "user $user may not grant ClusterRole view in namespace $ns: the right to create rolebindings in namespace $ns is \
                 missing",
                Remedy::Rights(&[CREATE]),
            )
        },
        attack("a role added", active(VIEW), merge(roles(&[&view, &edit])), NO_BIND_OF_EDIT, BIND_EDIT),
        attack(
            "the first role added",
            active("displayName: Test"),
            merge(roles(&[&view])),
            "the verb bind on clusterroles/view in namespace $ns is missing",
            BIND_VIEW,
        ),
        attack("a role put before others", active(VIEW), merge(roles(&[&edit, &view])), NO_BIND_OF_EDIT, BIND_EDIT),
        attack("a role flipped", active(VIEW), merge(roles(&[&edit])), NO_BIND_OF_EDIT, BIND_EDIT),
        attack(
            "a role of another kind",
            active("roles: [{kind: Role, name: edit}]"),
            merge(roles(&[&edit])),
            NO_BIND_OF_EDIT,
            BIND_EDIT,
        ),
        attack(
            "a role of the namespace",
            String::new(),
            Act::Apply(active("roles: [{kind: Role, name: deployer}]")),
            "may not grant Role deployer in namespace $ns: the verb bind on roles/deployer in namespace $ns is missing",
            Remedy::Rights(&["bind roles deployer"]),
        ),
        Attack {
            may: &[CREATE, "bind clusterroles view", CREATE_OTHER],
            ..attack(
                "a foreign namespace as target",
                active(VIEW),
                merge(roles(&[&view, &json!({"kind": "ClusterRole", "name": "view", "namespace": "$other"})])),
                "the verb bind on clusterroles/view in namespace $other is missing",
                Remedy::Rights(&["bind clusterroles view @$other"]),
            )
        },
        Attack {
            may: &[CREATE, "bind clusterroles view", "bind clusterroles view @$other"],
            ..attack(
                "a target without bindings",
                active(VIEW),
                Act::Apply(active("roles: [{kind: ClusterRole, name: view, namespace: $other}]")),
                "may not grant ClusterRole view in namespace $other: the right to create rolebindings in namespace $other is missing",
                Remedy::Rights(&[CREATE_OTHER]),
            )
        },
        Attack {
            may: &[CREATE, "bind clusterroles view"],
            ..attack(
                "a target flipped",
                active(VIEW),
                merge(roles(&[&json!({"kind": "ClusterRole", "name": "view", "namespace": "$other"})])),
                "in namespace $other is missing",
                Remedy::Rights(&[CREATE_OTHER, "bind clusterroles view @$other"]),
            )
        },
        Attack {
            may: &[CREATE, "bind clusterroles view"],
            ..attack(
                "a local role for the whole cluster",
                active(VIEW),
                merge(roles(&[&json!({"kind": "ClusterRole", "name": "view", "clusterWide": true})])),
                "may not grant ClusterRole view in the whole cluster: the right to create clusterrolebindings in the whole cluster is \
                 missing",
                Remedy::Rights(&["create clusterrolebindings @*", "bind clusterroles view @*"]),
            )
        },
        Attack {
            may: &["create clusterrolebindings @*", "bind clusterroles view"],
            ..attack(
                "bind in one namespace for the whole cluster",
                String::new(),
                Act::Apply(active("roles: [{kind: ClusterRole, name: view, clusterWide: true}]")),
                "the verb bind on clusterroles/view in the whole cluster is missing",
                Remedy::Rights(&["bind clusterroles view @*"]),
            )
        },
        Attack {
            may: &[CREATE, "issue credentials c"],
            ..attack(
                "reactivation",
                inactive("roles: [{kind: ClusterRole, name: edit}]"),
                merge(json!({"spec": {"state": "Active"}})),
                NO_BIND_OF_EDIT,
                BIND_EDIT,
            )
        },
        Attack {
            may: &[CREATE, "issue credentials c"],
            ..attack(
                "reactivation by default",
                inactive("roles: [{kind: ClusterRole, name: edit}]"),
                merge(json!({"spec": {"state": null}})),
                NO_BIND_OF_EDIT,
                BIND_EDIT,
            )
        },
        Attack {
            may: &[CREATE, "issue credentials c", "bind clusterroles view"],
            ..attack(
                "reactivation with another role",
                inactive(VIEW),
                merge(json!({"spec": {"state": "Active", "roles": [edit]}})),
                NO_BIND_OF_EDIT,
                BIND_EDIT,
            )
        },
        attack(
            "a strong role while inactive",
            inactive("displayName: Test"),
            merge(roles(&[&edit])),
            NO_BIND_OF_EDIT,
            BIND_EDIT,
        ),
        attack(
            "created inactive with a strong role",
            String::new(),
            Act::Apply(inactive("roles: [{kind: ClusterRole, name: edit}]")),
            NO_BIND_OF_EDIT,
            BIND_EDIT,
        ),
        attack(
            "an aggregated role",
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: aggregated-$ns}\n\
             aggregationRule: {clusterRoleSelectors: [{matchLabels: {rbac.authorization.k8s.io/aggregate-to-admin: 'true'}}]}\n---\n"
                .to_owned(),
            Act::Apply(active("roles: [{kind: ClusterRole, name: aggregated-$ns}]")),
            "the verb bind on clusterroles/aggregated-$ns in namespace $ns is missing",
            Remedy::Rights(&["bind clusterroles aggregated-$ns"]),
        ),
        Attack {
            may: &[CREATE, "bind clusterroles view"],
            ..attack(
                "the right to bind another role",
                String::new(),
                Act::Apply(active("roles: [{kind: ClusterRole, name: edit}]")),
                NO_BIND_OF_EDIT,
                BIND_EDIT,
            )
        },
        Attack {
            refused_by: "grants-2",
            may: &[
                "create rolebindings @*",
                "bind clusterroles view @*",
            ],
            ..attack(
                "the sixteenth of sixteen",
                String::new(),
                Act::Apply(active(&sixteen())),
                "may not grant ClusterRole edit in namespace n15: the verb bind on clusterroles/edit in namespace n15 is missing",
                Remedy::Rights(&["bind clusterroles edit @*"]),
            )
        },
        attack(
            "the own namespace by its name",
            String::new(),
            Act::Apply(active("roles: [{kind: ClusterRole, name: edit, namespace: $ns}]")),
            NO_BIND_OF_EDIT,
            BIND_EDIT,
        ),
        attack(
            "a dry run",
            String::new(),
            Act::DryRun(Box::new(Act::Create(active("roles: [{kind: ClusterRole, name: edit}]")))),
            NO_BIND_OF_EDIT,
            BIND_EDIT,
        ),
        attack(
            "a generated name",
            String::new(),
            Act::Create(object("Credential", "{generateName: c-}", "{roles: [{kind: ClusterRole, name: edit}]}")),
            NO_BIND_OF_EDIT,
            BIND_EDIT,
        ),
        attack(
            "written back whole",
            active(VIEW),
            Act::Replace(Kind::Credential, "c", roles(&[&view, &edit])),
            NO_BIND_OF_EDIT,
            BIND_EDIT,
        ),
        attack(
            "applied by another manager",
            active(VIEW),
            Act::Apply(active("roles: [{kind: ClusterRole, name: view}, {kind: ClusterRole, name: edit}]")),
            NO_BIND_OF_EDIT,
            BIND_EDIT,
        ),
        Attack {
            who: Who::Account("edit"),
            ..attack(
                "an account with Kubernetes own edit",
                String::new(),
                Act::Apply(active(VIEW)),
                "user system:serviceaccount:$ns:somebody may not grant ClusterRole view in namespace $ns: the verb bind on \
                 clusterroles/view in namespace $ns is missing",
                BIND_VIEW,
            )
        },
        Attack {
            who: Who::Account("admin"),
            may: &[],
            ..attack(
                "an account with Kubernetes own admin",
                String::new(),
                Act::Apply(active("roles: [{kind: ClusterRole, name: edit}]")),
                "the verb bind on clusterroles/edit in namespace $ns is missing",
                BIND_EDIT,
            )
        },
    ]
}

const CREATE_OTHER: &str = "create rolebindings @$other";
