//! In the master: what became of the programs that monitors wrap, as they told it last, and of the servers that the
//! master started.
//!
//! A client asks `{"signal": "program", "ids": [id, …]}`, or without ids of all; the answer is `{"programs": {id: …}}`, each
//! as of [`Event::ProgramChanged`](muster_plugin_api::Event::ProgramChanged). It is also told of servers that are gone.

use std::collections::BTreeMap;

use muster_plugin_api::{Answer, Body, HandlerResult, MasterAgent, Message};
use serde::{Deserialize, Serialize};

use crate::signal::Signal;

/// The value of a server's program.
fn key(id: &str) -> String {
    format!("{KEY}{id}")
}

const KEY: &str = "program:";

/// Keeps what a monitor tells.
pub(crate) fn keep(agent: &MasterAgent, message: &Message) -> HandlerResult {
    #[derive(Deserialize)]
    struct Told {
        signal: Signal,
        program: Body,
    }
    match message.body.parse() {
        Ok(Told { signal: Signal::Program, program }) => {
            agent.put(&key(&message.from.id), program);
            Ok(Answer::done())
        }
        _ => Err("a monitor tells the console of its program, and of nothing else".into()),
    }
}

/// Shows what was kept.
pub(crate) fn show(agent: &MasterAgent, order: &Body) -> HandlerResult {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Show {
        ids: Vec<String>,
    }
    #[derive(Serialize)]
    struct Shown {
        programs: BTreeMap<String, Body>,
    }
    let Show { ids } = order.parse().unwrap_or_default();
    let values: BTreeMap<String, Body> = agent.entries().parse().unwrap_or_default();
    // What a monitor says of a program that it wraps says more than that the monitor runs.
    let mut all = agent.app().started();
    all.extend(values.into_iter().filter_map(|(key, program)| Some((key.strip_prefix(KEY)?.to_owned(), program))));
    let programs = all.into_iter().filter(|(id, _)| ids.is_empty() || ids.contains(id)).collect();
    Answer::json(&Shown { programs })
}
