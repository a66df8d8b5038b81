use kube::core::ObjectMeta;
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-06-01T12:00:00Z";
const OWN: &str = "orders";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn policy(name: &str, spec: Value) -> CredentialPolicy {
    let mut spec = spec;
    spec.as_object_mut().unwrap().entry("namespaceSelector").or_insert(json!({}));
    let mut policy = CredentialPolicy::new(name, serde_json::from_value(spec).unwrap());
    policy.metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    policy
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn credential(spec: Value) -> CredentialSpec {
    serde_json::from_value(spec).unwrap()
}

/// What a policy of that spec says of a credential of that one, with so many before it.
fn said(policy_spec: Value, spec: Value, behind: usize) -> Option<(Severity, String)> {
    let policies = Policies::new(vec![policy("p", policy_spec)], Vec::new());
    let spec = credential(spec);
    let asked = Asked { spec: &spec, namespace: OWN, behind };
    let breach = gravest(policies.within(Some(&Labels::new())).credential(&asked, now()))?;
    Some((breach.severity, breach.message))
}

fn of_token(tokens: &Value, spec: &Value, behind: usize) -> Option<(Severity, String)> {
    let policies = Policies::new(vec![policy("p", json!({"tokens": tokens}))], Vec::new());
    let mut spec = spec.clone();
    spec["credentialRef"] = json!({"name": "c"});
    let spec = serde_json::from_value(spec).unwrap();
    let breach = gravest(policies.within(Some(&Labels::new())).token(&spec, now(), behind))?;
    Some((breach.severity, breach.message))
}

#[test]
fn every_policy_selects_a_namespace_with_more_labels_than_are_kept() {
    let selector =
        json!({"matchLabels": {"team": "orders"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]});
    let policies = Policies::new(vec![policy("p", json!({"namespaceSelector": selector}))], Vec::new());
    let selecting = |labels: &Labels| policies.within(Some(labels)).names().count();
    assert_eq!(selecting(&labels(&[("team", "stock")])), 0);
    assert_eq!(selecting(&labels(&[("team", "stock"), (name::TRUNCATED_LABEL, "")])), 1);
}

#[test]
fn truncated_labels_allow_nothing_that_the_namespace_may_not_have_without_them() {
    // The one policy of the cluster is about another namespace, which nobody can pretend to be.
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": "platform"}});
    let roles = json!([{"kind": "ClusterRole", "name": "view", "clusterWide": true}]);
    let policy = policy("p", json!({"namespaceSelector": selector, "roles": roles}));
    let policies = Policies::new(vec![policy], Vec::new());
    let spec = credential(json!({"roles": [{"kind": "ClusterRole", "name": "view", "clusterWide": true}]}));
    let asked = Asked { spec: &spec, namespace: OWN, behind: 0 };
    let severity = |found: &[(&str, &str)]| {
        gravest(policies.within(Some(&labels(found))).credential(&asked, now())).map(|breach| breach.severity)
    };
    assert_eq!(severity(&[("kubernetes.io/metadata.name", "platform")]), None);
    assert!(severity(&[]).is_some());
    // Whoever writes labels may plant the mark itself, too.
    assert_eq!(severity(&[(name::TRUNCATED_LABEL, "")]), Some(Severity::Unknown));
    assert_eq!(severity(&[(name::TRUNCATED_LABEL, "x"), ("team", "stock")]), Some(Severity::Unknown));
}

#[test]
fn a_selector_is_read_as_kubernetes_reads_it() {
    let team = labels(&[("team", "orders"), ("tier", "gold")]);
    let cases = [
        (json!({}), true),
        (json!({"matchLabels": {"team": "orders"}}), true),
        (json!({"matchLabels": {"team": "orders", "tier": "tin"}}), false),
        (json!({"matchLabels": {"absent": ""}}), false),
        (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["tin", "gold"]}]}), true),
        (json!({"matchExpressions": [{"key": "absent", "operator": "In", "values": ["gold"]}]}), false),
        (json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["gold"]}]}), false),
        (json!({"matchExpressions": [{"key": "absent", "operator": "NotIn", "values": ["gold"]}]}), true),
        (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
        (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
        (
            json!({"matchLabels": {"team": "orders"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}),
            false,
        ),
    ];
    for (selector, expected) in cases {
        let read = serde_json::from_value(selector.clone()).unwrap();
        assert_eq!(selects(&read, &team), expected, "{selector}");
    }
}

#[test]
fn absent_means_all_and_empty_none() {
    let everything = json!({
        "type": "SshKey", "scopes": ["a"], "audiences": ["b"], "roles": [{"kind": "ClusterRole", "name": "view"}],
    });
    assert_eq!(said(json!({}), everything.clone(), 1_000), None);
    for (list, word) in [
        ("types", "type SshKey"),
        ("roles", "ClusterRole view"),
        ("scopes", "scope a"),
        ("audiences", "audience b"),
    ] {
        let (severity, message) = said(json!({list: []}), everything.clone(), 0).unwrap();
        assert_eq!(severity, Severity::Refused);
        assert!(
            message.starts_with("CredentialPolicy p does not allow") && message.contains(word),
            "{message}"
        );
    }
    for (list, word) in
        [("lifetimes", "lifetimes alone: []"), ("deliveries", "delivery by Secret"), ("types", "type Opaque")]
    {
        let (severity, message) = of_token(&json!({list: []}), &json!({"expiresIn": "1h"}), 0).unwrap();
        assert!(severity == Severity::Terms && message.contains(word), "{message}");
    }
    assert_eq!(of_token(&json!({}), &json!({"expiresIn": "10y"}), 1_000), None);
}

#[test]
fn an_entry_that_ends_in_a_star_stands_for_all_that_begin_so() {
    for (pattern, text, expected) in [
        ("view", "view", true),
        ("view", "viewer", false),
        ("view*", "view", true),
        ("view*", "viewer", true),
        ("orders:*", "orders:read", true),
        ("orders:*", "orders", false),
        ("*", "", true),
        ("a*b", "a*b", true),
        ("a*b", "axb", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
    let scopes = json!({"scopes": ["orders:*", "stock:read"]});
    assert_eq!(said(scopes.clone(), json!({"scopes": ["orders:read", "stock:read"]}), 0), None);
    assert!(
        said(scopes, json!({"scopes": ["orders:read", "stock:write"]}), 0).unwrap().1.contains("stock:write")
    );
}

#[test]
fn who_names_no_audience_has_the_default_one() {
    let audiences = json!({"audiences": ["https://orders.example"]});
    let (_, message) = said(audiences.clone(), json!({}), 0).unwrap();
    assert!(
        message.contains("audience credential-operator, which a credential has that names none"),
        "{message}"
    );
    assert_eq!(said(audiences.clone(), json!({"audiences": []}), 0), None);
    assert_eq!(said(audiences, json!({"audiences": ["https://orders.example"]}), 0), None);
}

#[test]
fn a_grant_elsewhere_needs_an_entry_for_it() {
    let view = |more: Value| {
        let mut grant = json!({"kind": "ClusterRole", "name": "view"});
        grant.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"roles": [grant]})
    };
    let here = view(json!({}));
    let spelt_out = view(json!({"namespace": OWN}));
    let there = view(json!({"namespace": "stock"}));
    let everywhere = view(json!({"clusterWide": true}));
    // Whether each of them is allowed by these roles.
    for (roles, expected) in [
        (json!(null), [true, true, false, false]),
        (json!([]), [false, false, false, false]),
        (here["roles"].clone(), [true, true, false, false]),
        (json!([{"kind": "Role", "name": "view"}]), [false, false, false, false]),
        (json!([{"kind": "ClusterRole", "name": "*", "namespaces": ["stock"]}]), [true, true, true, false]),
        (json!([{"kind": "ClusterRole", "name": "v*", "namespaces": ["*"]}]), [true, true, true, false]),
        (
            json!([{"kind": "ClusterRole", "name": "view", "namespaces": ["else"]}]),
            [true, true, false, false],
        ),
        (json!([{"kind": "ClusterRole", "name": "view", "clusterWide": true}]), [true, true, false, true]),
    ] {
        for (grant, expected) in [&here, &spelt_out, &there, &everywhere].into_iter().zip(expected) {
            assert_eq!(
                said(json!({"roles": roles}), grant.clone(), 0).is_none(),
                expected,
                "{roles} {grant}"
            );
        }
    }
    // Nor is it allowed where no policy selects the namespace.
    for (grant, word) in
        [(&here, None), (&there, Some("in namespace stock")), (&everywhere, Some("in the whole cluster"))]
    {
        let elsewhere = json!({"namespaceSelector": {"matchLabels": {"a": "b"}}, "roles": [
            {"kind": "ClusterRole", "name": "*", "clusterWide": true, "namespaces": ["*"]},
        ]});
        let message = said(elsewhere, grant.clone(), 0).map(|(_, message)| message);
        assert_eq!(message.is_some(), word.is_some(), "{grant}: {message:?}");
        assert!(word.is_none_or(|word| message.is_some_and(|message| message.contains(word))));
    }
}

#[test]
fn who_is_over_the_count_gets_nothing_new() {
    let limit = json!({"maxCredentials": 2});
    assert_eq!(said(limit.clone(), json!({}), 1), None);
    let (severity, message) = said(limit, json!({}), 2).unwrap();
    assert!(severity == Severity::Count && message.contains("allows 2 credentials"), "{message}");
    let limit = json!({"maxPerCredential": 1});
    assert_eq!(of_token(&limit, &json!({"expiresIn": "1h"}), 0), None);
    assert_eq!(of_token(&limit, &json!({"expiresIn": "1h"}), 1).unwrap().0, Severity::Count);
    // What is graver is told first.
    let both = json!({"maxCredentials": 0, "types": []});
    assert_eq!(said(both, json!({}), 0).unwrap().0, Severity::Refused);
}

#[test]
fn the_oldest_come_first_then_the_first_by_name_and_who_has_keeps_it() {
    let at = |second: i64| Some(Timestamp::from_second(second).unwrap());
    let standing = |asks, second, name| Standing { asks, created_at: at(second), name };
    let order = [
        standing(false, 2, "has-long"),
        standing(false, 3, "has"),
        standing(true, 1, "asks-long"),
        standing(true, 2, "asks-a"),
        standing(true, 2, "asks-b"),
    ];
    let mut sorted = order;
    sorted.reverse();
    sorted.sort();
    assert_eq!(sorted, order);
}

#[test]
fn a_life_is_bounded_by_what_makes_it_end() {
    let max = json!({"maxLifetime": "30d", "lifetimes": ["1d", "30d", "1y"]});
    let cases = [
        (json!({"expiresIn": "30d"}), None),
        (json!({"expiresIn": "720h"}), None),
        (json!({"expiresIn": "1y"}), Some("allows a value to live 30d")),
        (json!({"expiresIn": "2d"}), Some("these lifetimes alone: [1d, 30d, 1y]")),
        (json!({"expiresAt": "2026-06-03T12:00:00Z"}), None),
        (json!({"expiresAt": "2026-07-01T12:00:01Z"}), Some("allows a value to live 30d")),
    ];
    for (spec, expected) in cases {
        let message = of_token(&max, &spec, 0).map(|(_, message)| message);
        assert_eq!(message.is_some(), expected.is_some(), "{spec}: {message:?}");
        assert!(expected.is_none_or(|expected| message.is_some_and(|message| message.contains(expected))));
    }
    assert!(
        of_token(&json!({"lifetimes": ["1d"]}), &json!({"expiresAt": "2026-06-03T12:00:00Z"}), 0).is_some()
    );
}

#[test]
fn a_client_secret_must_end_too() {
    let limit = || json!({"tokens": {"maxLifetime": "30d"}});
    let cases = [
        (json!({"type": "ClientSecret"}), false),
        (json!({"type": "ClientSecret", "rotation": {"every": "30d"}}), true),
        (json!({"type": "ClientSecret", "rotation": {"every": "30d", "overlap": "1h"}}), false),
        (
            json!({"type": "ClientSecret", "rotation": {"every": "1y"}, "expiresAt": "2026-06-20T00:00:00Z"}),
            true,
        ),
        (json!({"type": "ClientSecret", "provided": {"secretRef": {"name": "s"}}}), false),
        (json!({"type": "SshKey"}), true),
        (json!({}), true),
    ];
    for (spec, expected) in cases {
        let said = said(limit(), spec.clone(), 0);
        assert_eq!(said.is_none(), expected, "{spec}: {said:?}");
        assert!(said.is_none_or(|(severity, _)| severity == Severity::Terms));
    }
    // A credential that ends heals by itself once its end is near.
    let policies = Policies::new(vec![policy("p", limit())], Vec::new());
    let spec = credential(json!({"type": "ClientSecret", "expiresAt": "2026-07-02T12:00:00Z"}));
    let asked = Asked { spec: &spec, namespace: OWN, behind: 0 };
    let rules = policies.within(Some(&Labels::new()));
    let breach = gravest(rules.credential(&asked, now())).unwrap();
    assert_eq!(breach.until, Some("2026-06-02T12:00:00Z".parse().unwrap()));
    assert_eq!(gravest(rules.credential(&asked, breach.until.unwrap())), None);
}

#[test]
fn what_is_not_known_allows_nothing_new_and_takes_nothing() {
    let outside =
        credential(json!({"roles": [{"kind": "ClusterRole", "name": "view", "clusterWide": true}]}));
    let asked = Asked { spec: &outside, namespace: OWN, behind: 0 };
    let unreadable = Policies::new(Vec::new(), vec!["odd".to_owned()]);
    let breach = gravest(unreadable.within(Some(&Labels::new())).credential(&asked, now())).unwrap();
    assert_eq!((breach.severity, breach.reason()), (Severity::Unknown, Reason::Pending));
    assert!(breach.message.contains("CredentialPolicy odd cannot be read"));
    // Of a namespace whose labels are not known, those that select all are known to hold.
    let all = policy("all", json!({"types": ["Token"], "roles": []}));
    let some = policy("some", json!({"namespaceSelector": {"matchLabels": {"a": "b"}}}));
    let policies = Policies::new(vec![some, all.clone()], Vec::new());
    assert_eq!(gravest(policies.within(None).credential(&asked, now())).unwrap().severity, Severity::Refused);
    let inside = credential(json!({}));
    let asked = Asked { spec: &inside, ..asked };
    assert_eq!(gravest(policies.within(None).credential(&asked, now())).unwrap().severity, Severity::Unknown);
    let policies = Policies::new(vec![all], Vec::new());
    assert_eq!(gravest(policies.within(None).credential(&asked, now())), None);
}

fn subset(of: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<String>>> {
    option::of(vec(select(of), 0..3).prop_map(|list| list.into_iter().map(str::to_owned).collect()))
}

prop_compose! {
    fn entries()(
        name in select(&["view", "vi*", "*"][..]),
        cluster_wide in any::<bool>(),
        namespaces in subset(&["stock", "*"]),
    ) -> Value {
        json!({"kind": "ClusterRole", "name": name, "clusterWide": cluster_wide, "namespaces": namespaces.unwrap_or_default()})
    }
}

prop_compose! {
    fn policies()(
        name in select(&["a", "b", "c"][..]),
        selector in select(&["orders", "stock", "any"][..]),
        types in subset(&["Token", "SshKey", "ClientSecret"]),
        roles in option::of(vec(entries(), 0..3)),
        scopes in subset(&["orders:*", "a", "*"]),
        audiences in subset(&["credential-operator", "x"]),
        max in option::of(0..3i64),
        tokens in (subset(&["1h", "30d"]), option::of(select(&["1h", "30d"][..])), option::of(0..3i64)),
    ) -> CredentialPolicy {
        let labels = if selector == "any" { json!({}) } else { json!({"matchLabels": {"team": selector}}) };
        let mut spec = json!({"namespaceSelector": labels});
        let mut set = |key: &str, value: Option<Value>| spec.as_object_mut().unwrap().extend(value.map(|value| (key.to_owned(), value)));
        set("types", types.map(|list| json!(list)));
        set("roles", roles.map(|list| json!(list)));
        set("scopes", scopes.map(|list| json!(list)));
        set("audiences", audiences.map(|list| json!(list)));
        set("maxCredentials", max.map(|max| json!(max)));
        let (lifetimes, max_lifetime, max_tokens) = tokens;
        let mut of_tokens = json!({});
        let mut set = |key: &str, value: Option<Value>| of_tokens.as_object_mut().unwrap().extend(value.map(|value| (key.to_owned(), value)));
        set("lifetimes", lifetimes.map(|list| json!(list)));
        set("maxLifetime", max_lifetime.map(|max| json!(max)));
        set("maxPerCredential", max_tokens.map(|max| json!(max)));
        spec["tokens"] = of_tokens;
        policy(name, spec)
    }
}

prop_compose! {
    fn credentials()(
        of_type in select(&["Token", "SshKey", "ClientSecret"][..]),
        targets in vec(select(&["own", "stock", "cluster"][..]), 0..3),
        scopes in subset(&["orders:read", "a", "b"]),
        audiences in subset(&["x", "y"]),
    ) -> CredentialSpec {
        let roles: Vec<_> = targets.iter().map(|target| match *target {
            "own" => json!({"kind": "ClusterRole", "name": "view"}),
            "stock" => json!({"kind": "ClusterRole", "name": "view", "namespace": "stock"}),
            _ => json!({"kind": "ClusterRole", "name": "view", "clusterWide": true}),
        }).collect();
        let mut spec = credential(json!({"type": of_type, "roles": roles}));
        (spec.scopes, spec.audiences) = (scopes, audiences);
        spec
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn adding_a_policy_never_widens(
        before in vec(policies(), 0..4),
        added in policies(),
        spec in credentials(),
        behind in 0..4usize,
        life in select(&["1h", "2h", "30d", "1y"][..]),
    ) {
        let labels = labels(&[("team", OWN)]);
        let after = Policies::new(before.iter().cloned().chain([added.clone()]).collect(), Vec::new());
        let before = Policies::new(before, Vec::new());
        let (few, more) = (before.within(Some(&labels)), after.within(Some(&labels)));
        let asked = Asked { spec: &spec, namespace: OWN, behind };
        let (said, says) = (few.credential(&asked, now()), more.credential(&asked, now()));
        if few.names().next().is_some() {
            // All that was said against it still is.
            prop_assert!(said.iter().all(|breach| says.contains(breach)));
        } else if !said.is_empty() && says.is_empty() {
            // The first policy allows grants elsewhere, and only such as it names.
            let named = added.spec.roles.clone().unwrap_or_default();
            let outside = spec.roles.iter().filter(|grant| is_outside(grant, OWN));
            for grant in outside {
                prop_assert!(named.iter().any(|entry| allows(entry, grant, OWN)));
            }
            let mut within = spec.clone();
            within.roles.retain(|grant| !is_outside(grant, OWN));
            let asked = Asked { spec: &within, ..asked };
            prop_assert!(few.credential(&asked, now()).is_empty());
        }
        let token: ApiTokenSpec = serde_json::from_value(json!({"credentialRef": {"name": "c"}, "expiresIn": life})).unwrap();
        let says = more.token(&token, now(), behind);
        prop_assert!(few.token(&token, now(), behind).iter().all(|breach| says.contains(breach)));
    }

    #[test]
    fn in_whatever_order_they_come_they_say_the_same(all in vec(policies(), 0..4), spec in credentials(), behind in 0..4usize) {
        let labels = labels(&[("team", OWN)]);
        let asked = Asked { spec: &spec, namespace: OWN, behind };
        // Of one name there is one.
        let mut all = all;
        all.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
        all.dedup_by(|one, other| one.metadata.name == other.metadata.name);
        let backwards = Policies::new(all.iter().rev().cloned().collect(), Vec::new());
        let forwards = Policies::new(all, Vec::new());
        let say = |policies: &Policies| gravest(policies.within(Some(&labels)).credential(&asked, now()));
        prop_assert_eq!(say(&forwards), say(&backwards));
    }
}
