//! Orders about plugins that are carried out at once; [`control`](super::control) gives them.

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
