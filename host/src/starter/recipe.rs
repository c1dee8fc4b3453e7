//! What is run to start a server: from its fields to the words of a command. Pure.
//!
//! Words stay words: on this machine no shell reads them. On another one `ssh` hands a text to a shell, so there each word
//! is quoted, and what cannot be quoted is refused.

use std::{fmt, path::PathBuf, str::FromStr};

use serde_json::{Map, Value};

use crate::program::{Cpus, Launch, NotCpus};

/// The word that stands for all fields of the server, as `key=value`.
const FIELDS: &str = "{fields}";

/// The word that stands for the words of the server's field `args`.
const ARGS: &str = "{args}";

/// How servers are started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// Words with `{name}` for fields of the server and for `{env}`; `{fields}` and `{args}` are words of their own.
    pub(crate) command: Vec<String>,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) env: String,
    /// How another machine is reached: what comes before its name.
    pub(crate) ssh: Vec<String>,
}

/// A name or address of a machine that is nothing else, such as an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostName(String);

/// Why a server is not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("{name:?} is no name of a field: expected letters, digits, - _ and .")]
    Name { name: String },
    #[error("the field {name} is not usable: {why}")]
    Value { name: String, why: &'static str },
    #[error("the server has no field {name}, which start.command names")]
    Missing { name: String },
    #[error("{0:?} is no host: expected a name or an address")]
    Host(String),
    #[error("cpu: {0}")]
    Cpu(#[from] NotCpus),
}

impl Recipe {
    /// What starts the server with these fields; on `host`, or here. `args` are its own words, from the configuration.
    pub(crate) fn launch(
        &self,
        fields: &Map<String, Value>,
        args: &[String],
        host: Option<&HostName>,
    ) -> Result<Launch, Unusable> {
        let words = self.words(fields, args)?;
        let cpus: Option<Cpus> = match fields.get("cpu").and_then(scalar) {
            Some(cpus) => Some(cpus.parse()?),
            None => None,
        };
        Ok(match host {
            None => Launch { command: words, dir: self.dir.clone(), variables: Vec::new(), cpus },
            Some(host) => Launch { command: self.remote(words, host, cpus.as_ref())?, ..Launch::default() },
        })
    }

    fn words(&self, fields: &Map<String, Value>, args: &[String]) -> Result<Vec<String>, Unusable> {
        let mut words = Vec::new();
        for word in &self.command {
            match word.as_str() {
                FIELDS => {
                    for (name, value) in fields {
                        // What is no scalar has no form on a command line.
                        if let Some(value) = scalar(value) {
                            words.push(format!("{}={}", named(name)?, clean(name, value)?));
                        }
                    }
                }
                ARGS => words.extend(args.iter().cloned()),
                word => words.push(self.filled(word, fields)?),
            }
        }
        Ok(words)
    }

    /// A word with its `{name}`s replaced. Other braces are left as they are.
    fn filled(&self, word: &str, fields: &Map<String, Value>) -> Result<String, Unusable> {
        let mut filled = String::new();
        let mut rest = word;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            match after.split_once('}').filter(|(name, _)| is_name(name)) {
                Some((name, after)) => {
                    let value = if name == "env" { Some(self.env.clone()) } else { fields.get(name).and_then(scalar) };
                    let value = value.ok_or_else(|| Unusable::Missing { name: name.to_owned() })?;
                    let value = clean(name, value)?;
                    if filled.is_empty() && value.starts_with('-') {
                        let why = "it would be taken for an option, as it begins with -";
                        return Err(Unusable::Value { name: name.to_owned(), why });
                    }
                    filled.push_str(&value);
                    rest = after;
                }
                None => {
                    filled.push('{');
                    rest = after;
                }
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }

    fn remote(&self, words: Vec<String>, host: &HostName, cpus: Option<&Cpus>) -> Result<Vec<String>, Unusable> {
        let mut text = String::new();
        if let Some(dir) = &self.dir {
            text.push_str(&format!("cd {} && ", quoted(&dir.display().to_string())?));
        }
        text.push_str("exec");
        let pinned = cpus.map(|cpus| ["taskset".to_owned(), "-c".to_owned(), cpus.to_string()]);
        for word in pinned.into_iter().flatten().chain(words) {
            text.push(' ');
            text.push_str(&quoted(&word)?);
        }
        let mut command = self.ssh.clone();
        command.extend(["--".to_owned(), host.0.clone(), text]);
        Ok(command)
    }
}

impl FromStr for HostName {
    type Err = Unusable;

    fn from_str(text: &str) -> Result<HostName, Unusable> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        let usable = !text.is_empty() && text.len() <= 253 && !text.starts_with('-') && text.bytes().all(good);
        if usable { Ok(HostName(text.to_owned())) } else { Err(Unusable::Host(text.to_owned())) }
    }
}

impl HostName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text of a number, a text, or a truth value.
pub(crate) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.bytes().all(good) && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

fn named(name: &str) -> Result<&str, Unusable> {
    if is_name(name) { Ok(name) } else { Err(Unusable::Name { name: name.to_owned() }) }
}

fn clean(name: &str, value: String) -> Result<String, Unusable> {
    if value.chars().any(char::is_control) {
        return Err(Unusable::Value { name: name.to_owned(), why: "there are control characters in it" });
    }
    Ok(value)
}

/// A word that any shell reads as this word.
fn quoted(word: &str) -> Result<String, Unusable> {
    if word.chars().any(char::is_control) {
        return Err(Unusable::Value { name: word.to_owned(), why: "there are control characters in it" });
    }
    Ok(format!("'{}'", word.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn recipe(command: &[&str]) -> Recipe {
        Recipe {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            dir: Some("/srv/app".into()),
            env: "production".into(),
            ssh: vec!["ssh".into(), "-oBatchMode=yes".into()],
        }
    }

    fn pomelo() -> Recipe {
        recipe(&["node", "{args}", "app.js", "env={env}", "{fields}"])
    }

    fn fields(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn chat() -> Map<String, Value> {
        fields(json!({ "id": "chat-1", "port": 6050, "frontend": true, "list": [1], "auto-restart": "true" }))
    }

    #[test]
    fn a_pomelo_server_is_started_with_all_its_fields() {
        let launch = pomelo().launch(&chat(), &["--inspect".into()], None).unwrap();
        let expected = [
            "node",
            "--inspect",
            "app.js",
            "env=production",
            "id=chat-1",
            "port=6050",
            "frontend=true",
            "auto-restart=true",
        ];
        assert_eq!(launch.command, expected);
        assert_eq!((launch.dir, launch.cpus), (Some("/srv/app".into()), None));
    }

    #[test]
    fn another_server_is_started_with_the_fields_that_its_command_names() {
        let recipe = recipe(&["./server", "--port", "{port}", "--name={id}.{env}", "{\"a\":1}", "{"]);
        let launch = recipe.launch(&chat(), &[], None).unwrap();
        assert_eq!(launch.command, ["./server", "--port", "6050", "--name=chat-1.production", "{\"a\":1}", "{"]);
        let lacking = fields(json!({ "id": "chat-1" }));
        assert_eq!(recipe.launch(&lacking, &[], None), Err(Unusable::Missing { name: "port".into() }));
    }

    #[test]
    fn a_value_stays_a_word_whatever_is_in_it() {
        let odd = fields(json!({ "port": "1;id", "x": "$(touch canary) `id` 'a' \"b\" && c" }));
        let launch = pomelo().launch(&odd, &[], None).unwrap();
        assert_eq!(launch.command.last().unwrap(), "x=$(touch canary) `id` 'a' \"b\" && c");
    }

    #[test]
    fn what_could_be_taken_for_something_else_is_refused() {
        let refused = |recipe: &Recipe, value: Value| recipe.launch(&fields(value), &[], None).unwrap_err();
        assert!(matches!(refused(&pomelo(), json!({ "--eval": "1" })), Unusable::Name { .. }));
        assert!(matches!(refused(&pomelo(), json!({ "a b": "1" })), Unusable::Name { .. }));
        assert!(matches!(refused(&pomelo(), json!({ "a": "1\n2" })), Unusable::Value { .. }));
        assert!(matches!(refused(&pomelo(), json!({ "cpu": "1;id" })), Unusable::Cpu(_)));
        assert!(matches!(refused(&recipe(&["x", "{host}"]), json!({ "host": "-v" })), Unusable::Value { .. }));
    }

    #[test]
    fn a_host_is_a_name_and_no_option() {
        for good in ["10.0.0.7", "db-1.example", "fe80::1"] {
            assert_eq!(good.parse::<HostName>().unwrap().as_str(), good);
        }
        for odd in ["", "-oProxyCommand=id", "a b", "user@host", "a;id", "$(id)", "a'b", "a\nb"] {
            assert_eq!(odd.parse::<HostName>(), Err(Unusable::Host(odd.into())), "{odd}");
        }
    }

    #[test]
    fn on_another_machine_each_word_is_quoted() {
        let host: HostName = "10.0.0.7".parse().unwrap();
        let odd = fields(json!({ "id": "it's; id", "cpu": "2" }));
        let launch = pomelo().launch(&odd, &[], Some(&host)).unwrap();
        let (text, before) = launch.command.split_last().unwrap();
        assert_eq!(before, ["ssh", "-oBatchMode=yes", "--", "10.0.0.7"]);
        let expected =
            r"cd '/srv/app' && exec 'taskset' '-c' '2' 'node' 'app.js' 'env=production' 'id=it'\''s; id' 'cpu=2'";
        assert_eq!(text, expected);
        assert_eq!((launch.dir, launch.cpus), (None, None), "these are for the other machine");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn a_shell_reads_a_quoted_word_as_the_word(word in "[^\\p{Cc}]{0,40}") {
            let script = format!("printf %s {}", quoted(&word).unwrap());
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            proptest::prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
