//! What can be asked. The word is the original's.

use muster_plugin_api::{Body, ModuleError, serde_json::Value};
use serde::{Deserialize, Serialize};

/// A question or an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Comd {
    Servers,
    Connections,
    Logins,
    Modules,
    Status,
    Config,
    Proxy,
    Handler,
    Components,
    Settings,
    Get,
    Set,
    Enable,
    Disable,
    Run,
    Cpu,
    Memory,
}

/// Those that only look.
pub(crate) const LOOKS: [&str; 11] = [
    "servers",
    "connections",
    "logins",
    "modules",
    "status",
    "config",
    "proxy",
    "handler",
    "components",
    "settings",
    "get",
];

/// Those that change a server, or reach into it.
pub(crate) const CHANGES: [&str; 6] = ["set", "enable", "disable", "run", "cpu", "memory"];

/// What a client, or the master, sends.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Ask {
    comd: Value,
    pub(crate) context: Value,
    pub(crate) param: Body,
}

/// What goes to a monitor: the original leaves the parameter out where it has no meaning.
#[derive(Serialize)]
struct Forwarded<'a> {
    comd: Comd,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<&'a Body>,
    context: &'a str,
}

impl Comd {
    /// Whether it is for one server, and `all` an error of its own.
    pub(crate) fn refuses_all(self) -> bool {
        match self {
            Comd::Servers | Comd::Connections | Comd::Logins | Comd::Modules | Comd::Status | Comd::Config => false,
            Comd::Proxy | Comd::Handler | Comd::Components | Comd::Settings | Comd::Get | Comd::Set => true,
            Comd::Enable | Comd::Disable | Comd::Run | Comd::Cpu | Comd::Memory => true,
        }
    }

    /// What is sent to a monitor.
    ///
    /// # Errors
    /// None that can happen: all of it came as JSON.
    pub(crate) fn message(self, context: &str, param: &Body) -> Result<Body, ModuleError> {
        let takes_param = !matches!(self, Comd::Servers | Comd::Connections | Comd::Logins | Comd::Status);
        // Absent is not `null`: a question without a parameter is passed on without one.
        let param = Some(param).filter(|param| takes_param && !param.is_absent());
        Body::of(&Forwarded { comd: self, param, context })
    }
}

impl Ask {
    /// The word, or the text that refuses it. The original leaves an unknown one unanswered.
    pub(crate) fn comd(&self) -> Result<Comd, String> {
        Comd::deserialize(&self.comd).map_err(|_| match &self.comd {
            Value::String(word) => format!("unknown comd:{word}"),
            other => format!("unknown comd:{other}"),
        })
    }

    /// Whether there is a word at all, and a context.
    pub(crate) fn is_complete(&self) -> bool {
        let is_there = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && value != "" && *value != 0;
        is_there(&self.comd) && is_there(&self.context)
    }

    /// The server it is about; a context that is no text names nobody.
    pub(crate) fn context(&self) -> &str {
        self.context.as_str().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::serde_json::json;

    use super::*;

    const ALL: [Comd; 17] = [
        Comd::Servers,
        Comd::Connections,
        Comd::Logins,
        Comd::Modules,
        Comd::Status,
        Comd::Config,
        Comd::Proxy,
        Comd::Handler,
        Comd::Components,
        Comd::Settings,
        Comd::Get,
        Comd::Set,
        Comd::Enable,
        Comd::Disable,
        Comd::Run,
        Comd::Cpu,
        Comd::Memory,
    ];

    fn ask(body: Value) -> Ask {
        Body::from(body).parse().unwrap()
    }

    #[test]
    fn what_goes_to_a_monitor_reads_as_the_original_sends_it() {
        let message = |comd: Comd, param: Value| comd.message("chat-1", &param.into()).unwrap();
        assert_eq!(message(Comd::Servers, json!("")).as_str(), r#"{"comd":"servers","context":"chat-1"}"#);
        assert_eq!(message(Comd::Get, json!("k")).as_str(), r#"{"comd":"get","param":"k","context":"chat-1"}"#);
        assert_eq!(message(Comd::Proxy, json!("")).as_str(), r#"{"comd":"proxy","param":"","context":"chat-1"}"#);
        let without = Comd::Proxy.message("chat-1", &Body::ABSENT).unwrap();
        assert_eq!(without.as_str(), r#"{"comd":"proxy","context":"chat-1"}"#);
    }

    #[test]
    fn every_word_is_declared_as_a_look_or_a_change() {
        let words = || LOOKS.into_iter().chain(CHANGES);
        for comd in ALL {
            let word = json!(comd);
            assert_eq!(words().filter(|declared| word == *declared).count(), 1, "{comd:?}");
        }
        assert_eq!(words().count(), ALL.len());
    }

    #[test]
    fn a_question_needs_a_word_and_a_context() {
        assert!(ask(json!({ "comd": "servers", "context": "all" })).is_complete());
        for lacking in [json!({}), json!({ "comd": "servers" }), json!({ "comd": "", "context": "all" })] {
            assert!(!ask(lacking.clone()).is_complete(), "{lacking}");
        }
    }

    #[test]
    fn an_unknown_word_is_named() {
        assert_eq!(ask(json!({ "comd": "bogus", "context": "all" })).comd().unwrap_err(), "unknown comd:bogus");
        assert_eq!(
            ask(json!({ "comd": ["servers"], "context": "all" })).comd().unwrap_err(),
            r#"unknown comd:["servers"]"#
        );
    }
}
