//! Policies: from text to values that are valid by construction.

mod id;

pub use id::{Kind, PolicyId};
