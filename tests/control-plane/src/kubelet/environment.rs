//! The environment of a container, and what `$(NAME)` stands for in it, in its command and in its arguments.
//!
//! Knows nothing of processes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource};

use super::{
    leash::PATH,
    pod::Life,
    problem::Problem,
    store::{Store, field},
};

/// Variables by their names.
pub(super) type Environment = BTreeMap<String, String>;

/// What a container finds in its environment.
///
/// # Errors
/// When something that a variable takes its value from is not there.
pub(super) async fn environment(life: &Life, container: &Container) -> Result<Environment, Problem> {
    let mut all = usual(life);
    for source in container.env_from.iter().flatten() {
        let (store, name, optional) = match (&source.secret_ref, &source.config_map_ref) {
            (Some(secret), _) => (Store::Secret, &secret.name, secret.optional),
            (_, Some(map)) => (Store::ConfigMap, &map.name, map.optional),
            (None, None) => continue,
        };
        let data = store.read(&life.machine.client, life.namespace(), name, optional).await;
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (key, value) in data.map_err(Problem::config)? {
            all.insert(format!("{prefix}{key}"), text(value)?);
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(life, variable, &all).await? {
            all.insert(variable.name.clone(), value);
        }
    }
    Ok(all)
}

/// What is there unless the container says otherwise.
fn usual(life: &Life) -> Environment {
    let (host, port) = &life.machine.server;
    let usual = [
        ("PATH", PATH),
        ("HOME", "/root"),
        ("HOSTNAME", life.name()),
        ("KUBERNETES_SERVICE_HOST", host),
        ("KUBERNETES_SERVICE_PORT", port),
        ("KUBERNETES_SERVICE_PORT_HTTPS", port),
    ];
    usual.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// The value of a variable; none where it may be missing and is.
async fn value(life: &Life, variable: &EnvVar, before: &Environment) -> Result<Option<String>, Problem> {
    match &variable.value_from {
        None => Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), before))),
        Some(source) => from(life, source).await,
    }
}

async fn from(life: &Life, source: &EnvVarSource) -> Result<Option<String>, Problem> {
    if let Some(reference) = &source.field_ref {
        let path = &reference.field_path;
        let found = field(&life.pod, life.address, path);
        return found.map(Some).ok_or_else(|| Problem::config(format!("field path not supported: {path}")));
    }
    let (store, name, key, optional) = match (&source.secret_key_ref, &source.config_map_key_ref) {
        (Some(secret), _) => (Store::Secret, &secret.name, &secret.key, secret.optional),
        (_, Some(map)) => (Store::ConfigMap, &map.name, &map.key, map.optional),
        (None, None) => return Err(Problem::config("this source of a variable is not supported")),
    };
    let data = store.read(&life.machine.client, life.namespace(), name, optional).await;
    match data.map_err(Problem::config)?.remove(key) {
        Some(value) => text(value).map(Some),
        None if optional == Some(true) => Ok(None),
        None => Err(Problem::config(format!("couldn't find key {key} in {}/{name}", life.namespace()))),
    }
}

fn text(value: Vec<u8>) -> Result<String, Problem> {
    String::from_utf8(value).map_err(|_| Problem::config("a variable can only be text"))
}

/// Puts values in the place of `$(NAME)`; `$$` is a dollar, and a name that there is not stays as it is written.
pub(super) fn expand(text: &str, environment: &Environment) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let name = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        rest = match (name, after.strip_prefix('$')) {
            (Some((name, beyond)), _) => {
                match environment.get(name) {
                    Some(value) => expanded.push_str(value),
                    None => expanded.extend(["$(", name, ")"]),
                }
                beyond
            }
            (None, Some(beyond)) => {
                expanded.push('$');
                beyond
            }
            (None, None) => {
                expanded.push('$');
                after
            }
        };
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_stand_for_their_values() {
        let environment = Environment::from([("A".to_owned(), "x".to_owned())]);
        for (text, expanded) in [
            ("$(A)-$(A)", "x-x"),
            ("--flag=$(A)", "--flag=x"),
            ("$$(A)", "$(A)"),
            ("$(B)$A", "$(B)$A"),
            ("$(A", "$(A"),
            ("end$", "end$"),
        ] {
            assert_eq!(expand(text, &environment), expanded, "{text}");
        }
    }
}
