//! Where the time comes from. The system's clock is named in `main.rs` alone.

use jiff::Timestamp;

/// A wall clock. Ends are promised in wall time, so every decision about one asks this and nothing else.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}
