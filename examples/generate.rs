//! Writes the generated files of the repository: `cargo run --example generate`.

use std::{fs, path::Path};

use credential_operator::{admission, api};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let write = |name: String, content: String| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("crds/{name}.yaml"));
        fs::write(&path, content)?;
        println!("{}", path.display());
        std::io::Result::Ok(())
    };
    for crd in api::crds() {
        write(crd.spec.names.plural.clone(), serde_yaml_ng::to_string(&crd)?)?;
    }
    write("validatingadmissionpolicies".to_owned(), admission::yaml(&[admission::Account::default()])?)?;
    Ok(())
}
