//! The charts, by a real Helm on a control plane whose kubelet runs their pods: installed, upgraded, rolled back, uninstalled and
//! installed again; and deploy/, which is rendered from them, by kustomize. It is no part of `cargo test`; tests/external/install
//! builds Helm.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod deploy;
mod helm;
mod rendered;
mod versions;
mod world;

use std::{fs, path::Path, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedKey, IsCa, KeyPair};
use serde_json::Value;

use helm::template;
use world::World;

/// Generous: it only has to tell a hang from work. Garbage collection looks for new kinds of owners every 30 seconds.
const DEADLINE: Duration = Duration::from_mins(2);
const WAIT: [&str; 2] = ["--wait", "--timeout=120s"];

const CRDS: &str = "charts/credential-operator-crds";
const CHART: &str = "charts/credential-operator";
const HOME: &str = "credential-operator";
const KEYRING: &str = "credential-operator-keyring";
/// The home of an operator for some namespaces alone, as deploy/namespaced has it.
const HOME_OF_ORDERS: &str = "credential-operator-orders";
const ACCOUNTS: &str = "controllerAccounts={credential-operator:credential-operator,\
                        credential-operator-orders:credential-operator}";

/// A credential that is bound outside its namespace, and a token of it.
const SHOP: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: monitoring}}
---
apiVersion: credential-operator.io/v1alpha1
kind: CredentialPolicy
metadata: {name: shop}
spec:
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}
  roles: [{kind: ClusterRole, name: view, namespaces: [monitoring]}]
---
apiVersion: credential-operator.io/v1alpha1
kind: Credential
metadata: {name: shop, namespace: shop}
spec:
  description: The shop
  roles: [{kind: ClusterRole, name: view}, {kind: ClusterRole, name: view, namespace: monitoring}]
---
apiVersion: credential-operator.io/v1alpha1
kind: ApiToken
metadata: {name: shop, namespace: shop}
spec: {credentialRef: {name: shop}, expiresIn: 30d}
";

/// Where an operator does not work but in some namespaces.
const ORDERS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: orders}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: stock}}
---
apiVersion: v1
kind: Namespace
metadata:
  name: credential-operator-orders
  labels: {pod-security.kubernetes.io/enforce: restricted}
";

/// What an operator for some namespaces has to do there.
const STOCK: &str = "
apiVersion: credential-operator.io/v1alpha1
kind: Credential
metadata: {name: stock, namespace: stock}
spec: {description: The stock, roles: [{kind: ClusterRole, name: view}]}
---
apiVersion: credential-operator.io/v1alpha1
kind: ApiToken
metadata: {name: stock, namespace: stock}
spec: {credentialRef: {name: stock}, expiresIn: 30d}
";

const ROUTE: &str =
    r#"verifier.routes=[{"name":"orders","audiences":["https://orders.example"],"scopes":["orders:read"]}]"#;

/// What pods are dressed in.
const DRESS: &str = r#"
imagePullSecrets: [{name: registry}]
controller:
  podAnnotations: {example.com/note: "{{ not a template }}"}
  podLabels: {team: platform}
  priorityClassName: system-cluster-critical
  nodeSelector: {kubernetes.io/os: linux}
  tolerations: [{key: infra, operator: Exists, effect: NoSchedule}]
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - {weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {team: platform}}}}
  topologySpreadConstraints:
  - {topologyKey: rack, maxSkew: 1, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {team: platform}}}
  resources: {requests: {memory: 200Mi}}
  extraArgs: [--token-prefix=acme]
verifier:
  podAnnotations: {example.com/note: "{{ not a template }}"}
  podLabels: {team: platform}
  priorityClassName: system-cluster-critical
  nodeSelector: {kubernetes.io/os: linux}
  tolerations: [{key: infra, operator: Exists, effect: NoSchedule}]
  resources: {}
  service: {port: 443, annotations: {example.com/note: "yes"}}
  extraArgs: [--max-staleness=60s, --stop-after=1s]
networkPolicy:
  apiServerPorts: [6443]
  verifierFrom: [{namespaceSelector: {matchLabels: {gateway: "true"}}}]
  metricsFrom: [{namespaceSelector: {}, podSelector: {matchLabels: {app: prometheus}}}]
"#;

/// Values, tried on a fresh installation.
struct Combination {
    what: &'static str,
    values: &'static [&'static str],
    /// What is to be seen in the Deployments then.
    seen: &'static str,
    /// What the verifiers say to a token that is none, at a path.
    says: Option<(&'static str, &'static str)>,
}

const fn combination(
    what: &'static str,
    values: &'static [&'static str],
    seen: &'static str,
    says: Option<(&'static str, &'static str)>,
) -> Combination {
    Combination { what, values, seen, says }
}

/// In the place of the name of the file that says [`DRESS`].
const DRESS_FILE: &str = "DRESS";

const COMBINATIONS: [Combination; 12] = [
    combination("defaults", &[], "--log-format=text", Some(("/introspect", "404"))),
    combination("one of each", &["--set", "controller.replicas=1,verifier.replicas=1"], "", None),
    combination("no verifier", &["--set", "verifier.enabled=false"], "", None),
    combination(
        "introspection",
        &["--set", "verifier.introspection=true"],
        "--introspection",
        Some(("/introspect", "405")),
    ),
    combination(
        "tokens of the API server",
        &["--set", "controller.serviceAccountTokens=true"],
        "--service-account-tokens",
        None,
    ),
    combination(
        "a certificate of the user",
        &["--set", "verifier.tls.mode=secret,verifier.tls.secret.name=given"],
        r#""secretName":"given""#,
        None,
    ),
    combination(
        "a certificate by an authority of the user",
        &["--set", "verifier.tls.generated.issuerSecret=authority,verifier.tls.dnsNames={verifier.example}"],
        "",
        Some(("/forward-auth", "401")),
    ),
    combination("routes", &["--set-json", ROUTE], "--routes=", Some(("/forward-auth/orders", "401"))),
    combination(
        "nothing that others would have to enforce",
        &["--set", "networkPolicy.enabled=false,podDisruptionBudget.enabled=false,rbac.people=false"],
        "",
        Some(("/forward-auth/orders", "404")),
    ),
    combination(
        "an image by its digest",
        &["--set", "image.digest=sha256:1a2b3c4d5e6f70811a2b3c4d5e6f70811a2b3c4d5e6f70811a2b3c4d5e6f7081"],
        "credential-operator@sha256:1a2b",
        None,
    ),
    combination(
        "logs as JSON, no roles to bind",
        &[
            "--set",
            r"log.format=json,log.level=info\,credential_operator=debug",
            "--set-json",
            "controller.bindableClusterRoles=[]",
        ],
        "--log=info,credential_operator=debug",
        None,
    ),
    combination("pods dressed", &["--values", DRESS_FILE], "--token-prefix=acme", None),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_release_comes_changes_goes_and_comes_again() {
    let world = World::start().await;
    world.crds();
    // What was refused half-way may be tried again.
    let wrong = ["--set", "verifier.tls.dnsNames={verifier.*}"];
    let refused = world.helm(HOME, &[&["install", "credential-operator", CHART], &wrong[..]].concat());
    assert!(refused.unwrap_err().contains("spec.tls.dnsNames"));
    let notes = world.install(HOME, &[]).await;
    // The commands that it tells to give next.
    let commands: Vec<_> = notes.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let script = format!("kubectl() {{ '{}' \"$@\"; }}\n{}", world.kubectl.display(), commands.join("\n"));
    let said = world.run(Path::new("bash"), &["-euc", &script], "").unwrap();
    assert!(said.contains("cop_") && said.contains("credential.credential-operator.io/first"), "{said}");
    let token = world.shop();
    world.accepted(&token, 2).await;
    let told = world.asked(&token, "/introspect");
    assert_eq!(told, ["404"; 2]);

    // Applied by hand as by Helm, it is the same, and nothing is written a second time.
    let rendered = template(HOME, &["--no-hooks"]).unwrap();
    world.apply(&rendered);
    let before = world.versions(&rendered);
    assert!(before.lines().count() > 25, "{before}");
    world.apply(&rendered);
    assert_eq!(world.versions(&rendered), before);

    let upgrade = ["upgrade", "credential-operator", CHART, "--set", "log.format=json,verifier.replicas=3"];
    // Whoever applied it by hand owns it, too.
    world.helm(HOME, &[&upgrade[..], &["--force-conflicts"], &WAIT[..]].concat()).unwrap();
    world.accepted(&token, 3).await;
    let pod = world.names("pods", HOME);
    let logs = |text: &str| {
        let logs = pod.iter().map(|pod| world.kubelet.log(HOME, pod, "verifier").unwrap());
        logs.filter(|log| log.lines().next().is_some_and(|line| line.starts_with(text))).count()
    };
    assert_eq!(logs("{"), 3);
    world
        .helm(HOME, &[&["rollback", "credential-operator", "--force-conflicts"], &WAIT[..]].concat())
        .unwrap();
    world.accepted(&token, 2).await;

    let elsewhere = || world.names("rolebindings", "monitoring");
    let finalizers = ["get", "credentials", "-A", "-o", "jsonpath={.items[*].metadata.finalizers}"];
    assert_eq!(elsewhere().len(), 1);
    assert!(world.kubectl(&finalizers).contains("credential-operator.io/bindings"));
    // What cannot be taken away keeps all else from going; once it can, it goes on.
    let bind_to = |account: &str| {
        let patch = format!(r#"[{{"op": "replace", "path": "/subjects/0/name", "value": "{account}"}}]"#);
        let binding =
            ["patch", "rolebinding", "credential-operator", "-n", HOME, "--type=json", "-p", &patch];
        world.kubectl(&binding);
    };
    bind_to("nobody");
    world.helm(HOME, &["uninstall", "credential-operator", "--timeout=5s"]).unwrap_err();
    assert_eq!(world.names("deployments,leases", HOME).len(), 3);
    assert_eq!(elsewhere().len(), 1);
    bind_to("credential-operator");
    world.helm(HOME, &[&["uninstall", "credential-operator"], &WAIT[..]].concat()).unwrap();
    world.helm(HOME, &[&["uninstall", "credential-operator-crds"], &WAIT[..]].concat()).unwrap();
    assert_eq!(elsewhere(), Vec::<String>::new());
    assert_eq!(world.kubectl(&finalizers), "");
    world.until("that the pods are gone", || world.names("pods", HOME).is_empty()).await;
    // What the chart brought is gone with it, but for what is kept: also the certificate, which is the verifier's.
    world.until("the end of the certificate", || world.names("secrets", HOME) == [KEYRING]).await;
    for (kind, count) in
        [("leases", 0), ("jobs", 0), ("services", 0), ("networkpolicies", 0), ("credentials", 0)]
    {
        assert_eq!(world.names(kind, HOME).len(), count, "{kind}");
    }
    let definitions = world.names("customresourcedefinitions", HOME);
    assert_eq!(definitions.iter().filter(|name| name.ends_with(".credential-operator.io")).count(), 3);
    assert_eq!(
        world.names("validatingadmissionpolicies", HOME).len(),
        credential_operator::admission::names().len()
    );
    assert_eq!(
        world.names("validatingadmissionpolicybindings", HOME).len(),
        credential_operator::admission::names().len()
    );
    assert_eq!(world.names("credentials,apitokens", "shop"), ["shop", "shop"]);
    assert_eq!(world.of_secret("shop", "shop-token", "token"), token);

    world.crds();
    world.install(HOME, &[]).await;
    world.accepted(&token, 2).await;
    assert_eq!(world.of_secret("shop", "shop-token", "token"), token);
    world.until("the binding elsewhere", || elsewhere().len() == 1).await;

    // And how to be rid of all of it.
    world.kubectl(&["delete", "credentials", "--all", "--all-namespaces", "--timeout=60s"]);
    world.until("that nothing is bound", || elsewhere().is_empty()).await;
    let both = ["uninstall", "credential-operator", "credential-operator-crds"];
    world.helm(HOME, &[&both[..], &WAIT[..]].concat()).unwrap();
    let part = "app.kubernetes.io/part-of=credential-operator";
    let admission = "validatingadmissionpolicybindings,validatingadmissionpolicies";
    world.kubectl(&["delete", admission, "-l", part]);
    for kind in ["credentials", "apitokens", "credentialpolicies"] {
        world.kubectl(&["delete", "crd", &format!("{kind}.credential-operator.io"), "--timeout=60s"]);
    }
    world.kubectl(&["delete", "namespace", HOME, "shop", "--timeout=60s"]);
    assert_eq!(world.kubectl(&["get", "clusterroles,clusterrolebindings", "-l", part, "-o", "name"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn combinations_of_values_install() {
    let world = World::start().await;
    world.crds();
    world.apply(ORDERS);
    let dress = world.folder.path().join("dress.yaml");
    fs::write(&dress, DRESS).unwrap();

    let names = ["credential-operator-verifier".to_owned()];
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority = authority.self_signed(&authority_key).unwrap();
    let secret = |namespace: &str, name: &str, certificate: &str, key: &str| {
        let metadata = format!(
            "name: {name}, namespace: {namespace}, labels: {{credential-operator.io/provided: \"true\"}}"
        );
        let data = serde_json::json!({ "tls.crt": certificate, "tls.key": key });
        world.apply(&format!(
            "{{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {{{metadata}}}, stringData: {data}}}"
        ));
    };
    for home in [HOME, HOME_OF_ORDERS] {
        secret(home, "given", &cert.pem(), &signing_key.serialize_pem());
    }
    secret(HOME, "authority", &authority.pem(), &authority_key.serialize_pem());

    let within = "watchNamespaces={orders,stock},verifier.tls.mode=secret,verifier.tls.secret.name=given,rbac.people=false,\
                  controller.serviceAccountTokens=true,verifier.introspection=true";
    world.install(HOME_OF_ORDERS, &["--set", within]).await;
    world.apply(STOCK);
    world.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "-n", "stock", "apitoken/stock"]);
    world.kubectl(&["delete", "credential", "stock", "-n", "stock", "--timeout=60s"]);
    world.helm(HOME_OF_ORDERS, &[&["uninstall", "credential-operator"], &WAIT[..]].concat()).unwrap();

    for Combination { what, values, seen, says } in COMBINATIONS {
        println!("{what}");
        let file = dress.to_str().unwrap();
        let values = values.iter().map(|value| if *value == DRESS_FILE { file } else { value });
        world.install(HOME, &values.collect::<Vec<_>>()).await;
        let running = world.kubectl(&["get", "deployments", "-n", HOME, "-o", "json"]);
        let running: Value = serde_json::from_str(&running).unwrap();
        let deployments = running["items"].as_array().unwrap();
        for deployment in deployments {
            let [wished, ready] = [&deployment["spec"]["replicas"], &deployment["status"]["readyReplicas"]];
            assert_eq!(wished, ready, "{what}");
        }
        let text = running.to_string();
        assert!(text.contains(seen), "{what}: {text}");
        assert_eq!(deployments.len(), if what == "no verifier" { 1 } else { 2 }, "{what}");
        if let Some((path, status)) = says {
            assert_eq!(world.asked("none", path), [status; 2], "{what}");
        }
        world.helm(HOME, &["uninstall", "credential-operator", "--no-hooks", "--wait"]).unwrap();
        world.until("that the pods are gone", || world.names("pods", HOME).is_empty()).await;
        // Otherwise the next certificate has to wait for the collection of the last.
        let certificate = "credential-operator-verifier-tls".to_owned();
        world.until("its end", || !world.names("secrets", HOME).contains(&certificate)).await;
    }
}
