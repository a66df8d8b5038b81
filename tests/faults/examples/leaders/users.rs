//! What users do meanwhile, and what is to have come of it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential},
    domain::clock::Clock,
};
use faults::{
    scenario::credential_with,
    space::{ELSEWHERE, Outcome, RunClock, Space},
};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::{ResourceExt, api::ListParams};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::time::sleep;

/// How often they do something.
const LOAD_EVERY: Duration = Duration::from_millis(500);
/// How many credentials have tokens.
const CREDENTIALS: usize = 4;

/// What a token is to be in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Active,
    Revoked,
    Expired,
    Deleted,
}

/// A token of that credential, with that in its spec.
pub fn token(name: &str, credential: usize, spec: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: ApiToken\nmetadata: {{name: {name}}}\n\
         spec: {{credentialRef: {{name: c{credential}}}, {spec}}}\n"
    )
}

/// What users do, until they are to stop. Tells what each token is to be.
pub async fn use_it(space: &Space, clock: &RunClock, seed: u64, stop: &AtomicBool) -> Outcome<Vec<Fate>> {
    let mut random = StdRng::seed_from_u64(seed);
    let view = "{kind: ClusterRole, name: view}";
    let roles = [
        format!("roles: [{view}]"),
        format!("roles: [{view}, {{kind: ClusterRole, name: view, namespace: {ELSEWHERE}}}]"),
        format!("roles: [{view}, {{kind: ClusterRole, name: view, clusterWide: true}}]"),
    ];
    let apply =
        async |number: usize, roles: &str| space.apply(&credential_with(&format!("c{number}"), roles)).await;
    for number in 0..CREDENTIALS {
        apply(number, &roles[0]).await?;
    }
    let mut fates = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = random.random_range(0..CREDENTIALS);
        let alive: Vec<_> = (0..fates.len()).filter(|at| fates[*at] == Fate::Active).collect();
        let chosen = alive.get(random.random_range(0..alive.len().max(1))).copied();
        match (random.random_range(0..8), chosen) {
            (0, Some(chosen)) => {
                space.patch::<ApiToken>(&format!("t{chosen}"), json!({"spec": {"revoked": true}})).await?;
                fates[chosen] = Fate::Revoked;
            }
            (1, Some(chosen)) => {
                space.delete::<ApiToken>(&format!("t{chosen}")).await?;
                fates[chosen] = Fate::Deleted;
            }
            (2, _) => apply(number, &roles[random.random_range(0..roles.len())]).await?,
            (3, _) => {
                let name = format!("c{number}");
                space.patch::<Credential>(&name, json!({"spec": {"state": "Inactive"}})).await?;
                sleep(LOAD_EVERY).await;
                space.patch::<Credential>(&name, json!({"spec": {"state": "Active"}})).await?;
            }
            (4, _) => {
                let end = clock.now() + SignedDuration::from_secs(random.random_range(5..30));
                space
                    .apply(&token(&format!("t{}", fates.len()), number, &format!("expiresAt: {end:.0}")))
                    .await?;
                fates.push(Fate::Expired);
            }
            _ => {
                space.apply(&token(&format!("t{}", fates.len()), number, "expiresIn: 1h")).await?;
                fates.push(Fate::Active);
            }
        }
        sleep(LOAD_EVERY).await;
    }
    Ok(fates)
}

/// An error where a token has got another value since.
pub fn first_value(name: &str, token: &ApiToken) -> Outcome {
    let serial = token.status.as_ref().and_then(|status| status.serial);
    if serial == Some(0) {
        return Ok(());
    }
    Err(format!("ApiToken {name} has another value than its first: serial {serial:?}"))
}

/// Waits until each token is what it is to be, with a Secret if it is alive, and tells how many there were.
pub async fn settle(space: &Space, fates: &[Fate]) -> Outcome<String> {
    for (number, fate) in fates.iter().enumerate() {
        let name = format!("t{number}");
        let state = match fate {
            Fate::Active => ApiTokenState::Active,
            Fate::Revoked => ApiTokenState::Revoked,
            Fate::Expired => ApiTokenState::Expired,
            Fate::Deleted => {
                space.gone::<ApiToken>(&name).await?;
                space.gone::<Secret>(&format!("{name}-token")).await?;
                continue;
            }
        };
        let found = space.token(&name, state).await?;
        let secret = space.api::<Secret>().get_opt(&format!("{name}-token")).await;
        let has_secret = secret.map_err(|error| error.to_string())?.is_some();
        if has_secret != (*fate == Fate::Active) {
            return Err(format!("ApiToken {name} is {state:?}, and that it has a Secret is {has_secret}"));
        }
        if *fate == Fate::Active {
            first_value(&name, &found)?;
        }
    }
    let count = |fate: Fate| fates.iter().filter(|found| **found == fate).count();
    let secrets = space.api::<Secret>().list_metadata(&ListParams::default()).await;
    let secrets = secrets.map_err(|error| error.to_string())?;
    let of_tokens = secrets.iter().filter(|secret| secret.name_any().starts_with('t')).count();
    Ok(format!(
        "{} tokens: {} active, {} revoked, {} ended, {} deleted; {of_tokens} Secrets",
        fates.len(),
        count(Fate::Active),
        count(Fate::Revoked),
        count(Fate::Expired),
        count(Fate::Deleted)
    ))
}
