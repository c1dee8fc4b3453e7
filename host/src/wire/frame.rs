//! Frames on their way out: PUBLISH packets, written piece by piece at the end of a buffer.

use std::cell::Cell;

use bytes::Bytes;

use super::{Topic, packet, quote};

/// The longest fixed header: one byte of type and flags, four of length.
const HEADER: usize = 5;

/// A PUBLISH that is being written.
#[must_use = "a frame that is not finished has no header"]
pub(crate) struct Frame<'a> {
    out: &'a mut Vec<u8>,
    /// Where in `out` it begins.
    start: usize,
}

/// Where a thread writes frames of their own, which are then copied to what they need; a large one is its own.
const SCRATCH: usize = 16 * 1024;

thread_local! {
    static FRAME: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A frame of its own, which many may share; `payload` is its expected size, for the allocation.
pub(crate) fn alone(
    topic: Topic,
    payload: usize,
    write: impl for<'f, 'v> FnOnce(&'f mut Frame<'v>) -> &'f mut Frame<'v>,
) -> Bytes {
    let mut out = FRAME.take();
    let mut frame = Frame::begin(&mut out, topic, payload);
    write(&mut frame);
    frame.finish();
    if out.capacity() > SCRATCH {
        return out.into();
    }
    let frame = Bytes::copy_from_slice(&out);
    out.clear();
    FRAME.set(out);
    frame
}

impl<'a> Frame<'a> {
    /// Starts a frame at the end of `out`; `payload` is the expected size, for the allocation.
    pub(crate) fn begin(out: &'a mut Vec<u8>, topic: Topic, payload: usize) -> Frame<'a> {
        let name = topic.name().as_bytes();
        let start = out.len();
        out.reserve(HEADER + 2 + name.len() + payload);
        out.extend_from_slice(&[0; HEADER]);
        out.extend_from_slice(&(name.len() as u16).to_be_bytes());
        out.extend_from_slice(name);
        Frame { out, start }
    }

    /// Appends bytes as they are.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Frame<'a> {
        self.out.extend_from_slice(bytes);
        self
    }

    /// Appends JSON text as the inside of a JSON string.
    pub(crate) fn put_escaped(&mut self, json: &[u8]) -> &mut Frame<'a> {
        quote::escape(self.out, json);
        self
    }

    /// Appends a number.
    pub(crate) fn put_number(&mut self, number: u64) -> &mut Frame<'a> {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.put(&digits[at..])
    }

    /// Writes the header, whose length is known only now, and closes the gap between the two.
    pub(crate) fn finish(self) {
        let Frame { out, start } = self;
        let content = start + HEADER;
        let remaining = out.len() - content;
        out[start] = 0x30;
        let length = packet::write_remaining_length(&mut out[start + 1..content], remaining);
        out.copy_within(content.., start + 1 + length);
        out.truncate(out.len() - (HEADER - 1 - length));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_has_the_bytes_of_the_original() {
        let frame = alone(Topic::Register, 0, |frame| frame.put(br#"{"code":1,"msg":"ok"}"#));
        assert_eq!(&frame[..], b"\x30\x1f\x00\x08register{\"code\":1,\"msg\":\"ok\"}");
    }

    proptest! {
        #[test]
        fn numbers_are_written_in_decimal(number: u64) {
            let bytes = alone(Topic::Client, 0, |frame| frame.put_number(number));
            let expected = number.to_string();
            prop_assert!(bytes.ends_with(expected.as_bytes()));
        }

        #[test]
        fn frames_of_every_size_decode(size in 0usize..40_000) {
            // Behind another, as in an outbox.
            let mut bytes = b"before".to_vec();
            let mut frame = Frame::begin(&mut bytes, Topic::Monitor, size);
            frame.put(&vec![b'7'; size]);
            frame.finish();
            let bytes = bytes.strip_prefix(b"before").unwrap();
            let (packet, used) = packet::decode(bytes, packet::MAX_REMAINING).unwrap().unwrap();
            prop_assert_eq!(used, bytes.len());
            prop_assert_eq!(packet, packet::Packet::Publish { topic: Some(Topic::Monitor), payload: &vec![b'7'; size] });
        }
    }
}
