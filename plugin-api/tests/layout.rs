//! The binary interface, written down: what a plugin that exists was built against cannot be changed any more.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::HashSet, fmt::Write, fs, path::Path};

use abi_stable::{
    StableAbi,
    std_types::utypeid::UTypeId,
    type_layout::{TLData, TLField, TypeLayout},
};
use muster_plugin_api::abi::PluginRootRef;

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/layout.txt");

/// Every type of this crate that crosses the boundary, with its size, its alignment and its fields in their order. Types
/// of `abi_stable` are only named: their crate is pinned.
fn surface() -> String {
    let mut text = String::new();
    describe(<PluginRootRef as StableAbi>::LAYOUT, &mut HashSet::new(), &mut text);
    // What numbers mean is data, which no layout shows.
    for line in include_str!("../src/abi.rs").lines() {
        let module = line.strip_prefix("pub mod ").map(|line| line.trim_end_matches(" {"));
        let number = line.trim_start().strip_prefix("pub const ").map(|line| line.trim_end_matches(';'));
        match (module, number) {
            (Some(module), _) => writeln!(text, "numbers of {module}").unwrap(),
            (None, Some(number)) => writeln!(text, "    {number}").unwrap(),
            (None, None) => {}
        }
    }
    text
}

fn describe(layout: &'static TypeLayout, seen: &mut HashSet<UTypeId>, text: &mut String) {
    if !seen.insert(layout.get_utypeid()) {
        return;
    }
    let name = layout.full_type().to_string();
    let own = layout.package() == "muster-plugin-api";
    let mut inner = Vec::new();
    if own {
        writeln!(text, "{name}: {} bytes, aligned to {}", layout.size(), layout.alignment()).unwrap();
    }
    let mut field = |field: &TLField| {
        if own {
            // Functions are told by their parameters, which are fields of theirs.
            writeln!(text, "    {}: {}", field.name(), field.full_type()).unwrap();
        }
        inner.push(field.layout());
        for function in field.function_range().iter() {
            if own {
                // The rest are lifetimes, by number.
                let function = function.to_string();
                writeln!(text, "        {}", function.lines().next().unwrap_or_default()).unwrap();
            }
            inner.extend(function.param_type_layouts.iter().map(|parameter| parameter()));
            inner.extend(function.return_type_layout().map(|result| result()));
        }
    };
    match layout.data() {
        TLData::Struct { fields } | TLData::Union { fields } => fields.iter().for_each(|one| field(&one)),
        TLData::PrefixType(prefix) => prefix.fields.iter().for_each(|one| field(&one)),
        TLData::Enum(variants) => variants.fields.iter().for_each(|one| field(&one)),
        TLData::Primitive(_) | TLData::Opaque => {}
    }
    inner.extend(layout.shared_vars().type_layouts().iter().map(|layout| layout()));
    for layout in inner {
        describe(layout, seen, text);
    }
}

#[test]
fn the_interface_is_what_is_written_down_or_has_only_grown() {
    let now = surface();
    let path = Path::new(SNAPSHOT);
    let before = fs::read_to_string(path).unwrap_or_default();
    if now == before {
        return;
    }
    let new: Vec<&str> = now.lines().collect();
    let mut rest = new.iter();
    let lost: Vec<&str> = before
        .lines()
        .filter(|line| !rest.clone().any(|found| found == line) || !rest.any(|found| found == line))
        .collect();
    fs::write(path.with_extension("txt.new"), &now).unwrap();
    assert!(
        !lost.is_empty(),
        "the binary interface has grown. If everything new was appended (functions with a default body at the end of a \
         trait, fields at the end of PluginRoot), write it down: mv tests/layout.txt.new tests/layout.txt, and raise the \
         minor version"
    );
    panic!(
        "the binary interface has changed, and plugins that exist would not be loaded any more: revert, or append instead. \
         Not there any more: {lost:#?}"
    );
}
