//! What the preflight child does: opens the candidate, compares layouts, reads the manifest, reports, and is gone.

use std::{collections::BTreeSet, fs::File, io::Write, os::fd::AsFd, path::Path};

use abi_stable::library::{LibHeader, RootModule};
use muster_plugin_api::{
    PluginManifest,
    abi::PluginRootRef,
    loader::{self, Difference, HeaderError, Unchecked},
};
use rustix::process::{Resource, Rlimit, Signal};

use super::{Checked, Refused};
use crate::plugin::{elf, refusal::Refusal};

/// Address space of the child: the program, the candidate, and room for a constructor that fills a table.
const ADDRESS_SPACE: u64 = 2 * 1024 * 1024 * 1024;

/// Processor seconds of the child: the parent kills it sooner, this is for the case that the parent cannot.
const PROCESSOR_SECONDS: u64 = 5;

/// The whole life of a preflight child: vets the library at `path`, and ends the process.
///
/// For the hidden command `preflight PATH`; the report goes to the socket that is standard input.
pub(crate) fn child_main(path: &Path) -> ! {
    // Its own descriptor, out of the way of what the candidate may do with the first three.
    let report = std::io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let line = serde_json::to_string(&confine().map_err(Refused::from).and_then(|()| vet(path)));
    if let (Ok(mut report), Ok(line)) = (report, line) {
        // A parent that does not read any more has killed us, or is about to.
        drop(report.write_all(format!("{line}\n").as_bytes()));
    }
    // No exit: that would run what the candidate left for the end of the process. The parent looks whether this one has
    // children, and kills it; the kernel does when the parent dies.
    loop {
        std::thread::park();
    }
}

/// What stands in the place of a manifest that panicked.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Failed {
    error: String,
}

fn confine() -> Result<(), Refusal> {
    let limit = |resource, amount| {
        let rlimit = Rlimit { current: Some(amount), maximum: Some(amount) };
        rustix::process::setrlimit(resource, rlimit).map_err(|error| Refusal::Unchecked(error.to_string()))
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Cpu, PROCESSOR_SECONDS)?;
    limit(Resource::As, ADDRESS_SPACE)?;
    // Whoever loses its parent becomes a child of this process, where it is found.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Refusal::Unchecked(error.to_string()))?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Refusal::Unchecked(error.to_string()))
}

fn vet(path: &Path) -> Result<Checked, Refused> {
    let file = std::fs::read(path).map_err(|error| Refusal::Unreadable(error.to_string()))?;
    let facts = elf::inspect(&file)?;
    drop(file);
    let library = Unchecked::open(path).map_err(|text| loader_refusal(&text, path))?;
    let header = library.header().map_err(|error| match error {
        HeaderError::NoSymbol => Refused::from(Refusal::NoModuleSymbol),
        HeaderError::Foreign(text) => {
            let (expected, api) = ("0.11".to_owned(), host_version().to_owned());
            // It prints both headers, on some thirty lines.
            let found = "another magic number or version".to_owned();
            Refused { refusal: Refusal::ForeignHeader { expected, api, found }, details: Some(text) }
        }
    })?;
    compare(header)?;
    let library = library.trust(header).map_err(Refusal::Manifest)?;
    let text = library.manifest();
    if let Ok(Failed { error }) = serde_json::from_str(&text) {
        return Err(Refusal::ManifestFailed(error).into());
    }
    let manifest: PluginManifest = serde_json::from_str(&text)
        .map_err(|error| Refused { refusal: Refusal::Manifest(error.to_string()), details: Some(text) })?;
    examine(&manifest)?;
    Ok(Checked { manifest, facts })
}

/// The loader says `PATH: what is wrong`; the path is that of the copy, which tells nobody anything.
fn loader_refusal(text: &str, path: &Path) -> Refusal {
    let text = text.replace(&format!("{}: ", path.display()), "");
    if text.contains("cannot open shared object file") {
        let missing = text.split(':').next().unwrap_or_default().trim().to_owned();
        Refusal::MissingDependency(missing)
    } else if let Some(symbol) = text.strip_prefix("undefined symbol: ") {
        Refusal::MissingDependency(format!("symbol {}", symbol.trim()))
    } else {
        Refusal::Loader(text)
    }
}

fn compare(header: &'static LibHeader) -> Result<(), Refused> {
    let Difference { place, difference, details } = match loader::compare(header) {
        Ok(()) => return Ok(()),
        Err(None) => {
            return Err(Refusal::Manifest("it was built without a description of its layout".to_owned()).into());
        }
        Err(Some(difference)) => difference,
    };
    let found = header.version_strings().version.as_str().to_owned();
    let refusal = Refusal::Layout { place, difference, expected: host_version().to_owned(), found };
    Err(Refused { refusal, details: Some(details) })
}

fn host_version() -> &'static str {
    <PluginRootRef as RootModule>::VERSION_STRINGS.version.as_str()
}

fn examine(manifest: &PluginManifest) -> Result<(), Refusal> {
    if manifest.panic != "unwind" {
        return Err(Refusal::PanicAbort);
    }
    if manifest.modules.is_empty() {
        return Err(Refusal::NoModules);
    }
    let mut ids = BTreeSet::new();
    for (index, module) in manifest.modules.iter().enumerate() {
        for id in std::iter::once(&module.id).chain(&module.aliases) {
            if id.is_empty() {
                return Err(Refusal::EmptyId(index + 1));
            }
            for role in &module.roles {
                if !ids.insert((id, *role)) {
                    return Err(Refusal::DuplicateId(id.clone()));
                }
            }
        }
    }
    Ok(())
}
