//! The addresses of pods.
//!
//! Knows nothing of who has them.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    sync::{Mutex, PoisonError},
};

/// The addresses of a node's pods, all of the loopback network: one /24, told apart from those of other control planes
/// on this machine by the port of the API server.
#[derive(Debug)]
pub(super) struct Addresses {
    network: [u8; 2],
    /// The last octets, those that were free for longest first.
    free: Mutex<VecDeque<u8>>,
}

impl Addresses {
    pub(super) fn new(port: u16) -> Self {
        Self { network: port.to_be_bytes(), free: Mutex::new((1..=254).collect()) }
    }

    pub(super) fn take(&self) -> Option<Ipv4Addr> {
        let last = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
        let [second, third] = self.network;
        Some(Ipv4Addr::new(127, second, third, last))
    }

    pub(super) fn give_back(&self, address: Ipv4Addr) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(address.octets()[3]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_pods_at_a_time() {
        let addresses = Addresses::new(0x8001);
        let taken: Vec<_> = std::iter::from_fn(|| addresses.take()).collect();
        assert_eq!((taken.len(), taken[0]), (254, Ipv4Addr::new(127, 128, 1, 1)));
        addresses.give_back(taken[9]);
        assert_eq!((addresses.take(), addresses.take()), (Some(taken[9]), None));
    }
}
