//! Random text: so many characters of an alphabet, each as likely as the others.

use rand::{CryptoRng, RngExt, seq::IndexedRandom};
use serde_json::{Value, json};

use super::Problem;
use crate::{api::material::Password, domain::redacted::Redacted};

const ALPHANUMERIC: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const LENGTH: u32 = 32;
/// Fewer bits can be guessed.
const LEAST_BITS: f64 = 64.0;

/// The options with their defaults in place.
///
/// # Errors
/// When what they describe could be guessed.
pub(super) fn options(wished: &Password) -> Result<Value, Problem> {
    let (length, alphabet) = resolved(wished);
    let mut distinct: Vec<char> = alphabet.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < alphabet.chars().count() {
        return Err(Problem::Options("alphabet names a character twice; name each once".to_owned()));
    }
    let bits = f64::from(length) * f64::from(u32::try_from(distinct.len()).unwrap_or(u32::MAX)).log2();
    if bits < LEAST_BITS {
        return Err(Problem::Options(format!(
            "{length} characters of an alphabet of {} have {bits:.0} bits and could be guessed; set length or alphabet so that it has at least {LEAST_BITS}",
            distinct.len(),
        )));
    }
    Ok(json!({ "length": length, "alphabet": alphabet }))
}

/// Draws one.
pub(super) fn draw(wished: &Password, random: &mut dyn CryptoRng) -> Redacted<String> {
    let (length, alphabet) = resolved(wished);
    let alphabet = alphabet.as_bytes();
    // One allocation of the final size, so that no copy is left behind by growth.
    let mut text = String::with_capacity(length as usize);
    text.extend((0..length).filter_map(|_| alphabet.choose(random)).map(|byte| char::from(*byte)));
    Redacted::new(text)
}

/// Draws bytes.
pub(super) fn bytes(length: usize, random: &mut dyn CryptoRng) -> Redacted<Vec<u8>> {
    let mut bytes = vec![0; length];
    random.fill(&mut bytes[..]);
    Redacted::new(bytes)
}

fn resolved(wished: &Password) -> (u32, &str) {
    (wished.length.unwrap_or(LENGTH), wished.alphabet.as_deref().unwrap_or(ALPHANUMERIC))
}
