//! One question to many servers: collects their answers and ends when all are in.

use muster_plugin_api::RequestError;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{ids::ServerId, modules::services::Asker, wire};

/// The answers of many servers to one question. Every request it waits for ends at its deadline, so it ends, too.
#[derive(Debug)]
pub(crate) struct Gather {
    ids: Vec<ServerId>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The JSON of each answer, by place; empty while it is missing.
    answers: Vec<String>,
    missing: usize,
    asker: Option<Asker>,
}

impl Gather {
    /// Gathers one answer of each of `ids` for `asker`, which gets a list of `{"id", "error", "body", "failed"}`.
    pub(crate) fn new(ids: Vec<ServerId>, asker: Asker) -> Gather {
        let missing = ids.len();
        let state = State { answers: vec![String::new(); missing], missing, asker: Some(asker) };
        let gather = Gather { ids, state: Mutex::new(state) };
        if missing == 0 {
            gather.end(gather.state.lock().asker.take(), &[]);
        }
        gather
    }

    /// Whom to ask, by index.
    pub(crate) fn ids(&self) -> &[ServerId] {
        &self.ids
    }

    pub(crate) fn answer(&self, index: usize, error: &[u8], body: &[u8]) {
        let id = self.ids[index].as_str();
        let mut one = String::with_capacity(32 + id.len() + error.len() + body.len());
        one.push_str("{\"id\":");
        one.push_str(&wire::json_text(id));
        for (name, json) in [(",\"error\":", error), (",\"body\":", body)] {
            // It was read as JSON text; were it none, this answer alone would be left out.
            if let Ok(json) = std::str::from_utf8(json)
                && !json.is_empty()
            {
                one.push_str(name);
                one.push_str(json);
            }
        }
        one.push('}');
        self.put(index, one);
    }

    pub(crate) fn fail(&self, index: usize, reason: &RequestError) {
        let failed = serde_json::to_value(reason).unwrap_or(Value::Null);
        self.put(index, json!({ "id": self.ids[index].as_str(), "failed": failed }).to_string());
    }

    fn put(&self, index: usize, one: String) {
        let (asker, answers) = {
            let mut state = self.state.lock();
            if !std::mem::replace(&mut state.answers[index], one).is_empty() {
                return;
            }
            state.missing -= 1;
            if state.missing > 0 {
                return;
            }
            (state.asker.take(), std::mem::take(&mut state.answers))
        };
        self.end(asker, &answers);
    }

    fn end(&self, asker: Option<Asker>, answers: &[String]) {
        if let Some(asker) = asker {
            asker.answer(b"null", format!("[{}]", answers.join(",")).as_bytes());
        }
    }
}
