//! From the version before to this one and back, while somebody presents a token.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use credential_operator::api::{ApiToken, Credential};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::{
    core::v1::{Secret, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
    runtime::watcher,
};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    CHART, DEADLINE, HOME, SHOP, WAIT,
    world::{Asker, World},
};

/// What the version before shipped: its charts, and its source as `cargo package` made it.
const PREVIOUS: &str = "tests/charts/previous";
const VERSION: &str = "0.2.0";
/// How often each verifier is asked.
const PAUSE: Duration = Duration::from_millis(10);
/// How often it is found out which there are.
const ASKED_AT_A_TIME: usize = 5;
/// For how long no watch may show a change: the controller counts the tokens of a credential after ten seconds at most.
const CALM: Duration = Duration::from_secs(11);

/// Where tests/external/install puts the operator of the version before.
fn previous_operator() -> PathBuf {
    let program = format!("target/external/credential-operator-{VERSION}");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
    assert!(program.is_file(), "{} is not there; see tests/external/install", program.display());
    program
}

fn archive(chart: &str) -> String {
    format!("{PREVIOUS}/{chart}-{VERSION}.tgz")
}

/// Somebody who presents a token to each verifier that a Service would send him to, again and again.
struct Load {
    stop: Arc<AtomicBool>,
    asks: JoinHandle<(usize, Vec<String>)>,
}

impl Load {
    fn start(world: &World, token: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (asker, token, stopped) = (world.asker(), token.to_owned(), stop.clone());
        let asks = thread::spawn(move || {
            let (mut accepted, mut otherwise) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                let addresses = ready(&asker);
                for address in addresses.iter().cycle().take(addresses.len() * ASKED_AT_A_TIME) {
                    match asker.ask(address, &token, "/forward-auth").as_str() {
                        "200" => accepted += 1,
                        said => otherwise.push(said.to_owned()),
                    }
                    thread::sleep(PAUSE);
                }
            }
            (accepted, otherwise)
        });
        Self { stop, asks }
    }

    /// How often the token was accepted; never was it anything else.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let (accepted, otherwise) = self.asks.join().unwrap();
        assert!(otherwise.is_empty(), "accepted {accepted} times, but: {otherwise:?}");
        accepted
    }
}

/// Where the verifier's Service would send somebody. There are no `EndpointSlice`s of it: their addresses may not be of the
/// loopback network, as those of our pods are.
fn ready(asker: &Asker) -> Vec<String> {
    let component = "app.kubernetes.io/component=verifier";
    let pods = asker.kubectl(&["get", "pods", "-n", HOME, "-l", component, "-o", "json"]);
    let pods: Value = serde_json::from_str(&pods).unwrap();
    let is_ready = |pod: &&Value| {
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        pod["metadata"]["deletionTimestamp"].is_null()
            && conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    let ready = pods["items"].as_array().unwrap().iter().filter(is_ready);
    ready.map(|pod| pod["status"]["podIP"].as_str().unwrap().to_owned()).collect()
}

/// Whether the exception of the admission policies names group and resource: those of the version before did not.
fn are_of_this_version(world: &World) -> bool {
    let policy = "validatingadmissionpolicy/status.credential-operator.io";
    let exception = "jsonpath={.spec.matchConditions[0].expression}";
    world.kubectl(&["get", policy, "-o", exception]).contains("request.resource.group")
}

/// Tokens of each kind: one that is kept, one that will be revoked, and one that is over already.
fn create_tokens(world: &World, round: &str) {
    let token = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: credential-operator.io/v1alpha1\nkind: ApiToken\nmetadata: {{name: {name}-{round}, namespace: shop}}\n\
             spec: {{credentialRef: {{name: shop}}, {spec}}}\n"
        )
    };
    world.apply(
        &(token("kept", "expiresIn: 1h")
            + &token("revoked", "expiresIn: 1h")
            + &token("ended", "expiresAt: '2026-01-01T00:00:00Z'")),
    );
}

fn revoke(world: &World, round: &str) {
    let name = format!("revoked-{round}");
    let revoked = r#"{"spec":{"revoked":true}}"#;
    world.kubectl(&["patch", "apitoken", &name, "-n", "shop", "--type=merge", "-p", revoked]);
}

fn of_token(world: &World, name: &str, round: &str, path: &str) -> String {
    let path = format!("jsonpath={{{path}}}");
    world.kubectl(&["get", "apitoken", &format!("{name}-{round}"), "-n", "shop", "-o", &path])
}

/// What operators do with tokens of each kind, whichever version they are.
async fn tokens_live_and_end(world: &World, round: &str) {
    create_tokens(world, round);
    tokens_are_issued_and_end(world, round).await;
}

async fn tokens_are_issued_and_end(world: &World, round: &str) {
    let state = |name| of_token(world, name, round, ".status.state");
    world.until("a token", || state("kept") == "Active" && state("revoked") == "Active").await;
    revoke(world, round);
    world.until("an end", || state("revoked") == "Revoked" && state("ended") == "Expired").await;
    let secret = format!("revoked-{round}-token");
    world.until("its Secret", || !world.names("secrets", "shop").contains(&secret)).await;
}

/// What operators do whose admission policies are those of another version: nothing new is issued until they agree again, and
/// what there is can be revoked. `issued` is a round from before.
async fn tokens_wait(world: &World, round: &str, issued: &str) {
    create_tokens(world, round);
    let reason = ".status.conditions[?(@.type==\"Ready\")].reason";
    let waits = |name| of_token(world, name, round, reason) == "AdmissionMissing";
    world.until("AdmissionMissing", || waits("kept") && waits("revoked")).await;
    assert!(!world.names("secrets", "shop").contains(&format!("kept-{round}-token")));
    assert_eq!(of_token(world, "kept", issued, ".status.state"), "Active");
}

/// Every change of what is the operator's in the shop, from now on.
fn changes(world: &World) -> impl Stream<Item = String> {
    let client = world.control_plane.admin().client().unwrap();
    let kinds = [
        ApiResource::erase::<Credential>(&()),
        ApiResource::erase::<ApiToken>(&()),
        ApiResource::erase::<Secret>(&()),
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<RoleBinding>(&()),
    ];
    let watches = kinds.map(|kind| {
        let objects = Api::<DynamicObject>::namespaced_with(client.clone(), "shop", &kind);
        let changed =
                watcher(objects, watcher::Config::default()).filter_map(move |event| {
                    let changed = match event.unwrap() {
                        watcher::Event::Apply(object) | watcher::Event::Delete(object) => Some(object),
                        watcher::Event::Init | watcher::Event::InitApply(_) | watcher::Event::InitDone => {
                            None
                        }
                    };
                    let kind = kind.kind.clone();
                    async move {
                        changed.map(|object| format!("{kind} {}", object.metadata.name.unwrap_or_default()))
                    }
                });
        changed.boxed()
    });
    stream::select_all(watches)
}

/// Nothing is written any more, and what is over has stayed so.
async fn calm(world: &World, rounds: &[&str]) {
    let mut changes = changes(world);
    let mut last = None;
    let until_calm = async {
        while let Ok(changed) = timeout(CALM, changes.next()).await {
            last = changed;
        }
    };
    let calm = timeout(DEADLINE, until_calm).await;
    assert!(calm.is_ok(), "objects are written again and again, the last time {last:?}");
    let secrets = world.names("secrets", "shop");
    for round in rounds {
        for (name, state, has_secret) in
            [("kept", "Active", true), ("revoked", "Revoked", false), ("ended", "Expired", false)]
        {
            let path = [
                "get",
                "apitoken",
                &format!("{name}-{round}"),
                "-n",
                "shop",
                "-o",
                "jsonpath={.status.state}/{.status.serial}",
            ];
            let told = world.kubectl(&path);
            assert_eq!(told.split('/').next(), Some(state), "{name}-{round}");
            assert!(!has_secret || told.ends_with("/0"), "{name}-{round}: {told}");
            assert_eq!(secrets.contains(&format!("{name}-{round}-token")), has_secret, "{name}-{round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn between_versions_no_valid_token_is_refused_and_nothing_is_revived() {
    let world = World::start_with([(format!("credential-operator:{VERSION}"), previous_operator())]).await;
    world.crds_of(&archive("credential-operator-crds"));
    assert!(!are_of_this_version(&world));
    world.install_chart(&archive("credential-operator"), HOME, &[]).await;
    world.apply(SHOP);
    world.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "-n", "shop", "apitoken/shop"]);
    let token = world.of_secret("shop", "shop-token", "token");
    world.accepted(&token, 2).await;
    tokens_live_and_end(&world, "before").await;
    let value = world.of_secret("shop", "kept-before-token", "token");
    let load = Load::start(&world, &token);

    println!("the operator before, with the definitions of this version");
    world.crds();
    assert!(are_of_this_version(&world));
    tokens_wait(&world, "ahead", "before").await;
    calm(&world, &["before"]).await;

    println!("this version");
    world.helm(HOME, &[&["upgrade", "credential-operator", CHART], &WAIT[..]].concat()).unwrap();
    tokens_are_issued_and_end(&world, "ahead").await;
    tokens_live_and_end(&world, "now").await;
    calm(&world, &["before", "ahead", "now"]).await;

    println!("the operator of this version, with the definitions before");
    world.helm(HOME, &[&["rollback", "credential-operator-crds", "1"], &WAIT[..]].concat()).unwrap();
    assert!(!are_of_this_version(&world));
    tokens_wait(&world, "behind", "now").await;
    calm(&world, &["before", "ahead", "now"]).await;

    println!("back");
    world.helm(HOME, &[&["rollback", "credential-operator", "1"], &WAIT[..]].concat()).unwrap();
    tokens_are_issued_and_end(&world, "behind").await;
    tokens_live_and_end(&world, "back").await;
    calm(&world, &["before", "ahead", "now", "behind", "back"]).await;
    let accepted = load.end();
    println!("accepted {accepted} times meanwhile, and never refused");
    assert!(accepted > 1_000, "{accepted}");
    assert_eq!(world.of_secret("shop", "shop-token", "token"), token);
    assert_eq!(world.of_secret("shop", "kept-before-token", "token"), value);
    world.accepted(&value, 2).await;
}
