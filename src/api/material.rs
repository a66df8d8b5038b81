//! The options of each type of credential, as users write them in the block of that type.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Lifetime;

/// Where the material comes from that the operator does not draw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
pub struct Provided {
    /// The Secret with the material, in the same namespace. It must carry the label
    /// credential-operator.io/provided: "true", by which its owner consents.
    pub secret_ref: SecretReference,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct SecretReference {
    /// The Secret's name. Example: my-secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// When generated material is drawn anew.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
#[x_kube(
    validation = Rule::new("!has(self.every) || !has(self.overlap) || int(self.overlap.substring(0, self.overlap.size() - 1)) * (self.overlap.endsWith('m') ? 1 : self.overlap.endsWith('h') ? 60 : self.overlap.endsWith('d') ? 1440 : self.overlap.endsWith('w') ? 10080 : 525600) <= int(self.every.substring(0, self.every.size() - 1)) * (self.every.endsWith('m') ? 1 : self.every.endsWith('h') ? 60 : self.every.endsWith('d') ? 1440 : self.every.endsWith('w') ? 10080 : 525600)").message("overlap is longer than every, but at most two values are valid at a time; shorten overlap, or rotate less often").field_path(".overlap")
)]
pub struct Rotation {
    /// How long after it was drawn material is replaced. Absent: never by time (but a Tls certificate is renewed after
    /// two thirds of its duration). Example: 90d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Lifetime>,
    /// How long the value before stays valid beside the new one. ClientSecret only: nobody else can be told of two.
    /// Absent: not at all. Example: 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Lifetime>,
    /// Any other number than the one that was answered last replaces the material now. Absent at first is as good as 0.
    /// Example: 1.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
}

/// A kubeconfig of the credential's own identity, with a token that the API server mints.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.duration) || !self.duration.endsWith('m') || int(self.duration.substring(0, self.duration.size() - 1)) >= 10").message("the API server mints no token for less than ten minutes; set duration to 10m or more").field_path(".duration"),
    validation = Rule::new("!has(self.certificateAuthority) || self.certificateAuthority.contains('-----BEGIN CERTIFICATE-----')").message("not a certificate; write it in PEM, with the lines that begin and end it").field_path(".certificateAuthority"),
    validation = Rule::new("!has(self.certificateAuthority) || !self.certificateAuthority.contains('PRIVATE KEY')").message("a private key does not belong here, but the certificate of the authority alone; and whoever could read this object can read that key").field_path(".certificateAuthority")
)]
pub struct Kubeconfig {
    /// The URL of the API server, as those reach it who use the file. Example: `https://api.example:6443`.
    #[schemars(
        length(min = 9, max = 512),
        regex(pattern = r"^https://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*)?$")
    )]
    pub server: String,
    /// The certificates of the authority that the API server's own is signed by, PEM. Absent: those in the
    /// `ConfigMap` kube-root-ca.crt of the namespace, where Kubernetes has its own.
    #[schemars(length(max = 65536))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// How long a token in it lives; another takes its place after two thirds of that, or of what the API server grants.
    /// At least 10m. Absent: 24h. Example: 12h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Lifetime>,
}

/// User name and password.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
#[x_kube(
    validation = Rule::new("!has(self.length) || self.length <= 72").message("bcrypt, which the line of the htpasswd file is made by, looks at 72 characters only; choose 8 to 72").field_path(".length")
)]
pub struct BasicAuth {
    /// The user name; absent: the credential's name. Example: svc.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[^:\x00-\x1F\x7F]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// How the password is drawn.
    #[serde(default, flatten)]
    pub password: Password,
}

/// How a password is drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Password {
    /// How many characters the password has; absent: 32. Example: 24.
    #[schemars(range(min = 8, max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub length: Option<u32>,
    /// The characters that the password is drawn from, each named once; absent: letters and digits.
    /// Example: abcdefghjkmnpqrstuvwxyz23456789.
    #[schemars(length(min = 2, max = 94), regex(pattern = r"^[\x21-\x7E]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alphabet: Option<String>,
}

/// A key pair for SSH, in OpenSSH's own format.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
#[x_kube(
    validation = Rule::new("!has(self.size) || (has(self.algorithm) && (self.algorithm == 'Rsa' ? self.size in [2048, 3072, 4096] : self.algorithm == 'Ecdsa' && self.size in [256, 384, 521]))").message("size goes with algorithm Rsa (2048, 3072 or 4096) and Ecdsa (256, 384 or 521); remove it for Ed25519").field_path(".size")
)]
pub struct SshKey {
    /// Ed25519, Ecdsa or Rsa.
    #[serde(default)]
    pub algorithm: KeyAlgorithm,
    /// Bits: 2048, 3072 or 4096 (the default) for Rsa; 256 (the default), 384 or 521 for Ecdsa. Example: 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub size: Option<u32>,
    /// The comment in the public key; absent: namespace/name of the credential. Example: deploy@ci.
    #[schemars(length(max = 256), regex(pattern = r"^[\x20-\x7E]*$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Algorithms of key pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "told where kubectl explain shows it")]
pub enum KeyAlgorithm {
    #[default]
    Ed25519,
    Ecdsa,
    Rsa,
}

// As far as a pattern can tell what an address is: Kubernetes 1.30 takes no `isIP` in a definition. The operator tells the rest.
const NO_ADDRESS_AMONG_NAMES: &str =
    "!has(self.dnsNames) || self.dnsNames.all(name, !name.matches('^[0-9]+([.][0-9]+){3}$'))";
const ADDRESSES: &str = concat!(
    "!has(self.ipAddresses) || self.ipAddresses.all(address, address.matches('",
    "^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])[.]){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$",
    "|^[0-9a-fA-F]{0,4}(:[0-9a-fA-F]{0,4}){2,8}$",
    "'))",
);

/// A private key and a certificate for it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.size) || (self.algorithm == 'Rsa' ? self.size in [2048, 3072, 4096] : self.algorithm == 'Ecdsa' && self.size in [256, 384])").message("size goes with algorithm Rsa (2048, 3072 or 4096) and Ecdsa (256 or 384); remove it for Ed25519").field_path(".size"),
    validation = Rule::new(NO_ADDRESS_AMONG_NAMES).message("an IP address among the DNS names; put it into ipAddresses").field_path(".dnsNames"),
    validation = Rule::new(ADDRESSES).message("not an IP address; write one like 10.0.0.7 or 2001:db8::7").field_path(".ipAddresses")
)]
pub struct Tls {
    /// Ecdsa, Ed25519 or Rsa; absent: Ecdsa, which every client understands.
    #[serde(default = "ecdsa")]
    pub algorithm: KeyAlgorithm,
    /// Bits: 2048 (the default), 3072 or 4096 for Rsa; 256 (the default) or 384 for Ecdsa. Example: 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub size: Option<u32>,
    /// The subject's common name; absent: the credential's name. Example: orders.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    /// The DNS names that the certificate is for; the first label may be a *. Example: [orders.example, "*.orders.example"].
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 253), regex(pattern = r"^(\*\.)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// The IP addresses that the certificate is for. Example: [10.0.0.7].
    #[schemars(length(max = 64), inner(length(min = 2, max = 39)), extend("x-kubernetes-list-type" = "set"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_addresses: Vec<String>,
    /// How long a certificate is valid; absent: 90d. It is renewed after two thirds of that, or by rotation.every.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Lifetime>,
    /// Who signs; absent: the key signs its own certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Issuer>,
}

const fn ecdsa() -> KeyAlgorithm {
    KeyAlgorithm::Ecdsa
}

/// A certificate authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "camelCase")]
pub struct Issuer {
    /// The Secret with the authority's certificate (tls.crt) and key (tls.key), in the same namespace. It must carry
    /// the label credential-operator.io/provided: "true", by which its owner consents.
    pub secret_ref: SecretReference,
}

/// Access key and secret key of an object store that takes the keys it is given, as MinIO and Ceph RGW do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct ObjectStore {
    /// Published as `AWS_ENDPOINT_URL`. Example: `https://minio.example`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^https?://[!-~]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Published as `AWS_REGION`. Example: eu-central-1.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[!-~]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Published as `BUCKET_NAME`. Example: orders.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[!-~]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
}

/// A login for a container registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Registry {
    /// The registry, as images name it. Example: registry.example:5000.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[A-Za-z0-9][-A-Za-z0-9.:/_]*$"))]
    pub server: String,
    /// The user name; absent: the credential's name. Example: puller.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[^:\x00-\x1F\x7F]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// How the password is drawn.
    #[serde(default, flatten)]
    pub password: Password,
}

/// A login for a Helm repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct HelmRepository {
    /// The user name; absent: the credential's name. Example: charts.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[^:\x00-\x1F\x7F]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// How the password is drawn.
    #[serde(default, flatten)]
    pub password: Password,
}

/// Any number of random values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Opaque {
    /// The values, each under a key of its own. Example: [{name: api-key, length: 40}].
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub fields: Vec<Field>,
}

/// One random value.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
#[x_kube(
    validation = Rule::new("self.name != '.' && !self.name.startsWith('..')").message("not the key of a Secret: it may not be . and not begin with ..").field_path(".name"),
    validation = Rule::new("!has(self.alphabet) || !has(self.encoding)").message("set alphabet (for so many characters of it) or encoding (for so many random bytes, encoded), not both").field_path(".encoding")
)]
pub struct Field {
    /// The key in the Secret. Example: api-key.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub name: String,
    /// How many characters, or random bytes where encoding is set; absent: 32. Example: 40.
    #[schemars(range(min = 8, max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub length: Option<u32>,
    /// The characters that it is drawn from, each named once; absent: letters and digits. Example: 0123456789abcdef.
    #[schemars(length(min = 2, max = 94), regex(pattern = r"^[\x21-\x7E]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alphabet: Option<String>,
    /// Hex, Base64, Base64Url or Raw: random bytes, written so. Example: Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
}

/// How random bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "told at Field::encoding, where kubectl explain shows it")]
pub enum Encoding {
    Hex,
    Base64,
    Base64Url,
    Raw,
}

/// The hash of a password, and the password where it was generated.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
#[x_kube(
    validation = Rule::new("!has(self.cost) || !has(self.algorithm) || self.algorithm == 'Bcrypt'").message("cost goes with algorithm Bcrypt; remove it").field_path(".cost")
)]
pub struct HashedPassword {
    /// Bcrypt, Argon2id or Sha512Crypt.
    #[serde(default)]
    pub algorithm: HashAlgorithm,
    /// The cost of Bcrypt, the logarithm of its rounds; absent: 12. Example: 10.
    #[schemars(range(min = 10, max = 15))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub cost: Option<u32>,
    /// How the password is drawn.
    #[serde(default, flatten)]
    pub password: Password,
}

/// Algorithms that hash passwords.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "told at HashedPassword::algorithm, where kubectl explain shows it")]
pub enum HashAlgorithm {
    #[default]
    Bcrypt,
    Argon2id,
    Sha512Crypt,
}

/// A seed for one-time passwords by time, RFC 6238.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Totp {
    /// Who asks for the one-time password; absent: the credential's namespace. Example: Example Inc.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[^:\x00-\x1F\x7F]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Whose one-time password it is; absent: the credential's name. Example: alice.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[^:\x00-\x1F\x7F]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Sha1 (what most apps assume), Sha256 or Sha512.
    #[serde(default)]
    pub algorithm: TotpAlgorithm,
    /// 6 or 8; absent: 6.
    #[schemars(extend("enum" = [6, 8]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub digits: Option<u32>,
    /// Seconds that one password lasts; absent: 30. Example: 60.
    #[schemars(range(min = 15, max = 300))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub period: Option<u32>,
}

/// Hashes of one-time passwords.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[expect(missing_docs, reason = "told at Totp::algorithm, where kubectl explain shows it")]
pub enum TotpAlgorithm {
    #[default]
    Sha1,
    Sha256,
    Sha512,
}
