//! Whether programs that people use take what the operator draws: OpenSSH, OpenSSL, Apache's htpasswd, oathtool, `GnuPG`,
//! nginx and age; and whether kstatus, by which Flux and Helm wait, makes of each state what it should. They are no part of `cargo test`; tests/external/install puts them there.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod drawn;

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use credential_operator::{
    api::CredentialType,
    domain::{
        material::Entries,
        sealed::Recipients,
        token::{Prefix, Token},
    },
};
use data_encoding::BASE64;
use drawn::{authority, check, draw, draw_by, entries, open_pgp_example, text};
use rand::{SeedableRng, rngs::StdRng};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Runs a program in the folder, and returns what it says.
///
/// # Panics
/// When it fails.
fn run(folder: &TempDir, program: &str, arguments: &[&str]) -> String {
    let (passed, said) = attempt(folder, program, arguments);
    assert!(passed, "{program} {}: {said}", arguments.join(" "));
    said
}

fn attempt(folder: &TempDir, program: &str, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder.path()).env("GNUPGHOME", folder.path()).stdin(Stdio::null());
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{program} cannot be run: {error}; see tests/external/install"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// A folder with the entries as files that only we can read.
fn folder(entries: &Entries) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, value) in entries {
        let path = folder.path().join(name);
        fs::write(&path, value.expose()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    folder
}

#[test]
fn age_opens_what_is_sealed() {
    let folder = TempDir::new().unwrap();
    run(&folder, "age-keygen", &["-o", "age"]);
    for (name, kind, bits) in [("ed25519", "ed25519", "256"), ("rsa", "rsa", "3072")] {
        run(&folder, "ssh-keygen", &["-q", "-t", kind, "-b", bits, "-N", "", "-C", "me@laptop", "-f", name]);
    }
    let public = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap().trim().to_owned();
    let recipients = [
        run(&folder, "age-keygen", &["-y", "age"]).trim().to_owned(),
        public("ed25519.pub"),
        public("rsa.pub"),
    ];
    let value = Token::draw(&Prefix::default(), &mut StdRng::seed_from_u64(1));
    let sealed = Recipients::new(&recipients).unwrap().seal(value.expose().as_bytes()).unwrap();
    fs::write(folder.path().join("token.age"), sealed).unwrap();
    for key in ["age", "ed25519", "rsa"] {
        assert_eq!(run(&folder, "age", &["-d", "-i", key, "token.age"]), value.expose(), "{key}");
    }
    run(&folder, "age-keygen", &["-o", "another"]);
    assert!(!attempt(&folder, "age", &["-d", "-i", "another", "token.age"]).0);
}

#[test]
fn open_ssh_reads_each_key() {
    for options in [
        json!({}),
        json!({"algorithm": "Ecdsa"}),
        json!({"algorithm": "Ecdsa", "size": 384}),
        json!({"algorithm": "Ecdsa", "size": 521}),
        json!({"algorithm": "Rsa", "size": 2048}),
        json!({"algorithm": "Rsa", "size": 4096, "comment": "deploy@example"}),
    ] {
        let drawn = draw_by(json!({"type": "SshKey", "sshKey": options}), None, 1).unwrap();
        let folder = folder(&drawn.entries);
        let public = run(&folder, "ssh-keygen", &["-y", "-f", "ssh-privatekey"]);
        assert_eq!(public.trim(), text(&drawn.entries, "ssh-publickey").trim(), "{options}");
        let fingerprint = run(&folder, "ssh-keygen", &["-l", "-f", "ssh-publickey"]);
        assert!(fingerprint.contains(&drawn.facts.fingerprint.unwrap()), "{options}: {fingerprint}");
    }
}

#[test]
fn open_ssl_verifies_each_certificate() {
    let issuer = authority(365);
    for options in [
        json!({}),
        json!({"algorithm": "Ecdsa", "size": 384}),
        json!({"algorithm": "Ed25519"}),
        json!({"algorithm": "Rsa", "size": 2048}),
    ] {
        for issuer in [None, Some(&issuer)] {
            let mut tls = options.clone();
            tls["dnsNames"] = json!(["orders.example", "*.orders.example"]);
            tls["ipAddresses"] = json!(["10.0.0.7"]);
            if issuer.is_some() {
                tls["issuer"] = json!({"secretRef": {"name": "authority"}});
            }
            let drawn = draw_by(json!({"type": "Tls", "tls": tls}), issuer, 1).unwrap();
            let folder = folder(&drawn.entries);
            for name in [
                ["-verify_hostname", "orders.example"],
                ["-verify_hostname", "eu.orders.example"],
                ["-verify_ip", "10.0.0.7"],
            ] {
                let mut verify = vec!["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.crt"];
                // Without an issuer it vouches for itself, and is no authority.
                if issuer.is_none() {
                    verify.retain(|argument| *argument != "-x509_strict");
                    verify.push("-partial_chain");
                }
                verify.extend(name);
                verify.push("tls.crt");
                run(&folder, "openssl", &verify);
            }
            let wrong = [
                "verify",
                "-partial_chain",
                "-CAfile",
                "ca.crt",
                "-verify_hostname",
                "else.example",
                "tls.crt",
            ];
            assert!(!attempt(&folder, "openssl", &wrong).0, "any name will do");
            let of_certificate = run(&folder, "openssl", &["x509", "-in", "tls.crt", "-noout", "-pubkey"]);
            assert_eq!(
                of_certificate,
                run(&folder, "openssl", &["pkey", "-in", "tls.key", "-pubout"]),
                "{options}"
            );
            let said =
                run(&folder, "openssl", &["x509", "-in", "tls.crt", "-noout", "-fingerprint", "-sha256"]);
            let said = said.rsplit('=').next().unwrap().trim().replace(':', "").to_lowercase();
            assert_eq!(Some(said), drawn.facts.fingerprint);
        }
    }
}

#[test]
fn htpasswd_verifies_basic_auth() {
    let drawn = draw(json!({"type": "BasicAuth", "basicAuth": {"username": "svc"}}));
    let folder = folder(&drawn);
    run(&folder, "htpasswd", &["-vb", "auth", "svc", text(&drawn, "password")]);
    assert!(!attempt(&folder, "htpasswd", &["-vb", "auth", "svc", "another"]).0);

    let drawn = draw(json!({"type": "HashedPassword", "hashedPassword": {"algorithm": "Bcrypt"}}));
    fs::write(folder.path().join("hashed"), format!("svc:{}\n", text(&drawn, "hash"))).unwrap();
    run(&folder, "htpasswd", &["-vb", "hashed", "svc", text(&drawn, "password")]);
}

#[test]
fn oathtool_generates_the_codes_that_the_uri_asks_for() {
    for (options, arguments) in [
        (json!({}), ["--totp=sha1", "--digits=6", "--time-step-size=30"]),
        (json!({"digits": 8, "period": 60}), ["--totp=sha1", "--digits=8", "--time-step-size=60"]),
        (json!({"algorithm": "Sha256"}), ["--totp=sha256", "--digits=6", "--time-step-size=30"]),
        (json!({"algorithm": "Sha512", "digits": 8}), ["--totp=sha512", "--digits=8", "--time-step-size=30"]),
    ] {
        let drawn = draw(json!({"type": "Totp", "totp": options}));
        let folder = folder(&drawn);
        let at = "--now=2026-01-02 03:04:05 UTC";
        let mut command = arguments.to_vec();
        command.extend([at, "--base32", "@secret"]);
        let code = run(&folder, "oathtool", &command);
        let of_uri = totp_rs::Totp::from_url(text(&drawn, "uri")).unwrap();
        let instant: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(
            code.trim(),
            of_uri.generate(instant.as_second().try_into().unwrap()).to_string(),
            "{options}"
        );
    }
}

#[test]
fn gnu_pg_signs_with_a_provided_key() {
    let provided = entries(&open_pgp_example());
    let facts = check(CredentialType::GpgKey, &provided).unwrap();
    let signer = folder(&provided);
    let gpg = |folder: &TempDir, arguments: &[&str]| {
        let all = [&["--batch", "--no-autostart", "--status-fd", "1"], arguments].concat();
        // Signing needs the agent.
        let all: Vec<_> = if arguments.contains(&"--verify") {
            all
        } else {
            all.into_iter().filter(|argument| *argument != "--no-autostart").collect()
        };
        run(folder, "gpg", &all)
    };
    fs::set_permissions(signer.path(), Permissions::from_mode(0o700)).unwrap();
    gpg(&signer, &["--import", "private-key"]);
    fs::write(signer.path().join("release"), "a release").unwrap();
    gpg(&signer, &["--detach-sign", "release"]);
    let reader = folder(&provided);
    fs::set_permissions(reader.path(), Permissions::from_mode(0o700)).unwrap();
    gpg(&reader, &["--import", "public-key"]);
    for name in ["release", "release.sig"] {
        fs::copy(signer.path().join(name), reader.path().join(name)).unwrap();
    }
    let said = gpg(&reader, &["--verify", "release.sig", "release"]);
    let valid = format!("VALIDSIG {}", facts.fingerprint.unwrap());
    assert!(said.contains(&valid), "{said}");
    attempt(&signer, "gpgconf", &["--kill", "all"]);
    attempt(&reader, "gpgconf", &["--kill", "all"]);
}

/// A server that is killed when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nginx_lets_in_who_has_the_password() {
    let basic = draw(json!({"type": "BasicAuth", "basicAuth": {"username": "svc"}}));
    let folder = folder(&basic);
    let mut users = text(&basic, "auth").to_owned();
    let mut accounts = vec![("svc".to_owned(), text(&basic, "password").to_owned())];
    for algorithm in ["Bcrypt", "Sha512Crypt"] {
        let hashed = draw(json!({"type": "HashedPassword", "hashedPassword": {"algorithm": algorithm}}));
        users = format!("{}\n{algorithm}:{}\n", users.trim(), text(&hashed, "hash"));
        accounts.push((algorithm.to_owned(), text(&hashed, "password").to_owned()));
    }
    fs::write(folder.path().join("users"), users).unwrap();
    fs::write(folder.path().join("index.html"), "welcome").unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    for name in ["users", "index.html"] {
        fs::set_permissions(folder.path().join(name), Permissions::from_mode(0o644)).unwrap();
    }
    // Free a moment ago; nobody else asks for ports here.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fs::write(folder.path().join("nginx.conf"), configuration(folder.path(), port)).unwrap();
    // Where Debian has it, which is not where everybody looks.
    let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    let server = Command::new(program)
        .args(["-c", "nginx.conf", "-g", "daemon off; master_process off;", "-p"])
        .arg(folder.path())
        .spawn()
        .unwrap_or_else(|error| panic!("nginx cannot be run: {error}; see tests/external/install"));
    let _server = Server(server);
    let listens = || {
        sleep(Duration::from_millis(20));
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    };
    assert!((0..1_000).any(|_| listens()), "nginx does not listen");
    for (user, password) in &accounts {
        assert_eq!(status(port, user, password), 200, "{user}");
        assert_eq!(status(port, user, "another"), 401, "{user}");
    }
}

fn configuration(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        "pid {folder}/pid; error_log stderr; events {{}}
         http {{
             access_log off;
             client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
             uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
             server {{ listen 127.0.0.1:{port}; root {folder}; auth_basic wall; auth_basic_user_file {folder}/users; }}
         }}"
    )
}

fn status(port: u16, user: &str, password: &str) -> u16 {
    let login = BASE64.encode(format!("{user}:{password}").as_bytes());
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {login}\r\nConnection: close\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn kstatus_tells_each_state_as_the_table_says() {
    // Written by the test `gitops` of the integration tests, which brings the states about.
    let recorded: Vec<_> = serde_yaml_ng::Deserializer::from_str(include_str!("states.yaml"))
        .map(|state| Value::deserialize(state).unwrap())
        .collect();
    let text = recorded.iter().map(|state| state["object"].to_string()).collect::<Vec<_>>().join("\n");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/external/kstatus");
    let mut kstatus =
        Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("{} cannot be run: {error}; see tests/external/install", program.display())
        });
    kstatus.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = kstatus.wait_with_output().unwrap();
    assert!(output.status.success(), "kstatus cannot read what was recorded");
    let said = String::from_utf8(output.stdout).unwrap();
    let said: Vec<_> = said.lines().collect();
    assert!(recorded.len() > 25, "{}", recorded.len());
    assert_eq!(said.len(), recorded.len());
    for (state, said) in recorded.iter().zip(said) {
        assert_eq!(state["kstatus"], said, "{state:#}");
    }
}
