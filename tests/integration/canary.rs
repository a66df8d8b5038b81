//! No value of a secret is where people look: in a log of whatever level, an event, a status, an annotation, an error
//! (S9). Searched for are the random or private bytes themselves, in hex, and in base64 wherever they may begin, by windows
//! of 12 characters.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential},
    domain::token::Token,
};
use data_encoding::{BASE32_NOPAD, BASE64, HEXLOWER};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer, filter::dynamic_filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::events::until_told;
use crate::support::{Space, SystemClock, World, token};

crate::tests![no_value_is_where_people_look];

pub const WINDOW: usize = 12;

static LISTENING: AtomicBool = AtomicBool::new(false);
static HEARD: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Ear;

impl io::Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        HEARD.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has everything that is logged, by whomever, go through here; and to standard error, as far as `RUST_LOG` asks for.
pub fn listen() {
    let ear = fmt::layer().with_ansi(false).with_writer(|| Ear);
    // All but what the operator's own telemetry never lets pass, whatever level is asked for.
    let ear = ear.with_filter(dynamic_filter_fn(|metadata, _| {
        let passes = metadata.target() != "kube_client::client" || *metadata.level() == Level::ERROR;
        passes && LISTENING.load(Ordering::Relaxed)
    }));
    let told = std::env::var("RUST_LOG").ok();
    let told = told.map(|filter| fmt::layer().with_writer(io::stderr).with_filter(EnvFilter::new(filter)));
    tracing_subscriber::registry().with(ear).with(told).init();
}

/// What nobody may see of a Secret's entry.
fn private(key: &str, value: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(value);
    match key {
        "username" | "client-id" | "AWS_ACCESS_KEY_ID" | "ssh-publickey" | "tls.crt" | "ca.crt" | "uri" => {
            Vec::new()
        }
        "token" | "client-secret" => vec![Token::parse(&text).unwrap().expose_secret().as_bytes().to_vec()],
        "secret" => vec![BASE32_NOPAD.decode(value).unwrap(), value.to_vec()],
        "auth" => vec![text.split_once(':').unwrap().1.trim().as_bytes().to_vec()],
        "hash" => vec![text.rsplit('$').next().unwrap().as_bytes().to_vec()],
        ".dockerconfigjson" => {
            let config: Value = serde_json::from_slice(value).unwrap();
            vec![config["auths"]["registry.example"]["password"].as_str().unwrap().as_bytes().to_vec()]
        }
        "ssh-privatekey" => {
            let key = ssh_key::PrivateKey::from_openssh(&*text).unwrap();
            vec![key.key_data().ed25519().unwrap().private.to_bytes().to_vec()]
        }
        "tls.key" => {
            let key = rcgen::KeyPair::from_pem(&text).unwrap().serialize_der();
            // RFC 5915: the version, then the private key, an octet string of 32 bytes.
            let start = key.windows(5).position(|bytes| bytes == [2, 1, 1, 4, 32]).unwrap() + 5;
            vec![key[start..start + 32].to_vec()]
        }
        _ => vec![value.to_vec()],
    }
}

/// Its windows as it is, in hex, and in base64 wherever it may begin.
pub fn windows(secret: &[u8]) -> Vec<[u8; WINDOW]> {
    let shifted = (0..3).map(|shift| {
        let encoded = BASE64.encode(&[&vec![0; shift], secret].concat());
        // The characters that only the secret decides.
        encoded.trim_end_matches('=').as_bytes()[if shift == 0 { 0 } else { shift + 1 }..].to_vec()
    });
    let forms = [secret.to_vec(), HEXLOWER.encode(secret).into_bytes()].into_iter().chain(shifted);
    forms
        .flat_map(|form| form.windows(WINDOW).map(|window| window.try_into().unwrap()).collect::<Vec<_>>())
        .collect()
}

/// Puts the windows of all that is kept in Secrets of the operator's now into `secrets`.
async fn collect(space: &Space, secrets: &mut HashSet<[u8; WINDOW]>) {
    for secret in space.api::<Secret>().list(&ListParams::default()).await.unwrap() {
        for (key, value) in secret.data.into_iter().flatten() {
            secrets.extend(private(&key, &value.0).iter().flat_map(|secret| windows(secret)));
        }
    }
}

async fn no_value_is_where_people_look(world: Arc<World>, space: Space) {
    HEARD.lock().unwrap().clear();
    LISTENING.store(true, Ordering::Relaxed);
    let operator = world.operator(SystemClock::shared()).await;
    let mut secrets = HashSet::new();
    let types = [
        "ClientSecret",
        "BasicAuth",
        "SshKey",
        "Tls",
        "ObjectStore",
        "Registry, registry: {server: registry.example}",
        "HelmRepository",
        "Opaque, opaque: {fields: [{name: a}]}",
        "HashedPassword",
        "Totp",
    ];
    let names: Vec<_> = (0..types.len()).map(|number| format!("c{number}")).collect();
    for (name, credential_type) in names.iter().zip(types) {
        let spec = format!("type: {credential_type}");
        space.apply(&format!(
            "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )).await;
    }
    // A token, and things that go wrong.
    space.apply(&token("t", "expiresIn: 30d").replace("{name: c}", "{name: c0}")).await;
    space.token("t", ApiTokenState::Active).await;
    let canary = "canary-0123456789-canary";
    secrets.extend(windows(canary.as_bytes()));
    let provided = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "mine", "labels": {"credential-operator.io/provided": "true"}},
        "stringData": {"ssh-privatekey": canary},
    });
    space.apply(&provided.to_string()).await;
    let broken = "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {name: broken}\nspec: {type: SshKey, provided: {secretRef: {name: mine}}}\n";
    space.apply(broken).await;
    for name in &names {
        let ready = |found: Option<&Credential>| {
            found.and_then(|found| found.status.as_ref()).is_some_and(|status| status.secret.is_some())
        };
        space.until::<Credential>(name, ready).await;
    }
    space.api::<Secret>().delete("mine", &DeleteParams::default()).await.unwrap();
    collect(&space, &mut secrets).await;
    // Edited, rotated, gone.
    space.patch::<Secret>("c6-credential", json!({"stringData": {"password": canary}})).await.unwrap();
    for name in ["c0", "c1", "c2", "c3", "c5", "c7"] {
        space.patch::<Credential>(name, json!({"spec": {"rotation": {"revision": 1}}})).await.unwrap();
        let rotated = |found: Option<&Credential>| {
            let status = found.and_then(|found| found.status.as_ref());
            status
                .and_then(|status| status.material.as_ref())
                .is_some_and(|material| material.serial == Some(1))
        };
        space.until::<Credential>(name, rotated).await;
    }
    collect(&space, &mut secrets).await;
    let params = ListParams::default();
    until_told(&space, "Credential broken", &[("MaterialInvalid", 1)]).await;
    let mut seen = json!([
        space.api::<Credential>().list(&params).await.unwrap().items,
        space.api::<ApiToken>().list(&params).await.unwrap().items,
        space.api::<Event>().list(&params).await.unwrap().items,
    ]);
    for secret in space.api::<Secret>().list(&params).await.unwrap() {
        seen.as_array_mut().unwrap().push(json!([secret.labels(), secret.annotations()]));
    }
    operator.stop().await;
    LISTENING.store(false, Ordering::Relaxed);
    let heard = std::mem::take(&mut *HEARD.lock().unwrap());
    let text = String::from_utf8_lossy(&heard);
    assert!(text.contains("TRACE") && text.contains("c0-credential"), "nothing was heard");
    assert!(secrets.len() > 1_000);
    for (name, place) in [("the log", heard.as_slice()), ("an object", seen.to_string().as_bytes())] {
        let found = find(place, &secrets);
        let before = found.map(|at| String::from_utf8_lossy(&place[at.saturating_sub(200)..at]).into_owned());
        assert!(before.is_none(), "a value is in {name}, after: {}", before.unwrap_or_default());
    }
    // Whatever was heard, a value would have been found in it, however it is written and wherever it begins.
    let value = canary.as_bytes();
    for begin in 0..3 {
        let padded = [&b"xyz"[..begin], value].concat();
        for written in [canary.to_owned(), HEXLOWER.encode(value), BASE64.encode(&padded)] {
            let place = [text.as_bytes(), written.as_bytes()].concat();
            assert!(find(&place, &secrets).is_some(), "{written} is not found");
        }
    }
}

fn find(place: &[u8], secrets: &HashSet<[u8; WINDOW]>) -> Option<usize> {
    place.windows(WINDOW).position(|window| secrets.contains(window))
}
