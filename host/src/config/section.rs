//! Reading settings one by one. What is wrong is noted, and the default used, so that one start shows all faults.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};

use super::{
    Address, Options, Secret, Servers,
    fault::{Fault, FaultList, Origin, Problem},
    sources::{Node, json_of},
    value,
};

const DURATION: &str = "a duration such as 5s, 100ms or 2m";
const SIZE: &str = "a size such as 64KiB, 16MiB or a number of bytes";
const COUNT: &str = "a whole number of at least 1";

/// A table of settings. What was not asked for when it is finished is a fault.
pub(super) struct Section<'a> {
    path: String,
    left: BTreeMap<&'a str, &'a Node>,
    known: Vec<&'static str>,
    faults: &'a FaultList,
}

impl<'a> Section<'a> {
    pub(super) fn root(node: &'a Node, faults: &'a FaultList) -> Section<'a> {
        Section::of(String::new(), Some(node), faults)
    }

    fn of(path: String, node: Option<&'a Node>, faults: &'a FaultList) -> Section<'a> {
        let left = match node {
            Some(Node::Table { entries, .. }) => entries.iter().map(|(key, node)| (key.as_str(), node)).collect(),
            Some(node @ Node::Value(..)) => {
                faults.add(expected(Some(path.clone()), node, "a table"));
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        };
        Section { path, left, known: Vec::new(), faults }
    }

    /// The table at `key`, empty if there is none.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let node = self.take(key);
        Section::of(self.key(key), node, self.faults)
    }

    /// The setting at `key`; `None` if it is absent or wrong.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        words: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let node = self.take(key)?;
        let value = match node {
            Node::Value(value, _) => read(value),
            Node::Table { .. } => None,
        };
        if value.is_none() {
            self.faults.add(expected(Some(self.key(key)), node, words));
        }
        value
    }

    pub(super) fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        self.read(key, DURATION, value::duration).unwrap_or(default)
    }

    /// Like [`duration`](Self::duration), for what cannot be zero.
    pub(super) fn positive_duration(&mut self, key: &'static str, default: Duration) -> Duration {
        let positive = |value: &Value| value::duration(value).filter(|duration| !duration.is_zero());
        self.read(key, "a duration above 0 such as 5s, 100ms or 2m", positive).unwrap_or(default)
    }

    pub(super) fn size(&mut self, key: &'static str, default: usize) -> usize {
        self.read(key, SIZE, value::size).unwrap_or(default)
    }

    /// A size of a packet: what the protocol can express.
    pub(super) fn packet_size(&mut self, key: &'static str, default: usize) -> usize {
        let most = crate::wire::packet::MAX_REMAINING;
        let words = "a size such as 64KiB, from 1KiB to 268435455 (the largest packet of MQTT)";
        self.read(key, words, |value| value::size(value).filter(|size| (1024..=most).contains(size))).unwrap_or(default)
    }

    pub(super) fn count(&mut self, key: &'static str, default: usize) -> usize {
        self.read(key, COUNT, value::count).unwrap_or(default)
    }

    /// A number, or `"unlimited"`, which is the default.
    pub(super) fn count_or_unlimited(&mut self, key: &'static str) -> Option<usize> {
        let read = |value: &Value| if value == "unlimited" { Some(None) } else { value::count(value).map(Some) };
        self.read(key, "a whole number of at least 1, or \"unlimited\"", read).flatten()
    }

    pub(super) fn switch(&mut self, key: &'static str, default: bool) -> bool {
        let read = |value: &Value| value.as_bool().or_else(|| value.as_str()?.parse().ok());
        self.read(key, "true or false", read).unwrap_or(default)
    }

    /// A list of texts, each of which has to be good.
    pub(super) fn list(
        &mut self,
        key: &'static str,
        words: &str,
        is_good: impl Fn(&str) -> bool,
    ) -> Option<Vec<String>> {
        let text = |value: &Value| value.as_str().filter(|text| is_good(text)).map(str::to_owned);
        self.read(key, words, |value| value.as_array()?.iter().map(text).collect())
    }

    /// A program and its arguments, each a text of its own; empty if it is not given.
    pub(super) fn command(&mut self, key: &'static str) -> Vec<String> {
        let read = |value: &Value| {
            let text = |value: &Value| value.as_str().filter(|text| !text.contains('\0')).map(str::to_owned);
            let words: Vec<String> = value.as_array()?.iter().map(text).collect::<Option<_>>()?;
            words.first().is_some_and(|program| !program.is_empty()).then_some(words)
        };
        self.read(key, "a program and its arguments, such as [\"node\", \"app.js\"]", read).unwrap_or_default()
    }

    /// One of a few words; the first is the default.
    pub(super) fn one_of<T: Copy, const N: usize>(&mut self, key: &'static str, words: [(&str, T); N]) -> T {
        let expected = words.map(|(word, _)| format!("{word:?}")).join(" or ");
        let read = |value: &Value| words.iter().find(|(word, _)| value == word).map(|(_, meaning)| *meaning);
        self.read(key, &expected, read).unwrap_or(words[0].1)
    }

    pub(super) fn address(&mut self, key: &'static str) -> Option<Address> {
        self.read(key, "HOST:PORT such as 127.0.0.1:3005", |value| value.as_str()?.parse().ok())
    }

    /// A text that is not shown; quotes may be missing around a number.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<Secret> {
        let text = |value: &Value| value.as_u64().map(|number| number.to_string()).or_else(|| value::text(value));
        self.read(key, "a text", text).map(Secret::from)
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.read(key, "a text", value::text)
    }

    /// Which servers are meant; what there is, is known later.
    pub(super) fn which(&mut self, key: &'static str) -> Option<Which> {
        let node = self.take(key)?;
        let text = match node {
            Node::Value(value, _) => value::text(value),
            Node::Table { .. } => None,
        };
        if text.is_none() {
            self.faults.add(expected(Some(self.key(key)), node, "all, a server type or a server id"));
        }
        Some(Which { text: text?, key: self.key(key), origin: node.origin().cloned() })
    }

    /// Free settings: a table, whatever is in it.
    pub(super) fn free(&mut self, key: &'static str) -> Map<String, Value> {
        match self.take(key) {
            Some(Node::Table { entries, .. }) => json_of(entries),
            Some(node @ Node::Value(..)) => {
                self.faults.add(expected(Some(self.key(key)), node, "a table"));
                Map::new()
            }
            None => Map::new(),
        }
    }

    /// All tables that are left: free settings by a name that nobody here knows.
    pub(super) fn named(&mut self) -> BTreeMap<String, Options> {
        let tables = self.left.iter().filter_map(|(name, node)| match node {
            Node::Table { entries, .. } => Some(((*name).to_owned(), json_of(entries))),
            Node::Value(..) => None,
        });
        let tables: BTreeMap<_, _> = tables.collect();
        self.left.retain(|name, _| !tables.contains_key(*name));
        tables
    }

    /// Everything in it, by a name that nobody here knows.
    pub(super) fn all_read<T>(self, words: &str, read: impl Fn(&Value) -> Option<T>) -> BTreeMap<String, T> {
        let mut all = BTreeMap::new();
        for (name, node) in &self.left {
            match node {
                Node::Value(value, _) if let Some(value) = read(value) => drop(all.insert((*name).to_owned(), value)),
                _ => self.faults.add(expected(Some(self.key(name)), node, words)),
            }
        }
        all
    }

    /// All tables that are left, as sections of their own.
    pub(super) fn named_sections(&mut self) -> Vec<(String, Section<'a>)> {
        let faults = self.faults;
        let tables = self.left.iter().filter(|(_, node)| matches!(node, Node::Table { .. }));
        let tables: Vec<_> = tables.map(|(name, node)| ((*name).to_owned(), *node)).collect();
        self.left.retain(|_, node| !matches!(node, Node::Table { .. }));
        let section = |name: String, node| (name.clone(), Section::of(self.key(&name), Some(node), faults));
        tables.into_iter().map(|(name, node)| section(name, node)).collect()
    }

    /// What was not asked for, as free settings.
    pub(super) fn rest(self) -> Options {
        self.left.iter().map(|(key, node)| ((*key).to_owned(), node.json())).collect()
    }

    /// A number of things or seconds, if there is a limit.
    pub(super) fn limit(&mut self, key: &'static str) -> Option<u64> {
        self.read(key, COUNT, value::count).map(|count| count as u64)
    }

    /// A number of bytes, if there is a limit.
    pub(super) fn size_limit(&mut self, key: &'static str) -> Option<u64> {
        self.read(key, SIZE, value::size).map(|size| size as u64)
    }

    /// Everything in it must be a table: free settings by a name that nobody here knows.
    pub(super) fn all_named(mut self) -> BTreeMap<String, Options> {
        let tables = self.named();
        for (name, node) in &self.left {
            self.faults.add(expected(Some(self.key(name)), node, "a table of options"));
        }
        tables
    }

    /// Notes a fault if a setting that is needed is not there; to be called before it is read.
    pub(super) fn require(&self, key: &str, give: &str) {
        if !self.left.contains_key(key) {
            let problem = Problem::Missing { give: give.to_owned() };
            self.faults.add(Fault { origin: None, key: Some(self.key(key)), problem });
        }
    }

    /// Notes what was not asked for.
    pub(super) fn finish(self) {
        for (key, node) in &self.left {
            let problem = Problem::Unknown { known: self.known.clone() };
            self.faults.add(Fault { origin: node.origin().cloned(), key: Some(self.key(key)), problem });
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        self.left.remove(key)
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// Which servers are meant, to be checked against those that there are.
pub(super) struct Which {
    text: String,
    key: String,
    origin: Option<Origin>,
}

impl Which {
    pub(super) fn check(self, servers: &Servers, faults: &FaultList) -> String {
        let Which { text, key, origin } = self;
        if text != "all" && servers.find(&text).is_none() && servers.of_type(&text).is_empty() {
            let expected = "all, or a type or an id of servers.json or [fleet]".to_owned();
            let problem = Problem::Expected { expected, found: format!("{text:?}") };
            faults.add(Fault { origin, key: Some(key), problem });
        }
        text
    }
}

fn expected(key: Option<String>, node: &Node, words: &str) -> Fault {
    let found = match node {
        Node::Table { .. } => "a table".to_owned(),
        Node::Value(value, _) => value.to_string(),
    };
    let origin: Option<Origin> = node.origin().cloned();
    Fault { origin, key, problem: Problem::Expected { expected: words.to_owned(), found } }
}
