//! What crosses the socket between a daemon and a worker. Pure.
//!
//! A frame is its length (4 bytes, of what follows), a tag, and fields: numbers in the byte order of this machine, bytes
//! with their length in front. Both ends are the same program on the same machine.

use std::{
    io::{self, Read},
    ops::Range,
};

use abi_stable::std_types::{RSlice, RStr};
use muster_plugin_api::abi::Mail;

/// The largest frame that is believed: larger than any body that gets into a daemon.
const LONGEST: usize = 256 << 20;

/// How much is read at a time.
const CHUNK: usize = 64 << 10;

const PARCEL: u8 = 1;
const ANSWER: u8 = 2;

const CREATED: u8 = 1;
const TURN: u8 = 2;
const REPLY: u8 = 3;
const LOG: u8 = 4;
const ASK: u8 = 5;
const TELL: u8 = 6;
const QUERY: u8 = 7;
const WAKE: u8 = 8;

/// What is not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// What a worker gets.
#[derive(Debug)]
pub(super) enum ToWorker<'a> {
    /// Mail for one turn: decode it with [`Parcel`].
    Parcel { number: u64, mail: &'a [u8] },
    /// The result of a tell or query.
    Answer { id: u32, result: i64, body: &'a [u8] },
}

/// What a worker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToHost<'a> {
    /// The plugin exists, or why it does not: empty for success.
    Created { error: &'a str },
    /// The turn of this parcel is over, and those of all before it.
    Turn { number: u64 },
    /// `HostApi::reply`.
    Reply { call: u64, status: u32, error: &'a [u8], body: &'a [u8] },
    /// `HostApi::log`.
    Log { instance: u32, level: u32, message: &'a str, fields: &'a str },
    /// `HostApi::ask`.
    Ask { instance: u32, id: u64, op: u32, a: &'a str, b: &'a str, n: u64, body: &'a [u8] },
    /// `HostApi::tell`, to be answered under `id`.
    Tell { id: u32, instance: u32, op: u32, a: &'a str, b: &'a str, n: u64, body: &'a [u8] },
    /// `HostApi::query`, to be answered under `id`.
    Query { id: u32, instance: u32, op: u32, a: &'a str, b: &'a str },
    /// A thread of the plugin asks for a turn.
    Wake,
}

/// A frame that is being written at the end of a buffer.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
}

/// The fields of a frame that are still to be read.
#[derive(Debug, Clone, Copy)]
struct Fields<'a>(&'a [u8]);

/// The mail in a parcel.
#[derive(Debug)]
pub(super) struct Parcel<'a>(Fields<'a>);

/// Bytes that have arrived, on their way to being frames.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Its length is what it may hold, so that it is not cleared again and again.
    buffer: Vec<u8>,
    filled: Range<usize>,
}

// === writing ===

impl<'a> Frame<'a> {
    fn begin(buffer: &'a mut Vec<u8>, tag: u8) -> Frame<'a> {
        let start = buffer.len();
        buffer.extend_from_slice(&[0; 4]);
        buffer.push(tag);
        Frame { buffer, start }
    }

    fn u32(self, value: u32) -> Frame<'a> {
        self.buffer.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(self, value: u64) -> Frame<'a> {
        self.buffer.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn bytes(self, bytes: &[u8]) -> Frame<'a> {
        // Nothing longer gets into a daemon; the other end would not believe it.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(bytes);
        self
    }

    fn end(self) {
        let length = u32::try_from(self.buffer.len() - self.start - 4).unwrap_or(u32::MAX);
        self.buffer[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Writes a parcel with all of this mail.
pub(super) fn parcel<'a>(buffer: &mut Vec<u8>, number: u64, mail: impl IntoIterator<Item = Mail<'a>>) {
    let mut frame = Frame::begin(buffer, PARCEL).u64(number);
    for mail in mail {
        frame = frame
            .u32(mail.kind)
            .u32(mail.instance)
            .u64(mail.id)
            .u32(mail.status)
            .u32(mail.level)
            .u64(mail.connection)
            .u64(mail.left_ms)
            .bytes(mail.a.as_bytes())
            .bytes(mail.b.as_bytes())
            .bytes(mail.error.as_slice())
            .bytes(mail.body.as_slice());
    }
    frame.end();
}

/// Writes the result of a tell or query.
pub(super) fn answer(buffer: &mut Vec<u8>, id: u32, result: i64, body: &[u8]) {
    Frame::begin(buffer, ANSWER).u32(id).u64(result.cast_unsigned()).bytes(body).end();
}

impl ToHost<'_> {
    /// Writes it at the end of `buffer`.
    pub(super) fn write(&self, buffer: &mut Vec<u8>) {
        match *self {
            ToHost::Created { error } => Frame::begin(buffer, CREATED).bytes(error.as_bytes()),
            ToHost::Turn { number } => Frame::begin(buffer, TURN).u64(number),
            ToHost::Reply { call, status, error, body } => {
                Frame::begin(buffer, REPLY).u64(call).u32(status).bytes(error).bytes(body)
            }
            ToHost::Log { instance, level, message, fields } => {
                Frame::begin(buffer, LOG).u32(instance).u32(level).bytes(message.as_bytes()).bytes(fields.as_bytes())
            }
            ToHost::Ask { instance, id, op, a, b, n, body } => Frame::begin(buffer, ASK)
                .u32(instance)
                .u64(id)
                .u32(op)
                .bytes(a.as_bytes())
                .bytes(b.as_bytes())
                .u64(n)
                .bytes(body),
            ToHost::Tell { id, instance, op, a, b, n, body } => Frame::begin(buffer, TELL)
                .u32(id)
                .u32(instance)
                .u32(op)
                .bytes(a.as_bytes())
                .bytes(b.as_bytes())
                .u64(n)
                .bytes(body),
            ToHost::Query { id, instance, op, a, b } => {
                Frame::begin(buffer, QUERY).u32(id).u32(instance).u32(op).bytes(a.as_bytes()).bytes(b.as_bytes())
            }
            ToHost::Wake => Frame::begin(buffer, WAKE),
        }
        .end();
    }
}

// === reading ===

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take(4)?.try_into().map(u32::from_ne_bytes).map_err(|_| Malformed)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take(8)?.try_into().map(u64::from_ne_bytes).map_err(|_| Malformed)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    fn mail(&mut self) -> Result<Mail<'a>, Malformed> {
        Ok(Mail {
            kind: self.u32()?,
            instance: self.u32()?,
            id: self.u64()?,
            status: self.u32()?,
            level: self.u32()?,
            connection: self.u64()?,
            left_ms: self.u64()?,
            a: RStr::from_str(self.text()?),
            b: RStr::from_str(self.text()?),
            error: RSlice::from_slice(self.bytes()?),
            body: RSlice::from_slice(self.bytes()?),
        })
    }
}

impl<'a> ToWorker<'a> {
    /// Reads a frame of the daemon.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn read(frame: &'a [u8]) -> Result<ToWorker<'a>, Malformed> {
        let (tag, rest) = frame.split_first().ok_or(Malformed)?;
        let mut fields = Fields(rest);
        match *tag {
            PARCEL => Ok(ToWorker::Parcel { number: fields.u64()?, mail: fields.0 }),
            ANSWER => {
                Ok(ToWorker::Answer { id: fields.u32()?, result: fields.u64()?.cast_signed(), body: fields.bytes()? })
            }
            _ => Err(Malformed),
        }
    }
}

impl<'a> ToHost<'a> {
    /// Reads a frame of a worker.
    ///
    /// # Errors
    /// When it is none: the worker may write anything.
    pub(super) fn read(frame: &'a [u8]) -> Result<ToHost<'a>, Malformed> {
        let (tag, rest) = frame.split_first().ok_or(Malformed)?;
        let mut fields = Fields(rest);
        let read = match *tag {
            CREATED => ToHost::Created { error: fields.text()? },
            TURN => ToHost::Turn { number: fields.u64()? },
            REPLY => ToHost::Reply {
                call: fields.u64()?,
                status: fields.u32()?,
                error: fields.bytes()?,
                body: fields.bytes()?,
            },
            LOG => ToHost::Log {
                instance: fields.u32()?,
                level: fields.u32()?,
                message: fields.text()?,
                fields: fields.text()?,
            },
            ASK => ToHost::Ask {
                instance: fields.u32()?,
                id: fields.u64()?,
                op: fields.u32()?,
                a: fields.text()?,
                b: fields.text()?,
                n: fields.u64()?,
                body: fields.bytes()?,
            },
            TELL => ToHost::Tell {
                id: fields.u32()?,
                instance: fields.u32()?,
                op: fields.u32()?,
                a: fields.text()?,
                b: fields.text()?,
                n: fields.u64()?,
                body: fields.bytes()?,
            },
            QUERY => ToHost::Query {
                id: fields.u32()?,
                instance: fields.u32()?,
                op: fields.u32()?,
                a: fields.text()?,
                b: fields.text()?,
            },
            WAKE => ToHost::Wake,
            _ => return Err(Malformed),
        };
        if fields.0.is_empty() { Ok(read) } else { Err(Malformed) }
    }
}

impl<'a> Parcel<'a> {
    /// The mail of [`ToWorker::Parcel`].
    pub(super) fn of(mail: &'a [u8]) -> Parcel<'a> {
        Parcel(Fields(mail))
    }
}

impl<'a> Iterator for Parcel<'a> {
    type Item = Result<Mail<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.0.is_empty()).then(|| self.0.mail())
    }
}

impl Incoming {
    /// Reads once; returns how many bytes came.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn fill(&mut self, mut from: impl Read) -> io::Result<usize> {
        if self.filled.is_empty() {
            self.filled = 0..0;
        }
        if self.filled.start > CHUNK {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        if self.buffer.len() < self.filled.end + CHUNK {
            // Doubled, so that a large frame is not copied with every chunk of it.
            self.buffer.resize((self.filled.end + CHUNK).next_power_of_two(), 0);
        }
        let read = from.read(&mut self.buffer[self.filled.end..])?;
        self.filled.end += read;
        Ok(read)
    }

    /// The next whole frame, if it has arrived.
    ///
    /// # Errors
    /// When it cannot be one.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let Some((head, rest)) = self.buffer[self.filled.clone()].split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_ne_bytes(*head)).map_err(|_| Malformed)?;
        if length > LONGEST {
            return Err(Malformed);
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.filled.start + head.len();
        self.filled.start = start + length;
        Ok(Some(&self.buffer[start..start + length]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said() -> [ToHost<'static>; 8] {
        [
            ToHost::Created { error: "no" },
            ToHost::Turn { number: 7 },
            ToHost::Reply { call: 1, status: 2, error: b"e", body: b"" },
            ToHost::Log { instance: 1, level: 3, message: "m", fields: "{}" },
            ToHost::Ask { instance: 1, id: 2, op: 3, a: "a", b: "", n: 4, body: b"{}" },
            ToHost::Tell { id: 9, instance: 1, op: 3, a: "a", b: "b", n: 4, body: b"1" },
            ToHost::Query { id: 9, instance: 1, op: 3, a: "ä", b: "b" },
            ToHost::Wake,
        ]
    }

    #[test]
    fn what_a_worker_says_arrives_however_it_is_cut() {
        let mut sent = Vec::new();
        said().iter().for_each(|frame| frame.write(&mut sent));
        for cut in 1..sent.len() {
            let mut incoming = Incoming::default();
            let mut seen = 0;
            for part in [&sent[..cut], &sent[cut..]] {
                incoming.fill(part).unwrap();
                while let Some(frame) = incoming.next().unwrap() {
                    assert_eq!(ToHost::read(frame), Ok(said()[seen]));
                    seen += 1;
                }
            }
            assert_eq!(seen, said().len());
        }
    }

    #[test]
    fn mail_arrives_as_it_was_sent() {
        let mail = Mail {
            kind: 1,
            instance: 2,
            id: 3,
            status: 4,
            level: 5,
            connection: 6,
            left_ms: 7,
            a: RStr::from_str("from"),
            b: RStr::from_str("user"),
            error: RSlice::from_slice(b""),
            body: RSlice::from_slice(b"{\"x\":1}"),
        };
        let mut sent = Vec::new();
        parcel(&mut sent, 8, [mail, mail]);
        answer(&mut sent, 9, -1, b"[]");
        let mut incoming = Incoming::default();
        incoming.fill(&sent[..]).unwrap();
        let Ok(ToWorker::Parcel { number: 8, mail }) = ToWorker::read(incoming.next().unwrap().unwrap()) else {
            panic!("a parcel")
        };
        let read: Vec<Mail<'_>> = Parcel::of(mail).map(Result::unwrap).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[1].id, read[1].left_ms, read[1].b.as_str()), (3, 7, "user"));
        assert_eq!(read[1].body.as_slice(), b"{\"x\":1}");
        let answer = ToWorker::read(incoming.next().unwrap().unwrap());
        assert!(matches!(answer, Ok(ToWorker::Answer { id: 9, result: -1, body: b"[]" })));
    }

    #[test]
    fn a_frame_larger_than_everything_is_not_waited_for() {
        let mut incoming = Incoming::default();
        incoming.fill(&u32::MAX.to_ne_bytes()[..]).unwrap();
        assert_eq!(incoming.next(), Err(Malformed));
    }

    proptest! {
        #[test]
        fn whatever_a_worker_writes_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let read = ToHost::read(&bytes);
            prop_assert!(read.is_ok() || read == Err(Malformed));
            if let Ok(ToWorker::Parcel { mail, .. }) = ToWorker::read(&bytes) {
                prop_assert!(Parcel::of(mail).take_while(Result::is_ok).count() <= bytes.len());
            }
        }
    }
}
