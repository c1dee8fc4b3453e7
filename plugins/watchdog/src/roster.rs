//! Who is to be told what: decided here, without sending anything.
//!
//! Everything that must survive a replacement of the plugin is a value of the host: one for each listener, one for each
//! server that has recorded itself, and one for the end of the start. A [`Roster`] is read from these.

use std::collections::{BTreeMap, BTreeSet};

use muster_plugin_api::{Body, Server, serde_json::Value};
use serde::Deserialize;

/// The value that says that the whole fleet has been up.
pub(crate) const STARTED: &str = "started";

const LISTENER: &str = "listener:";
const RECORDED: &str = "recorded:";

/// The value of a listener: a connection, so that the late end of an old one does not concern one that came after it.
pub(crate) fn listener(incarnation: u64) -> String {
    format!("{LISTENER}{incarnation}")
}

/// The value of a server that has recorded itself.
pub(crate) fn recorded(id: &str) -> String {
    format!("{RECORDED}{id}")
}

/// What the host's values say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Roster {
    listeners: BTreeSet<u64>,
    recorded: BTreeSet<String>,
    started: bool,
}

impl Roster {
    /// Reads all values of the module.
    pub(crate) fn of(entries: &Body) -> Roster {
        let values: BTreeMap<String, Value> = entries.parse().unwrap_or_default();
        let mut roster = Roster::default();
        for key in values.keys() {
            if let Some(incarnation) = key.strip_prefix(LISTENER).and_then(|text| text.parse().ok()) {
                roster.listeners.insert(incarnation);
            } else if let Some(id) = key.strip_prefix(RECORDED) {
                roster.recorded.insert(id.to_owned());
            } else if key == STARTED {
                roster.started = true;
            }
        }
        roster
    }

    /// The ids to tell of something that happened to the server `about`: all that listen, but not itself.
    ///
    /// Who listens but is not registered any more is not among them, even if nobody told us yet that it left.
    pub(crate) fn recipients(&self, registered: &[Server], about: Option<&str>) -> BTreeSet<String> {
        registered
            .iter()
            .filter(|server| self.listeners.contains(&server.incarnation) && about != Some(server.id.as_str()))
            .map(|server| server.id.clone())
            .collect()
    }

    /// The listeners whose connection is gone.
    pub(crate) fn stale(&self, registered: &[Server]) -> Vec<u64> {
        let live: BTreeSet<u64> = registered.iter().map(|server| server.incarnation).collect();
        self.listeners.difference(&live).copied().collect()
    }

    /// Whether, now that `id` records itself, the whole fleet is up for the first time.
    ///
    /// Everybody in `fleet` and the master's own monitor has to record itself. The original counts the messages; here each
    /// server counts once, as one that starts twice is not two servers.
    pub(crate) fn completes(&self, id: &str, fleet: usize) -> bool {
        let count = self.recorded.len() + usize::from(!self.recorded.contains(id));
        !self.started && count > fleet
    }
}

/// Whether others learn of this server. The master's own monitor says nothing of a type, and clients of a fleet may say
/// that they are such; neither is a server to talk to. A slave stands behind another one with its id.
pub(crate) fn is_listed(server: &Server) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(default, rename = "serverType")]
        server_type: Value,
        #[serde(default, rename = "type")]
        kind: Value,
    }
    let typed = |kind: Kind| kind.server_type.as_str().is_some_and(|text| !text.is_empty()) && kind.kind != "client";
    !server.slave && server.info.parse().is_ok_and(typed)
}

/// All servers as peers get them: id → info.
pub(crate) fn directory(registered: &[Server]) -> BTreeMap<&str, &Body> {
    registered.iter().filter(|server| is_listed(server)).map(|server| (server.id.as_str(), &server.info)).collect()
}

/// Whether the id of a connection that ended is gone with it: not if it was a slave, nor if another connection has taken
/// its place since.
pub(crate) fn is_gone(left: &Server, registered: &[Server]) -> bool {
    !left.slave && !registered.iter().any(|server| server.id == left.id && server.incarnation != left.incarnation)
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::serde_json::json;

    use super::*;

    fn server(id: &str, incarnation: u64) -> Server {
        let info = json!({ "id": id, "serverType": "chat", "pid": 1 }).into();
        Server { id: id.into(), server_type: "chat".into(), info, incarnation, slave: false }
    }

    fn slave(id: &str, incarnation: u64) -> Server {
        Server { slave: true, ..server(id, incarnation) }
    }

    fn with_info(info: Value) -> Server {
        Server { info: info.into(), ..server("x-1", 1) }
    }

    /// What the host would have kept after these keys were put.
    fn roster(keys: &[String]) -> Roster {
        let values: BTreeMap<&String, bool> = keys.iter().map(|key| (key, true)).collect();
        Roster::of(&Body::of(&values).unwrap())
    }

    #[track_caller]
    fn told(roster: &Roster, registered: &[Server], about: Option<&str>, ids: &[&str]) {
        let expected: BTreeSet<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        assert_eq!(roster.recipients(registered, about), expected);
    }

    #[test]
    fn nothing_stored_is_an_empty_roster() {
        assert_eq!(Roster::of(&Body::ABSENT), Roster::default());
    }

    #[test]
    fn a_roster_is_what_was_stored() {
        let read = roster(&[listener(3), recorded("listener:4"), STARTED.to_owned()]);
        let expected =
            Roster { listeners: BTreeSet::from([3]), recorded: BTreeSet::from(["listener:4".into()]), started: true };
        assert_eq!(read, expected);
    }

    #[test]
    fn those_who_listen_are_told_of_others_but_not_of_themselves() {
        let registered = [server("gate-1", 1), server("chat-1", 2), server("chat-2", 3)];
        let roster = roster(&[listener(1), listener(2)]);
        told(&roster, &registered, Some("chat-2"), &["gate-1", "chat-1"]);
        told(&roster, &registered, Some("chat-1"), &["gate-1"]);
        told(&roster, &registered, None, &["gate-1", "chat-1"]);
    }

    #[test]
    fn a_new_connection_of_an_old_listener_has_to_subscribe_first() {
        let roster = roster(&[listener(1)]);
        told(&roster, &[server("gate-1", 2)], None, &[]);
        assert_eq!(roster.stale(&[server("gate-1", 2)]), [1]);
    }

    #[test]
    fn an_id_whose_slave_listens_too_is_told_once() {
        let roster = roster(&[listener(1), listener(2)]);
        told(&roster, &[server("gate-1", 1), slave("gate-1", 2)], None, &["gate-1"]);
    }

    #[test]
    fn the_fleet_is_up_after_one_record_more_than_it_has_servers() {
        assert!(!roster(&[recorded("master-server-1")]).completes("gate-1", 2));
        assert!(roster(&[recorded("master-server-1"), recorded("gate-1")]).completes("chat-1", 2));
    }

    #[test]
    fn a_server_that_starts_twice_counts_once() {
        assert!(!roster(&[recorded("master-server-1"), recorded("gate-1")]).completes("gate-1", 2));
    }

    #[test]
    fn the_fleet_is_up_only_once() {
        assert!(!roster(&[recorded("gate-1"), STARTED.to_owned()]).completes("chat-1", 1));
    }

    #[test]
    fn only_servers_with_a_type_are_listed() {
        assert!(is_listed(&server("chat-1", 1)));
        assert!(!is_listed(&with_info(json!({ "id": "master-server-1", "host": "127.0.0.1", "port": 3005 }))));
        assert!(!is_listed(&with_info(json!({ "serverType": "chat", "type": "client" }))));
        assert!(!is_listed(&with_info(json!("chat"))));
        assert!(!is_listed(&with_info(Value::Null)));
    }

    #[test]
    fn the_directory_has_the_first_of_each_id() {
        let registered = [server("chat-1", 1), slave("chat-1", 2), server("chat-2", 3)];
        let map = directory(&registered);
        assert_eq!(map.keys().copied().collect::<Vec<_>>(), ["chat-1", "chat-2"]);
        assert_eq!(map["chat-1"], &registered[0].info);
    }

    #[test]
    fn a_late_leave_of_an_old_connection_does_not_remove_a_server_that_came_back() {
        assert!(is_gone(&server("chat-1", 1), &[server("gate-1", 2)]));
        assert!(!is_gone(&server("chat-1", 1), &[server("chat-1", 2)]));
    }

    #[test]
    fn a_server_still_in_the_table_with_the_connection_that_ended_is_gone() {
        assert!(is_gone(&server("chat-1", 1), &[server("chat-1", 1)]));
    }

    #[test]
    fn a_slave_that_leaves_removes_nobody() {
        assert!(!is_gone(&slave("chat-1", 2), &[server("chat-1", 1)]));
        assert!(!is_gone(&slave("chat-1", 2), &[]));
    }
}
