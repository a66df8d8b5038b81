//! Visible: how long after a change the verifier answers by it, while others ask it 10,000 times a second.

use std::{sync::Arc, time::Duration};

use credential_operator::api::{ApiToken, Credential};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Resource,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{
    Server,
    cores::Cores,
    install, speed,
    values::{self, Values},
    wire::{Connection, Load},
};
use crate::{
    Arguments, load,
    measure::{float, milliseconds, quantile},
    table::Table,
    world::{DEADLINE, Space, World},
};

const PER_SECOND: u32 = 10_000;
const CONNECTIONS: usize = 16;
/// The tokens that others ask for.
const OTHERS: usize = 1_000;

/// How long a change took.
struct Took {
    /// Since the request for it was sent.
    sent: Duration,
    /// Since the API server had answered that it is committed; nothing where the verifier was faster than that.
    committed: Duration,
}

pub async fn run(world: &World, arguments: &Arguments) {
    install(world).await;
    let (values, space) = (Values::learn(world).await, world.space("visible").await);
    let changes = arguments.tokens_or(&[500])[0];
    // One token more, whose credential is turned off and on.
    let (revoked, switched) = (OTHERS..OTHERS + changes, OTHERS + changes);
    values.issue(&space, 0..switched + 1).await;
    let cores = Cores::divide(&world.process_ids());
    let verifier = Server::verifier(world, switched + 1, |command| cores.spawn(command)).await;
    let requests = speed::forward_auth(switched + 1);
    let others = Arc::new(requests[..OTHERS].to_vec());
    let load = Load { address: verifier.address, requests: others, connections: CONNECTIONS };
    let (going, started_at) = (Arc::new(()), Instant::now());
    let load = tokio::spawn({
        let going = Arc::downgrade(&going);
        async move { load.pace(PER_SECOND, going).await }
    });

    let mut connection = Connection::open(verifier.address).await.unwrap();
    let (mut refused, mut off, mut on) = (Vec::new(), Vec::new(), Vec::new());
    for number in revoked {
        assert_eq!(connection.status(&requests[number]).await, 200);
        let revoke = change::<ApiToken>(&space, load::name(number), json!({"revoked": true}));
        refused.push(Took::until(&mut connection, &requests[number], 401, revoke).await);
    }
    let credential = values::token(switched).spec.credential_ref.name;
    for _ in 0..changes / 2 {
        for (state, status, took) in [("Inactive", 401, &mut off), ("Active", 200, &mut on)] {
            let turn = change::<Credential>(&space, credential.clone(), json!({"state": state}));
            took.push(Took::until(&mut connection, &requests[switched], status, turn).await);
        }
    }
    drop(going);
    let asked = load.await.unwrap();
    let per_second = float(asked.len()) / started_at.elapsed().as_secs_f64();
    print(
        per_second,
        &asked,
        [("ApiToken revoked", refused), ("credential inactive", off), ("credential active again", on)],
    );
}

async fn change<K>(space: &Space, name: String, spec: Value)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let patch = Patch::Merge(json!({"spec": spec}));
    space.api::<K>().patch(&name, &PatchParams::default(), &patch).await.unwrap();
}

impl Took {
    /// Makes a change and asks again and again meanwhile, until the answer has that status.
    async fn until(
        connection: &mut Connection,
        request: &[u8],
        status: u16,
        change: impl Future<Output = ()>,
    ) -> Self {
        let sent_at = Instant::now();
        let changed = async {
            change.await;
            Instant::now()
        };
        let seen = async {
            while connection.status(request).await != status {}
            Instant::now()
        };
        let (committed_at, seen_at) = timeout(DEADLINE, async { tokio::join!(changed, seen) }).await.unwrap();
        Self {
            sent: seen_at.duration_since(sent_at),
            committed: seen_at.saturating_duration_since(committed_at),
        }
    }
}

fn print(per_second: f64, asked: &[Duration], changes: [(&str, Vec<Took>); 3]) {
    let mut table = Table::new(
        format!(
            "Visible: until the verifier answers by a change, in ms, while it answers {per_second:.0} requests/s, p99 {:.2} ms",
            milliseconds(quantile(asked, 0.99))
        ),
        &["", "changes", "since sent: p50", "p99", "longest", "since committed: p50", "p99", "longest"],
    );
    for (name, took) in changes {
        let sent: Vec<_> = took.iter().map(|took| took.sent).collect();
        let committed: Vec<_> = took.iter().map(|took| took.committed).collect();
        let cells = [sent, committed].into_iter().flat_map(|took| {
            [0.5, 0.99, 1.0].map(|of_all| format!("{:.1}", milliseconds(quantile(&took, of_all))))
        });
        table.row(name, std::iter::once(took.len().to_string()).chain(cells));
    }
    table.print();
}
