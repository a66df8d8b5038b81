//! Carries the steps for material out. Only writes, and draws what is to be written; what to do was decided before.

mod kubeconfig;

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::{PartialObjectMeta, PartialObjectMetaExt},
};
use rand::{CryptoRng, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::plan::{Content, Mend, Recipe, Step};
use crate::{
    api::{Credential, CredentialStatus, CredentialType, Instant, credential::ObjectReference},
    client::Objects,
    controller::{
        Context, Key, Place,
        credential::plan::owner,
        events, owned_secret,
        write::{FIELD_MANAGER, RequestError, send},
    },
    domain::{
        adoption,
        digest::{self, MaterialAttestation},
        keyring::Key as SigningKey,
        made_for::MadeFor,
        material::{self, Drawn, Entries, Facts, Problem, Request},
        name,
        redacted::Redacted,
        sealed::Recipients,
    },
};

/// Whether a step was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was.
    Yes,
    /// It takes a while, and is tried again when what it needs is there.
    Later,
}

/// Carries out one step, and puts what it tells into the status.
///
/// # Errors
/// When the write fails, or there can be no such material.
pub async fn apply(
    ctx: &Context,
    credential: &Credential,
    issuer: Option<&Entries>,
    step: Step,
    status: Option<&mut CredentialStatus>,
) -> Result<Done, RequestError> {
    match step {
        Step::Publish(recipe) => publish(ctx, credential, issuer, *recipe, status).await,
        Step::Mint(recipe) => kubeconfig::publish(ctx, credential, *recipe, status).await,
        Step::Mend(mend) => mend_secret(ctx, credential, *mend).await.map(|()| Done::Yes),
        Step::Delete { secret, resource_version } => {
            delete(ctx, credential, &secret, resource_version.as_deref()).await.map(|()| Done::Yes)
        }
    }
}

async fn publish(
    ctx: &Context,
    credential: &Credential,
    issuer: Option<&Entries>,
    recipe: Recipe,
    status: Option<&mut CredentialStatus>,
) -> Result<Done, RequestError> {
    // Without a key nothing is issued; the keyring's return asks for every credential again.
    let Some(key) = ctx.signing_key() else {
        return Ok(Done::Later);
    };
    let uid = credential.metadata.uid.as_deref().unwrap_or_default();
    let provided = match &recipe.content {
        Content::Provided { entries, .. } => Some(entries.clone()),
        Content::Drawn | Content::Copied(_) => None,
    };
    let copied = matches!(recipe.content, Content::Copied(_));
    let (entries, attestation) = match recipe.content {
        Content::Copied(entries) => (entries, recipe.attestation),
        content => {
            let Some(drawn) = draw(ctx, credential, issuer, content, recipe.wish) else {
                return Ok(Done::Later);
            };
            let place = Place::of(credential);
            let drawn =
                drawn.map_err(|problem| RequestError::Material { place: place.to_string(), problem })?;
            let mut attestation = recipe.attestation;
            attestation.material.id = drawn.facts.id;
            attestation.material.fingerprint = drawn.facts.fingerprint;
            // Certificates "without an end" end in the year 9999 (RFC 5280, 4.1.2.5), which no status can tell.
            let end = drawn.facts.expires_at.filter(|end| *end < Instant::BOUND).map(Into::into);
            attestation.material.expires_at = end.or(attestation.material.expires_at);
            let attestation = attestation.signed(&key, uid, &drawn.entries, provided.as_ref());
            let published = sealed(credential, &key, recipe.recipients.as_ref(), drawn.entries, attestation);
            published.map_err(|problem| RequestError::Material { place: place.to_string(), problem })?
        }
    };
    let plain = attestation.plain.iter();
    let plain = plain.map(|(name, value)| (name.clone(), Redacted::new(value.clone().into_bytes())));
    let entries: Entries = entries.into_iter().chain(plain).collect();
    let mut annotations = recipe.dress.annotations;
    annotations.insert(name::ATTESTATION_ANNOTATION.to_owned(), Some(json!(attestation).to_string()));
    let place = Place::new(Place::of(credential).namespace(), &recipe.name);
    // Without the UID of the Secret, so that a restored Secret can be adopted.
    let made_for = MadeFor::new(&owner(credential).reference(), place.to_string()).signed(&key);
    annotations.insert(name::MADE_FOR_ANNOTATION.to_owned(), Some(made_for.text()));
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let data = entries.iter().map(|(name, value)| (name.clone(), ByteString(value.expose().clone())));
    let (written, recorded) = if let Some((secret, resource_version, keys)) = recipe.into {
        // What was under a key that this value does not have goes with the value that it was of.
        let gone = keys.iter().filter(|name| !entries.contains_key(*name));
        let mut data: Map<String, Value> = data.map(|(name, value)| (name, json!(value))).collect();
        data.extend(gone.map(|name| (name.clone(), Value::Null)));
        let patch = Patch::Merge(json!({ "data": data, "metadata": {
            "uid": secret.uid,
            "resourceVersion": resource_version,
            "labels": recipe.dress.labels,
            "annotations": annotations,
        }}));
        let what = || format!("replace the material in Secret {place}");
        (send(what, api.patch(place.name(), &params(), &patch)).await?, true)
    } else {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(place.name().to_owned()),
                namespace: Some(place.namespace().to_owned()),
                labels: Some(present(recipe.dress.labels)),
                annotations: Some(present(annotations)),
                owner_references: Some(vec![owner(credential).reference()]),
                ..ObjectMeta::default()
            },
            type_: Some(adoption::secret_type(credential).to_owned()),
            data: Some(data.collect()),
            ..Secret::default()
        };
        let post = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let recorded = credential.status.as_ref().and_then(|status| status.secret.as_ref());
        let renamed = recorded.is_some_and(|recorded| recorded.name != place.name());
        (send(|| format!("create Secret {place}"), api.create(&post, &secret)).await?, !renamed)
    };
    if !copied {
        ctx.draws.forget(&Key::credential(credential));
    }
    ctx.note_whole(&Key::credential(credential), &place, &written.resource_version().unwrap_or_default());
    let reference = ObjectReference { name: place.name().to_owned(), uid: written.uid().unwrap_or_default() };
    ctx.secrets.remember(written.metadata.into_response_partial());
    if let Some(status) = status {
        // A copy is recorded only when it was seen to be there, and the one before goes then.
        if recorded {
            status.secret = Some(reference);
        }
        if let Some(material) = &mut status.material {
            let said = attestation.material;
            material.id = said.id;
            material.digest = said.digest;
            material.fingerprint = said.fingerprint;
            material.source = said.source;
            material.expires_at = said.expires_at;
        }
    }
    Ok(Done::Yes)
}

/// What is published of what was drawn, and what is said of it: all as it is, or sealed for the recipients.
fn sealed(
    credential: &Credential,
    key: &SigningKey,
    recipients: Option<&Recipients>,
    entries: Entries,
    attestation: MaterialAttestation,
) -> Result<(Entries, MaterialAttestation), Problem> {
    let kind = material::kind(credential.spec.credential_type);
    let (Some(recipients), Some(kind)) = (recipients, kind) else { return Ok((entries, attestation)) };
    let uid = credential.metadata.uid.as_deref().unwrap_or_default();
    let published = material::seal(kind, &entries, recipients)?;
    let attestation = attestation.sealed(key, uid, recipients.mark(), &published);
    Ok((published, attestation))
}

/// What is to be published, or `None` while it is being drawn.
fn draw(
    ctx: &Context,
    credential: &Credential,
    issuer: Option<&Entries>,
    content: Content,
    wish: String,
) -> Option<Result<Drawn, Problem>> {
    let kind = material::kind(credential.spec.credential_type)?;
    let place = Place::of(credential);
    let (spec, now, prefix) = (credential.spec.clone(), ctx.clock.now(), ctx.config.token_prefix.clone());
    let issuer = issuer.cloned();
    let takes_long = material::cost::takes_long(&spec);
    let namespace = place.namespace().to_owned();
    let make = move |random: &mut dyn CryptoRng| {
        let request = Request {
            spec: &spec,
            namespace: place.namespace(),
            name: place.name(),
            now,
            prefix: &prefix,
            issuer: issuer.as_ref(),
        };
        match (content, &kind.generated) {
            (Content::Drawn, Some(generated)) => (generated.draw)(&request, random),
            (Content::Provided { entries, facts, .. }, _) => {
                let entries = material::publish(kind, &request, &entries, random)?;
                Ok(Drawn { entries, facts })
            }
            (Content::Copied(entries), _) => Ok(Drawn { entries, facts: Facts::default() }),
            (Content::Drawn, None) => {
                Err(Problem::Options("material of this type is not generated".to_owned()))
            }
        }
    };
    if !takes_long {
        return Some(ctx.draw(|random| make(random)));
    }
    let mut seed = Zeroizing::new([0; 32]);
    ctx.draw(|random| random.fill_bytes(&mut *seed));
    ctx.draws.fetch(&Key::credential(credential), &namespace, wish, now, move || {
        make(&mut StdRng::from_seed(*seed))
    })
}

async fn mend_secret(ctx: &Context, credential: &Credential, mend: Mend) -> Result<(), RequestError> {
    let place = Place::new(Place::of(credential).namespace(), &mend.secret.name);
    let keyring = ctx.keyring();
    let mut annotations = mend.dress.annotations;
    if let Some(attestation) = mend.attest {
        // Under the key of the digest, so that both say the same.
        let digest = attestation.material.digest.as_deref();
        let key: Option<&SigningKey> = digest.and_then(digest::key_id).and_then(|id| keyring.get(id));
        if let Some(key) = key {
            let uid = credential.metadata.uid.as_deref().unwrap_or_default();
            let said: MaterialAttestation = attestation.resigned(key, uid);
            annotations.insert(name::ATTESTATION_ANNOTATION.to_owned(), Some(json!(said).to_string()));
        }
    }
    if mend.own
        && credential.spec.credential_type != CredentialType::Kubeconfig
        && let Some(key) = ctx.signing_key()
    {
        let made_for = MadeFor::new(&owner(credential).reference(), place.to_string()).signed(&key);
        annotations.insert(name::MADE_FOR_ANNOTATION.to_owned(), Some(made_for.text()));
    }
    let mut metadata = json!({
        "uid": mend.secret.uid,
        "resourceVersion": mend.resource_version,
        "labels": mend.dress.labels,
        "annotations": annotations,
    });
    if mend.own {
        metadata["ownerReferences"] = json!([owner(credential).reference()]);
    }
    let mut patch = json!({ "metadata": metadata });
    if !mend.plain.is_empty() {
        let plain = mend.plain.into_iter();
        let data: Map<_, _> = plain
            .map(|(name, value)| (name, json!(value.map(|value| ByteString(value.into_bytes())))))
            .collect();
        patch["data"] = Value::Object(data);
    }
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let mended: PartialObjectMeta<Secret> = send(
        || format!("mend Secret {place}"),
        api.patch_metadata(place.name(), &params(), &Patch::Merge(patch)),
    )
    .await?;
    let version = mended.metadata.resource_version.as_deref().unwrap_or_default();
    ctx.note_whole(&Key::credential(credential), &place, version);
    ctx.secrets.remember(mended);
    let had_material = credential.status.as_ref().is_some_and(|status| status.material.is_some());
    if mend.own && !had_material {
        events::of_adoption(ctx, credential, place.name()).await;
    }
    Ok(())
}

async fn delete(
    ctx: &Context,
    credential: &Credential,
    secret: &ObjectReference,
    resource_version: Option<&str>,
) -> Result<(), RequestError> {
    let place = Place::new(Place::of(credential).namespace(), &secret.name);
    let minted = credential.spec.credential_type == CredentialType::Kubeconfig;
    owned_secret::delete(ctx, &place, &secret.uid, resource_version, minted).await?;
    ctx.forget_whole(&Key::credential(credential), &place);
    Ok(())
}

fn present(changes: BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
    changes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}
