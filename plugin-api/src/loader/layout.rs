//! Whether a library was built with an interface that fits.

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
    // The one with fewer complaints is nearer to the difference that matters.
    let nearest = if reverse.errors.len() < error.errors.len() { &reverse } else { &error };
    let (place, difference) = first(nearest);
    Err(Some(Difference { place, difference, details: error.to_string() }))
}

fn first(errors: &AbiInstabilityErrors) -> (String, String) {
    let Some(first) = errors.errors.iter().filter(|error| !error.errs.is_empty()).min_by_key(|error| error.index)
    else {
        return ("an unknown place".to_owned(), "an unknown difference".to_owned());
    };
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
    let difference = match first.errs.iter().next() {
        Some(AbiInstability::Name(pair)) => {
            format!("type {} expected, {} found", pair.expected.name(), pair.found.name())
        }
        Some(AbiInstability::Package(pair)) => {
            format!("a type of package {} expected, of {} found", pair.expected, pair.found)
        }
        Some(AbiInstability::PackageVersion(pair)) => {
            format!("package version {} expected, {} found", pair.expected, pair.found)
        }
        Some(AbiInstability::FieldCountMismatch(pair)) => {
            format!("{} fields expected, {} found", pair.expected, pair.found)
        }
        Some(AbiInstability::UnexpectedField(pair)) => {
            format!("field {} expected, {} found", pair.expected.name(), pair.found.name())
        }
        Some(AbiInstability::Size(pair)) => format!("size {} expected, {} found", pair.expected, pair.found),
        Some(AbiInstability::Alignment(pair)) => format!("alignment {} expected, {} found", pair.expected, pair.found),
        Some(other) => {
            let debug = format!("{other:?}");
            debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
        }
        None => "an unknown difference".to_owned(),
    };
    (place.join(" → "), difference)
}
