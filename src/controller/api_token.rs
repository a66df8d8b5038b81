//! One `ApiToken`: from its spec to a value in a Secret, and to its end.

pub mod apply;
pub mod observe;
pub mod observed;
pub mod plan;
