//! The server that a monitor watches, as far as it takes part: it may answer for its settings, and is told what happens.
//!
//! A wrapped program takes part through a socket (`channel.rs`), a server in Rust that embeds its monitor by a trait. What
//! it publishes by itself (settings, statistics of its connections) the monitor keeps.

pub(crate) mod channel;

use std::pin::Pin;

use muster_plugin_api::Event;
use serde_json::Value;

/// What somebody wants of the server's settings.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// The value of this setting.
    Get {
        /// Its name.
        key: String,
    },
    /// To give this setting a value.
    Set {
        /// Its name.
        key: String,
        /// Its value.
        value: Value,
    },
    /// To switch this on.
    Enable {
        /// Its name.
        key: String,
    },
    /// To switch this off.
    Disable {
        /// Its name.
        key: String,
    },
}

/// What the server says to an [`Ask`]: the value of a [`Ask::Get`], anything for the others; or why not, in words for
/// people. `None` leaves it to the monitor, which keeps what was set.
pub type Said = Option<Result<Value, String>>;

/// What comes to be [`Said`].
pub type Saying = Pin<Box<dyn Future<Output = Said> + Send>>;

/// A server that takes part in what its monitor does. Its methods are called on the monitor's threads, and must not block.
pub trait Application: Send + Sync + 'static {
    /// Answers for its settings.
    fn ask(&self, ask: Ask) -> Saying {
        let _: Ask = ask;
        Box::pin(std::future::ready(None))
    }

    /// Is told what happens: servers come and go, crons are due, addresses are to be turned away, the end is near.
    fn on_event(&self, event: &Event) {
        let _: &Event = event;
    }
}

impl Ask {
    /// From the words of `abi::ask::APPLICATION`.
    pub(crate) fn of(verb: &str, key: &str, value: Value) -> Option<Ask> {
        let key = key.to_owned();
        Some(match verb {
            "get" => Ask::Get { key },
            "set" => Ask::Set { key, value },
            "enable" => Ask::Enable { key },
            "disable" => Ask::Disable { key },
            _ => return None,
        })
    }

    /// What is in the setting afterwards.
    pub(crate) fn sets(&self) -> Option<(&str, Value)> {
        match self {
            Ask::Get { .. } => None,
            Ask::Set { key, value } => Some((key, value.clone())),
            Ask::Enable { key } => Some((key, Value::Bool(true))),
            Ask::Disable { key } => Some((key, Value::Bool(false))),
        }
    }
}
