//! What there is about an `ApiToken`. Only reads, and in the common case none: the watches have shown it all.

mod minted;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;

use super::{
    observed::{Content, CredentialSeen, Observed, OwnSecret, SecretSeen},
    plan::{is_for_others, is_once, secret_name},
};
use crate::{
    api::{
        ApiToken, ApiTokenState, ApiTokenStatus, Credential, DeliveryMode, credential::ObjectReference,
        credential_policy::TokenType,
    },
    client::{Objects, Watched},
    controller::{
        Context, Key, Place, credential, keyring, mint,
        write::{RequestError, send, unless_gone},
    },
    domain::{
        binding::{controller, is_of_kind},
        delivery,
        digest::{self, Attestation, Predecessor, Subject},
        expiry::Terms,
        made_for::is_owned_by,
        name,
        token::Token,
    },
};

/// What is younger than this is believed to be as the watch shows it.
const NEWS: SignedDuration = SignedDuration::from_secs(30);

pub use crate::domain::name::{SEALED_KEY, TOKEN_KEY};

/// Looks at a token and all that belongs to it.
///
/// # Errors
/// When a read fails.
pub async fn observe(ctx: &Context, token: &ApiToken) -> Result<Observed, RequestError> {
    let status = token.status.clone().unwrap_or_default();
    let keyring = ctx.keyring();
    let key_known =
        status.digest.as_deref().and_then(digest::key_id).is_none_or(|key| keyring.get(key).is_some());
    let credential = credential(ctx, token, &status).await?;
    let (issued_for, identity) = (credential.present(), credential.metadata());
    let native = minted::native(ctx, token, issued_for);
    let secret = match &native {
        Some(_) => minted::secret(ctx, token, &status).await?,
        None => secret(ctx, token, &status, identity).await?,
    };
    if matches!(&secret, SecretSeen::Ours(own) if matches!(own.content, Content::Strange)) {
        // It is about to be deleted for not being what the status says, so that must be the latest status, and whatever was
        // proven by a key that we have not read yet only looks planted.
        keyring::latest(ctx).await?;
        latest(ctx, token).await?;
    }
    let policy = issued_for.and_then(|credential| ctx.judge_token(token, credential));
    let wanted = issued_for.is_some() && policy.is_none() && !is_over(token, &status);
    let lacks = match &secret {
        // Nobody will put back what is delivered, and what was deleted is.
        SecretSeen::Absent if is_once(token) && status.serial.is_some() => {
            is_due(token, &status, ctx.clock.now())
        }
        SecretSeen::Absent => {
            let may_mint = native.as_ref().is_none_or(|native| minted::may_mint(native, issued_for));
            // One that was acknowledged and deleted a moment ago leaves no trace but in the latest status.
            may_mint && (is_once(token) || may_be_old_news(ctx, token, &status))
        }
        SecretSeen::Ours(_) if native.is_some() => minted::is_due(token, &status, &secret, ctx.clock.now()),
        SecretSeen::Ours(own) => is_due(token, &status, ctx.clock.now()) || is_for_others(token, own),
        SecretSeen::Terminating(_) | SecretSeen::Predecessors | SecretSeen::Foreign => false,
    };
    if wanted && lacks {
        latest(ctx, token).await?;
    }
    let there = matches!(secret, SecretSeen::Ours(_));
    let is_for_it = |unsaid: &Attestation| {
        identity.is_some_and(|present| present.uid.as_ref() == Some(&unsaid.credential))
    };
    let unsaid = ctx.unsaid(token).filter(is_for_it).filter(|_| !there && is_once(token));
    let (touched, token) = (ctx.touched(token), token.clone());
    Ok(Observed { token, credential, secret, native, unsaid, policy, key_known, touched })
}

/// Fails unless what a minted value is about to be taken back for is still so. Another leader may have issued it anew since,
/// for a credential that is active again, or for an account that was made again.
///
/// # Errors
/// When any of it has changed, or a read fails.
pub async fn confirm(ctx: &Context, observed: &Observed) -> Result<(), RequestError> {
    latest(ctx, &observed.token).await?;
    let Some(credential) = observed.credential.metadata() else { return Ok(()) };
    credential::observe::latest(ctx, credential).await?;
    match observed.native.as_ref().and_then(|native| native.account.as_ref()) {
        Some(account) => {
            let namespace = credential.namespace.as_deref().unwrap_or_default();
            mint::confirm(ctx, namespace, account, credential.uid.as_deref()).await
        }
        None => Ok(()),
    }
}

fn is_over(token: &ApiToken, status: &ApiTokenStatus) -> bool {
    token.spec.revoked == Some(true)
        || token.metadata.deletion_timestamp.is_some()
        || matches!(status.state, Some(ApiTokenState::Expired | ApiTokenState::Revoked))
}

/// Whether it is time for the next value.
fn is_due(token: &ApiToken, status: &ApiTokenStatus, now: Timestamp) -> bool {
    terms(token).is_some_and(|terms| terms.current(now) > status.term)
}

fn terms(token: &ApiToken) -> Option<Terms> {
    Terms::of(&token.spec, token.metadata.creation_timestamp.as_ref()?.0).ok()
}

/// Whether a value that is about to be drawn might have been drawn before: there was one, or the token is no new one and
/// should long have one. A leader that was suspended, or one of whose watches lags, would make a value for a token that
/// another has revoked since.
fn may_be_old_news(ctx: &Context, token: &ApiToken, status: &ApiTokenStatus) -> bool {
    let created = token.metadata.creation_timestamp.as_ref().map(|created| created.0);
    let old = created.is_none_or(|created| ctx.clock.now().duration_since(created) > NEWS);
    old || status.serial.is_some() || ctx.saw_vanish(&Key::api_token(token))
}

/// Fails unless the API server has the token as it was shown to us. Edits of other metadata do not count: an author who
/// repeats them would delay what must end. Whether a request in an annotation was answered, the status says.
async fn latest(ctx: &Context, token: &ApiToken) -> Result<(), RequestError> {
    let place = Place::of(token);
    let objects = Objects::<ApiToken>::namespaced(ctx.client.clone(), place.namespace());
    let found = send(|| format!("get ApiToken {place}"), objects.get_opt(place.name())).await?;
    let is_it = |found: &ApiToken| {
        let (found_metadata, shown) = (&found.metadata, &token.metadata);
        found_metadata.uid == shown.uid
            && found_metadata.deletion_timestamp.is_some() == shown.deletion_timestamp.is_some()
            && (&found.spec, &found.status) == (&token.spec, &token.status)
    };
    if found.as_ref().is_some_and(is_it) {
        return Ok(());
    }
    if let Some(found) = found {
        ctx.tokens.remember(found);
    }
    Err(RequestError::Stale { what: format!("ApiToken {place}") })
}

async fn credential(
    ctx: &Context,
    token: &ApiToken,
    status: &ApiTokenStatus,
) -> Result<CredentialSeen, RequestError> {
    let namespace = token.metadata.namespace.clone().unwrap_or_default();
    let place = Place::new(namespace, token.spec.credential_ref.name.clone());
    let cached = ctx.credentials.get(&place);
    let issued_for = status.credential_uid.as_ref();
    let is_it = |held: &Credential| issued_for.is_none() || held.metadata.uid.as_ref() == issued_for;
    if let Some(held) = cached.filter(is_it) {
        return Ok(CredentialSeen::Present(Box::new(held)));
    }
    if issued_for.is_none() && !ctx.credentials.is_unreadable(&place) {
        return Ok(CredentialSeen::Absent);
    }
    // What follows destroys; a watch that lags is not enough to go by.
    let api: Objects<Credential> = Objects::namespaced(ctx.client.clone(), place.namespace());
    let Some(found) = send(|| format!("get Credential {place}"), api.get_watched(place.name())).await? else {
        return Ok(if issued_for.is_none() { CredentialSeen::Absent } else { CredentialSeen::Gone });
    };
    // Nor is a status that anybody might have written, where the Secret can prove that it was issued for this one. And a
    // token that is younger than this credential was meant for it: a lagging watch had it issued for the one before.
    let identity = found.metadata();
    let present = issued_for.is_none()
        || identity.uid.as_ref() == issued_for
        || is_younger(token, identity)
        || issued_for_it(ctx, token, status, identity).await?;
    Ok(match found {
        Watched(Ok(credential)) if present => CredentialSeen::Present(Box::new(credential)),
        Watched(Err(invalid)) if present => CredentialSeen::Unreadable(invalid),
        Watched(_) => CredentialSeen::Gone,
    })
}

fn is_younger(token: &ApiToken, credential: &ObjectMeta) -> bool {
    token.metadata.creation_timestamp > credential.creation_timestamp
}

async fn issued_for_it(
    ctx: &Context,
    token: &ApiToken,
    status: &ApiTokenStatus,
    credential: &ObjectMeta,
) -> Result<bool, RequestError> {
    if token.spec.token_type == TokenType::ServiceAccount {
        return minted::issued_for(ctx, token, status, credential).await;
    }
    let seen = read(ctx, token, status, Some(credential)).await?;
    Ok(
        matches!(seen, SecretSeen::Ours(own) if matches!(own.content, Content::Recorded | Content::Attested(_))),
    )
}

async fn secret(
    ctx: &Context,
    token: &ApiToken,
    status: &ApiTokenStatus,
    issued_for: Option<&ObjectMeta>,
) -> Result<SecretSeen, RequestError> {
    let place = Place::new(token.metadata.namespace.clone().unwrap_or_default(), secret_name(token));
    let held = ctx.secrets.get(&place);
    if let Some(seen) =
        held.as_ref().and_then(|held| recorded(ctx, token, status, issued_for, &held.metadata))
    {
        return Ok(seen);
    }
    if !may_be_there(ctx, token, status, held.is_some()) {
        return Ok(SecretSeen::Absent);
    }
    read(ctx, token, status, issued_for).await
}

/// Whether there may be a Secret though the watch does not show that all is well.
fn may_be_there(ctx: &Context, token: &ApiToken, status: &ApiTokenStatus, shown: bool) -> bool {
    let expected = status.secret.is_some() || shown;
    expected || ctx.must_look(&Key::api_token(token)) || ends_unseen(ctx, token, status)
}

/// Whether it ends before we ever said what it has: we may have died just after its Secret was made, and somebody may
/// have taken the label off since by which the watch would show it.
fn ends_unseen(ctx: &Context, token: &ApiToken, status: &ApiTokenStatus) -> bool {
    let end = terms(token).and_then(|terms| terms.over_at());
    let over = end.is_some_and(|end| end <= ctx.clock.now());
    let ended = matches!(status.state, Some(ApiTokenState::Expired | ApiTokenState::Revoked));
    !ended && (over || token.spec.revoked == Some(true) || token.metadata.deletion_timestamp.is_some())
}

/// What the API server has under the Secret's name.
async fn read(
    ctx: &Context,
    token: &ApiToken,
    status: &ApiTokenStatus,
    issued_for: Option<&ObjectMeta>,
) -> Result<SecretSeen, RequestError> {
    let found = fetch(ctx, token).await?;
    Ok(found.map_or(SecretSeen::Absent, |found| judge(ctx, token, status, issued_for, &found)))
}

async fn fetch(ctx: &Context, token: &ApiToken) -> Result<Option<Secret>, RequestError> {
    let place = Place::new(token.metadata.namespace.clone().unwrap_or_default(), secret_name(token));
    let api: Objects<Secret> = Objects::namespaced(ctx.client.clone(), place.namespace());
    unless_gone(send(|| format!("get Secret {place}"), api.get(place.name())).await)
}

/// Whether a token's Secret is written to again: another value takes the place of the one before. Else it is immutable.
#[must_use]
pub fn is_editable(token: &ApiToken) -> bool {
    match delivery::mode(token.spec.delivery.as_ref()) {
        DeliveryMode::Secret => {
            token.spec.renew_before.is_some() || token.spec.token_type == TokenType::ServiceAccount
        }
        DeliveryMode::Once => false,
        DeliveryMode::Sealed => true,
    }
}

/// What a Secret is by its metadata alone, where that is enough. One that renews can be edited, so it must have been seen
/// whole in this version.
fn recorded(
    ctx: &Context,
    token: &ApiToken,
    status: &ApiTokenStatus,
    issued_for: Option<&ObjectMeta>,
    found: &ObjectMeta,
) -> Option<SecretSeen> {
    let attestation = attestation(found)?;
    let version = found.resource_version.as_deref().unwrap_or_default();
    let place = Place::new(found.namespace.as_deref()?, found.name.as_deref()?);
    let whole = !is_editable(token) || ctx.is_whole(&Key::api_token(token), &place, version);
    let agreed = whole
        && status.secret.as_ref().map(|secret| &secret.uid) == found.uid.as_ref()
        && states(token, status, &attestation, ctx.clock.now())
        && status.digest.as_ref() == Some(&attestation.digest)
        && issued_for.is_none_or(|present| present.uid.as_ref() == Some(&attestation.credential));
    (agreed && owned(token, found) && found.deletion_timestamp.is_none())
        .then(|| ours(token, found, Content::Recorded))
}

/// Whether the status says of the values what the attestation does, beside the digest.
fn states(token: &ApiToken, status: &ApiTokenStatus, attestation: &Attestation, now: Timestamp) -> bool {
    let stated = status.previous.clone().map(Predecessor::from);
    let goes_on =
        |previous: &&Predecessor| terms(token).is_some_and(|terms| terms.end(Some(previous.term)) > now);
    status.serial == Some(attestation.serial)
        && status.term == attestation.term
        && status.token_id.as_ref() == Some(&attestation.id)
        && stated.as_ref().filter(goes_on) == attestation.previous.as_ref().filter(goes_on)
}

/// What a Secret is, with its content.
fn judge(
    ctx: &Context,
    token: &ApiToken,
    status: &ApiTokenStatus,
    issued_for: Option<&ObjectMeta>,
    found: &Secret,
) -> SecretSeen {
    let metadata = &found.metadata;
    let uid = token.metadata.uid.clone().unwrap_or_default();
    let keyring = ctx.keyring();
    let value = found
        .data
        .as_ref()
        .and_then(|data| data.get(TOKEN_KEY))
        .and_then(|value| std::str::from_utf8(&value.0).ok())
        .and_then(|text| Token::parse(text).ok());
    let is_sealed = delivery::recipients(token.spec.delivery.as_ref()).is_some();
    let value = value.filter(|_| !is_sealed);
    let sealed = found.data.as_ref().and_then(|data| data.get(SEALED_KEY)).filter(|_| is_sealed);
    let attested = attestation(metadata).filter(|attestation| match (sealed, &value) {
        (Some(sealed), _) => attestation.verify_sealed(&keyring, &uid, &sealed.0).is_ok(),
        (None, Some(value)) => attestation.verify(&keyring, &uid, value).is_ok(),
        (None, None) => false,
    });
    // Issued for another credential of the same name, it is nobody's value now; but a token that is younger than this
    // credential was never meant for the one before, and its value is only attested anew.
    let is_for_it = |attestation: &Attestation| {
        issued_for.is_some_and(|present| present.uid.as_ref() == Some(&attestation.credential))
    };
    let anothers = attested.as_ref().is_some_and(|attestation| !is_for_it(attestation));
    let meant_for_it = issued_for.is_some_and(|present| is_younger(token, present));
    let attested = attested.filter(is_for_it);
    let recorded_uid = status.secret.as_ref().map(|secret| &secret.uid) == metadata.uid.as_ref();
    let term = status.term.filter(|_| token.spec.renew_before.is_some());
    let digested = match &value {
        Some(value) => {
            let subject = Subject { uid: uid.clone(), serial: status.serial.unwrap_or_default(), term };
            status
                .digest
                .as_ref()
                .is_some_and(|digest| digest::verify(&keyring, digest, &subject, value).is_ok())
        }
        // What is sealed nobody here can read: its digest is what the operator said of it.
        None => attested.as_ref().is_some_and(|attestation| {
            status.digest.as_ref() == Some(&attestation.digest)
                && (status.serial, term) == (Some(attestation.serial), attestation.term)
        }),
    };
    // A status can be forged; what it says of a UID counts only together with a keyed proof.
    let ours_by_proof = recorded_uid && (attested.is_some() || anothers || digested);
    if metadata.deletion_timestamp.is_some() {
        return terminating(metadata, owned(token, metadata) || ours_by_proof);
    }
    if !owned(token, metadata) && !ours_by_proof {
        return anothers_secret(token, metadata);
    }
    let next = status.serial.map_or(0, |serial| serial.saturating_add(1));
    let content = match (attested, &value) {
        (Some(attestation), _)
            if digested && recorded_uid && states(token, status, &attestation, ctx.clock.now()) =>
        {
            if is_editable(token) {
                let place = Place::new(
                    metadata.namespace.clone().unwrap_or_default(),
                    metadata.name.clone().unwrap_or_default(),
                );
                let version = metadata.resource_version.as_deref().unwrap_or_default();
                ctx.note_whole(&Key::api_token(token), &place, version);
            }
            Content::Recorded
        }
        // One of the next: we died before the status was written, perhaps more than once. The same: somebody overwrote
        // the status. A copy of a value under another UID is neither, however genuine: it was replaced, and replaced
        // values are not trusted.
        (Some(attestation), _)
            if attestation.serial >= next || (recorded_uid && status.serial == Some(attestation.serial)) =>
        {
            Content::Attested(Box::new(attestation))
        }
        (_, Some(value)) if digested && recorded_uid && (!anothers || meant_for_it) => {
            Content::Unattested(value.clone())
        }
        _ => Content::Strange,
    };
    ours(token, metadata, content)
}

fn terminating(found: &ObjectMeta, ours: bool) -> SecretSeen {
    SecretSeen::Terminating(ours.then(|| reference(found)))
}

fn ours(token: &ApiToken, found: &ObjectMeta, content: Content) -> SecretSeen {
    SecretSeen::Ours(Box::new(OwnSecret {
        reference: reference(found),
        resource_version: found.resource_version.clone().unwrap_or_default(),
        sealed_for: attestation(found).and_then(|attestation| attestation.sealed_for),
        labels: found.labels.clone().unwrap_or_default(),
        annotations: found.annotations.clone().unwrap_or_default(),
        owned: owned(token, found),
        content,
    }))
}

fn reference(found: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        name: found.name.clone().unwrap_or_default(),
        uid: found.uid.clone().unwrap_or_default(),
    }
}

/// What a Secret is that is not this token's.
fn anothers_secret(token: &ApiToken, found: &ObjectMeta) -> SecretSeen {
    let predecessor = controller(found).is_some_and(|owner| {
        is_of_kind(owner, "ApiToken")
            && Some(&owner.name) == token.metadata.name.as_ref()
            && Some(&owner.uid) != token.metadata.uid.as_ref()
    });
    if predecessor { SecretSeen::Predecessors } else { SecretSeen::Foreign }
}

fn owned(token: &ApiToken, found: &ObjectMeta) -> bool {
    is_owned_by(found, token.metadata.uid.as_deref())
}

/// What the annotation of a Secret says, proven or not.
#[must_use]
pub fn attestation(found: &ObjectMeta) -> Option<Attestation> {
    serde_json::from_str(found.annotations.as_ref()?.get(name::ATTESTATION_ANNOTATION)?).ok()
}
