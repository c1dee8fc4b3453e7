//! The form that `pprof` reads: messages of its `profile.proto`, compressed. Fields that stay at their default are left out.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, write::GzEncoder};
use prost::Message;

use super::stacks::Stacks;

#[derive(Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

/// Numbers of strings.
#[derive(Clone, Copy, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Message)]
struct Sample {
    /// From the innermost.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    /// One for each type.
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

/// Texts by number; number 0 is the empty one.
struct Texts {
    all: Vec<String>,
    known: HashMap<String, i64>,
}

impl Texts {
    fn number(&mut self, text: &str) -> i64 {
        if let Some(number) = self.known.get(text) {
            return *number;
        }
        let number = i64::try_from(self.all.len()).unwrap_or(i64::MAX);
        self.all.push(text.to_owned());
        self.known.insert(text.to_owned(), number);
        number
    }
}

pub(super) fn encode(stacks: &Stacks, took: Duration, period: Duration) -> io::Result<Vec<u8>> {
    let mut texts = Texts { all: vec![String::new()], known: HashMap::from([(String::new(), 0)]) };
    let mut type_of = |kind, unit| ValueType { kind: texts.number(kind), unit: texts.number(unit) };
    let (count, cpu) = (type_of("samples", "count"), type_of("cpu", "nanoseconds"));
    let thread_key = texts.number("thread");
    // A function has one place: which line of it is not known.
    let mut functions: HashMap<&str, u64> = HashMap::new();
    let mut profile = Profile {
        sample_type: vec![count, cpu],
        sample: Vec::new(),
        location: Vec::new(),
        function: Vec::new(),
        string_table: Vec::new(),
        time_nanos: nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        duration_nanos: nanos(took),
        period_type: Some(cpu),
        period: nanos(period),
    };
    for (stack, seen) in stacks.iter() {
        let Some((thread, names)) = stack.split_first() else { continue };
        let mut location_id = Vec::with_capacity(names.len());
        for name in names.iter().rev() {
            let next = functions.len() as u64 + 1;
            let id = *functions.entry(name).or_insert_with(|| {
                profile.function.push(Function { id: next, name: texts.number(name) });
                profile.location.push(Location { id: next, line: vec![Line { function_id: next }] });
                next
            });
            location_id.push(id);
        }
        let seen = i64::try_from(seen).unwrap_or(i64::MAX);
        let label = vec![Label { key: thread_key, text: texts.number(thread) }];
        profile.sample.push(Sample { location_id, value: vec![seen, seen.saturating_mul(nanos(period))], label });
    }
    profile.string_table = texts.all;
    let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
    compressed.write_all(&profile.encode_to_vec())?;
    compressed.finish()
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_profile_reads_back() {
        let mut stacks = Stacks::default();
        for (functions, count) in [(["main", "spin"], 3), (["main", "wait"], 2)] {
            stacks.add("worker".to_owned(), functions.iter().map(|name| (*name).to_owned()), count);
        }
        let period = Duration::from_millis(10);
        let compressed = encode(&stacks, Duration::from_secs(1), period).unwrap();
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(compressed.as_slice()).read_to_end(&mut bytes).unwrap();
        let profile = Profile::decode(bytes.as_slice()).unwrap();
        let text = |number: i64| profile.string_table[number as usize].as_str();
        let types: Vec<_> = profile.sample_type.iter().map(|of| (text(of.kind), text(of.unit))).collect();
        assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
        let name = |location: &u64| {
            let line = &profile.location[*location as usize - 1].line[0];
            text(profile.function[line.function_id as usize - 1].name)
        };
        let samples = profile.sample.iter().map(|sample| {
            (sample.location_id.iter().map(name).collect::<Vec<_>>(), sample.value.clone(), text(sample.label[0].text))
        });
        assert_eq!(
            samples.collect::<Vec<_>>(),
            [
                (vec!["spin", "main"], vec![3, 30_000_000], "worker"),
                (vec!["wait", "main"], vec![2, 20_000_000], "worker"),
            ]
        );
        assert_eq!((profile.function.len(), profile.duration_nanos), (3, 1_000_000_000));
    }
}
