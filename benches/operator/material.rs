//! Material: many credentials at once, of a type that is drawn in no time and of one whose hash takes its time on
//! purpose.

use std::time::Duration;

use credential_operator::{
    api::{Credential, CredentialStatus},
    domain::name,
};
use futures::StreamExt;
use futures::channel::mpsc;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Api, Client, Resource, ResourceExt, api::PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    Arguments,
    floor::Watches,
    load,
    measure::{Cpu, float, median, milliseconds, quantile},
    operator::{Operator, WORKERS},
    secrets::Secrets,
    table::{Table, compared},
    world::{DEADLINE, Space, World},
};

/// How many are created at a time.
const CREATORS: usize = 32;
/// The hash of so many is waited for.
const HASHED: usize = 100;
/// What the operator asks bcrypt for, as the line for htpasswd says.
const BCRYPT_COST: u32 = 10;

/// One burst.
struct Burst {
    per_second: f64,
    p50: f64,
    p99: f64,
    requests: f64,
}

pub async fn run(world: &World, arguments: &Arguments) {
    let floor = Floor::learn(world).await;
    for credentials in arguments.tokens_or(&[1_000]) {
        // The first writes of a control plane are slow.
        burst_of_floor(world, &floor, 200).await;
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for round in 0..arguments.rounds_or(2) {
            for first in [true, false] {
                if first == (round % 2 == 0) {
                    bare.push(burst_of_floor(world, &floor, credentials).await);
                } else {
                    ours.push(burst(world, credentials).await);
                }
            }
        }
        print(credentials, &ours, &bare);
    }
    hashed(world).await;
}

fn opaque(name: &str) -> Credential {
    credential(name, &json!({"type": "Opaque", "opaque": {"fields": [{"name": "api-key"}]}}))
}

fn credential(name: &str, spec: &serde_json::Value) -> Credential {
    serde_json::from_value(json!({
        "apiVersion": "credential-operator.io/v1alpha1",
        "kind": "Credential",
        "metadata": {"name": name},
        "spec": spec,
    }))
    .unwrap()
}

async fn burst(world: &World, credentials: usize) -> Burst {
    let operator = world.working_operator().await;
    let space = world.space("opaque").await;
    let burst = measured(&space, credentials, |_| {}).await;
    settled(&space, credentials).await;
    let requests = world.requests(&space.namespace, Timestamp::UNIX_EPOCH);
    let requests: usize = requests.into_iter().map(|(_, count)| count).sum();
    drop::<Operator>(operator);
    space.remove().await;
    Burst { requests: float(requests) / float(credentials), ..burst }
}

async fn burst_of_floor(world: &World, floor: &Floor, credentials: usize) -> Burst {
    let space = world.space("floor").await;
    let watches = Watches::open(world).await;
    let (queue, created) = mpsc::unbounded();
    let work = created.for_each_concurrent(WORKERS, {
        let (floor, space) = (floor.clone(), space.clone());
        move |credential| {
            let task = tokio::spawn(floor.clone().publish(space.clone(), credential));
            async move { task.await.unwrap() }
        }
    });
    let work = tokio::spawn(work);
    let burst =
        measured(&space, credentials, move |credential| queue.unbounded_send(credential).unwrap()).await;
    work.await.unwrap();
    drop(watches);
    space.remove().await;
    Burst { requests: 3.0, ..burst }
}

async fn measured(
    space: &Space,
    credentials: usize,
    created: impl Fn(Credential) + Send + Sync + 'static,
) -> Burst {
    let secrets = Secrets::watch(space).await;
    let created = std::sync::Arc::new(created);
    let started_at = Instant::now();
    let create = |number| {
        let credential = opaque(&load::name(number));
        let (api, created) = (space.api::<Credential>(), created.clone());
        async move {
            let sent_at = Instant::now();
            created(api.create(&PostParams::default(), &credential).await.unwrap());
            (name::material_secret(&load::name(number)), sent_at)
        }
    };
    let sent = load::each(0..credentials, CREATORS, create).await;
    // What stands for the end of the floor's queue.
    drop(created);
    let appeared = secrets.appeared(credentials).await;
    let last = appeared.values().max().copied().unwrap_or(started_at);
    let waits: Vec<_> = sent.iter().map(|(name, sent)| appeared[name].duration_since(*sent)).collect();
    Burst {
        per_second: float(credentials) / last.duration_since(started_at).as_secs_f64(),
        p50: milliseconds(quantile(&waits, 0.5)),
        p99: milliseconds(quantile(&waits, 0.99)),
        requests: f64::NAN,
    }
}

/// Waits until the status of every credential tells its Secret.
async fn settled(space: &Space, credentials: usize) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = space.api::<Credential>().list(&kube::api::ListParams::default()).await.unwrap();
        let told = found
            .items
            .iter()
            .filter(|found| found.status.as_ref().is_some_and(|status| status.secret.is_some()));
        let told = told.count();
        if told == credentials {
            return;
        }
        assert!(Instant::now() < deadline, "{told} of {credentials} credentials tell their Secret");
        sleep(Duration::from_millis(100)).await;
    }
}

fn print(credentials: usize, ours: &[Burst], bare: &[Burst]) {
    let title = format!(
        "Material: {credentials} Opaque credentials created {CREATORS} at a time; median of {} round(s)",
        ours.len().min(bare.len())
    );
    let mut table = Table::new(title, &["", "ours", "floor", "ratio"]);
    let mut row = |name: &str, of: fn(&Burst) -> f64, decimals| {
        let (ours, bare) = (median(ours.iter().map(of)), median(bare.iter().map(of)));
        table.row(name, compared(ours, bare, decimals));
    };
    row("credentials/s to the last Secret", |burst| burst.per_second, 0);
    row("create to Secret, p50, ms", |burst| burst.p50, 0);
    row("create to Secret, p99, ms", |burst| burst.p99, 0);
    row("requests for each credential", |burst| burst.requests, 3);
    table.print();
}

/// The CPU time of credentials whose password is hashed, beside the hashes alone.
async fn hashed(world: &World) {
    let operator = world.working_operator().await;
    let space = world.space("hashed").await;
    let secrets = Secrets::watch(&space).await;
    let processes = world.processes(Some(&operator));
    let before = processes.cpu();
    for number in 0..HASHED {
        let basic_auth = credential(&load::name(number), &json!({"type": "BasicAuth"}));
        space.api::<Credential>().create(&PostParams::default(), &basic_auth).await.unwrap();
    }
    secrets.appeared(HASHED).await;
    settled(&space, HASHED).await;
    let cpu = processes.cpu() - before;
    let published = space.api::<Secret>().get(&name::material_secret(&load::name(0))).await.unwrap();
    let line = String::from_utf8(published.data.unwrap()["auth"].0.clone()).unwrap();
    assert!(line.contains(&format!("$2y${BCRYPT_COST}$")), "the hashes are not alike");
    drop(operator);
    space.remove().await;

    let before = processes.cpu();
    for _ in 0..HASHED {
        std::hint::black_box(bcrypt::hash("correct horse battery staple", BCRYPT_COST).unwrap());
    }
    let alone: Cpu = processes.cpu() - before;
    let title = format!("Material: {HASHED} BasicAuth credentials, whose password is hashed");
    let mut table = Table::new(title, &["", "ours", "bcrypt alone", "ratio"]);
    table.row("CPU, s", compared(cpu.operator, alone.bench, 2));
    table.print();
}

/// The writes that a credential with material cannot do without: its identity, its Secret, its status.
#[derive(Clone)]
struct Floor {
    client: Client,
    account: ServiceAccount,
    secret: Secret,
    status: CredentialStatus,
}

impl Floor {
    /// Has the operator publish one, and keeps what it wrote.
    async fn learn(world: &World) -> Self {
        let operator = world.working_operator().await;
        let space = world.space("learn").await;
        let learnt = load::name(0);
        space.api::<Credential>().create(&PostParams::default(), &opaque(&learnt)).await.unwrap();
        settled(&space, 1).await;
        let status = space.api::<Credential>().get(&learnt).await.unwrap().status.unwrap();
        let account = space.api::<ServiceAccount>().get(&name::service_account(&learnt)).await.unwrap();
        let secret = space.api::<Secret>().get(&name::material_secret(&learnt)).await.unwrap();
        drop(operator);
        space.remove().await;
        Self { client: world.floor.clone(), account, secret, status }
    }

    async fn publish(self, space: Space, credential: Credential) {
        let name = credential.name_any();
        let account = adopted(self.account, name::service_account(&name), &credential);
        let account = create(&space.api_of(&self.client), account).await;
        let secret = adopted(self.secret, name::material_secret(&name), &credential);
        let secret = create(&space.api_of(&self.client), secret).await;
        let mut status = self.status;
        for (recorded, uid) in
            [(&mut status.service_account, account.uid()), (&mut status.secret, secret.uid())]
        {
            if let Some(recorded) = recorded {
                recorded.name = name::material_secret(&name);
                recorded.uid = uid.unwrap();
            }
        }
        let credential = Credential { status: Some(status), ..credential };
        let api: Api<Credential> = space.api_of(&self.client);
        api.replace_status(&name, &PostParams::default(), &credential).await.unwrap();
    }
}

async fn create<K>(api: &Api<K>, object: K) -> K
where
    K: Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let params = PostParams { field_manager: Some("floor".to_owned()), ..PostParams::default() };
    api.create(&params, &object).await.unwrap()
}

/// The same object, of another credential.
fn adopted<K: Resource>(mut object: K, name: String, credential: &Credential) -> K {
    let metadata = object.meta_mut();
    metadata.name = Some(name);
    metadata.namespace = credential.namespace();
    metadata.uid = None;
    metadata.resource_version = None;
    metadata.creation_timestamp = None;
    metadata.managed_fields = None;
    for owner in metadata.owner_references.iter_mut().flatten() {
        owner.name = credential.name_any();
        owner.uid = credential.uid().unwrap();
    }
    object
}
