//! Why a file is not loaded: a sentence each that says what was expected, what was found, and what to do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::modules::IdTaken;

/// Why a file is not loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the file cannot be read ({0}): it has to be there, and readable for the user that the daemon runs as")]
    Unreadable(String),
    #[error("a plugin is a file, and this is something else: put a shared library here")]
    NotAFile,
    #[error(
        "{path} belongs to user {owner}, who could replace what is loaded: see what is in it, then `chown {me} {path}`, or \
         set plugins.strict = false"
    )]
    ForeignOwner { path: String, owner: u32, me: u32 },
    #[error("others may write to {path} (mode {mode}): `chmod go-w {path}`, or set plugins.strict = false")]
    WritableByOthers { path: String, mode: String },
    #[error("its SHA-256 is not in plugins.sha256: if it is what you mean to run, add {0}")]
    NotListed(String),
    #[error(
        "signatures are required and there is no {0}: sign it with `minisign -S -t 'id=NAME version=VERSION' -m FILE`"
    )]
    NotSigned(String),
    #[error("its signature does not hold ({0}): get the file and its .minisig from the same release")]
    BadSignature(String),
    #[error("it is signed by a key that is not in plugins.public_keys: add the key if you trust its owner")]
    UnknownKey,
    #[error("its signature does not say what for ({0:?}): sign it with the trusted comment `id=NAME version=VERSION`")]
    SignedAsNothing(String),
    #[error("it is signed as {signed} and says that it is {found}: get the .minisig of this very file")]
    SignedAsAnother { signed: String, found: String },
    #[error("it has version {found} and {highest} ran before: set plugins.allow_downgrade = true to go back")]
    Downgrade { found: String, highest: String },
    #[error("the file has {size} bytes and at most {limit} are read: build it with `strip = \"debuginfo\"`")]
    TooLarge { size: u64, limit: u64 },
    #[error("the file is empty: copy the library again, best under another name that is then renamed")]
    Empty,
    #[error("the file is text and not a shared library: build the plugin as a `cdylib` and copy the .so")]
    Text,
    #[error("the file is not an ELF shared library: build the plugin as a `cdylib` and copy the .so")]
    NotElf,
    #[error("the file is truncated: {what} ends at byte {end} and the file has {size}; copy it again")]
    Truncated { what: String, end: u64, size: u64 },
    #[error("the ELF file is damaged ({0}): copy it again")]
    Damaged(String),
    #[error("the file is built for {found} and this machine is {expected}: build it for this machine")]
    OtherMachine { expected: String, found: String },
    #[error("the ELF file is {found} and not a shared library: set `crate-type = [\"cdylib\"]`")]
    NotShared { found: String },
    #[error("a library that it needs is missing ({0}): install it, or build the plugin without it")]
    MissingDependency(String),
    #[error("the loader cannot load it ({0})")]
    Loader(String),
    #[error("it is a shared library but not a plugin (no module symbol): export modules with `export_modules!`")]
    NoModuleSymbol,
    #[error("its header is not one of abi_stable {expected} ({found}): build it with muster-plugin-api {api}")]
    ForeignHeader { expected: String, api: String, found: String },
    #[error(
        "its interface differs from the host's at {place}: {difference} (built with muster-plugin-api {found}, the host \
         has {expected}); build it with the host's version"
    )]
    Layout { place: String, difference: String, expected: String, found: String },
    #[error("it is built with panic = \"abort\", so that a panic in it would end the daemon: build it with \"unwind\"")]
    PanicAbort,
    #[error("its manifest cannot be read ({0}): build it with `export_modules!` of muster-plugin-api")]
    Manifest(String),
    #[error("its manifest cannot be had ({0}): `Module::manifest` is called before anything runs, and must not fail")]
    ManifestFailed(String),
    #[error("it exports no modules: name at least one in `export_modules!`")]
    NoModules,
    #[error("module {0} of it has an empty id: give it one in `Manifest::new`")]
    EmptyId(usize),
    #[error("two of its modules have the id {0:?}: give each its own")]
    DuplicateId(String),
    #[error("the module id {id:?} belongs to {owner}: remove one of the two files, or give the module another id")]
    IdTaken { id: String, owner: String },
    #[error(
        "it needs {} {}, which nobody serves: it is started when that is there",
        if .0.len() == 1 { "module" } else { "modules" }, .0.join(", ")
    )]
    Needs(Vec<String>),
    #[error("the modules it needs go round in a circle ({}): one of them has to do without", .0.join(" → "))]
    NeedsCircle(Vec<String>),
    #[error("it died of {signal} while it was being loaded: look for code that runs before `create`")]
    Died { signal: String },
    #[error("it ended the process (status {0}) while it was being loaded: a plugin must not call exit")]
    Exited(i32),
    #[error(
        "it started {} while it was being loaded, which is ended now: a plugin must not leave processes behind",
        if *.0 == 1 { "a process".to_owned() } else { format!("{} processes", .0) }
    )]
    LeftProcesses(usize),
    #[error("it did not answer within {}: look for code that runs before `create` and does not return", human(.0))]
    NoAnswer(Duration),
    #[error("it could not be checked ({0}): the daemon tries again when the file changes or plugins are rescanned")]
    Unchecked(String),
    #[error(
        "it is quarantined: {0}; `muster plugin unquarantine` lets it be tried again, another content is tried at once"
    )]
    Quarantined(String),
    #[error("module {module} did not start as {role}: {reason}")]
    NotStarted { module: String, role: String, reason: String },
    #[error(
        "module {module} as {role} did not take over the state of generation {generation} (schema {schema}): {reason}; let \
         it return `Imported::Empty` if it is to start without"
    )]
    NotImported { module: String, role: String, schema: u32, generation: u64, reason: String },
    #[error(
        "SHA-256 {pinned} of it is pinned, and the file has {found}: install the pinned content again, or `muster plugin \
         unpin` it"
    )]
    PinnedToAnother { pinned: String, found: String },
    #[error("it could not be created: {0}")]
    NotCreated(String),
    #[error(
        "generation {generation} (version {version}) was rolled back: {why}; it is not loaded again until the file changes"
    )]
    RolledBack { generation: u64, version: String, why: String },
    #[error(
        "{generations} older generations of it are still mapped ({bytes} bytes), and at most {cap} may be: restart the \
         daemon, or wait until they can be unloaded, which is tried every {rescan}"
    )]
    StillMapped { generations: usize, bytes: u64, cap: usize, rescan: String },
    #[error("it had not started after {}: look for work in `create` or `start` that does not end", human(.0))]
    StartTimeout(Duration),
}

impl Refusal {
    /// Whether it is about modules that are not served: that may change without the file.
    pub(crate) fn is_about_needs(&self) -> bool {
        matches!(self, Refusal::Needs(_) | Refusal::NeedsCircle(_))
    }

    /// Whether it is about owners and modes: they may be put right without a trace in the file.
    pub(crate) fn is_about_owners(&self) -> bool {
        matches!(self, Refusal::ForeignOwner { .. } | Refusal::WritableByOthers { .. })
    }

    /// Whether it is about who may have written the file: then the very content may be good once that is put right.
    pub(crate) fn is_about_trust(&self) -> bool {
        use Refusal::{
            BadSignature, Downgrade, ForeignOwner, NotListed, NotSigned, SignedAsAnother, SignedAsNothing, UnknownKey,
            WritableByOthers,
        };
        matches!(
            self,
            ForeignOwner { .. }
                | WritableByOthers { .. }
                | NotListed(_)
                | NotSigned(_)
                | BadSignature(_)
                | UnknownKey
                | SignedAsNothing(_)
                | SignedAsAnother { .. }
                | Downgrade { .. }
        )
    }
}

impl From<IdTaken> for Refusal {
    fn from(taken: IdTaken) -> Refusal {
        let owner = taken.owner.map_or_else(|| "the daemon itself".to_owned(), |owner| owner.to_string());
        Refusal::IdTaken { id: taken.id, owner }
    }
}

/// A duration as people write it.
pub(crate) fn human(duration: &Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 { format!("{} ms", duration.as_millis()) } else { format!("{seconds} s") }
}
