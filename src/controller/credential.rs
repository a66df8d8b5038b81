//! One `Credential`: its identity, and the roles bound to it.

pub mod apply;
pub mod material;
pub mod observe;
pub mod plan;
