//! Metadata: memory of the controller and the verifier beside objects whose metadata is as large as etcd takes.

use std::{ops::Range, sync::LazyLock, time::Duration};

use credential_operator::{
    admission::{self, Account},
    domain::name,
};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use kube::{Api, api::DeleteParams};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    Arguments, load,
    measure::{Memory, float, memory},
    operator::Operator,
    table::Table,
    verifier::{Server, install},
    world::{DEADLINE, World, apply},
};

/// How many bytes of metadata an object has. etcd takes 1.5 MiB by default; the controller and the verifier take 1 MiB, and of larger objects
/// read only what ends access.
const SIZES: [usize; 2] = [1_000_000, 1_450_000];
/// How many bytes of annotations a Secret has. The API server takes 256 KiB.
const ANNOTATIONS: usize = 250_000;
/// The policy that bounds metadata.
const POLICY: &str = "metadata";
/// How many objects are written at a time.
const CLIENTS: usize = 2;
const CREDENTIALS: &str = "/apis/credential-operator.io/v1alpha1/namespaces/default/credentials";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
/// How long both are left alone before they are measured.
const QUIET: Duration = Duration::from_secs(12);

pub async fn run(world: &World, arguments: &Arguments) {
    let mut sizes = arguments.tokens_or(&[0, 100, 1_000]);
    sizes.sort_unstable();
    // A control plane each: what has such finalizers stays.
    let second = World::start().await;
    for (world, is_large) in [(world, false), (&second, true)] {
        install(world).await;
        // The verifier needs the keyring that a controller makes.
        drop(world.working_operator().await);
        let what = if is_large {
            let [valid, invalid] = SIZES;
            format!(
                "{valid} B or {invalid} B of metadata for each Credential, {ANNOTATIONS} B for each Secret"
            )
        } else {
            "small metadata".to_owned()
        };
        let title = format!("Memory beside N Credentials and N Secrets that are labelled as managed: {what}");
        let columns = [
            "N",
            "controller: peak, MiB",
            "settled, MiB",
            "peak, KiB for each",
            "verifier: peak, MiB",
            "settled, MiB",
            "peak, KiB for each",
        ];
        let mut table = Table::new(title, &columns);
        let (mut known, mut none) = (0, None);
        for size in &sizes {
            if *size > known {
                create(world, known..*size).await;
                if is_large {
                    fill(world, known..*size).await;
                }
                known = *size;
            }
            let found = measure(world, *size).await;
            let none = *none.get_or_insert(found);
            let cells = found.iter().zip(none).flat_map(|(found, none)| cells(*size, *found, none));
            table.row(size.to_string(), cells.collect::<Vec<_>>());
        }
        table.print();
    }
}

fn cells(size: usize, found: Memory, none: Memory) -> [String; 3] {
    let mebibytes = |kibibytes: f64| format!("{:.1}", kibibytes / 1024.0);
    let each = (found.peak - none.peak) / float(size);
    let each = if size == 0 { "-".to_owned() } else { format!("{each:.1}") };
    [mebibytes(found.peak), mebibytes(found.now), each]
}

/// Starts a verifier and a controller, waits until the controller has reconciled every Credential, and returns the memory of the
/// controller and of the verifier.
async fn measure(world: &World, credentials: usize) -> [Memory; 2] {
    let verifier = Server::verifier(world, 0, |mut command| command.spawn()).await;
    let operator = world.operator();
    until_reconciled(&operator, credentials).await;
    sleep(QUIET).await;
    [memory(operator.id()), memory(verifier.id())]
}

async fn until_reconciled(operator: &Operator, credentials: usize) {
    let deadline = Instant::now() + DEADLINE;
    while reconciled(operator).await.is_none_or(|count| count < credentials) {
        assert!(Instant::now() < deadline, "the controller has not reconciled all Credentials");
        sleep(Duration::from_millis(200)).await;
    }
}

/// How many reconciles of Credentials there were.
async fn reconciled(operator: &Operator) -> Option<usize> {
    let metrics = operator.ask("/metrics").await?;
    let counts = metrics.lines().filter_map(|line| {
        let rest =
            line.strip_prefix("credential_operator_controller_reconciles_total{kind=\"Credential\"")?;
        rest.rsplit_once(' ')?.1.parse::<usize>().ok()
    });
    Some(counts.sum())
}

/// Creates Credentials and Secrets of these numbers, and has a controller write the status of each Credential.
async fn create(world: &World, numbers: Range<usize>) {
    let one = |number| {
        let client = world.admin.clone();
        async move {
            let name = format!("m{number}");
            let credential = json!({
                "apiVersion": "credential-operator.io/v1alpha1", "kind": "Credential", "metadata": {"name": name},
                "spec": {"displayName": "Bench"},
            });
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": name, "labels": {name::MANAGED_BY_LABEL: name::MANAGED_BY}},
            });
            send(&client, "POST", CREDENTIALS, &credential).await;
            send(&client, "POST", SECRETS, &secret).await;
        }
    };
    let all = numbers.end;
    load::each(numbers, CLIENTS, one).await;
    let operator = world.operator();
    until_reconciled(&operator, all).await;
    sleep(QUIET).await;
}

/// Fills the metadata of objects, as it may be stored from before the policy that bounds metadata.
async fn fill(world: &World, numbers: Range<usize>) {
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.admin.clone());
    let all = admission::policies(&[Account::default()], name::KEYRING);
    let is_it =
        |name: &Option<String>| name.as_ref().is_some_and(|name| name.split('.').next() == Some(POLICY));
    let policy = all.into_iter().find(|policy| is_it(&policy.metadata.name)).unwrap();
    let binding = admission::binding(&policy);
    bindings.delete(binding.metadata.name.as_deref().unwrap(), &DeleteParams::default()).await.unwrap();
    let one = |number| {
        let client = world.admin.clone();
        async move {
            let (metadata, annotations) = large(number);
            let path = format!("{CREDENTIALS}/m{number}");
            let deadline = Instant::now() + DEADLINE;
            loop {
                let mut credential = send(&client, "GET", &path, &Value::Null).await;
                for (field, value) in metadata.as_object().unwrap() {
                    credential["metadata"][field] = value.clone();
                }
                match try_send(&client, "PUT", &path, &credential).await {
                    Ok(_) => break,
                    Err(error) => assert!(Instant::now() < deadline, "{path}: {error}"),
                }
            }
            let annotations = json!({"metadata": {"annotations": annotations}});
            send(&client, "PATCH", &format!("{SECRETS}/m{number}"), &annotations).await;
        }
    };
    load::each(numbers, CLIENTS, one).await;
    apply(&world.admin, json!(binding)).await;
}

/// Sends a request, again where it is refused: the API server takes a moment to see that the policy is not bound any more.
async fn send(client: &kube::Client, method: &str, path: &str, body: &Value) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match try_send(client, method, path, body).await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "{method} {path}: {error}"),
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn try_send(client: &kube::Client, method: &str, path: &str, body: &Value) -> kube::Result<Value> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let answer = client.request_text(request.body(body).unwrap()).await?;
    Ok(serde_json::from_str(&answer).unwrap())
}

/// Metadata of a Credential, most of it in another field with each number; and annotations of a Secret.
fn large(number: usize) -> (Value, Value) {
    let text = |size: usize, n: usize| random_text(number * 10_007 + n * 331, size);
    let bytes = SIZES[number / 4 % 2];
    let metadata = match number % 4 {
        0 => {
            let label = |n| (format!("a{n}{}.x/a{}", text(230, n), text(60, n)), json!(text(63, n)));
            json!({"labels": (0..bytes / 370).map(label).collect::<Map<_, _>>()})
        }
        1 => {
            let fields: Map<_, _> =
                (0..16).map(|n| (format!("f:{}", text(bytes / 16, n)), json!({}))).collect();
            json!({"managedFields": [{
                "manager": "x", "operation": "Update", "apiVersion": "credential-operator.io/v1alpha1",
                "time": "9999-12-31T23:59:59Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": fields},
            }]})
        }
        2 => {
            let finalizer = |n| json!(format!("a{n}{}.x/a{}", text(230, n), text(60, n)));
            json!({"finalizers": (0..bytes / 300).map(finalizer).collect::<Vec<_>>()})
        }
        _ => {
            // Garbage collection keeps an object that may have an owner of a kind that it does not know.
            let owner = |n| {
                json!({
                    "apiVersion": "example.com/v1", "kind": "Unknown", "name": text(bytes / 16 - 100, n),
                    "uid": format!("u{n}"), "controller": n == 15,
                })
            };
            json!({"ownerReferences": (0..16).map(owner).collect::<Vec<_>>()})
        }
    };
    let annotations = json!({
        name::ATTESTATION_ANNOTATION: text(64_000, 1),
        name::PUBLISHED_ANNOTATION: text(64_000, 2),
        name::MADE_FOR_ANNOTATION: text(64_000, 3),
        "example.com/note": text(ANNOTATIONS - 3 * 64_000, 4),
    });
    (metadata, annotations)
}

/// Text that hardly compresses, of that size, from somewhere in a pool of it.
fn random_text(from: usize, size: usize) -> String {
    static POOL: LazyLock<String> = LazyLock::new(|| {
        let mut random = StdRng::seed_from_u64(0);
        (0..1 << 20).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
    });
    let from = from % (POOL.len() - size);
    POOL[from..from + size].to_owned()
}
