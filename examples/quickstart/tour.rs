//! What there is to see: a token, the rights of the identity, all the objects, and an end.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use credential_operator::{
    api::{self, ApiToken, ApiTokenState, ApiTokenStatus, Credential, CredentialState},
    domain::clock::Clock,
};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
    runtime::wait::{await_condition, delete::delete_and_finalize},
};
use tokio::time::Instant;

use crate::{
    SystemClock, after,
    cluster::{ASK_EVERY, Cluster, NAMESPACE, reason, who},
    error::{Error, PATIENCE, While, within},
    guarded::Guarded,
    heading,
};

const CREDENTIAL: &str = include_str!("../credential.yaml");
/// The one that ends comes first, so that the least time is left to wait for its end.
const API_TOKENS: [&str; 3] = [
    include_str!("one-minute.yaml"),
    include_str!("../api-token.yaml"),
    include_str!("../api-token-for-git.yaml"),
];
const ONE_MINUTE: &str = "quickstart-one-minute";
/// The `ServiceAccount` that the operator makes for the credential.
pub const IDENTITY: &str = "edge-nodes-credential";
/// How far apart the lines of a countdown are where it cannot be redrawn in place.
const COUNTDOWN_LINE_EVERY: i64 = 10;

/// Everything there is to see.
pub async fn tour(cluster: &Cluster, guarded: &Guarded, started: Instant) -> Result<(), Error> {
    heading("A credential and its tokens");
    let tokens: Api<ApiToken> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    forget(&tokens, ONE_MINUTE).await?;
    cluster.apply(CREDENTIAL).await?;
    for token in API_TOKENS {
        cluster.apply(token).await?;
    }
    let status = token_in_state(&tokens, ONE_MINUTE, ApiTokenState::Active, PATIENCE).await;
    if matches!(status, Err(Error::TooLate { .. })) {
        // Its conditions say why.
        cluster.kubectl(&["describe", "atok", ONE_MINUTE]).await?;
    }
    let status = status?;
    let secret = status.secret.map(|secret| secret.name).unwrap_or_default();
    let template = "--template={{.data.token | base64decode}}";
    println!();
    show(cluster, &["get", "secret", &secret, template]).await?;
    println!("First token {}.", after(started));

    heading("A service behind the verifier");
    let value = value(cluster, &secret).await?;
    show_service(guarded, &value).await?;

    heading("What the identity may do in the Kubernetes API");
    show_rights(cluster).await?;

    heading("All of it");
    let credentials: Api<Credential> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let counted = async {
        let counted = |credential: Option<&Credential>| {
            credential.and_then(|credential| credential.status.as_ref()).is_some_and(|status| {
                status.state == Some(CredentialState::Active)
                    && status.tokens.is_some_and(|tokens| tokens.total >= 3 && tokens.active >= 3)
            })
        };
        await_condition(credentials, "edge-nodes", counted).await.or_could_not("watch the credential")
    };
    println!("  the operator writes the count of tokens every 10 s at most; waiting for it\n");
    Box::pin(within(PATIENCE, "Credential edge-nodes to count its tokens", counted)).await?;
    show(cluster, &["get", "access"]).await?;

    heading("The end of a token");
    let end = status.expires_at.as_ref().map(api::Instant::timestamp);
    let end = end.transpose().or_could_not("read when the token ends")?;
    let end = end.unwrap_or_default();
    let refused = refused_from(guarded, &value, end);
    let ((), refused) = tokio::try_join!(count_down(cluster, &tokens, &secret, end), refused)?;
    println!("{refused}\n");
    if cluster.kubectl(&["get", "secret", &secret]).await? {
        return Err(Error::StillThere(secret));
    }
    println!();
    show(cluster, &["get", "atok"]).await
}

/// An earlier run on the same cluster left its token, and an end that has come does not come again.
async fn forget(tokens: &Api<ApiToken>, name: &str) -> Result<(), Error> {
    let what = || format!("delete the ApiToken {name} of an earlier run");
    let left = tokens.get_opt(name).await.map_err(reason).or_could_not(what())?;
    if left.is_none() {
        return Ok(());
    }
    let deleted = async {
        delete_and_finalize(tokens.clone(), name, &DeleteParams::default()).await.or_could_not(what())
    };
    within(PATIENCE, format!("ApiToken {name} of an earlier run to be gone"), deleted).await?;
    println!("  deleted ApiToken {name} of an earlier run");
    Ok(())
}

async fn token_in_state(
    tokens: &Api<ApiToken>,
    name: &str,
    state: ApiTokenState,
    patience: Duration,
) -> Result<ApiTokenStatus, Error> {
    let reached = async {
        let in_state = |token: Option<&ApiToken>| {
            token.and_then(|token| token.status.as_ref()).is_some_and(|status| status.state == Some(state))
        };
        await_condition(tokens.clone(), name, in_state).await.or_could_not(format!("watch ApiToken {name}"))
    };
    let what = format!("ApiToken {name} to be {state:?}");
    let token = within(patience, what, reached).await?;
    Ok(token.and_then(|token| token.status).unwrap_or_default())
}

async fn show(cluster: &Cluster, arguments: &[&str]) -> Result<(), Error> {
    if cluster.kubectl(arguments).await? { Ok(()) } else { Err(Error::Kubectl(cluster.command(arguments))) }
}

/// The value in a Secret.
async fn value(cluster: &Cluster, secret: &str) -> Result<String, Error> {
    let what = || format!("read Secret {secret}");
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let found = secrets.get(secret).await.map_err(reason).or_could_not(what())?;
    let value = found.data.and_then(|mut data| data.remove("token")).unwrap_or_default();
    String::from_utf8(value.0).or_could_not(what())
}

/// Calls the service as several callers would.
async fn show_service(guarded: &Guarded, token: &str) -> Result<(), Error> {
    println!("  a gateway at {} asks the verifier about each request", guarded.url);
    let said = guarded.until_accepted(token).await?;
    println!("  GET /orders with that token: 200 OK, {said}");
    // Its check digits tell; nobody is looked up.
    let mistyped = token.replacen("cop_", "cop_x", 1);
    for (who, token) in [("without a token", None), ("with a mistyped one", Some(&*mistyped))] {
        let (status, _) = guarded.call(token).await?;
        println!("  GET /orders {who}: {status}");
    }
    Ok(())
}

/// Calls the service with the token until it is refused, and tells when that was.
async fn refused_from(guarded: &Guarded, token: &str, end: Timestamp) -> Result<String, Error> {
    let left = SystemClock.now().duration_until(end) - SignedDuration::from_secs(1);
    tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
    let mut last = None;
    loop {
        let asked = SystemClock.now();
        let (status, _) = guarded.call(Some(token)).await?;
        let told = SystemClock.now();
        let accepted = status == StatusCode::OK;
        if accepted && asked >= end || !accepted && told < end {
            return Err(Error::Inexact(status));
        }
        if !accepted {
            let accepted = last.map_or(SignedDuration::ZERO, |last: Timestamp| last.duration_until(end));
            let refused = told.duration_since(end);
            return Ok(format!(
                "  the service took it until {:.3} s before its end, and refused it {:.3} s after it: {status}",
                accepted.as_secs_f64(),
                refused.as_secs_f64()
            ));
        }
        last = Some(asked);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Asks the API server for things in the name of the credential's `ServiceAccount`.
async fn show_rights(cluster: &Cluster) -> Result<(), Error> {
    let client = cluster.service_account(NAMESPACE, IDENTITY).await?;
    println!("  as {}:", who(&client).await?);
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    // The controller manager fills the role `view` soon after a cluster has started, and RBAC takes a moment to see a
    // new binding.
    let listed = async {
        loop {
            match pods.list(&ListParams::default()).await {
                Err(kube::Error::Api(status)) if status.is_forbidden() => tokio::time::sleep(ASK_EVERY).await,
                listed => return listed.map_err(reason).or_could_not("list pods"),
            }
        }
    };
    let listed = within(PATIENCE, format!("{IDENTITY} to be allowed to list pods"), listed).await?;
    println!("  list pods: allowed, {} found", listed.items.len());

    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let config_map = ConfigMap {
        metadata: ObjectMeta { name: Some("quickstart".to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    };
    // Rights are looked at before a dry run is, and nothing is left behind where they suffice.
    let create = PostParams { dry_run: true, ..PostParams::default() };
    let created = config_maps.create(&create, &config_map).await;
    println!("  create a ConfigMap: {}", answer(created.map(drop))?);

    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let delete = DeleteParams::default().dry_run();
    let deleted = secrets.delete("night-shift-token", &delete).await;
    println!("  delete a token's Secret: {}", answer(deleted.map(drop))?);
    Ok(())
}

/// What the API server said to a request that may well be refused.
fn answer(outcome: kube::Result<()>) -> Result<String, Error> {
    match outcome {
        Ok(()) => Ok("allowed".to_owned()),
        Err(kube::Error::Api(status)) => {
            Ok(format!("{} {}\n    {}", status.code, status.reason, status.message))
        }
        Err(error) => Err(error).or_could_not("ask the API server"),
    }
}

/// Waits, visibly, until the token has ended: its Secret is gone and its state says so.
async fn count_down(
    cluster: &Cluster,
    tokens: &Api<ApiToken>,
    secret: &str,
    end: Timestamp,
) -> Result<(), Error> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let left = SystemClock.now().duration_until(end);
    let patience = PATIENCE + Duration::try_from(left).unwrap_or_default();
    let ended = async {
        token_in_state(tokens, ONE_MINUTE, ApiTokenState::Expired, patience).await?;
        let gone = async {
            await_condition(secrets, secret, |found: Option<&Secret>| found.is_none())
                .await
                .or_could_not(format!("watch Secret {secret}"))
        };
        within(PATIENCE, format!("Secret {secret} to be gone"), gone).await
    };
    let terminal = std::io::stdout().is_terminal();
    tokio::select! {
        ended = ended => { ended?; }
        never = tick(end, terminal) => match never {},
    }
    let late = SystemClock.now().duration_since(end);
    if terminal {
        print!("\r\x1b[K");
    }
    println!("  {ONE_MINUTE} is Expired and its Secret gone, {:.1} s after its end", late.as_secs_f64());
    Ok(())
}

/// Says how long the token still lives: in place on a terminal, else by a line now and then.
async fn tick(end: Timestamp, terminal: bool) -> std::convert::Infallible {
    let mut said: Option<i64> = None;
    loop {
        let left = SystemClock.now().duration_until(end).max(SignedDuration::ZERO);
        // Rounded up, so that "0 s" is said of a token that has ended.
        let seconds = left.as_secs() + i64::from(left.subsec_nanos() > 0);
        let due = terminal
            || said.is_none_or(|last| seconds == 0 && last > 0 || last - seconds >= COUNTDOWN_LINE_EVERY);
        if due {
            let line = format!("  {ONE_MINUTE} ends in {seconds} s");
            if terminal {
                print!("\r{line}\x1b[K");
            } else {
                println!("{line}");
            }
            // A countdown that cannot be shown is no reason to stop.
            let _ = std::io::stdout().flush();
            said = Some(seconds);
        }
        // The number changes at the next whole second before the end.
        let rest = Duration::try_from(left).unwrap_or_default().subsec_nanos();
        let next = if rest == 0 { Duration::from_secs(1) } else { Duration::from_nanos(rest.into()) };
        tokio::time::sleep(next).await;
    }
}
