//! AppArmor profiles: that the real parser takes what is compiled, and that what it makes of it means what
//! `decide` says.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod binary;
mod hostile;
mod meaning;
#[path = "../../../enforcer-core/tests/meaning/world.rs"]
#[expect(dead_code, reason = "shared with the tests of `decide`")]
mod world;
