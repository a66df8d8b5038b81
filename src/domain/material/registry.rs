//! A login for a container registry, in the form that kubelets read.

use data_encoding::BASE64;
use rand::CryptoRng;
use serde_json::{Value, json};

use super::{
    Drawn, Entries, Facts, Generated, Kind, Problem, Provided, READERS_GO_ON, Request, entry, forever,
    password, text,
};
use crate::{api::material::Registry, domain::redacted::Redacted};

/// The only key of a Secret of this type.
pub const KEY: &str = ".dockerconfigjson";

pub(super) const KIND: Kind = Kind {
    secret_type: "kubernetes.io/dockerconfigjson",
    generated: Some(Generated { options, draw, lasts: forever, bearer: false, public: &[] }),
    provided: Provided { required: &[KEY], optional: &[], check, publish: None },
    when_inactive: READERS_GO_ON,
};

fn wished<'a>(request: &Request<'a>) -> Result<(String, &'a Registry), Problem> {
    let Some(block) = &request.spec.registry else {
        return Err(Problem::Options(
            "set spec.registry.server, such as registry.example, so that the login can name it".to_owned(),
        ));
    };
    Ok((block.username.clone().unwrap_or_else(|| request.name.to_owned()), block))
}

fn options(request: &Request<'_>) -> Result<Value, Problem> {
    let (username, block) = wished(request)?;
    let password = password::options(&block.password)?;
    Ok(json!({ "server": block.server, "username": username, "password": password }))
}

fn draw(request: &Request<'_>, random: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    let (username, block) = wished(request)?;
    let password = password::draw(&block.password, random);
    let auth = Redacted::new(BASE64.encode(format!("{username}:{}", password.expose()).as_bytes()));
    let config = json!({ "auths": { &block.server: {
        "username": username,
        "password": password.expose(),
        "auth": auth.expose(),
    }}});
    Ok(Drawn { entries: [entry(KEY, config.to_string())].into(), facts: Facts::default() })
}

fn check(found: &Entries, _: jiff::Timestamp) -> Result<Facts, Problem> {
    let config: Value = serde_json::from_str(text(found, KEY)?)
        .map_err(|_| Problem::Material(format!("the key {KEY} is not JSON")))?;
    let auths = config["auths"].as_object().filter(|auths| !auths.is_empty());
    if auths.is_none_or(|auths| auths.values().any(|login| !login.is_object())) {
        return Err(Problem::Material(format!(
            "the key {KEY} names no registry: it must look like {{\"auths\": {{\"registry.example\": {{...}}}}}}"
        )));
    }
    Ok(Facts::default())
}
