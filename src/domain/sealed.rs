//! Values that only those can read whom they are for: sealed for public keys of age or SSH.
//!
//! Knows nothing of what a value is. The format is that of age (<https://age-encryption.org/v1>), so that `age -d` opens it.
//! What age draws for itself, one file key and one ephemeral key for each recipient, comes from the system's source.

use std::{io::Write, str::FromStr};

use age::{Encryptor, Recipient, ssh, x25519};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::name::hex;

/// The ending of what is sealed.
pub const SUFFIX: &str = ".age";

/// Why nothing can be sealed. Says which recipient it is, and nothing of what it says: it may be a private key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SealError {
    /// There is nobody to seal for.
    #[error("spec.delivery.recipients names nobody; mode Sealed needs at least one public key")]
    Nobody,
    /// A recipient is no public key that age takes.
    #[error(
        "spec.delivery.recipients[{0}] is no public key that a value can be sealed for: a character is missing or mistyped, or it \
         is an RSA key of fewer than 2048 or more than 4096 bits; copy it again from age-keygen -y or from the .pub file"
    )]
    Recipient(usize),
    /// The sealing itself failed.
    #[error("the value cannot be sealed for these recipients")]
    Failed,
}

/// Public keys that a value can be sealed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipients(Vec<String>);

impl Recipients {
    /// The public keys that are written so.
    ///
    /// # Errors
    /// When there is none, or one of them is none.
    pub fn new(texts: &[String]) -> Result<Self, SealError> {
        if texts.is_empty() {
            return Err(SealError::Nobody);
        }
        for (at, text) in texts.iter().enumerate() {
            parse(text).ok_or(SealError::Recipient(at))?;
        }
        Ok(Self(texts.to_vec()))
    }

    /// What they are told from others by.
    #[must_use]
    pub fn mark(&self) -> String {
        Self::mark_of(&self.0)
    }

    /// What recipients that are written so are told from others by: not by their order, nor by the comments of SSH keys.
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

    /// Seals something for them, so that each of them can open it alone.
    ///
    /// # Errors
    /// When it cannot be done for one of them.
    pub fn seal(&self, value: &[u8]) -> Result<Vec<u8>, SealError> {
        let recipients = self.0.iter().enumerate();
        let recipients = recipients.map(|(at, text)| parse(text).ok_or(SealError::Recipient(at)));
        let recipients = recipients.collect::<Result<Vec<_>, _>>()?;
        let sealed = Encryptor::with_recipients(recipients.iter().map(|recipient| &**recipient as _))
            .map_err(|_| SealError::Failed)?;
        let mut bytes = Vec::new();
        let mut writer = sealed.wrap_output(&mut bytes).map_err(|_| SealError::Failed)?;
        writer.write_all(value).map_err(|_| SealError::Failed)?;
        writer.finish().map_err(|_| SealError::Failed)?;
        Ok(bytes)
    }
}

fn parse(text: &str) -> Option<Box<dyn Recipient>> {
    if text.starts_with("age1") {
        return Some(Box::new(x25519::Recipient::from_str(text).ok()?));
    }
    // It reads as far as it must and leaves the rest unread; what is no end or comment is a mistake.
    let key = text.split(' ').nth(1)?;
    let recipient = ssh::Recipient::from_str(text).ok()?;
    let read = recipient.to_string();
    (read.split(' ').nth(1)?.trim_end_matches('=') == key.trim_end_matches('='))
        .then(|| Box::new(recipient) as Box<dyn Recipient>)
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

    #[test]
    fn order_and_comments_make_no_other_recipients() {
        let key = x25519::Identity::generate().to_public().to_string();
        let commented = format!("{SSH} me@laptop");
        let mark = Recipients::mark_of(&texts(&[&key, SSH]));
        assert_eq!(Recipients::mark_of(&texts(&[&commented, &key, &key])), mark);
        assert_ne!(Recipients::mark_of(&texts(&[&key])), mark);
    }
}
