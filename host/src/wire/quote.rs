//! JSON text inside a JSON string, both ways: the original encodes most messages twice.
//!
//! Texts have something to escape every few bytes, so both go by words of eight bytes: a word is copied whole, and as much
//! of it counts as comes before the first special byte.

use super::envelope::NotAMessage;

/// Bytes that are looked at together.
const WORD: usize = 8;

/// Room is made for so much input at a time.
const BLOCK: usize = 4096;

/// Appends JSON text as the inside of a JSON string, as `JSON.stringify` escapes it. JSON text has no control characters
/// but white space, yet all are handled.
pub(super) fn escape(out: &mut Vec<u8>, json: &[u8]) {
    for block in json.chunks(BLOCK) {
        escape_block(out, block);
    }
}

fn escape_block(out: &mut Vec<u8>, json: &[u8]) {
    let (mut from, mut to) = (0, out.len());
    // As a rule a byte becomes at most two.
    out.resize(to + 2 * json.len() + WORD, 0);
    while let Some(byte) = take_clean(json, &mut from, out, &mut to) {
        from += 1;
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
                out.resize(to + 2 * (json.len() - from) + WORD, 0);
                continue;
            }
        };
        out[to..to + 2].copy_from_slice(&[b'\\', short]);
        to += 2;
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
    text.resize(inside.len() + WORD, 0);
    let (mut from, mut to) = (0, 0);
    while take_clean(inside, &mut from, &mut text, &mut to).is_some() {
        text[to] = match inside[from..] {
            [b'\\', plain @ (b'"' | b'\\' | b'/'), ..] => plain,
            [b'\\', b'n', ..] => b'\n',
            [b'\\', b't', ..] => b'\t',
            [b'\\', b'r', ..] => b'\r',
            [b'\\', b'b', ..] => 0x08,
            [b'\\', b'f', ..] => 0x0c,
            // Rare, and long to get right; or wrong.
            _ => {
                *out = serde_json::from_slice(quoted).map_err(|_| NotAMessage)?;
                return Ok(());
            }
        };
        to += 1;
        from += 2;
    }
    text.truncate(to);
    *out = String::from_utf8(text).map_err(|_| NotAMessage)?;
    Ok(())
}

/// Copies what comes before the next special byte, and returns that; `None` at the end. `out` has a word more of room than
/// it needs.
fn take_clean(text: &[u8], from: &mut usize, out: &mut [u8], to: &mut usize) -> Option<u8> {
    loop {
        let clean = match text[*from..].first_chunk::<WORD>() {
            Some(word) => {
                out[*to..*to + WORD].copy_from_slice(word);
                first_special(*word)
            }
            None => {
                let rest = &text[*from..];
                let clean = rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len());
                out[*to..*to + clean].copy_from_slice(&rest[..clean]);
                clean
            }
        };
        *from += clean;
        *to += clean;
        if clean < WORD {
            return text.get(*from).copied();
        }
    }
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The place of the first special byte in a word; eight if there is none.
fn first_special(word: [u8; WORD]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let word = u64::from_le_bytes(word);
    // The high bit of each byte below `bound`. Above the first such byte it may be set by a borrow, below it never is.
    let below = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let special = (below(word, 0x20) | is(b'"') | is(b'\\')) & HIGHS;
    (special.trailing_zeros() / 8) as usize
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
    fn the_first_special_byte_of_a_word_is_found() {
        for place in 0..=WORD {
            for special in (0..0x20).chain([b'"', b'\\']) {
                for other in [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff] {
                    let mut word = [other; WORD];
                    word[place..].fill(special);
                    assert_eq!(first_special(word), place, "{word:?}");
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
