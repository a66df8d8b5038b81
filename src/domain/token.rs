//! The bearer token itself: `cop_<id>_<secret><check>`.
//!
//! The prefix lets secret scanners find leaked tokens; the id is public and finds the object without a search; the
//! secret has over 256 random bits; the check is the CRC-32 of all before it, so that a typo is told from a guess
//! without a look-up. Prefix, id and check are no secret.

use std::fmt;

use rand::{CryptoRng, RngExt, distr::Alphanumeric};
use thiserror::Error;

use super::redacted::Redacted;

/// Characters of the public id, base62.
pub const ID_LENGTH: usize = 12;
/// Characters of the secret, base62: 43 of them have 256.03 bits.
pub const SECRET_LENGTH: usize = 43;
/// Characters of the check, base62: enough for 32 bits.
pub const CHECK_LENGTH: usize = 6;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What tokens start with: 2 to 16 lower-case letters and digits, a letter first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// The text is no [`Prefix`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("not a token prefix: use 2 to 16 lower-case letters and digits, a letter first, such as cop")]
pub struct PrefixError;

impl std::str::FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        if is_prefix(text) { Ok(Self(text.to_owned())) } else { Err(PrefixError) }
    }
}

fn is_prefix(text: &str) -> bool {
    (2..=16).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl Default for Prefix {
    fn default() -> Self {
        Self("cop".to_owned())
    }
}

/// A token in full. Its `Debug` shows the id alone.
#[derive(Clone)]
pub struct Token(Redacted<String>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Why a text is no token. Says nothing of the text.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not `<prefix>_<id>_<secret><check>`.
    #[error("not of the form <prefix>_<id>_<secret><check>")]
    Malformed,
    /// The check does not fit the rest: mistyped or cut off.
    #[error("the check characters do not fit the rest; the token was mistyped or cut off")]
    Mistyped,
}

impl Token {
    /// Draws a new token.
    pub fn draw(prefix: &Prefix, random: &mut (impl CryptoRng + ?Sized)) -> Self {
        // One allocation of the final size, so that no copy of the secret is left behind by growth.
        let mut value = String::with_capacity(prefix.0.len() + ID_LENGTH + SECRET_LENGTH + CHECK_LENGTH + 2);
        let mut base62 =
            |length| random.sample_iter(Alphanumeric).map(char::from).take(length).collect::<String>();
        let id = base62(ID_LENGTH);
        let secret = Redacted::new(base62(SECRET_LENGTH));
        for part in [&prefix.0, "_", &id, "_", secret.expose()] {
            value.push_str(part);
        }
        for byte in check(value.as_bytes()) {
            value.push(char::from(byte));
        }
        Self(Redacted::new(value))
    }

    /// Reads a token of any prefix.
    ///
    /// # Errors
    /// When the text has another form, or its check does not fit.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        Parts::of(text).map(|_| Self(Redacted::new(text.to_owned())))
    }

    /// The public id.
    #[must_use]
    pub fn id(&self) -> &str {
        let end = self.expose().len() - CHECK_LENGTH - SECRET_LENGTH - 1;
        &self.expose()[end - ID_LENGTH..end]
    }

    /// The whole token, as its bearer presents it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// The secret part alone.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        let value = self.expose();
        let end = value.len() - CHECK_LENGTH;
        &value[end - SECRET_LENGTH..end]
    }
}

/// A token that is looked at where it lies, so that no copy of it is made. Has no `Debug`.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The public id.
    pub id: &'a str,
    /// The secret.
    pub secret: &'a str,
}

impl<'a> Parts<'a> {
    /// Takes a token of any prefix apart.
    ///
    /// # Errors
    /// When the text has another form, or its check does not fit.
    pub fn of(text: &'a str) -> Result<Self, TokenError> {
        let (prefix, rest) = text.split_once('_').ok_or(TokenError::Malformed)?;
        let (id, tail) = rest.split_once('_').ok_or(TokenError::Malformed)?;
        let base62 = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let fits = is_prefix(prefix)
            && (id.len(), tail.len()) == (ID_LENGTH, SECRET_LENGTH + CHECK_LENGTH)
            && base62(id)
            && base62(tail);
        if !fits {
            return Err(TokenError::Malformed);
        }
        let (body, given) = text.as_bytes().split_at(text.len() - CHECK_LENGTH);
        if check(body) == given {
            Ok(Self { id, secret: &tail[..SECRET_LENGTH] })
        } else {
            Err(TokenError::Mistyped)
        }
    }
}

/// The CRC-32 (ISO-HDLC) of `body` as 6 base62 digits, the most significant first.
fn check(body: &[u8]) -> [u8; CHECK_LENGTH] {
    let mut rest = crc32fast::hash(body) as usize;
    let mut digits = [b'0'; CHECK_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn draw(seed: u64) -> Token {
        Token::draw(&Prefix::default(), &mut StdRng::seed_from_u64(seed))
    }

    #[test]
    fn the_format_is_stable() {
        // The CRC-32 of "123456789" is the check value of its specification: 0xcbf43926 = 3421780262.
        assert_eq!(&check(b"123456789"), b"3jZRME");
    }

    #[test]
    fn debug_shows_the_id_and_no_more() {
        let token = draw(1);
        assert_eq!(format!("{token:?}"), format!("Token {{ id: {:?}, .. }}", token.id()));
    }

    proptest! {
        #[test]
        fn what_is_drawn_is_read_again(seed: u64) {
            let drawn = draw(seed);
            let read = Token::parse(drawn.expose()).unwrap();
            prop_assert_eq!(read.id(), drawn.id());
            prop_assert_eq!(read.expose_secret().len(), SECRET_LENGTH);
        }

        #[test]
        fn one_wrong_character_is_noticed(seed: u64, at in 0usize..66, wrong in "[0-9A-Za-z]") {
            let drawn = draw(seed);
            let mut text = drawn.expose().to_owned();
            prop_assume!(text[at..=at] != wrong);
            text.replace_range(at..=at, &wrong);
            prop_assert!(Token::parse(&text).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            prop_assert!(Token::parse(&text).is_err());
        }
    }
}
