//! JSON text inside a JSON string, both ways: the original encodes most messages twice.
//!
//! Texts have something to escape every few bytes. So both go by lanes of bytes: where its special ones are is asked once,
//! and what is between two of them is copied as a whole lane, of which as much counts as is meant.

use wide::u8x16;

use super::envelope::NotAMessage;

/// Bytes that are looked at together.
const LANE: usize = 16;

/// Room is made for so much input at a time.
const BLOCK: usize = 4096;

/// What the byte after a backslash stands for; 0 where that is rare and long to get right, or wrong.
static MEANINGS: [u8; 256] = {
    let mut meanings = [0; 256];
    let pairs = [
        (b'"', b'"'),
        (b'\\', b'\\'),
        (b'/', b'/'),
        (b'n', b'\n'),
        (b't', b'\t'),
        (b'r', b'\r'),
        (b'b', 0x08),
        (b'f', 0x0c),
    ];
    let mut at = 0;
    while at < pairs.len() {
        meanings[pairs[at].0 as usize] = pairs[at].1;
        at += 1;
    }
    meanings
};

/// Appends JSON text as the inside of a JSON string, as `JSON.stringify` escapes it. JSON text has no control characters
/// but white space, yet all are handled.
pub(super) fn escape(out: &mut Vec<u8>, json: &[u8]) {
    for block in json.chunks(BLOCK) {
        escape_block(out, block);
    }
}

fn escape_block(out: &mut Vec<u8>, json: &[u8]) {
    // As a rule a byte becomes at most two.
    let room = |left: usize| 2 * left + LANE;
    let mut to = out.len();
    out.resize(to + room(json.len()), 0);
    for (begin, end) in lanes(json.len()) {
        let mut special = specials(lane(json, begin));
        let mut from = begin;
        while special != 0 {
            let place = begin + special.trailing_zeros() as usize;
            special &= special - 1;
            copy(json, from, place, out, &mut to);
            from = place + 1;
            let byte = json[place];
            let short = match byte {
                b'"' | b'\\' => byte,
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                _ => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    let long = [b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                    out[to..to + long.len()].copy_from_slice(&long);
                    to += long.len();
                    out.resize(to + room(json.len() - from), 0);
                    continue;
                }
            };
            out[to..to + 2].copy_from_slice(&[b'\\', short]);
            to += 2;
        }
        copy(json, from, end, out, &mut to);
    }
    out.truncate(to);
}

/// Reads a JSON string into `out`.
///
/// # Errors
/// When it is none.
pub(super) fn unquote(quoted: &[u8], out: &mut String) -> Result<(), NotAMessage> {
    let inside = quoted.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).ok_or(NotAMessage)?;
    let mut text = std::mem::take(out).into_bytes();
    text.resize(inside.len() + LANE, 0);
    let (mut begin, mut to) = (0, 0);
    while begin < inside.len() {
        let end = (begin + LANE).min(inside.len());
        let mut special = specials(lane(inside, begin));
        let mut from = begin;
        while special != 0 {
            let place = begin + special.trailing_zeros() as usize;
            copy(inside, from, place, &mut text, &mut to);
            let meant = match inside[place..].first_chunk() {
                Some([b'\\', escaped]) => MEANINGS[usize::from(*escaped)],
                _ => 0,
            };
            if meant == 0 {
                *out = serde_json::from_slice(quoted).map_err(|_| NotAMessage)?;
                return Ok(());
            }
            text[to] = meant;
            to += 1;
            from = place + 2;
            // What is escaped is not special; it may be in the next lane.
            special &= u32::MAX.checked_shl((from - begin) as u32).unwrap_or_default();
        }
        if from < end {
            copy(inside, from, end, &mut text, &mut to);
        }
        begin = end.max(from);
    }
    text.truncate(to);
    *out = String::from_utf8(text).map_err(|_| NotAMessage)?;
    Ok(())
}

/// Where the lanes of so many bytes begin and end.
fn lanes(length: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..length).step_by(LANE).map(move |begin| (begin, (begin + LANE).min(length)))
}

/// The lane that begins there, filled up with blanks if the text ends in it.
fn lane(text: &[u8], begin: usize) -> [u8; LANE] {
    let rest = &text[begin..];
    rest.first_chunk().copied().unwrap_or_else(|| {
        let mut last = [b' '; LANE];
        last[..rest.len()].copy_from_slice(rest);
        last
    })
}

/// Copies at most a lane, for which `out` has room in any case.
fn copy(text: &[u8], from: usize, end: usize, out: &mut [u8], to: &mut usize) {
    out[*to..*to + LANE].copy_from_slice(&lane(text, from));
    *to += end - from;
}

/// A bit for each special byte of a lane: what a JSON string has to escape.
fn specials(lane: [u8; LANE]) -> u32 {
    let lane = u8x16::new(lane);
    let is_control = lane.min(u8x16::splat(0x1f)).simd_eq(lane);
    (is_control | lane.simd_eq(u8x16::splat(b'"')) | lane.simd_eq(u8x16::splat(b'\\'))).to_bitmask()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = b"before \"".to_vec();
        escape(&mut out, text.as_bytes());
        out.push(b'"');
        String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
    }

    #[test]
    fn the_special_bytes_of_a_lane_are_found() {
        for place in 0..LANE {
            for byte in 0..=u8::MAX {
                for other in [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff] {
                    let mut lane = [other; LANE];
                    lane[place] = byte;
                    let is_special = byte < 0x20 || byte == b'"' || byte == b'\\';
                    assert_eq!(specials(lane), u32::from(is_special) << place, "{lane:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_string_is_refused() {
        for odd in ["", "\"", "x", "\"a", "a\"", "\"\\\"", "\"\\x\"", "\"\u{1}\"", "\"\"\"", "\"\\ud800\""] {
            assert_eq!(unquote(odd.as_bytes(), &mut String::new()), Err(NotAMessage), "{odd}");
        }
        assert_eq!(unquote(b"\"\xff\"", &mut String::new()), Err(NotAMessage));
    }

    proptest! {
        #[test]
        fn texts_are_escaped_as_json_stringify_does(text in r#"([ -~]|\PC|["\\\n\t\r\x00-\x1f]){0,100}"#, times in 1_usize..100) {
            let text = text.repeat(times);
            // Two control characters have a short form there, which none needs in JSON text.
            let expected = serde_json::to_string(&text).unwrap().replace("\\b", "\\u0008").replace("\\f", "\\u000c");
            prop_assume!(!text.contains('\\'));
            prop_assert_eq!(escaped(&text), expected);
        }

        #[test]
        fn what_is_escaped_reads_back(text in r#"([ -~]|\PC|["\\\n\t\r\x00-\x1f]){0,100}"#) {
            let mut out = "what was there before".to_owned();
            unquote(escaped(&text).as_bytes(), &mut out).unwrap();
            prop_assert_eq!(out, text);
        }

        #[test]
        fn a_quoted_text_is_read_as_serde_json_reads_it(text in "\\PC*|[\"\\\\ntu08dD /\u{0}-\u{20}]{0,12}") {
            let quoted = format!("\"{text}\"");
            let mut out = "left over".to_owned();
            let read = unquote(quoted.as_bytes(), &mut out).map(|()| out);
            prop_assert_eq!(read, serde_json::from_str::<String>(&quoted).map_err(|_| NotAMessage));
        }
    }
}
