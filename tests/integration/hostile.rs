//! Attacks on version 0.2 that had succeeded, and their variations.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential, CredentialState},
    controller::{Context, Key, Place, panics},
    domain::name,
    telemetry::health::Probe,
};
use k8s_openapi::api::{
    core::v1::{Secret, ServiceAccount},
    events::v1::Event,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use serde_json::{Value, json};

use crate::support::{
    OPERATOR_NAMESPACE, Space, SystemClock, World, apply, condition, config, credential, token,
};

crate::tests![
    recipients_of_low_order_are_reported_and_nothing_is_sealed_for_them,
    a_service_account_without_a_proof_is_never_deleted,
    a_secret_with_a_copied_mark_is_never_deleted,
    a_secret_that_claims_to_hold_a_minted_token_is_never_deleted_without_a_proof,
    a_minted_token_is_revoked_though_its_secret_was_stripped,
];

pub mod hostile_alone {
    use super::{
        a_credential_costs_one_write_more_for_the_proof_of_its_account,
        a_panic_in_a_task_of_no_object_is_an_event_of_the_operator,
        a_panic_is_reported_by_the_status_and_an_event, accounts_of_an_earlier_version_are_signed_once,
        material_that_takes_long_is_generated_once_a_period,
        metadata_and_churn_of_an_object_do_not_prevent_the_report_of_a_panic,
        secret_without_its_attestation_is_replaced_by_slow_material,
    };

    crate::tests![
        a_panic_is_reported_by_the_status_and_an_event,
        a_panic_in_a_task_of_no_object_is_an_event_of_the_operator,
        metadata_and_churn_of_an_object_do_not_prevent_the_report_of_a_panic,
        a_credential_costs_one_write_more_for_the_proof_of_its_account,
        accounts_of_an_earlier_version_are_signed_once,
        material_that_takes_long_is_generated_once_a_period,
        secret_without_its_attestation_is_replaced_by_slow_material,
    ];
}

const ZERO: &str = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z";
/// The point (0, 1).
const IDENTITY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// Its modulus is a zero of one byte, at which age panics while it reads it.
const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

async fn recipients_of_low_order_are_reported_and_nothing_is_sealed_for_them(_: Arc<World>, space: Space) {
    space.apply(&credential("c")).await;
    let keys = [("zero", ZERO), ("identity", IDENTITY), ("rsa", RSA)];
    for (name, key) in keys {
        let delivery = format!("delivery: {{mode: Sealed, recipients: ['{key}']}}");
        let spec = format!("{{type: Opaque, opaque: {{fields: [{{name: k}}]}}, {delivery}}}");
        space.apply(&credential(name).replace("{displayName: Test}", &spec)).await;
        space.apply(&token(name, &format!("expiresIn: 1h, {delivery}"))).await;
    }
    for (name, _) in keys {
        let failed = [
            json!(space.credential(name, CredentialState::Failed).await),
            json!(space.token(name, ApiTokenState::Failed).await),
        ];
        for failed in failed {
            for kind in ["Ready", "Stalled"] {
                let (holds, reason, message) = condition(&failed, kind);
                assert_eq!((holds, reason.as_str()), (kind == "Stalled", "InvalidSpec"), "{name}: {message}");
                assert!(message.contains("spec.delivery.recipients[0]"), "{message}");
            }
        }
    }
    assert_eq!(space.api::<Secret>().list_metadata(&ListParams::default()).await.unwrap().items.len(), 0);
}

const MADE_FOR: &str = "credential-operator.io/made-for";

fn made_for(account: &ServiceAccount) -> Value {
    serde_json::from_str(&account.annotations()[MADE_FOR]).unwrap()
}

async fn plant(space: &Space, name: &str, mark: &Value) -> ServiceAccount {
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(
                [("app.kubernetes.io/managed-by".to_owned(), "credential-operator".to_owned())].into(),
            ),
            annotations: Some([(MADE_FOR.to_owned(), mark.to_string())].into()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    space.api().create(&PostParams::default(), &account).await.unwrap()
}

async fn signed(space: &Space, name: &str) -> ServiceAccount {
    space
        .until::<ServiceAccount>(name, |account| {
            account.is_some_and(|account| {
                account.annotations().contains_key(MADE_FOR) && made_for(account)["proof"].is_string()
            })
        })
        .await
        .unwrap()
}

async fn gone<K: control_plane::Namespaced>(space: &Space, name: &str) {
    space.until::<K>(name, |found| found.is_none()).await;
}

async fn a_service_account_without_a_proof_is_never_deleted(world: Arc<World>, space: Space) {
    // Those of which an attacker may have copies.
    for name in ["live", "dead"] {
        space.apply(&credential(name)).await;
        space.credential(name, CredentialState::Active).await;
    }
    let live = made_for(&signed(&space, "live-credential").await);
    let dead = made_for(&signed(&space, "dead-credential").await);
    space.api::<Credential>().delete("dead", &DeleteParams::orphan()).await.unwrap();
    gone::<ServiceAccount>(&space, "dead-credential").await;

    let elsewhere = world.space("elsewhere").await;
    let at = |space: &Space, name: &str| json!(format!("{}/{name}-credential", space.namespace));
    let forged = |mark: &Value, changes: Value| {
        let mut mark = mark.clone();
        for (key, value) in changes.as_object().unwrap() {
            mark[key] = value.clone();
        }
        mark
    };
    let uid = "11111111-1111-1111-1111-111111111111";
    let bare = json!({"kind": "Credential", "name": "ci", "uid": uid, "as": at(&space, "ci")});
    let planted = [
        (&space, "ci-credential", bare.clone()),
        (
            &space,
            "proof-credential",
            forged(&bare, json!({"name": "proof", "as": at(&space, "proof"), "proof": "x"})),
        ),
        // Of an account that is there.
        (
            &space,
            "copied-credential",
            forged(&live, json!({"name": "copied", "uid": uid, "as": at(&space, "copied")})),
        ),
        // Word for word that of one that was deleted.
        (&space, "dead-credential", dead.clone()),
        (&elsewhere, "dead-credential", dead.clone()),
        (
            &elsewhere,
            "moved-credential",
            forged(&dead, json!({"name": "moved", "as": at(&elsewhere, "moved")})),
        ),
    ];
    let mut before = Vec::new();
    for (space, name, mark) in &planted {
        before.push(plant(space, name, mark).await);
    }
    // One that can prove it goes, after those that came before it in each namespace.
    for space in [&space, &elsewhere] {
        space.apply(&credential("last")).await;
        space.credential("last", CredentialState::Active).await;
        signed(space, "last-credential").await;
        space.api::<Credential>().delete("last", &DeleteParams::orphan()).await.unwrap();
        gone::<ServiceAccount>(space, "last-credential").await;
    }
    for ((space, name, _), before) in planted.iter().zip(before) {
        let after = space.api::<ServiceAccount>().get(name).await.unwrap();
        assert_eq!(after, before, "{name}");
    }
    // A credential of that name says what is in its way, and the account stays.
    space.apply(&credential("ci")).await;
    let failed = space.credential("ci", CredentialState::Failed).await;
    let (_, reason, message) = condition(&failed, "Stalled");
    assert_eq!(reason, "Conflict");
    assert!(
        message.starts_with("ServiceAccount ci-credential exists and is not this credential's"),
        "{message}"
    );
    assert!(space.api::<ServiceAccount>().get_opt("ci-credential").await.unwrap().is_some());
    elsewhere.clean_up().await;
}

async fn a_secret_with_a_copied_mark_is_never_deleted(_: Arc<World>, space: Space) {
    let material = "{type: Opaque, opaque: {fields: [{name: k}]}}";
    space.apply(&credential("c")).await;
    let mut planted = Vec::new();
    for case in ["foreign", "renamed", "more", "edited", "empty"] {
        let (token_name, credential_name) = (format!("{case}-t"), format!("{case}-c"));
        space.apply(&token(&token_name, "expiresIn: 1h")).await;
        space.token(&token_name, ApiTokenState::Active).await;
        space.apply(&credential(&credential_name).replace("{displayName: Test}", material)).await;
        space.published(&credential_name, 0).await;
        for (secret, key) in
            [(format!("{token_name}-token"), "token"), (format!("{credential_name}-credential"), "k")]
        {
            let ours = space.api::<Secret>().get(&secret).await.unwrap();
            let mut data = ours.data.clone().unwrap();
            let value = data[key].clone();
            let theirs = k8s_openapi::ByteString(b"theirs".to_vec());
            match case {
                "foreign" => data = [("password".to_owned(), theirs)].into(),
                "renamed" => data = [("password".to_owned(), value)].into(),
                "more" => drop(data.insert("password".to_owned(), theirs)),
                "edited" => drop(data.insert(key.to_owned(), theirs)),
                _ => data.clear(),
            }
            let ObjectMeta { name, labels, annotations, .. } = ours.metadata;
            let metadata = ObjectMeta { name, labels, annotations, ..ObjectMeta::default() };
            planted.push(Secret { metadata, data: Some(data), type_: ours.type_, ..Secret::default() });
        }
        space.api::<ApiToken>().delete(&token_name, &DeleteParams::default()).await.unwrap();
        space.api::<Credential>().delete(&credential_name, &DeleteParams::default()).await.unwrap();
        gone::<ApiToken>(&space, &token_name).await;
        gone::<Credential>(&space, &credential_name).await;
        for secret in [format!("{token_name}-token"), format!("{credential_name}-credential")] {
            // Garbage collection may be slow, or faster.
            drop(space.api::<Secret>().delete(&secret, &DeleteParams::default()).await);
            gone::<Secret>(&space, &secret).await;
        }
    }
    let mut before = Vec::new();
    for secret in &planted {
        before.push(space.api::<Secret>().create(&PostParams::default(), secret).await.unwrap());
    }
    // True orphans go or, with material, stay, after those that came before them.
    space
        .apply(
            &(token("last", "expiresIn: 1h")
                + "---\n"
                + &credential("last").replace("{displayName: Test}", material)),
        )
        .await;
    space.token("last", ApiTokenState::Active).await;
    space.published("last", 0).await;
    space.api::<ApiToken>().delete("last", &DeleteParams::orphan()).await.unwrap();
    space.api::<Credential>().delete("last", &DeleteParams::orphan()).await.unwrap();
    gone::<Secret>(&space, "last-token").await;
    gone::<ServiceAccount>(&space, "last-credential").await;
    space.api::<Secret>().get("last-credential").await.unwrap();
    // Nor do others of their names take them.
    space.apply(&token("foreign-t", "expiresIn: 1h")).await;
    let failed = space.token("foreign-t", ApiTokenState::Failed).await;
    assert_eq!(condition(&failed, "Stalled").1, "Conflict");
    for before in before {
        let name = before.name_any();
        assert_eq!(space.api::<Secret>().get_opt(&name).await.unwrap(), Some(before), "{name}");
    }
}

/// Any user can create such a Secret, and another tool can take it over later.
async fn a_secret_that_claims_to_hold_a_minted_token_is_never_deleted_without_a_proof(
    _: Arc<World>,
    space: Space,
) {
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}});
    let other = apply(&space.client, &space.namespace, other).await.unwrap();
    let mut planted = Vec::new();
    for kind in ["ApiToken", "Credential"] {
        let name = kind.to_lowercase();
        let made_for = json!({
            "kind": kind, "name": "nobody", "uid": "gone", "as": format!("{}/{name}", space.namespace), "minted": true,
        });
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "stringData": {"password": "precious"},
            "metadata": {
                "name": name,
                "labels": {"app.kubernetes.io/managed-by": "credential-operator"},
                "annotations": {name::MADE_FOR_ANNOTATION: made_for.to_string()},
                "finalizers": ["example.com/keep"],
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": other.uid(), "controller": true,
                }],
            },
        });
        planted.push(apply(&space.client, &space.namespace, secret).await.unwrap());
    }
    // A true one is deleted after them.
    space.apply(&(credential("c") + "---\n" + &token("last", "type: ServiceAccount, expiresIn: 1h"))).await;
    space.token("last", ApiTokenState::Active).await;
    space.api::<ApiToken>().delete("last", &DeleteParams::orphan()).await.unwrap();
    gone::<Secret>(&space, "last-token").await;
    for planted in planted {
        let after = space.api::<Secret>().get(&planted.name_any()).await.unwrap();
        assert_eq!(after.resource_version(), planted.resource_version(), "{}", planted.name_any());
        let release = json!({"metadata": {"finalizers": null}});
        space.patch::<Secret>(&planted.name_any(), release).await.unwrap();
    }
}

async fn a_minted_token_is_revoked_though_its_secret_was_stripped(_: Arc<World>, space: Space) {
    space.apply(&credential("c")).await;
    let attestation = "credential-operator.io/attestation";
    let stripped = [
        ("owner", json!({"metadata": {"ownerReferences": null}})),
        (
            "all",
            json!({"metadata": {"ownerReferences": null, "labels": null, "annotations": {attestation: null}}}),
        ),
    ];
    for (name, _) in &stripped {
        space.apply(&token(name, "type: ServiceAccount, expiresIn: 1h")).await;
        space.token(name, ApiTokenState::Active).await;
    }
    for (name, patch) in stripped {
        // In one request each, so that the controller has no time to put it right.
        let (secret, revoked) = (format!("{name}-token"), json!({"spec": {"revoked": true}}));
        let (stripped, revoked) =
            tokio::join!(space.patch::<Secret>(&secret, patch), space.patch::<ApiToken>(name, revoked));
        assert!(revoked.is_ok());
        // It may have been deleted before it was stripped.
        drop(stripped);
        gone::<Secret>(&space, &secret).await;
    }
}

async fn material_that_takes_long_is_generated_once_a_period(world: Arc<World>, space: Space) {
    let clock = SystemClock::shared();
    let operator = world.operator(clock.clone()).await;
    let spec = "{type: HashedPassword, hashedPassword: {cost: 14}}";
    space.apply(&credential("c").replace("{displayName: Test}", spec)).await;
    space.published("c", 0).await;
    let first = space.data("c-credential").await;
    for revision in 1..=20 {
        space.patch::<Credential>("c", json!({"spec": {"rotation": {"revision": revision}}})).await.unwrap();
    }
    let postponed = |found: Option<&Credential>| {
        found.is_some_and(|found| {
            let (holds, reason, message) = condition(found, "Ready");
            let current = found.status.as_ref().and_then(|status| status.observed_generation);
            let says = message.starts_with("The generation of new material is postponed until ");
            !holds && reason == "Pending" && says && current == found.metadata.generation
        })
    };
    let found = space.until::<Credential>("c", postponed).await.unwrap();
    assert!(condition(&found, "Reconciling").0);
    assert!(
        condition(&found, "Ready").2.contains("at most once every 3m 12s"),
        "{}",
        condition(&found, "Ready").2
    );
    assert_eq!(space.data("c-credential").await, first, "it stays");
    clock.step(jiff::SignedDuration::from_secs(193));
    let second = space.published("c", 1).await;
    assert_eq!(second.status.unwrap().material.unwrap().revision, Some(20));
    assert_ne!(space.data("c-credential").await["hash"], first["hash"]);
    // While it was generated, nobody asked again and again whether it was still wished.
    let requests = operator.requests(&space);
    let asked = requests.iter().filter(|(what, _)| what.starts_with("get") && what.ends_with(" credentials"));
    assert!(asked.map(|(_, count)| count).sum::<usize>() < 20, "{requests:?}");
    operator.stop().await;
}

async fn secret_without_its_attestation_is_replaced_by_slow_material(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    let spec = "{type: SshKey, sshKey: {algorithm: Rsa, size: 4096}}";
    space.apply(&credential("c").replace("{displayName: Test}", spec)).await;
    space.published("c", 0).await;
    operator.stop().await;
    let stripped = json!({"metadata": {"annotations": {name::ATTESTATION_ANNOTATION: null}}});
    space.patch::<Secret>("c-credential", stripped).await.unwrap();
    space.patch::<Credential>("c", json!({"spec": {"sshKey": {"size": 3072}}})).await.unwrap();
    let later = SystemClock::shared();
    later.step(jiff::SignedDuration::from_secs(193));
    let operator = world.operator(later).await;
    space.published("c", 1).await;
    operator.stop().await;
}

/// A controller that only reports panics, as the cluster's administrator.
fn panicking(world: &World) -> Context {
    let random = Box::new(UnwrapErr(SysRng));
    Context::new(world.admin.clone(), SystemClock::shared(), random, config(false))
}

/// Has a reconcile panic. Whether it ran at all.
async fn panic_once(ctx: &Context, key: &Key) -> bool {
    ctx.queue.add(key.clone());
    assert_eq!(ctx.queue.next().await, *key);
    let mut ran = false;
    let work = async {
        ran = true;
        panic!("caused by a test")
    };
    assert!(panics::run(ctx, key, work).await.is_none());
    ran
}

/// The events that report a panic, by what they regard.
async fn reported(world: &World, namespace: &str) -> Vec<String> {
    let events = kube::Api::<Event>::namespaced(world.admin.clone(), namespace);
    let events = events.list(&ListParams::default()).await.unwrap().items.into_iter();
    let panics = events.filter(|event| event.reason.as_deref() == Some("InternalError"));
    let mut regarding: Vec<_> = panics.filter_map(|event| event.regarding?.name).collect();
    regarding.sort();
    regarding
}

async fn a_panic_is_reported_by_the_status_and_an_event(world: Arc<World>, space: Space) {
    space.apply(&credential("c")).await;
    space.apply(&token("t", "expiresIn: 1h")).await;
    let status = json!({"status": {"digest": "d", "conditions": [{"type": "Usable", "status": "False",
        "reason": "PolicyViolation", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let patch = kube::api::Patch::Merge(&status);
    space.api::<ApiToken>().patch_status("t", &kube::api::PatchParams::default(), &patch).await.unwrap();
    let (c, t) = (Place::new(&space.namespace, "c"), Place::new(&space.namespace, "t"));
    for (kind, key) in [("Credential", Key::Credential(c)), ("ApiToken", Key::ApiToken(t))] {
        let ctx = panicking(&world);
        assert!(panic_once(&ctx, &key).await);
        let version = async || match &key {
            Key::ApiToken(_) => space.api::<ApiToken>().get("t").await.unwrap().resource_version(),
            _ => space.api::<Credential>().get("c").await.unwrap().resource_version(),
        };
        let written = version().await;
        assert!(!panic_once(&ctx, &key).await, "it is held back");
        assert_eq!(version().await, written, "it is reported once");
        let (metrics, line) = (ctx.metrics(), format!("reconcile_panics_total{{kind=\"{kind}\"}} 1\n"));
        assert!(metrics.contains(&line), "{metrics}");
    }
    let token = space.api::<ApiToken>().get("t").await.unwrap();
    assert_eq!(condition(&token, "Usable").1, "PolicyViolation", "what the verifier goes by stays");
    assert_eq!(json!(token)["status"]["digest"], "d");
    assert_eq!(token.spec.expires_in, Some("1h".into()));
    let credential = space.api::<Credential>().get("c").await.unwrap();
    for object in [json!(credential), json!(token)] {
        for kind in ["Ready", "Stalled"] {
            let (holds, reason, message) = condition(&object, kind);
            assert_eq!((holds, reason.as_str()), (kind == "Stalled", "InternalError"));
            assert!(message.starts_with("The controller panicked while it reconciled"), "{message}");
        }
        assert_eq!(object["status"]["observedGeneration"], object["metadata"]["generation"]);
    }
    assert_eq!(reported(&world, &space.namespace).await, ["c", "t"]);
}

async fn a_panic_in_a_task_of_no_object_is_an_event_of_the_operator(world: Arc<World>, _: Space) {
    let ctx = panicking(&world);
    let before = reported(&world, OPERATOR_NAMESPACE).await.len();
    assert!(panic_once(&ctx, &Key::Policies).await);
    assert_eq!(reported(&world, OPERATOR_NAMESPACE).await.len(), before + 1);
}

async fn metadata_and_churn_of_an_object_do_not_prevent_the_report_of_a_panic(
    world: Arc<World>,
    space: Space,
) {
    let ctx = panicking(&world);
    let key = |name: &str| Key::Credential(Place::new(&space.namespace, name));
    // Labels and managed fields of 1.4 MB, nested deeper than a parser allows, with an instant that no client can read.
    let deep = (0..300).fold(json!({}), |inner, n| json!({format!("f:{n}"): inner}));
    let labels: serde_json::Map<_, _> =
        (0..9_000).map(|n| (format!("{}.x/n{n}", "a".repeat(63)), json!("v".repeat(63)))).collect();
    let fat = json!({
        "apiVersion": "credential-operator.io/v1alpha1", "kind": "Credential",
        "metadata": {"name": "fat", "labels": labels, "managedFields": [{
            "manager": "x", "operation": "Update", "apiVersion": "credential-operator.io/v1alpha1",
            "time": "9999-12-31T23:59:59Z", "fieldsType": "FieldsV1", "fieldsV1": deep,
        }]},
        "spec": {},
    });
    let path = format!("/apis/credential-operator.io/v1alpha1/namespaces/{}/credentials", space.namespace);
    let request = http::Request::post(&path).header("content-type", "application/json");
    world.admin.request_text(request.body(fat.to_string().into_bytes()).unwrap()).await.unwrap();
    assert!(panic_once(&ctx, &key("fat")).await);

    // An author who changes the object all the time.
    space.apply(&credential("churn")).await;
    let author = tokio::spawn({
        let space = space.clone();
        async move {
            for n in 0.. {
                let note = json!({"metadata": {"annotations": {"example.com/note": n.to_string()}}});
                space.patch::<Credential>("churn", note).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    assert!(panic_once(&ctx, &key("churn")).await);
    author.abort();

    assert!(panic_once(&ctx, &key("deleted")).await);
    for name in ["fat", "churn"] {
        let request = http::Request::get(format!("{path}/{name}")).body(Vec::new()).unwrap();
        let found: Value = world.admin.request(request).await.unwrap();
        assert_eq!(condition(&found, "Stalled").1, "InternalError", "{name}");
    }
    assert_eq!(reported(&world, &space.namespace).await, ["churn", "fat"]);
}

async fn a_credential_costs_one_write_more_for_the_proof_of_its_account(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    for n in 0..5 {
        space.apply(&credential(&format!("c{n}"))).await;
    }
    for n in 0..5 {
        space.credential(&format!("c{n}"), CredentialState::Active).await;
    }
    let expected = [
        ("create serviceaccounts", 5),
        ("patch_metadata serviceaccounts", 5),
        ("replace_status credentials", 5),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(what, times)| (what.to_owned(), times)).into();
    assert_eq!(operator.requests(&space), expected);
    operator.stop().await;
    // A restart finds every account signed.
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&credential("last")).await;
    space.credential("last", CredentialState::Active).await;
    let once: BTreeMap<_, _> = expected.into_keys().map(|what| (what, 1)).collect();
    assert_eq!(operator.requests(&space), once);
    operator.stop().await;
}

async fn accounts_of_an_earlier_version_are_signed_once(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    space.apply(&credential("c")).await;
    space.credential("c", CredentialState::Active).await;
    let account = signed(&space, "c-credential").await;
    operator.stop().await;
    let mut mark = made_for(&account);
    mark.as_object_mut().unwrap().remove("proof");
    let unsigned = json!({"metadata": {"annotations": {MADE_FOR: mark.to_string()}}});
    space.patch::<ServiceAccount>("c-credential", unsigned).await.unwrap();
    let operator = world.operator(SystemClock::shared()).await;
    let again = signed(&space, "c-credential").await;
    assert_eq!(made_for(&again), made_for(&account));
    // The next change of the credential has it looked at again, and there is nothing to write to the account.
    let edit = json!({"spec": {"displayName": "other"}});
    space.patch::<Credential>("c", edit).await.unwrap();
    space.credential("c", CredentialState::Active).await;
    assert_eq!(operator.requests(&space).get("patch_metadata serviceaccounts"), Some(&1));
    operator.stop().await;
}
