//! Bytes ↔ packets ↔ envelopes. Pure: no sockets, no tasks, no clock.
//!
//! All habits of the original end here, as data with names: JSON inside JSON, ids that come back as strings, errors in
//! three forms. Bodies are not parsed: they pass through as JSON text.

pub(crate) mod envelope;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod packet;
mod quote;

use serde_json::json;

/// What a message is about, and the only topics that exist; whatever else is published is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    /// Registering and its answer.
    Register,
    /// A monitor whose link had broken.
    Reconnect,
    /// The answer to it.
    ReconnectOk,
    /// Between master and monitor.
    Monitor,
    /// Between master and client.
    Client,
    /// Between a server and those who call its remotes; never on a connection to a master.
    Rpc,
}

impl Topic {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Topic::Register => "register",
            Topic::Reconnect => "reconnect",
            Topic::ReconnectOk => "reconnect_ok",
            Topic::Monitor => "monitor",
            Topic::Client => "client",
            Topic::Rpc => "rpc",
        }
    }

    pub(crate) fn of(name: &[u8]) -> Option<Topic> {
        [Topic::Monitor, Topic::Client, Topic::Register, Topic::Reconnect, Topic::ReconnectOk, Topic::Rpc]
            .into_iter()
            .find(|topic| topic.name().as_bytes() == name)
    }
}

/// The JSON of a text; also the form of an error that is a plain text.
pub(crate) fn json_text(text: &str) -> String {
    // A text is always JSON.
    serde_json::to_string(text).unwrap_or_default()
}

/// An error in the form of JavaScript's `Error`; `stack` is for humans, and never empty (pomelo-cli prints it).
pub(crate) fn error_object(message: &str) -> String {
    json!({ "message": message, "stack": format!("Error: {message}") }).to_string()
}

/// The original's text for a module without a handler.
pub(crate) fn no_such_handler(module: &str, handler: &str) -> String {
    format!("module {module} dose not have a method called {handler}")
}

/// The original's text for an id that no module has.
pub(crate) fn unknown_module(module: &str) -> String {
    format!("unknown moduleId:{module}")
}

/// The original's text for a module that is switched off.
pub(crate) fn disabled_module(module: &str) -> String {
    format!("module {module} is disable")
}
