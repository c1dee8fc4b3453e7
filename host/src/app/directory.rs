//! The servers of the fleet, as the watchdog told them: by id and by type.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Which servers there are.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    by_id: BTreeMap<String, Value>,
    by_type: BTreeMap<String, BTreeSet<String>>,
}

impl Directory {
    /// Adds a server, or replaces what was known of it.
    pub(crate) fn add(&mut self, id: &str, info: Value) {
        self.remove(id);
        self.by_type.entry(server_type(&info).to_owned()).or_default().insert(id.to_owned());
        self.by_id.insert(id.to_owned(), info);
    }

    /// Removes a server.
    pub(crate) fn remove(&mut self, id: &str) {
        let Some(info) = self.by_id.remove(id) else { return };
        let server_type = server_type(&info);
        if let Some(ids) = self.by_type.get_mut(server_type) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_type.remove(server_type);
            }
        }
    }

    /// Replaces everything.
    pub(crate) fn replace(&mut self, servers: Map<String, Value>) {
        *self = Directory::default();
        for (id, info) in servers {
            self.add(&id, info);
        }
    }

    /// Id → info.
    pub(crate) fn all(&self) -> Value {
        self.by_id.iter().map(|(id, info)| (id.clone(), info.clone())).collect::<Map<_, _>>().into()
    }

    /// Id → info, of one type.
    pub(crate) fn of_type(&self, server_type: &str) -> Value {
        let ids = self.by_type.get(server_type).into_iter().flatten();
        ids.filter_map(|id| Some((id.clone(), self.by_id.get(id)?.clone()))).collect::<Map<_, _>>().into()
    }
}

fn server_type(info: &Value) -> &str {
    info.get("serverType").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_is_found_by_id_and_by_its_latest_type() {
        let mut directory = Directory::default();
        directory.add("a", json!({ "serverType": "chat", "port": 1 }));
        directory.add("b", json!({ "serverType": "chat" }));
        directory.add("a", json!({ "serverType": "gate", "port": 2 }));
        assert_eq!(directory.of_type("chat"), json!({ "b": { "serverType": "chat" } }));
        assert_eq!(directory.of_type("gate"), json!({ "a": { "serverType": "gate", "port": 2 } }));
        directory.remove("b");
        assert_eq!(directory.of_type("chat"), json!({}));
        directory.replace(json!({ "c": { "serverType": "x" } }).as_object().unwrap().clone());
        assert_eq!(directory.all(), json!({ "c": { "serverType": "x" } }));
    }
}
