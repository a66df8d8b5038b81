//! What server-side apply empties says none, where that differs from nothing said.

use std::sync::Arc;

use crate::{
    admission::case::{credential, object, placed, policy, token},
    support::{Space, World, apply, documents, dynamic},
};
use kube::api::DeleteParams;

crate::tests![none_is_not_nothing];

async fn none_is_not_nothing(_: Arc<World>, space: Space) {
    let selecting = |selector: &str| {
        object("CredentialPolicy", "{name: $ns}", &format!("{{namespaceSelector: {selector}}}"))
    };
    // Selects nothing while it is there.
    let selector = "{matchLabels: {no/namespace: has-it}, matchExpressions: [{key: nor, operator: Exists}]}";
    let mut failed = Vec::new();
    for (before, after) in [
        (policy("tokens: {maxLifetime: 1d}"), policy("tokens: {}")),
        (policy("tokens: {types: [Opaque], lifetimes: [1h]}"), policy("tokens: {types: []}")),
        (
            selecting(selector),
            selecting("{matchLabels: {}, matchExpressions: [{key: nor, operator: Exists}]}"),
        ),
        (selecting(selector), selecting("{matchLabels: {no/namespace: has-it}, matchExpressions: []}")),
        (selecting(selector), selecting("{}")),
        (credential("{scopes: [a]}"), credential("{scopes: []}")),
        (credential("{audiences: [a]}"), credential("{audiences: []}")),
        (credential("{roles: [{kind: ClusterRole, name: view}]}"), credential("{roles: []}")),
        (token("expiresIn: 1h, scopes: [a]"), token("expiresIn: 1h, scopes: []")),
        (token("expiresIn: 1h, audiences: [a]"), token("expiresIn: 1h, audiences: []")),
    ] {
        let [before, after] = [before, after].map(|yaml| documents(&placed(&yaml, &space)).remove(0));
        let first = apply(&space.client, &space.namespace, before.clone()).await.unwrap();
        let what = format!("{} {}", before["spec"], after["spec"]);
        match apply(&space.client, &space.namespace, after.clone()).await {
            Err(error) => failed.push(format!("{what}: {error}")),
            Ok(applied) => {
                for (key, asked) in after["spec"].as_object().unwrap() {
                    if applied.data["spec"][key] != *asked {
                        failed.push(format!("{what}: {}", applied.data["spec"]));
                    }
                }
            }
        }
        dynamic(&space.client, &first)
            .delete(first.metadata.name.as_ref().unwrap(), &DeleteParams::default())
            .await
            .unwrap();
        let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
        while dynamic(&space.client, &first)
            .get_opt(first.metadata.name.as_ref().unwrap())
            .await
            .unwrap()
            .is_some()
        {
            assert!(tokio::time::Instant::now() < deadline, "{what}: stays");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
