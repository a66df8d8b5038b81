//! What somebody with a controller's token tries beyond what a controller does, with more permissions than RBAC gives it.

use serde_json::{Value, json};

use super::{
    SECOND_CONTROLLER,
    case::{Act, Allowed, Attack, EDITOR, Kind, Remedy, Who},
};
use crate::support::KEYRING;

const LABEL: &str = "labels: {app.kubernetes.io/managed-by: credential-operator}";
/// Of a version that garbage collection cannot look up, so that it leaves the object.
const OWNER: &str =
    "ownerReferences: [{apiVersion: credential-operator.io/v0, kind: ApiToken, name: t, uid: u}]";
const MADE_FOR: &str = "annotations: {credential-operator.io/made-for: '{}'}";
const ATTESTATION: &str = "annotations: {credential-operator.io/attestation: '{}'}";
const FOR_STRONG: &str = "annotations: {kubernetes.io/service-account.name: strong}";
const STRONG: &str = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: strong}\n---\n";
const VIEW: &str = "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}";
/// What a controller's binding bears.
const BOUND: &str = "labels: {app.kubernetes.io/managed-by: credential-operator}, \
                     annotations: {credential-operator.io/owner: $ns/c, credential-operator.io/owner-uid: u}";
const CREDENTIALS: &str = "{kind: ServiceAccount, namespace: $ns, name: c-credential}";

fn secret(metadata: &str, rest: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{{metadata}}}\n{rest}\n---\n")
}

fn account(metadata: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{{metadata}}}\n---\n")
}

fn binding(kind: &str, metadata: &str, subjects: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{{metadata}}}\n{VIEW}\nsubjects: [{subjects}]\n---\n"
    )
}

fn stolen(
    name: &'static str,
    given: String,
    may: &'static [&'static str],
    act: Act,
    refused_by: &'static str,
    says: &'static str,
    remedy: Remedy,
) -> Attack {
    Attack { name, given, who: Who::Controller, may, act, refused_by, says, remedy }
}

pub fn attacks() -> Vec<Attack> {
    [of_secrets(), of_accounts(), of_bindings(), of_own_bindings()].into_iter().flatten().collect()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn of_secrets() -> Vec<Attack> {
    let create = |name, metadata: &str, rest: &str, says| {
        let may = &["create secrets"];
        let instead = Act::Create(secret(
            &format!("name: mine, {OWNER}"),
            "type: kubernetes.io/tls\n\
            data: {tls.crt: '', tls.key: ''}",
        ));
        let act = Act::Create(secret(metadata, rest));
        stolen(name, STRONG.to_owned(), may, act, "controller-secrets", says, Remedy::Instead(instead))
    };
    let wrong_type = "user $user is a controller of credentials: Secret \"mine\" has a type that the operator does not create. Use \
                      one of Opaque, kubernetes.io/basic-auth, kubernetes.io/dockerconfigjson, kubernetes.io/ssh-auth, \
                      kubernetes.io/tls.";
    let touch = |name, metadata: &str, act| {
        let given = secret(metadata, "stringData: {a: b}");
        let marked = secret(
            "name: other, labels: {app.kubernetes.io/managed-by: credential-operator}",
            "stringData: {a: b}",
        );
        let says = "is not managed by the operator. If it belongs to a credential, set the label \
                    app.kubernetes.io/managed-by=credential-operator or the annotation credential-operator.io/made-for again.";
        let may = &["patch secrets", "delete secrets"];
        stolen(name, given, may, act, "controller-secrets", says, Remedy::Applied(marked))
    };
    let merge = |patch: Value| Act::Merge(Kind::Secret, "other", patch);
    let relabelled = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "credential-operator"}}});
    let adopted = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "credential-operator.io/v0", "kind": "ApiToken", "name": "t", "uid": "u"},
    ]}});
    let made_for = json!({"metadata": {"annotations": {"credential-operator.io/made-for": "{}"}}});
    let of_others = "ownerReferences: [{apiVersion: example.com/v0, kind: Credential, name: c, uid: u}]";
    vec![
        create(
            "a Secret that gets the token of any account",
            &format!("name: mine, {LABEL}, {FOR_STRONG}, {OWNER}"),
            "type: kubernetes.io/service-account-token",
            wrong_type,
        ),
        create(
            "a Secret that lets a node join",
            &format!("name: mine, {LABEL}, {OWNER}"),
            "type: bootstrap.kubernetes.io/token\nstringData: {token-id: abcdef, token-secret: abcdef0123456789}",
            wrong_type,
        ),
        create(
            "a Secret of a type of somebody else",
            &format!("name: mine, {OWNER}"),
            "type: example.com/any",
            wrong_type,
        ),
        create(
            "a Secret that nobody owns",
            &format!("name: mine, {LABEL}"),
            "stringData: {a: b}",
            "Secret \"mine\" has no owner of group credential-operator.io.",
        ),
        create(
            "a Secret that another Credential owns",
            &format!("name: mine, {of_others}"),
            "stringData: {a: b}",
            "Secret \"mine\" has no owner of group credential-operator.io.",
        ),
        create(
            "a keyring in a namespace of somebody",
            &format!("name: {KEYRING}"),
            "stringData: {a: b}",
            "Secret \"credential-operator-keyring\" has no owner of group credential-operator.io.",
        ),
        touch("a foreign Secret changed", "name: other", merge(json!({"stringData": {"a": "mine"}}))),
        touch("a foreign Secret labelled", "name: other", merge(relabelled)),
        touch("a foreign Secret given an owner", "name: other", merge(adopted)),
        touch("a foreign Secret given the annotation", "name: other", merge(made_for)),
        touch("a foreign Secret deleted", "name: other", Act::Delete(Kind::Secret, "other", None)),
        touch(
            "a foreign Secret that almost looks managed",
            "name: other, labels: {app.kubernetes.io/managed-by: helm, credential-operator.io/provided: 'true'}, \
             annotations: {made-for: '{}'}, ownerReferences: [{apiVersion: example.com/v0, kind: Credential, name: c, uid: u}]",
            Act::Delete(Kind::Secret, "other", None),
        ),
        touch(
            "a foreign Secret applied",
            "name: other",
            Act::Apply(secret("name: other", "stringData: {a: mine}")),
        ),
        // Whoever may edit a namespace may label such a Secret; its token would be made anew for another account.
        stolen(
            "the token of a labelled Secret",
            STRONG.to_owned()
                + &account("name: weak")
                + &secret(
                    &format!(
                        "name: mine, {LABEL}, annotations: {{kubernetes.io/service-account.name: weak}}"
                    ),
                    "type: kubernetes.io/service-account-token",
                ),
            &["patch secrets"],
            Act::Merge(
                Kind::Secret,
                "mine",
                json!({
                    "metadata": {"annotations": {
                        "kubernetes.io/service-account.name": "strong", "kubernetes.io/service-account.uid": null,
                    }},
                    "data": null,
                }),
            ),
            "controller-secrets",
            wrong_type,
            Remedy::By(Who::Admin),
        ),
    ]
}

fn of_accounts() -> Vec<Attack> {
    let create = |name, metadata: &str, says| {
        let instead = Act::Create(account(&format!("name: c-credential, {OWNER}")));
        let (may, act) = (&["create serviceaccounts"], Act::Create(account(metadata)));
        stolen(name, String::new(), may, act, "controller-serviceaccounts", says, Remedy::Instead(instead))
    };
    let touch = |name, metadata: &str, act, says| {
        let marked = account(&format!("name: c-credential, {LABEL}"));
        let may = &["patch serviceaccounts", "delete serviceaccounts"];
        let given = account(metadata);
        stolen(name, given, may, act, "controller-serviceaccounts", says, Remedy::Applied(marked))
    };
    let unmanaged = "ServiceAccount \"c-credential\" is not managed by the operator.";
    let mount = json!({"automountServiceAccountToken": true});
    let label = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "credential-operator"}}});
    let delete = |name| Act::Delete(Kind::ServiceAccount, name, None);
    vec![
        create(
            "an account of any name",
            &format!("name: strong, {LABEL}, {OWNER}"),
            "ServiceAccount \"strong\" does not belong to a credential. Name it *-credential.",
        ),
        create(
            "an account that nobody owns",
            &format!("name: c-credential, {LABEL}, {MADE_FOR}"),
            "ServiceAccount \"c-credential\" has no owner of group credential-operator.io.",
        ),
        touch(
            "a foreign account changed",
            "name: c-credential",
            Act::Merge(Kind::ServiceAccount, "c-credential", mount),
            unmanaged,
        ),
        touch(
            "a foreign account labelled",
            "name: c-credential",
            Act::Merge(Kind::ServiceAccount, "c-credential", label),
            unmanaged,
        ),
        touch("a foreign account deleted", "name: c-credential", delete("c-credential"), unmanaged),
        stolen(
            "a labelled account of another name deleted",
            account(&format!("name: strong, {LABEL}")) + &account(&format!("name: c-credential, {LABEL}")),
            &["delete serviceaccounts"],
            delete("strong"),
            "controller-serviceaccounts",
            "ServiceAccount \"strong\" does not belong to a credential.",
            Remedy::Instead(delete("c-credential")),
        ),
    ]
}

fn of_bindings() -> Vec<Attack> {
    let create = |name, kind: &str, metadata: &str, subjects: &str, says| {
        let (may, instead): (&[&str], _) = if kind == "RoleBinding" {
            (
                &["create rolebindings", "bind clusterroles view"],
                binding(kind, &format!("name: mine, {BOUND}"), CREDENTIALS),
            )
        } else {
            (
                &["create clusterrolebindings @*", "bind clusterroles view @*"],
                binding(kind, &format!("name: $ns.mine, {BOUND}"), CREDENTIALS),
            )
        };
        let act = Act::Create(binding(kind, metadata, subjects));
        stolen(
            name,
            String::new(),
            may,
            act,
            "controller-bindings",
            says,
            Remedy::Instead(Act::Create(instead)),
        )
    };
    let marked = format!("name: mine, {BOUND}");
    let everywhere = format!("name: $ns.mine, {BOUND}");
    let user = "{kind: User, apiGroup: rbac.authorization.k8s.io, name: jane-credential}";
    let group = "{kind: Group, apiGroup: rbac.authorization.k8s.io, name: 'system:authenticated'}";
    let strong = "{kind: ServiceAccount, namespace: $ns, name: strong}";
    let both = format!("{CREDENTIALS}, {user}");
    let says = "rolebindings \"mine\" has a subject that is no ServiceAccount of a credential. Name only ServiceAccounts called \
                *-credential.";
    let says_everywhere =
        "clusterrolebindings \"$ns.mine\" has a subject that is no ServiceAccount of a credential.";
    let unnamed = "rolebindings \"mine\" does not name its credential.";
    let given = binding(
        "RoleBinding",
        "name: other",
        "{kind: User, apiGroup: rbac.authorization.k8s.io, name: jane}",
    );
    let touch = |name, act| {
        let marked = binding("RoleBinding", &format!("name: other, {BOUND}"), CREDENTIALS);
        let may = &["patch rolebindings", "delete rolebindings", "bind clusterroles view"];
        let says = "Binding \"other\" is not managed by the operator.";
        stolen(name, given.clone(), may, act, "controller-bindings", says, Remedy::Applied(marked))
    };
    let ours = binding("RoleBinding", &marked, CREDENTIALS);
    let reader = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader}\n\
                  rules: [{apiGroups: [''], resources: [configmaps], verbs: [get]}]\n---\n";
    let passed_on = stolen(
        "a role whose permissions the controller has",
        reader.to_owned(),
        &["create rolebindings", "bind clusterroles view", "get configmaps"],
        Act::Create(
            ours.replace(VIEW, "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}"),
        ),
        "controller-bindings",
        "Role \"reader\" may not be bound. Grant the controller the verb bind on it.",
        Remedy::Instead(Act::Create(ours)),
    );
    vec![
        passed_on,
        create("a binding for a user", "RoleBinding", &marked, user, says),
        create("a binding for a group", "RoleBinding", &marked, group, says),
        create("a binding for a foreign account", "RoleBinding", &marked, strong, says),
        create("a binding for a credential and a user", "RoleBinding", &marked, &both, says),
        create("a binding for nobody", "RoleBinding", &marked, "", says),
        create("a binding for a user everywhere", "ClusterRoleBinding", &everywhere, user, says_everywhere),
        create(
            "a binding for a foreign account everywhere",
            "ClusterRoleBinding",
            &everywhere,
            strong,
            says_everywhere,
        ),
        create("a binding without a credential", "RoleBinding", "name: mine", CREDENTIALS, unnamed),
        create(
            "a binding with a label only",
            "RoleBinding",
            &format!("name: mine, {LABEL}"),
            CREDENTIALS,
            unnamed,
        ),
        touch("a foreign binding deleted", Act::Delete(Kind::RoleBinding, "other", None)),
        touch(
            "a foreign binding labelled",
            Act::Merge(
                Kind::RoleBinding,
                "other",
                json!({
                    "metadata": {"labels": {"app.kubernetes.io/managed-by": "credential-operator"}},
                    "subjects": [{"kind": "ServiceAccount", "namespace": "$ns", "name": "c-credential"}],
                }),
            ),
        ),
    ]
}

/// A binding of the operator is changed only to remove its finalizers.
fn of_own_bindings() -> Vec<Attack> {
    let own = binding("RoleBinding", &format!("name: mine, {BOUND}"), CREDENTIALS);
    let others = json!([{"kind": "ServiceAccount", "namespace": "$ns", "name": "d-credential"}]);
    vec![stolen(
        "a binding given to another credential",
        own,
        &["patch rolebindings", "bind clusterroles view"],
        Act::Merge(Kind::RoleBinding, "mine", json!({ "subjects": others })),
        "controller-bindings",
        "rolebindings \"mine\" may not get other subjects.",
        Remedy::Instead(Act::Merge(Kind::RoleBinding, "mine", json!({"metadata": {"finalizers": null}}))),
    )]
}

/// The finalizers of a binding whose subjects somebody else changed.
pub fn released() -> Vec<Allowed> {
    let held = binding(
        "RoleBinding",
        &format!("name: mine, {BOUND}, finalizers: [example.com/keep]"),
        "{kind: User, apiGroup: rbac.authorization.k8s.io, name: jane}",
    );
    vec![Allowed {
        name: "the finalizers of a binding removed",
        given: held,
        who: Who::Controller,
        may: &["patch rolebindings"],
        act: Act::Merge(Kind::RoleBinding, "mine", json!({"metadata": {"finalizers": null}})),
    }]
}

/// What a controller does, also with what somebody took marks off; and what everybody else does.
pub fn allowed() -> Vec<Allowed> {
    let by = |who, may, name, given: String, act| Allowed { name, given, who, may, act };
    let controller = Who::Controller;
    let delete = Act::Delete(Kind::Secret, "mine", None);
    let merge = |patch| Act::Merge(Kind::Secret, "mine", patch);
    let value = json!({"stringData": {"a": "b"}});
    let of = |metadata: &str| secret(&format!("name: mine, {metadata}"), "stringData: {a: c}");
    let many: Vec<_> = (0..300)
        .map(|n| format!("{{apiVersion: example.com/v0, kind: Any, name: n{n}, uid: u{n}}}"))
        .collect();
    let buried = format!("ownerReferences: [{}]", many.join(", "));
    let (home, _) = SECOND_CONTROLLER;
    let keyring = |data: &str| {
        secret(&format!("namespace: {home}, name: {KEYRING}"), &format!("stringData: {{{data}}}"))
    };
    let everyones = &[
        "create secrets",
        "patch secrets",
        "delete secrets",
        "create serviceaccounts",
        "create rolebindings",
        "bind clusterroles view",
    ];
    let user = "{kind: User, apiGroup: rbac.authorization.k8s.io, name: jane}";
    vec![
        by(
            controller,
            &["create secrets"],
            "a controller creates a Secret",
            String::new(),
            Act::Create(of(OWNER)),
        ),
        by(controller, &["delete secrets"], "a labelled Secret deleted", of(LABEL), delete.clone()),
        by(
            controller,
            &["delete secrets"],
            "an owned Secret without a label deleted",
            of(OWNER),
            delete.clone(),
        ),
        by(
            controller,
            &["delete secrets"],
            "an orphan without a label deleted",
            of(MADE_FOR),
            delete.clone(),
        ),
        by(controller, &["delete secrets"], "an attested Secret deleted", of(ATTESTATION), delete.clone()),
        by(controller, &["delete secrets"], "a Secret buried under owners deleted", of(&buried), delete),
        by(controller, &["patch secrets"], "a value renewed", of(LABEL), merge(value.clone())),
        by(
            controller,
            &["patch secrets"],
            "a label put back",
            of(OWNER),
            merge(json!({"metadata": {"labels": {
                "app.kubernetes.io/managed-by": "credential-operator",
            }}})),
        ),
        by(
            controller,
            &["create secrets @kube-public", "patch secrets @kube-public"],
            "a keyring of its own",
            keyring("a: b"),
            Act::Apply(keyring("b: c")),
        ),
        by(
            controller,
            &["patch serviceaccounts"],
            "an owner put back",
            account(&format!("name: c-credential, {LABEL}")),
            Act::Merge(Kind::ServiceAccount, "c-credential", json!({"metadata": {"labels": {"a": "b"}}})),
        ),
        by(
            controller,
            &["delete serviceaccounts"],
            "an account without a label deleted",
            account(&format!("name: c-credential, {MADE_FOR}")),
            Act::Delete(Kind::ServiceAccount, "c-credential", None),
        ),
        by(
            controller,
            &["delete rolebindings"],
            "a binding whose subjects somebody changed deleted",
            binding("RoleBinding", &format!("name: mine, {OWNER}"), user),
            Act::Delete(Kind::RoleBinding, "mine", None),
        ),
        by(
            EDITOR,
            everyones,
            "what others do with Secrets and bindings",
            STRONG.to_owned(),
            Act::Create(
                secret(&format!("name: mine, {FOR_STRONG}"), "type: kubernetes.io/service-account-token")
                    + &account("name: any")
                    + &binding("RoleBinding", "name: mine", user),
            ),
        ),
        by(EDITOR, everyones, "a foreign Secret changed by its owner", of("labels: {a: b}"), merge(value)),
    ]
}
