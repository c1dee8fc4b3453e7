//! Recordings of the original programs, and what a test says about them before they are played.
//!
//! A recording is never edited to make a change pass. Where the product differs on purpose, the test
//! lists a deviation, with the quirk of the protocol it avoids or the hole it closes.

use std::fmt;
use std::path::Path;

use serde_json::Value;

use crate::packet::Packet;

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Monitor or client to master, `c>s`.
    ToMaster,
    /// Master to monitor or client, `s>c`.
    ToPeer,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer connected.
    Open,
    /// One side ended its direction.
    Fin,
    /// One side broke the connection.
    Reset,
    /// A packet.
    Packet(Packet),
    /// The recorder said what happens next.
    Note(String),
    /// Both directions broke, which the recorder did not see, since it was the one who broke them.
    Cut,
}

/// One line of a recording.
#[derive(Clone, Debug)]
pub struct Line {
    /// 1 is the first line of the file.
    pub number: usize,
    /// Number of the connection; 0 for notes.
    pub conn: u32,
    /// Label of the recording point, such as `M1`.
    pub peer: String,
    /// Who sent it.
    pub direction: Direction,
    /// What it was.
    pub event: Event,
    /// What may come instead, where the protocol leaves a choice.
    pub or: Vec<Event>,
}

impl Line {
    /// Decoded payload of a PUBLISH, else null.
    pub fn message(&self) -> Value {
        match &self.event {
            Event::Packet(Packet::Publish { payload, .. }) => crate::payload::decode(payload),
            _ => Value::Null,
        }
    }

    fn is_from_master(&self) -> bool {
        self.direction == Direction::ToPeer && matches!(self.event, Event::Packet(_) | Event::Fin)
    }
}

/// A recording, with the deviations that a test expects.
#[derive(Clone)]
pub struct Transcript {
    name: String,
    lines: Vec<Line>,
    /// Why packets may differ; said again when a replay fails.
    reasons: Vec<String>,
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transcript").field("name", &self.name).field("reasons", &self.reasons).finish_non_exhaustive()
    }
}

// === Reading ===

impl Transcript {
    /// Reads `tests/transcripts/NAME.jsonl`.
    pub fn load(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts").join(format!("{name}.jsonl"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let lines = text.lines().enumerate().map(|(index, line)| read_line(name, index + 1, line)).collect();
        Self { name: name.to_owned(), lines, reasons: Vec::new() }
    }

    /// File name without its ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is to be played.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Why this test expects something else than was recorded.
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// Requests and commands of the peer on connection `conn`, each with the messages that answer it.
    pub fn exchanges(&self, conn: u32) -> Vec<(Value, Vec<Value>)> {
        let on = |direction: Direction| {
            self.lines.iter().filter(move |line| line.conn == conn && line.direction == direction).map(Line::message)
        };
        let answers = |id: &Value| on(Direction::ToPeer).filter(|message| message["respId"] == *id).collect();
        on(Direction::ToMaster)
            .filter(|message| message["reqId"].is_u64())
            .map(|message| {
                let answered = answers(&message["reqId"]);
                (message, answered)
            })
            .collect()
    }
}

// === Staging ===

impl Transcript {
    /// Only the lines from `first` to `last`, both included.
    #[must_use]
    pub fn part(&self, first: usize, last: usize) -> Self {
        let mut part = self.clone();
        part.lines.retain(|line| (first..=last).contains(&line.number));
        part
    }

    /// Only the lines after `last`.
    #[must_use]
    pub fn after(&self, last: usize) -> Self {
        self.part(last + 1, usize::MAX)
    }

    /// Only what happened on these connections.
    #[must_use]
    pub fn only(&self, conns: &[u32]) -> Self {
        let mut part = self.clone();
        part.lines.retain(|line| conns.contains(&line.conn));
        part
    }

    /// The links of these connections break at the note in line `number`, one after the other. Recordings do
    /// not show it, because the recorder broke them itself.
    #[must_use]
    pub fn cut_at(mut self, number: usize, conns: &[u32]) -> Self {
        let place = self.place(number);
        assert!(matches!(self.lines[place].event, Event::Note(_)), "{}: line {number} is no note", self.name);
        let cuts = conns.iter().map(|conn| Line { conn: *conn, event: Event::Cut, ..self.lines[place].clone() });
        self.lines.splice(place + 1..=place, cuts.collect::<Vec<_>>());
        self
    }
}

// === Deviations ===

impl Transcript {
    /// The packet of the master in line `number` does not come.
    #[must_use]
    pub fn without(mut self, number: usize, reason: &str) -> Self {
        let place = self.place(number);
        assert!(self.lines[place].is_from_master(), "{}: line {number} does not come from the master", self.name);
        self.lines.remove(place);
        self.because(reason)
    }

    /// Lines for which `unwanted` holds are not played, and do not come.
    #[must_use]
    pub fn without_all(mut self, reason: &str, unwanted: impl Fn(&Line) -> bool) -> Self {
        let before = self.lines.len();
        self.lines.retain(|line| !unwanted(line));
        assert!(self.lines.len() < before, "{}: nothing in it is concerned by: {reason}", self.name);
        self.because(reason)
    }

    /// Another payload comes instead of that in line `number`. `payload` is given decoded; it is encoded as
    /// the recorded one was.
    #[must_use]
    pub fn instead(mut self, number: usize, payload: &Value, reason: &str) -> Self {
        let place = self.place(number);
        self.lines[place].event = with_payload(&self.lines[place].event, payload);
        self.because(reason)
    }

    /// Another payload may come as well as that which is expected in line `number`.
    #[must_use]
    pub fn or_instead(mut self, number: usize, payload: &Value) -> Self {
        let place = self.place(number);
        let other = with_payload(&self.lines[place].event, payload);
        self.lines[place].or.push(other);
        self
    }

    /// Another packet comes right after line `number`, on the same connection.
    #[must_use]
    pub fn then(mut self, number: usize, event: Event, reason: &str) -> Self {
        let place = self.place(number);
        let line = Line { event, direction: Direction::ToPeer, ..self.lines[place].clone() };
        self.lines.insert(place + 1, line);
        self.because(reason)
    }

    /// What is said in one direction is changed by `change` wherever that finds something to change.
    #[must_use]
    pub fn adjusted(mut self, direction: Direction, reason: &str, change: impl Fn(&mut Value)) -> Self {
        let mut changed = false;
        let lines = self.lines.iter_mut();
        for line in lines.filter(|line| line.direction == direction) {
            let recorded = line.message();
            let mut expected = recorded.clone();
            change(&mut expected);
            if expected != recorded {
                line.event = with_payload(&line.event, &expected);
                changed = true;
            }
        }
        assert!(changed, "{}: nothing in it is concerned by: {reason}", self.name);
        self.because(reason)
    }

    /// A map of servers (`replaceServer`) may also hold servers that the recording announces (`addServer`) to the same
    /// connection later, each as it is announced then.
    #[must_use]
    pub fn with_fresher_maps(mut self, reason: &str) -> Self {
        for place in 0..self.lines.len() {
            let map = self.lines[place].message();
            if map["body"]["action"] != "replaceServer" {
                continue;
            }
            let conn = self.lines[place].conn;
            let later = self.lines[place + 1..].iter().filter(|line| line.conn == conn).map(Line::message);
            let announced: Vec<Value> = later
                .filter(|message| message["body"]["action"] == "addServer")
                .map(|message| message["body"]["server"].clone())
                .collect();
            // Every choice of them: bit n stands for the n-th.
            for choice in 1..1_u32 << announced.len() {
                let mut fresher = map.clone();
                for (bit, server) in announced.iter().enumerate().filter(|(bit, _)| choice & (1 << bit) != 0) {
                    let id = server["id"].as_str().unwrap_or_else(|| panic!("{}: server {bit} has no id", self.name));
                    fresher["body"]["servers"][id] = server.clone();
                }
                let event = with_payload(&self.lines[place].event, &fresher);
                self.lines[place].or.push(event);
            }
        }
        self.because(reason)
    }

    /// The master closes every connection that it has said DISCONNECT to, and those it was told to leave.
    #[must_use]
    pub fn closing_after_disconnect(mut self) -> Self {
        let mut place = 0;
        while place < self.lines.len() {
            let line = self.lines[place].clone();
            place += 1;
            if line.event == Event::Packet(Packet::Disconnect) && line.direction == Direction::ToPeer {
                self.lines.insert(place, Line { event: Event::Fin, ..line });
            }
        }
        self.because("PROTOCOL 5.4: the original leaves TCP open after DISCONNECT, a master should close it")
    }

    fn because(mut self, reason: &str) -> Self {
        assert!(reason.len() > 8, "{}: a deviation needs a reason", self.name);
        self.reasons.push(reason.to_owned());
        self
    }

    fn place(&self, number: usize) -> usize {
        let place = self.lines.iter().position(|line| line.number == number);
        place.unwrap_or_else(|| panic!("{} has no line {number} (any more)", self.name))
    }
}

fn with_payload(event: &Event, payload: &Value) -> Event {
    match event {
        Event::Packet(Packet::Publish { topic, payload: recorded }) => {
            let once = payload.to_string();
            let text = if recorded.starts_with('"') { Value::String(once).to_string() } else { once };
            Event::Packet(Packet::publish(topic, text))
        }
        other => panic!("{other:?} has no payload"),
    }
}

fn read_line(name: &str, number: usize, text: &str) -> Line {
    let fail = |what: &str| -> ! { panic!("{name}, line {number}: {what}") };
    let Ok(line) = serde_json::from_str::<Value>(text) else { fail("not JSON") };
    let field = |key: &str| line[key].as_str().unwrap_or_default();
    let raw = || unhex(field("hex")).unwrap_or_else(|| fail("no bytes"));
    let event = match field("type") {
        "NOTE" => Event::Note(field("text").to_owned()),
        "TCP_OPEN" => Event::Open,
        "TCP_FIN" => Event::Fin,
        "TCP_RST" => Event::Reset,
        "CONNECT" => Event::Packet(Packet::Connect(raw())),
        "PUBLISH" => Event::Packet(Packet::publish(field("topic"), field("payload"))),
        "CONNACK" | "PINGREQ" | "PINGRESP" | "DISCONNECT" => {
            let mut splitter = crate::packet::Splitter::default();
            splitter.push(&raw());
            Event::Packet(splitter.next_packet().unwrap_or_else(|| fail("half a packet")))
        }
        _ => fail("unknown type"),
    };
    let direction = match field("dir") {
        "s>c" => Direction::ToPeer,
        _ => Direction::ToMaster,
    };
    let conn = line["conn"].as_u64().and_then(|conn| u32::try_from(conn).ok()).unwrap_or(0);
    Line { number, conn, peer: field("peer").to_owned(), direction, event, or: Vec::new() }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    (!digits.is_empty() && digits.len().is_multiple_of(2)).then_some(())?;
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
