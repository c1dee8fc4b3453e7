//! What has happened to a file: the last changes of what it serves.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::ids::Generation;

/// How many changes are kept: more than one look at a list takes in.
const KEPT: usize = 20;

/// The last changes of one file, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(VecDeque<Change>);

#[derive(Debug, Clone)]
struct Change {
    at: SystemTime,
    by: By,
    from: Option<Generation>,
    to: Option<Generation>,
    outcome: String,
}

/// Who or what made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The file is there, has changed, or is gone.
    File,
    /// It did worse than the one before.
    Probation,
    /// Somebody ordered it.
    Order,
}

impl By {
    pub(crate) fn name(self) -> &'static str {
        match self {
            By::File => "file",
            By::Probation => "probation",
            By::Order => "order",
        }
    }
}

impl History {
    /// Notes a change that was made or tried.
    pub(super) fn add(&mut self, by: By, from: Option<Generation>, to: Option<Generation>, outcome: String) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Change { at: SystemTime::now(), by, from, to, outcome });
    }

    /// Oldest first. Times are seconds since 1970.
    pub(crate) fn to_json(&self) -> Value {
        let changes = self.0.iter().map(|Change { at, by, from, to, outcome }| {
            json!({
                "at": at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
                "by": by.name(),
                "from": from.map(|generation| generation.0),
                "to": to.map(|generation| generation.0),
                "outcome": outcome,
            })
        });
        changes.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_twenty_changes_are_kept() {
        let mut history = History::default();
        (1..=30).for_each(|n| history.add(By::File, None, Some(Generation(n)), "running".to_owned()));
        let json = history.to_json();
        let changes = json.as_array().unwrap();
        assert_eq!((changes.len(), &changes[0]["to"], &changes[19]["to"]), (20, &json!(11), &json!(30)));
    }
}
