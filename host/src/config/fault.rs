//! What is wrong with a configuration: all of it, at once, each with its place.

use std::{
    cell::RefCell,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Names that are less alike than this are different things; a letter too many or two that are swapped are above it.
const MEANT: f64 = 0.85;

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file, and the line if it is known.
    File {
        /// The file.
        path: Arc<Path>,
        /// Counted from 1.
        line: Option<usize>,
        /// Where exactly, for a TOML file.
        place: Option<Box<Place>>,
    },
    /// What holds if nothing is said.
    Default,
    /// An environment variable.
    Variable(&'static str),
    /// A flag of the command line.
    Flag(&'static str),
}

/// A setting in a TOML file, in bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub key: Range<usize>,
    /// Its value; of a table the beginning.
    pub value: Range<usize>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where; `None` for what is nowhere.
    pub origin: Option<Origin>,
    /// Which setting, such as `limits.outbox`; `None` if a file is at fault as a whole.
    pub key: Option<String>,
    /// What.
    pub problem: Problem,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Something else was expected.
    Expected {
        /// In words, with an example.
        expected: String,
        /// As it was written.
        found: String,
    },
    /// There is no such setting.
    Unknown {
        /// Those that there are beside it.
        known: Vec<&'static str>,
    },
    /// It is needed and not there.
    Missing {
        /// How to give it.
        give: String,
    },
    /// A file cannot be read, or is no TOML or JSON: the reader's words.
    Unreadable(String),
}

/// Everything that is wrong with a configuration; never empty as an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [fault] => write!(f, "configuration: {fault}"),
            faults => {
                write!(f, "configuration: {} faults", faults.len())?;
                faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { origin, key, problem } = self;
        if let Some(origin) = origin {
            write!(f, "{origin}: ")?;
        }
        if let Some(key) = key {
            write!(f, "{key}: ")?;
        }
        match problem {
            Problem::Expected { expected, found } => write!(f, "expected {expected}, found {found}"),
            Problem::Unknown { known } if known.is_empty() => f.write_str("no such setting"),
            Problem::Unknown { known } => {
                f.write_str("no such setting; ")?;
                if let Some(meant) = self.meant() {
                    write!(f, "did you mean {meant}? ")?;
                }
                write!(f, "there are: {}", known.join(", "))
            }
            Problem::Missing { give } => write!(f, "missing; give it as {give}"),
            Problem::Unreadable(reason) => f.write_str(reason),
        }
    }
}

impl Fault {
    /// The setting that was probably meant by one that is not there.
    pub fn meant(&self) -> Option<&'static str> {
        let Problem::Unknown { known } = &self.problem else { return None };
        let name = self.key.as_deref()?.rsplit('.').next()?;
        let likeness = |known: &&'static str| strsim::jaro_winkler(name, known);
        let best = known.iter().copied().max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
        (likeness(&best) > MEANT).then_some(best)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line: Some(line), place: _ } => write!(f, "{}:{line}", path.display()),
            Origin::File { path, line: None, place: _ } => write!(f, "{}", path.display()),
            Origin::Variable(name) | Origin::Flag(name) => f.write_str(name),
            Origin::Default => f.write_str("default"),
        }
    }
}

impl Origin {
    pub(super) fn file(path: impl Into<PathBuf>, line: Option<usize>) -> Origin {
        Origin::File { path: path.into().into(), line, place: None }
    }
}

/// Where readers leave what they find wrong, and go on.
#[derive(Debug, Default)]
pub(super) struct FaultList(RefCell<Vec<Fault>>);

impl FaultList {
    pub(super) fn add(&self, fault: Fault) {
        self.0.borrow_mut().push(fault);
    }

    pub(super) fn into_result<T>(self, value: T) -> Result<T, Faults> {
        let faults = self.0.into_inner();
        if faults.is_empty() { Ok(value) } else { Err(Faults(faults)) }
    }
}
