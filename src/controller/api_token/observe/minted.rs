//! What there is about a token that the API server mints.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;

use super::{TOKEN_KEY, anothers_secret, fetch, may_be_there, ours, owned, terminating, terms};
use crate::{
    api::{ApiToken, ApiTokenStatus, Credential, credential::DesiredState, credential_policy::TokenType},
    controller::{
        Context, Key, Place,
        api_token::{
            apply::reference,
            observed::{Content, SecretSeen},
            plan::secret_name,
        },
        mint::{self, Native},
        write::RequestError,
    },
    domain::{made_for::MadeFor, mint::MintAttestation, name},
};

pub(super) fn native(ctx: &Context, token: &ApiToken, credential: Option<&Credential>) -> Option<Native> {
    (token.spec.token_type == TokenType::ServiceAccount).then(|| Native::of(ctx, credential))
}

/// Whether anything could be minted now.
pub(super) fn may_mint(native: &Native, credential: Option<&Credential>) -> bool {
    let active = |credential: &Credential| {
        credential.spec.state == DesiredState::Active && credential.metadata.deletion_timestamp.is_none()
    };
    native.allowed && native.account.is_some() && credential.is_some_and(active)
}

/// Whether it is time for the next value, or for the first.
pub(super) fn is_due(token: &ApiToken, status: &ApiTokenStatus, secret: &SecretSeen, now: Timestamp) -> bool {
    let SecretSeen::Ours(own) = secret else { return false };
    let Content::Minted(attestation) = &own.content else { return true };
    terms(token).is_some_and(|terms| {
        let end = terms.end(attestation.term);
        terms.current(now) > status.term.filter(|_| terms.current(now).is_some())
            || attestation.life().is_none_or(|life| life.is_over(end, now))
    })
}

pub(super) async fn secret(
    ctx: &Context,
    token: &ApiToken,
    status: &ApiTokenStatus,
) -> Result<SecretSeen, RequestError> {
    let place = Place::new(token.metadata.namespace.clone().unwrap_or_default(), secret_name(token));
    let held = ctx.secrets.get(&place);
    if let Some(held) = &held {
        let version = held.metadata.resource_version.as_deref().unwrap_or_default();
        // It can be edited, so it must have been seen whole in this version, or written by us.
        let whole = ctx.is_whole(&Key::api_token(token), &place, version);
        if whole && owned(token, &held.metadata) && held.metadata.deletion_timestamp.is_none() {
            let content = attestation(&held.metadata).map_or(Content::Empty, Content::Minted);
            return Ok(ours(token, &held.metadata, content));
        }
    }
    if !may_be_there(ctx, token, status, held.is_some()) {
        return Ok(SecretSeen::Absent);
    }
    let found = fetch(ctx, token).await?;
    if let Some(found) = &found {
        mint::leave_to_be_filled(ctx, &Key::api_token(token), found)?;
    }
    Ok(found.map_or(SecretSeen::Absent, |found| judge(ctx, token, status, &found)))
}

/// Whether the Secret proves that the token was issued for this credential.
pub(super) async fn issued_for(
    ctx: &Context,
    token: &ApiToken,
    status: &ApiTokenStatus,
    credential: &ObjectMeta,
) -> Result<bool, RequestError> {
    let seen = fetch(ctx, token).await?.map(|found| judge(ctx, token, status, &found));
    Ok(matches!(seen, Some(SecretSeen::Ours(own))
        if matches!(&own.content, Content::Minted(said) if Some(&said.credential) == credential.uid.as_ref())))
}

fn judge(ctx: &Context, token: &ApiToken, status: &ApiTokenStatus, found: &Secret) -> SecretSeen {
    let metadata = &found.metadata;
    let attested = attested(ctx, token, found);
    // A status can be forged; what it says of a UID counts only together with a keyed proof.
    let recorded = status.secret.as_ref().map(|secret| &secret.uid) == metadata.uid.as_ref();
    let made_for = MadeFor::is_proven(metadata, &reference(token), &ctx.keyring());
    let ours_by_proof = made_for || recorded && attested.is_some();
    if metadata.deletion_timestamp.is_some() {
        return terminating(metadata, owned(token, metadata) || ours_by_proof);
    }
    if !owned(token, metadata) && !ours_by_proof {
        return anothers_secret(token, metadata);
    }
    // An earlier value was put back by somebody. The proof names the Secret, so a copy proves nothing.
    let latest = |said: &MintAttestation| status.serial.is_none_or(|serial| said.serial >= serial);
    let Some(attested) = attested.filter(latest) else {
        return ours(token, metadata, Content::Strange);
    };
    let place = Place::new(token.metadata.namespace.clone().unwrap_or_default(), secret_name(token));
    let version = metadata.resource_version.as_deref().unwrap_or_default();
    ctx.note_whole(&Key::api_token(token), &place, version);
    ours(token, metadata, Content::Minted(attested))
}

/// What the annotation says, if it says it of what the Secret holds.
fn attested(ctx: &Context, token: &ApiToken, found: &Secret) -> Option<MintAttestation> {
    let said = attestation(&found.metadata)?;
    let value = found.data.as_ref()?.get(TOKEN_KEY)?;
    let value = std::str::from_utf8(&value.0).ok()?;
    let (uid, secret) = (token.metadata.uid.as_deref()?, found.metadata.uid.as_deref()?);
    said.verify(&ctx.keyring(), uid, secret, value).ok().map(|()| said)
}

fn attestation(found: &ObjectMeta) -> Option<MintAttestation> {
    serde_json::from_str(found.annotations.as_ref()?.get(name::ATTESTATION_ANNOTATION)?).ok()
}
