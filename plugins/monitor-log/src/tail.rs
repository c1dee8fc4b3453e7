//! The last lines of a file, read from its end: logs may be larger than memory.

use std::io::{self, Read, Seek, SeekFrom};

/// Read at a time.
const BLOCK: u64 = 64 << 10;
/// What is read at most, however long the lines are: the answer is one packet.
const MOST: u64 = 4 << 20;

/// The last `number` lines; of a line that is longer than what is read at most, its end.
///
/// # Errors
/// Those of the system.
pub(crate) fn last_lines(mut file: impl Read + Seek, number: u64) -> io::Result<String> {
    let end = file.seek(SeekFrom::End(0))?;
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
