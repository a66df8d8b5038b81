//! A kubeconfig of the credential's own identity. The token in it is minted by the API server, so nothing is drawn here:
//! only the file is written.

use jiff::{SignedDuration, Timestamp};
use rand::CryptoRng;
use serde_json::{Value, json};

use super::{Drawn, Entries, Facts, Generated, Kind, Problem, Provided, Request, entry, text};
use crate::{
    api::{CredentialSpec, Lifetime, material::Kubeconfig},
    domain::redacted::Redacted,
};

/// The key of the file.
pub const KEY: &str = "value";
/// How long a token lives where the options do not say.
const DURATION: SignedDuration = SignedDuration::from_hours(24);

pub(super) const KIND: Kind = Kind {
    secret_type: "Opaque",
    generated: Some(Generated {
        options,
        draw,
        lasts: |spec| Some(duration(spec)),
        bearer: false,
        public: &[],
    }),
    provided: Provided { required: &[KEY], optional: &[], check, publish: None },
    when_inactive: "the Secret of a generated kubeconfig is deleted, so that the API server refuses the token in it",
};

/// How long a token in it lives, if the API server grants as much.
#[must_use]
pub fn duration(spec: &CredentialSpec) -> SignedDuration {
    let block = spec.kubeconfig.as_ref();
    let wished = block.and_then(|block| block.duration.as_ref()).map(Lifetime::duration);
    wished.and_then(Result::ok).unwrap_or(DURATION)
}

fn block<'a>(request: &Request<'a>) -> Result<&'a Kubeconfig, Problem> {
    let missing = || Problem::Options("set spec.kubeconfig.server".to_owned());
    request.spec.kubeconfig.as_ref().ok_or_else(missing)
}

fn options(request: &Request<'_>) -> Result<Value, Problem> {
    let Kubeconfig { server, certificate_authority, duration: _ } = block(request)?;
    Ok(json!({
        "server": server,
        "certificateAuthority": certificate_authority,
        "duration": duration(request.spec).as_secs(),
    }))
}

fn draw(_: &Request<'_>, _: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    Err(Problem::Options("the API server mints what is in a kubeconfig".to_owned()))
}

/// The file, for whoever has that token.
///
/// # Errors
/// When there is no server.
pub fn document(
    request: &Request<'_>,
    authority: &str,
    token: &Redacted<String>,
) -> Result<Entries, Problem> {
    let Kubeconfig { server, .. } = block(request)?;
    let Request { namespace, name, .. } = request;
    let authority = data_encoding::BASE64.encode(authority.as_bytes());
    // Written by hand, so that no copy of the token stays in memory: JSON strings are YAML, and a JWT needs no escapes.
    let file = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: cluster\n  cluster:\n    server: {}\n    \
         certificate-authority-data: {authority}\nusers:\n- name: {name:?}\n  user:\n    token: {}\ncontexts:\n- name: {name:?}\n  \
         context: {{cluster: cluster, user: {name:?}, namespace: {namespace:?}}}\ncurrent-context: {name:?}\n",
        json!(server),
        token.expose(),
    );
    Ok([entry(KEY, file)].into())
}

/// A provided one names a cluster and somebody who uses it.
fn check(found: &Entries, _: Timestamp) -> Result<Facts, Problem> {
    let wrong = |what: &str| Problem::Material(format!("the key {KEY} {what}"));
    let file: Value = serde_yaml_ng::from_str(text(found, KEY)?)
        .map_err(|_| wrong("is not a kubeconfig: it is no YAML"))?;
    for list in ["clusters", "users", "contexts"] {
        if file[list].as_array().is_none_or(Vec::is_empty) {
            return Err(wrong(&format!("is not a kubeconfig: it has no {list}")));
        }
    }
    Ok(Facts::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::token::Prefix;

    #[test]
    fn the_file_is_a_kubeconfig() {
        let spec = CredentialSpec {
            kubeconfig: Some(Kubeconfig {
                server: "https://api.example:6443".to_owned(),
                ..Kubeconfig::default()
            }),
            ..CredentialSpec::default()
        };
        let request = Request {
            spec: &spec,
            namespace: "edge",
            // YAML would take it for something else.
            name: "null",
            now: Timestamp::UNIX_EPOCH,
            prefix: &Prefix::default(),
            issuer: None,
        };
        let entries = document(&request, "PEM", &Redacted::new("a.b-_.c".to_owned())).unwrap();
        assert_eq!(check(&entries, Timestamp::UNIX_EPOCH), Ok(Facts::default()));
        let file: Value = serde_yaml_ng::from_slice(entries[KEY].expose()).unwrap();
        assert_eq!(file["clusters"][0]["cluster"]["server"], "https://api.example:6443");
        assert_eq!(file["clusters"][0]["cluster"]["certificate-authority-data"], "UEVN");
        assert_eq!(file["users"][0]["user"]["token"], "a.b-_.c");
        assert_eq!(file["contexts"][0]["context"]["namespace"], "edge");
        assert_eq!(file["current-context"], "null");
    }

    #[test]
    fn what_is_none_is_told_by_its_key() {
        for (file, told) in [(": :", "no YAML"), ("a: 1", "no clusters"), ("clusters: [{}]", "no users")] {
            let error = check(&[entry(KEY, file)].into(), Timestamp::UNIX_EPOCH).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
    }
}
