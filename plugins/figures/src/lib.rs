//! Figures of the machine and of a process, as the originals' peers tell them.
//!
//! Not a plugin: systemInfo, nodeInfo, watchServer and scripts are built with it. Everything is read from `/proc` and
//! `/sys`; the originals start `iostat`, `ps` and `pidstat` for it, through a shell, and show nothing where those are
//! missing.

pub mod clock;
pub mod load;
pub mod machine;
pub mod network;
pub mod process;

/// With two decimals, as `iostat` prints.
fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
