use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

const ALL: Keys = Keys { named: &[], prefix: "", others: usize::MAX };
const OURS: Keys = Keys { named: &[("ours/a", 8)], prefix: "ours/", others: 40 };
const KEEP: Keep =
    Keep { labels: OURS, annotations: OURS, finalizers: 2, finalizer: "ours/held", truncated: None };

/// The documents of a response that arrives in pieces of this size.
fn read(shape: Shape, keep: Keep, json: &str, piece: usize) -> Result<Vec<Value>, Malformed> {
    let mut pruner = Pruner::new(shape, keep);
    let mut found = Vec::new();
    for bytes in json.as_bytes().chunks(piece) {
        pruner.feed(bytes, &mut |document| {
            found.push(match document {
                Document::Item(json, _) => json.to_vec(),
                Document::Envelope(json) => json,
            });
        })?;
    }
    let read = |json: Vec<u8>| serde_json::from_slice(&json).map_err(|_| Malformed);
    if pruner.is_complete() { found.into_iter().map(read).collect() } else { Err(Malformed) }
}

fn object(metadata: &Value) -> Value {
    json!({"kind": "Any", "metadata": metadata, "spec": {"labels": {"foreign": "stays"}, "managedFields": [7]}})
}

fn pruned(metadata: &Value) -> Value {
    let found = read(Shape::Object, KEEP, &object(metadata).to_string(), 7).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["spec"], object(metadata)["spec"], "only metadata is pruned");
    found[0]["metadata"].clone()
}

#[test]
fn of_foreign_metadata_nothing_is_kept() {
    let metadata = json!({
        "name": "n",
        "uid": "u",
        "managedFields": [{"time": "9999-12-31T23:59:59Z"}],
        "selfLink": "gone",
        "labels": {"foreign": "gone", "ours/a": "b", "ours/c": "d"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"gone\": \"\\\"\"}", "ours/a": "b"},
    });
    let expected = json!({
        "name": "n", "uid": "u", "labels": {"ours/a": "b", "ours/c": "d"}, "annotations": {"ours/a": "b"},
    });
    assert_eq!(pruned(&metadata), expected);
}

#[test]
fn what_is_too_large_is_empty_or_left_out() {
    let long = "x".repeat(100_000);
    let metadata = json!({
        "name": long,
        "uid": "u",
        "labels": {"ours/a": "123456789", "ours/b": long, "ours/c": "c"},
        "annotations": {"ours/b": "b".repeat(30), "ours/a": "b", "ours/c": "c", long.clone(): "gone"},
        "ownerReferences": [{"name": long, "uid": "a", "controller": true}],
    });
    let expected = json!({
        "name": "",
        "uid": "u",
        // After the first key that exceeds the limit, only named keys are retained.
        "labels": {"ours/a": ""},
        "annotations": {"ours/a": "b"},
        "ownerReferences": [],
    });
    let found = pruned(&metadata);
    assert_eq!(found["labels"], expected["labels"]);
    assert_eq!(
        (&found["name"], &found["ownerReferences"]),
        (&expected["name"], &expected["ownerReferences"])
    );
    assert_eq!(found["annotations"]["ours/a"], "b");
    assert!(found.to_string().len() < 300, "{found}");
}

#[test]
fn our_finalizer_is_kept_once_and_others_are_bounded() {
    let many: Vec<_> = (0..9).map(|n| format!("f/{n}")).collect();
    let ours = vec!["ours/held".to_owned(); 1_000];
    let finalizers = |all: &[&[String]]| pruned(&json!({"finalizers": all.concat()}))["finalizers"].clone();
    assert_eq!(finalizers(&[&many, &ours, &many]), json!(["f/0", "f/1", "ours/held"]));
    assert_eq!(finalizers(&[&ours, &many]), json!(["ours/held", "ours/held"]));
    assert_eq!(finalizers(&[&many[..1], &ours]), json!(["f/0", "ours/held"]));
    assert_eq!(finalizers(&[]), json!([]));
}

#[test]
fn of_the_owner_references_the_controller_is_kept() {
    let controller = json!({"uid": "it", "name": "\"controller\":true", "controller": true});
    let others = [
        json!({"uid": "a"}),
        json!({"uid": "b", "controller": false}),
        json!({"uid": "c", "name": "\"controller\":true"}),
    ];
    let owners: Vec<_> = others.iter().chain([&controller]).chain(&others).chain([&controller]).collect();
    assert_eq!(pruned(&json!({"ownerReferences": owners}))["ownerReferences"], json!([controller]));
}

#[test]
fn more_subjects_than_are_kept_are_still_more_than_one() {
    let subjects: Vec<_> = (0..9).map(|n| json!({"name": format!("s{n}")})).collect();
    let json = json!({"metadata": {"name": "b"}, "subjects": subjects, "roleRef": {"name": "r"}});
    let found = read(Shape::Object, KEEP, &json.to_string(), 5).unwrap();
    assert_eq!(found[0]["subjects"], json!([{"name": "s0"}, {"name": "s1"}]));
    assert_eq!(found[0]["roleRef"], json!({"name": "r"}));
}

#[test]
fn a_namespace_with_more_labels_than_are_kept_says_so() {
    let keep = Keep { truncated: Some("ours/truncated"), ..KEEP };
    let few = json!({"metadata": {"labels": {"ours/a": "b", "ours/c": "d"}}});
    assert_eq!(read(Shape::Object, keep, &few.to_string(), 3).unwrap()[0], few);
    let more = json!({"metadata": {"labels": {"ours/a": "b", "ours/c": "c".repeat(60)}}});
    let found = read(Shape::Object, keep, &more.to_string(), 3).unwrap();
    assert_eq!(found[0]["metadata"]["labels"], json!({"ours/truncated": ""}));
    // With the label in the object itself, and with another object after it.
    let own = json!({"metadata": {"labels": {"ours/truncated": "x", "ours/c": "c".repeat(60)}}});
    let list = json!({"items": [own, few], "metadata": {}});
    let found = read(Shape::List, keep, &list.to_string(), 3).unwrap();
    assert_eq!(found[0]["metadata"]["labels"], json!({"ours/truncated": ""}));
    assert_eq!(found[1], few);
}

#[test]
fn a_list_is_its_items_and_what_it_says_of_itself() {
    let item = |name: &str| json!({"metadata": {"name": name, "labels": {}}, "spec": {"items": [1, {"metadata": 2}]}});
    for list in [
        json!({"apiVersion": "v1", "items": [item("a"), 7, null, item("b")], "kind": "List", "metadata": {"continue": "more"}}),
        json!({"kind": "List", "metadata": {"resourceVersion": "7"}, "items": []}),
        json!({"kind": "List", "metadata": {"resourceVersion": "7"}, "items": null}),
    ] {
        for text in [list.to_string(), serde_json::to_string_pretty(&list).unwrap()] {
            let mut found = read(Shape::List, KEEP, &text, 4).unwrap();
            let envelope = found.pop().unwrap();
            assert_eq!((&envelope["kind"], &envelope["metadata"]), (&list["kind"], &list["metadata"]));
            let objects: Vec<_> =
                list["items"].as_array().into_iter().flatten().filter(|item| item.is_object()).collect();
            assert_eq!(found.iter().collect::<Vec<_>>(), objects);
        }
    }
}

#[test]
fn events_come_one_after_the_other() {
    let event =
        |kind: &str, name: &str| json!({"type": kind, "object": {"metadata": {"name": name}, "status": "x"}});
    let events = [event("ADDED", "a"), event("DELETED", "b")];
    let [first, second] = &events;
    let mut text = format!("{first}\n{second}\n");
    assert_eq!(read(Shape::Events, KEEP, &text, 3).unwrap(), events);
    text.push_str("{\"type\":\"ADD");
    assert_eq!(read(Shape::Events, KEEP, &text, 3), Err(Malformed), "it broke off");
}

#[test]
fn what_is_no_json_is_refused() {
    for text in
        ["]", "{]", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "{1:2}", "{\"metadata\":{\"name\":\"n\"}", "{\"a\":1}}"]
    {
        assert_eq!(read(Shape::Object, KEEP, text, 2), Err(Malformed), "{text}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (any::<i32>(), 0..5_u32)
            .prop_map(|(number, digits)| json!(f64::from(number) / f64::from(10_u32.pow(digits)))),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        let keys = prop_oneof![
            Just("metadata".to_owned()),
            Just("items".to_owned()),
            Just("labels".to_owned()),
            ".*"
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(keys, inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The expected object if all labels and annotations are retained.
fn expected(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        let kept = ["labels", "annotations", "finalizers", "ownerReferences"];
        metadata.retain(|key, _| FIELDS.contains(&key.as_str()) || kept.contains(&key.as_str()));
    }
    object
}

proptest! {
    /// For any JSON in pieces of any size, the result is the same as that of a parser.
    #[test]
    fn objects_are_read_as_a_parser_reads_them(
        rest in prop::collection::btree_map("[a-z]{1,8}", any_json(), 0..4),
        labels in prop::collection::btree_map(".{0,20}", "[a-zé\"\\\\]{0,9}", 0..5),
        spec in any_json(),
        piece in 1_usize..64,
        pretty in any::<bool>(),
    ) {
        let keep = Keep { labels: ALL, annotations: ALL, finalizers: usize::MAX, finalizer: "", truncated: None };
        let mut metadata: Map<_, _> = rest.into_iter().collect();
        metadata.insert("labels".to_owned(), json!(labels));
        let object = json!({"spec": spec, "metadata": metadata});
        let text = if pretty { serde_json::to_string_pretty(&object).unwrap() } else { object.to_string() };
        prop_assert_eq!(read(Shape::Object, keep, &text, piece).unwrap(), [expected(&object)]);
        let list = json!({"items": [object, object], "metadata": {"resourceVersion": "1"}});
        let found = read(Shape::List, keep, &list.to_string(), piece).unwrap();
        prop_assert_eq!(&found[..2], &[expected(&object), expected(&object)][..]);
    }
}

#[test]
fn name_of_a_role_is_bounded() {
    let binding = |name: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": name}});
    let read = |name: &str| read(Shape::Object, KEEP, &binding(name).to_string(), 7).unwrap().remove(0);
    assert_eq!(read("view"), binding("view"));
    assert_eq!(read(&"x".repeat(450_000))["roleRef"], json!({}));
}

#[test]
fn size_of_an_object_is_told_as_it_was_before_it_was_pruned() {
    let lean = object(&json!({"name": "a"})).to_string();
    let fat = object(&json!({"name": "b", "labels": {"foreign": "x".repeat(10_000)}})).to_string();
    let list = format!("{{\"kind\":\"List\",\"metadata\":{{}},\"items\":[{lean}, {fat},{lean}]}}");
    let events =
        format!("{{\"type\":\"ADDED\",\"object\":{fat}}}\n{{\"type\":\"ADDED\",\"object\":{lean}}}\n");
    for (shape, answer, expected) in [
        (Shape::Object, fat.clone(), vec![fat.len()]),
        (Shape::List, list, vec![lean.len(), fat.len(), lean.len()]),
        (Shape::Events, events, vec![fat.len(), lean.len()]),
    ] {
        for piece in [1, 7, 100_000] {
            let mut pruner = Pruner::new(shape, KEEP);
            let mut found = Vec::new();
            for bytes in answer.as_bytes().chunks(piece) {
                let sizes = &mut |document| {
                    if let Document::Item(_, size) = document {
                        found.push(size);
                    }
                };
                pruner.feed(bytes, sizes).unwrap();
            }
            // The closing brace of the object, or of the event that it is in, is not counted.
            let expected: Vec<_> =
                expected.iter().map(|size| size - usize::from(shape != Shape::Events)).collect();
            assert_eq!(found, expected, "{shape:?} in pieces of {piece}");
        }
    }
}
