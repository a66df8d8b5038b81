//! Carries a plan out. Only writes; what to write was decided before.

mod minted;

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    api::{Patch, PatchParams, PostParams},
    core::{PartialObjectMeta, PartialObjectMetaExt},
};
use serde_json::{Value, json};

use super::{
    observe::{SEALED_KEY, TOKEN_KEY, is_editable},
    plan::{Attest, Held, Mend, Plan, Recipe, Step, is_once},
};
use crate::{
    api::{
        ApiToken, ApiTokenState, ApiTokenStatus, credential::ObjectReference, credential_policy::TokenType,
    },
    client::Objects,
    controller::{
        Context, Key, Place,
        cache::Kept,
        events, owned_secret, status,
        watch::count_soon,
        write::{FIELD_MANAGER, RequestError, delete_only, send, unless_gone},
    },
    domain::{
        digest::{self, Attestation, Subject},
        made_for::MadeFor,
        material, name,
        token::Token,
    },
};

/// Carries out the steps in their order, then writes the status if it differs.
///
/// # Errors
/// At the first write that fails; what came before it stands, and the next plan goes on from there.
pub async fn apply(ctx: &Context, token: &ApiToken, plan: Plan) -> Result<(), RequestError> {
    let mut status = plan.status;
    let mut said = None;
    for step in plan.steps {
        match step {
            Step::CreateSecret(recipe) => {
                if !publish(ctx, token, recipe, None, status.as_mut()).await? {
                    return Ok(());
                }
            }
            Step::RenewSecret(recipe, held) => {
                if !publish(ctx, token, recipe, Some(held), status.as_mut()).await? {
                    return Ok(());
                }
            }
            Step::Mint(recipe) => {
                if !minted::mint(ctx, token, *recipe, status.as_mut()).await? {
                    return Ok(());
                }
            }
            Step::Say(status) => {
                let Some(written) = write(ctx, token, *status).await? else { return Ok(()) };
                said = Some(written);
            }
            Step::DeleteSecret { secret, resource_version } => {
                delete_secret(ctx, token, &secret, resource_version.as_deref()).await?;
                // Of many that end at once, each loses its Secret before the first is told about.
                let ended = |status: &mut ApiTokenStatus| {
                    matches!(status.state, Some(ApiTokenState::Expired | ApiTokenState::Revoked))
                };
                if ctx.queue.has_waiting()
                    && let Some(last_word) = status.take_if(ended)
                {
                    status = ctx.say_later(token, last_word);
                }
            }
            Step::MendSecret(mend) => mend_secret(ctx, token, mend).await?,
            Step::DeleteToken { resource_version } => {
                delete_token(ctx, token, resource_version.as_deref()).await?;
            }
        }
    }
    match status {
        Some(status) => write_status(ctx, said.as_ref().unwrap_or(token), status).await,
        None => Ok(()),
    }
}

/// Writes the status if it differs from what is stored.
///
/// # Errors
/// When the write fails, also because the object changed meanwhile.
pub async fn write_status(
    ctx: &Context,
    token: &ApiToken,
    status: ApiTokenStatus,
) -> Result<(), RequestError> {
    if token.status.as_ref() == Some(&status) {
        return Ok(());
    }
    write(ctx, token, status).await.map(drop)
}

/// Writes the status. Returns the token as it is then, unless it is gone.
async fn write(
    ctx: &Context,
    token: &ApiToken,
    status: ApiTokenStatus,
) -> Result<Option<ApiToken>, RequestError> {
    let place = Place::of(token);
    let api: Objects<ApiToken> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let written = status::replace(&api, &token.metadata, &token.status, &status).await?;
    if let Some(written) = &written {
        // The echo of this write is no change to the cache, so nobody else asks for the count.
        if let Some(credential) = written.owner() {
            count_soon(ctx, &credential);
        }
        ctx.tokens.remember(written.clone());
        events::of_token(ctx, token, written, ctx.clock.now()).await;
    }
    Ok(written)
}

/// Draws a value and puts it into a Secret: into a new one, or in the place of what this one holds. Tells whether it did.
async fn publish(
    ctx: &Context,
    token: &ApiToken,
    recipe: Recipe,
    into: Option<Held>,
    status: Option<&mut ApiTokenStatus>,
) -> Result<bool, RequestError> {
    // Without a key nothing is issued; the keyring's return asks for every token again.
    let Some(key) = ctx.signing_key() else {
        return Ok(false);
    };
    let place = Place::new(token.metadata.namespace.clone().unwrap_or_default(), recipe.name);
    let value = ctx.draw(|random| Token::draw(&ctx.config.token_prefix, random));
    let uid = token.metadata.uid.clone().unwrap_or_default();
    let subject = Subject { uid, serial: recipe.serial, term: recipe.term };
    let (attestation, entry) = match &recipe.recipients {
        None => {
            let bytes = value.expose().as_bytes().to_vec();
            (Attestation::new(&key, &subject, &value, recipe.claim), (TOKEN_KEY, bytes))
        }
        Some(recipients) => {
            let sealed = recipients.seal(value.expose().as_bytes());
            let sealed =
                sealed.map_err(|source| RequestError::Sealing { place: place.to_string(), source })?;
            let mark = recipients.mark();
            let attestation = Attestation::sealed(&key, &subject, &value, recipe.claim, mark, &sealed);
            (attestation, (SEALED_KEY, sealed))
        }
    };
    let mut annotations = recipe.dress.annotations;
    annotations.insert(name::ATTESTATION_ANNOTATION.to_owned(), Some(json!(attestation).to_string()));
    let made_for = MadeFor::new(&reference(token), place.to_string());
    let made_for = match &into {
        Some(held) => made_for.signed_as(&key, &held.secret.uid),
        None => made_for.signed(&key),
    };
    annotations.insert(name::MADE_FOR_ANNOTATION.to_owned(), Some(made_for.text()));
    let labels = recipe.dress.labels;
    let data = [(entry.0.to_owned(), ByteString(entry.1))];
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let written = if let Some(held) = into {
        // What others put in beside it stays.
        let metadata = metadata_patch(token, &held, &labels, &annotations);
        let patch = Patch::Merge(json!({ "data": BTreeMap::from(data), "metadata": metadata }));
        send(|| format!("renew the value in Secret {place}"), api.patch(place.name(), &patching(), &patch))
            .await?
    } else {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(place.name().to_owned()),
                namespace: Some(place.namespace().to_owned()),
                labels: Some(present(labels)),
                annotations: Some(present(annotations)),
                owner_references: Some(vec![reference(token)]),
                ..ObjectMeta::default()
            },
            immutable: (!is_editable(token)).then_some(true),
            type_: Some(material::OPAQUE.to_owned()),
            data: Some(data.into()),
            ..Secret::default()
        };
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        send(|| format!("create Secret {place}"), api.create(&params, &secret)).await?
    };
    note_whole(ctx, token, &written.metadata);
    if is_once(token) {
        ctx.note_unsaid(token, attestation.clone());
    }
    if let Some(status) = status {
        let uid = written.metadata.uid.clone().unwrap_or_default();
        status.token_id = Some(attestation.id);
        status.digest = Some(attestation.digest);
        status.secret = Some(ObjectReference { name: place.name().to_owned(), uid });
    }
    ctx.secrets.remember(written.metadata.into_response_partial());
    Ok(true)
}

fn present(changes: BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
    changes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn patching() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// What makes a patch fail where the Secret is another, or was changed since it was looked at.
fn metadata_patch(
    token: &ApiToken,
    held: &Held,
    labels: &BTreeMap<String, Option<String>>,
    annotations: &BTreeMap<String, Option<String>>,
) -> Value {
    let mut metadata = json!({
        "uid": held.secret.uid,
        "resourceVersion": held.resource_version,
        "labels": labels,
        "annotations": annotations,
    });
    if held.own {
        metadata["ownerReferences"] = json!([reference(token)]);
    }
    metadata
}

/// What we wrote ourselves need not be read to know what it holds.
fn note_whole(ctx: &Context, token: &ApiToken, written: &ObjectMeta) {
    if is_editable(token) {
        let place = Place::new(
            token.metadata.namespace.clone().unwrap_or_default(),
            written.name.clone().unwrap_or_default(),
        );
        let version = written.resource_version.as_deref().unwrap_or_default();
        ctx.note_whole(&Key::api_token(token), &place, version);
    }
}

async fn delete_secret(
    ctx: &Context,
    token: &ApiToken,
    secret: &ObjectReference,
    resource_version: Option<&str>,
) -> Result<(), RequestError> {
    let place = Place::new(token.metadata.namespace.clone().unwrap_or_default(), secret.name.clone());
    let minted = token.spec.token_type == TokenType::ServiceAccount;
    owned_secret::delete(ctx, &place, &secret.uid, resource_version, minted).await?;
    ctx.forget_whole(&Key::api_token(token), &place);
    Ok(())
}

async fn mend_secret(ctx: &Context, token: &ApiToken, mend: Mend) -> Result<(), RequestError> {
    let secret = &mend.held.secret;
    let place = Place::new(token.metadata.namespace.clone().unwrap_or_default(), secret.name.clone());
    let keyring = ctx.keyring();
    let mut annotations = mend.dress.annotations;
    if let Some(Attest { value, serial, term, claim }) = mend.attest {
        let subject = Subject { uid: token.metadata.uid.clone().unwrap_or_default(), serial, term };
        // Under the key of the digest in the status, so that both say the same again.
        let digest = token.status.as_ref().and_then(|status| status.digest.as_deref());
        let key = digest.and_then(digest::key_id).and_then(|id| keyring.get(id));
        if let Some(key) = key {
            let attestation = Attestation::new(key, &subject, &value, claim);
            annotations.insert(name::ATTESTATION_ANNOTATION.to_owned(), Some(json!(attestation).to_string()));
        }
    }
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let metadata = metadata_patch(token, &mend.held, &mend.dress.labels, &annotations);
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let mended: PartialObjectMeta<Secret> =
        send(|| format!("mend Secret {place}"), api.patch_metadata(place.name(), &patching(), &patch))
            .await?;
    note_whole(ctx, token, &mended.metadata);
    ctx.secrets.remember(mended);
    Ok(())
}

async fn delete_token(
    ctx: &Context,
    token: &ApiToken,
    resource_version: Option<&str>,
) -> Result<(), RequestError> {
    let place = Place::of(token);
    let uid = token.metadata.uid.clone().unwrap_or_default();
    let api: Objects<ApiToken> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let params = delete_only(&uid, resource_version);
    let deleted = send(|| format!("delete ApiToken {place}"), api.delete(place.name(), &params)).await;
    unless_gone(deleted)?;
    Ok(())
}

pub(super) fn reference(token: &ApiToken) -> OwnerReference {
    OwnerReference {
        api_version: "credential-operator.io/v1alpha1".to_owned(),
        kind: "ApiToken".to_owned(),
        name: token.metadata.name.clone().unwrap_or_default(),
        uid: token.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}
