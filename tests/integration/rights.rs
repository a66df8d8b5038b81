//! docs/rights.md shows what each of our accounts may do: what the API server says of them when the files in deploy/ are
//! applied and nothing else.

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use control_plane::{ControlPlane, Identity};
use k8s_openapi::api::{
    authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec},
    rbac::v1::PolicyRule,
};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{DEADLINE, Space, World, apply, documents};

crate::tests![the_page_shows_what_each_account_may_do];

/// Whoever sets this has the page written anew.
const REWRITE: &str = "REWRITE_RIGHTS";

/// A part of the page.
struct Part {
    heading: &'static str,
    /// What is applied for it, after all that was applied for those before.
    file: &'static str,
    account: Account,
    /// Where it is asked what the account may do.
    within: &'static str,
}

/// Namespace and name.
type Account = (&'static str, &'static str);

const HOME: &str = "credential-operator";
const CONTROLLER: Account = (HOME, "credential-operator");
const VERIFIER: Account = (HOME, "credential-operator-verifier");
/// Those that deploy/namespaced/rights.yaml has for the namespace orders.
const HOME_OF_ORDERS: &str = "credential-operator-orders";
const CONTROLLER_OF_ORDERS: Account = (HOME_OF_ORDERS, "credential-operator");
const VERIFIER_OF_ORDERS: Account = (HOME_OF_ORDERS, "credential-operator-verifier");

const fn part(heading: &'static str, file: &'static str, account: Account, within: &'static str) -> Part {
    Part { heading, file, account, within }
}

const PARTS: [Part; 8] = [
    part("The controller", "controller.yaml", CONTROLLER, HOME),
    part(
        "The controller with `--service-account-tokens`",
        "service-account-tokens/rights.yaml",
        CONTROLLER,
        HOME,
    ),
    part("The verifier", "verifier.yaml", VERIFIER, HOME),
    part("The verifier with `--introspection`", "verifier-introspection/rights.yaml", VERIFIER, HOME),
    part("The controller of one namespace", "namespaced/rights.yaml", CONTROLLER_OF_ORDERS, "orders"),
    part("The controller of one namespace", "namespaced/rights.yaml", CONTROLLER_OF_ORDERS, HOME_OF_ORDERS),
    part("The verifier of one namespace", "namespaced/rights.yaml", VERIFIER_OF_ORDERS, "orders"),
    part("The verifier of one namespace", "namespaced/rights.yaml", VERIFIER_OF_ORDERS, HOME_OF_ORDERS),
];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The rules that a file has an account bound to, there or everywhere.
fn rules(file: &str, (namespace, name): Account, within: &str) -> Vec<PolicyRule> {
    let documents = documents(&read(&format!("deploy/{file}")));
    let is_there = |metadata: &Value| metadata["namespace"].as_str().is_none_or(|there| there == within);
    let of_account = documents.iter().filter(|binding| {
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        let mut subjects = subjects.map(|subject| (&subject["namespace"], &subject["name"]));
        is_there(&binding["metadata"]) && subjects.any(|subject| subject == (&json!(namespace), &json!(name)))
    });
    let bound = of_account.flat_map(|binding| {
        let is_bound = |role: &&Value| {
            role["kind"] == binding["roleRef"]["kind"]
                && role["metadata"]["name"] == binding["roleRef"]["name"]
                && role["metadata"]["namespace"] == binding["metadata"]["namespace"]
        };
        documents.iter().filter(is_bound)
    });
    let rules = bound.flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default());
    rules.map(|rule| serde_json::from_value(rule).unwrap()).collect()
}

/// What makes a rule, whatever else is in it.
fn said(rule: &impl serde::Serialize) -> String {
    let rule = json!(rule);
    ["apiGroups", "resources", "verbs", "resourceNames"]
        .map(|key| rule[key].as_array().cloned().unwrap_or_default())
        .map(|list| json!(list).to_string())
        .join(" ")
}

/// What the API server says that an account may do there.
async fn reviewed(account: &Identity, namespace: &str) -> BTreeSet<String> {
    let client: Client = account.client().unwrap();
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) };
    let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let reviewed = Api::all(client).create(&PostParams::default(), &review).await.unwrap();
    reviewed.status.unwrap().resource_rules.iter().map(said).collect()
}

/// The part of the page under a heading.
fn under<'a>(page: &'a str, heading: &str) -> &'a str {
    let part = page.split("\n## ").find_map(|part| part.strip_prefix(heading)?.strip_prefix('\n'));
    part.unwrap_or_else(|| panic!("docs/rights.md has no part {heading:?}"))
}

/// The page with these lists in the place of those that it has, one in each part.
fn with_lists(page: &str, lists: &[String]) -> String {
    let (begin, end) = ("```console\n", "```\n");
    let mut parts = page.split(begin);
    let mut fresh = parts.next().unwrap().to_owned();
    for (number, part) in parts.enumerate() {
        let list = lists.get(number).expect("as many lists as there are accounts");
        let (_, after) = part.split_once(end).unwrap();
        fresh += &[begin, list, end, after].concat();
    }
    fresh
}

async fn the_page_shows_what_each_account_may_do(_: Arc<World>, _: Space) {
    let control_plane = ControlPlane::start().await.unwrap();
    let admin = control_plane.admin().client().unwrap();
    let nobody = control_plane.service_account("default", "default").await.unwrap();
    let everybodys = reviewed(&nobody, "default").await;
    let page = read("docs/rights.md");
    let mut lists = Vec::new();
    let mut granted: Vec<(Account, &str, String)> = Vec::new();
    for name in [HOME, HOME_OF_ORDERS, "orders"] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        apply(&admin, "", namespace).await.unwrap();
    }
    for Part { heading, file, account, within } in PARTS {
        for document in documents(&read(&format!("deploy/{file}"))) {
            apply(&admin, "", document).await.unwrap();
        }
        let text = under(&page, heading);
        for rule in rules(file, account, within) {
            granted.push((account, within, said(&rule)));
            narrow(&rule);
            for resource in rule.resources.iter().flatten() {
                assert!(
                    text.contains(&format!("`{resource}`")),
                    "docs/rights.md does not say under {heading:?} why {resource} are needed"
                );
            }
        }
        let (namespace, name) = account;
        let identity = control_plane.service_account(namespace, name).await.unwrap();
        let of_account = granted.iter().filter(|(of, there, _)| (*of, *there) == (account, within));
        let of_account = of_account.map(|(.., rule)| rule.clone());
        let expected: BTreeSet<_> = everybodys.iter().cloned().chain(of_account).collect();
        let deadline = Instant::now() + DEADLINE;
        // The API server takes a role in a moment after it was applied.
        while reviewed(&identity, within).await != expected {
            assert!(Instant::now() < deadline, "{name} has other rights than those in deploy");
            sleep(Duration::from_millis(50)).await;
        }
        let command = format!("auth can-i --list -n {within} --as system:serviceaccount:{namespace}:{name}");
        lists.push(format!("$ kubectl {command} | grep -v '^ '\n{}", kubectl(&control_plane, &command)));
    }
    let fresh = with_lists(&page, &lists);
    if env::var_os(REWRITE).is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rights.md"), fresh).unwrap();
        return;
    }
    assert!(
        page == fresh,
        "docs/rights.md is stale: run `{REWRITE}=1 cargo test --test integration -- rights`"
    );
}

/// No rule is for everything, and roles are bound by name alone.
fn narrow(rule: &PolicyRule) {
    let lists = [rule.api_groups.as_ref(), rule.resources.as_ref(), Some(&rule.verbs)];
    assert!(!lists.into_iter().flatten().flatten().any(|entry| entry.contains('*')), "{rule:?}");
    let named = rule.resource_names.as_ref().is_some_and(|names| !names.is_empty());
    assert!(named || !rule.verbs.iter().any(|verb| ["bind", "escalate", "impersonate"].contains(&&**verb)));
}

fn kubectl(control_plane: &ControlPlane, arguments: &str) -> String {
    let mut command = Command::new(control_plane.kubectl().unwrap());
    command.arg("--kubeconfig").arg(control_plane.admin().kubeconfig()).args(arguments.split(' '));
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    // What is about paths is the same for everybody. Some versions fill the last column up with blanks.
    let lines = lines.lines().filter(|line| !line.starts_with(' '));
    lines.fold(String::new(), |text, line| text + line.trim_end() + "\n")
}
