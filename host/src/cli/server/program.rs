//! What our masters know of the programs of their servers, through the console module; Node masters know nothing of them.

use serde_json::{Value, json};

use super::MODULE;
use crate::cli::session::Session;

/// The status of the program that is the server `id`: wrapped by its monitor, or started by the master.
pub(super) async fn of(id: &str, session: &Session) -> Option<Value> {
    let order = json!({ "signal": "program", "ids": [id] });
    let mut told = session.ask(MODULE, order).await.ok()?;
    Some(told["programs"][id].take()).filter(Value::is_object)
}

/// Why it does not run: how it ended, with its last words. None if it runs, or nothing is known.
pub(super) async fn died_of(id: &str, session: &Session) -> Option<String> {
    let program = of(id, session).await.filter(|program| program["state"] != "running")?;
    let end = &program["lastEnd"];
    let how = end["how"].as_str()?;
    let last_words = end["stderr"].as_array().and_then(|lines| lines.last()?.as_str());
    Some(last_words.map_or_else(|| how.to_owned(), |words| format!("{how}: {words}")))
}
