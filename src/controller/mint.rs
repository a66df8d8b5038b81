//! Asks the API server for a token of a credential's own `ServiceAccount`, bound to a Secret, so that it dies with it.
//!
//! Whose account it is, is checked on both sides of the request: by an uncached read before it, and by what the token
//! says after it. Decides nothing else.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{Secret, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{api::PostParams, core::PartialObjectMeta};

use super::{
    Context, Key, Place,
    write::{RequestError, Trouble, send},
};
use crate::{
    api::{Credential, condition::seconds, credential::ObjectReference},
    client::Objects,
    domain::{
        binding::controller,
        mint::{Claims, Life, seconds_until},
        name,
        redacted::Redacted,
    },
};

/// What decides whether anything can be minted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Native {
    /// Whether the controller may ask for such tokens.
    pub allowed: bool,
    /// The `ServiceAccount` of the credential, if it is there and the credential's.
    pub account: Option<ObjectReference>,
}

impl Native {
    /// As it is for this credential.
    #[must_use]
    pub fn of(ctx: &Context, credential: Option<&Credential>) -> Self {
        let account = credential.and_then(|credential| account(ctx, credential));
        Self { allowed: ctx.config.service_account_tokens, account }
    }
}

/// What is to be minted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The `ServiceAccount` of the credential.
    pub account: ObjectReference,
    /// The UID of the credential.
    pub credential: String,
    /// Whom the token is for; empty: the API server's own audiences.
    pub audiences: Vec<String>,
    /// The end of the token, whatever is granted.
    pub end: Timestamp,
}

/// What was minted.
pub struct Minted {
    /// The token.
    pub value: Redacted<String>,
    /// Its public id.
    pub id: Option<String>,
    /// From when to when it lives.
    pub life: Life,
}

/// The `ServiceAccount` of a credential, if the watch has shown it and it is the credential's.
fn account(ctx: &Context, credential: &Credential) -> Option<ObjectReference> {
    let place = Place::of(credential);
    let name = name::service_account(place.name());
    let held = ctx.accounts.get(&Place::new(place.namespace(), &name))?;
    let uid = held.metadata.uid.clone().filter(|_| is_of(&held, credential.metadata.uid.as_deref()))?;
    Some(ObjectReference { name, uid })
}

fn is_of(account: &PartialObjectMeta<ServiceAccount>, credential: Option<&str>) -> bool {
    let owner = controller(&account.metadata).map(|owner| owner.uid.as_str());
    owner.is_some() && owner == credential && account.metadata.deletion_timestamp.is_none()
}

/// Fails unless the API server has this very account, and it is of the credential with that UID.
///
/// # Errors
/// When it has not, or does not answer.
pub async fn confirm(
    ctx: &Context,
    namespace: &str,
    account: &ObjectReference,
    credential: Option<&str>,
) -> Result<(), RequestError> {
    let place = Place::new(namespace, &account.name);
    let api: Objects<ServiceAccount> = Objects::namespaced(ctx.client.clone(), namespace);
    let found = send(|| format!("get ServiceAccount {place}"), api.get_metadata_opt(place.name())).await?;
    let found = found.filter(|found| is_of(found, credential));
    let is_it = found.as_ref().is_some_and(|found| found.metadata.uid.as_ref() == Some(&account.uid));
    if let Some(found) = found {
        ctx.accounts.remember(found);
    }
    if is_it { Ok(()) } else { Err(RequestError::Stale { what: format!("ServiceAccount {place}") }) }
}

/// A Secret that is about to take a token.
pub struct Vessel<'a> {
    /// Whose Secret it is.
    pub owner: &'a Key,
    /// Where it is.
    pub place: &'a Place,
    /// Which.
    pub secret: &'a ObjectReference,
    /// In which version, if it holds none yet.
    pub empty: Option<&'a str>,
}

/// Mints a token that dies with this Secret.
///
/// # Errors
/// When it is refused, or fails; and when the account is not the one that it was meant for, or the end has come.
pub async fn mint(ctx: &Context, vessel: &Vessel<'_>, order: &Order) -> Result<Minted, RequestError> {
    let Vessel { owner, place, secret, empty } = vessel;
    let account = Place::new(place.namespace(), &order.account.name);
    let stale = || RequestError::Stale { what: format!("ServiceAccount {account}") };
    let api: Objects<ServiceAccount> = Objects::namespaced(ctx.client.clone(), account.namespace());
    confirm(ctx, account.namespace(), &order.account, Some(&order.credential)).await?;
    let now = ctx.clock.now();
    if now >= order.end {
        return Err(RequestError::Stale { what: "the time".to_owned() });
    }
    let asked_at = seconds(now);
    let request = TokenRequest {
        // A recreated account is refused by that.
        metadata: ObjectMeta { uid: Some(order.account.uid.clone()), ..ObjectMeta::default() },
        spec: TokenRequestSpec {
            audiences: order.audiences.clone(),
            expiration_seconds: Some(seconds_until(order.end, asked_at)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                name: Some(secret.name.clone()),
                uid: Some(secret.uid.clone()),
            }),
        },
        status: None,
    };
    // From here on nobody knows whether there is a token that dies with it.
    if empty.is_some() {
        ctx.forget_whole(owner, place);
    }
    let minted = send(
        || format!("mint a token for ServiceAccount {account}"),
        api.create_token_request(account.name(), &PostParams::default(), &request),
    )
    .await;
    if let (Err(error), Some(version)) = (&minted, empty)
        && matches!(error.trouble(), Trouble::Refused { .. })
    {
        ctx.note_whole(owner, place, version);
    }
    let value = Redacted::new(minted?.status.map(|status| status.token).unwrap_or_default());
    let claims = Claims::read(value.expose());
    let claims = claims.filter(|claims| claims.are_for(place.namespace(), &order.account, secret));
    let claims = claims.ok_or_else(stale)?;
    let expires_at = asked_at.checked_add(claims.life()).unwrap_or(order.end);
    Ok(Minted { value, id: claims.jti, life: Life { issued_at: asked_at, expires_at } })
}

/// Fails for a moment where a Secret of ours is there and holds nothing: another leader may be about to fill it. One that
/// died has left it for good.
///
/// # Errors
/// For as long as that may be.
pub fn leave_to_be_filled(ctx: &Context, owner: &Key, found: &Secret) -> Result<(), RequestError> {
    let empty = found.data.as_ref().is_none_or(BTreeMap::is_empty);
    let version = found.metadata.resource_version.as_deref().unwrap_or_default();
    let managed = found.metadata.labels.as_ref().is_some_and(|labels| {
        labels.get(name::MANAGED_BY_LABEL).is_some_and(|value| value == name::MANAGED_BY)
    });
    if empty && managed && found.metadata.deletion_timestamp.is_none() && ctx.may_be_filled(owner, version) {
        let name = found.metadata.name.as_deref().unwrap_or_default();
        return Err(RequestError::Stale { what: format!("Secret {name}, which holds nothing yet,") });
    }
    Ok(())
}

/// What a fresh Secret is called.
#[must_use]
pub fn reference(secret: &Secret) -> ObjectReference {
    let ObjectMeta { name, uid, .. } = &secret.metadata;
    ObjectReference { name: name.clone().unwrap_or_default(), uid: uid.clone().unwrap_or_default() }
}
