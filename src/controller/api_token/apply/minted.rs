//! Puts a token into a Secret that the API server mints. The Secret is first, since the token is bound to it: whatever
//! becomes of the token, it ends with the Secret.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    api::{Patch, PostParams},
    core::PartialObjectMetaExt,
};
use serde_json::json;

use super::{metadata_patch, patching, present, reference};
use crate::{
    api::{ApiToken, ApiTokenStatus, api_token::MintedToken, credential::ObjectReference},
    client::Objects,
    controller::{
        Context, Key, Place,
        api_token::{
            observe::TOKEN_KEY,
            plan::{Held, MintRecipe},
        },
        dress::Dress,
        mint::{self, Vessel},
        write::{FIELD_MANAGER, RequestError, send},
    },
    domain::{keyring, made_for::MadeFor, material, mint::MintAttestation, name},
};

/// Mints a token into a Secret: into a new one, or into one of ours. Tells whether it did.
pub(super) async fn mint(
    ctx: &Context,
    token: &ApiToken,
    recipe: MintRecipe,
    status: Option<&mut ApiTokenStatus>,
) -> Result<bool, RequestError> {
    // Without a key nothing is issued; the keyring's return asks for every token again.
    let Some(key) = ctx.signing_key() else {
        return Ok(false);
    };
    let place = Place::new(token.metadata.namespace.clone().unwrap_or_default(), recipe.name);
    let owner = Key::api_token(token);
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let empty = recipe.into.is_none() || recipe.empty;
    let (held, dress) = match recipe.into {
        Some(held) => (held, recipe.dress),
        None => (create(ctx, token, &key, &place, recipe.dress).await?, Dress::default()),
    };
    let vessel = Vessel {
        owner: &owner,
        place: &place,
        secret: &held.secret,
        empty: empty.then_some(&held.resource_version),
    };
    let minted = mint::mint(ctx, &vessel, &recipe.order).await?;
    let attestation = MintAttestation {
        serial: recipe.serial,
        term: recipe.term,
        id: minted.id,
        account: recipe.order.account.uid,
        credential: recipe.order.credential,
        audiences: recipe.order.audiences,
        issued_at: minted.life.issued_at.into(),
        expires_at: minted.life.expires_at.into(),
        proof: String::new(),
    };
    let uid = token.metadata.uid.as_deref().unwrap_or_default();
    let attestation = attestation.signed(&key, uid, &held.secret.uid, minted.value.expose());
    let mut annotations = dress.annotations;
    annotations.insert(name::ATTESTATION_ANNOTATION.to_owned(), Some(json!(attestation).to_string()));
    let made_for = MadeFor::new(&reference(token), place.to_string()).minted();
    let made_for = made_for.signed_as(&key, &held.secret.uid);
    annotations.insert(name::MADE_FOR_ANNOTATION.to_owned(), Some(made_for.text()));
    // What others put in beside it stays.
    let data = BTreeMap::from([(TOKEN_KEY, ByteString(minted.value.expose().as_bytes().to_vec()))]);
    let metadata = metadata_patch(token, &held, &dress.labels, &annotations);
    let patch = Patch::Merge(json!({ "data": data, "metadata": metadata }));
    let filled =
        send(|| format!("put a token into Secret {place}"), api.patch(place.name(), &patching(), &patch))
            .await?;
    ctx.note_whole(&owner, &place, filled.metadata.resource_version.as_deref().unwrap_or_default());
    ctx.secrets.remember(filled.metadata.into_response_partial());
    if let Some(status) = status {
        tell(status, &attestation, held.secret);
    }
    Ok(true)
}

/// Makes a Secret that holds nothing yet.
async fn create(
    ctx: &Context,
    token: &ApiToken,
    key: &keyring::Key,
    place: &Place,
    dress: Dress,
) -> Result<Held, RequestError> {
    let made_for = MadeFor::new(&reference(token), place.to_string()).minted().signed(key);
    let mut annotations = present(dress.annotations);
    annotations.insert(name::MADE_FOR_ANNOTATION.to_owned(), made_for.text());
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(place.name().to_owned()),
            namespace: Some(place.namespace().to_owned()),
            labels: Some(present(dress.labels)),
            annotations: Some(annotations),
            owner_references: Some(vec![reference(token)]),
            ..ObjectMeta::default()
        },
        type_: Some(material::OPAQUE.to_owned()),
        ..Secret::default()
    };
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let made = send(|| format!("create Secret {place}"), api.create(&params, &secret)).await?;
    let resource_version = made.metadata.resource_version.clone().unwrap_or_default();
    ctx.note_whole(&Key::api_token(token), place, &resource_version);
    let held = Held { secret: mint::reference(&made), resource_version, own: false };
    ctx.secrets.remember(made.metadata.into_response_partial());
    Ok(held)
}

fn tell(status: &mut ApiTokenStatus, said: &MintAttestation, secret: ObjectReference) {
    status.token_id.clone_from(&said.id);
    status.issued_at = Some(said.issued_at.clone());
    status.minted =
        Some(MintedToken { service_account_uid: said.account.clone(), expires_at: said.expires_at.clone() });
    status.secret = Some(secret);
}
