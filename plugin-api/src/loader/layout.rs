//! Whether a library was built with an interface that fits.

use std::fmt;

use abi_stable::{
    StableAbi,
    abi_stability::abi_checking::{AbiInstability, AbiInstabilityErrors, check_layout_compatibility},
    library::LibHeader,
    type_layout::TLFieldOrFunction,
};

use crate::abi::PluginRootRef;

/// Where a library's interface differs from that of this crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The way to the first place, such as `PluginRoot → manifest → its result`.
    pub place: String,
    /// What was expected there, and what was found.
    pub difference: String,
    /// All differences, as `abi_stable` writes them: some hundred lines.
    pub details: String,
}

/// Compares the layouts. The checker is one-sided, a host with one more function would refuse every older plugin; that
/// either is a prefix of the other is just as sound, since missing fields are noticed when they are used.
///
/// The library must stay open until the process ends.
///
/// # Errors
/// The first difference; none when the library does not describe its layout.
pub fn compare(header: &'static LibHeader) -> Result<(), Option<Difference>> {
    let host = <PluginRootRef as StableAbi>::LAYOUT;
    let plugin = header.layout().ok_or(None)?;
    let Err(error) = check_layout_compatibility(host, plugin) else { return Ok(()) };
    let Err(reverse) = check_layout_compatibility(plugin, host) else { return Ok(()) };
    // Where one has more fields than the other, nothing further is compared: then the other way round says more.
    let (place, difference) = match first(&error, false) {
        Some((_, _, true)) | None => first(&reverse, true).or_else(|| first(&error, false)),
        found => found,
    }
    .map_or_else(
        || ("an unknown place".to_owned(), "an unknown difference".to_owned()),
        |(place, what, _)| (place, what),
    );
    Err(Some(Difference { place, difference, details: error.to_string() }))
}

/// The first difference: where, what, and whether it is only a number of fields. `reversed`: the host was compared with the
/// plugin's expectations.
fn first(errors: &AbiInstabilityErrors, reversed: bool) -> Option<(String, String, bool)> {
    let first = errors.errors.iter().filter(|error| !error.errs.is_empty()).min_by_key(|error| error.index)?;
    let mut place: Vec<&str> = vec!["PluginRoot"];
    for step in &first.stack_trace {
        let name = match step.expected {
            TLFieldOrFunction::Field(field) => field.name(),
            TLFieldOrFunction::Function(function) => function.name.as_str(),
        };
        match name {
            // Of a reference, and of a function that is a field, which has been named by then.
            "" | "0" => {}
            "__returns" => place.push("its result"),
            name if place.last() == Some(&name) => {}
            name => place.push(name),
        }
    }
    let told = |what: &str, expected: &dyn fmt::Display, found: &dyn fmt::Display| {
        let (expected, found) = if reversed { (found, expected) } else { (expected, found) };
        format!("{what}{expected} expected, {found} found")
    };
    let instability = first.errs.iter().next()?;
    let difference = match instability {
        AbiInstability::Name(pair) => told("type ", &pair.expected.name(), &pair.found.name()),
        AbiInstability::Package(pair) => told("a type of package ", &pair.expected, &pair.found),
        AbiInstability::PackageVersion(pair) => told("package version ", &pair.expected, &pair.found),
        AbiInstability::FieldCountMismatch(pair) => told("this many fields: ", &pair.expected, &pair.found),
        AbiInstability::UnexpectedField(pair) => told("field ", &pair.expected.name(), &pair.found.name()),
        AbiInstability::Size(pair) => told("size ", &pair.expected, &pair.found),
        AbiInstability::Alignment(pair) => told("alignment ", &pair.expected, &pair.found),
        other => {
            let debug = format!("{other:?}");
            debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
        }
    };
    Some((place.join(" → "), difference, matches!(instability, AbiInstability::FieldCountMismatch(_))))
}
