use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::Credential;

const IDS: [&str; 3] = ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"];

fn uid(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

fn token(namespace: &str, name: &str, id: &str, owner: u32) -> Stated {
    let token = json!({
        "metadata": {"name": name, "namespace": namespace, "uid": uid(900), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"credentialRef": {"name": "c"}, "expiresIn": "1y"},
        "status": {
            "serial": 0, "tokenId": id, "credentialUid": uid(owner),
            "digest": format!("hmac-sha256:k:{}", "0".repeat(64)),
        },
    });
    Stated::of_token(&serde_json::from_value(token).unwrap()).remove(0)
}

fn facts() -> Facts {
    Facts::of(&serde_json::from_value::<Credential>(json!({"metadata": {}, "spec": {}})).unwrap())
}

/// Where the records of an id are, and whether the credential of each is there.
fn found(index: &Index, id: &str) -> BTreeSet<(String, String, bool)> {
    let mut found = BTreeSet::new();
    let none = index.find(Id::new(id).unwrap(), |record| {
        let slot = &record.credential;
        let place = (slot.namespace.to_string(), record.name().to_owned(), slot.facts.load().is_some());
        assert!(found.insert(place), "found twice");
        None::<()>
    });
    assert!(none.is_none());
    found
}

#[derive(Clone, Debug)]
enum Event {
    Put { namespace: u8, name: u8, value: Option<(usize, u32)> },
    Credential { namespace: u8, owner: Option<u32> },
    Reread { keep: Vec<bool> },
    RereadCredentials { keep: bool },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0u8..2, 0u8..3, proptest::option::weighted(0.8, (0usize..3, 1u32..3)))
            .prop_map(|(namespace, name, value)| Event::Put { namespace, name, value }),
        3 => (0u8..2, proptest::option::of(1u32..3))
            .prop_map(|(namespace, owner)| Event::Credential { namespace, owner }),
        1 => proptest::collection::vec(any::<bool>(), 6).prop_map(|keep| Event::Reread { keep }),
        1 => any::<bool>().prop_map(|keep| Event::RereadCredentials { keep }),
    ]
}

proptest! {
    /// Whatever the watches bring in whatever order, an id leads to exactly the objects that state it, and none of them is
    /// usable but with its very own credential.
    #[test]
    fn an_id_leads_to_what_states_it(events in proptest::collection::vec(event(), 1..60)) {
        let index = Index::default();
        let mut tokens = BTreeMap::<(u8, u8), (usize, u32)>::new();
        let mut credentials = BTreeMap::<u8, u32>::new();
        let put = |(namespace, name): (u8, u8), value: Option<(usize, u32)>| {
            let (namespace, name) = (format!("n{namespace}"), format!("t{name}"));
            let stated = value.map(|(id, owner)| token(&namespace, &name, IDS[id], owner));
            index.put(Kind::ApiToken, &namespace, &name, stated);
        };
        for event in events {
            match event {
                Event::Put { namespace, name, value } => {
                    put((namespace, name), value);
                    match value {
                        Some(value) => { tokens.insert((namespace, name), value); }
                        None => { tokens.remove(&(namespace, name)); }
                    }
                }
                Event::Credential { namespace, owner } => {
                    let place = format!("n{namespace}");
                    if let Some(owner) = owner {
                        index.put_facts(&place, "c", uid(owner).parse().unwrap(), facts());
                        credentials.insert(namespace, owner);
                    } else {
                        index.remove_facts(&place, "c");
                        credentials.remove(&namespace);
                    }
                }
                Event::Reread { keep } => {
                    index.begin(Reading::ApiTokens, None);
                    let kept: BTreeMap<_, _> = tokens.iter().zip(&keep).filter(|(_, keep)| **keep)
                        .map(|((place, value), _)| (*place, *value)).collect();
                    for (place, value) in &kept {
                        put(*place, Some(*value));
                    }
                    index.end(Reading::ApiTokens, None);
                    tokens = kept;
                }
                Event::RereadCredentials { keep } => {
                    index.begin(Reading::Credentials, None);
                    if !keep {
                        credentials.clear();
                    }
                    for (namespace, owner) in &credentials {
                        index.put_facts(&format!("n{namespace}"), "c", uid(*owner).parse().unwrap(), facts());
                    }
                    index.end(Reading::Credentials, None);
                }
            }
            prop_assert_eq!(index.len(), tokens.len());
            for (number, id) in IDS.iter().enumerate() {
                let expected: BTreeSet<_> = tokens.iter().filter(|(_, (id, _))| *id == number)
                    .map(|((namespace, name), (_, owner))| {
                        let there = credentials.get(namespace) == Some(owner);
                        (format!("n{namespace}"), format!("t{name}"), there)
                    })
                    .collect();
                prop_assert_eq!(found(&index, id), expected, "{}", id);
            }
        }
    }
}

#[test]
fn what_stays_is_found_at_every_moment() {
    let index = Index::default();
    let stop = AtomicBool::new(false);
    index.put(Kind::ApiToken, "n", "t", Some(token("n", "t", IDS[0], 1)));
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let true_one = |record: &SharedRecord| (record.name() == "t").then_some(());
                    assert!(index.find(Id::new(IDS[0]).unwrap(), true_one).is_some(), "lost for a moment");
                }
            });
        }
        for round in 0..3_000u32 {
            // It is stated again, others copy its id, and leave; everything is read anew.
            let copy = format!("copy{}", round % 3);
            index.put(Kind::ApiToken, "n", &copy, Some(token("n", &copy, IDS[0], 1)));
            index.put(Kind::ApiToken, "n", "t", Some(token("n", "t", IDS[0], 1)));
            index.put(Kind::ApiToken, "n", &copy, None);
            if round % 7 == 0 {
                index.begin(Reading::ApiTokens, None);
                index.put(Kind::ApiToken, "n", "t", Some(token("n", "t", IDS[0], 1)));
                index.end(Reading::ApiTokens, None);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(index.len(), 1);
}

#[test]
fn what_nothing_shares_any_more_is_forgotten() {
    let index = Index::default();
    for n in 0..5_000u32 {
        let namespace = format!("n{n}");
        index.put_facts(&namespace, "c", uid(n).parse().unwrap(), facts());
        index.put(Kind::ApiToken, &namespace, "t", Some(token(&namespace, "t", IDS[0], n)));
        index.put(Kind::ApiToken, &namespace, "t", None);
        index.remove_facts(&namespace, "c");
    }
    let writer = index.writer();
    assert!(writer.slots.len() <= TIDY_EVERY as usize && writer.namespaces.len() <= TIDY_EVERY as usize);
    assert!(writer.credentials.is_empty() && index.by_id.is_empty() && index.twins.is_empty());
}

#[test]
fn what_is_gone_is_gone_however_often_a_reading_came_to_no_end() {
    for unended in [0, 1, 2, 255, 256, 511] {
        let index = Index::default();
        index.put_facts("n", "c", uid(1).parse().unwrap(), facts());
        index.put(Kind::ApiToken, "n", "t", Some(token("n", "t", IDS[0], 1)));
        index.put(Kind::ApiToken, "n", "u", Some(token("n", "u", IDS[1], 1)));
        for reading in [Reading::Credentials, Reading::ApiTokens] {
            for attempt in 0..unended {
                index.begin(reading, None);
                // Some of them came to the first page.
                if attempt % 2 == 0 {
                    index.put(Kind::ApiToken, "n", "u", Some(token("n", "u", IDS[1], 1)));
                }
            }
            index.begin(reading, None);
            index.end(reading, None);
        }
        assert!(index.is_empty() && index.by_id.is_empty(), "after {unended}");
        assert!(index.writer().credentials.is_empty(), "after {unended}");
    }
}

/// A credential that states each of these ids, with a value of its own.
fn client_secret(ids: &[&str]) -> Vec<Stated> {
    let value = |(n, id): (usize, &&str)| {
        json!({"serial": n, "id": id, "digest": format!("hmac-sha256:k:{n:064}"),
        "expiresAt": "2027-01-01T00:00:00Z"})
    };
    let mut values: Vec<_> = ids.iter().enumerate().map(value).collect();
    let previous = (values.len() > 1).then(|| values.remove(1));
    let mut material = values.pop().unwrap_or(json!({}));
    material["previous"] = json!(previous);
    let credential = json!({
        "metadata": {"name": "c", "namespace": "n", "uid": uid(1)},
        "spec": {"type": "ClientSecret"},
        "status": {"material": material},
    });
    Stated::of_credential(&serde_json::from_value(credential).unwrap())
}

#[test]
fn two_values_of_one_id_go_as_they_came() {
    let index = Index::default();
    let serials = |id: &str| {
        let mut serials = Vec::new();
        let _ = index.find(Id::new(id).unwrap(), |record| {
            serials.push(record.serial);
            None::<()>
        });
        serials.sort_unstable();
        serials
    };
    let put = |ids: &[&str]| index.put(Kind::ClientSecret, "n", "c", client_secret(ids));
    put(&[IDS[0], IDS[0]]);
    assert_eq!(serials(IDS[0]), [0, 1]);
    put(&[IDS[0], IDS[0]]);
    assert_eq!(serials(IDS[0]), [0, 1]);
    put(&[IDS[0]]);
    assert_eq!(serials(IDS[0]), [0], "the one that is not stated any more");
    put(&[IDS[1], IDS[0]]);
    assert_eq!((serials(IDS[0]), serials(IDS[1])), (vec![1], vec![0]));
    put(&[]);
    assert!(index.by_id.is_empty() && index.twins.is_empty());
}

#[test]
fn what_a_status_names_now_and_then_is_forgotten() {
    let index = Index::default();
    for n in 0..5_000u32 {
        let mut stated = token("n", "t", IDS[0], n);
        stated.key = format!("k{n}");
        index.put(Kind::ApiToken, "n", "t", Some(stated));
    }
    let writer = index.writer();
    let shared = [writer.slots.len(), writer.keys.len()];
    assert!(shared.iter().all(|shared| *shared <= TIDY_EVERY as usize + 1), "{shared:?}");
}

#[test]
fn of_a_namespace_that_is_read_by_itself_nothing_else_is_gone() {
    let index = Index::default();
    for (namespace, id, n) in [("n", IDS[0], 1), ("m", IDS[1], 2)] {
        index.put_facts(namespace, "c", uid(n).parse().unwrap(), facts());
        index.put(Kind::ApiToken, namespace, "t", Some(token(namespace, "t", id, n)));
    }
    for reading in [Reading::Credentials, Reading::ApiTokens] {
        index.begin(reading, Some("n"));
        index.end(reading, Some("n"));
    }
    assert_eq!((index.len(), index.writer().credentials.len()), (1, 1));
    assert!(index.find(Id::new(IDS[1]).unwrap(), |record| (record.name() == "t").then_some(())).is_some());
}
