//! File, environment and flags, laid over each other. Each setting remembers where it comes from.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::{
    fault::{Fault, FaultList, Faults, Origin, Place, Problem},
    value,
};

/// The variables that are settings, and which.
const VARIABLES: [(&str, &str); 9] = [
    ("MUSTER_LISTEN", "master.listen"),
    ("MUSTER_CONFIG_DIR", "config_dir"),
    ("MUSTER_ENV", "env"),
    ("MUSTER_PLUGINS", "plugins.dir"),
    ("MUSTER_STATE_DIR", "state_dir"),
    ("MUSTER_MASTER", "monitor.master"),
    ("MUSTER_ID", "monitor.id"),
    ("MUSTER_TYPE", "monitor.type"),
    ("MUSTER_TOKEN", "monitor.token"),
];

/// Names of settings that are not shown.
const SECRETS: [&str; 3] = ["token", "password", "secret"];

/// A setting as it is, and who says so.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Such as `limits.outbox`.
    pub key: String,
    /// Its value; `…` for a secret.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// `KEY=VALUE` per line.
const VARIABLE_SET: &str = "MUSTER_SET";

/// Where a configuration comes from: enough to read it again. Flag beats environment beats file.
#[derive(Clone, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    variables: Vec<Assignment>,
    sets: Vec<Assignment>,
    flags: Vec<Assignment>,
    faults: Vec<Fault>,
}

#[derive(Clone)]
struct Assignment {
    key: String,
    value: Value,
    origin: Origin,
}

/// The settings of all sources, the strongest on top.
#[derive(Debug)]
pub(super) enum Node {
    /// Where it begins is known for those of a file.
    Table {
        entries: BTreeMap<String, Node>,
        origin: Option<Origin>,
    },
    Value(Value, Origin),
}

impl Sources {
    /// Nothing but defaults.
    pub fn new() -> Sources {
        Sources::default()
    }

    /// `--config`: a TOML file, read with each load.
    pub fn file(mut self, path: Option<PathBuf>) -> Sources {
        self.file = path;
        self
    }

    /// The environment. `lookup` finds a variable; one that is empty counts as not set.
    pub fn variables(mut self, lookup: impl Fn(&str) -> Option<String>) -> Sources {
        let lookup = |name: &str| lookup(name).filter(|text| !text.is_empty());
        for line in lookup(VARIABLE_SET).iter().flat_map(|lines| lines.lines()).filter(|line| !line.trim().is_empty()) {
            match self.assignment(Origin::Variable(VARIABLE_SET), line, "", value::json_or_text) {
                Ok(set) => self.variables.push(set),
                Err(fault) => self.faults.push(fault),
            }
        }
        for (name, key) in VARIABLES {
            if let Some(text) = lookup(name) {
                let origin = Origin::Variable(name);
                self.variables.push(Assignment { key: key.to_owned(), value: Value::String(text), origin });
            }
        }
        self
    }

    /// A flag that is a setting of its own, as text.
    pub fn flag(mut self, flag: &'static str, key: &'static str, text: Option<String>) -> Sources {
        if let Some(text) = text {
            let origin = Origin::Flag(flag);
            self.flags.push(Assignment { key: key.to_owned(), value: Value::String(text), origin });
        }
        self
    }

    /// What follows `--`: the words of a command, as they are. None for no such setting.
    pub fn words(mut self, key: &'static str, words: Vec<String>) -> Sources {
        if !words.is_empty() {
            let origin = Origin::Flag("--");
            self.flags.push(Assignment { key: key.to_owned(), value: words.into(), origin });
        }
        self
    }

    /// `--set KEY=VALUE`, any number of them; the last of a key counts, a flag of its own beats it.
    pub fn set(mut self, pairs: Vec<String>) -> Sources {
        for pair in pairs {
            match self.assignment(Origin::Flag("--set"), &pair, "", value::json_or_text) {
                Ok(set) => self.sets.push(set),
                Err(fault) => self.faults.push(fault),
            }
        }
        self
    }

    /// `--info KEY=VALUE`, any number of them.
    pub fn info(mut self, pairs: Vec<String>) -> Sources {
        for pair in pairs {
            match self.assignment(Origin::Flag("--info"), &pair, "monitor.info.", value::integer_or_text) {
                Ok(info) => self.flags.push(info),
                Err(fault) => self.faults.push(fault),
            }
        }
        self
    }

    fn assignment(
        &self,
        origin: Origin,
        pair: &str,
        prefix: &str,
        read: impl Fn(&str) -> Value,
    ) -> Result<Assignment, Fault> {
        match pair.split_once('=') {
            Some((key, text)) if key.split('.').all(|part| !part.trim().is_empty()) => {
                Ok(Assignment { key: format!("{prefix}{}", key.trim()), value: read(text), origin })
            }
            _ => Err(Fault {
                origin: Some(origin),
                key: None,
                problem: Problem::Expected { expected: "KEY=VALUE".to_owned(), found: format!("{pair:?}") },
            }),
        }
    }

    /// Every setting, by name, with the defaults below what is said; secrets are not shown.
    ///
    /// # Errors
    /// When a source cannot be read. Whether the settings are good, [`MasterConfig`](super::MasterConfig) says.
    pub fn settings(&self) -> Result<Vec<Setting>, Faults> {
        let faults = FaultList::default();
        let said = self.merge(&faults);
        let mut settings = BTreeMap::new();
        // The sample shows every default, which a test holds against the code.
        if let Ok(sample) = toml::from_str::<Value>(include_str!("../../muster.sample.toml")) {
            Node::of_json(&sample, &Origin::Default).leaves("", &mut settings);
        }
        said.leaves("", &mut settings);
        faults.into_result(settings.into_values().collect())
    }

    /// Reads the file, and lays everything over each other.
    pub(super) fn merge(&self, faults: &FaultList) -> Node {
        self.faults.iter().for_each(|fault| faults.add(fault.clone()));
        let mut root = match &self.file {
            Some(path) => read_file(path, faults),
            None => Node::empty(),
        };
        for Assignment { key, value, origin } in self.variables.iter().chain(&self.sets).chain(&self.flags) {
            root.put(key, Node::of_json(value, origin));
        }
        root
    }
}

/// Shows keys and origins: values may be secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sources { file, variables, sets, flags, faults } = self;
        let keys = |assignments: &[Assignment]| {
            assignments.iter().map(|Assignment { key, value: _, origin }| format!("{origin} {key}")).collect::<Vec<_>>()
        };
        f.debug_struct("Sources")
            .field("file", file)
            .field("variables", &keys(variables))
            .field("sets", &keys(sets))
            .field("flags", &keys(flags))
            .field("faults", faults)
            .finish()
    }
}

impl Node {
    fn empty() -> Node {
        Node::Table { entries: BTreeMap::new(), origin: None }
    }

    /// Puts a value at a dotted key. It replaces whatever was there, tables included.
    fn put(&mut self, key: &str, node: Node) {
        let mut at = self;
        for part in key.split('.') {
            if let Node::Value(..) = at {
                *at = Node::empty();
            }
            let Node::Table { entries, .. } = at else { return };
            at = entries.entry(part.trim().to_owned()).or_insert_with(Node::empty);
        }
        *at = node;
    }

    fn of_json(value: &Value, origin: &Origin) -> Node {
        match value {
            Value::Object(fields) => Node::Table {
                entries: fields.iter().map(|(key, value)| (key.clone(), Node::of_json(value, origin))).collect(),
                origin: Some(origin.clone()),
            },
            value => Node::Value(value.clone(), origin.clone()),
        }
    }

    fn of_toml(table: &DeTable<'_>, place: Place, origin: &impl Fn(Place) -> Origin) -> Node {
        let node = |key: Range<usize>, value: &toml::Spanned<DeValue<'_>>| {
            let place = Place { key, value: value.span() };
            match value.get_ref() {
                DeValue::Table(table) => Node::of_toml(table, place, origin),
                plain => Node::Value(json_of_toml(plain), origin(place)),
            }
        };
        let entries = table.iter().map(|(key, value)| (key.get_ref().to_string(), node(key.span(), value))).collect();
        Node::Table { entries, origin: Some(origin(place)) }
    }

    /// Everything that is no table, by its whole name.
    fn leaves(&self, name: &str, all: &mut BTreeMap<String, Setting>) {
        match self {
            Node::Table { entries, .. } => {
                let dot = if name.is_empty() { "" } else { "." };
                entries.iter().for_each(|(key, node)| node.leaves(&format!("{name}{dot}{key}"), all));
            }
            Node::Value(value, origin) => {
                let is_secret = SECRETS.iter().any(|secret| name.rsplit('.').next() == Some(secret));
                let value = if is_secret { "…".into() } else { value.clone() };
                all.insert(name.to_owned(), Setting { key: name.to_owned(), value, origin: origin.clone() });
            }
        }
    }

    /// The JSON of what is here, without where it comes from.
    pub(super) fn json(&self) -> Value {
        match self {
            Node::Table { entries, .. } => Value::Object(json_of(entries)),
            Node::Value(value, _) => value.clone(),
        }
    }

    /// Where what is here comes from; for a table that was put together, where something in it does.
    pub(super) fn origin(&self) -> Option<&Origin> {
        match self {
            Node::Table { entries, origin } => origin.as_ref().or_else(|| entries.values().find_map(Node::origin)),
            Node::Value(_, origin) => Some(origin),
        }
    }
}

pub(super) fn json_of(entries: &BTreeMap<String, Node>) -> Map<String, Value> {
    entries.iter().map(|(key, node)| (key.clone(), node.json())).collect()
}

fn read_file(path: &Path, faults: &FaultList) -> Node {
    let fault = |line, reason: String| {
        faults.add(Fault { origin: Some(Origin::file(path, line)), key: None, problem: Problem::Unreadable(reason) });
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            fault(None, format!("cannot be read: {error}"));
            return Node::empty();
        }
    };
    let line = |at: usize| 1 + text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count();
    let (table, errors) = DeTable::parse_recoverable(&text);
    let origin = |place: Place| Origin::File {
        path: path.into(),
        line: Some(line(place.value.start)),
        place: Some(Box::new(place)),
    };
    for error in errors {
        let origin = match error.span() {
            Some(span) => origin(Place { key: span.clone(), value: span }),
            None => Origin::file(path, None),
        };
        faults.add(Fault { origin: Some(origin), key: None, problem: Problem::Unreadable(error.message().to_owned()) });
    }
    Node::of_toml(table.get_ref(), Place { key: 0..0, value: 0..0 }, &origin)
}

fn json_of_toml(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        // What is too large for JSON's numbers here stays as it was written, and no setting takes it.
        DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
            .map_or_else(|_| Value::String(digits.as_str().to_owned()), Value::from),
        DeValue::Float(digits) => {
            digits.as_str().parse::<f64>().map_or_else(|_| Value::String(digits.as_str().to_owned()), Value::from)
        }
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(items) => items.iter().map(|item| json_of_toml(item.get_ref())).collect(),
        DeValue::Table(table) => Value::Object(
            table.iter().map(|(key, value)| (key.get_ref().to_string(), json_of_toml(value.get_ref()))).collect(),
        ),
    }
}
