//! deploy/: what the charts render, as files for whoever does without Helm.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    CHART, CRDS, HOME, HOME_OF_ORDERS,
    helm::{render, template},
    rendered::documents,
    world::World,
};

/// Whoever sets this has the files written anew.
const REWRITE: &str = "REWRITE_DEPLOY";

const RIGHTS: [&str; 5] = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
const MINTING: &str = "controller.serviceAccountTokens=true";
const INTROSPECTION: &str = "verifier.introspection=true";
const ORDERS: &str = "watchNamespaces={orders},verifier.tls.mode=secret,verifier.tls.secret.name=verifier-tls,\
                      rbac.people=false";
/// The last line at the head of each file.
const FROM: &str = "Rendered from charts/credential-operator, where it is changed.";
/// The image as examples/kustomize has it.
pub const IMAGE: &str = "registry.example/credential-operator";

/// A part of what the chart renders.
struct Part {
    file: &'static str,
    /// What stands at its head.
    head: &'static str,
    namespace: &'static str,
    values: &'static str,
    has: fn(&Object) -> bool,
}

const PARTS: [Part; 10] = [
    Part {
        file: "controller.yaml",
        head: "What the operator may do: this and no more. A test holds each line against the API server's audit\n\
               log.",
        namespace: HOME,
        values: "",
        has: |object| object.component == "controller" && object.is_right(),
    },
    Part {
        file: "controller-deployment.yaml",
        head: "The controllers: one works, the others wait. Nobody may reach them but for health and metrics.",
        namespace: HOME,
        values: "",
        has: |object| ["controller", "uninstall"].contains(&&*object.component) && object.works(),
    },
    Part {
        file: "verifier.yaml",
        head: "What the verifier may do: read, and nothing else.",
        namespace: HOME,
        values: "",
        has: |object| object.component == "verifier" && object.is_right(),
    },
    Part {
        file: "verifier-deployment.yaml",
        head: "The verifiers, all of which answer, and the certificate that they are known by.",
        namespace: HOME,
        values: "",
        has: |object| object.component == "verifier" && object.works(),
    },
    Part {
        file: "roles.yaml",
        head: "What people may do with credentials: ClusterRoles to bind in the namespaces where they are to hold.\n\
               Kubernetes' own view, edit and admin contain them, so who has one of these needs nothing more.\n\
               docs/admission.md tells whom to give which. Nobody has the right to write a status but the\n\
               controller.",
        namespace: HOME,
        values: "",
        has: |object| object.component == "people",
    },
    Part {
        file: "service-account-tokens/rights.yaml",
        head: "What the controller needs besides ../controller.yaml when it runs with --service-account-tokens: to\n\
               have the API server mint tokens for ServiceAccounts. The controller asks for those of its own\n\
               credentials alone. RBAC cannot tell them from others; the admission policy\n\
               minting.credential-operator.io does, by their names: *-credential.",
        namespace: HOME,
        values: MINTING,
        has: |object| object.name.ends_with("-service-account-tokens"),
    },
    Part {
        file: "verifier-introspection/rights.yaml",
        head: "What the verifier needs besides ../verifier.yaml when it runs with --introspection: to ask the API\n\
               server who a caller is, and whether that caller may introspect.",
        namespace: HOME,
        values: INTROSPECTION,
        has: |object| object.name.ends_with("-introspection"),
    },
    Part {
        file: "uninstall/job.yaml",
        head: "",
        namespace: HOME,
        values: "",
        has: |object| object.kind == "Job",
    },
    Part {
        file: "namespaced/rights.yaml",
        head: "What an operator for the namespace orders alone may do, in the place of ../controller.yaml and\n\
               ../verifier.yaml: with `--namespace credential-operator-orders --watch-namespaces orders`,\n\
               controller and verifier alike. For one more namespace, repeat the Roles of orders and their\n\
               RoleBindings there; for one more operator, the whole file under other names. Name the accounts of\n\
               all controllers in `credential-operator crds --controller-account\n\
               credential-operator-orders:credential-operator`.",
        namespace: HOME_OF_ORDERS,
        values: ORDERS,
        has: Object::is_right,
    },
    Part {
        file: "namespaced/deployments.yaml",
        head: "Controllers and verifiers for the namespace orders alone. For one more namespace, name it in\n\
               --watch-namespaces of both.",
        namespace: HOME_OF_ORDERS,
        values: ORDERS,
        has: Object::works,
    },
];

/// A document of a chart.
struct Object {
    kind: String,
    name: String,
    component: String,
    text: String,
}

impl Object {
    fn is_right(&self) -> bool {
        RIGHTS.contains(&&*self.kind) && self.component != "people"
    }

    /// Neither rights nor a hook, which is for the end alone.
    fn works(&self) -> bool {
        !RIGHTS.contains(&&*self.kind) && self.kind != "Job"
    }
}

fn here(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// Less what is said by Helm, of Helm and for Helm.
fn plain(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let of_helm = |line: &str| {
        let line = line.trim_start();
        ["# Source: ", "helm.sh/", "app.kubernetes.io/managed-by: "].iter().any(|word| line.starts_with(word))
    };
    let mut kept = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let of_helm_alone =
            *line == "  annotations:" && lines.get(number + 1).is_some_and(|next| of_helm(next));
        if !of_helm(line) && !of_helm_alone {
            kept.push(*line);
        }
    }
    kept.join("\n").trim().to_owned()
}

/// What the chart renders, document by document, with its hooks.
fn objects(namespace: &str, values: &str) -> Vec<Object> {
    let rendered = template(namespace, &["--set", values]).unwrap();
    let rendered = rendered.strip_prefix("---\n").unwrap();
    let texts = rendered.split("\n---\n").map(plain).filter(|text| !text.is_empty());
    texts
        .map(|text| {
            let object = &documents(&text)[0];
            let of = |pointer: &str| object.pointer(pointer).unwrap().as_str().unwrap().to_owned();
            Object {
                kind: of("/kind"),
                name: of("/metadata/name"),
                component: of("/metadata/labels/app.kubernetes.io~1component"),
                text,
            }
        })
        .collect()
}

/// The file as it is to be.
fn fresh(part: &Part) -> String {
    let chosen = objects(part.namespace, part.values).into_iter().filter(|object| (part.has)(object));
    let texts: Vec<_> = chosen.map(|object| object.text).collect();
    assert!(!texts.is_empty(), "{}", part.file);
    let head: Vec<_> = part.head.lines().chain([FROM]).map(|line| format!("# {line}")).collect();
    format!("{}\n\n{}\n", head.join("\n"), texts.join("\n---\n"))
}

fn files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.insert(path);
        }
    }
}

#[test]
fn deploy_has_what_the_charts_render() {
    let mut expected = BTreeSet::new();
    for part in &PARTS {
        let path = here("deploy").join(part.file);
        let fresh = fresh(part);
        if env::var_os(REWRITE).is_some() {
            fs::write(&path, &fresh).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == fresh,
            "{} is stale: run `{REWRITE}=1 cargo test --test charts -- deploy_has`",
            path.display()
        );
        assert!(!stored.contains("helm"), "{}", path.display());
        expected.insert(path);
    }
    let mut found = BTreeSet::new();
    files(&here("deploy"), &mut found);
    // Those are written by hand.
    found.retain(|path| !path.ends_with("kustomization.yaml") && !path.ends_with("namespace.yaml"));
    assert_eq!(found, expected);
}

/// A number is the same with `.0` and without, which kustomize takes away.
fn whole(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(list) => list.into_iter().map(whole).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, whole(value))).collect(),
        other => other,
    }
}

type Name = (String, String, String);

/// Objects by kind, namespace and name, less what is of Helm.
fn by_name(objects: Vec<Value>) -> BTreeMap<Name, Value> {
    let named = objects.into_iter().map(|mut object| {
        let metadata = object["metadata"].as_object_mut().unwrap();
        for key in ["labels", "annotations"] {
            let Some(texts) = metadata.get_mut(key).and_then(Value::as_object_mut) else { continue };
            texts.retain(|name, _| !name.starts_with("helm.sh/") && name != "app.kubernetes.io/managed-by");
            if texts.is_empty() {
                metadata.remove(key);
            }
        }
        let of =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        ((of("/kind"), of("/metadata/namespace"), of("/metadata/name")), whole(object))
    });
    named.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_by_kustomize_it_works_and_a_second_time_changes_nothing() {
    let world = World::start().await;
    let built = |folder: &str| world.kubectl(&["kustomize", folder]);
    let chart = |namespace: &str, values: &str| {
        by_name(documents(&template(namespace, &["--no-hooks", "--set", values]).unwrap()))
    };
    let same = |folder: &str, expected: &BTreeMap<Name, Value>| {
        let found = by_name(documents(&built(folder)));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{folder}");
        for (name, object) in &found {
            assert!(*object == expected[name], "{folder}: {object}\nand by the chart: {}", expected[name]);
        }
    };
    same("crds", &by_name(documents(&render(&["template", CRDS]).unwrap())));
    same("deploy", &chart(HOME, ""));
    same("deploy/namespaced", &chart(HOME_OF_ORDERS, ORDERS));
    let options = format!("{MINTING},{INTROSPECTION},image.repository={IMAGE}");
    same("examples/kustomize", &chart(HOME, &options));
    let job = render(&[
        "template",
        CHART,
        "-n",
        HOME,
        "--show-only",
        "templates/uninstall.yaml",
        "--set",
        &options,
    ]);
    let job = job.unwrap().replace("release-name", "credential-operator");
    same("examples/kustomize/uninstall", &by_name(documents(&job)));

    world.kustomize("crds").await;
    world.kubectl(&["apply", "--server-side", "-f", "deploy/namespace.yaml"]);
    world.kustomize("examples/kustomize").await;
    for deployment in ["credential-operator", "credential-operator-verifier"] {
        world.kubectl(&["rollout", "status", "deployment", deployment, "-n", HOME, "--timeout=120s"]);
    }
    let token = world.shop();
    let elsewhere = || world.names("rolebindings", "monitoring");
    assert_eq!(elsewhere().len(), 1);
    world.accepted(&token, 2).await;
    assert_eq!(world.asked(&token, "/introspect"), ["405"; 2]);
    let minted = "
apiVersion: credential-operator.io/v1alpha1
kind: ApiToken
metadata: {name: minted, namespace: shop}
spec: {type: ServiceAccount, credentialRef: {name: shop}, expiresIn: 1d}
";
    world.apply(minted);
    world.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "-n", "shop", "apitoken/minted"]);

    let rendered = built("examples/kustomize") + "---\n" + &built("crds");
    let before = world.versions(&rendered);
    assert!(before.lines().count() > 45, "{before}");
    for folder in ["crds", "examples/kustomize"] {
        world.kustomize(folder).await;
    }
    assert_eq!(world.versions(&rendered), before);

    world.kustomize("examples/kustomize/uninstall").await;
    let job = "job/credential-operator-uninstall";
    world.kubectl(&["wait", "--for=condition=Complete", "--timeout=60s", "-n", HOME, job]);
    assert_eq!(elsewhere(), Vec::<String>::new());
    for folder in ["examples/kustomize/uninstall", "examples/kustomize"] {
        world.kubectl(&["delete", "--wait", "--timeout=60s", "-k", folder]);
    }
    world.until("that the pods are gone", || world.names("pods", HOME).is_empty()).await;
    // Nothing of ours has its home any more but the keyring, by which the same token is accepted again.
    assert_eq!(world.names("deployments,services,leases,jobs,networkpolicies,credentials", HOME), [""; 0]);
    assert_eq!(world.names("credentials,apitokens", "shop"), ["shop", "minted", "shop"]);
    world.kustomize("examples/kustomize").await;
    let certificate =
        || world.names("secrets", HOME).contains(&"credential-operator-verifier-tls".to_owned());
    world.until("the certificate of the verifier", certificate).await;
    world.accepted(&token, 2).await;
    world.until("the binding elsewhere", || elsewhere().len() == 1).await;
}
