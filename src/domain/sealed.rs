//! Encryption of values for the public keys (age or SSH) of recipients.
//!
//! The format is that of age (<https://age-encryption.org/v1>), so that `age -d` decrypts it. age generates one file key,
//! and one ephemeral key for each recipient, with the random number generator of the system.

use std::{io::Write, panic::catch_unwind, str::FromStr};

use age::{Encryptor, Recipient, ssh, x25519};
use bech32::FromBase32;
use curve25519_dalek::MontgomeryPoint;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::name::hex;

/// The suffix of the keys of encrypted values.
pub const SUFFIX: &str = ".age";

/// An encryption error. It has the index of the recipient, but not its text, which may be a private key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SealError {
    /// There are no recipients.
    #[error("spec.delivery.recipients names nobody; mode Sealed needs at least one public key")]
    Nobody,
    /// A recipient is not a public key that age accepts.
    #[error(
        "spec.delivery.recipients[{0}] is no public key that a value can be sealed for: a character is missing or mistyped, or it \
         is an RSA key of fewer than 2048 or more than 4096 bits; copy it again from age-keygen -y or from the .pub file"
    )]
    Recipient(usize),
    /// A recipient is a point of low order, so everybody knows the shared secret (RFC 7748, section 6.1).
    #[error(
        "spec.delivery.recipients[{0}] is a key of low order: nobody has its private key, and anybody can decrypt values that are \
         sealed for it. Replace it with a key from age-keygen or ssh-keygen, and another value is issued"
    )]
    LowOrder(usize),
    /// The encryption failed.
    #[error("the value cannot be sealed for these recipients")]
    Failed,
}

/// Public keys that a value can be encrypted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipients(Vec<String>);

impl Recipients {
    /// Parses public keys and checks each of them by a trial encryption.
    ///
    /// # Errors
    /// When the list is empty, or an entry is not a public key or cannot be used for encryption.
    pub fn new(texts: &[String]) -> Result<Self, SealError> {
        if texts.is_empty() {
            return Err(SealError::Nobody);
        }
        for (at, text) in texts.iter().enumerate() {
            let key = PublicKey::parse(text).ok_or(SealError::Recipient(at))?;
            if key.is_of_low_order() {
                return Err(SealError::LowOrder(at));
            }
            seal(&[key], b"").map_err(|_| SealError::Recipient(at))?;
        }
        Ok(Self(texts.to_vec()))
    }

    /// An identifier of this set of recipients.
    #[must_use]
    pub fn mark(&self) -> String {
        Self::mark_of(&self.0)
    }

    /// An identifier of a set of recipients. It does not depend on their order or on the comments of SSH keys.
    #[must_use]
    pub fn mark_of(texts: &[String]) -> String {
        let mut keys: Vec<_> = texts.iter().map(|text| text.split(' ').take(2).collect::<Vec<_>>()).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut hash = Sha256::new();
        for part in keys.iter().flatten() {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hex(&hash.finalize())
    }

    /// Encrypts a value so that each recipient can decrypt it independently.
    ///
    /// # Errors
    /// When the encryption for one of them fails.
    pub fn seal(&self, value: &[u8]) -> Result<Vec<u8>, SealError> {
        let keys = self.0.iter().enumerate();
        let keys = keys.map(|(at, text)| PublicKey::parse(text).ok_or(SealError::Recipient(at)));
        seal(&keys.collect::<Result<Vec<_>, _>>()?, value)
    }
}

/// A public key that age can encrypt for.
enum PublicKey {
    Age(x25519::Recipient),
    Ssh(ssh::Recipient),
}

impl PublicKey {
    fn parse(text: &str) -> Option<Self> {
        if text.starts_with("age1") {
            return x25519::Recipient::from_str(text).ok().map(Self::Age);
        }
        // age ignores trailing data in the key, so the parsed key is compared with the text.
        let key = text.split(' ').nth(1)?;
        // age 0.11 panics if a number of an RSA key is a zero that is encoded in one or more bytes.
        let recipient = catch_unwind(|| ssh::Recipient::from_str(text)).ok()?.ok()?;
        let read = recipient.to_string();
        let is_whole = read.split(' ').nth(1)?.trim_end_matches('=') == key.trim_end_matches('=');
        is_whole.then_some(Self::Ssh(recipient))
    }

    /// Whether the Diffie-Hellman function returns zero for this key and any private key.
    fn is_of_low_order(&self) -> bool {
        let point = match self {
            Self::Age(key) => point(key),
            Self::Ssh(ssh::Recipient::SshEd25519(_, key)) => Some(key.to_montgomery()),
            Self::Ssh(ssh::Recipient::SshRsa(..)) => return false,
        };
        // A clamped scalar is a multiple of both cofactors, so one scalar is enough for the check.
        point.is_none_or(|point| point.mul_clamped([1; 32]).to_bytes() == [0; 32])
    }

    fn as_recipient(&self) -> &dyn Recipient {
        match self {
            Self::Age(key) => key,
            Self::Ssh(key) => key,
        }
    }
}

fn point(key: &x25519::Recipient) -> Option<MontgomeryPoint> {
    let (_, digits, _) = bech32::decode(&key.to_string()).ok()?;
    Some(MontgomeryPoint(Vec::from_base32(&digits).ok()?.try_into().ok()?))
}

/// Encrypts a value for all of these keys. age panics for some unexpected keys, so a panic is returned as an error.
fn seal(keys: &[PublicKey], value: &[u8]) -> Result<Vec<u8>, SealError> {
    let sealed = catch_unwind(|| {
        let recipients = keys.iter().map(PublicKey::as_recipient);
        let sealed = Encryptor::with_recipients(recipients).map_err(|_| SealError::Failed)?;
        let mut bytes = Vec::new();
        let mut writer = sealed.wrap_output(&mut bytes).map_err(|_| SealError::Failed)?;
        writer.write_all(value).map_err(|_| SealError::Failed)?;
        writer.finish().map_err(|_| SealError::Failed)?;
        Ok(bytes)
    });
    sealed.unwrap_or(Err(SealError::Failed))
}

#[cfg(test)]
mod tests {
    use std::iter;

    use age::{Decryptor, Identity, secrecy::ExposeSecret};
    use std::io::Read;

    use super::*;

    const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN";

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn open(identity: &dyn Identity, sealed: &[u8]) -> Option<Vec<u8>> {
        let mut opened = Vec::new();
        let mut reader = Decryptor::new(sealed).unwrap().decrypt(iter::once(identity)).ok()?;
        reader.read_to_end(&mut opened).ok()?;
        Some(opened)
    }

    #[test]
    fn each_recipient_can_open_it_and_nobody_else() {
        let [one, other, stranger] = [(); 3].map(|()| x25519::Identity::generate());
        let to = texts(&[&one.to_public().to_string(), SSH, &other.to_public().to_string()]);
        let sealed = Recipients::new(&to).unwrap().seal(b"the value").unwrap();
        assert!(!sealed.windows(9).any(|window| window == b"the value"));
        for identity in [&one, &other] {
            assert_eq!(open(identity, &sealed).as_deref(), Some(&b"the value"[..]));
        }
        assert_eq!(open(&stranger, &sealed), None);
        assert_ne!(sealed, Recipients::new(&to).unwrap().seal(b"the value").unwrap());
    }

    #[test]
    fn what_is_no_public_key_is_told_by_its_place_and_not_repeated() {
        let good = x25519::Identity::generate();
        let public = good.to_public().to_string();
        let private = good.to_string();
        let mistyped = public.replace(&public[10..12], "qq");
        let cut = &SSH[..SSH.len() - 8];
        let longer = format!("{SSH}AAAA");
        for bad in [private.expose_secret(), mistyped.as_str(), cut, &longer, "ssh-ed25519", "", "age1"] {
            let error = Recipients::new(&texts(&[&public, bad])).unwrap_err();
            assert_eq!(error, SealError::Recipient(1), "{bad}");
            assert!(bad.is_empty() || bad.len() < 8 || !error.to_string().contains(bad));
        }
        assert_eq!(Recipients::new(&[]), Err(SealError::Nobody));
    }

    fn age(bytes: &[u8]) -> String {
        use bech32::{ToBase32, Variant};
        bech32::encode("age", bytes.to_base32(), Variant::Bech32).unwrap()
    }

    fn ssh(kind: &str, parts: &[&[u8]]) -> String {
        let mut wire = Vec::new();
        for part in [&[kind.as_bytes()], parts].concat() {
            wire.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            wire.extend(part);
        }
        format!("{kind} {}", data_encoding::BASE64.encode(&wire))
    }

    /// Little-endian 2^255 - 19 + `plus`.
    fn p(plus: i8) -> [u8; 32] {
        let mut bytes = [0xff; 32];
        bytes[0] = 0xed_u8.wrapping_add_signed(plus);
        bytes[31] = 0x7f;
        bytes
    }

    fn hexadecimal(text: &str) -> [u8; 32] {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
    }

    #[test]
    fn x25519_keys_of_low_order_are_refused_in_every_encoding() {
        let [zero, mut one] = [[0; 32]; 2];
        one[0] = 1;
        let of_order_8 = [
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        ];
        let [first, second] = of_order_8.map(hexadecimal);
        let good = x25519::Identity::generate().to_public().to_string();
        for point in [zero, one, first, second, p(-1), p(0), p(1)] {
            // The highest bit is ignored.
            for top in [0, 0x80] {
                let mut point = point;
                point[31] |= top;
                let refused = Recipients::new(&[good.clone(), age(&point)]);
                assert_eq!(refused, Err(SealError::LowOrder(1)), "{point:x?}");
            }
        }
        assert_eq!(
            age(&zero),
            "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z",
            "the key of the report"
        );
    }

    #[test]
    fn ssh_keys_of_small_order_are_refused_in_every_encoding() {
        use curve25519_dalek::constants::EIGHT_TORSION;
        let [zero, mut one] = [[0; 32]; 2];
        one[0] = 1;
        let canonical = EIGHT_TORSION.iter().map(|point| point.compress().to_bytes());
        // y = 0, 1 and -1, also as p, p + 1, and with the sign of x set where x is 0.
        let others = [zero, one, p(-1), p(0), p(1)].into_iter().flat_map(|y| {
            let mut signed = y;
            signed[31] |= 0x80;
            [y, signed]
        });
        for bytes in canonical.chain(others) {
            // An encoding that is invalid is not a key; all other encodings are of small order.
            let refused = Recipients::new(&[ssh("ssh-ed25519", &[&bytes])]).unwrap_err();
            assert!(matches!(refused, SealError::LowOrder(0) | SealError::Recipient(0)), "{bytes:x?}");
        }
        for point in EIGHT_TORSION {
            let key = ssh("ssh-ed25519", &[&point.compress().to_bytes()]);
            assert_eq!(Recipients::new(&[key]), Err(SealError::LowOrder(0)));
        }
        assert!(Recipients::new(&texts(&[SSH])).is_ok());
    }

    #[test]
    fn rsa_keys_that_protect_nothing_are_refused_and_none_panics() {
        let odd = |bytes: usize| [&[0, 0xff][..], &vec![0xff; bytes - 2], &[0xfd]].concat();
        let even = [&[0, 0xff][..], &vec![0xff; 255]].concat();
        let even = [&even[..256], &[0xfe]].concat();
        let [good, f4]: [Vec<u8>; 2] = [odd(256), vec![1, 0, 1]];
        assert!(Recipients::new(&[ssh("ssh-rsa", &[&f4, &good])]).is_ok());
        let cases: [(&str, &[u8], &[u8]); 10] = [
            ("a modulus of 1024 bits", &f4, &odd(128)),
            ("a modulus of 8192 bits", &f4, &odd(1024)),
            ("an even modulus", &f4, &even),
            ("a modulus of zero", &f4, &[]),
            ("a modulus of zero in a byte", &f4, &[0]),
            ("an exponent of zero in two bytes", &[0, 0], &good),
            ("an exponent of 1", &[1], &good),
            ("an exponent of 2", &[2], &good),
            ("a negative exponent", &[0xff], &good),
            ("an exponent beyond 2^33", &[2, 0, 0, 0, 1], &good),
        ];
        for (what, exponent, modulus) in cases {
            let refused = Recipients::new(&[ssh("ssh-rsa", &[exponent, modulus])]);
            assert_eq!(refused, Err(SealError::Recipient(0)), "{what}");
        }
    }

    #[test]
    fn a_panic_in_age_is_an_error() {
        // Stands for a key for which age panics in a way that is not known yet.
        let key = PublicKey::parse(&age(&[0; 32])).unwrap();
        assert_eq!(seal(&[key], b"the value"), Err(SealError::Failed));
    }

    #[test]
    fn order_and_comments_make_no_other_recipients() {
        let key = x25519::Identity::generate().to_public().to_string();
        let commented = format!("{SSH} me@laptop");
        let mark = Recipients::mark_of(&texts(&[&key, SSH]));
        assert_eq!(Recipients::mark_of(&texts(&[&commented, &key, &key])), mark);
        assert_ne!(Recipients::mark_of(&texts(&[&key])), mark);
    }
}
