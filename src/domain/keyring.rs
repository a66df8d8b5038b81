//! The keys that digests are made with, as they are kept in one Secret.
//!
//! Each entry of the Secret is one key: its name is the key's id, which begins with the instant at which it was
//! made, and its value is 32 random bytes.

use std::collections::{BTreeMap, BTreeSet};

use hmac::{Hmac, KeyInit};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rand::{CryptoRng, RngExt, distr::Alphanumeric};
use sha2::Sha256;

use super::redacted::Redacted;

/// How long a key is only read before it signs: the largest staleness that a verifier may be allowed, so that none
/// meets a digest whose key it has not seen.
pub const SETTLE_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// How long a key is kept after a newer one began to sign, though no status names it: longer than any write that
/// was under way with it can take.
pub const KEEP_AFTER: SignedDuration = SignedDuration::from_hours(1);

const KEY_LENGTH: usize = 32;
const STAMP: &str = "%Y%m%dT%H%M%SZ";

/// One key.
#[derive(Clone, Debug)]
pub struct Key {
    id: String,
    made_at: Timestamp,
    bytes: Redacted<Vec<u8>>,
    /// Made ready for messages once, since every token that is judged needs it. It overwrites itself when it is dropped, and
    /// its `Debug` shows nothing.
    hmac: Hmac<Sha256>,
}

impl Key {
    fn new(id: String, made_at: Timestamp, bytes: Vec<u8>) -> Self {
        // HMAC takes a key of any length (RFC 2104, section 2), so the fallback is never taken.
        let hmac = Hmac::new_from_slice(&bytes)
            .unwrap_or_else(|_| Hmac::new(&hmac::digest::Key::<Hmac<Sha256>>::default()));
        Self { id, made_at, bytes: Redacted::new(bytes), hmac }
    }

    /// Draws a new key.
    pub fn draw(now: Timestamp, random: &mut (impl CryptoRng + ?Sized)) -> Self {
        let suffix: String = random.sample_iter(Alphanumeric).map(char::from).take(4).collect();
        let mut bytes = vec![0; KEY_LENGTH];
        random.fill_bytes(&mut bytes);
        let id = format!("{}-{suffix}", now.to_zoned(TimeZone::UTC).strftime(STAMP));
        Self::new(id, now, bytes)
    }

    /// Reads an entry of the Secret; `None` when it is no key.
    #[must_use]
    pub fn read(id: &str, bytes: &[u8]) -> Option<Self> {
        let (stamp, suffix) = id.split_once('-')?;
        let made_at =
            jiff::civil::DateTime::strptime(STAMP, stamp).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
        let fits = bytes.len() == KEY_LENGTH && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric());
        fits.then(|| Self::new(id.to_owned(), made_at, bytes.to_vec()))
    }

    /// The key's public id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key's bytes, for the Secret that keeps them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.bytes.expose()
    }

    pub(super) fn hmac(&self) -> Hmac<Sha256> {
        self.hmac.clone()
    }
}

/// All keys, by id, which orders them by age.
#[derive(Clone, Debug, Default)]
pub struct Keyring(BTreeMap<String, Key>);

impl Keyring {
    /// Reads the entries of the Secret. Entries that are no keys are passed over.
    pub fn read<'a>(entries: impl IntoIterator<Item = (&'a String, &'a [u8])>) -> Self {
        entries.into_iter().filter_map(|(id, bytes)| Key::read(id, bytes)).collect()
    }

    /// Draws a key to be added. No two of a keyring are of the same second: by their ids nobody could tell which is newer,
    /// and the new one might never sign.
    pub fn draw(&self, now: Timestamp, random: &mut (impl CryptoRng + ?Sized)) -> Key {
        let taken =
            |made_at: Timestamp| self.keys().any(|key| key.made_at.as_second() == made_at.as_second());
        let mut made_at = now;
        while taken(made_at) {
            made_at += SignedDuration::from_secs(1);
        }
        Key::draw(made_at, random)
    }

    /// The key of that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Key> {
        self.0.get(id)
    }

    /// All keys, the oldest first.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.values()
    }

    /// The key that signs now: the newest that has settled, else the oldest; `None` without any key.
    #[must_use]
    pub fn signing(&self, now: Timestamp) -> Option<&Key> {
        let settled = |key: &&Key| now.duration_since(key.made_at) >= SETTLE_AFTER;
        self.keys().filter(settled).last().or_else(|| self.keys().next())
    }

    /// The keys that may go: older than the one that signs, which has done so for [`KEEP_AFTER`], and named by no
    /// digest in use.
    #[must_use]
    pub fn droppable(&self, in_use: &BTreeSet<String>, now: Timestamp) -> Vec<String> {
        let Some(signing) = self.signing(now) else {
            return Vec::new();
        };
        if now.duration_since(signing.made_at) < SETTLE_AFTER + KEEP_AFTER {
            return Vec::new();
        }
        self.keys()
            .take_while(|key| key.id != signing.id)
            .filter(|key| !in_use.contains(&key.id))
            .map(|key| key.id.clone())
            .collect()
    }
}

impl FromIterator<Key> for Keyring {
    fn from_iter<I: IntoIterator<Item = Key>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| (key.id.clone(), key)).collect())
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_key() {
        let [one, other] = [1, 2]
            .map(|byte| format!("{:?}", Key::read("20270115T080000Z-abcd", &[byte; KEY_LENGTH]).unwrap()));
        assert_eq!(one, other);
    }

    #[test]
    fn a_key_that_is_added_later_sorts_later_also_within_a_second() {
        let mut random = StdRng::seed_from_u64(1);
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut keyring = Keyring::default();
        for expected in 1..=20 {
            let key = keyring.draw(now, &mut random);
            let id = key.id.clone();
            keyring = keyring.keys().cloned().chain([key]).collect();
            assert_eq!(keyring.keys().count(), expected);
            assert_eq!(keyring.keys().last().unwrap().id, id);
        }
    }
}
