//! What a module sees, and in which order: its library on a host that only writes down what it is told.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::{Arc, Mutex};

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RArc, RSlice, RStr, RVec},
};
use muster_plugin_api::{
    __private::{Export, create},
    Agent, Answer, Body, Context, Event, HandlerResult, Input, Manifest, Module, ModuleError, MonitorAgent,
    abi::{HostApi, HostApi_TO, Mail, PluginObj, kind, tell},
    serde_json::json,
};

/// Asks the master when it is connected, and logs what it sees.
struct Watcher;

impl Module for Watcher {
    fn manifest() -> Manifest {
        Manifest::new("watcher", "1.0.0")
    }

    fn create(_: Context) -> Result<Watcher, ModuleError> {
        Ok(Watcher)
    }

    async fn monitor_handler(&self, agent: MonitorAgent, input: Input) -> HandlerResult {
        if let Input::Message(message) = input {
            agent.put("message", message.body);
        }
        Ok(Answer::done())
    }

    async fn on_event(&self, agent: Agent, event: Event) {
        match event {
            Event::MasterConnected { .. } => {
                let agent = agent.monitor().unwrap();
                agent.put("answer", agent.request("watcher", ()).await.unwrap().result());
            }
            Event::ServersAdded { servers } => agent.put("event", Body::of(&servers).unwrap()),
            _ => {}
        }
    }
}

static EXPORTS: &[Export] = &[Export::of::<Watcher>()];

/// Writes down what modules store.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl HostApi for Notes {
    fn log(&self, _: u32, _: u32, _: RStr<'_>, _: RStr<'_>) {}
    fn reply(&self, _: u64, _: u32, _: RSlice<'_, u8>, _: RSlice<'_, u8>) {}
    fn ask(&self, _: u32, _: u64, _: u32, _: RStr<'_>, _: RStr<'_>, _: u64, _: RSlice<'_, u8>) {}
    fn tell(&self, _: u32, op: u32, a: RStr<'_>, _: RStr<'_>, _: u64, body: RSlice<'_, u8>) -> i64 {
        if op != tell::PUT {
            return 1;
        }
        self.0.lock().unwrap().push(format!("{a} {}", String::from_utf8_lossy(body.as_slice())));
        1
    }
    fn query(&self, _: u32, _: u32, _: RStr<'_>, _: RStr<'_>) -> RVec<u8> {
        RVec::new()
    }
    fn wake(&self) {}
}

/// A library with one instance of the module, in a monitor.
fn started(notes: &Notes) -> PluginObj {
    let plugin = create(HostApi_TO::from_ptr(RArc::new(notes.clone()), TD_Opaque), EXPORTS).unwrap();
    turn(&plugin, &[(kind::START, 1, "")]);
    plugin
}

/// Delivers one batch of kind, id and body.
fn turn(plugin: &PluginObj, mail: &[(u32, u64, &str)]) {
    let mail: Vec<Mail<'_>> = mail
        .iter()
        .map(|&(kind, id, body)| Mail {
            kind,
            instance: 1,
            id,
            status: 0,
            level: 0,
            connection: 1,
            left_ms: 0,
            a: RStr::from_str("watcher"),
            b: RStr::from_str("monitor"),
            error: RSlice::EMPTY,
            body: RSlice::from_slice(body.as_bytes()),
        })
        .collect();
    plugin.turn(RSlice::from_slice(&mail));
}

fn event(event: &Event) -> String {
    Body::of(event).unwrap().as_str().to_owned()
}

#[test]
fn an_answer_is_seen_before_the_message_that_came_after_it() {
    let notes = Notes::default();
    let plugin = started(&notes);
    turn(&plugin, &[(kind::EVENT, 0, &event(&Event::MasterConnected { again: false }))]);
    turn(&plugin, &[(kind::MESSAGE, 0, "1"), (kind::COMPLETE, 1, "2"), (kind::MESSAGE, 0, "3")]);
    assert_eq!(*notes.0.lock().unwrap(), ["message 1", "answer 2", "message 3"]);
}

#[test]
fn an_event_brings_the_infos_that_it_is_about() {
    let notes = Notes::default();
    let plugin = started(&notes);
    let servers = [("chat-1".to_owned(), json!({ "port": 6050 }).into())].into();
    turn(&plugin, &[(kind::EVENT, 0, &event(&Event::ServersAdded { servers }))]);
    assert_eq!(*notes.0.lock().unwrap(), [r#"event {"chat-1":{"port":6050}}"#]);
}
