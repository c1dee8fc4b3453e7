//! What can be told of a plugin file before it is installed: the verdict of the preflight, and what it will cost.

use std::{fs, path::Path};

use muster_plugin_api::{Manifest, PluginManifest};
use serde_json::{Value, json};

use super::{
    elf,
    preflight::{Checked, Checker, Refused},
    refusal::Refusal,
    settle::{ContentHash, LARGEST},
};

/// Beyond this a file is mostly debug information: a plugin that only has the interface has 17 MB with it, and 1 without.
const LARGE: usize = 64 * 1024 * 1024;

/// Crates that start threads of their own, and how their names stand in paths of panics.
const RUNTIMES: [&str; 4] = ["tokio", "async-std", "smol", "rayon-core"];

/// What is known of a file.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) size: u64,
    pub(crate) hash: ContentHash,
    /// What the ELF file says of itself, if it is one.
    pub(crate) facts: Option<elf::Facts>,
    /// The symbols that it exports.
    pub(crate) exports: Vec<String>,
    /// What daemons will do.
    pub(crate) verdict: Result<PluginManifest, Refused>,
    /// What is wrong with it although it is loaded.
    pub(crate) concerns: Vec<String>,
}

impl Survey {
    /// Looks at a file, and has a child vet it as a daemon does.
    pub(crate) async fn of(path: &Path, checker: &Checker) -> Result<Survey, Refusal> {
        let unreadable = |error: std::io::Error| Refusal::Unreadable(error.to_string());
        let described = fs::metadata(path).map_err(unreadable)?;
        if !described.is_file() {
            return Err(Refusal::NotAFile);
        }
        if described.len() > LARGEST {
            return Err(Refusal::TooLarge { size: described.len(), limit: LARGEST });
        }
        let file = fs::read(path).map_err(unreadable)?;
        // The loader would look for a name without a slash among the libraries of the system.
        let path = path.canonicalize().map_err(unreadable)?;
        let inspected = elf::inspect(&file);
        let verdict = match &inspected {
            Ok(_) => checker.check(&path).await.map(|Checked { manifest, .. }| manifest),
            Err(refusal) => Err(refusal.clone().into()),
        };
        let facts = inspected.ok();
        let exports = if facts.is_some() { elf::exports(&file) } else { Vec::new() };
        let concerns = match (&facts, &verdict) {
            (Some(facts), Ok(manifest)) => concerns(&file, facts, manifest),
            _ => Vec::new(),
        };
        Ok(Survey { size: file.len() as u64, hash: ContentHash::of(&file), facts, exports, verdict, concerns })
    }

    /// For programs: one object.
    pub(crate) fn to_json(&self, path: &Path) -> Value {
        let manifest = self.verdict.as_ref().ok();
        let refused = self.verdict.as_ref().err();
        json!({
            "file": path,
            "size": self.size,
            "sha256": self.hash.to_string(),
            "loadable": manifest.is_some(),
            "reason": refused.map(|refused| refused.refusal.to_string()),
            "details": refused.and_then(|refused| refused.details.as_ref()),
            "host": host_version(),
            "plugin": manifest,
            "needed": self.facts.as_ref().map(|facts| &facts.needed),
            "nodelete": self.facts.as_ref().map(|facts| facts.nodelete),
            "uniqueSymbols": self.facts.as_ref().map(|facts| facts.unique_symbols),
            "exports": self.exports,
            "concerns": self.concerns,
        })
    }
}

/// The version of the interface that this host has.
pub(crate) fn host_version() -> &'static str {
    muster_plugin_api::VERSION
}

/// What keeps a library from being unloaded, or makes it less than it could be: a sentence each, with what to do.
fn concerns(file: &[u8], facts: &elf::Facts, manifest: &PluginManifest) -> Vec<String> {
    let mut concerns = Vec::new();
    if facts.nodelete {
        concerns.push(
            "it is linked with NODELETE, so that every reload leaves a copy in memory: build it without `-z nodelete`"
                .to_owned(),
        );
    }
    if facts.unique_symbols > 0 {
        concerns.push(format!(
            "it has {} symbols that are unique in the process (STB_GNU_UNIQUE), which keep it in memory: build its C++ \
             parts with `-fno-gnu-unique`",
            facts.unique_symbols
        ));
    }
    for library in facts.needed.iter().filter(|name| name.starts_with("libstdc++") || name.starts_with("libc++")) {
        concerns.push(format!(
            "it needs the C++ library {library}, whose destructors may keep it in memory: do without, or link that \
             statically"
        ));
    }
    for name in RUNTIMES {
        if let Some(version) = built_with(file, name) {
            concerns.push(format!(
                "it brings {name} {version}, whose threads outlive a module and keep it in memory: timers, requests and \
                 `spawn_blocking` of the agent do without"
            ));
        }
    }
    if file.len() > LARGE {
        concerns.push(format!(
            "it has {} MB, which every reload copies and checks: set `strip = \"debuginfo\"` in its profile",
            file.len() >> 20
        ));
    }
    if newer(&manifest.api, host_version()) {
        concerns.push(format!(
            "it is built with muster-plugin-api {}, and this host has {}: what is newer is refused when it is used",
            manifest.api,
            host_version()
        ));
    }
    concerns
}

/// The version of a crate that is in a library: the paths of its sources are in the texts of its panics.
fn built_with(file: &[u8], name: &str) -> Option<String> {
    let start = format!("/{name}-");
    let mut rest = file;
    while let Some(at) = memchr(rest, start.as_bytes()) {
        rest = &rest[at + start.len()..];
        let version: Vec<u8> =
            rest.iter().copied().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').take(16).collect();
        if version.first().is_some_and(u8::is_ascii_digit) && rest.get(version.len()) == Some(&b'/') {
            return String::from_utf8(version).ok();
        }
    }
    None
}

fn memchr(file: &[u8], text: &[u8]) -> Option<usize> {
    file.windows(text.len()).position(|window| window == text)
}

fn newer(found: &str, host: &str) -> bool {
    match (semver::Version::parse(found), semver::Version::parse(host)) {
        (Ok(found), Ok(host)) => found > host,
        _ => false,
    }
}

/// When a module ticks, in words.
pub(crate) fn schedule(module: &Manifest) -> Option<String> {
    let schedule = module.schedule?;
    let pace = schedule.pace()?;
    let kind = match schedule.kind {
        muster_plugin_api::ScheduleKind::Pull => "pull",
        muster_plugin_api::ScheduleKind::Push => "push",
    };
    let after = if pace.delay.is_zero() { String::new() } else { format!(", first after {:?}", pace.delay) };
    Some(format!("{kind} every {:?}{after}", pace.interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(api: &str) -> PluginManifest {
        PluginManifest {
            name: "p".into(),
            version: "1.0.0".into(),
            api: api.into(),
            compiler: "rustc".into(),
            panic: "unwind".into(),
            modules: Vec::new(),
        }
    }

    #[test]
    fn what_keeps_a_library_in_memory_is_named_with_what_to_do() {
        let file = b"xx/home/x/.cargo/registry/src/index-1/tokio-1.54.1/src/runtime/mod.rs /tokio-util-0.7.1/";
        let facts =
            elf::Facts { needed: vec!["libc.so.6".into(), "libstdc++.so.6".into()], nodelete: true, unique_symbols: 2 };
        let concerns = concerns(file, &facts, &manifest("99.0.0"));
        let words = ["NODELETE", "2 symbols", "libstdc++.so.6", "tokio 1.54.1", "99.0.0"];
        assert_eq!(concerns.len(), words.len(), "{concerns:#?}");
        for (concern, word) in concerns.iter().zip(words) {
            assert!(concern.contains(word), "{word} is not in {concern}");
        }
        assert_eq!(super::concerns(b"/tokio-util-0.7.1/", &elf::Facts::default(), &manifest("1.0.0")), [""; 0]);
    }
}
