//! The daemon's allocator: jemalloc. With glibc's, threads that work on the same rulesets wait for each other; measured
//! by `cargo bench -p nri-plugin`, a change that touches a thousand containers takes half as long again.

#![expect(unsafe_code, reason = "the allocator's own interface is C")]

use std::ptr::null_mut;

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Has the kernel give this process, and what it starts, no huge pages. Where it gives them to everybody
/// (`transparent_hugepage/enabled` is `always`, as in Debian's kernels) one small allocation holds two megabytes: some 20 to 30
/// MiB in all, for a daemon that waits most of the time.
///
/// # Errors
/// Those of `prctl(PR_SET_THP_DISABLE)`.
pub fn take_small_pages() -> nix::Result<()> {
    nix::sys::prctl::set_thp_disable(true)
}

/// Gives back what is free, of every arena, and of the C library's, which libbpf loads programs with. Takes milliseconds.
pub fn give_back() {
    let every = c"arena.4096.purge"; // jemalloc(3), MALLCTL_ARENAS_ALL
    // SAFETY: the name is a C string, and this control neither reads nor writes a value.
    let _nothing_to_give =
        unsafe { tikv_jemalloc_sys::mallctl(every.as_ptr(), null_mut(), null_mut(), null_mut(), 0) };
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called by any thread at any time.
    let _whether_any = unsafe { libc::malloc_trim(0) };
}
