//! Judges what a daemon wrote down when it died: whose fault was it?

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use muster_plugin_api::Role;
use rustix::{fs::FlockOperation, process::Signal};
use serde::Deserialize;

use super::{
    preflight::signal_name,
    recorder::{ABORTED, EXIT, MAP_AT, PREFIX, STACK_AT},
    settle::ContentHash,
};
use crate::modules::presence::Step;

/// A daemon that is dead, and what it died of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Postmortem {
    /// To be removed once it is judged.
    pub(super) path: PathBuf,
    /// The plugin that ended it, if one did.
    pub(super) culprit: Option<Culprit>,
}

/// The plugin that a daemon died of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Culprit {
    /// The daemon.
    pub(super) process: u32,
    pub(super) file: String,
    /// Of the copy that was loaded.
    pub(super) hash: ContentHash,
    pub(super) reason: String,
}

/// The first line of the record.
#[derive(Debug, Deserialize)]
struct Line {
    process: u32,
    signal: i32,
    /// Of the thread of a generation.
    library: Option<PathBuf>,
    #[serde(default)]
    modules: Vec<(String, String)>,
    #[serde(default)]
    step: u64,
    /// Of another thread: where its stack was.
    stack: Option<u64>,
}

/// Reads the records of dead daemons in the directory.
pub(super) fn examine(directory: &Path) -> Vec<Postmortem> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let records = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    let dead = records.filter_map(|entry| {
        let path = entry.path();
        let file = File::open(&path).ok()?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        let culprit = read(&file).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "what a daemon wrote when it died cannot be judged");
            None
        });
        Some(Postmortem { path, culprit })
    });
    dead.collect()
}

fn read(file: &File) -> io::Result<Option<Culprit>> {
    let lines = String::from_utf8_lossy(&piece(file, 0, STACK_AT)?).into_owned();
    let mut lines = lines.lines();
    let Some(first) = lines.next().and_then(|line| serde_json::from_str::<Line>(line).ok()) else { return Ok(None) };
    let (library, place) = match (&first.library, first.stack) {
        (Some(library), _) => (library.clone(), handler(&first)),
        (None, Some(address)) => {
            let stack = piece(file, STACK_AT, MAP_AT - STACK_AT)?;
            let map = String::from_utf8_lossy(&piece(file, MAP_AT, u64::MAX)?).into_owned();
            let Some(library) = library_on(&stack, address, &map) else { return Ok(None) };
            (library, "a thread of its own".to_owned())
        }
        (None, None) => return Ok(None),
    };
    let overflow = first.signal == Signal::SEGV.as_raw() && lines.next().is_some_and(|next| next.starts_with(ABORTED));
    let end = match first.signal {
        EXIT => "was ended by exit()".to_owned(),
        _ if overflow => "died of a stack overflow (SIGSEGV)".to_owned(),
        signal => format!("died of {}", signal_name(signal)),
    };
    let ((file, generation), process) = (name_of(&library), first.process);
    let reason = format!("the daemon (process {process}) {end} in {place}, {generation} of {file}");
    // The copy is the very one that was loaded; what a dead daemon staged is removed later.
    Ok(Some(Culprit { process, hash: ContentHash::of_file(&library)?, file, reason }))
}

fn handler(line: &Line) -> String {
    let step = Step::unpack(line.step);
    let module = usize::try_from(step.instance).ok().and_then(|number| line.modules.get(number.checked_sub(1)?));
    let role = module.map(|(_, role)| if role == "monitor" { Role::Monitor } else { Role::Master });
    let handler = step.handler(role);
    module.map_or_else(|| handler.to_owned(), |(module, _)| format!("{handler} of module {module}"))
}

/// The file that a staged library `<stem>-<hash>-<generation>.so` was copied from, and its generation.
fn name_of(library: &Path) -> (String, String) {
    let stem = library.file_stem().unwrap_or_default().to_string_lossy();
    let mut parts = stem.rsplitn(3, '-');
    let (generation, _, stem) = (parts.next().unwrap_or_default(), parts.next(), parts.next().unwrap_or_default());
    (format!("{stem}.so"), generation.to_owned())
}

/// The library to which the innermost word of a stack leads that leads to any.
fn library_on(stack: &[u8], address: u64, map: &str) -> Option<PathBuf> {
    let ranges: Vec<Range<'_>> = map.lines().filter_map(Range::parse).collect();
    // What was written down after the end of the stack is something else.
    let end = ranges.iter().find(|range| range.has(address))?.end;
    let of_plugins: Vec<&Range<'_>> = ranges.iter().filter(|range| range.is_code && is_staged(range.path)).collect();
    // The stack was written down from a byte on; its words are aligned.
    let skip = usize::try_from(address.wrapping_neg() % 8).ok()?;
    let length = usize::try_from(end - address).unwrap_or(usize::MAX).min(stack.len());
    let words =
        stack.get(skip..length)?.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_ne_bytes);
    let mut found = words.filter_map(|word| of_plugins.iter().find(|range| range.has(word)));
    found.next().map(|range| PathBuf::from(range.path))
}

fn is_staged(path: &str) -> bool {
    Path::new(path)
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .is_some_and(super::stage::is_staged)
}

/// A line of the map of a process.
struct Range<'a> {
    start: u64,
    end: u64,
    is_code: bool,
    path: &'a str,
}

impl Range<'_> {
    fn parse(line: &str) -> Option<Range<'_>> {
        let (addresses, rest) = line.split_once(' ')?;
        let (start, end) = addresses.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let is_code = rest.as_bytes().get(2) == Some(&b'x');
        // After the rights: offset, device and inode.
        let path = rest.find('/').map_or("", |at| &rest[at..]);
        Some(Range { start: number(start)?, end: number(end)?, is_code, path })
    }

    fn has(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// A part of the file, as far as there is one.
fn piece(file: &File, from: u64, length: u64) -> io::Result<Vec<u8>> {
    let there = file.metadata()?.len().saturating_sub(from).min(length);
    let mut piece = vec![0; usize::try_from(there).map_err(io::Error::other)?];
    file.read_exact_at(&mut piece, from)?;
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record that a daemon has left, and the library that it names.
    fn record(line: &str, more: &[(u64, &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let staged = directory.path().join(".muster-staged-1-0");
        fs::create_dir(&staged).unwrap();
        let library = staged.join("load-average-0123456789ab-g7.so");
        fs::write(&library, b"the copy").unwrap();
        let path = directory.path().join(format!("{PREFIX}42"));
        let line = line.replace("LIBRARY", library.to_str().unwrap());
        fs::write(&path, line + "\n").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for (at, bytes) in more {
            let text = String::from_utf8_lossy(bytes);
            let bytes = if text.contains("LIBRARY") {
                text.replace("LIBRARY", library.to_str().unwrap()).into_bytes()
            } else {
                bytes.to_vec()
            };
            file.write_all_at(&bytes, *at).unwrap();
        }
        (directory, path)
    }

    fn reason(line: &str, more: &[(u64, &[u8])]) -> Option<String> {
        let (directory, path) = record(line, more);
        let found = examine(directory.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, path);
        found.into_iter().next()?.culprit.map(|culprit| {
            assert_eq!((culprit.file.as_str(), culprit.hash), ("load-average.so", ContentHash::of(b"the copy")));
            culprit.reason
        })
    }

    #[test]
    fn the_plugin_that_a_thread_was_in_is_named_with_its_handler() {
        let step = (2_u64 << 32) | u64::from(muster_plugin_api::abi::kind::MESSAGE);
        let line = format!(
            r#"{{"process":42,"library":"LIBRARY","modules":[["load","master"],["load","monitor"]],"signal":11,"step":{step}}}"#
        );
        let expected =
            "the daemon (process 42) died of SIGSEGV in monitorHandler of module load, g7 of load-average.so";
        assert_eq!(reason(&line, &[]).as_deref(), Some(expected));
        let twice = format!("{line}\n{ABORTED}");
        assert!(reason(&twice, &[]).unwrap().contains("died of a stack overflow (SIGSEGV) in monitorHandler"));
        let exit = line.replace("\"signal\":11", "\"signal\":0");
        assert!(reason(&exit, &[]).unwrap().contains("was ended by exit() in monitorHandler"));
    }

    #[test]
    fn a_thread_of_a_plugins_own_is_known_by_its_stack_and_by_no_word_beyond_it() {
        let map = b"7000-8000 r-xp 00000000 08:01 5 LIBRARY\n9000-9010 rw-p 00000000 00:00 0 \n";
        let line = r#"{"process":42,"signal":6,"stack":36864}"#;
        let stack = |word: u64, at: usize| {
            let mut stack = vec![0_u8; 64];
            stack[at..at + 8].copy_from_slice(&word.to_ne_bytes());
            stack
        };
        let named = |stack: &[u8]| reason(line, &[(STACK_AT, stack), (MAP_AT, map)]);
        let expected = "the daemon (process 42) died of SIGABRT in a thread of its own, g7 of load-average.so";
        assert_eq!(named(&stack(0x7123, 8)).as_deref(), Some(expected));
        assert_eq!(named(&stack(0x7123, 16)), None, "there the stack has ended");
        assert_eq!(named(&stack(0x6123, 8)), None, "nobody's code");
    }

    #[test]
    fn a_daemon_that_wrote_nothing_blames_nobody_and_one_that_lives_is_left_alone() {
        assert_eq!(reason("", &[]), None);
        let (directory, path) = record("", &[]);
        let held = File::open(&path).unwrap();
        rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(examine(directory.path()), []);
        assert!(path.exists());
    }
}
