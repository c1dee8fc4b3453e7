//! What is in a file, for as long as it is looked at.

use std::{
    fmt, fs,
    io::{self, Read},
    ops::Deref,
};

use memmap2::MmapMut;

/// The content of a file, in pages of its own.
///
/// The system has them back when it is dropped. An allocator keeps what large files took, for each thread that ever read
/// one apart: a few plugins of a megabyte would make a daemon larger than a thousand servers do.
pub(crate) struct Content {
    pages: MmapMut,
    len: usize,
}

impl Content {
    /// Reads from where the file stands, `most` bytes at most.
    ///
    /// # Errors
    /// When it cannot be read, or there is no memory for so much.
    pub(crate) fn read(mut file: &fs::File, most: usize) -> io::Result<Content> {
        // Nothing cannot be mapped.
        let mut content = Content { pages: MmapMut::map_anon(most.max(1))?, len: 0 };
        while content.len < most {
            match file.read(&mut content.pages[content.len..most]) {
                Ok(0) => break,
                Ok(read) => content.len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(content)
    }
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages[..self.len]
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file
    }

    #[test]
    fn a_file_is_read_whole_and_no_further_than_asked_for() {
        assert_eq!(&*Content::read(&file(b"library"), 7).unwrap(), b"library");
        assert_eq!(&*Content::read(&file(b"library"), 3).unwrap(), b"lib");
    }

    #[test]
    fn a_file_that_is_shorter_than_was_said_is_what_is_there() {
        assert_eq!(&*Content::read(&file(b"library"), 100_000).unwrap(), b"library");
        assert_eq!(&*Content::read(&file(b""), 0).unwrap(), b"");
    }
}
