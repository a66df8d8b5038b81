//! Carries a plan out. Only writes; what to write was decided before.

use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    core::{PartialObjectMeta, PartialObjectMetaExt},
};
use serde_json::json;

use super::{
    observe::TOKEN_KEY,
    plan::{Attest, Mend, Plan, Recipe, Step},
};
use crate::{
    api::{ApiToken, ApiTokenState, ApiTokenStatus, credential::ObjectReference},
    controller::{
        Context, Place,
        cache::Kept,
        watch::count_soon,
        write::{FIELD_MANAGER, RequestError, delete_only, send, unless_gone},
    },
    domain::{
        digest::{self, Attestation, Subject},
        keyring::Key,
        name,
        token::Token,
    },
};

/// Carries out the steps in their order, then writes the status if it differs.
///
/// # Errors
/// At the first write that fails; what came before it stands, and the next plan goes on from there.
pub async fn apply(ctx: &Context, token: &ApiToken, plan: Plan) -> Result<(), RequestError> {
    let mut status = plan.status;
    for step in plan.steps {
        match step {
            Step::CreateSecret(recipe) => {
                // Without a key nothing is issued; the keyring's return asks for every token again.
                let Some(key) = ctx.signing_key() else {
                    return Ok(());
                };
                let issued = create_secret(ctx, token, &key, recipe).await?;
                if let Some(status) = &mut status {
                    status.token_id = Some(issued.id);
                    status.digest = Some(issued.digest);
                    status.secret = Some(issued.secret);
                }
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
            Step::DeleteToken => delete_token(ctx, token).await?,
        }
    }
    match status {
        Some(status) => write_status(ctx, token, status).await,
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
    let place = Place::of(token);
    let api: Api<ApiToken> = Api::namespaced(ctx.client.clone(), place.namespace());
    // The version makes it fail where another leader, or a stale watch, would overwrite what it has not seen.
    let changed = ApiToken { status: Some(status), ..token.clone() };
    let written = send(
        || format!("update the status of ApiToken {place}"),
        api.replace_status(place.name(), &PostParams::default(), &changed),
    )
    .await;
    if let Some(written) = unless_gone(written)? {
        // The echo of this write is no change to the cache, so nobody else asks for the count.
        if let Some(credential) = written.owner() {
            count_soon(ctx, &credential);
        }
        ctx.tokens.remember(written);
    }
    Ok(())
}

struct Issued {
    id: String,
    digest: String,
    secret: ObjectReference,
}

async fn create_secret(
    ctx: &Context,
    token: &ApiToken,
    key: &Key,
    recipe: Recipe,
) -> Result<Issued, RequestError> {
    let place = Place::new(token.metadata.namespace.clone().unwrap_or_default(), recipe.name);
    let value = ctx.draw(|random| Token::draw(&ctx.config.token_prefix, random));
    let subject = Subject { uid: token.metadata.uid.clone().unwrap_or_default(), serial: recipe.serial };
    let attestation = Attestation::new(key, &subject, &value, recipe.end, &recipe.credential);
    let mut annotations = recipe.annotations;
    annotations.insert(name::ATTESTATION_ANNOTATION.to_owned(), json!(attestation).to_string());
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(place.name().to_owned()),
            namespace: Some(place.namespace().to_owned()),
            labels: Some(recipe.labels),
            annotations: Some(annotations),
            owner_references: Some(vec![reference(token)]),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        type_: Some("Opaque".to_owned()),
        data: Some([(TOKEN_KEY.to_owned(), ByteString(value.expose().as_bytes().to_vec()))].into()),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), place.namespace());
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let created = send(|| format!("create Secret {place}"), api.create(&params, &secret)).await?;
    let uid = created.metadata.uid.clone().unwrap_or_default();
    ctx.secrets.remember(created.metadata.into_response_partial());
    Ok(Issued {
        id: attestation.id,
        digest: attestation.digest,
        secret: ObjectReference { name: place.name().to_owned(), uid },
    })
}

async fn delete_secret(
    ctx: &Context,
    token: &ApiToken,
    secret: &ObjectReference,
    resource_version: Option<&str>,
) -> Result<(), RequestError> {
    let place = Place::new(token.metadata.namespace.clone().unwrap_or_default(), secret.name.clone());
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), place.namespace());
    let params = delete_only(&secret.uid, resource_version);
    unless_gone(send(|| format!("delete Secret {place}"), api.delete(&secret.name, &params)).await)?;
    ctx.secrets.forget(&place, &secret.uid);
    Ok(())
}

async fn mend_secret(ctx: &Context, token: &ApiToken, mend: Mend) -> Result<(), RequestError> {
    let place = Place::new(token.metadata.namespace.clone().unwrap_or_default(), mend.secret.name.clone());
    let keyring = ctx.keyring();
    let mut annotations = mend.dress.annotations;
    if let Some(Attest { value, serial, end, credential }) = &mend.attest {
        let subject = Subject { uid: token.metadata.uid.clone().unwrap_or_default(), serial: *serial };
        // Under the key of the digest in the status, so that both say the same again.
        let digest = token.status.as_ref().and_then(|status| status.digest.as_deref());
        let key = digest.and_then(digest::key_id).and_then(|id| keyring.get(id));
        if let Some(key) = key {
            let attestation = Attestation::new(key, &subject, value, *end, credential);
            annotations.insert(name::ATTESTATION_ANNOTATION.to_owned(), Some(json!(attestation).to_string()));
        }
    }
    let mut metadata = json!({
        "uid": mend.secret.uid,
        "resourceVersion": mend.resource_version,
        "labels": mend.dress.labels,
        "annotations": annotations,
    });
    if mend.own {
        metadata["ownerReferences"] = json!([reference(token)]);
    }
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), place.namespace());
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let mended: PartialObjectMeta<Secret> =
        send(|| format!("mend Secret {place}"), api.patch_metadata(&mend.secret.name, &params, &patch))
            .await?;
    ctx.secrets.remember(mended);
    Ok(())
}

async fn delete_token(ctx: &Context, token: &ApiToken) -> Result<(), RequestError> {
    let place = Place::of(token);
    let uid = token.metadata.uid.clone().unwrap_or_default();
    let api: Api<ApiToken> = Api::namespaced(ctx.client.clone(), place.namespace());
    let deleted =
        send(|| format!("delete ApiToken {place}"), api.delete(place.name(), &delete_only(&uid, None))).await;
    unless_gone(deleted)?;
    Ok(())
}

fn reference(token: &ApiToken) -> OwnerReference {
    OwnerReference {
        api_version: "credential-operator.io/v1alpha1".to_owned(),
        kind: "ApiToken".to_owned(),
        name: token.metadata.name.clone().unwrap_or_default(),
        uid: token.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}
