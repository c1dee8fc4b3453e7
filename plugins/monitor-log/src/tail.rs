//! The last lines of a file, read from its end: logs may be larger than memory.

use std::io::{self, Read, Seek, SeekFrom};

/// Read at a time.
const BLOCK: u64 = 64 << 10;
/// What is read at most, however long the lines are: the answer is one packet.
const MOST: u64 = 4 << 20;
/// What is read at most of what was added since the last look.
const PART: u64 = 1 << 20;

/// The last `number` lines; of a line that is longer than what is read at most, its end.
///
/// # Errors
/// Those of the system.
pub(crate) fn last_lines(mut file: impl Read + Seek, number: u64) -> io::Result<String> {
    let end = file.seek(SeekFrom::End(0))?;
    last_before(file, end, number)
}

/// Of what is written line by line: the lines that are complete, and where they end, for the next look. At first these are
/// the last `number`; then all that were added `from` where the look before ended. A file that is shorter than that was
/// rotated, and begins anew.
///
/// # Errors
/// Those of the system.
pub(crate) fn added(mut file: impl Read + Seek, from: Option<u64>, number: u64) -> io::Result<(String, u64)> {
    let length = file.seek(SeekFrom::End(0))?;
    let Some(from) = from.map(|from| if from > length { 0 } else { from }) else {
        let mut text = last_before(file, length, number)?;
        let partial = text.split_off(text.rfind('\n').map_or(0, |end| end + 1));
        return Ok((text, length - partial.len() as u64));
    };
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(PART).read_to_end(&mut text)?;
    match text.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => text.truncate(end + 1),
        // A line that is longer than that is told in parts.
        None if text.len() as u64 == PART => {}
        None => text.clear(),
    }
    let end = from + text.len() as u64;
    Ok((String::from_utf8_lossy(&text).into_owned(), end))
}

fn last_before(mut file: impl Read + Seek, end: u64, number: u64) -> io::Result<String> {
    let mut start = end;
    let mut text = Vec::new();
    loop {
        if let Some(place) = beginning_of(&text, number) {
            return Ok(String::from_utf8_lossy(&text[place..]).into_owned());
        }
        if start == 0 || end - start >= MOST {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        let block = BLOCK.min(start);
        start -= block;
        file.seek(SeekFrom::Start(start))?;
        let mut earlier = Vec::new();
        // What was cut off meanwhile is missing, and no error.
        file.by_ref().take(block).read_to_end(&mut earlier)?;
        earlier.append(&mut text);
        text = earlier;
    }
}

/// Where the last `number` lines begin, if all of them are there. The end of the last line may be missing.
fn beginning_of(text: &[u8], number: u64) -> Option<usize> {
    if number == 0 {
        return Some(text.len());
    }
    let lines = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = lines.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let nth = usize::try_from(number - 1).ok()?;
    ends.map(|(place, _)| place + 1).nth(nth)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    #[track_caller]
    fn tail(text: &str, number: u64, expected: &str) {
        assert_eq!(last_lines(Cursor::new(text), number).unwrap(), expected, "{number} of {text:?}");
    }

    #[test]
    fn the_last_lines_are_those_of_tail() {
        tail("a\nb\nc\n", 2, "b\nc\n");
        tail("a\nb\nc", 2, "b\nc");
        tail("a\nb\nc\n", 3, "a\nb\nc\n");
        tail("a\nb\nc\n", 9, "a\nb\nc\n");
        tail("a\n\n\n", 2, "\n\n");
        tail("a\n", 0, "");
        tail("", 5, "");
        tail("\n", 1, "\n");
    }

    #[test]
    fn what_is_added_is_told_once_and_when_it_is_complete() {
        let look = |text: &str, from| added(Cursor::new(text), from, 2).unwrap();
        assert_eq!(look("a\nb\nc\n", None), ("b\nc\n".into(), 6));
        assert_eq!(look("a\nb\nc\nhal", Some(6)), (String::new(), 6));
        assert_eq!(look("a\nb\nc\nhalf\nd\n", Some(6)), ("half\nd\n".into(), 13));
        assert_eq!(look("a\nhal", None), ("a\n".into(), 2));
        assert_eq!(look("new\n", Some(13)), ("new\n".into(), 4), "it was rotated");
        let endless = "x".repeat(PART as usize + 5);
        assert_eq!(look(&endless, Some(0)).1, PART);
    }

    #[test]
    fn lines_across_blocks_stay_whole() {
        let line = |number: usize| format!("{number} {}\n", "x".repeat(999));
        let text: String = (0..500).map(line).collect();
        let expected: String = (300..500).map(line).collect();
        tail(&text, 200, &expected);
    }

    #[test]
    fn a_file_larger_than_memory_is_not_loaded() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"\nlast\n").unwrap();
        assert_eq!(last_lines(&file, 1).unwrap(), "last\n");
        let two = last_lines(&file, 2).unwrap();
        assert!(two.len() as u64 <= MOST + BLOCK && two.ends_with("\nlast\n"), "{} bytes", two.len());
    }
}
