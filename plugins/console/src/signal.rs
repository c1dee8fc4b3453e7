//! What can be ordered.

use serde::{Deserialize, Serialize};

/// The `signal` of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Signal {
    List,
    Stop,
    Kill,
    Restart,
    Add,
    AddCron,
    RemoveCron,
    Blacklist,
    /// Ours: what became of the program that a monitor wraps. Told to the master by monitors, asked of it by clients.
    Program,
}

impl Signal {
    /// The level that a client needs for it, or `None` if every client may order it.
    ///
    /// The original checks `stop`, `add` and `kill` alone, and leaves the others open to everybody.
    pub(crate) fn required_level(self) -> Option<u32> {
        match self {
            Signal::List | Signal::Program => None,
            Signal::Stop
            | Signal::Kill
            | Signal::Restart
            | Signal::Add
            | Signal::AddCron
            | Signal::RemoveCron
            | Signal::Blacklist => Some(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::serde_json::{from_value, json};

    use super::*;

    #[test]
    fn signals_are_spelt_as_on_the_wire() {
        for name in ["list", "stop", "kill", "restart", "add", "addCron", "removeCron", "blacklist", "program"] {
            let signal: Signal = from_value(json!(name)).unwrap();
            assert_eq!(json!(signal), json!(name));
        }
        assert!(from_value::<Signal>(json!("List")).is_err());
    }

    #[test]
    fn only_what_changes_nothing_is_open_to_every_client() {
        use Signal::{Add, AddCron, Blacklist, Kill, List, Program, RemoveCron, Restart, Stop};
        assert_eq!((List.required_level(), Program.required_level()), (None, None));
        for signal in [Stop, Kill, Restart, Add, AddCron, RemoveCron, Blacklist] {
            assert_eq!(signal.required_level(), Some(1), "{signal:?}");
        }
    }
}
