//! The test kit: everything the tests in `it/` need to run the real daemon and to judge what it says.
//!
//! The kit shares no code with the product. It has a codec of its own, plays the recorded
//! conversations of the original programs, and starts those programs themselves, so that it can serve
//! as an oracle: the tests in `it/oracle.rs` hold the kit against the original master before
//! `it/conformance.rs` holds the product against the kit.
//!
//! Reading order: [`deadline`] and [`output`] (how tests wait), [`packet`], [`payload`] and [`peer`]
//! (bytes and hand-made peers), [`transcript`], [`compare`], [`player`] and [`stage`] (recordings and both ways to
//! play them), [`daemon`], [`plugins`], [`loss`] and [`cli`] (the program under test), [`node`], [`pty`] and [`ports`] (the
//! original programs), [`bystanders`] (two peers that notice when an attack disturbs others), [`neighbour`] (one that measures
//! how much), [`operator`] (a client that looks at the fleet), [`debian`] (programs that are not ours and may have to be
//! installed).
//!
//! Nothing here returns errors: a kit that cannot do its work panics with a sentence that says why.

pub mod author;
pub mod deadline;
pub mod output;

pub mod packet;
pub mod payload;
pub mod peer;

pub mod compare;
pub mod player;
pub mod stage;
pub mod transcript;

pub mod cli;
pub mod config;
pub mod daemon;
pub mod loss;
pub mod plugins;

pub mod node;
pub mod ports;
pub mod pty;

pub mod bystanders;
pub mod neighbour;
pub mod operator;

pub mod debian;
