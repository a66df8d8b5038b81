//! Writes the generated files of the repository: `cargo run --example generate`.

use std::{fs, path::Path};

use credential_operator::{admission, api, chart, domain::name};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let write = |folder: &str, name: &str, content: String| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{folder}/{name}.yaml"));
        fs::write(&path, content)?;
        println!("{}", path.display());
        std::io::Result::Ok(())
    };
    for crd in api::crds() {
        write("crds", &crd.spec.names.plural, serde_yaml_ng::to_string(&crd)?)?;
    }
    write(
        "crds",
        "validatingadmissionpolicies",
        admission::yaml(&[admission::Account::default()], name::KEYRING)?,
    )?;
    for (name, template) in chart::templates()? {
        write("charts/credential-operator-crds/templates", &name, template)?;
    }
    Ok(())
}
