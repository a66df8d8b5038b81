//! Attacks on values.

use serde_json::{Value, json};

use super::case::{Act, Attack, EDITOR, Kind, Remedy, Who, credential, named, object, secret, token};

const ISSUE: Remedy = Remedy::Rights(&["issue credentials c"]);

fn attack(name: &'static str, given: &str, act: Act, says: &'static str) -> Attack {
    Attack {
        name,
        given: given.to_owned(),
        who: EDITOR,
        may: &[],
        act,
        refused_by: "issue",
        says,
        remedy: ISSUE,
    }
}

/// Keys to seal for, as far as the schema looks at them.
const OURS: &str = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq";
const MINE: &str = "age1pppppppppppppppppppppppppppppppppppppppppppppppppppppppppp";

/// An edit of somebody else's credential.
fn edit(name: &'static str, given: &str, patch: Value, says: &'static str) -> Attack {
    attack(name, &credential(given), Act::Merge(Kind::Credential, "c", patch), says)
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub fn attacks() -> Vec<Attack> {
    let own = credential("{scopes: ['orders:read']}");
    let hour = token("expiresIn: 1h");
    let mark = |key: &str, value: &str| json!({"metadata": {"annotations": {format!("credential-operator.io/{key}"): value}}});
    vec![
        attack(
            "a token",
            &own,
            Act::Apply(hour.clone()),
            "user $user may not issue for credential c (a new token): the verb issue on credentials.credential-operator.io/c in \
             namespace $ns is missing; ask for it, or leave that as it is",
        ),
        attack(
            "an audience for a token that was for the API server",
            &(credential("{audiences: [bank]}") + &token("type: ServiceAccount, expiresIn: 1h")),
            Act::Merge(Kind::ApiToken, "t", json!({"spec": {"audiences": ["bank"]}})),
            "user $user may not issue for credential c (spec.audiences): the verb issue on",
        ),
        Attack {
            may: &["issue credentials mine"],
            ..attack(
                "a token of somebody elses credential",
                &(own.clone() + &named("mine", "{}")),
                Act::Apply(hour.clone()),
                "the verb issue on credentials.credential-operator.io/c in namespace $ns is missing",
            )
        },
        Attack {
            may: &["issue credentials c @$other"],
            ..attack(
                "the right in another namespace",
                &own,
                Act::Apply(hour.clone()),
                "the verb issue on credentials.credential-operator.io/c in namespace $ns is missing",
            )
        },
        attack("a token before its credential", "", Act::Apply(hour.clone()), "credential c (a new token)"),
        attack(
            "a token as a dry run",
            &own,
            Act::DryRun(Box::new(Act::Create(hour))),
            "credential c (a new token)",
        ),
        attack(
            "a token with a generated name",
            &own,
            Act::Create(object(
                "ApiToken",
                "{generateName: t-}",
                "{credentialRef: {name: c}, expiresIn: 1h}",
            )),
            "credential c (a new token)",
        ),
        Attack {
            who: Who::Account("edit"),
            ..attack(
                "a token by Kubernetes own edit",
                &own,
                Act::Apply(token("expiresIn: 1h")),
                "user system:serviceaccount:$ns:somebody may not issue",
            )
        },
        edit(
            "a rotation",
            "{type: ClientSecret}",
            json!({"spec": {"rotation": {"every": "30d"}}}),
            "(spec.rotation)",
        ),
        edit(
            "a revision",
            "{type: ClientSecret, rotation: {revision: 1}}",
            json!({"spec": {"rotation": {"revision": 2}}}),
            "(spec.rotation)",
        ),
        edit(
            "a rotation taken away",
            "{type: ClientSecret, rotation: {every: 30d}}",
            json!({"spec": {"rotation": null}}),
            "(spec.rotation)",
        ),
        edit(
            "more scopes",
            "{scopes: ['orders:read']}",
            json!({"spec": {"scopes": ["orders:read", "orders:write"]}}),
            "(spec.scopes)",
        ),
        edit("the first scopes", "{}", json!({"spec": {"scopes": ["orders:read"]}}), "(spec.scopes)"),
        edit(
            "other scopes",
            "{scopes: ['orders:read']}",
            json!({"spec": {"scopes": ["stock:read"]}}),
            "(spec.scopes)",
        ),
        edit(
            "another audience",
            "{audiences: [orders]}",
            json!({"spec": {"audiences": ["orders", "stock"]}}),
            "(spec.audiences)",
        ),
        edit(
            "the default audience",
            "{audiences: [orders]}",
            json!({"spec": {"audiences": null}}),
            "(spec.audiences)",
        ),
        edit(
            "two at once",
            "{scopes: ['orders:read']}",
            json!({"spec": {"audiences": ["stock"], "scopes": ["stock:read"]}}),
            "spec.scopes",
        ),
        Attack {
            may: &["get secrets other"],
            ..attack(
                "another provided Secret",
                &(secret("one")
                    + &secret("other")
                    + &credential("{type: BasicAuth, provided: {secretRef: {name: one}}}")),
                Act::Merge(
                    Kind::Credential,
                    "c",
                    json!({"spec": {"provided": {"secretRef": {"name": "other"}}}}),
                ),
                "(spec.provided)",
            )
        },
        Attack {
            may: &["create secrets", "get secrets one"],
            ..edit(
                "another Secret for the values",
                "{type: ClientSecret, secret: {name: one}}",
                json!({"spec": {"secret": {"name": "mine"}}}),
                "(spec.secret)",
            )
        },
        attack(
            "other recipients of a token",
            &(own.clone()
                + &token(&format!("expiresIn: 1h, delivery: {{mode: Sealed, recipients: [{OURS}]}}"))),
            Act::Merge(Kind::ApiToken, "t", json!({"spec": {"delivery": {"recipients": [MINE]}}})),
            "credential c (spec.delivery)",
        ),
        attack(
            "one more recipient of a token",
            &(own.clone()
                + &token(&format!("expiresIn: 1h, delivery: {{mode: Sealed, recipients: [{OURS}]}}"))),
            Act::Merge(Kind::ApiToken, "t", json!({"spec": {"delivery": {"recipients": [OURS, MINE]}}})),
            "credential c (spec.delivery)",
        ),
        attack(
            "a longer window",
            &(own.clone() + &token("expiresIn: 1h, delivery: {mode: Once, window: 5m}")),
            Act::Merge(Kind::ApiToken, "t", json!({"spec": {"delivery": {"window": "50m"}}})),
            "credential c (spec.delivery)",
        ),
        attack(
            "other recipients of material",
            &credential(&format!("{{type: ClientSecret, delivery: {{mode: Sealed, recipients: [{OURS}]}}}}")),
            Act::Merge(Kind::Credential, "c", json!({"spec": {"delivery": {"recipients": [MINE]}}})),
            "credential c (spec.delivery)",
        ),
        edit("reactivation", "{state: Inactive}", json!({"spec": {"state": "Active"}}), "(spec.state)"),
        edit(
            "reactivation by default",
            "{state: Inactive}",
            json!({"spec": {"state": null}}),
            "(spec.state)",
        ),
        edit(
            "a weak password",
            "{type: BasicAuth}",
            json!({"spec": {"basicAuth": {"length": 8, "alphabet": "ab"}}}),
            "(spec.basicAuth)",
        ),
        edit(
            "another name in a certificate",
            "{type: Tls, tls: {dnsNames: [orders.example]}}",
            json!({"spec": {"tls": {"dnsNames": ["orders.example", "stock.example"]}}}),
            "(spec.tls)",
        ),
        edit(
            "a kubeconfig of another server",
            "{type: Kubeconfig, kubeconfig: {server: 'https://api.example:6443'}}",
            json!({"spec": {"kubeconfig": {"server": "https://mine.example"}}}),
            "(spec.kubeconfig)",
        ),
        edit(
            "the annotation that rotates",
            "{type: ClientSecret}",
            mark("rotate-requested-at", "now"),
            "(credential-operator.io/rotate-requested-at)",
        ),
        attack(
            "that annotation changed",
            &object(
                "Credential",
                "{name: c, annotations: {credential-operator.io/rotate-requested-at: before}}",
                "{type: ClientSecret}",
            ),
            Act::Merge(Kind::Credential, "c", mark("rotate-requested-at", "now")),
            "(credential-operator.io/rotate-requested-at)",
        ),
        attack(
            "that annotation from the start",
            "",
            Act::Apply(object(
                "Credential",
                "{name: c, annotations: {credential-operator.io/rotate-requested-at: now}}",
                "{type: ClientSecret}",
            )),
            "(credential-operator.io/rotate-requested-at)",
        ),
        attack(
            "a value acknowledged",
            &(own.clone() + &token("expiresIn: 1h")),
            Act::Merge(Kind::ApiToken, "t", mark("acknowledged", "0123456789ab")),
            "credential c (credential-operator.io/acknowledged)",
        ),
        edit(
            "material acknowledged",
            "{type: ClientSecret}",
            mark("acknowledged", "0123456789ab"),
            "credential c (credential-operator.io/acknowledged)",
        ),
        attack(
            "written back whole with more scopes",
            &own,
            Act::Replace(Kind::Credential, "c", json!({"spec": {"scopes": ["*"]}})),
            "(spec.scopes)",
        ),
        attack(
            "more scopes by another manager",
            &own,
            Act::Apply(credential("{scopes: ['orders:read', 'orders:write']}")),
            "(spec.scopes)",
        ),
    ]
}
