//! A token whose Secret can never be written, among many: what it costs the others, and the API server.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::{Api, api::PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use credential_operator::api::ApiToken;

use crate::{
    Arguments,
    load::{self, FAR},
    measure::{float, milliseconds, quantile},
    secrets::Secrets,
    table::{Table, compared},
    world::World,
};

/// So few that no token waits behind the others, and a delay by the one would be seen.
const CLIENTS: usize = 8;

pub async fn run(world: &World, arguments: &Arguments) {
    deny(world).await;
    for tokens in arguments.tokens_or(&[2_000]) {
        let (without, _) = visit(world, tokens, false).await;
        let (with, attempts) = visit(world, tokens, true).await;
        let title = format!(
            "Poison: {tokens} tokens by {CLIENTS} clients, who wait for each Secret, beside one that can never have its own"
        );
        let mut table = Table::new(title, &["", "with it", "without", "ratio"]);
        for (name, at) in [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)] {
            let figures =
                compared(milliseconds(quantile(&with, at)), milliseconds(quantile(&without, at)), 0);
            table.row(format!("create to Secret, {name}, ms"), figures);
        }
        table.row("attempts for it meanwhile", [format!("{:.0}", float(attempts))]);
        table.print();
    }
}

/// How long each of the others waits, and how often the Secret of the one was tried.
async fn visit(world: &World, tokens: usize, poison: bool) -> (Vec<Duration>, usize) {
    let operator = world.working_operator().await;
    let space = world.space("poison").await;
    if poison {
        let token = load::token("poison", FAR);
        space.api::<ApiToken>().create(&PostParams::default(), &token).await.unwrap();
        while world.requests(&space.namespace, jiff::Timestamp::UNIX_EPOCH).is_empty() {
            sleep(Duration::from_millis(50)).await;
        }
    }
    let secrets = Arc::new(Secrets::watch(&space).await);
    let one = |number| {
        let (tokens, secrets) = (space.api::<ApiToken>(), secrets.clone());
        async move {
            let sent_at = Instant::now();
            let token = load::token(&load::name(number), FAR);
            tokens.create(&PostParams::default(), &token).await.unwrap();
            let seen_at = secrets.appeared_as(&format!("{}-token", load::name(number))).await;
            seen_at.duration_since(sent_at)
        }
    };
    let waits = load::each(0..tokens, CLIENTS, one).await;
    let requests = world.requests(&space.namespace, jiff::Timestamp::UNIX_EPOCH);
    let created =
        requests.into_iter().find(|(what, _)| what == "create secrets").map_or(0, |(_, count)| count);
    drop(operator);
    space.remove().await;
    (waits, created.saturating_sub(tokens))
}

async fn deny(world: &World) {
    let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({
        "metadata": {"name": "poison"},
        "spec": {
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]},
            ]},
            "validations": [{"expression": "object.metadata.name != 'poison-token'", "message": "never"}],
        },
    }))
    .unwrap();
    let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(json!({
        "metadata": {"name": "poison"},
        "spec": {"policyName": "poison", "validationActions": ["Deny"]},
    }))
    .unwrap();
    Api::all(world.admin.clone()).create(&PostParams::default(), &policy).await.unwrap();
    Api::all(world.admin.clone()).create(&PostParams::default(), &binding).await.unwrap();
    // It bites within half a second.
    sleep(Duration::from_secs(2)).await;
}
