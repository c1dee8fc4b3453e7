//! What modules store: per module, key → JSON. Belongs to the host, so it outlives the generations of a plugin.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use crate::{ids::ModuleId, wire};

/// The values of all modules of one role.
#[derive(Debug, Default)]
pub(crate) struct Values(Mutex<HashMap<ModuleId, BTreeMap<String, Vec<u8>>>>);

impl Values {
    /// Stores JSON text; an absent one is stored as `null`.
    pub(crate) fn put(&self, module: &ModuleId, key: &str, json: &[u8]) {
        let json = if json.is_empty() { b"null" } else { json };
        let mut values = self.0.lock();
        if let Some(value) = values.get_mut(module).and_then(|values| values.get_mut(key)) {
            // What is reported every few seconds has the same length as a rule.
            value.clear();
            value.extend_from_slice(json);
            return;
        }
        values.entry(module.clone()).or_default().insert(key.to_owned(), json.to_vec());
    }

    /// The JSON text of one value.
    pub(crate) fn get(&self, module: &ModuleId, key: &str) -> Option<Vec<u8>> {
        self.0.lock().get(module)?.get(key).cloned()
    }

    /// Removes one value; false if there was none.
    pub(crate) fn remove(&self, module: &ModuleId, key: &str) -> bool {
        let mut values = self.0.lock();
        let Some(of_module) = values.get_mut(module) else { return false };
        let removed = of_module.remove(key).is_some();
        if of_module.is_empty() {
            values.remove(module);
        }
        removed
    }

    /// All values of a module as one JSON object; `None` if nothing is stored.
    pub(crate) fn entries(&self, module: &ModuleId) -> Option<Vec<u8>> {
        let values = self.0.lock();
        let values = values.get(module)?;
        let size = values.iter().map(|(key, value)| key.len() + value.len() + 4).sum::<usize>();
        let mut json = Vec::with_capacity(size + 2);
        json.push(b'{');
        for (key, value) in values {
            if json.len() > 1 {
                json.push(b',');
            }
            json.extend_from_slice(wire::json_text(key).as_bytes());
            json.push(b':');
            json.extend_from_slice(value);
        }
        json.push(b'}');
        Some(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_per_module_and_key() {
        let values = Values::default();
        let (time, load) = (ModuleId::from("time"), ModuleId::from("load"));
        values.put(&time, "b", b"1");
        values.put(&time, "a\"", b"{\"x\":2}");
        values.put(&load, "b", b"");
        assert_eq!(values.get(&time, "b").as_deref(), Some(&b"1"[..]));
        assert_eq!(values.entries(&time).unwrap(), br#"{"a\"":{"x":2},"b":1}"#);
        assert_eq!(values.entries(&load).unwrap(), br#"{"b":null}"#);
        assert!(values.remove(&load, "b") && !values.remove(&load, "b"));
        assert_eq!(values.entries(&load), None);
    }
}
