//! What somebody has put where the operator looks for its own.

use serde_json::json;

use super::case::{Left, Tried};
use crate::admission::case::{Act, Kind, credential, token};

const VIEW: &str = "roles: [{kind: ClusterRole, name: view}]";
/// As the operator marks what it makes.
const OURS: &str = "labels: {app.kubernetes.io/managed-by: credential-operator}";

/// A binding that somebody made, of that metadata, with what it binds and whom.
fn binding(kind: &str, metadata: &str, role: &str, subject: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{{metadata}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role}}}\n\
         subjects: [{{kind: ServiceAccount, namespace: $ns, name: {subject}}}]\n---\n"
    )
}

fn account(metadata: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: c-credential, {metadata}}}\n---\n")
}

fn secret(metadata: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{{metadata}}}\nstringData: {{client-secret: planted, token: planted}}\n---\n"
    )
}

/// A credential with a role, where that stands in its way.
fn in_the_way(
    name: &'static str,
    given: String,
    spec: &str,
    says: &'static str,
    remedy: Act,
    then: &'static [&'static str],
) -> Tried {
    let planted_account = given.contains("kind: ServiceAccount\nmetadata");
    Tried {
        name,
        given,
        act: Act::Apply(credential(spec)),
        of: (Kind::Credential, "c"),
        reason: "Conflict",
        says,
        leaves: Left::These(if planted_account { &[] } else { &["+ ServiceAccount c-credential"] }),
        remedy,
        then,
    }
}

/// Something beside a credential with a role that stays as it is, and does not stay the credential.
fn beside(name: &'static str, planted: String, leaves: &'static [&'static str]) -> Tried {
    let looked_at = credential(&format!("{{description: looked at, {VIEW}}}"));
    Tried {
        name,
        given: credential(&format!("{{{VIEW}}}")),
        act: Act::Apply(planted + &looked_at),
        of: (Kind::Credential, "c"),
        reason: "Published",
        says: "",
        leaves: Left::These(leaves),
        remedy: Act::Merge(Kind::Credential, "c", json!({"spec": {"state": "Inactive"}})),
        then: &["- RoleBinding c-credential"],
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub fn attacks() -> Vec<Tried> {
    let view = format!("{{{VIEW}}}");
    let claims = "annotations: {credential-operator.io/owner: $ns/c, credential-operator.io/owner-uid: $uid}";
    let gone = "annotations: {credential-operator.io/owner: $ns/gone, credential-operator.io/owner-uid: \
                00000000-0000-4000-8000-000000000000}";
    let delete_account = || Act::Delete(Kind::ServiceAccount, "c-credential", None);
    let delete_binding = || Act::Delete(Kind::RoleBinding, "$bound", None);
    let bound_then: &[_] = &["+ RoleBinding c-credential", "~ ServiceAccount c-credential"];
    let not_ours =
        "ServiceAccount c-credential exists and is not this credential's; delete it if it is not needed";
    let in_its_place: &[_] = &["~ RoleBinding c-credential"];
    let binding_says =
        "RoleBinding $ns/$bound exists and is not this credential's; delete it if it is not needed";
    let mut attacks = vec![
        in_the_way("an account", account(""), &view, not_ours, delete_account(), bound_then),
        in_the_way("an account with our label", account(OURS), &view, not_ours, delete_account(), bound_then),
        in_the_way(
            "an account that says it was made elsewhere",
            account(&format!(
                "{OURS}, annotations: {{credential-operator.io/made-for: '{{\"kind\":\"Credential\",\"name\":\"c\",\"uid\":\"u\",\"as\":\"$ns/d-credential\"}}'}}"
            )),
            &view,
            not_ours,
            delete_account(),
            bound_then,
        ),
        in_the_way(
            "an account with a role of its own",
            account("") + &binding("RoleBinding", "name: mine", "edit", "c-credential"),
            &view,
            not_ours,
            delete_account(),
            bound_then,
        ),
        in_the_way(
            "a binding of another role",
            binding("RoleBinding", "name: $bound", "edit", "c-credential"),
            &view,
            binding_says,
            delete_binding(),
            in_its_place,
        ),
        in_the_way(
            "a binding of somebody else",
            binding("RoleBinding", "name: $bound", "view", "mine"),
            &view,
            binding_says,
            delete_binding(),
            in_its_place,
        ),
        in_the_way(
            "a binding with our marks and another role",
            binding(
                "RoleBinding",
                &format!("name: $bound, {OURS}, {gone}").replace("$ns/gone", "$ns/c"),
                "edit",
                "c-credential",
            ),
            &view,
            binding_says,
            delete_binding(),
            in_its_place,
        ),
    ];
    attacks.extend([
        beside(
            "a stronger role for its account",
            binding("RoleBinding", &format!("name: mine, {OURS}, {claims}"), "edit", "c-credential"),
            &["+ RoleBinding mine"],
        ),
        beside(
            "a binding of a credential that is gone",
            binding("RoleBinding", &format!("name: mine, {OURS}, {gone}"), "view", "gone-credential"),
            &["+ RoleBinding mine"],
        ),
        beside(
            "a binding everywhere of a credential that is gone",
            binding(
                "ClusterRoleBinding",
                &format!("name: $ns.mine, {OURS}, {gone}"),
                "view",
                "gone-credential",
            ),
            &["+ ClusterRoleBinding $ns.mine"],
        ),
        beside("a Secret with our label", secret(&format!("name: mine, {OURS}")), &["+ Secret mine"]),
        beside(
            "a Secret that a token owns which is not there",
            secret(&format!(
                "name: gone-token, {OURS}, annotations: {{credential-operator.io/made-for: \
                 '{{\"kind\":\"ApiToken\",\"name\":\"gone\",\"uid\":\"u\",\"as\":\"$ns/gone-token\"}}'}}"
            )),
            &["+ Secret gone-token"],
        ),
        Tried {
            given: credential("{}") + &secret(&format!("name: t-token, {OURS}")),
            act: Act::Apply(token("expiresIn: 1h")),
            of: (Kind::ApiToken, "t"),
            leaves: Left::These(&[]),
            ..in_the_way(
                "a Secret of a token with our label",
                String::new(),
                "{}",
                "Secret t-token exists and is not this token's; delete it",
                Act::Delete(Kind::Secret, "t-token", None),
                &["~ Secret t-token"],
            )
        },
    ]);
    attacks
}
