//! Writes the generated files of the repository: `cargo run --example generate`.

use std::{fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for crd in credential_operator::api::crds() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("crds/{}.yaml", crd.spec.names.plural));
        fs::write(&path, serde_yaml_ng::to_string(&crd)?)?;
        println!("{}", path.display());
    }
    Ok(())
}
