//! Runs the JavaScript of administrators within limits.
//!
//! Not a plugin: scripts and watchServer are built with it. Each run has an engine of its own, which ends with it, so no
//! run sees what another left. A script sees the language, `app`, `console`, `os` and `util`; what reaches further
//! (`fs`, `process`, `require`) is there only if the configuration switches it on.
//!
//! A run blocks the thread it is on for as long as [`Limits::time`] at most.

mod engine;
mod options;
mod world;

pub use engine::{Limits, Outcome, evaluate, run};
pub use options::{Capabilities, Options};
pub use world::World;
