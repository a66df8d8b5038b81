//! The CRDs and the admission policies as templates of Helm, for `charts/credential-operator-crds`: Helm upgrades a template, and
//! leaves a file in a chart's `crds/` as it is.
//!
//! Knows nothing of clients.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Serialize;

use crate::{
    admission::{self, Account},
    api,
    domain::name,
};

/// Helm leaves it when the chart is uninstalled: with a definition go all objects of its kind.
const KEEP: (&str, &str) = ("helm.sh/resource-policy", "keep");
/// Placeholder for the controllers' accounts, as a list in an expression. The chart's helpers define it.
const CONTROLLERS: &str = r#"{{ include "credential-operator-crds.controllers" . }}"#;
/// The same where the list is the whole expression, which YAML has in quotes.
const QUOTED: &str = r#"{{ include "credential-operator-crds.controllers" . | quote }}"#;

/// The templates by their file names, less `.yaml`.
///
/// # Errors
/// Never, as far as is known: what is built here can be written.
pub fn templates() -> Result<BTreeMap<String, String>, serde_yaml_ng::Error> {
    let mut templates = BTreeMap::new();
    for crd in api::crds() {
        templates.insert(crd.spec.names.plural.clone(), template(crd)?);
    }
    let mut documents = Vec::new();
    for policy in admission::policies(&[Account::default()], name::KEYRING) {
        documents.push(template(admission::binding(&policy))?);
        documents.push(template(policy)?);
    }
    templates.insert("validatingadmissionpolicies".to_owned(), documents.join("---\n"));
    Ok(templates)
}

fn template(mut object: impl Resource + Serialize) -> Result<String, serde_yaml_ng::Error> {
    keep(object.meta_mut());
    let text = serde_yaml_ng::to_string(&object)?;
    let user = Account::default().user();
    let text = escape(&text).replace(&format!("'[''{user}'']'"), QUOTED);
    Ok(text.replace(&format!("['{user}']"), CONTROLLERS))
}

fn keep(metadata: &mut ObjectMeta) {
    let (name, value) = KEEP;
    metadata.annotations.get_or_insert_default().insert(name.to_owned(), value.to_owned());
}

/// Has Helm write what it would take for the beginning of an action.
fn escape(text: &str) -> String {
    text.replace("{{", r#"{{ "{{" }}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_kept_and_the_accounts_are_a_value() {
        let templates = templates().unwrap();
        let all: String = templates.values().map(String::as_str).collect();
        assert_eq!(templates.len(), 4);
        assert_eq!(
            all.matches("\nkind: ").count(),
            all.matches("    helm.sh/resource-policy: keep\n").count()
        );
        assert_eq!(all.matches(&format!("expression: {QUOTED}\n")).count(), 2);
        assert_eq!(all.matches(&format!("request.userInfo.username in {CONTROLLERS})")).count(), 4);
        assert!(!all.contains(&Account::default().user()));
    }

    #[test]
    fn what_looks_like_an_action_is_written() {
        assert_eq!(escape("a{{b}} {{{"), r#"a{{ "{{" }}b}} {{ "{{" }}{"#);
    }
}
