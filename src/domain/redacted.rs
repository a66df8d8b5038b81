//! A wrapper that keeps secret bytes out of logs, and out of memory once they are no longer needed.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

/// A secret: `Debug` prints nothing of it, and its memory is overwritten when it is dropped.
///
/// Deliberately without `Display`, `Serialize` and `PartialEq`: whoever needs the bytes calls [`Redacted::expose`],
/// and whoever compares them does so in constant time.
#[derive(Clone)]
pub struct Redacted<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Redacted<T> {
    /// Wraps a secret.
    pub fn new(secret: T) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// The secret itself. Each call is a place to review.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_nothing_of_the_secret() {
        assert_eq!(format!("{:?}", Some(Redacted::new("hunter2".to_owned()))), "Some([redacted])");
    }
}
