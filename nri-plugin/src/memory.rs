//! Memory that the daemon has freed goes back to the system. glibc's allocator keeps it, for each thread apart: after a
//! change of the policies that made a thousand rulesets anew, several times what is in use.

#![expect(unsafe_code, reason = "the allocator's own interface is C")]

/// Arenas of the allocator, instead of eight for each CPU: short-lived threads would each leave one behind.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Has all threads share few arenas. To be called before there are other threads.
pub fn share_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes numbers and may be called at any time; where it refuses, more memory is used.
    let _refused = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
}

/// Gives free memory back, from the middle of arenas too. Takes milliseconds.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number and may be called at any time, by any thread.
    let _nothing_to_give = unsafe { libc::malloc_trim(0) };
}
