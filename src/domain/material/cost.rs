//! The CPU time that it takes to generate material, and the limit on how often it is generated.
//!
//! If generation takes [`FREE`] or more, it is limited so that one credential uses at most 0.5 % of a processor core,
//! whatever triggers the generation: `rotation.every`, a revision, an annotation, other options, or another provided
//! password to hash. `cargo bench -- generation` measures the CPU times.
//!
//! Bearer tokens take no time, so the limit never lengthens their lifetime.

use jiff::SignedDuration;

use super::{basic_auth, hashed_password};
use crate::api::{
    CredentialSpec, CredentialType, Lifetime,
    material::{HashAlgorithm, HashedPassword, KeyAlgorithm},
};

/// Material that takes less CPU time is generated without a limit.
const FREE: SignedDuration = SignedDuration::from_millis(100);
/// The shortest period as a multiple of the CPU time: 0.5 % of a core.
const TIMES: i32 = 200;
/// Material that takes more CPU time is generated in a separate thread.
const INLINE: SignedDuration = SignedDuration::from_millis(5);

/// Returns the shortest period between two generations of this material.
#[must_use]
pub fn shortest_period(spec: &CredentialSpec) -> SignedDuration {
    let time = cpu_time(spec);
    if time < FREE { SignedDuration::ZERO } else { time * TIMES }
}

/// Whether the material is generated in a separate thread, so that other reconciles do not wait for it.
#[must_use]
pub fn takes_long(spec: &CredentialSpec) -> bool {
    cpu_time(spec) > INLINE
}

/// Returns `spec.rotation.every` and the period that replaces it, if that is longer.
#[must_use]
pub fn lengthened(spec: &CredentialSpec) -> Option<(Lifetime, SignedDuration)> {
    let every = spec.rotation.as_ref()?.every.clone().filter(|_| spec.provided.is_none())?;
    let shortest = shortest_period(spec);
    every.duration().is_ok_and(|asked| asked < shortest).then_some((every, shortest))
}

/// Returns the CPU time of one generation, rounded up.
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

/// The CPU time of bcrypt. It doubles with each cost.
fn bcrypt(cost: u32) -> SignedDuration {
    SignedDuration::from_millis(60) * (1 << cost.saturating_sub(10).min(16))
}

/// The mean CPU time of generating a key. The time to find primes varies by a multiple.
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
