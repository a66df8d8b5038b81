//! Tokens by the thousand, as the operator issues them, written by the benches: they know the keyring, and no Secret is
//! needed to present a value.

use std::{collections::HashMap, ops::Range, sync::Arc};

use credential_operator::{
    api::{ApiToken, ApiTokenState, ApiTokenStatus, Credential},
    domain::{
        digest::{self, Subject},
        keyring::{Key, Keyring},
        token::{Prefix, Token},
    },
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{
    floor,
    load::{self, FAR},
    world::{OPERATOR_NAMESPACE, Space, World},
};

/// How many tokens a credential has.
pub const PER_CREDENTIAL: usize = 100;
/// How many are written at a time.
const WRITERS: usize = 64;

/// What a token is issued by.
#[derive(Clone)]
pub struct Values {
    key: Key,
    status: ApiTokenStatus,
}

impl Values {
    /// Has the operator issue a token, and keeps what it wrote.
    pub async fn learn(world: &World) -> Self {
        let operator = world.operator();
        let space = world.space("learn").await;
        space.issue_one("t0000").await;
        let status = floor::status(&space, ApiTokenState::Active).await;
        drop(operator);
        space.remove().await;
        let secrets: Api<Secret> = Api::namespaced(world.admin.clone(), OPERATOR_NAMESPACE);
        let data = secrets.get("credential-operator-keyring").await.unwrap().data.unwrap();
        let keyring = Keyring::read(data.iter().map(|(id, bytes)| (id, bytes.0.as_slice())));
        Self { key: keyring.signing(load::now()).unwrap().clone(), status }
    }

    /// What looks like it, for who has no cluster.
    pub fn alike() -> Self {
        let key = Key::draw(load::now(), &mut StdRng::seed_from_u64(0));
        let status = ApiTokenStatus { issued_at: Some(load::now().into()), ..ApiTokenStatus::default() };
        Self { key, status }
    }

    /// Issues the tokens of these numbers, and first the credentials that they need.
    pub async fn issue(&self, space: &Space, numbers: Range<usize>) {
        let create = |number| {
            let (api, credential) = (space.api::<Credential>(), credential(number));
            async move { api.create(&PostParams::default(), &credential).await.unwrap() }
        };
        let credentials = numbers.start.div_ceil(PER_CREDENTIAL)..numbers.end.div_ceil(PER_CREDENTIAL);
        load::each(credentials, WRITERS, create).await;
        let credentials = space.api::<Credential>().list(&ListParams::default()).await.unwrap();
        let uids = credentials.into_iter().map(|found| (found.name_any(), found.uid().unwrap()));
        let shared = Arc::new((self.clone(), uids.collect::<HashMap<_, _>>()));
        let issue = |number| {
            let (api, shared) = (space.api::<ApiToken>(), shared.clone());
            async move {
                let (values, uids) = &*shared;
                let created = api.create(&PostParams::default(), &token(number)).await.unwrap();
                let credential = &uids[&created.spec.credential_ref.name];
                let issued = values.issued(created, number, credential);
                api.replace_status(&load::name(number), &PostParams::default(), &issued).await.unwrap();
            }
        };
        load::each(numbers, WRITERS, issue).await;
    }

    /// A token with the status that the operator would give it.
    pub fn issued(&self, created: ApiToken, number: usize, credential: &str) -> ApiToken {
        let (value, uid) = (value(number), created.uid().unwrap());
        let status = ApiTokenStatus {
            serial: Some(0),
            token_id: Some(value.id().to_owned()),
            digest: Some(digest::digest(&self.key, &Subject { uid, serial: 0, term: None }, &value)),
            credential_uid: Some(credential.to_owned()),
            ..self.status.clone()
        };
        ApiToken { status: Some(status), ..created }
    }
}

/// The value of the token of that number.
pub fn value(number: usize) -> Token {
    Token::draw(&Prefix::default(), &mut StdRng::seed_from_u64(number as u64))
}

/// The credential of that number.
pub fn credential(number: usize) -> Credential {
    serde_json::from_value(json!({
        "apiVersion": "credential-operator.io/v1alpha1",
        "kind": "Credential",
        "metadata": {"name": format!("c{number}")},
        "spec": {"displayName": "Bench", "scopes": ["orders:read", "orders:write"]},
    }))
    .unwrap()
}

/// The token of that number.
pub fn token(number: usize) -> ApiToken {
    let mut token = load::token(&load::name(number), FAR);
    token.spec.credential_ref.name = format!("c{}", number / PER_CREDENTIAL);
    token
}
