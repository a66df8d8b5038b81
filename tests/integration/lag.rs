//! A leader whose watches lag, or that was suspended for a while: what it sees is not what there is.

use std::sync::Arc;

use credential_operator::{
    api::{ApiToken, ApiTokenState, ApiTokenStatus, Credential, CredentialState},
    controller::{
        Config, Context,
        api_token::{
            observe::observe,
            observed::{Content, SecretSeen},
        },
        keyring,
        write::RequestError,
    },
    domain::{reach::Reach, token::Prefix},
};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    api::{DeleteParams, PostParams},
    core::PartialObjectMeta,
    runtime::watcher::Event,
};
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use serde_json::json;

use crate::support::{KEYRING, OPERATOR_NAMESPACE, Space, SystemClock, World, credential, token};

crate::tests![
    a_live_secret_is_not_deleted_on_old_news,
    no_secret_is_deleted_for_a_key_that_is_not_read_yet,
    no_value_is_drawn_on_old_news,
    a_token_that_is_younger_than_its_credential_is_not_deleted_with_the_one_before,
];

/// What a leader knows that has seen the credential and the keyring, and of the token no more than that it was created.
async fn lagging(world: &World, space: &Space, seen: &ApiToken, clock: Arc<SystemClock>) -> Context {
    let ctx = keyless(world, space, seen, clock).await;
    let operators = Space { client: space.client.clone(), namespace: OPERATOR_NAMESPACE.to_owned() };
    ctx.keyring_secret.observe(Event::Apply(operators.api::<Secret>().get(KEYRING).await.unwrap()));
    keyring::read(&ctx);
    ctx
}

/// The same, but it has not read the keyring yet.
async fn keyless(world: &World, space: &Space, seen: &ApiToken, clock: Arc<SystemClock>) -> Context {
    let identity =
        world.control_plane.service_account(OPERATOR_NAMESPACE, "credential-operator").await.unwrap();
    let config = Config {
        namespace: OPERATOR_NAMESPACE.to_owned(),
        keyring_secret: KEYRING.to_owned(),
        token_prefix: Prefix::default(),
        service_account_tokens: false,
        reach: Reach::default(),
    };
    let ctx = Context::new(identity.client().unwrap(), clock, Box::new(UnwrapErr(SysRng)), config);
    ctx.credentials.observe(Event::Apply(space.api::<Credential>().get("c").await.unwrap()));
    ctx.tokens.observe(Event::Apply(seen.clone()));
    ctx
}

/// Creates the token `t`, waits until it is issued, and returns what was there first.
async fn issued(space: &Space) -> ApiToken {
    space.apply(&credential("c")).await;
    space.credential("c", CredentialState::Active).await;
    let new: ApiToken = serde_yaml_ng::from_str(&token("t", "expiresIn: 1h")).unwrap();
    let created = space.api::<ApiToken>().create(&PostParams::default(), &new).await.unwrap();
    space.token("t", ApiTokenState::Active).await;
    created
}

async fn a_live_secret_is_not_deleted_on_old_news(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    let created = issued(&space).await;
    space.api::<Secret>().delete("t-token", &DeleteParams::default()).await.unwrap();
    let second = |token: Option<&ApiToken>| {
        token.and_then(|token| token.status.as_ref()).is_some_and(|status| status.serial == Some(1))
    };
    space.until::<ApiToken>("t", second).await;
    operator.stop().await;

    let ctx = lagging(&world, &space, &created, SystemClock::shared()).await;
    let live = space.api::<Secret>().get_metadata("t-token").await.unwrap();
    let live: PartialObjectMeta<Secret> = serde_json::from_value(json!(live)).unwrap();
    ctx.secrets.observe(Event::Apply(live));
    // By what it has seen, this is the second value of a token that never had a first. It proves itself all the same.
    let SecretSeen::Ours(own) = observe(&ctx, &created).await.unwrap().secret else {
        panic!("it is the token's own");
    };
    assert!(matches!(&own.content, Content::Attested(said) if said.serial == 1), "{:?}", own.content);
}

async fn no_secret_is_deleted_for_a_key_that_is_not_read_yet(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    issued(&space).await;
    operator.stop().await;
    // As the other leader leaves it just before it writes the status.
    let tokens = space.api::<ApiToken>();
    let mut unstated = tokens.get("t").await.unwrap();
    unstated.status = Some(ApiTokenStatus::default());
    let unstated = tokens.replace_status("t", &PostParams::default(), &unstated).await.unwrap();

    let ctx = keyless(&world, &space, &unstated, SystemClock::shared()).await;
    let live = space.api::<Secret>().get_metadata("t-token").await.unwrap();
    ctx.secrets.observe(Event::Apply(serde_json::from_value(json!(live)).unwrap()));
    let observed = observe(&ctx, &unstated).await;
    assert!(matches!(observed, Err(RequestError::Stale { .. })), "{observed:?}");
    // It has read them, and now knows better.
    let SecretSeen::Ours(own) = observe(&ctx, &unstated).await.unwrap().secret else {
        panic!("it is the token's own");
    };
    assert!(matches!(own.content, Content::Attested(_)), "{:?}", own.content);
}

async fn no_value_is_drawn_on_old_news(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    let created = issued(&space).await;
    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    space.token("t", ApiTokenState::Revoked).await;
    operator.stop().await;

    let clock = SystemClock::shared();
    clock.step(SignedDuration::from_mins(1));
    let ctx = lagging(&world, &space, &created, clock).await;
    let observed = observe(&ctx, &created).await;
    assert!(matches!(observed, Err(RequestError::Stale { .. })), "{observed:?}");
}

async fn a_token_that_is_younger_than_its_credential_is_not_deleted_with_the_one_before(
    world: Arc<World>,
    space: Space,
) {
    space.apply(&credential("c")).await;
    let before: Credential = space.api().get("c").await.unwrap();
    space.api::<Credential>().delete("c", &DeleteParams::default()).await.unwrap();
    space.until::<Credential>("c", |found| found.is_none()).await;
    space.apply(&credential("c")).await;
    // Creation times have whole seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    // As a leader leaves it that still saw the credential before.
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&token("t", "expiresIn: 1h")).await;
    space.token("t", ApiTokenState::Active).await;
    operator.stop().await;
    let value = space.value("t-token").await;
    let tokens = space.api::<ApiToken>();
    let mut misled = tokens.get("t").await.unwrap();
    let status = misled.status.get_or_insert_default();
    status.credential_uid = before.metadata.uid;
    tokens.replace_status("t", &PostParams::default(), &misled).await.unwrap();

    let operator = world.operator(SystemClock::shared()).await;
    let uid = space.api::<Credential>().get("c").await.unwrap().metadata.uid;
    let corrected = |token: Option<&ApiToken>| {
        let status = token.and_then(|token| token.status.as_ref());
        status.is_some_and(|status| status.credential_uid == uid)
    };
    space.until::<ApiToken>("t", corrected).await;
    assert_eq!(space.value("t-token").await, value, "it was issued for this one all along");
    operator.stop().await;
}
