//! The daemon's allocator: jemalloc. With glibc's, threads that work on the same rulesets wait for each other; measured
//! by `cargo bench -p nri-plugin`, a change that touches a thousand containers takes half as long again.

#![expect(unsafe_code, reason = "the allocator's own interface is C")]

use std::ptr::null_mut;

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Gives back what is free, of every arena. Takes milliseconds.
pub fn give_back() {
    let every = c"arena.4096.purge"; // jemalloc(3), MALLCTL_ARENAS_ALL
    // SAFETY: the name is a C string, and this control neither reads nor writes a value.
    let _nothing_to_give =
        unsafe { tikv_jemalloc_sys::mallctl(every.as_ptr(), null_mut(), null_mut(), null_mut(), 0) };
}
