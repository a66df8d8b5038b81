//! What admission refuses by CredentialPolicies, and what only the operator can.

use serde_json::{Value, json};

use super::case::{Left, Tried};
use crate::admission::{
    case::{Act, Attack, Kind, Remedy, credential, named, object, policy, token},
    limits,
};

/// Every attack on a policy that admission refuses, and that leaves something for the operator to look at.
pub fn attacks() -> Vec<Tried> {
    let again =
        limits::attacks().into_iter().filter(|attack| !matches!(attack.act, Act::DryRun(_))).map(again);
    again.chain(those_that_take_a_list()).collect()
}

/// The same message, whoever says it, but for the advice: one speaks to who asks, the other of what is there.
fn again(attack: Attack) -> Tried {
    let Remedy::Applied(loose) = attack.remedy else { panic!("{}", attack.name) };
    let of =
        if attack.refused_by == "token-limits" { (Kind::ApiToken, "t") } else { (Kind::Credential, "c") };
    let says = attack.says.split(';').next().unwrap();
    Tried {
        name: attack.name,
        given: attack.given,
        act: attack.act,
        of,
        reason: "PolicyViolation",
        says,
        leaves: Left::NothingNew,
        remedy: Act::Apply(loose),
        then: &[],
    }
}

/// What one request does not show: how many there are, which policies there are, and what these mean for those who are there.
#[expect(clippy::too_many_lines, reason = "a table")]
fn those_that_take_a_list() -> Vec<Tried> {
    let of_credential = |name, given: String, act, reason, says, leaves, remedy, then| Tried {
        name,
        given,
        act,
        of: (Kind::Credential, "c"),
        reason,
        says,
        leaves,
        remedy,
        then,
    };
    let view = credential("{roles: [{kind: ClusterRole, name: view}]}");
    let elsewhere = credential("{roles: [{kind: ClusterRole, name: view, namespace: $other}]}");
    let everywhere = credential("{roles: [{kind: ClusterRole, name: view, clusterWide: true}]}");
    let relabel =
        |team: Value| Act::Merge(Kind::Namespace, "$ns", json!({"metadata": {"labels": {"team": team}}}));
    // The policy that others have selects no such namespace.
    let strict = "apiVersion: v1\nkind: Namespace\nmetadata: {name: $ns, labels: {tests/strict: ''}}\n---\n";
    let account: &[_] = &["+ ServiceAccount c-credential"];
    let tightened = |name, spec: &str, says| {
        of_credential(
            name,
            credential(
                "{type: ClientSecret, scopes: ['orders:read'], roles: [{kind: ClusterRole, name: view}]}",
            ) + &policy("maxCredentials: 9"),
            Act::Apply(policy(spec)),
            "PolicyViolation",
            says,
            Left::These(&["- RoleBinding c-credential"]),
            Act::Apply(policy("maxCredentials: 9")),
            &["~ RoleBinding c-credential"],
        )
    };
    let mut attacks = vec![
        of_credential(
            "a credential too many",
            policy("maxCredentials: 1") + &named("first", "{}"),
            Act::Apply(view.clone()),
            "QuotaExceeded",
            "CredentialPolicy $ns allows 1 credentials in this namespace, and older ones have these places; delete one",
            Left::These(&[]),
            Act::Delete(Kind::Credential, "first", None),
            &["+ RoleBinding c-credential", "+ ServiceAccount c-credential"],
        ),
        of_credential(
            "a credential where none may be",
            policy("maxCredentials: 0"),
            Act::Apply(credential("{type: ClientSecret}")),
            "QuotaExceeded",
            "allows 0 credentials in this namespace",
            Left::These(&[]),
            Act::Apply(policy("maxCredentials: 1")),
            &["+ Secret c-credential", "+ ServiceAccount c-credential"],
        ),
        of_credential(
            "a role elsewhere that no policy names",
            strict.to_owned(),
            Act::Apply(elsewhere),
            "PolicyViolation",
            "no CredentialPolicy selects this namespace, so there is none that allows the grant of ClusterRole view in namespace \
             $other",
            Left::These(&[]),
            Act::Apply(policy("roles: [{kind: ClusterRole, name: view, namespaces: [$other]}]")),
            &["+ RoleBinding $ns.c-credential elsewhere", "+ ServiceAccount c-credential"],
        ),
        of_credential(
            "a role everywhere that no policy names",
            strict.to_owned(),
            Act::Apply(everywhere),
            "PolicyViolation",
            "no CredentialPolicy selects this namespace, so there is none that allows the grant of ClusterRole view in the whole \
             cluster",
            Left::These(&[]),
            Act::Apply(policy("roles: [{kind: ClusterRole, name: view, clusterWide: true}]")),
            &["+ ClusterRoleBinding $ns.c-credential", "+ ServiceAccount c-credential"],
        ),
        of_credential(
            "a role that the operator may not bind",
            String::new(),
            Act::Apply(credential("{roles: [{kind: ClusterRole, name: cluster-admin}]}")),
            "RoleNotBindable",
            "give the operator the verb bind on that role, or remove the role from the credential",
            Left::These(account),
            Act::Merge(
                Kind::Credential,
                "c",
                json!({"spec": {"roles": [{"kind": "ClusterRole", "name": "view"}]}}),
            ),
            &["+ RoleBinding c-credential"],
        ),
        of_credential(
            "what another policy allows",
            policy("types: [SshKey]")
                + &object(
                    "CredentialPolicy",
                    "{name: second.$ns}",
                    "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $ns}}, types: [Token]}",
                ),
            Act::Apply(view.clone()),
            "PolicyViolation",
            "CredentialPolicy $ns does not allow type Token, only [SshKey]",
            Left::These(&[]),
            Act::Apply(policy("types: [SshKey, Token]")),
            &["+ RoleBinding c-credential"],
        ),
        of_credential(
            "a namespace relabelled by who may",
            view.clone()
                + &object(
                    "CredentialPolicy",
                    "{name: $ns}",
                    "{namespaceSelector: {matchLabels: {team: $ns}}, types: [SshKey]}",
                ),
            relabel(json!("$ns")),
            "PolicyViolation",
            "CredentialPolicy $ns does not allow type Token",
            Left::These(&["- RoleBinding c-credential"]),
            relabel(Value::Null),
            &["~ RoleBinding c-credential"],
        ),
        of_credential(
            "switched off and on again",
            view.clone() + &policy("maxCredentials: 9"),
            Act::Apply(
                credential("{state: Inactive, roles: [{kind: ClusterRole, name: view}]}")
                    + &policy("roles: []")
                    + &view,
            ),
            "PolicyViolation",
            "CredentialPolicy $ns does not allow the grant of ClusterRole view",
            Left::These(&["- RoleBinding c-credential"]),
            Act::Apply(policy("maxCredentials: 9")),
            &["~ RoleBinding c-credential"],
        ),
        tightened("roles tightened", "roles: []", "does not allow the grant of ClusterRole view"),
        tightened("types tightened", "types: [Token]", "does not allow type ClientSecret, only [Token]"),
        tightened("scopes tightened", "scopes: ['stock:*']", "does not allow the scope orders:read"),
        tightened("audiences tightened", "audiences: []", "does not allow the audience credential-operator"),
    ];
    let first = |spec| object("ApiToken", "{name: first}", spec);
    let of_token = |name, tight, given: String, says, remedy| Tried {
        of: (Kind::ApiToken, "t"),
        ..of_credential(
            name,
            policy(tight) + &credential("{}") + &given,
            Act::Apply(token("expiresIn: 1h")),
            "QuotaExceeded",
            says,
            Left::These(&[]),
            remedy,
            &["+ Secret t-token"],
        )
    };
    attacks.extend([
        of_token(
            "a token too many",
            "tokens: {maxPerCredential: 1}",
            first("{credentialRef: {name: c}, expiresIn: 1h}"),
            "CredentialPolicy $ns allows a credential 1 tokens, and older ones have these places; revoke or delete one",
            Act::Merge(Kind::ApiToken, "first", json!({"spec": {"revoked": true}})),
        ),
        of_token(
            "a token where none may be",
            "tokens: {maxPerCredential: 0}",
            String::new(),
            "allows a credential 0 tokens",
            Act::Apply(policy("tokens: {maxPerCredential: 1}")),
        ),
    ]);
    attacks
}
