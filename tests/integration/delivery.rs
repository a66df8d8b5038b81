//! Delivered once, and sealed: what stays readable for whom.

pub mod material;

use std::{collections::HashSet, fs, io::Read, iter, path::Path, sync::Arc};

use age::{Decryptor, Identity, ssh, x25519};
use credential_operator::{
    api::{ApiToken, ApiTokenState, ApiTokenStatus},
    domain::token::Token,
};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

use crate::{
    canary::{WINDOW, windows},
    support::{Operator, Space, SystemClock, World, condition, credential, token},
    verifier::Asked,
};

crate::tests![
    what_is_delivered_once_is_gone_with_its_window_and_lives_on,
    an_acknowledgement_or_a_deletion_is_delivery,
    each_value_of_a_renewing_token_is_delivered_once,
    a_crash_after_the_secret_prolongs_no_window,
    what_is_sealed_is_nowhere_in_the_clear_and_opens_with_a_key,
    other_recipients_get_another_value,
    the_first_ciphertext_is_the_one_that_counts,
];

/// An operator and a verifier by one clock.
struct Stage {
    world: Arc<World>,
    space: Space,
    clock: Arc<SystemClock>,
    operator: Option<Operator>,
    verifier: Asked,
}

impl Stage {
    async fn start(world: Arc<World>, space: Space) -> Self {
        let clock = SystemClock::shared();
        let operator = Some(world.operator(clock.clone()).await);
        let verifier = Asked::timed(&world, clock.clone()).await;
        space.apply(&credential("c")).await;
        Self { world, space, clock, operator, verifier }
    }

    async fn issue(&self, spec: &str) -> ApiTokenStatus {
        self.space.apply(&token("t", spec)).await;
        self.space.token("t", ApiTokenState::Active).await.status.unwrap()
    }

    /// Issues a token that is delivered once, and reads it.
    async fn once(&self, window: &str) -> (ApiTokenStatus, String) {
        let spec = format!("expiresIn: 30d, delivery: {{mode: Once, window: {window}}}");
        let issued = self.issue(&spec).await;
        let value = self.space.value("t-token").await;
        self.verifier.until("", &value, 200).await;
        (issued, value)
    }

    fn step(&self, minutes: i64) {
        self.clock.step(SignedDuration::from_mins(minutes));
    }

    async fn stop_operator(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.stop().await;
        }
    }

    async fn restart_operator(&mut self) {
        self.stop_operator().await;
        self.operator = Some(self.world.operator(self.clock.clone()).await);
    }

    async fn status(&self, expected: impl Fn(&ApiTokenStatus) -> bool) -> ApiToken {
        let there = self.space.until::<ApiToken>("t", |token| {
            token.and_then(|token| token.status.as_ref()).is_some_and(&expected)
        });
        there.await.unwrap()
    }

    /// Waits until the value is delivered and its Secret gone.
    async fn delivered(&self) -> ApiToken {
        self.space.until::<Secret>("t-token", |secret| secret.is_none()).await;
        self.status(|status| status.delivered_at.is_some() && status.secret.is_none()).await
    }

    /// Has the operator look at the token, and finds that it made nothing.
    async fn makes_nothing(&self, why: &str) {
        let mark = json!({"spec": {"description": why}});
        let asked = self.space.patch::<ApiToken>("t", mark).await.unwrap().metadata.generation;
        self.status(|status| status.observed_generation == asked).await;
        assert!(self.secrets().await.is_empty(), "{why}: a Secret was made");
    }

    /// The Secrets of the token.
    async fn secrets(&self) -> Vec<Secret> {
        let all = self.space.api::<Secret>().list(&ListParams::default()).await.unwrap().items;
        all.into_iter().filter(|secret| secret.type_.as_deref() == Some("Opaque")).collect()
    }

    async fn end(mut self) {
        self.stop_operator().await;
        self.verifier.stop().await;
    }
}

async fn what_is_delivered_once_is_gone_with_its_window_and_lives_on(world: Arc<World>, space: Space) {
    let mut stage = Stage::start(world, space).await;
    let (issued, value) = stage.once("1h").await;
    let secret: Secret = stage.space.api().get("t-token").await.unwrap();
    assert_eq!(secret.immutable, Some(true));
    let issued_at = issued.issued_at.unwrap().timestamp().unwrap();
    stage.step(58);
    stage.space.patch::<ApiToken>("t", json!({"spec": {"description": "still open"}})).await.unwrap();
    stage.space.token("t", ApiTokenState::Active).await;
    assert_eq!(stage.space.value("t-token").await, value, "two minutes before its end");
    stage.step(2);
    let delivered = stage.delivered().await;
    let status = delivered.status.clone().unwrap();
    let delivered_at = status.delivered_at.unwrap().timestamp().unwrap();
    // The clock goes on between its steps, and while the status is written.
    let closed_at = issued_at + SignedDuration::from_hours(1);
    let in_time = closed_at..closed_at + SignedDuration::from_mins(1);
    assert!(in_time.contains(&delivered_at), "delivered at {delivered_at}, closed at {closed_at}");
    assert_eq!(
        (status.digest, status.token_id, status.serial),
        (issued.digest, issued.token_id, issued.serial)
    );
    assert_eq!(condition(&delivered, "Ready").1, "Delivered");
    assert!(condition(&delivered, "Usable").0);
    stage.verifier.until("", &value, 200).await;

    stage.makes_nothing("left alone").await;
    stage.step(-90);
    stage.makes_nothing("the clock set back to before the issue").await;
    stage.restart_operator().await;
    stage.makes_nothing("started again").await;
    stage.step(90);
    let longer = json!({"spec": {"delivery": {"window": "20d"}}});
    stage.space.patch::<ApiToken>("t", longer).await.unwrap();
    stage.makes_nothing("its window made longer").await;
    // After such steps it knows nothing for certain until it has asked.
    stage.verifier.until("", &value, 200).await;
    stage.step(30 * 24 * 60);
    stage.space.token("t", ApiTokenState::Expired).await;
    stage.verifier.until("", &value, 401).await;
    stage.end().await;
}

async fn an_acknowledgement_or_a_deletion_is_delivery(world: Arc<World>, space: Space) {
    let mut stage = Stage::start(world, space).await;
    let (issued, value) = stage.once("1d").await;
    let acknowledge = async |id: &str| {
        let annotations = json!({"credential-operator.io/acknowledged": id});
        let patch = json!({"metadata": {"annotations": annotations}});
        stage.space.patch::<ApiToken>("t", patch).await.unwrap();
    };
    acknowledge("aaaaaaaaaaaa").await;
    acknowledge("").await;
    stage.space.patch::<ApiToken>("t", json!({"spec": {"description": "of another"}})).await.unwrap();
    let status = stage.space.token("t", ApiTokenState::Active).await.status.unwrap();
    assert_eq!((status.delivered_at, stage.space.value("t-token").await), (None, value.clone()));
    acknowledge(&issued.token_id.unwrap()).await;
    stage.delivered().await;
    stage.makes_nothing("acknowledged").await;
    assert_eq!(stage.verifier.bearer("", &value).await, 200);

    // Deleted by a user, with the operator there or away.
    for away in [false, true] {
        stage.space.api::<ApiToken>().delete("t", &DeleteParams::default()).await.unwrap();
        stage.space.until::<ApiToken>("t", |token| token.is_none()).await;
        let (issued, value) = stage.once("1d").await;
        if away {
            stage.stop_operator().await;
        }
        stage.space.api::<Secret>().delete("t-token", &DeleteParams::default()).await.unwrap();
        if away {
            stage.restart_operator().await;
        }
        let status = stage.delivered().await.status.unwrap();
        assert_eq!((status.digest, status.serial), (issued.digest, Some(0)));
        stage.makes_nothing("deleted by a user").await;
        assert_eq!(stage.verifier.bearer("", &value).await, 200);
    }
    stage.end().await;
}

async fn each_value_of_a_renewing_token_is_delivered_once(world: Arc<World>, space: Space) {
    let stage = Stage::start(world, space).await;
    stage.issue("expiresIn: 40h, renewBefore: 10h, delivery: {mode: Once, window: 2h}").await;
    let first = stage.space.value("t-token").await;
    stage.step(3 * 60);
    stage.delivered().await;
    stage.step(28 * 60);
    let next = |status: &ApiTokenStatus| status.serial == Some(1) && status.digest.is_some();
    let renewed = stage.status(next).await.status.unwrap();
    assert_eq!((renewed.term, renewed.delivered_at), (Some(1), None));
    let second = stage.space.value("t-token").await;
    assert_ne!(first, second);
    for value in [&first, &second] {
        stage.verifier.until("", value, 200).await;
    }
    stage.space.api::<Secret>().delete("t-token", &DeleteParams::default()).await.unwrap();
    stage.delivered().await;
    stage.makes_nothing("of two values, both delivered").await;
    for value in [&first, &second] {
        assert_eq!(stage.verifier.bearer("", value).await, 200);
    }
    stage.step(12 * 60);
    stage.verifier.until("", &first, 401).await;
    stage.verifier.until("", &second, 200).await;
    stage.end().await;
}

/// Puts the status back to what it was before the value was issued, as if the operator had died just before it wrote it.
async fn unsay(space: &Space) {
    let mut token: ApiToken = space.api().get("t").await.unwrap();
    token.status = None;
    space.api::<ApiToken>().replace_status("t", &PostParams::default(), &token).await.unwrap();
}

async fn a_crash_after_the_secret_prolongs_no_window(world: Arc<World>, space: Space) {
    let mut stage = Stage::start(world, space).await;
    let (issued, value) = stage.once("1h").await;
    stage.stop_operator().await;
    unsay(&stage.space).await;
    stage.step(30);
    stage.restart_operator().await;
    let adopted = stage.status(|status| status.digest.is_some()).await.status.unwrap();
    assert_eq!((adopted.token_id, adopted.issued_at), (issued.token_id.clone(), issued.issued_at));
    stage.stop_operator().await;
    unsay(&stage.space).await;
    stage.step(31);
    stage.restart_operator().await;
    let delivered = stage.delivered().await.status.unwrap();
    assert_eq!(delivered.token_id, issued.token_id);
    stage.verifier.until("", &value, 200).await;
    stage.end().await;
}

fn open(identity: &impl Identity, sealed: &[u8]) -> Option<String> {
    let mut opened = String::new();
    let mut reader = Decryptor::new(sealed).unwrap().decrypt(iter::once(identity as _)).ok()?;
    reader.read_to_string(&mut opened).ok()?;
    Some(opened)
}

fn sealed_for(recipients: &[&str]) -> String {
    format!("expiresIn: 30d, delivery: {{mode: Sealed, recipients: {}}}", json!(recipients))
}

/// Whether any of the files in the folder has any of that in it.
fn holds_any(folder: &Path, secrets: &HashSet<[u8; WINDOW]>) -> bool {
    // Most of hundreds of megabytes is passed over by a look at two bytes.
    let mut begins = vec![false; 1 << 16];
    let begin = |window: &[u8]| usize::from(u16::from_be_bytes([window[0], window[1]]));
    for secret in secrets {
        begins[begin(secret)] = true;
    }
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds_any(&path, secrets);
        }
        let bytes = fs::read(&path).unwrap();
        bytes.windows(WINDOW).any(|window| begins[begin(window)] && secrets.contains(window))
    })
}

async fn what_is_sealed_is_nowhere_in_the_clear_and_opens_with_a_key(world: Arc<World>, space: Space) {
    let stage = Stage::start(world, space).await;
    let key = x25519::Identity::generate();
    let ssh =
        ssh_key::PrivateKey::random(&mut ssh_key::rand_core::OsRng, ssh_key::Algorithm::Ed25519).unwrap();
    let public = ssh.public_key().to_openssh().unwrap();
    let private = ssh.to_openssh(ssh_key::LineEnding::LF).unwrap();
    stage.issue(&sealed_for(&[&key.to_public().to_string(), &format!("{public} me@laptop")])).await;
    let data = stage.space.data("t-token").await;
    assert_eq!(data.keys().collect::<Vec<_>>(), ["token.age"]);
    let value = open(&key, &data["token.age"]).unwrap();
    let ssh = ssh::Identity::from_buffer(private.as_bytes(), None).unwrap();
    assert_eq!(open(&ssh, &data["token.age"]).as_ref(), Some(&value));
    assert_eq!(open(&x25519::Identity::generate(), &data["token.age"]), None);
    stage.verifier.until("", &value, 200).await;

    // In the files of etcd is all that was ever written, and a token that is not sealed, as proof.
    stage.space.apply(&token("open", "expiresIn: 30d")).await;
    stage.space.token("open", ApiTokenState::Active).await;
    let plain = stage.space.value("open-token").await;
    let etcd = stage.world.control_plane.directory().join("etcd");
    let secret = |text: &str| {
        let bytes = Token::parse(text).unwrap().expose_secret().as_bytes().to_vec();
        windows(&bytes).into_iter().collect::<HashSet<_>>()
    };
    assert!(holds_any(&etcd, &secret(&plain)), "the files are not those of etcd");
    assert!(!holds_any(&etcd, &secret(&value)), "etcd has the value in the clear");
    stage.end().await;
}

async fn other_recipients_get_another_value(world: Arc<World>, space: Space) {
    let stage = Stage::start(world, space).await;
    let [key, other] = [(); 2].map(|()| x25519::Identity::generate());
    let [public, another] = [&key, &other].map(|key| key.to_public().to_string());
    let spec = |recipients: &[&str]| sealed_for(recipients).replace("30d,", "40h, renewBefore: 10h,");
    stage.issue(&spec(&[&public])).await;
    let value = async |key: &x25519::Identity| open(key, &stage.space.data("t-token").await["token.age"]);
    let first = value(&key).await.unwrap();
    stage.verifier.until("", &first, 200).await;
    stage.step(31 * 60);
    let number =
        |serial: i64| move |status: &ApiTokenStatus| status.serial == Some(serial) && status.digest.is_some();
    stage.status(number(1)).await;
    let second = value(&key).await.unwrap();
    for value in [&first, &second] {
        stage.verifier.until("", value, 200).await;
    }
    stage.space.apply(&token("t", &spec(&[&another]))).await;
    let status = stage.status(number(2)).await.status.unwrap();
    assert_eq!((status.term, status.previous, status.replaced_at), (Some(1), None, vec![]));
    assert_eq!(value(&key).await, None);
    let third = value(&other).await.unwrap();
    stage.verifier.until("", &third, 200).await;
    for value in [&first, &second] {
        stage.verifier.until("", value, 401).await;
    }
    // Written otherwise they are the same.
    stage.space.apply(&token("t", &spec(&[&another, &another]))).await;
    stage.space.token("t", ApiTokenState::Active).await;
    assert_eq!(value(&other).await.as_ref(), Some(&third));

    // Who is none is told, and not repeated; the value goes on.
    let mistyped = public.replace(&public[20..24], "qqqq");
    stage.space.apply(&token("t", &spec(&[&another, &mistyped]))).await;
    let stalled =
        stage.space.until::<ApiToken>("t", |token| token.is_some_and(|token| condition(token, "Stalled").0));
    let (_, reason, message) = condition(&stalled.await.unwrap(), "Ready");
    assert_eq!(reason, "InvalidSpec");
    assert!(message.contains("recipients[1]") && !message.contains(&mistyped), "{message}");
    assert_eq!(stage.verifier.bearer("", &third).await, 200);
    stage.end().await;
}

async fn the_first_ciphertext_is_the_one_that_counts(world: Arc<World>, space: Space) {
    let mut stage = Stage::start(world, space).await;
    let key = x25519::Identity::generate();
    let issued = stage.issue(&sealed_for(&[&key.to_public().to_string()])).await;
    let first = stage.space.data("t-token").await;
    let value = open(&key, &first["token.age"]).unwrap();
    stage.stop_operator().await;
    unsay(&stage.space).await;
    stage.verifier.until("", &value, 401).await;
    stage.restart_operator().await;
    let adopted = stage.status(|status| status.digest.is_some()).await.status.unwrap();
    assert_eq!((adopted.digest, adopted.token_id), (issued.digest, issued.token_id));
    assert_eq!(stage.space.data("t-token").await, first);
    stage.verifier.until("", &value, 200).await;

    // Something else in its place is not taken for it, though what the operator said is still there.
    let planted = json!({"data": {"token.age": "cGxhbnRlZA=="}});
    stage.space.patch::<Secret>("t-token", planted).await.unwrap();
    stage.status(|status| status.serial == Some(1) && status.digest.is_some()).await;
    stage.verifier.until("", &value, 401).await;
    let value = open(&key, &stage.space.data("t-token").await["token.age"]).unwrap();
    stage.verifier.until("", &value, 200).await;
    stage.end().await;
}
