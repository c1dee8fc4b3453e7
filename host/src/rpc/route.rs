//! Which server a call is for. Pure.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// All servers, each with a number that tells their order. A table in that order would be moved up for each that
/// leaves, and they may all leave at once.
#[derive(Debug)]
pub(super) struct Table<P> {
    servers: HashMap<String, (u64, Server<P>)>,
    /// How many have come.
    came: u64,
}

/// One of them, and what stands for it here.
#[derive(Debug)]
pub(super) struct Server<P> {
    pub(super) server_type: Box<str>,
    pub(super) proxy: P,
}

/// Why a server cannot be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Uncallable {
    #[error("it has no port, so nobody listens for calls there")]
    NoPort,
    #[error("its port is not a number from 1 to 65535")]
    OddPort,
    #[error("it has no host")]
    NoHost,
    #[error("a master has no remotes; its port is the admin port")]
    Master,
}

impl<P> Table<P> {
    /// Adds a server, or replaces what is known of it. Its place stays.
    pub(super) fn insert(&mut self, id: &str, server: Server<P>) {
        if let Some((_, known)) = self.servers.get_mut(id) {
            *known = server;
            return;
        }
        self.came += 1;
        self.servers.insert(id.to_owned(), (self.came, server));
    }

    /// Takes a server out.
    pub(super) fn remove(&mut self, id: &str) -> Option<Server<P>> {
        self.servers.remove(id).map(|(_, server)| server)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Server<P>> {
        self.servers.get_mut(id).map(|(_, server)| server)
    }

    /// All, in the order in which they came.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&str, &Server<P>)> {
        let mut all: Vec<_> = self.servers.iter().map(|(id, (came, server))| (came, id.as_str(), server)).collect();
        all.sort_unstable_by_key(|(came, ..)| *came);
        all.into_iter().map(|(_, id, server)| (id, server))
    }

    /// The server with the id `target`; else, of the servers of the type `target`, the one that `key` belongs to.
    pub(super) fn find(&mut self, target: &str, key: &str) -> Option<(String, &mut Server<P>)> {
        let id = if self.servers.contains_key(target) { target } else { self.of_type(target, key)? }.to_owned();
        let (_, server) = self.servers.get_mut(&id)?;
        Some((id, server))
    }

    /// Also those that cannot be called count: as in the original, a key does not move because of its neighbours.
    fn of_type(&self, server_type: &str, key: &str) -> Option<&str> {
        let of_type = self.servers.iter().filter(|(_, (_, server))| *server.server_type == *server_type);
        let mut of_type: Vec<(u64, &str)> = of_type.map(|(id, (came, _))| (*came, id.as_str())).collect();
        let place = place_of(key, of_type.len())?;
        let (_, (_, id), _) = of_type.select_nth_unstable(place);
        Some(id)
    }
}

impl<P> Default for Table<P> {
    fn default() -> Table<P> {
        Table { servers: HashMap::new(), came: 0 }
    }
}

/// Where a server takes calls: `HOST:PORT`.
pub(super) fn address(server_type: &str, info: &Map<String, Value>) -> Result<String, Uncallable> {
    if server_type == "master" {
        return Err(Uncallable::Master);
    }
    // A port given as an argument of pomelo's is a text.
    let port = match info.get("port") {
        None | Some(Value::Null) => return Err(Uncallable::NoPort),
        Some(Value::String(text)) if text.is_empty() => return Err(Uncallable::NoPort),
        Some(Value::String(text)) => text.parse().ok(),
        Some(other) => other.as_u64().and_then(|port| u16::try_from(port).ok()),
    };
    let port = port.filter(|port| *port > 0).ok_or(Uncallable::OddPort)?;
    let host = info.get("host").and_then(Value::as_str).filter(|host| !host.is_empty()).ok_or(Uncallable::NoHost)?;
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// The place of a key among so many servers: `Math.abs(crc32(key)) % servers` as `defRoute` of pomelo-rpc computes it, so
/// that a key means the same server to a pomelo server and to us.
fn place_of(key: &str, servers: usize) -> Option<usize> {
    // Its crc32 takes the lower byte of each UTF-16 unit, and its result has a sign.
    let bytes: Vec<u8> = key.encode_utf16().map(|unit| unit.to_le_bytes()[0]).collect();
    let sum = crc32fast::hash(&bytes).cast_signed().unsigned_abs();
    usize::try_from(sum).ok()?.checked_rem(servers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_go_where_the_original_sends_them() {
        // Computed by crc@0.2.0, the package that pomelo-rpc 1.0.7 uses.
        for (key, place) in [("", 0), ("a", 1), ("uid-1", 0), ("uid-7", 2), ("ünï", 0), ("漢字", 0), ("player-42", 1)]
        {
            assert_eq!(place_of(key, 3), Some(place), "{key}");
        }
        assert_eq!(place_of("a", 0), None);
    }

    #[test]
    fn an_id_is_a_server_and_a_type_is_the_one_of_the_key() {
        let mut table = Table::default();
        for (id, server_type) in [("chat-2", "chat"), ("gate-1", "gate"), ("chat-1", "chat"), ("chat", "odd")] {
            table.insert(id, Server { server_type: server_type.into(), proxy: () });
        }
        let found = |table: &mut Table<()>, target, key| table.find(target, key).map(|(id, _)| id);
        assert_eq!(found(&mut table, "chat-1", "a").unwrap(), "chat-1");
        assert_eq!(found(&mut table, "chat", "a").unwrap(), "chat", "an id goes before a type");
        table.remove("chat");
        // 390611389 % 2 is 1: the second that came.
        assert_eq!(found(&mut table, "chat", "a").unwrap(), "chat-1");
        assert_eq!(found(&mut table, "chat", "").unwrap(), "chat-2");
        table.insert("chat-2", Server { server_type: "gate".into(), proxy: () });
        assert_eq!(found(&mut table, "chat", "").unwrap(), "chat-1");
        assert_eq!(found(&mut table, "nobody", ""), None);
        let in_order = |table: &Table<()>| table.in_order().map(|(id, _)| id.to_owned()).collect::<Vec<_>>();
        assert_eq!(in_order(&table), ["chat-2", "gate-1", "chat-1"]);
        table.remove("chat-2");
        table.insert("chat-2", Server { server_type: "chat".into(), proxy: () });
        assert_eq!(in_order(&table), ["gate-1", "chat-1", "chat-2"], "who comes back is the last");
    }

    #[test]
    fn who_cannot_be_called_is_told_why() {
        let at = |info: Value| address("chat", info.as_object().unwrap());
        assert_eq!(at(json!({ "host": "h", "port": 6050 })).unwrap(), "h:6050");
        assert_eq!(at(json!({ "host": "h", "port": "6050" })).unwrap(), "h:6050");
        assert_eq!(at(json!({ "host": "::1", "port": 6050 })).unwrap(), "[::1]:6050");
        assert_eq!(at(json!({ "host": "h", "clientPort": 3014 })), Err(Uncallable::NoPort));
        for port in [json!(0), json!(65536), json!(-1), json!("x"), json!([1])] {
            assert_eq!(at(json!({ "host": "h", "port": port })), Err(Uncallable::OddPort), "{port}");
        }
        assert_eq!(at(json!({ "port": 6050 })), Err(Uncallable::NoHost));
        let master = json!({ "host": "h", "port": 3005 });
        assert_eq!(address("master", master.as_object().unwrap()), Err(Uncallable::Master));
    }
}
