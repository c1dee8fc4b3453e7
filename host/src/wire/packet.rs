//! The MQTT packets we speak. Nothing is copied: packets borrow from the read buffer.

use super::Topic;

/// MQTT's largest remaining length: four bytes of seven bits.
pub(crate) const MAX_REMAINING: usize = 268_435_455;

/// `20 02 00 00`: always accepted; who may do what is decided by registering.
pub(crate) const CONNACK: &[u8] = &[0x20, 2, 0, 0];
/// Keepalive of a peer.
pub(crate) const PINGREQ: &[u8] = &[0xc0, 0];
/// Its answer.
pub(crate) const PINGRESP: &[u8] = &[0xd0, 0];
/// A good-bye, in both directions: the original's master kicks with it, which MQTT itself does not allow.
pub(crate) const DISCONNECT: &[u8] = &[0xe0, 0];

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Connect,
    Connack,
    /// A message. The topic is `None` if it is none of ours.
    Publish {
        topic: Option<Topic>,
        payload: &'a [u8],
    },
    Pingreq,
    Pingresp,
    Disconnect,
    /// Subscriptions, acknowledgements: parsed and ignored, as the original does.
    Ignored,
}

/// Why bytes are no packet. The connection they came on is useless from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PacketError {
    #[error("packet of {size} bytes is larger than the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("remaining length is not encoded in four bytes")]
    Length,
    #[error("CONNECT is neither MQTT nor MQIsdp of version 3 or 4")]
    Protocol,
    #[error("packet type {0} does not exist")]
    Type(u8),
    #[error("packet of type {0} ends before its fields")]
    Short(u8),
    #[error("the topic is not UTF-8")]
    Topic,
}

/// Takes one packet from the front of `buffer`; `None` if it is not complete. Also returns the bytes used.
///
/// # Errors
/// As soon as the front cannot become a packet, or announces more than `limit` bytes: nothing is buffered for it.
pub(crate) fn decode(buffer: &[u8], limit: usize) -> Result<Option<(Packet<'_>, usize)>, PacketError> {
    let Some((&first, rest)) = buffer.split_first() else { return Ok(None) };
    let kind = first >> 4;
    if kind == 0 || kind == 15 {
        return Err(PacketError::Type(kind));
    }
    let Some((remaining, length_bytes)) = remaining_length(rest)? else { return Ok(None) };
    if remaining > limit {
        return Err(PacketError::TooLarge { size: remaining, limit });
    }
    let start = 1 + length_bytes;
    let Some(content) = buffer.get(start..start + remaining) else { return Ok(None) };
    let packet = match kind {
        1 => connect(content)?,
        2 => Packet::Connack,
        3 => publish(first, content)?,
        12 => Packet::Pingreq,
        13 => Packet::Pingresp,
        14 => Packet::Disconnect,
        _ => Packet::Ignored,
    };
    Ok(Some((packet, start + remaining)))
}

/// Writes a remaining length into `out`, which has room for four bytes; says how many it takes.
pub(crate) fn write_remaining_length(out: &mut [u8], mut length: usize) -> usize {
    debug_assert!(length <= MAX_REMAINING);
    let mut used = 0;
    loop {
        let byte = (length & 0x7f) as u8;
        length >>= 7;
        out[used] = if length == 0 { byte } else { byte | 0x80 };
        used += 1;
        if length == 0 {
            return used;
        }
    }
}

/// A CONNECT as the original's peers send it. The client id has no meaning.
pub(crate) fn connect_packet(client_id: &str) -> Vec<u8> {
    let id = client_id.as_bytes();
    let mut length = [0; 4];
    let used = write_remaining_length(&mut length, 12 + id.len());
    let mut out = vec![0x10];
    out.extend_from_slice(&length[..used]);
    out.extend_from_slice(b"\x00\x04MQTT\x04\x02\x00\x00");
    out.extend_from_slice(&u16::try_from(id.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(id);
    out
}

fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, PacketError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(PacketError::Length) }
}

fn connect(content: &[u8]) -> Result<Packet<'static>, PacketError> {
    let (protocol, rest) = string(content).ok_or(PacketError::Short(1))?;
    if protocol != b"MQTT" && protocol != b"MQIsdp" {
        return Err(PacketError::Protocol);
    }
    // Version, flags, two bytes of keepalive, client id: the version is all that matters, but they must be there.
    let &[version, _, _, _, ref rest @ ..] = rest else { return Err(PacketError::Short(1)) };
    if version != 3 && version != 4 {
        return Err(PacketError::Protocol);
    }
    string(rest).ok_or(PacketError::Short(1))?;
    Ok(Packet::Connect)
}

fn publish(first: u8, content: &[u8]) -> Result<Packet<'_>, PacketError> {
    let (topic, rest) = string(content).ok_or(PacketError::Short(3))?;
    // QoS, dup and retain are tolerated; a packet id is skipped and never acknowledged, as in the original.
    let qos = (first >> 1) & 3;
    let payload = if qos == 0 { rest } else { rest.get(2..).ok_or(PacketError::Short(3))? };
    let known = Topic::of(topic);
    // MQTT 3.1.1, 1.5.3: ill-formed UTF-8 in a string of the packet (which a payload is not) ends the connection.
    if known.is_none() && std::str::from_utf8(topic).is_err() {
        return Err(PacketError::Topic);
    }
    Ok(Packet::Publish { topic: known, payload })
}

fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1 << 16;

    #[track_caller]
    fn check(bytes: &[u8], expected: Packet<'_>) {
        assert_eq!(decode(bytes, LIMIT), Ok(Some((expected, bytes.len()))));
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end], LIMIT), Ok(None), "cut at {end}");
        }
    }

    #[test]
    fn every_form_of_connect_in_use_is_accepted() {
        check(&connect_packet("MQTT_ADMIN_1795309105789"), Packet::Connect);
        for name in ["MQTT", "MQIsdp"] {
            for version in [3, 4] {
                let mut content = vec![0, name.len() as u8];
                content.extend_from_slice(name.as_bytes());
                content.extend_from_slice(&[version, 0, 0xff, 0xff, 0, 1, b'x']);
                let mut bytes = vec![0x10, content.len() as u8];
                bytes.extend_from_slice(&content);
                check(&bytes, Packet::Connect);
            }
        }
    }

    #[test]
    fn another_protocol_is_an_error() {
        assert_eq!(decode(b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x02ab", LIMIT), Err(PacketError::Protocol));
        assert_eq!(decode(b"\x10\x0e\x00\x04HTTP\x04\x02\x00\x00\x00\x02ab", LIMIT), Err(PacketError::Protocol));
        assert_eq!(decode(b"\x10\x02\x00\x09", LIMIT), Err(PacketError::Short(1)));
    }

    #[test]
    fn the_packet_id_of_a_higher_qos_is_skipped() {
        let payload = b"{}";
        check(b"\x30\x0b\x00\x07monitor{}", Packet::Publish { topic: Some(Topic::Monitor), payload });
        check(b"\x32\x0d\x00\x07monitor\x00\x09{}", Packet::Publish { topic: Some(Topic::Monitor), payload });
        check(b"\x3d\x0d\x00\x07monitor\x00\x09{}", Packet::Publish { topic: Some(Topic::Monitor), payload });
    }

    #[test]
    fn a_topic_that_is_none_of_ours_is_no_error() {
        check(b"\x30\x09\x00\x05error{}", Packet::Publish { topic: None, payload: b"{}" });
    }

    #[test]
    fn a_topic_that_is_not_utf8_is_a_malformed_packet() {
        assert_eq!(decode(b"\x30\x04\x00\x02\xff\xfe", LIMIT), Err(PacketError::Topic));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_received() {
        let error = PacketError::TooLarge { size: MAX_REMAINING, limit: LIMIT };
        assert_eq!(decode(&[0x30, 0xff, 0xff, 0xff, 0x7f], LIMIT), Err(error));
        assert_eq!(decode(&[0x30, 0xff, 0xff, 0xff, 0xff], LIMIT), Err(PacketError::Length));
        assert_eq!(decode(&[0x30, 0x80, 0x80, 4], LIMIT), Ok(None), "the limit itself is fine");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, used))) = decode(&bytes, LIMIT) {
                prop_assert!(used <= bytes.len());
            }
        }

        #[test]
        fn a_remaining_length_survives_the_round_trip(length in 0..=MAX_REMAINING) {
            let mut out = [0; 4];
            let used = write_remaining_length(&mut out, length);
            prop_assert_eq!(remaining_length(&out[..used]), Ok(Some((length, used))));
        }
    }
}
