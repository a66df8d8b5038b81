//! What a CredentialPolicy allows is judged twice, by expressions and by the controller: both say the same.

use std::sync::Arc;

use control_plane::Namespaced;
use credential_operator::{
    api::{ApiToken, Credential, CredentialPolicy},
    domain::clock::Clock,
    domain::policy::{Asked, Labels, Policies, Severity, gravest},
};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Admission, clean_up};
use crate::support::{DEADLINE, Space, SystemClock, World};

crate::tests![expressions_say_what_the_controller_says];

const POLICIES: usize = 24;
const OBJECTS_EACH: usize = 24;

fn texts(random: &mut StdRng, of: &[&str], most: usize) -> Vec<String> {
    let count = random.random_range(0..=most);
    let mut chosen: Vec<_> = (0..count).map(|_| (*of.choose(random).unwrap()).to_owned()).collect();
    chosen.sort();
    chosen.dedup();
    chosen
}

fn pick<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    *of.choose(random).unwrap()
}

fn now() -> Timestamp {
    SystemClock::shared().now()
}

/// Puts something in, more often than not.
fn maybe(random: &mut StdRng, object: &mut Value, field: &str, value: impl FnOnce(&mut StdRng) -> Value) {
    if random.random_ratio(2, 3) {
        object[field] = value(random);
    }
}

fn policy(random: &mut StdRng, namespace: &str) -> Value {
    let mut spec = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        // Never Totp, by which it is seen that the policy is known.
        "types": texts(random, &["Token", "Token", "ClientSecret", "ClientSecret", "BasicAuth"], 5),
    });
    let roles: Vec<_> = (0..random.random_range(0..4))
        .map(|_| {
            let kind = pick(random, &["Role", "ClusterRole", "ClusterRole"]);
            let mut role = json!({"kind": kind, "name": pick(random, &["view", "vi*", "*", "view*"])});
            maybe(random, &mut role, "namespaces", |random| json!(texts(random, &["a", "b", "*"], 2)));
            if kind == "ClusterRole" {
                role["clusterWide"] = json!(random.random_bool(0.5));
            }
            role
        })
        .collect();
    maybe(random, &mut spec, "roles", |_| json!(roles));
    let scopes = texts(random, &["orders:*", "orders:read", "*", "stock", "orders"], 4);
    maybe(random, &mut spec, "scopes", |_| json!(scopes));
    let audiences = texts(random, &["credential-operator", "cred*", "orders", "*"], 3);
    maybe(random, &mut spec, "audiences", |_| json!(audiences));
    let mut tokens = json!({});
    let life = pick(random, &["30m", "1h", "90m", "1d", "1w", "30d", "1y"]);
    maybe(random, &mut tokens, "maxLifetime", |_| json!(life));
    let lives = texts(random, &["60m", "1h", "24h", "7d", "1w", "1y"], 4);
    maybe(random, &mut tokens, "lifetimes", |_| json!(lives));
    maybe(random, &mut tokens, "types", |random| {
        json!(texts(random, &["Opaque", "Opaque", "ServiceAccount"], 2))
    });
    maybe(random, &mut tokens, "deliveries", |random| json!(texts(random, &["Secret", "Secret", "Once"], 2)));
    maybe(random, &mut spec, "tokens", |_| tokens);
    spec
}

fn credential(random: &mut StdRng, namespace: &str) -> Value {
    let of_type = pick(random, &["Token", "Token", "ClientSecret", "ClientSecret", "BasicAuth"]);
    let mut spec = json!({"type": of_type});
    let mut roles: Vec<Value> = Vec::new();
    for _ in 0..random.random_range(0..3) {
        let kind = pick(random, &["Role", "ClusterRole", "ClusterRole"]);
        let mut role = json!({"kind": kind, "name": pick(random, &["view", "edit", "viewer"])});
        match random.random_range(0..4) {
            0 => role["namespace"] = json!(pick(random, &["a", "b", namespace])),
            1 if kind == "ClusterRole" => role["clusterWide"] = json!(true),
            _ => {}
        }
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    maybe(random, &mut spec, "roles", |_| json!(roles));
    maybe(random, &mut spec, "scopes", |random| {
        json!(texts(random, &["orders:read", "orders:write", "stock", "orders"], 3))
    });
    maybe(random, &mut spec, "audiences", |random| {
        json!(texts(random, &["credential-operator", "orders", "stock"], 2))
    });
    if of_type == "ClientSecret" {
        let mut rotation = json!({});
        maybe(random, &mut rotation, "every", |random| json!(pick(random, &["1h", "1d", "29d", "1y"])));
        if rotation["every"].is_string() && random.random_bool(0.5) {
            rotation["overlap"] = json!(pick(random, &["10m", "1h"]));
        }
        maybe(random, &mut spec, "rotation", |_| rotation);
    }
    if random.random_ratio(1, 3) {
        spec["expiresAt"] = json!(soon(random));
    }
    json!({"metadata": {"name": "drawn"}, "spec": spec})
}

/// Some time that is no length of life of [`policy`].
fn soon(random: &mut StdRng) -> String {
    let minutes = pick(random, &[20, 45, 75, 600, 5_000, 20_000, 300_000, 2_000_000]);
    let at = now() + jiff::SignedDuration::from_mins(minutes);
    at.to_string()
}

fn token(random: &mut StdRng) -> Value {
    let mut spec = json!({"credentialRef": {"name": "c"}});
    if random.random_bool(0.5) {
        spec["expiresIn"] = json!(pick(random, &["30m", "1h", "60m", "1d", "7d", "8d", "1y", "2y"]));
    } else {
        spec["expiresAt"] = json!(soon(random));
    }
    if random.random_ratio(1, 4) {
        spec["type"] = json!("ServiceAccount");
    }
    if spec["type"].is_null() && random.random_ratio(1, 3) {
        spec["delivery"] = json!({"mode": pick(random, &["Secret", "Once"])});
    }
    json!({"metadata": {"name": "drawn"}, "spec": spec})
}

/// What the API server says of it, if it refuses it.
async fn refusal<K>(space: &Space, object: &Value) -> Option<String>
where
    K: Namespaced,
{
    let mut object = object.clone();
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    match space.api::<K>().create(&dry_run, &serde_json::from_value(object.clone()).unwrap()).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => {
            let said = status.message.split_once("denied request: ");
            Some(said.unwrap_or_else(|| panic!("{object}: {}", status.message)).1.to_owned())
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether both say the same, up to what comes of it and what there is to do.
fn same(expected: Option<&str>, said: Option<&str>) -> bool {
    let what = |message: Option<&str>| {
        let what = message.map(|message| message.split(';').next().unwrap_or_default());
        what.map(|what| what.trim_end_matches(", so none is issued").to_owned())
    };
    what(expected) == what(said)
}

async fn one(world: &World, seed: u64) -> (Space, usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let space = world.space(&format!("drawn-{seed}")).await;
    let spec = policy(&mut random, &space.namespace);
    let policies: Api<CredentialPolicy> = Api::all(space.client.clone());
    let object = json!({
        "apiVersion": "credential-operator.io/v1alpha1",
        "kind": "CredentialPolicy",
        "metadata": {"name": space.namespace},
        "spec": spec,
    });
    let params = PatchParams::apply("tests").force();
    let policy = policies.patch(&space.namespace, &params, &Patch::Apply(&object)).await.unwrap();
    let labels: Labels = [("kubernetes.io/metadata.name".to_owned(), space.namespace.clone())].into();
    let policies = Policies::new(vec![policy], Vec::new());
    let rules = policies.within(Some(&labels));

    let deadline = Instant::now() + DEADLINE;
    let probe = json!({"metadata": {"name": "probe"}, "spec": {"type": "Totp"}});
    while refusal::<Credential>(&space, &probe).await.is_none() {
        assert!(Instant::now() < deadline, "the policy is not known");
    }
    let mut refused = 0;
    for _ in 0..OBJECTS_EACH {
        let drawn = credential(&mut random, &space.namespace);
        let read: Credential = serde_json::from_value(whole("Credential", &drawn)).unwrap();
        let asked = Asked { spec: &read.spec, namespace: &space.namespace, behind: 0 };
        let breach = gravest(rules.credential(&asked, now()));
        assert!(
            breach
                .as_ref()
                .is_none_or(|breach| [Severity::Refused, Severity::Terms].contains(&breach.severity))
        );
        let expected = breach.map(|breach| breach.message);
        let said = refusal::<Credential>(&space, &drawn).await;
        assert!(same(expected.as_deref(), said.as_deref()), "{spec}: {drawn}: {expected:?}, but {said:?}");
        refused += usize::from(said.is_some());

        let drawn = token(&mut random);
        let read: ApiToken = serde_json::from_value(whole("ApiToken", &drawn)).unwrap();
        let now: Timestamp = now();
        let expected = gravest(rules.token(&read.spec, now, 0)).map(|breach| breach.message);
        let said = refusal::<ApiToken>(&space, &drawn).await;
        assert!(same(expected.as_deref(), said.as_deref()), "{spec}: {drawn}: {expected:?}, but {said:?}");
        refused += usize::from(said.is_some());
    }
    (space, refused)
}

fn whole(kind: &str, drawn: &Value) -> Value {
    let mut object = drawn.clone();
    object["apiVersion"] = json!("credential-operator.io/v1alpha1");
    object["kind"] = json!(kind);
    object
}

async fn expressions_say_what_the_controller_says(world: Arc<World>, _: Space) {
    let admission = Admission::start(&world).await;
    let drawn: Vec<_> =
        stream::iter(0..POLICIES as u64).map(|seed| one(&world, seed)).buffer_unordered(4).collect().await;
    admission.stop().await;
    let refused: usize = drawn.iter().map(|(_, refused)| refused).sum();
    let all = POLICIES * OBJECTS_EACH * 2;
    assert!(
        refused > all / 5 && refused < all * 4 / 5,
        "{refused} of {all} were refused, which tells little"
    );
    for (space, _) in drawn {
        clean_up(&space).await;
    }
}
