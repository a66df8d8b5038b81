//! What there is of a credential's material. Only reads: none in the common case, for metadata tells enough; the Secret
//! itself where its version is one that was not seen whole yet, and the provided Secret where it is news.

use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;

use super::{OwnSecret, SecretSeen, Seen, SourceSeen, secret_name};
use crate::{
    api::{
        Credential, CredentialStatus, CredentialType,
        credential::{MaterialStatus, ObjectReference},
    },
    client::Objects,
    controller::{
        Context, Key, Place,
        credential::plan::owner,
        mint::{self, Native},
        write::{RequestError, send, unless_gone},
    },
    domain::{
        adoption,
        binding::{controller, is_of_kind},
        digest::{self, DigestError, MaterialAttestation, Subject, verify_material, verify_source},
        made_for::{MadeFor, is_owned_by},
        material::{self, Entries, Kind, Request},
        name,
        redacted::Redacted,
    },
};

/// Looks at the material of a credential; `None` where its type has none.
///
/// # Errors
/// When a read fails.
pub async fn observe(ctx: &Context, credential: &Credential) -> Result<Option<Seen>, RequestError> {
    let Some(kind) = material::kind(credential.spec.credential_type) else {
        return Ok(None);
    };
    let status = credential.status.clone().unwrap_or_default();
    let keyring = ctx.keyring();
    let digest = status.material.as_ref().and_then(|material| material.digest.as_deref());
    let key_known = digest.and_then(digest::key_id).is_none_or(|key| keyring.get(key).is_some());
    let place = Place::of(credential);
    let place = Place::new(place.namespace(), secret_name(credential));
    let secret = secret(ctx, credential, &status, &place).await?;
    let former = match &secret {
        SecretSeen::Absent => former(ctx, credential, &status, &place).await?,
        SecretSeen::Terminating(_) | SecretSeen::Predecessors | SecretSeen::Foreign | SecretSeen::Ours(_) => {
            None
        }
    };
    let attested = match &secret {
        SecretSeen::Ours(own) => own.attested.as_ref().map(|attestation| &attestation.material),
        SecretSeen::Absent | SecretSeen::Terminating(_) | SecretSeen::Predecessors | SecretSeen::Foreign => {
            None
        }
    };
    let issuer = match credential.spec.tls.as_ref().and_then(|tls| tls.issuer.as_ref()) {
        Some(issuer) => {
            consenting(ctx, credential, &issuer.secret_ref.name).await?.map(|found| data(found).1)
        }
        None => None,
    };
    let options = options(ctx, credential, kind);
    let published = attested.filter(|attested| attested.options.as_ref() == options.as_ref().ok());
    let source = source(ctx, credential, kind, published).await?;
    let named = |other: &ObjectReference| other.name == place.name();
    let key = Key::credential(credential);
    // Of this very credential: an owner reference of its name may be anybody's.
    let is_its = |found: &ObjectMeta| owned(credential, found) || is_proven(ctx, credential, found);
    let strays = ctx.secrets.owned_by(&key).filter(|found| is_its(&found.metadata));
    let strays = strays.map(|found| {
        (reference(&found.metadata), found.metadata.resource_version.clone().unwrap_or_default())
    });
    let strays = strays.filter(|(other, _)| !named(other)).collect();
    let generated = credential.spec.provided.is_none();
    let native = (credential.spec.credential_type == CredentialType::Kubeconfig && generated)
        .then(|| Native::of(ctx, Some(credential)));
    let generating = ctx.draws.requested(&key);
    Ok(Some(Seen { secret, former, strays, source, issuer, options, native, key_known, generating }))
}

fn options(ctx: &Context, credential: &Credential, kind: &Kind) -> Result<String, material::Problem> {
    let place = Place::of(credential);
    let request = Request {
        spec: &credential.spec,
        namespace: place.namespace(),
        name: place.name(),
        now: ctx.clock.now(),
        prefix: &ctx.config.token_prefix,
        issuer: None,
    };
    material::options(kind, &request)
}

async fn secret(
    ctx: &Context,
    credential: &Credential,
    status: &CredentialStatus,
    place: &Place,
) -> Result<SecretSeen, RequestError> {
    if let Some(held) = ctx.secrets.get(place) {
        if held.metadata.deletion_timestamp.is_some() {
            return Ok(terminating(ctx, credential, status, &held.metadata));
        }
        let version = held.metadata.resource_version.as_deref().unwrap_or_default();
        if owned(credential, &held.metadata) && ctx.is_whole(&Key::credential(credential), place, version) {
            if let Ok(attestation) = attestation(ctx, credential, &held.metadata) {
                return Ok(ours(credential, &held.metadata, Some(attestation), true));
            }
            let said = held.metadata.annotations.as_ref();
            let minted = credential.spec.credential_type == CredentialType::Kubeconfig;
            if minted && said.is_none_or(|said| !said.contains_key(name::ATTESTATION_ANNOTATION)) {
                let mut empty = own(credential, &held.metadata, None, true);
                empty.empty = true;
                return Ok(SecretSeen::Ours(Box::new(empty)));
            }
        }
    } else {
        let expected = status.secret.as_ref().is_some_and(|secret| secret.name == place.name());
        // Whoever fills it next sees by the answer whether it is really not there.
        if !expected && !ctx.must_look(&Key::credential(credential)) && !ends_unseen(ctx, credential, status)
        {
            return Ok(SecretSeen::Absent);
        }
    }
    let found = read(ctx, place).await?;
    if credential.spec.credential_type == CredentialType::Kubeconfig
        && let Some(found) = &found
    {
        mint::leave_to_be_filled(ctx, &Key::credential(credential), found)?;
    }
    Ok(found.map_or(SecretSeen::Absent, |found| judge(ctx, credential, status, place, &found)))
}

/// Whether it ends before its status ever named a Secret: we may have died just after that was made.
fn ends_unseen(ctx: &Context, credential: &Credential, status: &CredentialStatus) -> bool {
    let end = credential.spec.expires_at.as_ref().and_then(|end| end.timestamp().ok());
    let over =
        credential.metadata.deletion_timestamp.is_some() || end.is_some_and(|end| end <= ctx.clock.now());
    let ended = status.state == Some(crate::api::CredentialState::Expired);
    over && !ended && status.secret.is_none()
}

async fn read(ctx: &Context, place: &Place) -> Result<Option<Secret>, RequestError> {
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), place.namespace());
    unless_gone(send(|| format!("get Secret {place}"), api.get(place.name())).await)
}

fn judge(
    ctx: &Context,
    credential: &Credential,
    status: &CredentialStatus,
    place: &Place,
    found: &Secret,
) -> SecretSeen {
    let metadata = &found.metadata;
    if metadata.deletion_timestamp.is_some() {
        return terminating(ctx, credential, status, metadata);
    }
    let attestation = whole(ctx, credential, status, found);
    // A status can be forged; what it says of a UID counts only together with a keyed proof.
    let recorded = status.secret.as_ref().map(|secret| &secret.uid) == metadata.uid.as_ref();
    let proven = recorded && attestation.is_some() || is_proven(ctx, credential, metadata);
    if !owned(credential, metadata) && !proven {
        let predecessors = controller(metadata).is_some_and(|owner| {
            is_of_kind(owner, "Credential")
                && Some(&owner.name) == credential.metadata.name.as_ref()
                && Some(&owner.uid) != credential.metadata.uid.as_ref()
        });
        if let Some(adopted) = adoption::adopted(credential, found, &ctx.keyring(), ctx.clock.now()) {
            return ours(credential, metadata, Some(adopted), true);
        }
        return if predecessors { SecretSeen::Predecessors } else { SecretSeen::Foreign };
    }
    let plain_intact = attestation.as_ref().is_none_or(|said| {
        said.plain.iter().all(|(key, value)| {
            let held = found.data.as_ref().and_then(|data| data.get(key));
            held.is_some_and(|held| held.0 == value.as_bytes())
        })
    });
    // A restored attestation has no proof, and is not in the Secret yet.
    let is_signed = attestation.as_ref().is_some_and(|attestation| !attestation.proof.is_empty());
    if is_signed && plain_intact {
        let version = metadata.resource_version.as_deref().unwrap_or_default();
        ctx.note_whole(&Key::credential(credential), place, version);
    }
    ours(credential, metadata, attestation, plain_intact)
}

fn terminating(
    ctx: &Context,
    credential: &Credential,
    status: &CredentialStatus,
    found: &ObjectMeta,
) -> SecretSeen {
    let recorded = status.secret.as_ref().map(|secret| &secret.uid) == found.uid.as_ref();
    let proven = recorded && attestation(ctx, credential, found).is_ok() || is_proven(ctx, credential, found);
    let ours = owned(credential, found) || proven;
    SecretSeen::Terminating(ours.then(|| reference(found)))
}

/// What the operator said of the material, if that is what the Secret holds.
fn whole(
    ctx: &Context,
    credential: &Credential,
    status: &CredentialStatus,
    found: &Secret,
) -> Option<MaterialAttestation> {
    let said = attestation(ctx, credential, &found.metadata).ok();
    // Where somebody took the annotation away, the status can tell as much, if its digest fits.
    let said = said.or_else(|| restored(status.material.as_ref()?, credential, found))?;
    let entries = entries(found, &said.keys);
    if let Some(sealed) = &said.sealed {
        // Nobody here can open it. What the operator said of it is as good as its key.
        return sealed.is_of(&entries).then_some(said);
    }
    let uid = credential.metadata.uid.clone().unwrap_or_default();
    let subject = Subject { uid, serial: said.serial(), term: None };
    let digest = said.material.digest.as_deref()?;
    let fits = verify_material(&ctx.keyring(), digest, &subject, said.material.id.as_deref(), &entries);
    fits.is_ok().then_some(said)
}

fn restored(
    material: &MaterialStatus,
    credential: &Credential,
    found: &Secret,
) -> Option<MaterialAttestation> {
    let plain = material::plain(&credential.spec);
    let keys = found.data.as_ref()?.keys().filter(|key| !plain.contains_key(*key)).cloned().collect();
    let material = MaterialStatus { rotates_at: None, validity: None, ..material.clone() };
    // Unsigned, so that it is signed again with the next mend.
    Some(MaterialAttestation { material, keys, plain, ..MaterialAttestation::default() })
}

fn entries(found: &Secret, keys: &[String]) -> Entries {
    let data = found.data.iter().flatten().filter(|(key, _)| keys.contains(key));
    data.map(|(key, value)| (key.clone(), Redacted::new(value.0.clone()))).collect()
}

fn attestation(
    ctx: &Context,
    credential: &Credential,
    found: &ObjectMeta,
) -> Result<MaterialAttestation, DigestError> {
    let text =
        found.annotations.as_ref().and_then(|annotations| annotations.get(name::ATTESTATION_ANNOTATION));
    let uid = credential.metadata.uid.as_deref().unwrap_or_default();
    MaterialAttestation::read(text.map(String::as_str).unwrap_or_default(), &ctx.keyring(), uid)
}

fn ours(
    credential: &Credential,
    found: &ObjectMeta,
    attested: Option<MaterialAttestation>,
    plain_intact: bool,
) -> SecretSeen {
    SecretSeen::Ours(Box::new(own(credential, found, attested, plain_intact)))
}

fn own(
    credential: &Credential,
    found: &ObjectMeta,
    attested: Option<MaterialAttestation>,
    plain_intact: bool,
) -> OwnSecret {
    OwnSecret {
        reference: reference(found),
        resource_version: found.resource_version.clone().unwrap_or_default(),
        labels: found.labels.clone().unwrap_or_default(),
        annotations: found.annotations.clone().unwrap_or_default(),
        owned: owned(credential, found),
        attested,
        plain_intact,
        empty: false,
    }
}

fn reference(found: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        name: found.name.clone().unwrap_or_default(),
        uid: found.uid.clone().unwrap_or_default(),
    }
}

fn is_proven(ctx: &Context, credential: &Credential, found: &ObjectMeta) -> bool {
    MadeFor::is_proven(found, &owner(credential).reference(), &ctx.keyring())
}

fn owned(credential: &Credential, found: &ObjectMeta) -> bool {
    is_owned_by(found, credential.metadata.uid.as_deref())
}

/// The material under another name than the one that is wished: the Secret that the status names, or a copy of it that was
/// made for a name that was wished meanwhile.
async fn former(
    ctx: &Context,
    credential: &Credential,
    status: &CredentialStatus,
    wished: &Place,
) -> Result<Option<(OwnSecret, Entries)>, RequestError> {
    let recorded = status.secret.as_ref().map(|recorded| Place::new(wished.namespace(), &recorded.name));
    let recorded = recorded.filter(|place| place != wished);
    let mut places: Vec<_> = recorded.iter().cloned().collect();
    let copies = ctx.secrets.places_owned_by(&Key::credential(credential)).into_iter();
    places.extend(copies.filter(|place| place != wished && Some(place) != recorded.as_ref()));
    let serial = status.material.as_ref().and_then(|material| material.serial);
    for place in places {
        let Some(found) = read(ctx, &place).await? else { continue };
        let SecretSeen::Ours(own) = judge(ctx, credential, status, &place, &found) else { continue };
        let whole = own.attested.as_ref();
        let latest = whole.is_some_and(|said| serial.is_none_or(|serial| said.serial() >= serial));
        // What somebody changed in the one that the status names is told, and not left behind.
        if latest || Some(&place) == recorded.as_ref() {
            // With whatever somebody else put in beside it: nobody may have it elsewhere.
            return Ok(Some((*own, data(found).1)));
        }
    }
    Ok(None)
}

/// The Secret that the material is taken from, read only where it was not seen in this version.
async fn source(
    ctx: &Context,
    credential: &Credential,
    kind: &Kind,
    published: Option<&MaterialStatus>,
) -> Result<SourceSeen, RequestError> {
    let Some(provided) = &credential.spec.provided else {
        return Ok(SourceSeen::Unasked);
    };
    let place = Place::new(Place::of(credential).namespace(), &provided.secret_ref.name);
    let key = Key::credential(credential);
    let known = ctx.provided.get(&place).map(|held| version(&held.metadata));
    if published.is_some() && known.is_some_and(|known| ctx.is_whole(&key, &place, &known)) {
        return Ok(SourceSeen::Published);
    }
    let Some(found) = consenting(ctx, credential, &provided.secret_ref.name).await? else {
        return Ok(SourceSeen::Missing);
    };
    let own = owned(credential, &found.metadata);
    let (version, entries) = data(found);
    // Labels of it, and keys that nothing is taken from, are its owner's affair.
    let entries = material::taken(kind, &entries);
    let uid = credential.metadata.uid.as_deref().unwrap_or_default();
    let said = published.and_then(|published| published.source.as_deref());
    if said.is_some_and(|said| verify_source(&ctx.keyring(), said, uid, &entries).is_ok()) {
        ctx.note_whole(&key, &place, &version);
        return Ok(SourceSeen::Published);
    }
    ctx.forget_whole(&key, &place);
    // What it publishes would take the place of what it is made from.
    let checked = if own {
        Err(material::Problem::Material(
            "it is the one that this credential publishes in; provide another".to_owned(),
        ))
    } else {
        material::check(kind, &credential.spec, &entries, ctx.clock.now())
    };
    Ok(SourceSeen::Changed { version, entries, checked })
}

/// A Secret of the user, if its owner consents.
async fn consenting(
    ctx: &Context,
    credential: &Credential,
    name: &str,
) -> Result<Option<Secret>, RequestError> {
    let place = Place::new(Place::of(credential).namespace(), name);
    if !ctx.provided.has(&place) {
        return Ok(None);
    }
    let found = read(ctx, &place).await?;
    // The watch lags: what is read must consent, too.
    Ok(found.filter(|found| {
        let label = found.metadata.labels.as_ref().and_then(|labels| labels.get(name::PROVIDED_LABEL));
        label.is_some_and(|value| value == "true")
    }))
}

/// Which version of a Secret it is, and what it holds.
fn data(found: Secret) -> (String, Entries) {
    let entries = found.data.into_iter().flatten().map(|(key, value)| (key, Redacted::new(value.0)));
    (version(&found.metadata), entries.collect())
}

fn version(found: &ObjectMeta) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", part(&found.uid), part(&found.resource_version))
}
