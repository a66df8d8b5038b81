//! The house rules that a compiler does not hold: layers, fresh generated files, sizes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use credential_operator::{admission, chart, controller::server::OLDEST, domain::name};
use serde_json::Value;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// The code of a layer, less its tests.
fn layer(name: &str) -> Vec<(PathBuf, String)> {
    let of_layer = |path: &Path| {
        let path = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
        path.starts_with(name) || path == Path::new(&format!("{name}.rs"))
    };
    let files = sources("src").into_iter().filter(|(path, _)| of_layer(path) && !path.ends_with("tests.rs"));
    files
        .map(|(path, text)| (path, text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()))
        .collect()
}

fn forbid(name: &str, words: &[&str]) {
    let files = layer(name);
    assert!(!files.is_empty(), "there is no layer {name}");
    for (path, text) in files {
        for (number, line) in
            text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                panic!("{}:{}: {name} must not know of {word}: {line}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn the_layers_point_one_way() {
    forbid(
        "api",
        &[
            "crate::domain",
            "crate::controller",
            "crate::verifier",
            "kube::Client",
            "kube::Api",
            "tokio",
            "tracing",
        ],
    );
    forbid(
        "domain",
        &[
            "crate::controller",
            "crate::verifier",
            "kube::",
            "tokio",
            "tracing",
            "std::env",
            "::now()",
            "rng()",
        ],
    );
}

#[test]
fn the_client_decides_nothing() {
    forbid(
        "client",
        &["crate::controller", "crate::verifier", "crate::admission", "std::env", "::now()", "rng()"],
    );
}

#[test]
fn admission_and_charts_know_of_no_client() {
    for name in ["admission", "chart"] {
        forbid(
            name,
            &["crate::controller", "crate::verifier", "kube::Client", "kube::Api", "tokio", "tracing"],
        );
    }
}

#[test]
fn plans_have_no_client_clock_or_randomness() {
    let of_plan = |path: &Path| {
        path.ends_with("plan.rs") || path.parent().is_some_and(|folder| folder.ends_with("plan"))
    };
    let plans: Vec<_> = layer("controller").into_iter().filter(|(path, _)| of_plan(path)).collect();
    assert!(plans.len() >= 2);
    for (path, text) in plans {
        for word in ["kube::", "tokio", "async", "Clock", "rand::", "tracing", "Context", "::now()"] {
            assert!(!text.contains(word), "{}: a plan must not know of {word}", path.display());
        }
    }
}

#[test]
fn modules_stand_beside_their_folders() {
    for (path, _) in sources("src") {
        assert!(!path.ends_with("mod.rs"), "{}: use foo.rs beside foo/", path.display());
    }
}

#[test]
fn modules_say_what_they_are_for() {
    for (path, text) in sources("src").into_iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
        assert!(text.starts_with("//!"), "{}: begins without //!", path.display());
    }
}

#[test]
fn the_crds_are_fresh() {
    for crd in credential_operator::api::crds() {
        let name = &crd.spec.names.plural;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("crds/{name}.yaml"));
        let stored = fs::read_to_string(&path).unwrap_or_default();
        let fresh = serde_yaml_ng::to_string(&crd).unwrap();
        assert!(stored == fresh, "{} is stale: run `cargo run --example generate`", path.display());
    }
}

/// Of another one the API server warns whoever applies the definition.
#[test]
fn formats_are_those_that_kubernetes_knows() {
    fn formats(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(fields) => {
                found.extend(fields.get("format").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|field| formats(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| formats(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for crd in credential_operator::api::crds() {
        formats(&serde_json::to_value(&crd.spec.versions).unwrap(), &mut found);
    }
    found.sort();
    found.dedup();
    assert_eq!(found, ["date-time", "int32", "int64"]);
}

#[test]
fn the_admission_policies_are_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/validatingadmissionpolicies.yaml");
    let stored = fs::read_to_string(&path).unwrap_or_default();
    let fresh = admission::yaml(&[admission::Account::default()], name::KEYRING).unwrap();
    assert!(stored == fresh, "{} is stale: run `cargo run --example generate`", path.display());
}

#[test]
fn the_chart_of_the_crds_is_fresh() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/credential-operator-crds/templates");
    let fresh = chart::templates().unwrap();
    for (name, template) in &fresh {
        let path = folder.join(format!("{name}.yaml"));
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == *template, "{} is stale: run `cargo run --example generate`", path.display());
    }
    let stored = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let stored = stored.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    assert_eq!(stored.count(), fresh.len(), "a template is of no kind any more");
}

#[test]
fn charts_are_of_the_version_of_the_program() {
    for chart in ["credential-operator-crds", "credential-operator"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("charts/{chart}/Chart.yaml"));
        let chart: Value = serde_yaml_ng::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for key in ["version", "appVersion"] {
            assert_eq!(chart[key], env!("CARGO_PKG_VERSION"), "{}: {key}", path.display());
        }
    }
}

/// Holds values against the schema of such, which must know each and no others.
fn compare(values: &Value, schema: &Value, path: &str) {
    let Some(known) = schema["properties"].as_object() else { return };
    assert_eq!(schema["additionalProperties"], false, "{path}: a typo would be no error");
    let values = values.as_object().unwrap();
    // Helm's own, which has no default.
    for name in known.keys().filter(|name| *name != "global") {
        assert!(values.contains_key(name), "{path}.{name} has no default in values.yaml");
    }
    for (name, value) in values {
        let Some(known) = known.get(name) else { panic!("{path}.{name} is not in values.schema.json") };
        compare(value, known, &format!("{path}.{name}"));
    }
}

#[test]
fn every_value_of_a_chart_is_in_its_schema_and_explained() {
    for chart in ["credential-operator-crds", "credential-operator"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts").join(chart);
        let values = fs::read_to_string(folder.join("values.yaml")).unwrap();
        let schema = fs::read_to_string(folder.join("values.schema.json")).unwrap();
        let schema: Value = serde_json::from_str(&schema).unwrap();
        compare(&serde_yaml_ng::from_str(&values).unwrap(), &schema, chart);
        let lines: Vec<_> = values.lines().map(str::trim_start).collect();
        for pair in lines.windows(2).filter(|pair| pair[1].contains(':') && !pair[1].starts_with(['#', '-']))
        {
            let of_a_resource = ["requests: ", "limits: "].iter().any(|name| pair[1].starts_with(name));
            assert!(pair[0].starts_with('#') || of_a_resource, "{chart}: nothing is said of {}", pair[1]);
        }
    }
}

#[test]
fn the_image_is_compiled_by_the_version_that_is_promised() {
    let dockerfile = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile")).unwrap();
    let base = format!(" docker.io/library/rust:{}-bookworm AS build\n", env!("CARGO_PKG_RUST_VERSION"));
    assert!(dockerfile.contains(&base), "{base}");
}

/// What a page shows as the file of that name.
fn shown<'a>(page: &'a str, path: &str) -> &'a str {
    let after = page.split(&format!("`{path}`:\n\n```")).nth(1).unwrap_or_default();
    after.split_once('\n').unwrap_or_default().1.split("\n```\n").next().unwrap_or_default()
}

#[test]
fn the_page_of_installing_shows_the_kustomization_that_is_tested() {
    let read = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let path = "examples/kustomize/kustomization.yaml";
    assert_eq!(shown(&read("docs/install.md"), path), read(path).trim_end());
}

#[test]
fn the_page_of_verifying_shows_the_files_that_are_tested() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(here.join("docs/verify.md")).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(here.join("examples/verify")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let shown = shown(&page, &format!("examples/verify/{name}"));
        let file = fs::read_to_string(&path).unwrap();
        assert!(shown == file.trim_end(), "docs/verify.md does not show {} as it is", path.display());
        count += 1;
    }
    assert!(count > 8);
}

#[test]
fn the_page_of_types_names_tests_that_exist() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/types.md")).unwrap();
    let table = page.split("## Which test proves what").nth(1).unwrap();
    let named = table.split('`').skip(1).step_by(2).filter(|name| name.contains('_'));
    let tests = sources("tests");
    let mut count = 0;
    for name in named {
        count += 1;
        // By its attribute, or in the list of a file whose harness is our own: either way it runs.
        let runs = tests.iter().any(|(_, text)| {
            let lists = text.split("crate::tests![").skip(1).filter_map(|rest| rest.split(']').next());
            let marked = ["fn", "async fn"].map(|keyword| format!("test]\n{keyword} {name}("));
            marked.iter().any(|test| text.contains(test))
                || lists.flat_map(|list| list.split(',')).any(|listed| listed.trim() == name)
        });
        assert!(runs, "docs/types.md names {name}, and no such test runs");
    }
    assert!(!tests.iter().any(|(_, text)| text.contains(concat!("#[ign", "ore"))), "a test is left out");
    assert!(count > 20);
    // A type that is not on the page is not told of.
    for (path, text) in sources("src").into_iter().filter(|(path, _)| path.ends_with("api/credential.rs")) {
        let types = text.split("pub enum CredentialType {").nth(1).unwrap().split('}').next().unwrap();
        for name in
            types.split(|c: char| !c.is_alphanumeric()).filter(|name| name.len() > 2 && *name != "default")
        {
            assert!(
                page.contains(&format!("`{name}`")),
                "{}: docs/types.md does not tell of {name}",
                path.display()
            );
        }
    }
}

#[test]
fn the_oldest_kubernetes_is_the_one_that_is_tried() {
    let (major, minor) = OLDEST;
    let chart = format!("kubeVersion: \">={major}.{minor}.0-0\"");
    for (file, says) in [
        ("tests/external/kubernetes/go.mod", format!("\tk8s.io/kubernetes v{major}.{minor}.")),
        ("charts/credential-operator/Chart.yaml", chart.clone()),
        ("charts/credential-operator-crds/Chart.yaml", chart),
        ("docs/install.md", format!("| {major}.{minor} | the oldest")),
    ] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        assert!(text.contains(&says), "{file} does not say {says}");
    }
}
