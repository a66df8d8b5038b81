//! Attacks on Secrets.

use serde_json::{Value, json};

use super::case::{Act, Attack, EDITOR, Kind, Remedy, credential, secret, token};

const ISSUE: &str = "issue credentials c";
const GET_OTHER: Remedy = Remedy::Rights(&["get secrets other"]);
const CREATE: Remedy = Remedy::Rights(&["create secrets"]);
const SHOW: Remedy = Remedy::Rights(&["create secrets", "get secrets c-credential"]);
const NO_GET: &str = "user $user may not change spec.secret: the right to get secrets/c-credential in namespace $ns is missing; ask \
                      for it, or leave spec.secret as it is";
const NO_CREATE: &str = "user $user may not set or change spec.secret: the right to create secrets in namespace $ns is missing; ask \
                         for it, or leave spec.secret as it is";

fn attack(name: &'static str, given: String, act: Act, says: &'static str, remedy: Remedy) -> Attack {
    Attack { name, given, who: EDITOR, may: &[ISSUE], act, refused_by: "secrets", says, remedy }
}

fn edit(name: &'static str, given: &str, patch: Value, remedy: Remedy) -> Attack {
    attack(name, credential(given), Act::Merge(Kind::Credential, "c", patch), NO_CREATE, remedy)
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub fn attacks() -> Vec<Attack> {
    let provided = credential("{type: BasicAuth, provided: {secretRef: {name: other}}}");
    let issued = credential("{type: Tls, tls: {issuer: {secretRef: {name: other}}}}");
    let by_others = json!({"spec": {"tls": {"issuer": {"secretRef": {"name": "other"}}}}});
    vec![
        attack(
            "a Secret of others provided",
            secret("other"),
            Act::Apply(provided.clone()),
            "user $user may not refer to Secret other (spec.provided.secretRef.name): the right to get secrets/other in namespace \
             $ns is missing; ask for it, or name another Secret",
            GET_OTHER,
        ),
        attack(
            "a Secret provided that is not there yet",
            String::new(),
            Act::Apply(provided.clone()),
            "the right to get secrets/other in namespace $ns is missing",
            GET_OTHER,
        ),
        Attack {
            may: &[ISSUE, "get secrets one"],
            ..attack(
                "a provided Secret changed to that of others",
                secret("one")
                    + &secret("other")
                    + &credential("{type: BasicAuth, provided: {secretRef: {name: one}}}"),
                Act::Merge(
                    Kind::Credential,
                    "c",
                    json!({"spec": {"provided": {"secretRef": {"name": "other"}}}}),
                ),
                "may not refer to Secret other (spec.provided.secretRef.name)",
                GET_OTHER,
            )
        },
        attack(
            "generated material changed to that of others",
            secret("other") + &credential("{type: BasicAuth}"),
            Act::Merge(
                Kind::Credential,
                "c",
                json!({"spec": {"provided": {"secretRef": {"name": "other"}}}}),
            ),
            "may not refer to Secret other (spec.provided.secretRef.name)",
            GET_OTHER,
        ),
        attack(
            "a Secret of others provided as a dry run",
            secret("other"),
            Act::DryRun(Box::new(Act::Create(provided))),
            "may not refer to Secret other",
            GET_OTHER,
        ),
        attack(
            "an authority of others",
            secret("other"),
            Act::Apply(issued),
            "user $user may not refer to Secret other (spec.tls.issuer.secretRef.name): the right to get secrets/other in namespace \
             $ns is missing",
            GET_OTHER,
        ),
        attack(
            "an authority of others instead of none",
            credential("{type: Tls}"),
            Act::Merge(Kind::Credential, "c", by_others.clone()),
            "may not refer to Secret other (spec.tls.issuer.secretRef.name)",
            GET_OTHER,
        ),
        Attack {
            may: &[ISSUE, "get secrets one"],
            ..attack(
                "an authority changed to that of others",
                credential("{type: Tls, tls: {issuer: {secretRef: {name: one}}}}"),
                Act::Merge(Kind::Credential, "c", by_others),
                "may not refer to Secret other (spec.tls.issuer.secretRef.name)",
                GET_OTHER,
            )
        },
        attack(
            "the name of a Secret",
            String::new(),
            Act::Apply(credential("{type: ClientSecret, secret: {name: mine}}")),
            NO_CREATE,
            CREATE,
        ),
        attack(
            "labels of a Secret",
            String::new(),
            Act::Apply(credential("{type: ClientSecret, secret: {labels: {watched-by: somebody}}}")),
            NO_CREATE,
            CREATE,
        ),
        edit(
            "an annotation that has a Secret copied",
            "{type: ClientSecret}",
            json!({"spec": {"secret": {"annotations": {"reflector.example/copy-to": "everywhere"}}}}),
            SHOW,
        ),
        edit(
            "another annotation",
            "{type: ClientSecret, secret: {annotations: {example.com/a: b}}}",
            json!({"spec": {"secret": {"annotations": {"example.com/a": "c"}}}}),
            SHOW,
        ),
        edit(
            "back to the name by default",
            "{type: ClientSecret, secret: {name: one}}",
            json!({"spec": {"secret": null}}),
            Remedy::Rights(&["create secrets", "get secrets one"]),
        ),
        attack(
            "the name of the Secret of a token",
            credential("{}"),
            Act::Apply(token("expiresIn: 1h, secret: {name: mine}")),
            NO_CREATE,
            CREATE,
        ),
        attack(
            "an annotation on the Secret of a token",
            credential("{}") + &token("expiresIn: 1h"),
            Act::Merge(
                Kind::ApiToken,
                "t",
                json!({"spec": {"secret": {"annotations": {"reflector.example/copy-to": "everywhere"}}}}),
            ),
            NO_CREATE,
            Remedy::Rights(&["create secrets", "get secrets t-token"]),
        ),
        Attack {
            may: &[ISSUE, "create secrets", "get secrets mine"],
            ..attack(
                "a name that one may read for a Secret that one may not",
                credential("{type: SshKey}"),
                Act::Merge(Kind::Credential, "c", json!({"spec": {"secret": {"name": "mine"}}})),
                NO_GET,
                SHOW,
            )
        },
        Attack {
            may: &[ISSUE, "create secrets"],
            ..attack(
                "an annotation that has a provided Secret copied",
                secret("other") + &credential("{type: BasicAuth, provided: {secretRef: {name: other}}}"),
                Act::Merge(
                    Kind::Credential,
                    "c",
                    json!({"spec": {"secret": {"annotations": {"reflector.example/copy-to": "everywhere"}}}}),
                ),
                NO_GET,
                SHOW,
            )
        },
        attack(
            "a name signed by an authority of others",
            secret("other") + &credential("{type: Tls, tls: {issuer: {secretRef: {name: other}}}}"),
            Act::Merge(Kind::Credential, "c", json!({"spec": {"tls": {"dnsNames": ["root.example"]}}})),
            "may not refer to Secret other (spec.tls.issuer.secretRef.name): the right to get secrets/other in namespace $ns is \
             missing",
            GET_OTHER,
        ),
    ]
}
