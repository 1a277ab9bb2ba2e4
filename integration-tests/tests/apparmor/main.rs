//! AppArmor profiles: that the real parser takes what is compiled, that what it makes of it means what `decide` says, and
//! that a real kernel does it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod audited;
mod binary;
mod guest;
mod hooked;
mod hostile;
mod meaning;
mod node;
mod podman;
#[path = "../../../enforcer-core/tests/meaning/world.rs"]
#[expect(dead_code, reason = "shared with the tests of `decide`")]
mod world;
