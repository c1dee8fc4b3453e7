//! What a program writes: two files that it appends to by itself, read along for the last lines, and rotated.
//!
//! The program holds the files, and no pipe of ours: it does not notice when its supervisor is gone, and what it wrote in
//! the meantime is there. A file that has grown too large is copied and then cut, as its writer cannot be told to open
//! another; a line that comes between the two is lost.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;
use tracing::warn;

/// How often the files are looked at: what people follow should not lag.
const LOOK: Duration = Duration::from_millis(200);

/// Lines that are kept, of each stream: a stack trace with what came before it.
const LINES: usize = 200;

/// Bytes of a line that are kept: a line without an end must not grow.
const LINE: usize = 4 << 10;

/// What is read of a file that has been there before: enough for [`LINES`].
const TAIL: u64 = 64 << 10;

/// Where output goes, and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logs {
    pub(crate) dir: PathBuf,
    /// Bytes with which a file is rotated.
    pub(crate) size: u64,
    /// Older files that are kept.
    pub(crate) files: usize,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// The output of one program. Its thread ends with it.
#[derive(Debug)]
pub(super) struct Output {
    files: [PathBuf; 2],
    last: Arc<[Mutex<VecDeque<String>>; 2]>,
    reader: mpsc::Sender<oneshot::Sender<()>>,
}

/// A file that is read along.
struct Follower {
    path: PathBuf,
    offset: u64,
    /// The line that has no end yet.
    partial: Vec<u8>,
    logs: Logs,
}

impl Stream {
    const BOTH: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

impl Output {
    /// `NAME.stdout.log` and `NAME.stderr.log` in the directory of the logs.
    pub(super) fn open(logs: &Logs, name: &str) -> io::Result<Output> {
        fs::create_dir_all(&logs.dir)?;
        let files = Stream::BOTH.map(|stream| logs.dir.join(format!("{}.{}.log", file_name(name), stream.name())));
        let mut followers = Vec::new();
        for path in &files {
            let length = append(path)?.metadata()?.len();
            let offset = length.saturating_sub(TAIL);
            followers.push(Follower { path: path.clone(), offset, partial: Vec::new(), logs: logs.clone() });
        }
        let last: Arc<[Mutex<VecDeque<String>>; 2]> = Arc::default();
        let (reader, looks) = mpsc::channel::<oneshot::Sender<()>>();
        let kept = last.clone();
        std::thread::Builder::new().name("program-output".into()).spawn(move || {
            loop {
                let asked = looks.recv_timeout(LOOK);
                if let Err(mpsc::RecvTimeoutError::Disconnected) = asked {
                    return;
                }
                for (follower, lines) in followers.iter_mut().zip(kept.iter()) {
                    if let Err(error) = follower.look(&mut lines.lock()) {
                        warn!(file = %follower.path.display(), %error, "the output of the program cannot be read");
                    }
                }
                if let Ok(done) = asked {
                    // Whoever asked may have given up.
                    done.send(()).unwrap_or(());
                }
            }
        })?;
        Ok(Output { files, last, reader })
    }

    /// The two files, for a program to append to.
    pub(super) fn files(&self) -> io::Result<(File, File)> {
        let [stdout, stderr] = &self.files;
        Ok((append(stdout)?, append(stderr)?))
    }

    /// Reads all that was written until now.
    pub(super) async fn catch_up(&self) {
        let (done, caught_up) = oneshot::channel();
        if self.reader.send(done).is_ok() {
            // A thread that is gone has nothing to read any more.
            drop(caught_up.await);
        }
    }

    /// The last lines, at most `count`, oldest first.
    pub(super) fn last(&self, stream: Stream, count: usize) -> Vec<String> {
        let [stdout, stderr] = &*self.last;
        let lines = match stream {
            Stream::Stdout => stdout.lock(),
            Stream::Stderr => stderr.lock(),
        };
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }

    /// The last lines begin anew: what an earlier run wrote says nothing of this one.
    pub(super) fn begin(&self) {
        self.last.iter().for_each(|lines| lines.lock().clear());
    }

    pub(super) fn path(&self, stream: Stream) -> &Path {
        let [stdout, stderr] = &self.files;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }
}

impl Follower {
    fn look(&mut self, lines: &mut VecDeque<String>) -> io::Result<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            // Somebody has moved it away; the program goes on writing to it, and the next run makes a new one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() < self.offset {
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut chunk = vec![0; 64 << 10];
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            self.offset += read as u64;
            for &byte in chunk.get(..read).unwrap_or_default() {
                if byte == b'\n' {
                    let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned();
                    if lines.len() == LINES {
                        lines.pop_front();
                    }
                    lines.push_back(line);
                } else if self.partial.len() < LINE {
                    self.partial.push(byte);
                }
            }
        }
        if self.offset > self.logs.size {
            self.rotate()?;
        }
        Ok(())
    }

    /// `x.log` → `x.log.1` → `x.log.2` …
    fn rotate(&mut self) -> io::Result<()> {
        let older = |number: usize| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..self.logs.files).rev() {
            match fs::rename(older(number), older(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.logs.files > 0 {
            fs::copy(&self.path, older(1))?;
        }
        OpenOptions::new().write(true).open(&self.path)?.set_len(0)?;
        self.offset = 0;
        Ok(())
    }
}

/// Opens a file for appending; made if it is not there, and then readable by its owner and their group.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// A name as a file's: whatever else an id has in it becomes `%` and its number.
pub(crate) fn file_name(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || byte == b'.';
    let mut text = String::new();
    for (at, byte) in name.bytes().enumerate() {
        if plain(byte) && !(at == 0 && byte == b'.') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn logs(dir: &Path) -> Logs {
        Logs { dir: dir.to_owned(), size: 100, files: 2 }
    }

    #[tokio::test]
    async fn the_last_lines_of_each_stream_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::open(&logs(dir.path()), "chat-1").unwrap();
        let (mut stdout, mut stderr) = output.files().unwrap();
        stdout.write_all(b"one\ntwo\nthr").unwrap();
        stderr.write_all(b"oh \xff\n").unwrap();
        output.catch_up().await;
        assert_eq!(output.last(Stream::Stdout, 1), ["two"]);
        assert_eq!(output.last(Stream::Stderr, 9), ["oh \u{fffd}"]);
        stdout.write_all(b"ee\n").unwrap();
        output.catch_up().await;
        assert_eq!(output.last(Stream::Stdout, 9), ["one", "two", "three"]);
        output.begin();
        assert!(output.last(Stream::Stdout, 9).is_empty());
    }

    #[tokio::test]
    async fn a_file_that_is_too_large_is_rotated_and_its_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::open(&logs(dir.path()), "chat-1").unwrap();
        let (mut stdout, _stderr) = output.files().unwrap();
        for round in ["a", "b", "c", "d"] {
            writeln!(stdout, "{}", round.repeat(120)).unwrap();
            output.catch_up().await;
        }
        writeln!(stdout, "last").unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("chat-1.stdout.log"), "last\n");
        assert_eq!(read("chat-1.stdout.log.1").trim_end(), "d".repeat(120));
        assert_eq!(read("chat-1.stdout.log.2").trim_end(), "c".repeat(120));
        assert!(!dir.path().join("chat-1.stdout.log.3").exists());
        output.catch_up().await;
        assert_eq!(output.last(Stream::Stdout, 1), ["last"]);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::open(&Logs { size: 1 << 20, ..logs(dir.path()) }, "chat-1").unwrap();
        let (mut stdout, _stderr) = output.files().unwrap();
        stdout.write_all("x".repeat(100_000).as_bytes()).unwrap();
        stdout.write_all(b"\nnext\n").unwrap();
        output.catch_up().await;
        assert_eq!(output.last(Stream::Stdout, 2).iter().map(String::len).collect::<Vec<_>>(), [LINE, 4]);
    }

    #[test]
    fn an_id_stays_within_its_directory() {
        assert_eq!(file_name("chat-server-1"), "chat-server-1");
        assert_eq!(file_name("../../etc/x"), "%2e./..%2fetc%2fx".replace("./..", ".%2f.."));
        assert_eq!(file_name(".hidden"), "%2ehidden");
    }
}
