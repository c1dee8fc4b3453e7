//! Who may do what: one table, command × level, asked before anything reaches a module. What it does not name is for
//! administrators.
//!
//! ```text
//! what a module declares (looks: anybody, changes: level 1) ◀─ laid over by the configuration's [roles]
//! ```
//!
//! The texts of refusals and their order are the original's (`ConsoleService`); but who a client is, its connection says.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use muster_plugin_api::{Commands, Manifest};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::modules::call::ClientIdentity;

/// The name under which the protocol's own three commands stand in the table.
pub(crate) const PROTOCOL: &str = "command";

/// What the protocol's commands are: even `list` is for administrators, as in the original.
pub(crate) const PROTOCOL_COMMANDS: [&str; 3] = ["list", "enable", "disable"];

/// Who may give a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Required {
    /// Every user who is logged in, even one without a level.
    Anybody,
    /// Users of this level and of better, which are lower ones.
    Level(u32),
    /// Nobody.
    Nobody,
}

/// `[roles]`: what the operator says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// What is needed for changes, and for whatever nobody has declared.
    pub default: Required,
    /// By module id (or `command`), then by command (or `*`).
    pub set: BTreeMap<String, BTreeMap<String, Required>>,
}

/// What a client wants of a module.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// All that was sent: JSON.
    pub(crate) body: &'a str,
    /// The command, or `*` if it has no name.
    pub(crate) command: Cow<'a, str>,
    /// Who the client says it is.
    claimed: Option<&'a RawValue>,
    /// Whether it only looks.
    pub(crate) only_looks: bool,
    /// Who may.
    pub(crate) required: Required,
}

impl Default for Roles {
    fn default() -> Roles {
        Roles { default: Required::Level(1), set: BTreeMap::new() }
    }
}

impl Roles {
    /// What a client wants of a module, and who may.
    pub(crate) fn asked<'a>(&self, id: &str, commands: &Commands, body: &'a str) -> Asked<'a> {
        let Claims { claimed, command } = Claims::read(body, commands.field.as_deref());
        let command = command.unwrap_or(Commands::OTHERS.into());
        let (only_looks, required) = (commands.only_looks(&command), self.required(id, commands, &command));
        Asked { body, command, claimed, only_looks, required }
    }

    /// Who may give one of the protocol's commands.
    pub(crate) fn of_command<'a>(&self, command: &'a str, body: &'a str) -> Asked<'a> {
        let Claims { claimed, .. } = Claims::read(body, None);
        let required = self.required(PROTOCOL, &Commands::default(), command);
        Asked { body, command: command.into(), claimed, only_looks: false, required }
    }

    /// Who may give a command: what is configured for it, for its whole module, what the module declares, the default.
    pub(crate) fn required(&self, id: &str, commands: &Commands, command: &str) -> Required {
        let set = self.set.get(id);
        let configured = set.and_then(|set| set.get(command).or_else(|| set.get(Commands::OTHERS)));
        match configured {
            Some(required) => *required,
            None if commands.only_looks(command) => Required::Anybody,
            None => self.default,
        }
    }

    /// The rows of the table for a module: each command with who may give it, `*` for all others.
    pub(crate) fn rows<'a>(&'a self, manifest: &'a Manifest) -> impl Iterator<Item = (&'a str, Required)> {
        let Commands { looks, changes, .. } = &manifest.commands;
        let named = looks.iter().chain(changes).map(String::as_str).filter(|name| *name != Commands::OTHERS);
        let rows = named.chain([Commands::OTHERS]);
        rows.map(|command| (command, self.required(&manifest.id, &manifest.commands, command)))
    }
}

impl Asked<'_> {
    /// Whether this client may.
    ///
    /// # Errors
    /// The original's text.
    pub(crate) fn permit(&self, client: &ClientIdentity) -> Result<(), &'static str> {
        let is_named = match self.claimed.map(RawValue::get) {
            None | Some("null" | r#""""#) => false,
            Some(claimed) if text(claimed).is_some_and(|claimed| claimed == client.id.as_str()) => true,
            Some(_) => return Err("Client info error"),
        };
        match self.required {
            Required::Anybody => Ok(()),
            // For what has a name, as in the original; it says nothing that the connection does not know.
            _ if !is_named && self.command != Commands::OTHERS => Err("Unknow clientId"),
            Required::Level(_) if client.level == 0 => Err("Client info error"),
            Required::Level(most) if client.level <= most => Ok(()),
            Required::Level(_) | Required::Nobody => Err("Command permission denied"),
        }
    }
}

/// What the table asks of a body. Nothing else of it is read: bodies may be large.
#[derive(Debug, Default)]
struct Claims<'a> {
    claimed: Option<&'a RawValue>,
    command: Option<Cow<'a, str>>,
}

/// Reads an object; of a field that is there twice the last counts, as in JavaScript.
struct ClaimsOf<'f> {
    /// Where the command is.
    field: Option<&'f str>,
}

impl<'a> Claims<'a> {
    /// A body that is no object claims nothing.
    fn read(body: &'a str, field: Option<&str>) -> Claims<'a> {
        ClaimsOf { field }.deserialize(&mut serde_json::Deserializer::from_str(body)).unwrap_or_default()
    }
}

impl<'de> DeserializeSeed<'de> for ClaimsOf<'_> {
    type Value = Claims<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Claims<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ClaimsOf<'_> {
    type Value = Claims<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Claims<'de>, A::Error> {
        let mut claims = Claims::default();
        while let Some(Text(name)) = fields.next_key()? {
            if name == "clientId" {
                claims.claimed = Some(fields.next_value()?);
            } else if self.field == Some(&*name) {
                claims.command = text(fields.next_value::<&RawValue>()?.get());
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(claims)
    }
}

/// Not copied, unless something in it is escaped. (A bare `Cow` always is.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The text that a JSON value is, if it is one.
fn text(json: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str(json).ok().map(|Text(text)| text)
}

impl Required {
    /// As it is written in the configuration.
    pub(crate) fn of(value: &Value) -> Option<Required> {
        match value {
            Value::String(word) if word == "anybody" => Some(Required::Anybody),
            Value::String(word) if word == "nobody" => Some(Required::Nobody),
            Value::String(digits) => digits.parse().ok().filter(|level| *level > 0).map(Required::Level),
            value => u32::try_from(value.as_u64()?).ok().filter(|level| *level > 0).map(Required::Level),
        }
    }

    /// As it is written in the configuration.
    pub(crate) fn to_json(self) -> Value {
        match self {
            Required::Anybody => "anybody".into(),
            Required::Level(level) => level.into(),
            Required::Nobody => "nobody".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ids::ConnId;

    fn roles(set: Value) -> Roles {
        let of_module = |(id, commands): (&String, &Value)| {
            let commands = commands.as_object().unwrap().iter();
            (id.clone(), commands.map(|(name, required)| (name.clone(), Required::of(required).unwrap())).collect())
        };
        Roles { set: set.as_object().unwrap().iter().map(of_module).collect(), ..Roles::default() }
    }

    fn console() -> Manifest {
        Manifest::new("c", "1").commands("signal", &["list"], &["stop"])
    }

    #[track_caller]
    fn check(roles: &Roles, manifest: &Manifest, level: u32, body: Value) -> Result<(), &'static str> {
        let client = ClientIdentity {
            connection: ConnId(1),
            address: ([127, 0, 0, 1], 1).into(),
            id: "own".into(),
            user: "u".into(),
            level,
        };
        roles.asked(&manifest.id, &manifest.commands, &body.to_string()).permit(&client)
    }

    #[test]
    fn looks_are_for_everybody_and_all_else_is_for_level_one() {
        let (roles, console) = (Roles::default(), console());
        for level in [0, 1, 2] {
            assert_eq!(check(&roles, &console, level, json!({ "signal": "list" })), Ok(()));
        }
        for signal in [json!("stop"), json!("unheard"), json!("*"), json!(7), json!(null), json!(["list"])] {
            let body = json!({ "signal": signal, "clientId": "own" });
            assert_eq!(check(&roles, &console, 1, body.clone()), Ok(()), "{signal}");
            assert_eq!(check(&roles, &console, 2, body.clone()), Err("Command permission denied"), "{signal}");
            assert_eq!(check(&roles, &console, 0, body), Err("Client info error"), "{signal}");
        }
        let silent = Manifest::new("s", "1");
        assert_eq!(check(&roles, &silent, 1, json!(null)), Ok(()), "nothing has to be said where nothing is named");
        assert_eq!(check(&roles, &silent, 2, json!({ "clientId": "own" })), Err("Command permission denied"));
        assert_eq!(check(&roles, &silent.only_looks(), 0, json!(null)), Ok(()));
    }

    #[test]
    fn the_identity_is_the_connections_whatever_the_body_says() {
        let (roles, console) = (Roles::default(), console());
        for (claimed, look, change) in [
            (json!("own"), Ok(()), Ok(())),
            (json!(null), Ok(()), Err("Unknow clientId")),
            (json!(""), Ok(()), Err("Unknow clientId")),
            (json!("other"), Err("Client info error"), Err("Client info error")),
            (json!(5), Err("Client info error"), Err("Client info error")),
        ] {
            let body = |signal| json!({ "signal": signal, "clientId": claimed });
            assert_eq!(check(&roles, &console, 1, body("list")), look, "{claimed}");
            assert_eq!(check(&roles, &console, 1, body("stop")), change, "{claimed}");
        }
    }

    #[test]
    fn of_a_field_that_is_there_twice_the_last_counts_and_names_may_be_escaped() {
        let (roles, console) = (Roles::default(), console());
        let asked = |body| roles.asked("c", &console.commands, body).command.into_owned();
        assert_eq!(asked(r#"{"signal":"list","signal":"stop"}"#), "stop");
        assert_eq!(asked(r#"{"sign\u0061l":"st\u006fp","signal2":"list"}"#), "stop");
        for odd in ["", "7", "[\"list\"]", r#"{"signal":"list""#, r#"{"signal":["list"]}"#] {
            assert_eq!(asked(odd), "*", "{odd}");
        }
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let console = console();
        let body = |signal| json!({ "signal": signal, "clientId": "own" });
        let roles = roles(json!({ "c": { "stop": 2, "list": "nobody", "*": "anybody" } }));
        assert_eq!(check(&roles, &console, 2, body("stop")), Ok(()));
        assert_eq!(check(&roles, &console, 3, body("stop")), Err("Command permission denied"));
        assert_eq!(check(&roles, &console, 1, body("list")), Err("Command permission denied"));
        assert_eq!(check(&roles, &console, 0, body("unheard")), Ok(()));
        let rows: Vec<_> = roles.rows(&console).collect();
        assert_eq!(rows, [("list", Required::Nobody), ("stop", Required::Level(2)), ("*", Required::Anybody)]);
    }
}
