//! The MQTT packets of the wire, in a codec that takes nothing on trust.
//!
//! It is strict where the product must be exact: a packet that differs in one bit from what the
//! original sends decodes as [`Packet::Other`], which equals nothing expected.

use std::fmt;

/// One packet.
#[derive(Clone, PartialEq, Eq)]
pub enum Packet {
    /// CONNECT, whole, because transcripts record it as bytes.
    Connect(Vec<u8>),
    /// `20 02 00 00`.
    Connack,
    /// PUBLISH with QoS 0, not a duplicate, not retained.
    Publish {
        /// One of the topics of the protocol, if all is well.
        topic: String,
        /// The text as it was sent.
        payload: String,
    },
    /// `c0 00`.
    Pingreq,
    /// `d0 00`.
    Pingresp,
    /// `e0 00`.
    Disconnect,
    /// Anything else: the whole packet.
    Other(Vec<u8>),
}

impl Packet {
    /// The CONNECT of the original with this client id: protocol `MQTT`, version 4, clean session, keepalive 0.
    pub fn connect(client_id: &str) -> Self {
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0];
        body.extend_from_slice(&short_length(client_id));
        body.extend_from_slice(client_id.as_bytes());
        Self::Connect(frame(0x10, &body))
    }

    /// A message on a topic.
    pub fn publish(topic: impl Into<String>, payload: impl Into<String>) -> Self {
        Self::Publish { topic: topic.into(), payload: payload.into() }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Connect(raw) | Self::Other(raw) => raw.clone(),
            Self::Connack => vec![0x20, 2, 0, 0],
            Self::Publish { topic, payload } => publish_bytes(topic, payload.as_bytes()),
            Self::Pingreq => vec![0xc0, 0],
            Self::Pingresp => vec![0xd0, 0],
            Self::Disconnect => vec![0xe0, 0],
        }
    }

    fn decode(raw: &[u8], body: &[u8]) -> Self {
        let other = || Self::Other(raw.to_vec());
        match (raw[0], body) {
            (0x10, _) => Self::Connect(raw.to_vec()),
            (0x20, [0, 0]) => Self::Connack,
            (0x30, _) => decode_publish(body).unwrap_or_else(other),
            (0xc0, []) => Self::Pingreq,
            (0xd0, []) => Self::Pingresp,
            (0xe0, []) => Self::Disconnect,
            _ => other(),
        }
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(_) => f.write_str("CONNECT"),
            Self::Connack => f.write_str("CONNACK"),
            Self::Publish { topic, payload } => write!(f, "PUBLISH {topic} {payload}"),
            Self::Pingreq => f.write_str("PINGREQ"),
            Self::Pingresp => f.write_str("PINGRESP"),
            Self::Disconnect => f.write_str("DISCONNECT"),
            Self::Other(raw) => write!(f, "unknown packet {:02x?}", &raw[..raw.len().min(64)]),
        }
    }
}

/// PUBLISH with any payload, also one that is not UTF-8.
pub fn publish_bytes(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = short_length(topic).to_vec();
    body.extend_from_slice(topic.as_bytes());
    body.extend_from_slice(payload);
    frame(0x30, &body)
}

/// First byte, remaining length and body of a packet.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut raw = vec![first];
    raw.extend_from_slice(&remaining_length(body.len()));
    raw.extend_from_slice(body);
    raw
}

/// A remaining length in its 1 to 4 bytes.
pub fn remaining_length(mut length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Cuts a byte stream into packets.
#[derive(Debug, Default)]
pub struct Splitter {
    buffer: Vec<u8>,
}

impl Splitter {
    /// Takes what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Next whole packet, if it has arrived.
    pub fn next_packet(&mut self) -> Option<Packet> {
        let (mut length, mut start) = (0_usize, 1);
        loop {
            let byte = *self.buffer.get(start)?;
            length |= usize::from(byte & 0x7f) << (7 * (start - 1));
            start += 1;
            if byte & 0x80 == 0 {
                break;
            }
            assert!(start <= 5, "the other side sent a remaining length of more than four bytes");
        }
        if self.buffer.len() < start + length {
            return None;
        }
        let rest = self.buffer.split_off(start + length);
        let raw = std::mem::replace(&mut self.buffer, rest);
        Some(Packet::decode(&raw, &raw[start..]))
    }
}

fn short_length(text: &str) -> [u8; 2] {
    u16::try_from(text.len()).expect("names on this wire are shorter than 64 KiB").to_be_bytes()
}

fn decode_publish(body: &[u8]) -> Option<Packet> {
    let (length, rest) = body.split_first_chunk::<2>()?;
    let (topic, payload) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some(Packet::Publish { topic: text(topic)?, payload: text(payload)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_has_the_bytes_that_the_original_sends() {
        let expected = [&[0x10, 0x24, 0, 4][..], b"MQTT", &[4, 2, 0, 0, 0, 0x18], b"MQTT_ADMIN_1795309105789"].concat();
        assert_eq!(Packet::connect("MQTT_ADMIN_1795309105789").encode(), expected);
    }

    #[test]
    fn packets_survive_every_split_of_the_stream() {
        let packets = vec![
            Packet::connect("a"),
            Packet::Connack,
            Packet::publish("monitor", "x".repeat(300)),
            Packet::Pingreq,
            Packet::Pingresp,
            Packet::Disconnect,
        ];
        let stream: Vec<u8> = packets.iter().flat_map(Packet::encode).collect();
        for cut in 0..=stream.len() {
            let mut splitter = Splitter::default();
            let mut got = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                splitter.push(part);
                got.extend(std::iter::from_fn(|| splitter.next_packet()));
            }
            assert_eq!(got, packets, "cut at {cut}");
        }
    }
}
