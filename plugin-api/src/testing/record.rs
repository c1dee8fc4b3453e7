//! What was done in a fleet, for programs and as text.

use std::{fmt, time::Duration};

use crate::{agent::Level, message::Body};

/// Something that a module was given or did.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When, on the virtual clock.
    pub at: Duration,
    /// In which daemon.
    pub server: String,
    /// Which module; `*` for the library as a whole.
    pub module: String,
    /// What.
    pub deed: Deed,
}

/// What a module was given (up to [`Deed::Call`]), or did. Events are not written down.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Deed {
    /// Its schedule ticked.
    Tick,
    /// It got a message from another daemon.
    Message {
        /// From whom.
        from: String,
        /// What.
        body: Body,
    },
    /// It got a message from a client.
    Call {
        /// From whom.
        from: String,
        /// What.
        body: Body,
    },
    /// It answered a request.
    Answer {
        /// The error slot.
        error: Body,
        /// The body.
        body: Body,
    },
    /// A callback failed: an error, a panic, a missing handler.
    Fail {
        /// In words.
        reason: String,
    },
    /// It notified others.
    Notify {
        /// `master`, a server id, `everybody`, `type TYPE`, `slaves of ID`, or `client ID`.
        to: String,
        /// Which module of theirs.
        module: String,
        /// What.
        body: Body,
    },
    /// It asked somebody.
    Request {
        /// `master`, a server id, or `everybody`.
        to: String,
        /// Which module of theirs.
        module: String,
        /// What.
        body: Body,
    },
    /// It wrote to the log.
    Log {
        /// How bad.
        level: Level,
        /// The line.
        text: String,
        /// Fields, an object, or absent.
        fields: Body,
    },
    /// It stored a value.
    Put {
        /// Under which key.
        key: String,
        /// What.
        value: Body,
    },
    /// It had the host do something else.
    Tell {
        /// What: the name of the operation in [`crate::abi::tell`] or [`crate::abi::ask`], in words.
        what: &'static str,
        /// About whom or what.
        about: String,
        /// With what.
        body: Body,
    },
}

impl Record {
    /// A line of the transcript, with the name of the daemon padded to `width`.
    pub(super) fn line(&self, width: usize) -> String {
        let at = self.at.as_secs_f64();
        format!("{at:.3} {:width$}   {}: {}", self.server, self.module, self.deed)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line(0))
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deed::Tick => f.write_str("tick"),
            Deed::Message { from, body } => write!(f, "message from {from}{}", after(body)),
            Deed::Call { from, body } => write!(f, "call by {from}{}", after(body)),
            Deed::Answer { error, body } if error.is_null() => write!(f, "answer{}", after(body)),
            Deed::Answer { error, body } => write!(f, "answer in the error slot{}{}", after(error), after(body)),
            Deed::Fail { reason } => write!(f, "fails: {reason}"),
            Deed::Notify { to, module, body } => write!(f, "notify {module} of {to}{}", after(body)),
            Deed::Request { to, module, body } => write!(f, "ask {module} of {to}{}", after(body)),
            Deed::Log { level, text, fields } => {
                write!(f, "{} {text}{}", format!("{level:?}").to_lowercase(), after(fields))
            }
            Deed::Put { key, value } => write!(f, "put {key}{}", after(value)),
            Deed::Tell { what, about, body } if about.is_empty() => write!(f, "{what}{}", after(body)),
            Deed::Tell { what, about, body } => write!(f, "{what} {about}{}", after(body)),
        }
    }
}

/// A body where it ends a line: nothing for none.
fn after(body: &Body) -> String {
    if body.is_absent() { String::new() } else { format!(" {}", body.as_str()) }
}
