//! The smallest module that does something: it answers.

use muster_plugin_api::{
    Answer, ClientCall, Context, HandlerResult, Input, Manifest, MasterAgent, Module, ModuleError, MonitorAgent,
    export_modules, serde_json::json,
};

/// What all instances of the module share is nothing: there is one per daemon and role.
pub struct Hello {
    greeting: String,
}

impl Module for Hello {
    fn manifest() -> Manifest {
        Manifest::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
    }

    /// `--set modules.NAME.greeting=…` sets the option.
    fn create(context: Context) -> Result<Hello, ModuleError> {
        let greeting = context.options.get("greeting")?.unwrap_or_else(|| "hello".to_owned());
        Ok(Hello { greeting })
    }

    /// In the master, for a client: `muster call NAME`.
    async fn client_handler(&self, _: MasterAgent, call: ClientCall) -> HandlerResult {
        Ok(Answer::ok(json!(format!("{}, {}", self.greeting, call.caller.user))))
    }

    /// In a monitor, for whoever asks there.
    async fn monitor_handler(&self, agent: MonitorAgent, _: Input) -> HandlerResult {
        Ok(Answer::ok(json!(format!("{} from {}", self.greeting, agent.server_id()))))
    }
}

export_modules!(Hello);

#[cfg(test)]
mod tests {
    use muster_plugin_api::testing::{CLIENT, Fleet};

    use super::*;

    const MODULE: &str = env!("CARGO_PKG_NAME");

    #[test]
    fn clients_are_greeted_by_name() {
        let mut fleet = Fleet::of::<Hello>().start().expect("it starts");
        assert_eq!(fleet.call(MODULE, ()).parse::<String>(), format!("hello, {CLIENT}"));
    }

    #[test]
    fn the_greeting_is_an_option() {
        let setup = Fleet::of::<Hello>().monitor("chat-1", "chat").options(MODULE, json!({ "greeting": "good day" }));
        let mut fleet = setup.start().expect("it starts");
        assert_eq!(fleet.ask_monitor("chat-1", MODULE, ()).parse::<String>(), "good day from chat-1");
    }
}
