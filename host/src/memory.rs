//! What the allocator holds and nobody uses, given back to the system.
//!
//! glibc keeps what was freed for whoever asks next. To read a command line takes more than a megabyte, once; a master of a
//! hundred servers needs less.

/// Gives back all that is free. Takes up to milliseconds: for the end of something that took much, and is rare.
#[allow(unsafe_code, reason = "there is no safe name for it")]
pub(crate) fn give_back() {
    // SAFETY: it may be called from any thread at any time, takes the locks that an allocation takes, and touches only what
    // is free.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
