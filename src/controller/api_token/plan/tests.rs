use jiff::ToSpan;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::{tell::holds, *};
use crate::{
    api::{
        ApiTokenSpec, Condition, CredentialSpec, CredentialState, Delivery, Lifetime,
        api_token::{CredentialReference, PreviousToken, SecretOptions},
    },
    client::InvalidObject,
    domain::{
        digest::{Attestation, Predecessor},
        policy::{Breach, Severity},
        token::Prefix,
    },
};

mod following;
mod laws;
mod life;
mod loss;
mod minted;
mod once;
mod renewal;
mod sealed;
mod secrets;
mod ttl;
mod world;

use world::*;

const NOW: &str = "2026-06-01T12:00:00Z";
const END: &str = "2027-01-01T00:00:00Z";
const UID: &str = "token-uid";
const CREDENTIAL_UID: &str = "credential-uid";
/// The key that signs; the other one of this model may be gone.
const KEY: &str = "new";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at(NOW)
}

fn ago(seconds: i64) -> Instant {
    (now() - seconds.seconds()).into()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn wished(pairs: &[(&str, &str)]) -> BTreeMap<String, Option<String>> {
    map(pairs).into_iter().map(|(key, value)| (key, Some(value))).collect()
}

// Fixtures, and what a plan says in one line.

fn fresh() -> Observed {
    World::fresh().observe().unwrap()
}

fn issued() -> Observed {
    World::fresh()
        .settle(now() - 1.hour())
        .observe()
        .map(|mut observed| {
            // As if the status had been written just now: only what a test changes is news.
            observed.token.status = plan(&observed, now()).status;
            observed
        })
        .unwrap()
}

fn status(observed: &mut Observed) -> &mut ApiTokenStatus {
    observed.token.status.get_or_insert_default()
}

fn secret(observed: &mut Observed) -> &mut OwnSecret {
    match &mut observed.secret {
        SecretSeen::Ours(secret) => secret,
        other => panic!("{other:?}"),
    }
}

fn credential(observed: &mut Observed) -> &mut Credential {
    match &mut observed.credential {
        CredentialSeen::Present(credential) => credential,
        other => panic!("{other:?}"),
    }
}

/// Its credential is there as before, but cannot be read.
fn spoil(observed: &mut Observed) -> &mut InvalidObject {
    let metadata = observed.credential.metadata().unwrap().clone();
    observed.credential =
        CredentialSeen::Unreadable(Box::new(InvalidObject { metadata, ..InvalidObject::default() }));
    match &mut observed.credential {
        CredentialSeen::Unreadable(unread) => unread,
        other => panic!("{other:?}"),
    }
}

fn breach(severity: Severity) -> Breach {
    Breach { severity, policy: None, message: "CredentialPolicy p does not allow it".to_owned(), until: None }
}

fn terminate(metadata: &mut ObjectMeta) {
    metadata.deletion_timestamp = Some(Time(now()));
}

fn options(observed: &mut Observed) -> &mut SecretOptions {
    observed.token.spec.secret.get_or_insert_default()
}

/// Its value was lost at these times, the last of them now.
fn lost(observed: &mut Observed, replaced_ago: &[i64]) {
    observed.secret = SecretSeen::Absent;
    let replaced = i64::try_from(replaced_ago.len()).unwrap();
    status(observed).serial = Some(replaced);
    status(observed).replaced_at = replaced_ago.iter().copied().map(ago).collect();
}

fn stalled_since(observed: &mut Observed, seconds: i64) {
    status(observed).conditions.push(Condition {
        kind: "Stalled".to_owned(),
        status: "True".to_owned(),
        observed_generation: Some(1),
        last_transition_time: ago(seconds),
        reason: "Conflict".to_owned(),
        message: String::new(),
    });
}

/// `steps | state, what is True, why | when again`.
fn told(observed: &Observed, now: Timestamp) -> String {
    let plan = plan(observed, now);
    let steps: Vec<_> = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::CreateSecret(recipe) => format!("create {}", recipe.serial),
            Step::RenewSecret(recipe, _) => format!("renew {}", recipe.serial),
            Step::DeleteSecret { resource_version: None, .. } => "delete".to_owned(),
            Step::DeleteSecret { resource_version: Some(version), .. } => format!("delete version {version}"),
            Step::MendSecret(_) => "mend".to_owned(),
            Step::Mint(recipe) => format!("mint {}", recipe.serial),
            Step::Say(status) => format!("say {:?}", status.state.unwrap()),
            Step::DeleteToken { resource_version: None } => "delete token".to_owned(),
            Step::DeleteToken { resource_version: Some(version) } => {
                format!("delete token version {version}")
            }
        })
        .collect();
    let status = plan.status.map(|status| {
        assert_eq!(status.observed_generation, observed.token.metadata.generation);
        let mut words = vec![format!("{:?}", status.state.unwrap())];
        let holding = status.conditions.iter().filter(|condition| condition.status == "True");
        words.extend(holding.map(|condition| condition.kind.clone()));
        let mut reasons: Vec<_> = status.conditions.iter().map(|condition| &*condition.reason).collect();
        reasons.dedup();
        assert_eq!(reasons.len(), 1, "one reason for all: {reasons:?}");
        format!("{} ({})", words.join(" "), reasons[0])
    });
    let wake = plan.wake.map(|wake| {
        if wake == at(END) { "end".to_owned() } else { format!("{:#}", wake.duration_since(now)) }
    });
    format!(
        "{} | {} | {}",
        if steps.is_empty() { "-".to_owned() } else { steps.join(", ") },
        status.as_deref().unwrap_or("-"),
        wake.as_deref().unwrap_or("-"),
    )
}

type Row = (&'static str, fn(&mut Observed), &'static str);

/// Each row changes `base` and says what is told of it.
fn check(base: impl Fn() -> Observed, rows: &[Row]) {
    for (what, change, expected) in rows {
        let mut observed = base();
        change(&mut observed);
        assert_eq!(told(&observed, now()), *expected, "{what}");
    }
}

const ISSUED: &str = "- | Active Ready Usable (Issued) | end";
