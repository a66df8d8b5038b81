//! Tokens that are delivered once, and sealed.

use credential_operator::{
    api::{ApiToken, ApiTokenState, ApiTokenStatus, Credential, credential::MaterialStatus},
    controller::api_token::observe::SEALED_KEY,
    domain::{clock::Clock, name},
};
use futures::FutureExt;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::{Drive, credential, credential_with, token_with, tokens::by_then};
use crate::{
    run::Run,
    space::{Outcome, Space},
};

pub(super) const ALL: &[(&str, Drive)] = &[
    ("once-window", |run| once_window(run, false).boxed()),
    ("once-window-while-down", |run| once_window(run, true).boxed()),
    ("once-acknowledge", |run| once_acknowledge(run).boxed()),
    ("once-delete", |run| once_delete(run).boxed()),
    ("once-renew", |run| once_renew(run).boxed()),
    ("once-revoke", |run| once_revoke(run).boxed()),
    ("sealed", |run| sealed(run).boxed()),
    ("sealed-recipients", |run| sealed_recipients(run).boxed()),
    ("sealed-edit", |run| sealed_edit(run).boxed()),
    ("sealed-lose", |run| sealed_lose(run).boxed()),
    ("once-material", |run| once_material(run).boxed()),
    ("sealed-material", |run| sealed_material(run).boxed()),
];

/// The key pair that everything is sealed for, also by the checker, which has to know what became readable. It is the one of
/// age's own tests.
pub const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
const ANOTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN";

async fn issue(run: &Run<'_>, spec: &str) -> Outcome<ApiToken> {
    run.space.apply(&(credential("c") + "---\n" + &token_with("t", spec))).await?;
    run.space.token("t", ApiTokenState::Active).await
}

/// Waits until the status is so.
async fn until(space: &Space, expected: impl Fn(&ApiTokenStatus) -> bool + Clone + Send + Sync) -> Outcome {
    let there =
        move |token: Option<&ApiToken>| token.and_then(|token| token.status.as_ref()).is_some_and(&expected);
    space.until::<ApiToken>("t", there).await.map(drop)
}

/// Waits until the value of that number is delivered, and its Secret gone.
async fn delivered(space: &Space, serial: i64) -> Outcome {
    let said = move |status: &ApiTokenStatus| {
        status.serial == Some(serial) && status.delivered_at.is_some() && status.secret.is_none()
    };
    until(space, said).await?;
    space.gone::<Secret>("t-token").await
}

async fn once_window(run: &Run<'_>, while_down: bool) -> Outcome {
    let issued = issue(run, "expiresIn: 30d, delivery: {mode: Once, window: 5h}").await?;
    // By the clock of then, which may have been set since.
    let issued_at = issued.status.and_then(|status| status.issued_at?.timestamp().ok());
    let end = issued_at.unwrap_or_else(|| run.clock.now()) + SignedDuration::from_hours(5);
    if while_down {
        run.stop_operators();
        run.clock.advance_to(end);
        run.start_operator();
    }
    by_then(run, end, delivered(&run.space, 0)).await
}

async fn acknowledge(run: &Run<'_>, id: &str) -> Outcome {
    let annotations = json!({name::ACKNOWLEDGED_ANNOTATION: id});
    run.space.patch::<ApiToken>("t", json!({"metadata": {"annotations": annotations}})).await
}

async fn once_acknowledge(run: &Run<'_>) -> Outcome {
    let issued = issue(run, "expiresIn: 30d, delivery: {mode: Once, window: 9h}").await?;
    acknowledge(run, "anotherValue").await?;
    let id = issued.status.and_then(|status| status.token_id).unwrap_or_default();
    acknowledge(run, &id).await?;
    delivered(&run.space, 0).await
}

async fn once_delete(run: &Run<'_>) -> Outcome {
    issue(run, "expiresIn: 30d, delivery: {mode: Once, window: 9h}").await?;
    run.space.delete::<Secret>("t-token").await?;
    delivered(&run.space, 0).await
}

async fn once_renew(run: &Run<'_>) -> Outcome {
    let spec = "expiresIn: 30d, renewBefore: 10d, delivery: {mode: Once, window: 5h}";
    let issued = issue(run, spec).await?;
    let created_at = issued.metadata.creation_timestamp.map_or_else(|| run.clock.now(), |created| created.0);
    // The first is delivered when its time comes, the second when it is deleted, and the third is still there.
    let hours = SignedDuration::from_hours;
    by_then(run, created_at + hours(24), delivered(&run.space, 0)).await?;
    let number = |serial: i64| {
        move |status: &ApiTokenStatus| {
            (status.serial, status.term) == (Some(serial), Some(serial)) && status.digest.is_some()
        }
    };
    by_then(run, created_at + hours(25 * 24), until(&run.space, number(1))).await?;
    run.space.delete::<Secret>("t-token").await?;
    delivered(&run.space, 1).await?;
    by_then(run, created_at + hours(45 * 24), until(&run.space, number(2))).await
}

async fn once_revoke(run: &Run<'_>) -> Outcome {
    issue(run, "expiresIn: 30d, delivery: {mode: Once, window: 9h}").await?;
    run.space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await?;
    run.space.token("t", ApiTokenState::Revoked).await?;
    run.space.gone::<Secret>("t-token").await
}

fn sealed_for(recipients: &[&str]) -> String {
    format!("expiresIn: 30d, delivery: {{mode: Sealed, recipients: {}}}", json!(recipients))
}

async fn sealed(run: &Run<'_>) -> Outcome {
    issue(run, &sealed_for(&[RECIPIENT])).await.map(drop)
}

/// Waits until there is a value of that number.
async fn value(space: &Space, serial: i64) -> Outcome {
    until(space, move |status| status.serial == Some(serial) && status.digest.is_some()).await
}

async fn sealed_recipients(run: &Run<'_>) -> Outcome {
    sealed(run).await?;
    for (recipients, serial) in [([RECIPIENT, ANOTHER].as_slice(), 1), (&[RECIPIENT], 2)] {
        run.space.patch::<ApiToken>("t", json!({"spec": {"delivery": {"recipients": recipients}}})).await?;
        value(&run.space, serial).await?;
    }
    Ok(())
}

/// Somebody puts something else in the place of the ciphertext.
async fn sealed_edit(run: &Run<'_>) -> Outcome {
    sealed(run).await?;
    run.space.patch::<Secret>("t-token", json!({"stringData": {SEALED_KEY: "planted"}})).await?;
    value(&run.space, 1).await
}

async fn sealed_lose(run: &Run<'_>) -> Outcome {
    sealed(run).await?;
    run.space.delete::<Secret>("t-token").await?;
    value(&run.space, 1).await
}

/// Waits until what is told of the material is so.
async fn material(
    space: &Space,
    expected: impl Fn(&MaterialStatus) -> bool + Clone + Send + Sync,
) -> Outcome<Option<Credential>> {
    let there = move |found: Option<&Credential>| {
        let status = found.and_then(|found| found.status.as_ref());
        status.and_then(|status| status.material.as_ref()).is_some_and(&expected)
    };
    space.until::<Credential>("c", there).await
}

/// Waits until the material of that number is in a Secret.
async fn shown(space: &Space, serial: i64) -> Outcome<String> {
    let there = move |told: &MaterialStatus| {
        told.serial == Some(serial) && told.id.is_some() && told.delivered_at.is_none()
    };
    let found = material(space, there).await?.and_then(|found| found.status?.material?.id);
    found.ok_or_else(|| "the credential is gone".to_owned())
}

async fn once_material(run: &Run<'_>) -> Outcome {
    let options = "type: ClientSecret, rotation: {overlap: 90d}, delivery: {mode: Once, window: 9h}";
    run.space.apply(&credential_with("c", options)).await?;
    let gone = async |serial: i64| {
        let said = move |told: &MaterialStatus| told.serial == Some(serial) && told.delivered_at.is_some();
        material(&run.space, said).await?;
        run.space.gone::<Secret>("c-credential").await
    };
    let id = shown(&run.space, 0).await?;
    let annotations = json!({name::ACKNOWLEDGED_ANNOTATION: id});
    run.space.patch::<Credential>("c", json!({"metadata": {"annotations": annotations}})).await?;
    gone(0).await?;
    for (revision, serial) in [(1, 1), (2, 2)] {
        run.space.patch::<Credential>("c", json!({"spec": {"rotation": {"revision": revision}}})).await?;
        shown(&run.space, serial).await?;
        if serial == 1 {
            run.space.delete::<Secret>("c-credential").await?;
            gone(1).await?;
        }
    }
    Ok(())
}

async fn sealed_material(run: &Run<'_>) -> Outcome {
    let options = |recipients: &[&str]| {
        let delivery = format!("{{mode: Sealed, recipients: {}}}", json!(recipients));
        credential_with("c", &format!("type: ClientSecret, delivery: {delivery}"))
    };
    run.space.apply(&options(&[RECIPIENT])).await?;
    shown(&run.space, 0).await?;
    run.space.apply(&options(&[RECIPIENT, ANOTHER])).await?;
    shown(&run.space, 1).await.map(drop)
}
