//! Whether what is drawn works: each type is used by an implementation that did not make it. And what is wrong with
//! provided material is told, by key and never by value.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod drawn;

use std::{collections::BTreeSet, sync::Arc};

use credential_operator::{
    api::CredentialType,
    domain::{
        material::{self, Entries},
        redacted::Redacted,
        token::Token,
    },
};
use data_encoding::{BASE32_NOPAD, BASE64, HEXLOWER};
use drawn::{authority, check, draw, draw_by, entries, open_pgp_example, spec, text, with_request};
use rand::{SeedableRng, rngs::StdRng};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};

#[test]
fn client_secret_is_a_token_that_names_its_client() {
    let drawn = draw(json!({"type": "ClientSecret"}));
    let token = Token::parse(text(&drawn, "client-secret")).unwrap();
    assert_eq!(token.id(), text(&drawn, "client-id"));
}

#[test]
fn basic_auth_opens_by_its_htpasswd_line() {
    let drawn = draw(json!({"type": "BasicAuth", "basicAuth": {"username": "svc", "length": 24}}));
    let (name, hash) = text(&drawn, "auth").trim_end().split_once(':').unwrap();
    assert_eq!((name, text(&drawn, "username"), text(&drawn, "password").len()), ("svc", "svc", 24));
    assert!(pwhash::bcrypt::verify(text(&drawn, "password"), hash));
    assert!(!pwhash::bcrypt::verify("something else", hash));
}

#[test]
fn hashed_password_is_verified_by_other_implementations() {
    type Verify = fn(&str, &str) -> bool;
    let verifiers: [(&str, Verify); 3] = [
        ("Bcrypt", |password, hash| pwhash::bcrypt::verify(password, hash)),
        ("Argon2id", |password, hash| rust_argon2::verify_encoded(hash, password.as_bytes()).unwrap()),
        ("Sha512Crypt", |password, hash| pwhash::sha512_crypt::verify(password, hash)),
    ];
    for (algorithm, verify) in verifiers {
        let options =
            json!({"type": "HashedPassword", "hashedPassword": {"algorithm": algorithm, "length": 20}});
        let drawn = draw(options.clone());
        assert!(verify(text(&drawn, "password"), text(&drawn, "hash")), "{algorithm}");
        assert!(!verify("something else", text(&drawn, "hash")), "{algorithm}");

        // Of a password that the user gives, only the hash is published.
        let spec = spec(json!({
            "type": "HashedPassword",
            "hashedPassword": {"algorithm": algorithm},
            "provided": {"secretRef": {"name": "mine"}},
        }));
        let kind = material::kind(spec.credential_type).unwrap();
        let given = entries(&json!({"password": "correct horse\n"}));
        let published = with_request(&spec, None, |request| {
            material::publish(kind, request, &given, &mut StdRng::seed_from_u64(1)).unwrap()
        });
        assert_eq!(published.keys().collect::<Vec<_>>(), ["hash"]);
        assert!(verify("correct horse", text(&published, "hash")), "{algorithm}");
    }
}

#[test]
fn totp_agrees_with_another_implementation_and_the_rfc() {
    // RFC 6238, appendix B.
    for (time, code) in [(59, "94287082"), (1_111_111_109, "07081804"), (20_000_000_000, "65353130")] {
        let uri = format!(
            "otpauth://totp/RFC:svc?secret={}&issuer=RFC&digits=8&period=30&algorithm=SHA1",
            BASE32_NOPAD.encode(b"12345678901234567890")
        );
        assert_eq!(totp_rs::Totp::from_url(&uri).unwrap().generate(time).to_string(), code);
    }
    let drawn = draw(json!({"type": "Totp", "totp": {"issuer": "Example Inc", "digits": 8, "period": 60}}));
    let seed = BASE32_NOPAD.decode(text(&drawn, "secret").as_bytes()).unwrap();
    let scanned = totp_rs::Totp::from_url(text(&drawn, "uri")).unwrap();
    for time in [0, 59, 60, 1_800_000_000] {
        let other = totp_lite::totp_custom::<totp_lite::Sha1>(60, 8, &seed, time);
        assert_eq!(scanned.generate(time).to_string(), other);
    }
}

#[test]
fn registry_login_is_read_by_a_client_of_registries() {
    let drawn =
        draw(json!({"type": "Registry", "registry": {"server": "registry.example", "username": "puller"}}));
    let config = drawn[".dockerconfigjson"].expose().as_slice();
    let login = docker_credential::get_credential_from_reader(config, "registry.example").unwrap();
    let docker_credential::DockerCredential::UsernamePassword(username, password) = login else {
        panic!("no password")
    };
    let config: Value = serde_json::from_slice(config).unwrap();
    let login = &config["auths"]["registry.example"];
    assert_eq!((&*username, &json!(password)), ("puller", &login["password"]));
}

#[test]
fn helm_repository_and_object_store_have_what_their_readers_expect() {
    let drawn = draw(json!({"type": "HelmRepository"}));
    assert_eq!((text(&drawn, "username"), text(&drawn, "password").len()), ("svc", 32));
    let drawn = draw_by(json!({"type": "ObjectStore"}), None, 1).unwrap();
    let id = text(&drawn.entries, "AWS_ACCESS_KEY_ID");
    assert_eq!((drawn.facts.id.as_deref(), id.len()), (Some(id), 20));
    assert_eq!(text(&drawn.entries, "AWS_SECRET_ACCESS_KEY").len(), 40);
}

#[test]
fn opaque_fields_are_as_they_are_wished() {
    let drawn = draw(json!({"type": "Opaque", "opaque": {"fields": [
        {"name": "pin", "length": 20, "alphabet": "0123456789"},
        {"name": "hex", "length": 16, "encoding": "Hex"},
        {"name": "base64", "length": 33, "encoding": "Base64"},
        {"name": "raw", "length": 48, "encoding": "Raw"},
        {"name": "plain"},
    ]}}));
    assert!(text(&drawn, "pin").len() == 20 && text(&drawn, "pin").bytes().all(|byte| byte.is_ascii_digit()));
    assert_eq!(HEXLOWER.decode(drawn["hex"].expose()).unwrap().len(), 16);
    assert_eq!(BASE64.decode(drawn["base64"].expose()).unwrap().len(), 33);
    assert_eq!((drawn["raw"].expose().len(), text(&drawn, "plain").len()), (48, 32));
}

/// Two draws never agree, and all characters of an alphabet are drawn.
#[test]
fn draws_differ() {
    let wish = json!({"type": "Opaque", "opaque": {"fields": [{"name": "a", "length": 1024, "alphabet": "abcdefgh"}]}});
    let values: BTreeSet<_> = (0..50)
        .map(|seed| text(&draw_by(wish.clone(), None, seed).unwrap().entries, "a").to_owned())
        .collect();
    assert_eq!(values.len(), 50);
    for value in values {
        let used: BTreeSet<_> = value.chars().collect();
        assert_eq!(used.len(), 8);
    }
}

struct Door(ssh_key::PublicKey);

impl russh::server::Handler for Door {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: russh::server::VerifiedPublicKey<'_>,
    ) -> Result<russh::server::Auth, Self::Error> {
        let same = key.public_key.to_openssh().unwrap() == self.0.to_openssh().unwrap();
        Ok(if user == "git" && same { russh::server::Auth::Accept } else { russh::server::Auth::reject() })
    }
}

struct Visitor;

impl russh::client::Handler for Visitor {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// A handshake of SSH in memory: does the server that knows the public key let the private key in?
async fn opens(public: &str, private: &str) -> bool {
    let host_key = russh::keys::PrivateKey::from_openssh(text(
        &draw_by(json!({"type": "SshKey"}), None, 9).unwrap().entries,
        "ssh-privatekey",
    ));
    let config = russh::server::Config {
        keys: vec![host_key.unwrap()],
        auth_rejection_time: std::time::Duration::ZERO,
        ..russh::server::Config::default()
    };
    let mut public = ssh_key::PublicKey::from_openssh(public.trim()).unwrap();
    public.set_comment("");
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(russh::server::run_stream(Arc::new(config), theirs, Door(public)));
    let mut client = russh::client::connect_stream(Arc::default(), ours, Visitor).await.unwrap();
    let private = russh::keys::PrivateKey::from_openssh(private).unwrap();
    let private = russh::keys::PrivateKeyWithHashAlg::new(Arc::new(private), None);
    let opened = client.authenticate_publickey("git", private).await.unwrap().success();
    drop(client);
    server.abort();
    opened
}

#[tokio::test]
async fn ssh_keys_open_a_server_of_another_author() {
    let other = draw_by(json!({"type": "SshKey"}), None, 2).unwrap().entries;
    for options in [
        json!({"algorithm": "Ed25519"}),
        json!({"algorithm": "Ecdsa"}),
        json!({"algorithm": "Ecdsa", "size": 384}),
        json!({"algorithm": "Ecdsa", "size": 521}),
    ] {
        let drawn = draw(json!({"type": "SshKey", "sshKey": options}));
        let (public, private) = (text(&drawn, "ssh-publickey"), text(&drawn, "ssh-privatekey"));
        assert!(opens(public, private).await, "{options}");
        assert!(!opens(public, text(&other, "ssh-privatekey")).await, "{options}");
    }
}

/// Another implementation takes the numbers for a key, signs, and verifies with what the public key says.
#[test]
fn rsa_keys_for_ssh_sign() {
    use ring::{rsa, signature};
    let drawn = draw(json!({"type": "SshKey", "sshKey": {"algorithm": "Rsa", "size": 2048}}));
    let private = ssh_key::PrivateKey::from_openssh(text(&drawn, "ssh-privatekey")).unwrap();
    let key = private.key_data().rsa().unwrap();
    let number = |number: &ssh_key::Mpint| number.as_positive_bytes().unwrap().to_vec();
    // What OpenSSH does not write follows from what it does.
    let (exponent_p, exponent_q) =
        exponents(&number(&key.private.d), &number(&key.private.p), &number(&key.private.q));
    let components = rsa::KeyPairComponents {
        public_key: rsa::PublicKeyComponents { n: number(&key.public.n), e: number(&key.public.e) },
        d: number(&key.private.d),
        p: number(&key.private.p),
        q: number(&key.private.q),
        dP: exponent_p,
        dQ: exponent_q,
        qInv: number(&key.private.iqmp),
    };
    let pair = rsa::KeyPair::from_components(&components).unwrap();
    let mut signed = vec![0; pair.public().modulus_len()];
    let random = ring::rand::SystemRandom::new();
    pair.sign(&signature::RSA_PKCS1_SHA256, &random, b"orders", &mut signed).unwrap();
    let public = ssh_key::PublicKey::from_openssh(text(&drawn, "ssh-publickey").trim()).unwrap();
    let public = public.key_data().rsa().unwrap();
    let public = rsa::PublicKeyComponents { n: number(&public.n), e: number(&public.e) };
    public.verify(&signature::RSA_PKCS1_2048_8192_SHA256, b"orders", &signed).unwrap();
}

/// The exponents of the Chinese remainder theorem: d mod (p - 1) and d mod (q - 1).
fn exponents(d: &[u8], p: &[u8], q: &[u8]) -> (Vec<u8>, Vec<u8>) {
    use num_bigint::BigUint;
    let number = BigUint::from_bytes_be;
    let reduced = |prime: &[u8]| (number(d) % (number(prime) - 1_u32)).to_bytes_be();
    (reduced(p), reduced(q))
}

/// A handshake of TLS in memory: the client trusts `authority` alone and wants to see `name`.
fn shake_hands(server: &Entries, authority: &str, name: &str) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(server["tls.crt"].expose()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(server["tls.key"].expose()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(root.unwrap())?;
    }
    let client_config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = rustls::ServerConnection::new(Arc::new(config))?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(client_config), name)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn tls_certificates_pass_another_verifier() {
    let issuer = authority(365);
    for options in [
        json!({"algorithm": "Ecdsa"}),
        json!({"algorithm": "Ecdsa", "size": 384}),
        json!({"algorithm": "Ed25519"}),
        json!({"algorithm": "Rsa", "size": 2048}),
    ] {
        let mut tls = options.clone();
        tls["dnsNames"] = json!(["orders.example", "*.orders.example"]);
        tls["ipAddresses"] = json!(["10.0.0.7"]);
        let alone = draw(json!({"type": "Tls", "tls": tls}));
        // A certificate that signs itself is its own anchor, which rustls' verifier does not take for a leaf; what it says
        // of its names and its key holds all the same.
        assert_eq!(check(CredentialType::Tls, &alone).unwrap().fingerprint.unwrap().len(), 64);
        tls["issuer"] = json!({"secretRef": {"name": "authority"}});
        let signed = draw_by(json!({"type": "Tls", "tls": tls}), Some(&issuer), 1).unwrap().entries;
        let root = text(&signed, "ca.crt");
        assert_eq!(root, text(&issuer, "tls.crt"));
        for name in ["orders.example", "a.orders.example", "10.0.0.7"] {
            shake_hands(&signed, root, name).unwrap_or_else(|error| panic!("{options} {name}: {error}"));
        }
        shake_hands(&signed, root, "payments.example").unwrap_err();
        shake_hands(&signed, text(&authority(365), "tls.crt"), "orders.example").unwrap_err();
    }
}

#[test]
fn an_authority_that_cannot_sign_is_told_why() {
    let options = json!({"type": "Tls", "tls": {"duration": "90d", "issuer": {"secretRef": {"name": "a"}}}});
    let mut mismatched = authority(365);
    mismatched.insert("tls.key".to_owned(), authority(365)["tls.key"].clone());
    let no_authority = draw_by(json!({"type": "Tls", "tls": {"duration": "1y"}}), None, 2).unwrap().entries;
    for (issuer, say) in [
        (authority(30), "ends before the one it is to sign"),
        (mismatched, "does not belong to the certificate"),
        (Entries::new(), "the authority cannot sign"),
        (no_authority, "CA:TRUE is missing"),
    ] {
        let told = draw_by(options.clone(), Some(&issuer), 1).unwrap_err().to_string();
        assert!(told.contains(say), "{told}");
    }
}

#[test]
fn options_that_make_no_sense_are_told() {
    for (options, say) in [
        (json!({"type": "BasicAuth", "basicAuth": {"alphabet": "aab"}}), "names a character twice"),
        (
            json!({"type": "BasicAuth", "basicAuth": {"length": 8, "alphabet": "01"}}),
            "8 bits and could be guessed",
        ),
        (json!({"type": "BasicAuth", "basicAuth": {"length": 73}}), "more than 72 characters"),
        (
            json!({"type": "HashedPassword", "hashedPassword": {"length": 73}}),
            "hashedPassword.length is more than 72",
        ),
        (json!({"type": "Registry"}), "set spec.registry.server"),
        (json!({"type": "Opaque"}), "set spec.opaque.fields"),
        (json!({"type": "Tls", "tls": {"ipAddresses": ["1.2.3"]}}), "not an IP address"),
    ] {
        let told = draw_by(options.clone(), None, 1).unwrap_err().to_string();
        assert!(told.contains(say), "{options}: {told}");
    }
    let spec = spec(json!({"type": "Azure"}));
    let told = with_request(&spec, None, |request| {
        material::options(material::kind(spec.credential_type).unwrap(), request).unwrap_err().to_string()
    });
    assert!(told.contains("spec.provided.secretRef"), "{told}");
}

#[test]
fn a_key_is_read_as_openssl_writes_it() {
    // After the parameters of its curve, which `openssl ecparam -genkey` puts first.
    let drawn = draw_by(json!({"type": "Tls", "tls": {}}), None, 1).unwrap().entries;
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let mut provided = drawn.clone();
    let key = [parameters.as_bytes(), drawn["tls.key"].expose().as_slice()].concat();
    provided.insert("tls.key".to_owned(), Redacted::new(key));
    check(CredentialType::Tls, &provided).unwrap();
    provided.insert("tls.key".to_owned(), Redacted::new(parameters.as_bytes().to_vec()));
    let told = check(CredentialType::Tls, &provided).unwrap_err();
    assert!(told.contains("tls.key is not a private key"), "{told}");
}

#[test]
fn what_a_user_provides_is_not_told_in_the_status() {
    // Nobody can tell an id from a secret that was put in its place.
    let id_and_secret = |id: &str, secret: &str| {
        let entries = [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)];
        entries.map(|(key, value)| (key.to_owned(), Redacted::new(value.as_bytes().to_vec()))).into()
    };
    let (id, secret) = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
    assert_eq!(check(CredentialType::AmazonEc2, &id_and_secret(id, secret)).unwrap().id, None);
    assert_eq!(check(CredentialType::ObjectStore, &id_and_secret(secret, id)).unwrap().id, None);
    let told = check(CredentialType::AmazonEc2, &id_and_secret(secret, id)).unwrap_err();
    assert!(told.contains("interchanged") && !told.contains(&secret[..8]), "{told}");
}

#[test]
fn a_password_that_takes_for_ever_to_hash_is_refused() {
    for (length, expected) in [(73, "bcrypt would ignore the rest"), (1025, "more than 1024 bytes")] {
        let entries = [("password".to_owned(), Redacted::new(vec![b'x'; length]))].into();
        let told = check(CredentialType::HashedPassword, &entries).unwrap_err();
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn more_names_than_an_annotation_holds_are_refused() {
    let many = (0..1_000).map(|n| (format!("{n:0200}"), Redacted::new(b"x".to_vec()))).collect();
    let told = check(CredentialType::Opaque, &many).unwrap_err();
    assert!(told.contains("60000 are allowed"), "{told}");
}

#[test]
fn an_open_pgp_key_is_known_by_the_fingerprint_that_gpg_prints() {
    let valid = open_pgp_example();
    let facts = check(CredentialType::GpgKey, &entries(&valid)).unwrap();
    assert_eq!(facts.fingerprint.as_deref(), Some("E3641C2A8F111D6F2AC0DD0F238C540B504CF124"));
    let no_key = "no armored OpenPGP key; write one with gpg --armor --export";
    for (key, value, say) in [
        ("private-key", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n", no_key),
        ("private-key", valid["public-key"].as_str().unwrap(), no_key),
        ("public-key", "canary-value", no_key),
        ("public-key", include_str!("keys/another-open-pgp.asc"), "does not belong to private-key"),
    ] {
        let mut data = valid.clone();
        data[key] = json!(value);
        let told = check(CredentialType::GpgKey, &entries(&data)).unwrap_err();
        assert!(told.contains(key) && told.contains(say) && !told.contains("canary"), "{told}");
    }
}

/// A valid state, and one change.
#[test]
fn provided_material_that_is_wrong_is_told_by_key_and_never_by_value() {
    let tls = draw(json!({"type": "Tls"}));
    let ssh = draw(json!({"type": "SshKey"}));
    let other = draw_by(json!({"type": "SshKey"}), None, 7).unwrap().entries;
    let pair =
        json!({"ca": text(&tls, "ca.crt"), "cert": text(&tls, "tls.crt"), "key": text(&tls, "tls.key")});
    let google = json!({"type": "service_account", "project_id": "p", "private_key_id": "i", "private_key": "k", "client_email": "e"});
    let expired = authority(-1);
    let valid = [
        (CredentialType::BasicAuth, json!({"username": "a", "password": "canary-value"})),
        (
            CredentialType::SshKey,
            json!({"ssh-privatekey": text(&ssh, "ssh-privatekey"), "ssh-publickey": text(&ssh, "ssh-publickey")}),
        ),
        (
            CredentialType::Tls,
            json!({"tls.crt": text(&tls, "tls.crt"), "tls.key": text(&tls, "tls.key"), "ca.crt": text(&tls, "ca.crt")}),
        ),
        (CredentialType::Registry, json!({".dockerconfigjson": "{\"auths\":{\"r\":{\"auth\":\"YTpi\"}}}"})),
        (CredentialType::Totp, json!({"secret": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"})),
        (CredentialType::GpgKey, open_pgp_example()),
        (CredentialType::ClientSecret, json!({"client-id": "a", "client-secret": "canary-value"})),
        (
            CredentialType::ObjectStore,
            json!({"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "canary-value"}),
        ),
        (CredentialType::HelmRepository, json!({"username": "a", "password": "canary-value"})),
        (
            CredentialType::Kubeconfig,
            json!({"value": "{clusters: [{name: a}], users: [{user: {token: canary-value}}], contexts: [{name: a}]}"}),
        ),
        (CredentialType::Opaque, json!({"whatever": "canary-value"})),
        (CredentialType::HashedPassword, json!({"password": "canary-value"})),
        (
            CredentialType::AmazonEc2,
            json!({"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "canary-value"}),
        ),
        (
            CredentialType::Azure,
            json!({"AZURE_CLIENT_ID": "a", "AZURE_CLIENT_SECRET": "canary-value", "AZURE_TENANT_ID": "t"}),
        ),
        (
            CredentialType::Exoscale,
            json!({"EXOSCALE_API_KEY": "EXOa", "EXOSCALE_API_SECRET": "canary-value"}),
        ),
        (CredentialType::SwarmToken, json!({"scope": "worker", "token": "SWMTKN-1-canary-value"})),
        (CredentialType::DockerSwarm, pair.clone()),
        (CredentialType::KubernetesApi, pair.clone()),
        (CredentialType::Vpn, json!({"certificate": pair["cert"], "key": pair["key"], "ca": pair["ca"]})),
        (CredentialType::GoogleCloud, json!({"service-account.json": google.to_string()})),
        (
            CredentialType::OpenStack,
            json!({"OS_AUTH_URL": "https://k", "OS_USERNAME": "u", "OS_PASSWORD": "canary-value"}),
        ),
    ];
    assert_eq!(valid.len(), 21, "a type has no valid example here");
    for (credential_type, data) in &valid {
        check(*credential_type, &entries(data)).unwrap_or_else(|told| panic!("{credential_type:?}: {told}"));
        for key in material::kind(*credential_type).unwrap().provided.required {
            let mut data = data.clone();
            data[*key] = json!(" ");
            let told = check(*credential_type, &entries(&data)).unwrap_err();
            assert!(told.contains(&format!("the key {key} is missing or empty")), "{told}");
        }
    }
    let changes = [
        (CredentialType::BasicAuth, "username", "a:b", "contains a colon"),
        (CredentialType::SshKey, "ssh-privatekey", "canary-value", "not an OpenSSH private key"),
        (
            CredentialType::SshKey,
            "ssh-publickey",
            text(&other, "ssh-publickey"),
            "does not belong to ssh-privatekey",
        ),
        (CredentialType::SshKey, "ssh-publickey", "canary-value", "not an OpenSSH public key"),
        (CredentialType::Tls, "tls.crt", "canary-value", "has no certificate"),
        (CredentialType::Tls, "tls.key", "canary-value", "not a private key"),
        (CredentialType::Tls, "tls.crt", text(&expired, "tls.crt"), "does not belong"),
        (CredentialType::Registry, ".dockerconfigjson", "canary-value", "is not JSON"),
        (CredentialType::Registry, ".dockerconfigjson", "{}", "names no registry"),
        (CredentialType::Totp, "secret", "canary-value", "not Base32"),
        (CredentialType::Totp, "secret", "GEZDGNBV", "fewer than 128 bits"),
        (CredentialType::GpgKey, "private-key", "canary-value", "no armored OpenPGP key"),
        (CredentialType::Kubeconfig, "value", "canary-value", "it has no clusters"),
        (CredentialType::SwarmToken, "token", "canary-value", "no join token"),
        (CredentialType::GoogleCloud, "service-account.json", "canary-value", "is not JSON"),
        (
            CredentialType::GoogleCloud,
            "service-account.json",
            "{\"type\": \"user\"}",
            "not of the type service_account",
        ),
    ];
    for (credential_type, key, value, say) in changes {
        let (_, data) = valid.iter().find(|(valid, _)| *valid == credential_type).unwrap();
        let mut data = data.clone();
        data[key] = json!(value);
        let told = check(credential_type, &entries(&data)).unwrap_err();
        assert!(told.contains(say) && !told.contains("canary"), "{credential_type:?} {key}: {told}");
    }
}

#[test]
fn a_chain_that_is_none_and_a_key_that_is_locked_are_not_taken() {
    let tls = draw(json!({"type": "Tls"}));
    let told = check(CredentialType::Tls, &authority(-1)).unwrap_err();
    assert!(told.contains("ended at"), "{told}");
    let mut backwards = authority(365);
    let chain = text(&backwards, "tls.crt").to_owned() + text(&tls, "tls.crt");
    backwards.insert("tls.crt".to_owned(), Redacted::new(chain.into_bytes()));
    let told = check(CredentialType::Tls, &backwards).unwrap_err();
    assert!(told.contains("are no chain"), "{told}");
    let mut locked = draw(json!({"type": "SshKey"}));
    let key = include_str!("keys/locked-ssh");
    locked.insert("ssh-privatekey".to_owned(), Redacted::new(key.as_bytes().to_vec()));
    let told = check(CredentialType::SshKey, &locked).unwrap_err();
    assert!(told.contains("locked by a passphrase"), "{told}");
}
