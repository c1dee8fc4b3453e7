//! Whose files are loaded: those of root or the daemon's user that nobody else may write, signed or listed if that is
//! asked for.
//!
//! What is judged is the opened file: its owner by its descriptor, its signature and hash by the bytes that were read
//! from it. These bytes become the private copy that is vetted and opened, so that nothing can be put in between.
//!
//! ```text
//! every directory on the way ─▶ owner and mode of the descriptor ─▶ bytes ─▶ SHA-256 listed ─▶ signed
//!                                                   private copy ─▶ child ─▶ manifest is what was signed ─▶ no downgrade
//! ```

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use minisign_verify::{PublicKey, Signature};
use muster_plugin_api::PluginManifest;
use semver::Version;

use super::{refusal::Refusal, settle::ContentHash};
use crate::store::{Kept, Store};

/// Who may write beside the owner: the group, and everybody.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// In such a directory only the owner of an entry may replace it.
const STICKY: u32 = 0o1000;
/// A path with more links than this leads in a circle; the kernel's own limit.
const MOST_LINKS: usize = 40;
/// A signature has four lines of some hundred bytes.
const LONGEST_SIGNATURE: u64 = 16 * 1024;

/// What makes a file trusted.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    /// Owners and modes are looked at.
    pub(crate) strict: bool,
    /// The keys one of which has to have signed a plugin; signatures are not asked for without.
    pub(crate) keys: Option<Vec<PublicKey>>,
    /// The only contents that are loaded; any without.
    pub(crate) listed: Option<BTreeSet<ContentHash>>,
    /// A signed plugin may be replaced by an older version of it.
    pub(crate) allow_downgrade: bool,
    /// Remembers the highest versions that ran.
    pub(crate) store: Arc<Store>,
}

/// What a signature says of the file, in its trusted comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    id: String,
    version: String,
}

/// What a part of a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A directory that something else is in.
    Above,
    Link,
    /// Where the path leads.
    Last,
}

// === impl Trust ===

impl Default for Trust {
    fn default() -> Trust {
        Trust { strict: true, keys: None, listed: None, allow_downgrade: false, store: Arc::default() }
    }
}

impl Trust {
    /// Why nothing may be loaded from this directory.
    ///
    /// # Errors
    /// When others may change what is in it. One that is not there, or cannot be looked at, is no fault of this kind.
    pub(crate) fn directory(&self, path: &Path) -> Result<(), Refusal> {
        if !self.strict {
            return Ok(());
        }
        along(path, judge).unwrap_or(Ok(()))
    }

    /// Whether nobody else decides what this path leads to. The file itself is judged when it is open.
    ///
    /// # Errors
    /// The outer one when the way cannot be looked at, the inner one when others may change it.
    pub(crate) fn way_to(&self, path: &Path) -> io::Result<Result<(), Refusal>> {
        if !self.strict {
            return Ok(Ok(()));
        }
        along(path, |path, metadata, part| if part == Part::Last { Ok(()) } else { judge(path, metadata, part) })
    }

    /// Whether nobody else may write this open file.
    ///
    /// # Errors
    /// When others may.
    pub(crate) fn opened(&self, path: &Path, metadata: &Metadata) -> Result<(), Refusal> {
        if self.strict { judge(path, metadata, Part::Last) } else { Ok(()) }
    }

    /// Whether these bytes, read from the file at `path`, are listed, and what they are signed as.
    ///
    /// # Errors
    /// When they must not be loaded.
    pub(crate) fn content(&self, path: &Path, bytes: &[u8], hash: ContentHash) -> Result<Option<Signed>, Refusal> {
        if self.listed.as_ref().is_some_and(|listed| !listed.contains(&hash)) {
            return Err(Refusal::NotListed(hash.to_string()));
        }
        let Some(keys) = &self.keys else { return Ok(None) };
        let beside = signature_of(path);
        let mut text = String::new();
        match fs::File::open(&beside).and_then(|file| file.take(LONGEST_SIGNATURE).read_to_string(&mut text)) {
            Ok(_) => verify(&text, bytes, keys).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Refusal::NotSigned(beside.display().to_string()))
            }
            Err(error) => Err(Refusal::BadSignature(error.to_string())),
        }
    }

    /// Whether the plugin is what was signed, and not older than what ran before.
    ///
    /// # Errors
    /// When it must not be loaded.
    pub(crate) fn manifest(&self, signed: Option<&Signed>, manifest: &PluginManifest) -> Result<(), Refusal> {
        let Some(Signed { id, version }) = signed else { return Ok(()) };
        if (id, version) != (&manifest.name, &manifest.version) {
            return Err(Refusal::SignedAsAnother {
                signed: format!("id={id} version={version}"),
                found: format!("id={} version={}", manifest.name, manifest.version),
            });
        }
        let highest = self.store.kept(Kept::HighestVersion, id);
        match highest.filter(|highest| !self.allow_downgrade && is_older(version, highest)) {
            Some(highest) => Err(Refusal::Downgrade { found: version.clone(), highest }),
            None => Ok(()),
        }
    }

    /// Remembers a version that has passed its probation, if signatures are required. An order to allow downgrades starts anew.
    pub(crate) async fn ran(&self, manifest: &PluginManifest) {
        let PluginManifest { name, version, .. } = manifest;
        if self.keys.is_none() {
            return;
        }
        let highest = self.store.kept(Kept::HighestVersion, name);
        let newest = highest.is_none_or(|highest| self.allow_downgrade || is_older(&highest, version));
        if newest && !self.store.keep(Kept::HighestVersion, name, Some(version)).await {
            tracing::warn!(name, version, "not remembered durably: after a restart an older version would be taken");
        }
    }
}

/// Where the signature of a file is.
pub(crate) fn signature_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

/// Unlike text, versions have numbers in them. What is no version is older than what is one.
fn is_older(version: &str, than: &str) -> bool {
    match (Version::parse(version), Version::parse(than)) {
        (Ok(version), Ok(than)) => version < than,
        (Err(_), Ok(_)) => true,
        (Ok(_), Err(_)) => false,
        (Err(_), Err(_)) => version < than,
    }
}

fn verify(text: &str, bytes: &[u8], keys: &[PublicKey]) -> Result<Signed, Refusal> {
    let bad = |error: minisign_verify::Error| Refusal::BadSignature(error.to_string());
    let signature = Signature::decode(text).map_err(bad)?;
    let mut verdict = Err(Refusal::BadSignature("plugins.public_keys is empty".to_owned()));
    for key in keys {
        verdict = key.verify(bytes, &signature, false).map_err(|error| match error {
            minisign_verify::Error::UnexpectedKeyId => Refusal::UnknownKey,
            error => bad(error),
        });
        // What another key says of it is of no interest then.
        if !matches!(verdict, Err(Refusal::UnknownKey)) {
            break;
        }
    }
    verdict?;
    let comment = signature.trusted_comment();
    let field = |name: &str| comment.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
    match (field("id="), field("version=")) {
        (Some(id), Some(version)) => Ok(Signed { id, version }),
        _ => Err(Refusal::SignedAsNothing(comment.to_owned())),
    }
}

// === owners and modes ===

fn judge(path: &Path, metadata: &Metadata, part: Part) -> Result<(), Refusal> {
    owned_and_closed(path, metadata.uid(), metadata.mode(), part, rustix::process::geteuid().as_raw())
}

fn owned_and_closed(path: &Path, owner: u32, mode: u32, part: Part, me: u32) -> Result<(), Refusal> {
    let path = || path.display().to_string();
    if owner != 0 && owner != me {
        return Err(Refusal::ForeignOwner { path: path(), owner, me });
    }
    let harmless = match part {
        // The mode of a link means nothing.
        Part::Link => true,
        // Others may add to it, but not replace what the next part of the path is.
        Part::Above => mode & STICKY != 0,
        Part::Last => false,
    };
    if mode & WRITABLE_BY_OTHERS != 0 && !harmless {
        return Err(Refusal::WritableByOthers { path: path(), mode: format!("{:04o}", mode & 0o7777) });
    }
    Ok(())
}

/// Shows each part of the way to where `path` leads, and that as well, links followed by hand.
fn along(
    path: &Path,
    mut judge: impl FnMut(&Path, &Metadata, Part) -> Result<(), Refusal>,
) -> io::Result<Result<(), Refusal>> {
    let mut here = PathBuf::from("/");
    let mut left = names(&std::path::absolute(path)?);
    let mut links = 0;
    if let Err(refusal) = judge(&here, &fs::metadata(&here)?, Part::Above) {
        return Ok(Err(refusal));
    }
    while let Some(name) = left.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        let next = here.join(name);
        let metadata = fs::symlink_metadata(&next)?;
        let part = match metadata.is_symlink() {
            true => Part::Link,
            false if left.is_empty() => Part::Last,
            false => Part::Above,
        };
        if let Err(refusal) = judge(&next, &metadata, part) {
            return Ok(Err(refusal));
        }
        if part != Part::Link {
            here = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(io::Error::other("its links lead in a circle"));
        }
        let target = fs::read_link(&next)?;
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
        left.extend(names(&target));
    }
    Ok(Ok(()))
}

/// The names in a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let mut names: Vec<OsString> = names.map(|part| part.as_os_str().to_owned()).collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests;
