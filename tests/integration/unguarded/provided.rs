//! Secrets of others, which somebody has read or written in their name.

use serde_json::{Value, json};

use super::case::{Left, Tried};
use crate::admission::case::{Act, Kind, credential, named, object, secret, token};

const ACCOUNT: Left = Left::These(&["+ ServiceAccount c-credential"]);
const PUBLISHED: &[&str] = &["+ Secret c-credential"];
const PROVIDED: &str = "{type: BasicAuth, provided: {secretRef: {name: other}}}";

/// A Secret that nobody has consented to the use of.
fn foreign(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{username: u, password: p}}\n---\n"
    )
}

fn consent(value: &Value) -> Act {
    Act::Merge(
        Kind::Secret,
        "other",
        json!({"metadata": {"labels": {"credential-operator.io/provided": value}}}),
    )
}

fn reading(name: &'static str, given: String, spec: &str, says: &'static str, remedy: Act) -> Tried {
    Tried {
        name,
        given,
        act: Act::Apply(credential(spec)),
        of: (Kind::Credential, "c"),
        reason: "MaterialInvalid",
        says,
        leaves: ACCOUNT,
        remedy,
        then: PUBLISHED,
    }
}

fn writing(
    name: &'static str,
    given: String,
    act: Act,
    of: (Kind, &'static str),
    says: &'static str,
    remedy: Act,
) -> Tried {
    let credential = matches!(of.0, Kind::Credential);
    Tried {
        name,
        given,
        act,
        of,
        reason: "Conflict",
        says,
        leaves: if credential { ACCOUNT } else { Left::These(&[]) },
        remedy,
        then: &[],
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub fn attacks() -> Vec<Tried> {
    let read = |name: &str| {
        Act::Merge(Kind::Credential, "c", json!({"spec": {"provided": {"secretRef": {"name": name}}}}))
    };
    let own = secret("mine");
    let without_consent = "Secret other";
    vec![
        reading("a Secret of others provided", foreign("other"), PROVIDED, without_consent, consent(&json!("true"))),
        reading(
            "consent by another word",
            foreign("other").replace("{name: other}", "{name: other, labels: {credential-operator.io/provided: 'yes'}}"),
            PROVIDED,
            without_consent,
            consent(&json!("true")),
        ),
        reading(
            "consent by an annotation",
            foreign("other").replace("{name: other}", "{name: other, annotations: {credential-operator.io/provided: 'true'}}"),
            PROVIDED,
            without_consent,
            consent(&json!("true")),
        ),
        Tried {
            leaves: Left::These(&["~ Secret other"]),
            act: consent(&Value::Null),
            then: &[],
            ..reading(
                "consent taken back",
                secret("other") + &credential(PROVIDED),
                PROVIDED,
                without_consent,
                consent(&json!("true")),
            )
        },
        reading("the password of another credential", named("other", "{type: BasicAuth}") + &own, "{type: BasicAuth, provided: {secretRef: {name: other-credential}}}", "Secret other-credential", read("mine")),
        reading(
            "the value of a token",
            named("other", "{}")
                + &object("ApiToken", "{name: other}", "{credentialRef: {name: other}, expiresIn: 1h}")
                + &own,
            "{type: BasicAuth, provided: {secretRef: {name: other-token}}}",
            "Secret other-token",
            read("mine"),
        ),
        reading(
            "an authority of others",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: other}\nstringData: {tls.crt: c, tls.key: k}\n---\n".to_owned(),
            "{type: Tls, tls: {issuer: {secretRef: {name: other}}}}",
            "Secret other",
            Act::Merge(Kind::Credential, "c", json!({"spec": {"tls": {"issuer": null}}})),
        ),
        writing(
            "material into a Secret of others",
            foreign("other"),
            Act::Apply(credential("{type: ClientSecret, secret: {name: other}}")),
            (Kind::Credential, "c"),
            "Secret other exists and is not this credential's",
            Act::Delete(Kind::Secret, "other", None),
        ),
        writing(
            "material into the Secret of another credential",
            named("other", "{type: ClientSecret}"),
            Act::Apply(credential("{type: ClientSecret, secret: {name: other-credential}}")),
            (Kind::Credential, "c"),
            "Secret other-credential exists and is not this credential's",
            Act::Merge(Kind::Credential, "c", json!({"spec": {"secret": {"name": "own"}}})),
        ),
        writing(
            "material over what is provided",
            secret("other"),
            Act::Apply(credential("{type: BasicAuth, secret: {name: other}}")),
            (Kind::Credential, "c"),
            "Secret other exists and is not this credential's",
            Act::Delete(Kind::Secret, "other", None),
        ),
        Tried {
            leaves: Left::These(&[]),
            ..writing(
            "material renamed onto a Secret of others",
            foreign("other") + &credential("{type: ClientSecret}"),
            Act::Merge(Kind::Credential, "c", json!({"spec": {"secret": {"name": "other"}}})),
            (Kind::Credential, "c"),
            "Secret other exists and is not this credential's",
            Act::Delete(Kind::Secret, "other", None),
        )
        },
        writing(
            "a token into a Secret of others",
            foreign("other") + &credential("{}"),
            Act::Apply(token("expiresIn: 1h, secret: {name: other}")),
            (Kind::ApiToken, "t"),
            "Secret other exists and is not this token's",
            Act::Delete(Kind::Secret, "other", None),
        ),
        writing(
            "a token into the Secret of its credential",
            credential("{type: ClientSecret}"),
            Act::Apply(token("expiresIn: 1h, secret: {name: c-credential}")),
            (Kind::ApiToken, "t"),
            "Secret c-credential exists and is not this token's",
            Act::Merge(Kind::Credential, "c", json!({"spec": {"secret": {"name": "moved"}}})),
        ),
        writing(
            "a token of the API server into a Secret of others",
            foreign("other") + &credential("{}"),
            Act::Apply(token("type: ServiceAccount, expiresIn: 1h, secret: {name: other}")),
            (Kind::ApiToken, "t"),
            "Secret other exists and is not this token's",
            Act::Delete(Kind::Secret, "other", None),
        ),
        writing(
            "sealed into a Secret of others",
            foreign("other") + &credential("{}"),
            Act::Apply(token(
                "expiresIn: 1h, secret: {name: other}, delivery: {mode: Sealed, recipients: \
                 [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]}",
            )),
            (Kind::ApiToken, "t"),
            "Secret other exists and is not this token's",
            Act::Delete(Kind::Secret, "other", None),
        ),
    ]
}
