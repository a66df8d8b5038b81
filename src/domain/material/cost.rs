//! How often material of a type may be generated: as often as `rotation.every` asks, but no credential may take more than about
//! a thousandth of a processor core.
//!
//! Bearer tokens are cheap, so that this never lengthens the lifetime of one.

use jiff::SignedDuration;

use super::hashed_password;
use crate::api::{
    CredentialSpec, CredentialType, Lifetime,
    material::{HashAlgorithm, KeyAlgorithm},
};

const NONE: SignedDuration = SignedDuration::ZERO;
/// The bcrypt cost that takes about 60 ms; each more doubles it.
const BCRYPT_PER_MINUTE: u32 = 10;

/// The shortest period in which such material is rotated.
#[must_use]
pub fn shortest_period(spec: &CredentialSpec) -> SignedDuration {
    let size = match spec.credential_type {
        CredentialType::HashedPassword => {
            let block = spec.hashed_password.clone().unwrap_or_default();
            return match block.algorithm {
                HashAlgorithm::Bcrypt => bcrypt(block.cost.unwrap_or(hashed_password::COST)),
                HashAlgorithm::Argon2id | HashAlgorithm::Sha512Crypt => NONE,
            };
        }
        CredentialType::SshKey => {
            let block = spec.ssh_key.clone().unwrap_or_default();
            (block.algorithm == KeyAlgorithm::Rsa).then(|| block.size.unwrap_or(4096))
        }
        CredentialType::Tls => {
            let block = spec.tls.clone().unwrap_or_default();
            (block.algorithm == KeyAlgorithm::Rsa).then(|| block.size.unwrap_or(2048))
        }
        _ => None,
    };
    size.map_or(NONE, rsa)
}

/// What `spec.rotation.every` asks for and the period that is kept instead, where that is longer.
#[must_use]
pub fn lengthened(spec: &CredentialSpec) -> Option<(Lifetime, SignedDuration)> {
    let every = spec.rotation.as_ref()?.every.clone().filter(|_| spec.provided.is_none())?;
    let shortest = shortest_period(spec);
    every.duration().is_ok_and(|asked| asked < shortest).then_some((every, shortest))
}

fn bcrypt(cost: u32) -> SignedDuration {
    let doublings = cost.saturating_sub(BCRYPT_PER_MINUTE).min(16);
    if doublings == 0 { NONE } else { SignedDuration::from_mins(1 << doublings) }
}

/// Finding the primes takes 0.1 to 4 s.
const fn rsa(size: u32) -> SignedDuration {
    match size {
        0..=2048 => SignedDuration::from_mins(5),
        2049..=3072 => SignedDuration::from_mins(20),
        _ => SignedDuration::from_hours(1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::material::kind;

    fn spec(text: serde_json::Value) -> CredentialSpec {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn costly_material_is_rotated_less_often_than_it_asks_for() {
        let hashed = |cost: u32| json!({"type": "HashedPassword", "hashedPassword": {"algorithm": "Bcrypt", "cost": cost}});
        let cases = [
            (hashed(10), 0),
            (hashed(11), 2),
            (hashed(12), 4),
            (hashed(15), 32),
            (json!({"type": "HashedPassword", "hashedPassword": {"algorithm": "Bcrypt"}}), 4),
            (json!({"type": "HashedPassword", "hashedPassword": {"algorithm": "Argon2id"}}), 0),
            (json!({"type": "SshKey", "sshKey": {"algorithm": "Rsa"}}), 60),
            (json!({"type": "SshKey", "sshKey": {"algorithm": "Rsa", "size": 2048}}), 5),
            (json!({"type": "SshKey", "sshKey": {"algorithm": "Rsa", "size": 3072}}), 20),
            (json!({"type": "SshKey", "sshKey": {"algorithm": "Ecdsa"}}), 0),
            (json!({"type": "Tls", "tls": {"dnsNames": ["a.example"], "algorithm": "Rsa"}}), 5),
            (json!({"type": "Tls", "tls": {"dnsNames": ["a.example"]}}), 0),
        ];
        for (options, minutes) in cases {
            let mut spec = spec(options.clone());
            assert_eq!(shortest_period(&spec), SignedDuration::from_mins(minutes), "{options}");
            for (every, asked) in [("1m", 1), ("6m", 6), ("2h", 120)] {
                spec.rotation = Some(serde_json::from_value(json!({"every": every})).unwrap());
                let longer = (asked < minutes).then(|| SignedDuration::from_mins(minutes));
                assert_eq!(lengthened(&spec).map(|(_, kept)| kept), longer, "{options} every {every}");
            }
        }
    }

    #[test]
    fn eight_of_the_costliest_take_less_than_a_hundredth_of_a_core() {
        // bcrypt 15 takes 1.9 s on the machine that docs/performance.md is about.
        let period = bcrypt(15).as_secs_f64();
        assert!(8.0 * 1.9 / period < 0.01, "{period}");
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
