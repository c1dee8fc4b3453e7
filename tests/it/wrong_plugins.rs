//! What the author of a plugin reads after each mistake. The messages are written out: they are part of the product.

use std::{
    fs,
    path::{Path, PathBuf},
};

use muster_tests::{
    cli::muster_within,
    daemon::{binary, plugin_file},
    deadline::PROCESS,
};
use tempfile::TempDir;

/// A good library, for damage of every kind.
fn good() -> Vec<u8> {
    fs::read(plugin_file("wrong")).expect("the fixture is built")
}

/// Puts other bytes over the first place where `from` stands.
fn patched(mut file: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert!(to.len() <= from.len(), "it has to fit");
    let place = file.windows(from.len()).position(|window| window == from).expect("it is there");
    file[place..place + from.len()].fill(0);
    file[place..place + to.len()].copy_from_slice(to);
    file
}

/// Changes bytes of the ELF header.
fn headed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = good();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// Files that are no plugins, by their mistake.
fn files() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let half = good().len() / 2;
    vec![
        (
            "nothing in it",
            Vec::new(),
            "the file is empty: copy the library again, best under another name that is then renamed",
        ),
        (
            "a text",
            b"[package]\nname = \"p\"\n".to_vec(),
            "the file is text and not a shared library: build the plugin as a `cdylib` and copy the .so",
        ),
        (
            "an archive",
            b"\x7fZIP\x00\x01\x02\xff".to_vec(),
            "the file is not an ELF shared library: build the plugin as a `cdylib` and copy the .so",
        ),
        (
            "a program",
            fs::read(binary()).map(|_| headed(16, &[2, 0])).expect("it is there"),
            "the ELF file is a program and not a shared library: set `crate-type = [\"cdylib\"]`",
        ),
        (
            "an object file",
            headed(16, &[1, 0]),
            "the ELF file is an object file and not a shared library: set `crate-type = [\"cdylib\"]`",
        ),
        (
            "for 32 bits",
            headed(4, &[1]),
            "the file is built for a 32-bit machine and this machine is HERE: build it for this machine",
        ),
        (
            "for another machine",
            headed(18, &[22, 0]),
            "the file is built for s390x and this machine is HERE: build it for this machine",
        ),
        (
            "only its beginning",
            good()[..40].to_vec(),
            "the file is truncated: its header ends at byte 64 and the file has 40; copy it again",
        ),
        (
            "half of it",
            good()[..half].to_vec(),
            "the file is truncated: a segment ends at byte N and the file has N; copy it again",
        ),
        (
            "a library that is missing",
            patched(good(), b"libgcc_s.so.1", b"libnot_he.so"),
            "a library that it needs is missing (libnot_he.so): install it, or build the plugin without it",
        ),
        (
            "a header of something else",
            patched(good(), b"abi stable library", b"another library"),
            "its header is not one of abi_stable 0.11 (another magic number or version): build it with muster-plugin-api HOST",
        ),
    ]
}

/// Plugins that were built wrongly, by their mistake.
const FIXTURES: [(&str, &str); 5] = [
    (
        "bad_no_module",
        "it is a shared library but not a plugin (no module symbol): export modules with `export_modules!`",
    ),
    (
        "bad_layout",
        "its interface differs from the host's at PluginRoot → manifest → its result: type RString expected, RVec found (built with muster-plugin-api 1.0.0, the host has HOST); build it with the host's version",
    ),
    (
        "bad_panic_abort",
        "it is built with panic = \"abort\", so that a panic in it would end the daemon: build it with \"unwind\"",
    ),
    ("bad_constructor_segv", "it died of SIGSEGV while it was being loaded: look for code that runs before `create`"),
    (
        "bad_constructor_loop",
        "it did not answer within 2 s: look for code that runs before `create` and does not return",
    ),
];

/// Mistakes in the code of modules that show before anything runs.
const MANIFESTS: [(&str, &str); 5] = [
    ("empty id", "module 1 of it has an empty id: give it one in `Manifest::new`"),
    ("same id twice", "two of its modules have the id \"first\": give each its own"),
    (
        "manifest panics",
        "its manifest cannot be had (no manifest today): `Module::manifest` is called before anything runs, and must not fail",
    ),
    ("manifest exits", "it ended the process (status 3) while it was being loaded: a plugin must not call exit"),
    ("manifest hangs", "it did not answer within 2 s: look for code that runs before `create` and does not return"),
];

/// Mistakes in the code of modules that show when they run.
const TRIALS: [(&str, &str); 5] = [
    (
        "needs itself away",
        "load (thread): it is refused: it needs module elsewhere, which nobody serves: it is started when that is there",
    ),
    (
        "create panics",
        "load (thread): it is refused: module first did not start as master: panicked: no instance today",
    ),
    (
        "start fails",
        "load (thread): it is refused: module first did not start as master: the table of servers is not there",
    ),
    ("handler panics", "call (thread): first: module first failed: panicked: no answer today"),
    (
        "state is refused",
        "reload (thread): it is running: module first as master did not take over the state of generation 1 (schema 1): its state is of another version; let it return `Imported::Empty` if it is to start without",
    ),
];

/// What the author reads, without what differs from machine to machine.
async fn said(command: &str, file: &Path, mistake: &str) -> String {
    let file = file.to_str().expect("paths of tests are text");
    let done = muster_within(PROCESS * 4, &[("MUSTER_WRONG", mistake)], &["plugin", command, file]).await;
    assert_eq!(done.code, 1, "{mistake}: {done:?}");
    let line = done.stderr.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").and_then(|line| line.strip_prefix(file)).unwrap_or(line);
    let line = line.trim_start_matches(" would not be loaded: ").trim_start_matches(" does not pass: ");
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        other => other,
    };
    line.replace(machine, "HERE").replace(muster_plugin_api::VERSION, "HOST")
}

/// Sizes differ from build to build.
fn without_sizes(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive(' ') {
        let digits = word.trim_end_matches([' ', ';']);
        let is_size = digits.len() > 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
        out.push_str(&if is_size { word.replace(digits, "N") } else { word.to_owned() });
    }
    out
}

/// Compares all at once: who changes a message sees every one that changes.
fn judge(wrong: Vec<(String, String, String)>) {
    let differing: Vec<_> = wrong.iter().filter(|(_, expected, said)| expected != said).collect();
    let shown = differing.iter().map(|(mistake, expected, said)| format!("{mistake}:\n  - {expected}\n  + {said}"));
    assert!(differing.is_empty(), "\n{}", shown.collect::<Vec<_>>().join("\n"));
}

#[tokio::test]
async fn a_file_that_is_no_plugin_is_refused_with_what_to_do() {
    let directory = TempDir::new().expect("a temporary directory");
    let mut wrong = Vec::new();
    for (mistake, content, expected) in files() {
        let file: PathBuf = directory.path().join("plugin.so");
        fs::write(&file, content).expect("it can be written");
        let said = without_sizes(&said("check", &file, mistake).await);
        wrong.push((mistake.to_owned(), expected.to_owned(), said));
    }
    judge(wrong);
}

#[tokio::test]
async fn a_plugin_that_is_built_wrongly_is_refused_with_what_to_do() {
    let mut wrong = Vec::new();
    for (fixture, expected) in FIXTURES {
        wrong.push((fixture.to_owned(), expected.to_owned(), said("check", &plugin_file(fixture), fixture).await));
    }
    for (mistake, expected) in MANIFESTS {
        wrong.push((mistake.to_owned(), expected.to_owned(), said("check", &plugin_file("wrong"), mistake).await));
    }
    judge(wrong);
}

#[tokio::test]
async fn a_plugin_that_goes_wrong_when_it_runs_does_not_pass_its_trial() {
    let mut wrong = Vec::new();
    for (mistake, expected) in TRIALS {
        wrong.push((mistake.to_owned(), expected.to_owned(), said("test", &plugin_file("wrong"), mistake).await));
    }
    judge(wrong);
}
