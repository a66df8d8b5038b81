use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    api::ApiToken,
    client::{
        Readable,
        prune::{Document, Pruner, Shape},
    },
};

fn token(metadata: Value, spec: &Value) -> Value {
    let mut all = json!({"name": "t", "namespace": "n", "uid": "u", "resourceVersion": "7"});
    if let (Value::Object(all), Value::Object(more)) = (&mut all, metadata) {
        all.extend(more);
    }
    json!({"apiVersion": "credential-operator.io/v1alpha1", "kind": "ApiToken", "metadata": all, "spec": spec})
}

fn valid() -> Value {
    json!({"credentialRef": {"name": "c"}, "expiresIn": "30d"})
}

/// Parses JSON in the same way as a response of the API server.
fn read_as<K: Readable>(json: &str) -> Watched<K> {
    let mut found = None;
    let mut pruner = Pruner::new(Shape::Object, K::KEEP);
    pruner.feed(json.as_bytes(), &mut |document| found = Some(document)).unwrap();
    let Some(Document::Item(json, size)) = found else { panic!("nothing was read") };
    Watched::read(&json, size).unwrap()
}

#[test]
fn metadata_that_no_typed_reader_takes_spoils_nothing() {
    let deep = format!("{}{}", "{\"f:a\":".repeat(5_000), "{}".to_owned() + &"}".repeat(5_000));
    let fields = format!(
        "[{{\"manager\":\"x\",\"time\":\"9999-12-31T23:59:59Z\",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":{deep}}}]"
    );
    let json = token(json!({"managedFields": "@", "annotations": {"managedFields": "[7]"}}), &valid());
    let json = json.to_string().replace("\"@\"", &fields);
    let token = read_as::<ApiToken>(&json).0.unwrap();
    assert_eq!((token.metadata.name.as_deref(), token.metadata.managed_fields), (Some("t"), None));
}

#[test]
fn each_field_of_the_metadata_is_read_by_itself() {
    let odd = json!({
        "creationTimestamp": "9999-12-31T23:59:59Z",
        "deletionTimestamp": "9999-12-31T23:59:59Z",
        "generation": "seven",
        "labels": {"a": 7},
        "annotations": [],
        "finalizers": ["credential-operator.io/bindings"],
        "ownerReferences": [
            {"uid": 7}, {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pu", "controller": true},
        ],
    });
    let metadata = read_as::<ApiToken>(&token(odd, &valid()).to_string()).0.unwrap().metadata;
    assert_eq!((metadata.uid.as_deref(), metadata.resource_version.as_deref()), (Some("u"), Some("7")));
    assert!(metadata.creation_timestamp.is_none() && metadata.generation.is_none());
    assert_eq!(metadata.labels, Some(std::collections::BTreeMap::new()), "foreign labels are not kept");
    assert!(metadata.deletion_timestamp.is_some(), "it is terminating, whenever that began");
    assert_eq!(metadata.finalizers.unwrap(), ["credential-operator.io/bindings"]);
    let owners = metadata.owner_references.unwrap();
    assert_eq!(owners.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>(), ["pu"]);
}

#[test]
fn a_spec_that_does_not_fit_is_read_as_far_as_it_makes_sense() {
    let spec = json!({
        "description": {"not": "a text"},
        "state": "Inactive",
        "revoked": true,
        "expiresAt": "2027-01-01T00:00:00Z",
        "roles": [7, {"kind": "ClusterRole", "name": "view"}, {"kind": "Odd", "name": "view"}],
        "secret": {"name": "chosen"},
    });
    let mut object = token(json!({}), &spec);
    object["status"] = json!({
        "state": "Expired",
        "expiresAt": "2026-07-01T00:00:00Z",
        "boundIn": ["stock", 7, "*"],
        "secret": {"name": "recorded"},
    });
    let invalid = read_as::<ApiToken>(&object.to_string()).0.unwrap_err();
    assert!(invalid.inactive && invalid.revoked && invalid.expired);
    assert_eq!(invalid.ends_at, Some("2027-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(invalid.value_ends_at, Some("2026-07-01T00:00:00Z".parse().unwrap()));
    assert_eq!(invalid.roles.iter().map(|role| &*role.name).collect::<Vec<_>>(), ["view"]);
    assert_eq!(
        (&invalid.bound_in[..], &invalid.secrets[..]),
        (&["stock".to_owned(), "*".to_owned()][..], &["chosen".to_owned(), "recorded".to_owned()][..])
    );
    assert_eq!(invalid.flaw, Flaw::Field("spec.description".to_owned()));
    assert_eq!(invalid.metadata.uid.as_deref(), Some("u"));
}

#[test]
fn what_makes_no_sense_says_nothing() {
    for (spec, status) in [
        (json!(7), json!("Expired")),
        (json!({"state": ["Inactive"], "revoked": "true", "roles": {}, "secret": []}), json!(null)),
        (json!({"state": "inactive", "revoked": false}), json!({"state": "Expired"})),
    ] {
        let read = InvalidObject::of(ObjectMeta::default(), Flaw::default(), &spec, status.clone());
        assert_eq!(read, InvalidObject { status, ..InvalidObject::default() }, "{spec}");
    }
    // An invalid expiration is never reached. A status that reports it as expired was written by a controller that could
    // parse it.
    let (spec, now) = (json!({"expiresAt": "soon"}), Timestamp::MAX);
    let of = |status| InvalidObject::of(ObjectMeta::default(), Flaw::default(), &spec, status);
    assert!(!of(json!(null)).has_ended(now));
    assert!(of(json!({"state": "Expired"})).has_ended(Timestamp::MIN));
}

#[test]
fn a_spec_that_nests_deeper_than_a_parser_allows_leaves_the_metadata_readable() {
    let deep = "[".repeat(1_000) + &"]".repeat(1_000);
    let json = token(json!({}), &json!("@")).to_string().replace("\"@\"", &deep);
    let invalid = read_as::<ApiToken>(&json).0.unwrap_err();
    assert_eq!(invalid.metadata.name.as_deref(), Some("t"));
}

#[test]
fn an_object_without_its_type_is_its_metadata_and_status() {
    let deep = "[".repeat(1_000) + &"]".repeat(1_000);
    let mut object = token(json!({}), &json!("@"));
    let read = |object: &Value| Untyped::read(object.to_string().replace("\"@\"", &deep).as_bytes());
    assert_eq!(read(&object).unwrap().status, Value::Null);
    object["status"] = json!({"state": 7, "conditions": {}});
    let found = read(&object).unwrap();
    assert_eq!((found.metadata.uid.as_deref(), &found.status), (Some("u"), &object["status"]));
    // A status that cannot be parsed must not be replaced.
    object["status"] = json!("@");
    assert_eq!(read(&object), None);
}

#[test]
fn what_has_no_name_is_no_object() {
    assert!(Watched::<ApiToken>::read(b"{\"spec\": 7}", 0).is_none());
    assert!(Watched::<ApiToken>::read(b"{\"metadata\": {\"uid\": \"u\"}}", 0).is_none());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        Just(json!("9999-12-31T23:59:59Z")),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{0,9}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// For any value of a metadata field, the object and its other fields are read.
    #[test]
    fn no_value_of_one_field_hides_the_others(
        field in prop::sample::select(vec![
            "managedFields", "labels", "annotations", "finalizers", "ownerReferences", "generation", "creationTimestamp",
            "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generateName", "anything",
        ]),
        value in any_json(),
    ) {
        let mut more = json!({"resourceVersion": "7"});
        more[field] = value;
        let json = token(more, &valid()).to_string();
        let token = read_as::<ApiToken>(&json).0.unwrap();
        prop_assert_eq!(token.metadata.uid.as_deref(), Some("u"));
        prop_assert_eq!(token.metadata.resource_version.as_deref(), Some("7"));
        prop_assert_eq!(token.spec.credential_ref.name, "c");
        let secret = read_as::<PartialObjectMeta<Secret>>(&json).0.unwrap();
        prop_assert_eq!(secret.metadata.name.as_deref(), Some("t"));
    }
}
