//! What the charts say, without a cluster: sound, with the rights of deploy/, and what is not tried otherwise.

use std::{collections::BTreeSet, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    CHART, CRDS, HOME, HOME_OF_ORDERS,
    helm::{render, template},
};

pub fn documents(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(yaml).map(|each| Value::deserialize(each).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

fn deployed(files: &[&str]) -> Vec<Value> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    files.iter().flat_map(|file| documents(&fs::read_to_string(here.join(file)).unwrap())).collect()
}

/// What rules allow, one by one: group, resource, name, verb.
fn allowed(role: &Value) -> BTreeSet<[String; 4]> {
    let list = |rule: &Value, key: &str| {
        let list = rule[key].as_array().cloned().unwrap_or_default();
        list.iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut allowed = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let names = if rule.get("resourceNames").is_some() {
            list(rule, "resourceNames")
        } else {
            vec!["any".to_owned()]
        };
        assert!(!names.is_empty(), "a rule of no names is one of all names: {rule}");
        for group in list(rule, "apiGroups") {
            for resource in list(rule, "resources") {
                for name in &names {
                    for verb in list(rule, "verbs") {
                        allowed.insert([group.clone(), resource.clone(), name.clone(), verb]);
                    }
                }
            }
        }
    }
    allowed
}

/// Which account may do what where, whatever the roles are called.
fn rights(objects: &[Value]) -> BTreeSet<(String, String, [String; 4])> {
    let mut rights = BTreeSet::new();
    for binding in objects.iter().filter(|object| object["kind"].as_str().unwrap().ends_with("Binding")) {
        let is_bound = |role: &&Value| {
            role["kind"] == binding["roleRef"]["kind"]
                && role["metadata"]["name"] == binding["roleRef"]["name"]
                && role["metadata"]["namespace"] == binding["metadata"]["namespace"]
        };
        let role = objects.iter().find(is_bound).unwrap();
        let place = binding["metadata"]["namespace"].as_str().unwrap_or("everywhere");
        for subject in binding["subjects"].as_array().unwrap() {
            let account = format!("{}:{}", subject["namespace"], subject["name"]);
            for right in allowed(role) {
                rights.insert((account.clone(), place.to_owned(), right));
            }
        }
    }
    assert!(!rights.is_empty());
    rights
}

/// Roles that are bound to nobody: name, what they are part of, rights.
fn people(objects: &[Value]) -> BTreeSet<(String, Vec<String>, BTreeSet<[String; 4]>)> {
    let bound: BTreeSet<_> = objects.iter().filter_map(|object| object["roleRef"]["name"].as_str()).collect();
    let roles = objects.iter().filter(|object| object["kind"] == "ClusterRole");
    let roles = roles.filter(|role| !bound.contains(role["metadata"]["name"].as_str().unwrap()));
    roles
        .map(|role| {
            let labels = role["metadata"]["labels"].as_object().cloned().unwrap_or_default();
            let part_of = labels.into_iter().map(|(label, _)| label);
            let part_of = part_of.filter(|label| label.starts_with("rbac.authorization.k8s.io/")).collect();
            (role["metadata"]["name"].as_str().unwrap().to_owned(), part_of, allowed(role))
        })
        .collect()
}

#[test]
fn charts_are_sound_and_typos_are_errors() {
    for chart in [CRDS, CHART] {
        let said = render(&["lint", "--strict", chart]).unwrap();
        assert!(said.contains("0 chart(s) failed"), "{said}");
    }
    for (values, complaint) in [
        ("controler.replicas=1", "additional properties 'controler' not allowed"),
        ("controller.replica=1", "additional properties 'replica' not allowed"),
        ("verifier.tls.generated.durations=90d", "additional properties 'durations' not allowed"),
        ("controller.replicas=two", "got string, want integer"),
        ("verifier.tls.mode=none", "value must be one of 'generated', 'certManager', 'secret'"),
        ("verifier.tls.mode=secret", "needs verifier.tls.secret.name"),
        ("verifier.tls.mode=certManager", "needs verifier.tls.certManager.issuerRef.name"),
        ("watchNamespaces={orders}", "verifier.tls.mode generated does not go with watchNamespaces"),
        ("watchNamespaces={credential-operator}", "where the keyring lives"),
        ("image.digest=latest", "does not match pattern"),
        (r"controller.podLabels.app\.kubernetes\.io/name=other", "app.kubernetes.io/name"),
    ] {
        let refused = template(HOME, &["--set", values]).unwrap_err();
        assert!(refused.contains(complaint), "{values}: {refused}");
    }
    let refused =
        render(&["template", CRDS, "--set", "controllerAccounts={credential-operator}"]).unwrap_err();
    assert!(refused.contains("does not match pattern"), "{refused}");
    render(&["template", CRDS, "--set", "controllerAccount=a:b"]).unwrap_err();
}

#[test]
fn rights_are_those_of_deploy() {
    let render = |namespace, set: &str| documents(&template(namespace, &["--set", set]).unwrap());
    let plain = render(HOME, "serviceMonitor.enabled=true");
    let deploy = deployed(&["controller.yaml", "verifier.yaml"]);
    assert_eq!(rights(&plain), rights(&deploy));
    assert_eq!(people(&plain), people(&deployed(&["roles.yaml"])));
    assert!(people(&render(HOME, "rbac.people=false")).is_empty());

    let all = render(HOME, "controller.serviceAccountTokens=true,verifier.introspection=true");
    let more = deployed(&["service-account-tokens/rights.yaml", "verifier-introspection/rights.yaml"]);
    assert_eq!(rights(&all), rights(&[deploy, more].concat()));

    let within = "watchNamespaces={orders},verifier.tls.mode=secret,verifier.tls.secret.name=given";
    assert_eq!(rights(&render(HOME_OF_ORDERS, within)), rights(&deployed(&["namespaced/rights.yaml"])));

    let none = template(HOME, &["--set-json", "controller.bindableClusterRoles=[]"]).unwrap();
    assert!(!none.contains("[bind]"));
}

#[test]
fn kinds_of_others_are_as_they_are_to_be() {
    let mode = "serviceMonitor.enabled=true,serviceMonitor.labels.release=prometheus,verifier.tls.mode=certManager,\
                verifier.tls.certManager.issuerRef.name=authority";
    let objects = documents(&template(HOME, &["--set", mode]).unwrap());
    let of_kind = |kind: &str| {
        let mut found = objects.iter().filter(|object| object["kind"] == kind);
        let first = found.next().unwrap().clone();
        assert!(found.next().is_none());
        first
    };
    let certificate = of_kind("Certificate");
    assert_eq!(certificate["spec"]["secretName"], "credential-operator-verifier-tls");
    assert_eq!(certificate["spec"]["dnsNames"][2], "credential-operator-verifier.credential-operator.svc");
    assert_eq!(certificate["spec"]["issuerRef"]["name"], "authority");
    let monitor = of_kind("ServiceMonitor");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let selected = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let with_metrics = objects.iter().filter(|object| {
        let mut ports = object["spec"]["ports"].as_array().into_iter().flatten();
        object["kind"] == "Service" && ports.any(|port| port["name"] == "metrics")
    });
    let labels: Vec<_> = with_metrics.map(|service| &service["metadata"]["labels"]).collect();
    assert_eq!(labels.len(), 2);
    assert!(labels.iter().all(|labels| selected.iter().all(|(key, value)| labels[key] == *value)));
    assert!(!objects.iter().any(|object| object["kind"] == "Credential"));
}

/// Where YAML takes names for numbers, they are names all the same.
#[test]
fn names_may_be_digits() {
    let names = ["--namespace", "456", "--set-string", "watchNamespaces={789},verifier.tls.secret.name=1e3"];
    let more = ["--set", "verifier.tls.mode=secret", "--set-string", "controller.priorityClassName=123"];
    let objects =
        documents(&render(&[&["template", "0123", CHART], &names[..], &more[..]].concat()).unwrap());
    let mut seen = BTreeSet::new();
    for object in &objects {
        for pointer in [
            "/metadata/namespace",
            "/metadata/labels/app.kubernetes.io~1instance",
            "/spec/template/spec/priorityClassName",
            "/spec/template/spec/volumes/0/secret/secretName",
            "/subjects/0/namespace",
        ] {
            if let Some(name) = object.pointer(pointer) {
                seen.insert(name.as_str().unwrap_or_else(|| panic!("{pointer} of {object}")));
            }
        }
    }
    assert_eq!(seen, ["0123", "123", "1e3", "456", "789"].into());
    template(HOME, &["--set", "verifier.podAnnotations=null"]).unwrap();
}

#[test]
fn what_pods_are_given_the_one_that_uninstalls_has_too() {
    let dress = r"controller.podLabels.team=shop,controller.podAnnotations.sidecar\.istio\.io/inject=false";
    let objects = documents(&template(HOME, &["--set-string", dress]).unwrap());
    let job = objects.iter().find(|object| object["kind"] == "Job").unwrap();
    let metadata = &job["spec"]["template"]["metadata"];
    assert_eq!(metadata["labels"]["team"], "shop");
    assert_eq!(metadata["annotations"]["sidecar.istio.io/inject"], "false");
}
