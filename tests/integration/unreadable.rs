//! A credential that was stored before a rule existed and cannot be read. What becomes of its tokens?

use std::{sync::Arc, time::Duration};

use credential_operator::api::{self, ApiToken, ApiTokenState, Credential, CredentialState};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    keyring::without_rules,
    support::{DEADLINE, Space, SystemClock, World, condition, credential, install_crd, token},
};

crate::tests![a_credential_that_cannot_be_read_holds_up_no_end];

/// A credential for whoever does not know its schema.
#[derive(Clone, Debug, Deserialize, Serialize, kube::Resource)]
#[resource(inherit = Credential)]
struct UntypedCredential {
    metadata: ObjectMeta,
    status: Option<Value>,
}

/// Stores the credential `c` in a form that cannot be read, and waits until its status says so.
async fn spoil(world: &World, space: &Space) {
    let [crd, _, _] = <[_; 3]>::try_from(api::crds()).unwrap();
    install_crd(&world.admin, &without_rules(crd.clone())).await;
    let odd = json!({"spec": {"description": {"not": "a text"}}});
    // The API server goes by the schema before for a moment.
    let deadline = Instant::now() + DEADLINE;
    while let Err(error) = space.patch::<UntypedCredential>("c", odd.clone()).await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
    install_crd(&world.admin, &crd).await;
    let said = space.until::<UntypedCredential>("c", |found| {
        found.is_some_and(|found| condition(found, "Stalled").1 == "InvalidSpec")
    });
    said.await.unwrap();
}

async fn a_credential_that_cannot_be_read_holds_up_no_end(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    let lives = ["revoked", "ends", "stays", "minted"];
    space.apply(&credential("c")).await;
    for (name, rest) in [("revoked", "expiresIn: 2d"), ("ends", "expiresIn: 1d"), ("stays", "expiresIn: 2d")]
    {
        space.apply(&token(name, rest)).await;
    }
    space.apply(&token("minted", "type: ServiceAccount, expiresIn: 2d")).await;
    for name in lives {
        space.token(name, ApiTokenState::Active).await;
    }
    let values = async || [space.value("stays-token").await, space.value("minted-token").await];
    let before = values().await;

    spoil(&world, &space).await;
    space.apply(&token("new", "expiresIn: 2d")).await;
    for name in ["stays", "new"] {
        let failed = space.token(name, ApiTokenState::Failed).await;
        let (stalled, reason, message) = condition(&failed, "Stalled");
        assert!(stalled && reason == "InvalidSpec", "{name}: {reason}");
        assert!(message.starts_with("Credential c does not fit the schema"), "{name}: {message}");
        assert!(!condition(&failed, "Usable").0, "no verifier accepts it");
    }
    let minted = space.until::<ApiToken>("minted", |token| {
        token.is_some_and(|token| condition(token, "Ready").1 == "InvalidSpec")
    });
    assert!(condition(&minted.await.unwrap(), "Usable").0, "the API server goes on accepting it");
    // What is to end does.
    space.patch::<ApiToken>("revoked", json!({"spec": {"revoked": true}})).await.unwrap();
    space.token("revoked", ApiTokenState::Revoked).await;
    clock.step(SignedDuration::from_hours(25));
    space.token("ends", ApiTokenState::Expired).await;
    for name in ["revoked-token", "ends-token", "new-token"] {
        space.until::<Secret>(name, |secret| secret.is_none()).await;
    }
    assert_eq!(values().await, before);

    let mended = json!({"spec": {"description": "a text"}});
    space.patch::<UntypedCredential>("c", mended).await.unwrap();
    space.credential("c", CredentialState::Active).await;
    for name in ["stays", "new", "minted"] {
        let mended = space.until::<ApiToken>(name, |token| {
            token.is_some_and(|token| condition(token, "Ready").0 && condition(token, "Usable").0)
        });
        mended.await;
    }
    assert_eq!(space.value("stays-token").await, before[0]);

    spoil(&world, &space).await;
    space.token("stays", ApiTokenState::Failed).await;
    space.api::<UntypedCredential>().delete("c", &DeleteParams::default()).await.unwrap();
    for name in lives {
        space.until::<ApiToken>(name, |token| token.is_none()).await;
        space.until::<Secret>(&format!("{name}-token"), |secret| secret.is_none()).await;
    }
    operator.stop().await;
}
