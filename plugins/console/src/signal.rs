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
    /// Ours: the crons of the fleet.
    ListCrons,
    /// Ours: what became of the program that a monitor wraps. Told to the master by monitors, asked of it by clients.
    Program,
}

/// Those that only look.
pub(crate) const LOOKS: [&str; 2] = ["list", "listCrons"];

/// Those that change the fleet, and `program`: the last lines of a program may hold secrets. The original asks for a level
/// for `stop`, `add` and `kill` alone.
pub(crate) const CHANGES: [&str; 8] =
    ["stop", "kill", "restart", "add", "addCron", "removeCron", "blacklist", "program"];

#[cfg(test)]
mod tests {
    use muster_plugin_api::serde_json::{from_value, json};

    use super::*;

    #[test]
    fn what_is_declared_is_spelt_as_on_the_wire() {
        for name in LOOKS.into_iter().chain(CHANGES) {
            let signal: Signal = from_value(json!(name)).unwrap();
            assert_eq!(json!(signal), json!(name));
        }
        assert!(from_value::<Signal>(json!("List")).is_err());
    }
}
