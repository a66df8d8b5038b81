//! What is said to whoever starts the operator with flags that make no sense: before it looks for a cluster, and what to do instead.

use std::process::Command;

const WHERE_THE_KEYRING_LIVES: &str = "--watch-namespaces names orders, where the keyring lives: whoever may read Secrets there could sign tokens; give the operator \
     a namespace of its own by --namespace, or take this one out";

#[test]
fn flags_that_make_no_sense_are_refused() {
    for (arguments, expected) in [
        ("controller --namespace orders --watch-namespaces stock,orders", WHERE_THE_KEYRING_LIVES),
        ("verifier --namespace orders --watch-namespaces orders", WHERE_THE_KEYRING_LIVES),
        ("controller --watch-namespaces=", "write names of namespaces, such as orders,stock"),
        ("controller --watch-namespaces=orders,,stock", "write names of namespaces, such as orders,stock"),
        ("controller --token-prefix A", "--token-prefix <TOKEN_PREFIX>"),
        ("verifier --max-staleness 5s", "choose 10s to 10m"),
        ("verifier --max-staleness long", "write a number and a unit, such as 30s or 5m"),
        ("verifier --tls-cert-file a.pem", "--tls-key-file <TLS_KEY_FILE>"),
        ("verifier --routes /nowhere/routes.yaml", "/nowhere/routes.yaml: No such file or directory"),
        ("crds --controller-account operator", "--controller-account <CONTROLLER_ACCOUNTS>"),
        ("crds --keyring-secret a'b", "not the name of a Secret; use lower-case letters, digits, - and ."),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_credential-operator"))
            .args(arguments.split(' '))
            .env("KUBECONFIG", "/nowhere")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(expected), "{arguments}: {said}");
    }
}
