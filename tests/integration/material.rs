//! Material: published, rotated, provided, and never lost by accident.

use std::sync::Arc;

use credential_operator::{
    api::{Credential, CredentialState},
    domain::{material, name},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Data, Space, World, condition};

crate::tests![
    every_example_is_published,
    material_stays_through_edits_that_do_not_concern_it,
    a_change_of_an_option_draws_anew,
    rotation_is_done_once_however_it_is_asked_for,
    a_client_secret_overlaps_with_the_one_before,
    a_renamed_secret_keeps_its_material,
    a_deleted_secret_is_filled_anew,
    a_foreign_secret_is_left_alone,
    what_somebody_changed_is_said_and_left_alone,
    entries_that_are_no_secrets_follow_the_spec_alone,
    a_secret_that_others_own_is_no_leftover,
    a_forged_status_destroys_no_material,
    to_spell_out_how_a_provided_password_is_hashed_changes_nothing,
    what_it_publishes_is_not_what_it_is_made_from,
    provided_material_heals_and_what_was_published_stays,
    what_is_provided_of_each_type_is_published,
    an_authority_of_the_user_signs,
    an_inactive_credential_keeps_its_material,
    the_end_of_a_credential_takes_its_material,
    a_rsa_key_keeps_nobody_waiting,
];

fn credential(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: credential-operator.io/v1alpha1\nkind: Credential\nmetadata: {{name: {name}}}\nspec: {{{rest}}}\n"
    )
}

fn provided(name: &str, data: &Value) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {name::PROVIDED_LABEL: "true"}},
        "stringData": data,
    })
    .to_string()
}

impl Space {
    /// Waits until the credential says `reason`, and returns its message.
    async fn complains(&self, name: &str, reason: &str) -> String {
        let there = self.until::<Credential>(name, |credential| {
            credential.is_some_and(|credential| condition(credential, "Ready").1 == reason)
        });
        condition(&there.await.unwrap(), "Ready").2
    }

    async fn spec(&self, name: &str, spec: Value) {
        self.patch::<Credential>(name, json!({ "spec": spec })).await.unwrap();
    }
}

fn serial(credential: &Credential) -> i64 {
    credential.status.clone().unwrap().material.unwrap().serial.unwrap()
}

async fn every_example_is_published(_: Arc<World>, space: Space) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/types");
    let mut examples = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        space.apply(&std::fs::read_to_string(file.unwrap().path()).unwrap()).await;
        examples += 1;
    }
    let credentials: Vec<Credential> =
        space.api::<Credential>().list(&kube::api::ListParams::default()).await.unwrap().items;
    assert_eq!(credentials.len(), examples);
    for credential in credentials {
        let name = credential.name_any();
        let published = space.published(&name, 0).await;
        let kind = material::kind(published.spec.credential_type).unwrap();
        let secret: Secret = space.api().get(&format!("{name}-credential")).await.unwrap();
        assert_eq!(secret.type_.as_deref(), Some(kind.secret_type), "{name}");
        let data = secret.data.unwrap();
        for key in kind.provided.required {
            let hashed = name == "console-user";
            assert!(hashed || data.get(*key).is_some_and(|value| !value.0.is_empty()), "{name} has no {key}");
        }
    }
}

/// A valid state, and one change that must not draw anew.
async fn material_stays_through_edits_that_do_not_concern_it(_: Arc<World>, space: Space) {
    space.apply(&credential("c", "type: BasicAuth, basicAuth: {username: svc}")).await;
    space.published("c", 0).await;
    let before = space.data("c-credential").await;
    for edit in [
        json!({"description": "another"}),
        json!({"scopes": ["a"]}),
        json!({"rotation": {"every": "90d"}}),
        json!({"rotation": {"every": "30d", "revision": 0}}),
        json!({"rotation": null}),
        // The default, spelled out.
        json!({"basicAuth": {"username": "svc", "length": 32}}),
        json!({"secret": {"labels": {"app": "orders"}, "annotations": {"note": "x"}}}),
        json!({"secret": null}),
        json!({"state": "Inactive"}),
        json!({"state": "Active"}),
        json!({"roles": [{"kind": "ClusterRole", "name": "view"}]}),
    ] {
        space.spec("c", edit.clone()).await;
        let after = space.published("c", 0).await;
        assert_eq!((serial(&after), space.data("c-credential").await == before), (0, true), "{edit}");
    }
    // Labels of the Secret by somebody else.
    space.patch::<Secret>("c-credential", json!({"metadata": {"labels": {"theirs": "yes"}}})).await.unwrap();
    space.spec("c", json!({"description": "again"})).await;
    let after = space.published("c", 0).await;
    assert_eq!((serial(&after), space.data("c-credential").await == before), (0, true));
}

async fn a_change_of_an_option_draws_anew(_: Arc<World>, space: Space) {
    space.apply(&credential("c", "type: Opaque, opaque: {fields: [{name: a}, {name: b}]}")).await;
    space.published("c", 0).await;
    let before = space.data("c-credential").await;
    let uid = space.api::<Secret>().get("c-credential").await.unwrap().uid();
    space.spec("c", json!({"opaque": {"fields": [{"name": "a", "length": 40}]}})).await;
    let after = space.published("c", 1).await;
    let data = space.data("c-credential").await;
    assert_eq!(serial(&after), 1);
    assert_eq!(data.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!((data["a"].len(), data["a"] != before["a"]), (40, true));
    assert_eq!(space.api::<Secret>().get("c-credential").await.unwrap().uid(), uid, "in place");

    // What is no secret follows without a draw.
    space.apply(&credential("s", "type: ObjectStore, objectStore: {region: here, bucket: one}")).await;
    space.published("s", 0).await;
    let before = space.data("s-credential").await;
    space.spec("s", json!({"objectStore": {"region": null, "endpoint": "https://minio.example"}})).await;
    let there = space.until::<Secret>("s-credential", |secret| {
        secret.is_some_and(|secret| secret.data.as_ref().unwrap().contains_key("AWS_ENDPOINT_URL"))
    });
    there.await;
    let data = space.data("s-credential").await;
    assert_eq!(data["AWS_SECRET_ACCESS_KEY"], before["AWS_SECRET_ACCESS_KEY"]);
    assert_eq!((data.contains_key("AWS_REGION"), &data["BUCKET_NAME"][..]), (false, &b"one"[..]));
    assert_eq!(serial(&space.published("s", 0).await), 0);
}

async fn rotation_is_done_once_however_it_is_asked_for(_: Arc<World>, space: Space) {
    space.apply(&credential("c", "type: HelmRepository")).await;
    space.published("c", 0).await;
    let mut values = vec![space.data("c-credential").await];
    space.spec("c", json!({"rotation": {"revision": 7}})).await;
    assert_eq!(serial(&space.published("c", 1).await), 1);
    values.push(space.data("c-credential").await);
    let ask = json!({"metadata": {"annotations": {name::ROTATE_ANNOTATION: "2026-01-01T00:00:00Z"}}});
    space.patch::<Credential>("c", ask).await.unwrap();
    assert_eq!(serial(&space.published("c", 2).await), 2);
    values.push(space.data("c-credential").await);
    // The wish is gone, and that is no wish.
    space.spec("c", json!({"rotation": null})).await;
    let ask = json!({"metadata": {"annotations": {name::ROTATE_ANNOTATION: null}}});
    space.patch::<Credential>("c", ask).await.unwrap();
    space.spec("c", json!({"description": "later"})).await;
    assert_eq!(serial(&space.published("c", 2).await), 2);
    values.push(space.data("c-credential").await);
    assert!(values[0] != values[1] && values[1] != values[2] && values[2] == values[3]);
}

async fn a_client_secret_overlaps_with_the_one_before(_: Arc<World>, space: Space) {
    space
        .apply(&credential("c", "type: ClientSecret, rotation: {every: 90d, overlap: 24h, revision: 1}"))
        .await;
    let first = space.published("c", 0).await.status.unwrap().material.unwrap();
    space.spec("c", json!({"rotation": {"every": "90d", "overlap": "24h", "revision": 2}})).await;
    let second = space.published("c", 1).await.status.unwrap().material.unwrap();
    let previous = second.previous.clone().unwrap();
    assert_eq!((Some(previous.id), Some(previous.digest)), (first.id.clone(), first.digest.clone()));
    let at =
        |instant: &Option<credential_operator::api::Instant>| instant.as_ref().unwrap().timestamp().unwrap();
    let day = jiff::SignedDuration::from_hours(24);
    assert_eq!(previous.expires_at.timestamp().unwrap(), at(&second.issued_at) + day);
    assert_eq!(at(&second.expires_at), at(&second.issued_at) + day * 91);
    assert_eq!(at(&second.rotates_at), at(&second.issued_at) + day * 90);
    let data = space.data("c-credential").await;
    assert_eq!(second.id.unwrap().as_bytes(), data["client-id"]);
}

async fn a_renamed_secret_keeps_its_material(_: Arc<World>, space: Space) {
    space.apply(&credential("c", "type: SshKey")).await;
    space.published("c", 0).await;
    let before = space.data("c-credential").await;
    space.spec("c", json!({"secret": {"name": "elsewhere"}})).await;
    space.until::<Secret>("c-credential", |secret| secret.is_none()).await;
    assert!(space.data("elsewhere").await == before);
    let after = space.published("c", 0).await;
    assert_eq!((serial(&after), after.status.unwrap().secret.unwrap().name), (0, "elsewhere".to_owned()));
    // Back, and on, before anybody can have looked.
    space.spec("c", json!({"secret": {"name": "third"}})).await;
    space.spec("c", json!({"secret": {"name": "fourth"}})).await;
    space.until::<Secret>("elsewhere", |secret| secret.is_none()).await;
    space.until::<Secret>("third", |secret| secret.is_none()).await;
    assert!(space.data("fourth").await == before);
}

async fn a_deleted_secret_is_filled_anew(_: Arc<World>, space: Space) {
    space.apply(&credential("c", "type: Totp")).await;
    let first = space.published("c", 0).await;
    space.api::<Secret>().delete("c-credential", &DeleteParams::default()).await.unwrap();
    let issued_at = first.status.unwrap().material.unwrap().issued_at.unwrap().timestamp().unwrap();
    let say = space.complains("c", "Pending").await;
    assert!(say.contains("not more than once a minute"), "{say}");
    assert!(say.contains(&(issued_at + jiff::SignedDuration::from_mins(1)).to_string()), "{say}");
}

async fn a_foreign_secret_is_left_alone(_: Arc<World>, space: Space) {
    let foreign =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: c-credential}\nstringData: {theirs: value}\n";
    space.apply(foreign).await;
    let before = space.api::<Secret>().get("c-credential").await.unwrap();
    space.apply(&credential("c", "type: HelmRepository")).await;
    let say = space.complains("c", "Conflict").await;
    assert!(say.contains("c-credential") && say.contains("spec.secret.name"), "{say}");
    assert_eq!(space.api::<Secret>().get("c-credential").await.unwrap(), before);
    space.api::<Secret>().delete("c-credential", &DeleteParams::default()).await.unwrap();
    space.published("c", 0).await;
}

async fn what_somebody_changed_is_said_and_left_alone(_: Arc<World>, space: Space) {
    space.apply(&credential("c", "type: HelmRepository")).await;
    space.published("c", 0).await;
    let before = space.data("c-credential").await;
    space.patch::<Secret>("c-credential", json!({"stringData": {"password": "mine"}})).await.unwrap();
    let say = space.complains("c", "MaterialInvalid").await;
    assert!(say.contains("c-credential") && !say.contains("mine"), "{say}");
    assert_eq!(space.data("c-credential").await["password"], b"mine");
    // An id that is no secret is part of the material all the same.
    space.apply(&credential("id", "type: ClientSecret")).await;
    space.published("id", 0).await;
    let edit = json!({"stringData": {"client-id": "AAAAAAAAAAAA"}});
    space.patch::<Secret>("id-credential", edit).await.unwrap();
    space.complains("id", "MaterialInvalid").await;
    // Put back, it is as it was.
    let password = String::from_utf8(before["password"].clone()).unwrap();
    space.patch::<Secret>("c-credential", json!({"stringData": {"password": password}})).await.unwrap();
    assert_eq!(serial(&space.published("c", 0).await), 0);
    // The annotation alone is put right.
    let strip = json!({"metadata": {"annotations": {name::ATTESTATION_ANNOTATION: null}}});
    space.patch::<Secret>("c-credential", strip).await.unwrap();
    let back = space.until::<Secret>("c-credential", |secret| {
        secret.is_some_and(|secret| secret.annotations().contains_key(name::ATTESTATION_ANNOTATION))
    });
    back.await;
    assert_eq!(serial(&space.published("c", 0).await), 0);
}

async fn entries_that_are_no_secrets_follow_the_spec_alone(_: Arc<World>, space: Space) {
    let options = "objectStore: {endpoint: https://s3.example, region: eu, bucket: backups}";
    space.apply(&credential("c", &format!("type: ObjectStore, {options}"))).await;
    space.published("c", 0).await;
    let before = space.data("c-credential").await;
    let edit = json!({"stringData": {"AWS_ENDPOINT_URL": "https://evil.example", "BUCKET_NAME": "theirs"}});
    space.patch::<Secret>("c-credential", edit).await.unwrap();
    let is_as = async |expected: &Data| {
        space
            .until::<Secret>("c-credential", |secret| {
                let data = secret.and_then(|secret| secret.data.clone()).unwrap_or_default();
                data.into_iter().map(|(key, value)| (key, value.0)).collect::<Data>() == *expected
            })
            .await;
    };
    is_as(&before).await;
    // Also in the copy under another name, and where the copy was made of what somebody had edited.
    space.patch::<Secret>("c-credential", json!({"data": {"BUCKET_NAME": null}})).await.unwrap();
    space.spec("c", json!({"secret": {"name": "elsewhere"}})).await;
    space.until::<Secret>("c-credential", |secret| secret.is_none()).await;
    assert!(space.data("elsewhere").await == before);
    space.spec("c", json!({"secret": null})).await;
    space.until::<Secret>("elsewhere", |secret| secret.is_none()).await;
    is_as(&before).await;
    assert_eq!(serial(&space.published("c", 0).await), 0);
    // What the material of the user does not have goes with the options that it was by.
    let theirs = json!({"AWS_ACCESS_KEY_ID": "theirs", "AWS_SECRET_ACCESS_KEY": "their-secret"});
    space.apply(&provided("mine", &theirs)).await;
    space.spec("c", json!({"objectStore": null, "provided": {"secretRef": {"name": "mine"}}})).await;
    space.published("c", 1).await;
    let keys: Vec<_> = space.data("c-credential").await.into_keys().collect();
    assert_eq!(keys, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
}

async fn a_secret_that_others_own_is_no_leftover(_: Arc<World>, space: Space) {
    let foreign = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": "theirs",
            "labels": {name::MANAGED_BY_LABEL: name::MANAGED_BY},
            // A kind of the same name, of others.
            "ownerReferences": [{
                "apiVersion": "other.example/v1", "kind": "Credential", "name": "c", "controller": true,
                "uid": "5c1e7a34-8f0e-4b43-9b39-000000000001",
            }],
        },
        "stringData": {"theirs": "value"},
    });
    space.apply(&foreign.to_string()).await;
    let before = space.api::<Secret>().get("theirs").await.unwrap();
    space.apply(&credential("c", "type: HelmRepository")).await;
    space.published("c", 0).await;
    space.spec("c", json!({"secret": {"name": "elsewhere"}})).await;
    space.until::<Secret>("c-credential", |secret| secret.is_none()).await;
    space.spec("c", json!({"rotation": {"revision": 1}})).await;
    space.published("c", 1).await;
    assert_eq!(space.api::<Secret>().get("theirs").await.unwrap(), before);
}

async fn a_forged_status_destroys_no_material(_: Arc<World>, space: Space) {
    space.apply(&credential("c", "type: HelmRepository, expiresAt: '2190-01-01T00:00:00Z'")).await;
    space.published("c", 0).await;
    let before = space.data("c-credential").await;
    let forge = async |status: Value| {
        let patch = kube::api::Patch::Merge(json!({ "status": status }));
        let params = kube::api::PatchParams::default();
        space.api::<Credential>().patch_status("c", &params, &patch).await.unwrap();
    };
    forge(json!({"material": {"serial": 99}})).await;
    space.published("c", 0).await;
    assert!(space.data("c-credential").await == before);
    // It stays expired, because what ended is not revived; and what it has stays until its end.
    forge(json!({"state": "Expired"})).await;
    space.complains("c", "Expired").await;
    space.spec("c", json!({"description": "later"})).await;
    space
        .until::<Credential>("c", |found| {
            found.is_some_and(|found| {
                found.status.as_ref().unwrap().observed_generation == found.metadata.generation
            })
        })
        .await;
    assert!(space.data("c-credential").await == before);
}

async fn to_spell_out_how_a_provided_password_is_hashed_changes_nothing(_: Arc<World>, space: Space) {
    space.apply(&provided("mine", &json!({"password": "hunter2hunter2"}))).await;
    space.apply(&credential("c", "type: HashedPassword, provided: {secretRef: {name: mine}}")).await;
    space.published("c", 0).await;
    let before = space.data("c-credential").await;
    space.spec("c", json!({"hashedPassword": {"algorithm": "Bcrypt", "cost": 12}})).await;
    space.published("c", 0).await;
    space.spec("c", json!({"hashedPassword": {"algorithm": "Argon2id", "cost": null}})).await;
    space.published("c", 1).await;
    assert!(space.data("c-credential").await != before);
}

async fn what_it_publishes_is_not_what_it_is_made_from(_: Arc<World>, space: Space) {
    space.apply(&credential("c", "type: HashedPassword, hashedPassword: {algorithm: Argon2id}")).await;
    space.published("c", 0).await;
    let before = space.data("c-credential").await;
    let consent = json!({"metadata": {"labels": {name::PROVIDED_LABEL: "true"}}});
    space.patch::<Secret>("c-credential", consent).await.unwrap();
    space.spec("c", json!({"provided": {"secretRef": {"name": "c-credential"}}})).await;
    let say = space.complains("c", "MaterialInvalid").await;
    assert!(say.contains("this credential publishes in"), "{say}");
    assert!(space.data("c-credential").await == before);
}

async fn provided_material_heals_and_what_was_published_stays(_: Arc<World>, space: Space) {
    space.apply(&credential("c", "type: BasicAuth, provided: {secretRef: {name: mine}}")).await;
    let say = space.complains("c", "MaterialInvalid").await;
    assert!(say.contains("no Secret mine") && say.contains("credential-operator.io/provided"), "{say}");
    // Without consent it is as if it were not there.
    let silent = "apiVersion: v1\nkind: Secret\nmetadata: {name: mine}\nstringData: {username: a}\n";
    space.apply(silent).await;
    let consent = json!({"metadata": {"labels": {name::PROVIDED_LABEL: "true"}}});
    space.patch::<Secret>("mine", consent).await.unwrap();
    let wrong = space.until::<Credential>("c", |found| {
        found.is_some_and(|found| condition(found, "Ready").2.contains("the key password is missing"))
    });
    wrong.await;
    space.patch::<Secret>("mine", json!({"stringData": {"password": "p1"}})).await.unwrap();
    space.published("c", 0).await;
    assert_eq!(space.data("c-credential").await["password"], b"p1");
    // Gone bad: the status says so, and what was published stays.
    space.patch::<Secret>("mine", json!({"data": {"password": null}})).await.unwrap();
    space.complains("c", "MaterialInvalid").await;
    assert_eq!(space.data("c-credential").await["password"], b"p1");
    space.patch::<Secret>("mine", json!({"stringData": {"password": "p2"}})).await.unwrap();
    let after = space.published("c", 1).await;
    assert_eq!((serial(&after), &space.data("c-credential").await["password"][..]), (1, &b"p2"[..]));
    // And when it goes.
    space.api::<Secret>().delete("mine", &DeleteParams::default()).await.unwrap();
    space.complains("c", "MaterialInvalid").await;
    assert_eq!(space.data("c-credential").await["password"], b"p2");
}

/// Of the types that could be generated, too; the examples have the others.
async fn what_is_provided_of_each_type_is_published(_: Arc<World>, space: Space) {
    let login = json!({"username": "a", "password": "p"});
    let docker = json!({"auths": {"registry.example": {"auth": "YTpi"}}}).to_string();
    let pair = rcgen::generate_simple_self_signed(["orders.example".to_owned()]).unwrap();
    space.apply(&credential("key", "type: SshKey")).await;
    space.published("key", 0).await;
    let key = String::from_utf8(space.data("key-credential").await["ssh-privatekey"].clone()).unwrap();
    let types = [
        ("ClientSecret", json!({"client-id": "a", "client-secret": "p"})),
        ("BasicAuth", login.clone()),
        ("SshKey", json!({ "ssh-privatekey": key })),
        ("Tls", json!({"tls.crt": pair.cert.pem(), "tls.key": pair.signing_key.serialize_pem()})),
        ("ObjectStore", json!({"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "p"})),
        ("Registry", json!({".dockerconfigjson": docker})),
        ("HelmRepository", login),
        (
            "Kubeconfig",
            json!({"value": "{clusters: [{name: a}], users: [{name: b}], contexts: [{name: c}]}"}),
        ),
        ("Opaque", json!({"whatever": "p"})),
        ("HashedPassword", json!({"password": "p"})),
        ("Totp", json!({"secret": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"})),
    ];
    let mut published = Vec::new();
    for (number, (credential_type, data)) in types.iter().enumerate() {
        let name = format!("c{number}");
        space.apply(&provided(&format!("{name}-mine"), data)).await;
        let rest = format!("type: {credential_type}, provided: {{secretRef: {{name: {name}-mine}}}}");
        space.apply(&credential(&name, &rest)).await;
    }
    for (number, (credential_type, given)) in types.iter().enumerate() {
        let status = space.published(&format!("c{number}"), 0).await.status.unwrap();
        // This certificate ends in the year 4096, which is to say never.
        assert_eq!(status.material.unwrap().expires_at, None, "{credential_type}");
        let data = space.data(&format!("c{number}-credential")).await;
        let given = given.as_object().unwrap().iter();
        let given: Data = given.map(|(key, value)| (key.clone(), value.as_str().unwrap().into())).collect();
        if *credential_type == "HashedPassword" {
            assert_eq!(data.keys().collect::<Vec<_>>(), ["hash"]);
        } else {
            assert!(given.iter().all(|(key, value)| data.get(key) == Some(value)), "{credential_type}");
        }
        published.push(data);
    }
    // What is not taken from the provided Secret is no reason to hash a password with another salt, or to write at all.
    for (number, (credential_type, _)) in types.iter().enumerate() {
        let labels = json!({"metadata": {"labels": {"theirs": "yes"}}});
        space.patch::<Secret>(&format!("c{number}-mine"), labels).await.unwrap();
        if *credential_type != "Opaque" {
            let more = json!({"stringData": {"theirs": "yes"}});
            space.patch::<Secret>(&format!("c{number}-mine"), more).await.unwrap();
        }
        space.spec(&format!("c{number}"), json!({"description": "again"})).await;
    }
    for (number, (credential_type, _)) in types.iter().enumerate() {
        let again = space.published(&format!("c{number}"), 0).await;
        let data = space.data(&format!("c{number}-credential")).await;
        assert_eq!((serial(&again), data == published[number]), (0, true), "{credential_type}");
    }
}

async fn an_authority_of_the_user_signs(_: Arc<World>, space: Space) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let rest = "type: Tls, tls: {dnsNames: [orders.example], issuer: {secretRef: {name: authority}}}";
    space.apply(&credential("c", rest)).await;
    let say = space.complains("c", "MaterialInvalid").await;
    assert!(say.contains("authority"), "{say}");
    let data = json!({"tls.crt": authority.pem(), "tls.key": key.serialize_pem()});
    space.apply(&provided("authority", &data)).await;
    let status = space.published("c", 0).await.status.unwrap().material.unwrap();
    assert!(status.fingerprint.is_some() && status.expires_at.is_some());
    let data = space.data("c-credential").await;
    assert_eq!(data["ca.crt"], authority.pem().into_bytes());
}

async fn an_inactive_credential_keeps_its_material(_: Arc<World>, space: Space) {
    space.apply(&credential("c", "type: Registry, registry: {server: registry.example}")).await;
    space.published("c", 0).await;
    let before = space.data("c-credential").await;
    space.spec("c", json!({"state": "Inactive"})).await;
    let inactive = space.credential("c", CredentialState::Inactive).await;
    let (_, _, say) = condition(&inactive, "Usable");
    assert!(say.contains("can go on using"), "{say}");
    // What is asked for meanwhile is done afterwards.
    space.spec("c", json!({"rotation": {"revision": 5}})).await;
    space.credential("c", CredentialState::Inactive).await;
    assert!(space.data("c-credential").await == before);
    space.spec("c", json!({"state": "Active"})).await;
    space.published("c", 1).await;
    assert!(space.data("c-credential").await != before);
}

async fn the_end_of_a_credential_takes_its_material(_: Arc<World>, space: Space) {
    space.apply(&credential("c", "type: ClientSecret")).await;
    space.apply(&credential("d", "type: ClientSecret")).await;
    space.published("c", 0).await;
    space.published("d", 0).await;
    space.spec("c", json!({"expiresAt": "2020-01-01T00:00:00Z"})).await;
    space.until::<Secret>("c-credential", |secret| secret.is_none()).await;
    space.credential("c", CredentialState::Expired).await;
    space.api::<Credential>().delete("d", &DeleteParams::default()).await.unwrap();
    space.until::<Secret>("d-credential", |secret| secret.is_none()).await;
}

async fn a_rsa_key_keeps_nobody_waiting(world: Arc<World>, space: Space) {
    for number in 0..6 {
        space
            .apply(&credential(&format!("r{number}"), "type: SshKey, sshKey: {algorithm: Rsa, size: 4096}"))
            .await;
    }
    // The quick one, which came last, does not wait for the slow ones.
    space.apply(&credential("quick", "type: HelmRepository")).await;
    let quick = tokio::time::timeout(DEADLINE, space.published("quick", 0)).await.unwrap();
    drop(quick);
    for number in 0..6 {
        space.published(&format!("r{number}"), 0).await;
    }
    let asked = world.control_plane.audit_log().unwrap().into_iter().filter(|event| {
        let about = event.object_ref.clone().unwrap_or_default();
        event.verb == "get" && about.resource == "credentials" && about.namespace == space.namespace
    });
    assert!(asked.count() < 20, "the operator asks without end");
    let events: Api<k8s_openapi::api::core::v1::Event> =
        Api::namespaced(world.admin.clone(), &space.namespace);
    assert!(events.list(&kube::api::ListParams::default()).await.unwrap().items.is_empty());
}
