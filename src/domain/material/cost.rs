//! How much CPU time it takes to generate material, and how often a credential may have it generated.
//!
//! The rule: where that takes [`FREE`] or more, one credential has material generated at most so often that it uses half a percent of
//! a processor core, whatever asks for it: `rotation.every`, a revision, an annotation, other options, or another provided password
//! to hash. `cargo bench -- generation` measures the CPU times.
//!
//! Bearer tokens take no time, so that this never lengthens the lifetime of one.

use jiff::SignedDuration;

use super::{basic_auth, hashed_password};
use crate::api::{
    CredentialSpec, CredentialType, Lifetime,
    material::{HashAlgorithm, HashedPassword, KeyAlgorithm},
};

/// What takes less is generated as often as it is asked for.
const FREE: SignedDuration = SignedDuration::from_millis(100);
/// A period is so many times the CPU time: half a percent of a core.
const TIMES: i32 = 200;
/// What takes longer is generated in a thread of its own.
const INLINE: SignedDuration = SignedDuration::from_millis(5);

/// The shortest period in which such material is generated.
#[must_use]
pub fn shortest_period(spec: &CredentialSpec) -> SignedDuration {
    let time = cpu_time(spec);
    if time < FREE { SignedDuration::ZERO } else { time * TIMES }
}

/// Whether it takes so much computing that others must not wait for it.
#[must_use]
pub fn takes_long(spec: &CredentialSpec) -> bool {
    cpu_time(spec) > INLINE
}

/// What `spec.rotation.every` asks for and the period that is kept instead, where that is longer.
#[must_use]
pub fn lengthened(spec: &CredentialSpec) -> Option<(Lifetime, SignedDuration)> {
    let every = spec.rotation.as_ref()?.every.clone().filter(|_| spec.provided.is_none())?;
    let shortest = shortest_period(spec);
    every.duration().is_ok_and(|asked| asked < shortest).then_some((every, shortest))
}

/// The CPU time that it takes, rounded up.
#[must_use]
pub fn cpu_time(spec: &CredentialSpec) -> SignedDuration {
    match spec.credential_type {
        CredentialType::BasicAuth => bcrypt(basic_auth::COST),
        CredentialType::HashedPassword => hashing(&spec.hashed_password.clone().unwrap_or_default()),
        CredentialType::SshKey => {
            let block = spec.ssh_key.clone().unwrap_or_default();
            key(block.algorithm, block.size.unwrap_or(4096))
        }
        CredentialType::Tls => {
            let block = spec.tls.clone().unwrap_or_default();
            key(block.algorithm, block.size.unwrap_or(2048))
        }
        _ => SignedDuration::ZERO,
    }
}

fn hashing(block: &HashedPassword) -> SignedDuration {
    match block.algorithm {
        HashAlgorithm::Bcrypt => bcrypt(block.cost.unwrap_or(hashed_password::COST)),
        HashAlgorithm::Argon2id | HashAlgorithm::Sha512Crypt => SignedDuration::from_millis(50),
    }
}

/// Each cost doubles it.
fn bcrypt(cost: u32) -> SignedDuration {
    SignedDuration::from_millis(60) * (1 << cost.saturating_sub(10).min(16))
}

/// Finding the primes takes sometimes less and sometimes some times longer; this is the mean.
const fn key(algorithm: KeyAlgorithm, size: u32) -> SignedDuration {
    match (algorithm, size) {
        (KeyAlgorithm::Rsa, 0..=2048) => SignedDuration::from_millis(150),
        (KeyAlgorithm::Rsa, 2049..=3072) => SignedDuration::from_millis(600),
        (KeyAlgorithm::Rsa, _) => SignedDuration::from_secs(3),
        _ => SignedDuration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::material::kind;

    fn spec(text: Value) -> CredentialSpec {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn costly_material_is_rotated_less_often_than_it_asks_for() {
        let hashed = |cost: u32| json!({"type": "HashedPassword", "hashedPassword": {"algorithm": "Bcrypt", "cost": cost}});
        let cases = [
            (hashed(4), 0),
            (hashed(10), 0),
            (hashed(11), 24),
            (hashed(12), 48),
            (hashed(15), 384),
            (json!({"type": "HashedPassword", "hashedPassword": {"algorithm": "Bcrypt"}}), 48),
            (json!({"type": "HashedPassword", "hashedPassword": {"algorithm": "Argon2id"}}), 0),
            (json!({"type": "BasicAuth"}), 0),
            (json!({"type": "SshKey", "sshKey": {"algorithm": "Rsa"}}), 600),
            (json!({"type": "SshKey", "sshKey": {"algorithm": "Rsa", "size": 2048}}), 30),
            (json!({"type": "SshKey", "sshKey": {"algorithm": "Rsa", "size": 3072}}), 120),
            (json!({"type": "SshKey", "sshKey": {"algorithm": "Ecdsa"}}), 0),
            (json!({"type": "Tls", "tls": {"dnsNames": ["a.example"], "algorithm": "Rsa"}}), 30),
            (json!({"type": "Tls", "tls": {"dnsNames": ["a.example"]}}), 0),
        ];
        for (options, seconds) in cases {
            let mut spec = spec(options.clone());
            assert_eq!(shortest_period(&spec), SignedDuration::from_secs(seconds), "{options}");
            for (every, asked) in [("1m", 60), ("6m", 360), ("2h", 7_200)] {
                spec.rotation = Some(serde_json::from_value(json!({"every": every})).unwrap());
                let longer = (asked < seconds).then(|| SignedDuration::from_secs(seconds));
                assert_eq!(lengthened(&spec).map(|(_, kept)| kept), longer, "{options} every {every}");
            }
        }
    }

    #[test]
    fn only_short_work_is_done_while_others_wait() {
        for (options, long) in [
            (json!({"type": "BasicAuth"}), true),
            (json!({"type": "HashedPassword", "hashedPassword": {"algorithm": "Argon2id"}}), true),
            (json!({"type": "SshKey", "sshKey": {"algorithm": "Rsa", "size": 2048}}), true),
            (json!({"type": "SshKey"}), false),
            (json!({"type": "Tls", "tls": {}}), false),
            (json!({"type": "ClientSecret"}), false),
        ] {
            assert_eq!(takes_long(&spec(options.clone())), long, "{options}");
        }
    }

    #[test]
    fn the_lifetime_of_a_bearer_token_is_never_lengthened() {
        for (name, text) in [("ClientSecret", "1m"), ("Kubeconfig", "10m")] {
            let spec = spec(json!({"type": name, "rotation": {"every": text}}));
            let bearer = kind(spec.credential_type).unwrap().generated.as_ref().unwrap();
            assert!(bearer.bearer || name == "Kubeconfig");
            assert_eq!(lengthened(&spec), None, "{name}");
        }
        let provided = spec(json!({"type": "HashedPassword", "rotation": {"every": "1m"},
            "hashedPassword": {"algorithm": "Bcrypt", "cost": 15}, "provided": {"secretRef": {"name": "a"}}}));
        assert_eq!(lengthened(&provided), None, "what is provided is not generated");
    }
}
