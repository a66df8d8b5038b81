//! Values: those that are accepted, those that were, and what is made of both.

use credential_operator::domain::token::{CHECK_LENGTH, ID_LENGTH, Prefix, SECRET_LENGTH, Token};
use rand::{Rng, RngExt, distr::Alphanumeric, rngs::StdRng, seq::IndexedRandom};

/// The characters of tokens, by their value.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// All values that the verifier has heard of.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// Accepted as bearer tokens.
    pub valid: Vec<String>,
    /// Accepted as bearer tokens, and by HTTP Basic with their id.
    pub client_secrets: Vec<String>,
    /// Known, and not accepted: revoked, expired, of a credential that is inactive, for somebody else.
    pub dead: Vec<String>,
}

impl Values {
    /// One that is accepted as a bearer token.
    pub fn accepted(&self, random: &mut StdRng) -> &str {
        let of_clients = random.random_ratio(1, 8);
        let all = if of_clients { &self.client_secrets } else { &self.valid };
        all.choose(random).map_or("", String::as_str)
    }

    /// Something else, of whatever bytes.
    pub fn mutated(&self, random: &mut StdRng) -> Vec<u8> {
        loop {
            let mutated = self.draw(random);
            if !self.is_accepted(&mutated) {
                return mutated;
            }
        }
    }

    /// One that is well-formed, its check digits fit, and that is not accepted.
    pub fn forged(&self, random: &mut StdRng) -> Vec<u8> {
        loop {
            let mut bytes = self.accepted(random).as_bytes().to_vec();
            forge(&mut bytes, random);
            if !self.is_accepted(&bytes) {
                return bytes;
            }
        }
    }

    /// Whether that is an accepted value after all. Prefix and check are no part of what a digest is made of, and spaces
    /// around a header's value are no part of the value.
    fn is_accepted(&self, bytes: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(bytes.trim_ascii()) else { return false };
        let same = |token: &Token, other: &String| {
            let other = Token::parse(other).ok();
            other.is_some_and(|other| {
                (other.id(), other.expose_secret()) == (token.id(), token.expose_secret())
            })
        };
        Token::parse(text)
            .is_ok_and(|token| self.valid.iter().chain(&self.client_secrets).any(|other| same(&token, other)))
    }

    fn draw(&self, random: &mut StdRng) -> Vec<u8> {
        let value = if random.random_ratio(1, 8) {
            self.dead.choose(random).map_or("", String::as_str)
        } else {
            self.accepted(random)
        };
        let mut bytes = value.as_bytes().to_vec();
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..17) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = *one_of(random, BASE62),
            2 | 3 => forge(&mut bytes, random),
            4 => bytes.truncate(at),
            5 => bytes.insert(at, random.random()),
            6 => {
                bytes.remove(at);
            }
            7 => bytes.swap(at, value.len() - 1 - at),
            8 => bytes.extend((0..random.random_range(1..1500)).map(|_| *one_of(random, BASE62))),
            9 => bytes = self.crossed(random),
            10 => bytes = Token::draw(&Prefix::default(), random).expose().into(),
            11 => return self.dead.choose(random).map_or(Vec::new(), |dead| dead.clone().into()),
            12 => bytes.make_ascii_uppercase(),
            13 => {
                bytes = vec![0; random.random_range(0..300)];
                random.fill_bytes(&mut bytes);
            }
            14 => bytes = dressed(value, random),
            15 => bytes = format!("{}%{:02x}{}", &value[..at], bytes[at], &value[at + 1..]).into(),
            // Another look, the same letters: full-width ones, or a character that nobody sees.
            _ => {
                bytes = format!(
                    "{}{}{}",
                    &value[..at],
                    one_of(random, &["\u{ff41}", "\u{200b}", "\0"]),
                    &value[at..]
                )
                .into();
            }
        }
        bytes
    }

    /// The id of one and the secret of another, with check digits that fit.
    fn crossed(&self, random: &mut StdRng) -> Vec<u8> {
        let (one, other) = (self.accepted(random), self.accepted(random));
        let secret = other.len() - CHECK_LENGTH - SECRET_LENGTH;
        let mut bytes = [&one.as_bytes()[..secret], &other.as_bytes()[secret..]].concat();
        check(&mut bytes);
        bytes
    }
}

/// Another id or secret, with check digits that fit.
fn forge(bytes: &mut [u8], random: &mut StdRng) {
    let end = bytes.len() - CHECK_LENGTH;
    let secret = end - SECRET_LENGTH;
    let id = secret - 1 - ID_LENGTH;
    let range = if random.random() { id..secret - 1 } else { secret..end };
    for _ in 0..random.random_range(1..4) {
        bytes[random.random_range(range.clone())] = random.sample(Alphanumeric);
    }
    check(bytes);
}

/// Puts check digits in place that fit the rest.
fn check(bytes: &mut [u8]) {
    let (body, digits) = bytes.split_at_mut(bytes.len() - CHECK_LENGTH);
    let mut rest = crc32fast::hash(body) as usize;
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
}

/// The value, and something around it.
fn dressed(value: &str, random: &mut StdRng) -> Vec<u8> {
    let dresses: [fn(&str) -> String; 10] = [
        |value| format!("{value}{value}"),
        |value| format!("{value},{value}"),
        |value| format!("{value} {value}"),
        |value| format!("\"{value}\""),
        |value| format!("Bearer {value}"),
        |value| format!("token={value}"),
        |value| format!("{value}="),
        |value| format!("{value};"),
        |value| format!("{value}'--"),
        |value| value.chars().rev().collect(),
    ];
    one_of(random, &dresses)(value).into()
}

/// One of several.
pub(crate) fn one_of<'a, T>(random: &mut StdRng, all: &'a [T]) -> &'a T {
    &all[random.random_range(0..all.len())]
}
