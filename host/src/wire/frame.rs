//! Frames on their way out: a PUBLISH is built once, in one buffer, and shared by all who get it.

use bytes::Bytes;

use super::{Topic, packet};

/// The longest fixed header: one byte of type and flags, four of length.
const HEADER: usize = 5;

/// A PUBLISH of which the payload is written piece by piece.
pub(crate) struct Frame(Vec<u8>);

impl Frame {
    /// Starts a frame; `payload` is the expected size, for the allocation.
    pub(crate) fn new(topic: Topic, payload: usize) -> Frame {
        let name = topic.name().as_bytes();
        let mut out = Vec::with_capacity(HEADER + 2 + name.len() + payload);
        out.extend_from_slice(&[0; HEADER]);
        out.extend_from_slice(&(name.len() as u16).to_be_bytes());
        out.extend_from_slice(name);
        Frame(out)
    }

    /// Appends bytes as they are.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Frame {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends JSON text as the inside of a JSON string.
    pub(crate) fn put_escaped(&mut self, json: &[u8]) -> &mut Frame {
        escape(&mut self.0, json);
        self
    }

    /// Appends a number.
    pub(crate) fn put_number(&mut self, number: u64) -> &mut Frame {
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

    /// The finished frame. The header is written right-aligned into the room that was left for it.
    pub(crate) fn finish(self) -> Bytes {
        let Frame(mut out) = self;
        let mut header = Vec::with_capacity(HEADER);
        header.push(0x30);
        packet::put_remaining_length(&mut header, out.len() - HEADER);
        let start = HEADER - header.len();
        out[start..HEADER].copy_from_slice(&header);
        Bytes::from(out).slice(start..)
    }
}

/// Escapes as `JSON.stringify` does. JSON text has no control characters but white space, yet all are handled.
fn escape(out: &mut Vec<u8>, json: &[u8]) {
    let mut clean = 0;
    for (at, &byte) in json.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&json[clean..at]);
        clean = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.extend_from_slice(&json[clean..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_has_the_bytes_of_the_original() {
        let mut frame = Frame::new(Topic::Register, 0);
        frame.put(br#"{"code":1,"msg":"ok"}"#);
        assert_eq!(&frame.finish()[..], b"\x30\x1f\x00\x08register{\"code\":1,\"msg\":\"ok\"}");
    }

    proptest! {
        #[test]
        fn what_is_escaped_reads_back(text in ".*") {
            let mut out = vec![b'"'];
            escape(&mut out, text.as_bytes());
            out.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn numbers_are_written_in_decimal(number: u64) {
            let mut frame = Frame::new(Topic::Client, 0);
            frame.put_number(number);
            let bytes = frame.finish();
            let expected = number.to_string();
            prop_assert!(bytes.ends_with(expected.as_bytes()));
        }

        #[test]
        fn frames_of_every_size_decode(size in 0usize..40_000) {
            let mut frame = Frame::new(Topic::Monitor, size);
            frame.put(&vec![b'7'; size]);
            let bytes = frame.finish();
            let (packet, used) = packet::decode(&bytes, packet::MAX_REMAINING).unwrap().unwrap();
            prop_assert_eq!(used, bytes.len());
            prop_assert_eq!(packet, packet::Packet::Publish { topic: Some(Topic::Monitor), payload: &vec![b'7'; size] });
        }
    }
}
