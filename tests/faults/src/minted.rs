//! S18: a token that the API server minted is the credential's own, and dies with the Secret that it is in; and that Secret
//! is there only as long as the token may be used.

use std::collections::BTreeMap;

use credential_operator::{
    api::{ApiToken, Credential, Instant, credential::DesiredState, credential_policy::TokenType},
    domain::{
        binding::controller,
        mint::{Claims, MintAttestation},
        name,
    },
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{ResourceExt, api::ListParams};

use crate::space::Space;

/// A minted token in a Secret.
pub struct Found {
    /// The UID of the `ApiToken`.
    pub token: String,
    /// The number of the value.
    pub serial: i64,
    /// The value.
    pub value: String,
    /// Its public id.
    pub id: String,
    /// Whether it dies with this Secret.
    pub bound: bool,
}

/// The minted token that this Secret of an `ApiToken` holds.
#[must_use]
pub fn found(secret: &Secret) -> Option<Found> {
    let metadata = &secret.metadata;
    let owner = controller(metadata).filter(|owner| owner.kind == "ApiToken")?;
    let value = String::from_utf8(secret.data.as_ref()?.get("token")?.0.clone()).ok()?;
    let claims = Claims::read(&value)?;
    let said = metadata.annotations.as_ref().and_then(|said| said.get(name::ATTESTATION_ANNOTATION));
    let said: Option<MintAttestation> = said.and_then(|said| serde_json::from_str(said).ok());
    Some(Found {
        token: owner.uid.clone(),
        serial: said.map_or(0, |said| said.serial),
        id: claims.jti.clone().unwrap_or_default(),
        bound: claims.secret().is_some_and(|bound| Some(&bound.uid) == metadata.uid.as_ref()),
        value,
    })
}

/// What the token in a kubeconfig of a `Credential` says, and the UID of that.
fn kubeconfig(secret: &Secret) -> Option<(String, Claims)> {
    let owner = controller(&secret.metadata).filter(|owner| owner.kind == "Credential")?;
    let file = String::from_utf8(secret.data.as_ref()?.get("value")?.0.clone()).ok()?;
    let token = file.lines().find_map(|line| line.trim().strip_prefix("token: "))?;
    Some((owner.uid.clone(), Claims::read(token)?))
}

/// The end of a minted token, by its spec.
#[must_use]
pub fn end(token: &ApiToken) -> Option<Timestamp> {
    if token.spec.token_type != TokenType::ServiceAccount {
        return None;
    }
    let created_at = token.metadata.creation_timestamp.as_ref()?.0;
    credential_operator::domain::expiry::Terms::of(&token.spec, created_at).ok()?.over_at()
}

/// What is wrong when nothing happens any more.
pub async fn wrong(space: &Space, now: Timestamp) -> Vec<String> {
    let params = ListParams::default();
    let list = |found: kube::Result<kube::core::ObjectList<Secret>>| found.map(|list| list.items);
    let secrets = list(space.api::<Secret>().list(&params).await).unwrap_or_default();
    let tokens = space.api::<ApiToken>().list(&params).await.map(|list| list.items).unwrap_or_default();
    let credentials =
        space.api::<Credential>().list(&params).await.map(|list| list.items).unwrap_or_default();
    let accounts =
        space.api::<ServiceAccount>().list(&params).await.map(|list| list.items).unwrap_or_default();
    let accounts: BTreeMap<_, _> =
        accounts.iter().map(|account| (account.name_any(), account.uid().unwrap_or_default())).collect();
    let mut wrong = Vec::new();
    for secret in &secrets {
        let name = secret.name_any();
        if let Some((owner, claims)) = kubeconfig(secret) {
            let credential = credentials.iter().find(|credential| credential.uid().as_ref() == Some(&owner));
            let active = credential.is_some_and(|found| found.spec.state == DesiredState::Active);
            let account =
                credential.map(|found| name::service_account(&found.name_any())).unwrap_or_default();
            let own = claims.account();
            if own.name != account || accounts.get(&account) != Some(&own.uid) {
                wrong.push(format!("Secret {name} holds a kubeconfig of another account than {account}"));
            }
            if claims.secret().map(|bound| &bound.uid) != secret.metadata.uid.as_ref() {
                wrong.push(format!("the kubeconfig in Secret {name} does not die with it"));
            }
            if !active {
                wrong.push(format!("Secret {name} holds a kubeconfig that must not be used any more"));
            }
        }
        let Some(found) = found(secret) else { continue };
        let token = tokens.iter().find(|token| token.uid().as_ref() == Some(&found.token));
        let Some(token) = token else {
            wrong.push(format!("Secret {name} holds a token of an ApiToken that is gone"));
            continue;
        };
        let credential = &token.spec.credential_ref.name;
        let account = name::service_account(credential);
        let of = Claims::read(&found.value);
        if !of.is_some_and(|of| {
            of.account().name == account && accounts.get(&account) == Some(&of.account().uid)
        }) {
            wrong.push(format!(
                "Secret {name} holds a token of another account than {account}, or of one that is gone"
            ));
        }
        let credential = credentials.iter().find(|found| found.name_any() == *credential);
        let ends = credential.and_then(|found| found.spec.expires_at.as_ref()).map(Instant::timestamp);
        let over = end(token).into_iter().chain(ends.and_then(Result::ok)).any(|end| end <= now);
        let active = credential.is_some_and(|found| found.spec.state == DesiredState::Active);
        if over || !active || token.spec.revoked == Some(true) {
            wrong.push(format!("Secret {name} holds a token that must not be used any more"));
        }
    }
    wrong
}
