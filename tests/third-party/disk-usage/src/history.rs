//! What was reported before: held by the master's instance, and handed over to the next version of it.

use std::collections::{BTreeMap, VecDeque};

use muster_plugin_api::{
    ModuleError, State,
    serde::{Deserialize, Serialize},
};

/// Values that are kept of a server.
const KEPT: usize = 120;

/// The fullest disk of each server, as it was with each report.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(crate = "muster_plugin_api::serde", transparent)]
pub(crate) struct History(BTreeMap<String, VecDeque<f64>>);

impl History {
    /// Version 1 knew only the last value of each.
    pub(crate) const SCHEMA: u32 = 2;

    pub(crate) fn add(&mut self, server: &str, percent: f64) {
        let values = self.0.entry(server.to_owned()).or_default();
        if values.len() == KEPT {
            values.pop_front();
        }
        values.push_back(percent);
    }

    pub(crate) fn of(&self, server: &str) -> VecDeque<f64> {
        self.0.get(server).cloned().unwrap_or_default()
    }

    /// Reads what this version or the one before has exported.
    pub(crate) fn import(State { schema, body }: &State) -> Result<History, ModuleError> {
        match schema {
            1 => {
                let last: BTreeMap<String, f64> = body.parse()?;
                Ok(History(last.into_iter().map(|(server, value)| (server, VecDeque::from([value]))).collect()))
            }
            2 => body.parse(),
            newer => Err(format!("its history has schema {newer}, and 2 is the newest that is known").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_values_are_forgotten() {
        let mut history = History::default();
        (0..200).for_each(|n| history.add("chat-1", f64::from(n)));
        assert_eq!((history.of("chat-1").len(), history.of("chat-1")[0]), (KEPT, 80.0));
    }

    #[test]
    fn older_schemas_are_read_and_newer_ones_refused() {
        let import = |schema, json: &str| {
            History::import(&State { schema, body: muster_plugin_api::Body::raw(json.to_owned()).unwrap() })
        };
        assert_eq!(import(1, r#"{"chat-1":7.5}"#).unwrap().of("chat-1"), [7.5]);
        assert_eq!(import(2, r#"{"chat-1":[7.5,8]}"#).unwrap().of("chat-1"), [7.5, 8.0]);
        assert!(import(3, "{}").unwrap_err().message().contains("schema 3"));
    }
}
