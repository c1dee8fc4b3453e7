//! Why there is no answer.

use std::{error::Error, sync::Arc, time::Duration};

use crate::link::LinkError;

/// Why a client could not connect, or a request came to no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No master could be reached at that address, or what is there is none.
    #[error("cannot reach a master at {master}")]
    Unreachable {
        /// The address that was tried.
        master: String,
        /// What went wrong.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The master does not let this user, or this client id, in.
    #[error("login refused: {text}")]
    RefusedLogin {
        /// The master's words.
        text: String,
    },
    /// Nothing came in time. Whether the request was carried out is not known.
    #[error("no answer within {}", humantime::format_duration(*after))]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// The link broke before the answer came. Whether the request was carried out is not known.
    #[error("the connection was lost before the answer came")]
    Disconnected,
    /// The body cannot be written as JSON: nothing was sent.
    #[error("the body cannot be written as JSON")]
    Body(#[source] Arc<serde_json::Error>),
}

impl ClientError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            ClientError::Unreachable { .. } => {
                "is a master running, and is this the address of its admin port? (`--master HOST:PORT`)"
            }
            ClientError::RefusedLogin { text } if text.starts_with("id has been registered") => {
                "another client uses this id; choose a different one"
            }
            ClientError::RefusedLogin { .. } => {
                "check user and password; they are compared with the master's adminUser.json, without which nobody gets in"
            }
            ClientError::Timeout { .. } => "the module may never answer this, or need longer; see the master's log",
            ClientError::Disconnected => "the master may have been stopped; see its log, and ask again",
            ClientError::Body(_) => "JSON has strings as keys, and no NaN",
        }
    }

    pub(super) fn of_link(master: &str, error: LinkError) -> ClientError {
        let master = master.to_owned();
        match error {
            // Both would name the address.
            LinkError::Unreachable { addr: _, source } => ClientError::Unreachable { master, source: Arc::new(source) },
            LinkError::Timeout { addr: _, after } => ClientError::Timeout { after },
            error @ (LinkError::Closed | LinkError::Broken(_) | LinkError::Protocol(_)) => {
                ClientError::Unreachable { master, source: Arc::new(error) }
            }
        }
    }
}
