//! Publishes a kubeconfig. Its Secret is first, since the token is bound to it.

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    api::{Patch, PostParams},
    core::PartialObjectMetaExt,
};
use serde_json::{Map, Value, json};

use super::{Done, params, present};
use crate::{
    api::{Credential, CredentialStatus, credential::ObjectReference},
    client::Objects,
    controller::{
        Context, Key, Place,
        credential::{
            material::plan::{MintRecipe, told_of},
            plan::owner,
        },
        dress::Dress,
        mint::{self, Vessel},
        write::{FIELD_MANAGER, RequestError, send, unless_gone},
    },
    domain::{
        made_for::MadeFor,
        material::{self, Problem, Request, kubeconfig},
        name,
    },
};

/// Where kube-controller-manager puts the authority of the API server, in every namespace.
const ROOT_AUTHORITY: &str = "kube-root-ca.crt";

pub(super) async fn publish(
    ctx: &Context,
    credential: &Credential,
    minted: MintRecipe,
    status: Option<&mut CredentialStatus>,
) -> Result<Done, RequestError> {
    // Without a key nothing is issued; the keyring's return asks for every credential again.
    let Some(key) = ctx.signing_key() else {
        return Ok(Done::Later);
    };
    let MintRecipe { recipe, order, empty } = minted;
    let whose = Key::credential(credential);
    let place = Place::new(Place::of(credential).namespace(), &recipe.name);
    let authority = authority(ctx, credential).await?;
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let empty = empty || recipe.into.is_none();
    let (secret, version, dress) = if let Some((secret, version, _)) = recipe.into {
        (secret, version, recipe.dress)
    } else {
        let made_for = MadeFor::new(&owner(credential).reference(), place.to_string()).minted().signed(&key);
        let mut annotations = present(recipe.dress.annotations);
        annotations.insert(name::MADE_FOR_ANNOTATION.to_owned(), made_for.text());
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(place.name().to_owned()),
                namespace: Some(place.namespace().to_owned()),
                labels: Some(present(recipe.dress.labels)),
                annotations: Some(annotations),
                owner_references: Some(vec![owner(credential).reference()]),
                ..ObjectMeta::default()
            },
            type_: material::kind(credential.spec.credential_type).map(|kind| kind.secret_type.to_owned()),
            ..Secret::default()
        };
        let post = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let made = send(|| format!("create Secret {place}"), api.create(&post, &secret)).await?;
        let version = made.metadata.resource_version.clone().unwrap_or_default();
        ctx.note_whole(&whose, &place, &version);
        let reference = mint::reference(&made);
        ctx.secrets.remember(made.metadata.into_response_partial());
        (reference, version, Dress::default())
    };
    let vessel =
        Vessel { owner: &whose, place: &place, secret: &secret, empty: empty.then_some(version.as_str()) };
    let minted = mint::mint(ctx, &vessel, &order).await?;
    let request = Request {
        spec: &credential.spec,
        namespace: place.namespace(),
        name: credential.metadata.name.as_deref().unwrap_or_default(),
        now: minted.life.issued_at,
        prefix: &ctx.config.token_prefix,
        issuer: None,
    };
    let entries = kubeconfig::document(&request, &authority, &minted.value)
        .map_err(|problem| refused(credential, problem))?;
    let mut attestation = recipe.attestation;
    attestation.material.id = minted.id;
    attestation.material.issued_at = Some(minted.life.issued_at.into());
    attestation.material.expires_at = Some(minted.life.expires_at.into());
    let uid = credential.metadata.uid.as_deref().unwrap_or_default();
    let attestation = attestation.signed(&key, uid, &entries, None);
    let mut annotations = dress.annotations;
    annotations.insert(name::ATTESTATION_ANNOTATION.to_owned(), Some(json!(attestation).to_string()));
    let made_for = MadeFor::new(&owner(credential).reference(), place.to_string()).minted();
    let made_for = made_for.signed_as(&key, &secret.uid);
    annotations.insert(name::MADE_FOR_ANNOTATION.to_owned(), Some(made_for.text()));
    let data = entries.iter().map(|(name, value)| (name.clone(), json!(ByteString(value.expose().clone()))));
    let patch = Patch::Merge(json!({ "data": data.collect::<Map<String, Value>>(), "metadata": {
        "uid": secret.uid,
        "resourceVersion": version,
        "labels": dress.labels,
        "annotations": annotations,
    }}));
    let what = || format!("put a kubeconfig into Secret {place}");
    let filled = send(what, api.patch(place.name(), &params(), &patch)).await?;
    ctx.note_whole(&whose, &place, filled.metadata.resource_version.as_deref().unwrap_or_default());
    ctx.secrets.remember(filled.metadata.into_response_partial());
    if let Some(status) = status {
        status.secret = Some(ObjectReference::clone(&secret));
        status.material = Some(told_of(credential, attestation.material));
    }
    Ok(Done::Yes)
}

/// The authority of the API server, PEM: the one that is wished, or the cluster's own.
async fn authority(ctx: &Context, credential: &Credential) -> Result<String, RequestError> {
    let wished = credential.spec.kubeconfig.as_ref();
    if let Some(wished) = wished.and_then(|block| block.certificate_authority.clone()) {
        return Ok(wished);
    }
    let place = Place::new(Place::of(credential).namespace(), ROOT_AUTHORITY);
    let api: Objects<ConfigMap> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let found = unless_gone(send(|| format!("get ConfigMap {place}"), api.get(place.name())).await)?;
    found.and_then(|found| found.data?.remove("ca.crt")).ok_or_else(|| {
        let say = format!(
            "there is no ConfigMap {ROOT_AUTHORITY} with a key ca.crt in this namespace; set spec.kubeconfig.certificateAuthority"
        );
        refused(credential, Problem::Options(say))
    })
}

fn refused(credential: &Credential, problem: Problem) -> RequestError {
    RequestError::Material { place: Place::of(credential).to_string(), problem }
}
