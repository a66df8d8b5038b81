//! One request, and what may come of it.

use credential_operator::domain::token::{Prefix, Token};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{Protocol, forward_auth, introspection, noise, value::Values};

/// A request as bytes.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// What goes over the connection.
    pub bytes: Vec<u8>,
    /// Whether it is one request by HTTP/1.1, to which there is one answer and after which the connection goes on.
    pub whole: bool,
    /// What may come of it.
    pub expected: Expected,
}

/// What may come of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A valid value, presented as it should be: accepted.
    Accepted,
    /// A value that is not: refused, and by the very same answer as any other.
    Refused,
    /// Not accepted, however it is said.
    NotAccepted,
    /// Accepted only if it still holds this value.
    OnlyBy(String),
}

/// Who asks, and where.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The values.
    pub values: Values,
    /// A Kubernetes token that may introspect.
    pub caller: String,
}

impl Asker {
    /// The request of that number. The same seed, protocol and number draw the same one, where the values are the same.
    #[must_use]
    pub fn draw(&self, seed: u64, protocol: Protocol, number: u64) -> Drawn {
        // Far apart, so that no two seeds share requests.
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number));
        let random = &mut random;
        match random.random_range(0..100) {
            0..4 => self.valid(protocol, random),
            4..70 => self.wrong_value(protocol, random),
            70..85 => self.wrongly_presented(protocol, random),
            85..95 => self.damaged(protocol, random),
            _ => noise::broken(self, protocol, random),
        }
    }

    /// The request for a value that nobody ever had.
    #[must_use]
    pub fn unknown(&self, protocol: Protocol) -> Vec<u8> {
        let value = Token::draw(&Prefix::default(), &mut StdRng::seed_from_u64(u64::MAX));
        self.plain(protocol, value.expose().as_bytes())
    }

    pub(crate) fn plain(&self, protocol: Protocol, value: &[u8]) -> Vec<u8> {
        match protocol {
            Protocol::ForwardAuth => forward_auth::plain(value),
            Protocol::Introspection => introspection::plain(self, value),
        }
    }

    fn valid(&self, protocol: Protocol, random: &mut StdRng) -> Drawn {
        let bytes = match protocol {
            Protocol::ForwardAuth => forward_auth::valid(self, random),
            Protocol::Introspection => introspection::valid(self, random),
        };
        Drawn { bytes, whole: true, expected: Expected::Accepted }
    }

    fn wrong_value(&self, protocol: Protocol, random: &mut StdRng) -> Drawn {
        match protocol {
            Protocol::ForwardAuth => forward_auth::wrong_value(self, random),
            Protocol::Introspection => introspection::wrong_value(self, random),
        }
    }

    /// A valid value, where it must not count.
    fn wrongly_presented(&self, protocol: Protocol, random: &mut StdRng) -> Drawn {
        match protocol {
            Protocol::ForwardAuth => forward_auth::wrongly_presented(self, random),
            Protocol::Introspection => introspection::wrongly_presented(self, random),
        }
    }

    /// A request that was good or nearly so, with some of its bytes changed.
    fn damaged(&self, protocol: Protocol, random: &mut StdRng) -> Drawn {
        let value = self.values.accepted(random).to_owned();
        let (mut bytes, expected) = if random.random() {
            (self.plain(protocol, value.as_bytes()), Expected::OnlyBy(value))
        } else {
            (self.plain(protocol, &self.values.forged(random)), Expected::NotAccepted)
        };
        // A damaged caller costs a question to the API server, so most of them stay whole.
        let spared = (!random.random_ratio(1, 200)).then_some(self.caller.as_bytes());
        noise::damage(&mut bytes, spared, random);
        Drawn { bytes, whole: false, expected }
    }
}
