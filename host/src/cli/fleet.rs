//! Who is there: what commands that wait, follow or compare look at again and again. Through the console module, which
//! Node masters have as well.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    CliError,
    render::{Progress, cell},
    server::MODULE,
    session::Session,
};

/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// The servers that answer, each as it reports itself, by id.
pub(super) type Seen = BTreeMap<String, Value>;

/// Something that happened between two looks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Joined,
    Left,
    /// Under the same id there is another process.
    Replaced,
}

/// Looks once.
pub(super) async fn look(session: &Session) -> Result<Seen, CliError> {
    match session.ask(MODULE, json!({ "signal": "list" })).await?["msg"].take() {
        Value::Object(servers) => Ok(servers.into_iter().collect()),
        found => Err(CliError::Odd { module: MODULE, found: found.to_string() }),
    }
}

/// Looks until `is_so`, for as long as the session waits. Says whether it came about; `what` is shown meanwhile.
pub(super) async fn until(
    session: &Session,
    what: &str,
    mut is_so: impl FnMut(&Seen) -> bool,
) -> Result<bool, CliError> {
    let progress = Progress::new();
    let end = Instant::now() + session.timeout();
    loop {
        if is_so(&look(session).await?) {
            return Ok(true);
        }
        if Instant::now() + LOOK > end {
            return Ok(false);
        }
        progress.show(what);
        sleep(LOOK).await;
    }
}

/// What changed, server by server.
pub(super) fn changes(before: &Seen, after: &Seen) -> Vec<(String, Change)> {
    let joined = after.iter().filter_map(|(id, server)| match before.get(id) {
        None => Some((id.clone(), Change::Joined)),
        Some(old) if old["pid"] != server["pid"] => Some((id.clone(), Change::Replaced)),
        Some(_) => None,
    });
    let left = before.keys().filter(|id| !after.contains_key(*id)).map(|id| (id.clone(), Change::Left));
    left.chain(joined).collect()
}

impl Change {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Change::Joined => "joined",
            Change::Left => "left",
            Change::Replaced => "replaced",
        }
    }

    /// In words.
    pub(super) fn told(&self, id: &str, now: &Seen) -> String {
        let server = now.get(id).unwrap_or(&Value::Null);
        let [server_type, pid] = ["serverType", "pid"].map(|field| cell(&server[field]));
        match self {
            Change::Joined => format!("{id} has joined: {server_type}, pid {pid}"),
            Change::Left => format!("{id} has left"),
            Change::Replaced => format!("{id} is another process now: {server_type}, pid {pid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_tell_who_came_and_went() {
        let seen = |servers: Value| serde_json::from_value::<Seen>(servers).unwrap();
        let before = seen(json!({ "a": { "pid": 1 }, "b": { "pid": 2 }, "c": { "pid": 3 } }));
        let after = seen(json!({ "a": { "pid": 1 }, "b": { "pid": 9 }, "d": { "pid": 4 } }));
        let changes: Vec<_> = changes(&before, &after).into_iter().map(|(id, change)| (id, change.word())).collect();
        let expected = [("c", "left"), ("b", "replaced"), ("d", "joined")];
        assert_eq!(changes, expected.map(|(id, word)| (id.to_owned(), word)));
    }
}
