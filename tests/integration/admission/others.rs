//! Attacks on statuses, on minting, and on what all of it rests on.

use serde_json::json;

use super::case::{Act, Attack, EDITOR, Kind, Remedy, Who, credential, policy, token};

/// The account of a credential, and one of somebody else.
const ACCOUNTS: &str = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: c-credential}\n---\n\
                        apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: strong}\n";

fn forged(
    name: &'static str,
    who: Who,
    may: &'static [&'static str],
    kind: Kind,
    says: &'static str,
) -> Attack {
    let (object, status) = match kind {
        Kind::ApiToken => ("t", json!({"state": "Active", "digest": "hmac-sha256:a:b"})),
        Kind::CredentialPolicy => ("$ns", json!({"violations": 0})),
        _ => ("c", json!({"state": "Active", "conditions": []})),
    };
    Attack {
        name,
        given: credential("{}") + &token("expiresIn: 1h") + &policy("types: [Token]"),
        who,
        may,
        act: Act::Status(kind, object, status),
        refused_by: "status",
        says,
        remedy: Remedy::By(Who::Controller),
    }
}

/// Of those who may nearly nothing: they are refused before admission is asked.
fn without_right(
    name: &'static str,
    who: Who,
    act: Act,
    says: &'static str,
    right: &'static [&'static str],
) -> Attack {
    Attack {
        name,
        given: credential("{scopes: ['orders:read']}") + &policy("types: [Token]"),
        who,
        may: &[],
        act,
        refused_by: "RBAC",
        says,
        remedy: Remedy::Rights(right),
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub fn attacks() -> Vec<Attack> {
    let controllers = "only the controller may, which is system:serviceaccount:credential-operator:credential-operator or \
                       system:serviceaccount:kube-public:second-controller; change the spec instead";
    vec![
        forged(
            "the status of a credential",
            EDITOR,
            &["patch credentials/status"],
            Kind::Credential,
            "user $user may not write the status of credentials: only the controller may",
        ),
        forged("the status of a token", EDITOR, &["patch apitokens/status"], Kind::ApiToken, controllers),
        forged(
            "the status of a policy",
            EDITOR,
            &["patch credentialpolicies/status @*"],
            Kind::CredentialPolicy,
            controllers,
        ),
        forged(
            "a status by the admin",
            Who::Admin,
            &[],
            Kind::Credential,
            "user admin may not write the status of credentials",
        ),
        forged(
            "a status by GitOps",
            Who::GitOps,
            &[],
            Kind::ApiToken,
            "may not write the status of apitokens",
        ),
        Attack {
            name: "minted for another account",
            given: ACCOUNTS.to_owned(),
            who: Who::Controller,
            may: &["create serviceaccounts/token"],
            act: Act::Mint("strong"),
            refused_by: "minting",
            says: "user $user may not have a token minted for ServiceAccount strong: a controller of credentials may for \
                   ServiceAccounts named *-credential alone",
            remedy: Remedy::Instead(Act::Mint("c-credential")),
        },
        // The API server answers a dry run with a valid token.
        Attack {
            name: "minted for another account as a canary",
            given: ACCOUNTS.to_owned(),
            who: Who::Controller,
            may: &["create serviceaccounts/token"],
            act: Act::AsCanary(Box::new(Act::Mint("strong"))),
            refused_by: "minting",
            says: "user $user may not have a token minted for ServiceAccount strong",
            remedy: Remedy::Instead(Act::Mint("c-credential")),
        },
        without_right(
            "a status without the right",
            EDITOR,
            Act::Status(Kind::Credential, "c", json!({"state": "Failed"})),
            "cannot patch resource \"credentials/status\"",
            &[],
        )
        .by(Who::Controller),
        without_right(
            "a viewer who edits",
            Who::User("credential-operator-viewer"),
            Act::Merge(Kind::Credential, "c", json!({"spec": {"displayName": "Mine"}})),
            "cannot patch resource \"credentials\"",
            &["patch credentials"],
        ),
        without_right(
            "a namespace relabelled",
            EDITOR,
            Act::Merge(Kind::Namespace, "$ns", json!({"metadata": {"labels": {"team": "somebody-elses"}}})),
            "cannot patch resource \"namespaces\"",
            &["patch namespaces @*"],
        ),
        without_right(
            "a policy loosened",
            Who::Account("admin"),
            Act::Merge(Kind::CredentialPolicy, "$ns", json!({"spec": {"types": null}})),
            "cannot patch resource \"credentialpolicies\"",
            &["patch credentialpolicies @*"],
        ),
        without_right(
            "a policy deleted",
            Who::Account("admin"),
            Act::Delete(Kind::CredentialPolicy, "$ns", None),
            "cannot delete resource \"credentialpolicies\"",
            &["delete credentialpolicies @*"],
        ),
        without_right(
            "an admission policy edited",
            Who::Account("admin"),
            Act::Merge(
                Kind::Policy,
                "grants-1.credential-operator.io",
                json!({"metadata": {"labels": {"edited-by": "$ns"}}}),
            ),
            "cannot patch resource \"validatingadmissionpolicies\"",
            &["patch validatingadmissionpolicies @*"],
        ),
    ]
}

impl Attack {
    fn by(self, who: Who) -> Self {
        Self { remedy: Remedy::By(who), ..self }
    }
}
