//! What can be listed by its fields. Kubernetes 1.30 cannot yet: KEP-4358.

use std::sync::Arc;

use credential_operator::api::{ApiToken, ApiTokenState, Credential};
use kube::{ResourceExt, api::ListParams};

use crate::support::{Space, World, credential, token};

crate::tests![tokens_by_their_credential_and_state];

async fn tokens_by_their_credential_and_state(_: Arc<World>, space: Space) {
    let other = token("other", "expiresIn: 30d").replace("{name: c}", "{name: d}");
    let tokens = [credential("c"), credential("d"), token("t", "expiresIn: 30d"), other];
    space.apply(&tokens.join("---\n")).await;
    for name in ["t", "other"] {
        space.token(name, ApiTokenState::Active).await;
    }
    let listed = async |fields: &str| {
        let found = space.api::<ApiToken>().list(&ListParams::default().fields(fields)).await.unwrap();
        found.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    assert_eq!(listed("spec.credentialRef.name=c").await, ["t"]);
    assert_eq!(listed("spec.credentialRef.name=d,status.state=Active").await, ["other"]);
    assert_eq!(listed("status.state!=Active").await, Vec::<String>::new());
    let tokens = space.api::<Credential>().list(&ListParams::default().fields("spec.type=Token")).await;
    assert_eq!(tokens.unwrap().items.len(), 2);
}
