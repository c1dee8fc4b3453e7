//! Orders about plugins, as people and programs give them.

use tokio::sync::{mpsc, oneshot};

use super::supervisor::Input;

/// What can be ordered about one plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Back to the generation before.
    Rollback,
    /// Load no new file.
    Pin,
    /// Load new files again.
    Unpin,
    /// Try again what was quarantined.
    Unquarantine,
}

/// Where orders are given.
#[derive(Debug, Clone)]
pub(crate) struct Orders(pub(super) mpsc::Sender<Input>);

impl Action {
    /// By its name in messages.
    pub(crate) fn of(name: &str) -> Option<Action> {
        match name {
            "rollback" => Some(Action::Rollback),
            "pin" => Some(Action::Pin),
            "unpin" => Some(Action::Unpin),
            "unquarantine" => Some(Action::Unquarantine),
            _ => None,
        }
    }
}

impl Orders {
    /// Has it done, to the plugin of this name.
    ///
    /// # Errors
    /// When it cannot be done, with the reason.
    pub(crate) async fn give(&self, action: Action, name: String) -> Result<String, String> {
        let stopping = || "the daemon is stopping".to_owned();
        let (done, outcome) = oneshot::channel();
        self.0.send(Input::Order { action, name, done }).await.map_err(|_| stopping())?;
        outcome.await.unwrap_or_else(|_| Err(stopping()))
    }
}
