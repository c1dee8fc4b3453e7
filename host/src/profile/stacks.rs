//! What was seen, with names, and the forms that people look at. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    time::Duration,
};

use inferno::flamegraph;
use serde_json::{Value, json};

use super::symbols::{Frame, Symbols};

/// Narrower than this share of the picture, in percent, nothing can be read or hit with a mouse.
const NARROWEST: f64 = 0.05;

/// How often each stack was seen: thread first, then functions from the outermost.
#[derive(Debug, Default)]
pub(super) struct Stacks(BTreeMap<Vec<String>, u64>);

/// A function and those that it called.
#[derive(Default)]
struct Node {
    alone: u64,
    total: u64,
    called: BTreeMap<String, Node>,
}

impl Stacks {
    pub(super) fn named(seen: HashMap<(String, Vec<Frame>), u64>, symbols: &mut Symbols) -> Stacks {
        let mut names: HashMap<Frame, String> = HashMap::new();
        let mut stacks = Stacks::default();
        for ((thread, frames), count) in seen {
            let mut name = |frame| names.entry(frame).or_insert_with(|| symbols.name(frame)).clone();
            stacks.add(thread, frames.into_iter().rev().map(&mut name), count);
        }
        stacks
    }

    pub(super) fn add(&mut self, thread: String, functions: impl Iterator<Item = String>, count: u64) {
        let stack = std::iter::once(thread).chain(functions);
        *self.0.entry(stack.collect()).or_default() += count;
    }

    pub(super) fn samples(&self) -> u64 {
        self.0.values().sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[String], u64)> {
        self.0.iter().map(|(stack, count)| (stack.as_slice(), *count))
    }

    /// A picture: SVG.
    pub(super) fn flamegraph(&self, pid: u32, took: Duration) -> io::Result<Vec<u8>> {
        // inferno fails if there is nothing to draw.
        if self.0.is_empty() {
            let text = format!("process {pid} did nothing for {:.1} s", took.as_secs_f64());
            return Ok(format!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" width="600" height="60"><text x="20" y="36">{text}</text></svg>"#
            )
            .into_bytes());
        }
        let mut options = flamegraph::Options::default();
        options.title = format!("CPU of process {pid}, {:.1} s", took.as_secs_f64());
        options.count_name = "samples".to_owned();
        options.min_width = NARROWEST;
        options.deterministic = true;
        let lines: Vec<String> = self.iter().map(|(stack, count)| folded(stack, count)).collect();
        let mut svg = Vec::new();
        flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
        Ok(svg)
    }

    /// Both trees of the original's profiles: who calls whom, and who is called by whom.
    pub(super) fn trees(&self) -> Value {
        let (mut head, mut bottom_up) = (Node::default(), Node::default());
        for (stack, count) in self.iter() {
            head.add(stack.iter(), count);
            bottom_up.add(stack.iter().rev(), count);
        }
        // Upwards, all of a function's samples are those of the innermost function that the path began with.
        json!({
            "head": head.to_json("(root)", |node| node.alone),
            "bottomUpHead": bottom_up.to_json("(root)", |node| node.total),
        })
    }
}

impl Node {
    fn add<'a>(&mut self, mut path: impl Iterator<Item = &'a String>, count: u64) {
        self.total += count;
        match path.next() {
            None => self.alone += count,
            Some(name) => self.called.entry(name.clone()).or_default().add(path, count),
        }
    }

    fn to_json(&self, name: &str, own: fn(&Node) -> u64) -> Value {
        let children: Vec<Value> = self.called.iter().map(|(name, node)| node.to_json(name, own)).collect();
        json!({
            "functionName": name, "selfSamplesCount": own(self), "totalSamplesCount": self.total, "children": children,
        })
    }
}

/// The line that flamegraphs are made from.
fn folded(stack: &[String], count: u64) -> String {
    // `[u8; 4]` is a type, and no two frames.
    let frames: Vec<String> = stack.iter().map(|name| name.replace(';', ",").replace(['\n', '\r'], " ")).collect();
    format!("{} {count}", frames.join(";"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stacks() -> Stacks {
        let mut stacks = Stacks::default();
        for (functions, count) in [(&["main", "<[u8; 4]>::spin"][..], 3), (&["main"], 2), (&["<&evil>"], 1)] {
            stacks.add("worker".to_owned(), functions.iter().map(|name| (*name).to_owned()), count);
        }
        stacks
    }

    #[test]
    fn the_picture_has_every_function_and_no_markup_of_theirs() {
        let svg = String::from_utf8(stacks().flamegraph(7, Duration::from_secs(2)).unwrap()).unwrap();
        for words in ["<svg", "CPU of process 7, 2.0 s", "&lt;[u8, 4]&gt;::spin (3 samples", "&lt;&amp;evil&gt;"] {
            assert!(svg.contains(words), "{words} is not in\n{svg}");
        }
        let idle = Stacks::default().flamegraph(7, Duration::from_secs(2)).unwrap();
        assert!(String::from_utf8(idle).unwrap().contains("process 7 did nothing for 2.0 s"));
    }

    #[test]
    fn the_trees_count_what_a_function_and_those_it_calls_took() {
        let trees = stacks().trees();
        let worker = &trees["head"]["children"][0];
        assert_eq!((&worker["functionName"], &worker["totalSamplesCount"]), (&json!("worker"), &json!(6)));
        let main = &worker["children"][1];
        assert_eq!((&main["selfSamplesCount"], &main["totalSamplesCount"]), (&json!(2), &json!(5)));
        let spin = &trees["bottomUpHead"]["children"][1];
        assert_eq!((&spin["functionName"], &spin["selfSamplesCount"]), (&json!("<[u8; 4]>::spin"), &json!(3)));
    }
}
