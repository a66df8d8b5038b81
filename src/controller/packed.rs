//! Objects as the caches keep them: small, and made whole again when one is needed.
//!
//! Most objects rest from the day they were made to the day they end. Taken apart into strings and maps such a token
//! and its Secret need 7 KB; packed, they need 1 (docs/performance.md). Unpacking costs microseconds, and a reconcile
//! unpacks two or three.

use std::{
    marker::PhantomData,
    sync::{Arc, OnceLock},
};

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::{Serialize, de::DeserializeOwned};

/// Packs objects of one kind. The first one is the compression dictionary of the others, and is kept as long as the packer: objects with
/// secret data must not be packed.
pub struct Packer<K> {
    first: OnceLock<Vec<u8>>,
    kind: PhantomData<fn() -> K>,
}

/// A packed object. Only its own packer can unpack it.
#[derive(Clone)]
pub struct Packed(Arc<[u8]>);

impl<K: Serialize + DeserializeOwned> Packer<K> {
    pub fn new() -> Self {
        Self { first: OnceLock::new(), kind: PhantomData }
    }

    /// # Panics
    /// When the object cannot be written as JSON, which is how it arrived.
    pub fn pack(&self, object: &K) -> Packed {
        let json = serde_json::to_vec(object).expect("what came as JSON can be written as JSON");
        let first = self.first.get_or_init(|| json.clone());
        Packed(compress_prepend_size_with_dict(&json, first).into())
    }

    #[cfg(test)]
    pub fn dictionary(&self) -> &[u8] {
        self.first.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// # Panics
    /// When it was packed by another.
    pub fn unpack(&self, Packed(packed): &Packed) -> K {
        let first = self.first.get().map(Vec::as_slice).unwrap_or_default();
        let json = decompress_size_prepended_with_dict(packed, first).expect("unpacked by who packed it");
        serde_json::from_slice(&json).expect("what was written as JSON can be read")
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::api::ApiToken;

    fn token(n: u32, random: &mut StdRng) -> ApiToken {
        let mut hex = |digits| format!("{:0digits$x}", random.random::<u128>() >> (128 - 4 * digits));
        let mut uid = || [hex(8), hex(4), hex(4), hex(4), hex(12)].join("-");
        let uids = [uid(), uid()];
        let digest = hex(32) + &hex(32);
        let json = serde_json::json!({
            "apiVersion": "credential-operator.io/v1alpha1", "kind": "ApiToken",
            "metadata": {
                "creationTimestamp": "2026-11-23T03:40:12Z", "generation": 1, "name": format!("t{n:05}"),
                "namespace": "load-1", "resourceVersion": (700_000 + n).to_string(), "uid": uids[0],
            },
            "spec": { "credentialRef": { "name": "load" }, "expiresIn": "30d" },
            "status": {
                "conditions": [
                    {
                        "lastTransitionTime": "2026-11-23T03:40:13Z", "message": "the Secret holds the value",
                        "observedGeneration": 1, "reason": "Published", "status": "True", "type": "Ready",
                    },
                    {
                        "lastTransitionTime": "2026-11-23T03:40:13Z", "message": "a verifier accepts the token",
                        "observedGeneration": 1, "reason": "Issued", "status": "True", "type": "Usable",
                    },
                ],
                "credentialUid": "3e6f5b6e-5f9f-4cf5-bd0e-6f8d5e1c2ad4", "digest": format!("hmac-sha256:20261123T034000Z:{digest}"),
                "expiresAt": "2026-12-23T03:40:12Z", "issuedAt": "2026-11-23T03:40:13Z", "observedGeneration": 1,
                "secret": { "name": format!("t{n:05}-token"), "uid": uids[1] }, "serial": 0, "state": "Active",
                "tokenId": hex(12),
            },
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_is_unpacked_is_what_was_packed_and_it_was_small() {
        let packer = Packer::new();
        let mut random = StdRng::seed_from_u64(1);
        let tokens: Vec<_> = (0..100).map(|n| token(n, &mut random)).collect();
        let rest: Vec<_> = tokens.iter().map(|token| packer.pack(token)).collect();
        for (rests, token) in rest.iter().zip(&tokens) {
            assert_eq!(packer.unpack(rests), *token);
        }
        assert!(rest[1..].iter().all(|Packed(bytes)| bytes.len() < 350));
    }
}
