//! When a file has come to rest, and what is in it then.

use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use sha2::{Digest, Sha256};

use super::{content::Content, elf, refusal::Refusal, trust::Trust, watch::Fingerprint};

/// Plugins beyond this are taken for a mistake: the largest seen, unstripped and with debug information, had 90 MB.
pub(crate) const LARGEST: u64 = 512 * 1024 * 1024;

/// How long a file that looks incomplete has to be left alone before it is called truncated. A copy at 1 KB/s writes
/// every second; a person who waits for the verdict should have it within two.
const QUIET_IF_INCOMPLETE: Duration = Duration::from_millis(1_200);

/// SHA-256 of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ContentHash([u8; 32]);

/// A file that has come to rest.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) content: Content,
    pub(crate) hash: ContentHash,
    pub(crate) fingerprint: Fingerprint,
    /// Whether it is a whole library for this machine.
    whole: Result<(), Refusal>,
}

/// A file that cannot be a plugin, whatever a child would say.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub(crate) fingerprint: Fingerprint,
    /// None for content that was not read.
    pub(crate) hash: Option<ContentHash>,
    pub(crate) refusal: Box<Refusal>,
}

/// Waits until the file at `path` has had the same content for `pause`, and looks whole or is left alone.
///
/// `None` when the file is gone. Whose file it is is asked of the descriptor that the bytes are read from.
///
/// # Errors
/// When it cannot be a plugin, or others may have written it.
pub(crate) async fn settle(path: &Path, pause: Duration, trust: &Arc<Trust>) -> Result<Option<Settled>, Unfit> {
    let mut before: Option<(ContentHash, Fingerprint)> = None;
    let mut unchanged_since = Instant::now();
    loop {
        let settled = tokio::task::spawn_blocking({
            let (path, trust) = (path.to_owned(), trust.clone());
            move || read(&path, &trust)
        })
        .await
        .unwrap_or_else(|error| {
            let refusal = Refusal::Unchecked(error.to_string()).into();
            Err(Unfit { fingerprint: Fingerprint::UNREADABLE, hash: None, refusal })
        })?;
        let Some(settled) = settled else { return Ok(None) };
        let now = (settled.hash, settled.fingerprint);
        if before == Some(now) {
            match settled.whole {
                // Its own time says that it was left alone before it was looked at. That lies ahead if the clock was set back.
                Err(Refusal::Empty | Refusal::Truncated { .. } | Refusal::Damaged(_))
                    if settled.fingerprint.age(SystemTime::now()) < QUIET_IF_INCOMPLETE
                        && unchanged_since.elapsed() < QUIET_IF_INCOMPLETE => {}
                Ok(()) => return Ok(Some(settled)),
                Err(refusal) => return Err(Unfit { fingerprint: now.1, hash: Some(now.0), refusal: refusal.into() }),
            }
        }
        if before.replace(now) != Some(now) {
            unchanged_since = Instant::now();
        }
        tokio::time::sleep(pause).await;
    }
}

fn read(path: &Path, trust: &Trust) -> Result<Option<Settled>, Unfit> {
    let mut fingerprint = Fingerprint::UNREADABLE;
    match read_as(path, trust, &mut fingerprint) {
        Ok(Ok(content)) => {
            let hash = ContentHash::of(&content);
            let whole = elf::inspect(&content).map(|_| ());
            Ok(Some(Settled { content, hash, fingerprint, whole }))
        }
        Ok(Err(refusal)) => Err(Unfit { fingerprint, hash: None, refusal: refusal.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unfit { fingerprint, hash: None, refusal: Refusal::Unreadable(error.to_string()).into() }),
    }
}

fn read_as(path: &Path, trust: &Trust, fingerprint: &mut Fingerprint) -> io::Result<Result<Content, Refusal>> {
    *fingerprint = Fingerprint::of(path, &fs::metadata(path)?);
    // Before it is opened: to open a device may do something.
    if !fingerprint.is_file {
        return Ok(Err(Refusal::NotAFile));
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    if let Err(refusal) = trust.directory(directory).and(trust.way_to(path)?) {
        return Ok(Err(refusal));
    }
    // Without waiting, if it has become a pipe by now. From here on only what is open counts.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    let metadata = file.metadata()?;
    *fingerprint = Fingerprint::of(path, &metadata);
    if !fingerprint.is_file {
        return Ok(Err(Refusal::NotAFile));
    }
    if let Err(refusal) = trust.opened(path, &metadata) {
        return Ok(Err(refusal));
    }
    let size = fingerprint.size;
    if size > LARGEST {
        return Ok(Err(Refusal::TooLarge { size, limit: LARGEST }));
    }
    Content::read(&file, usize::try_from(size).unwrap_or_default()).map(Ok)
}

// === impl ContentHash ===

impl ContentHash {
    pub(crate) fn of(bytes: &[u8]) -> ContentHash {
        ContentHash(Sha256::digest(bytes).into())
    }

    /// Of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn of_file(path: &Path) -> io::Result<ContentHash> {
        let mut digest = Sha256::new();
        let mut file = fs::File::open(path)?;
        let mut piece = vec![0; 64 * 1024];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(ContentHash(digest.finalize().into())),
                length => digest.update(&piece[..length]),
            }
        }
    }

    /// From its 64 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<ContentHash> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(ContentHash(hash))
    }
}

impl fmt::Display for ContentHash {
    /// In hexadecimal; with a precision, that many digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(usize::MAX);
        let text: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&text[..text.len().min(digits)])
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self:.12})")
    }
}
