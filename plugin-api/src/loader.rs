//! For hosts (feature `loader`): opens and closes libraries, what cannot be done without `unsafe` and nothing else.
//!
//! Opening does *not* check the layout of the root module. `abi_stable`'s checker keeps references into every library it
//! has seen, so a check followed by a close leads to a crash at the next check. A process that never closes checks with
//! [`compare`] (the host's preflight child, and tests); what it checked is the very file that the host opens afterwards.
#![expect(unsafe_code, reason = "loading a library runs its code and trusts its symbols")]

use std::{fmt, path::Path};

use crate::abi::{HostObj, PluginObj, PluginRootRef};
use abi_stable::library::{AbiHeaderRef, LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use libloading::os::unix::{Library as RawLibrary, RTLD_LOCAL, RTLD_NOW};

mod layout;

pub use layout::{Difference, compare};

/// `RTLD_NOLOAD`: libloading has no name for it.
const RTLD_NOLOAD: std::ffi::c_int = 4;

/// An open library with the interface that its header promises. Dropping it keeps it mapped; see [`Library::retire`].
pub struct Library {
    mapped: Mapped,
    root: PluginRootRef,
}

/// An open library that nobody calls any more: knows no address in it. Dropping it keeps it mapped; see [`Mapped::close`].
#[derive(Debug)]
pub struct Mapped(Option<RawLibrary>);

/// A library that is open, and of which nothing is known yet.
#[derive(Debug)]
pub struct Unchecked {
    raw: RawLibrary,
}

/// Why a library has no usable header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderError {
    /// It does not export the symbol by which plugins are found.
    NoSymbol,
    /// What stands there is not a header of the version of `abi_stable` used here.
    Foreign(String),
}

// === impl Unchecked ===

impl Unchecked {
    /// Opens the file; its constructors run on this thread.
    ///
    /// # Errors
    /// The loader's text.
    pub fn open(path: &Path) -> Result<Unchecked, String> {
        // SAFETY: constructors are foreign code, which nothing can prove harmless: that is what plugins are. In the
        // daemon this file has been opened by the preflight child before; in the child it may do what it likes.
        let raw = unsafe { RawLibrary::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| text_of(&error))?;
        Ok(Unchecked { raw })
    }

    /// The header, after its magic, its version and the C ABI were checked. It lives as long as the library is mapped.
    ///
    /// # Errors
    /// When there is none, or none that can be used.
    pub fn header(&self) -> Result<&'static LibHeader, HeaderError> {
        // SAFETY: the symbol is only ever exported as a static of this kind, with the name saying so. A library that
        // lies about it does so in the preflight child first, since `upgrade` looks at the magic.
        let header = *unsafe { self.raw.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) }
            .map_err(|_| HeaderError::NoSymbol)?;
        // The error may refer to the library: it becomes text here.
        header.upgrade().map_err(|error| HeaderError::Foreign(error.to_string()))
    }

    /// Takes the root module for what the header says it is.
    ///
    /// To be called for a file that has passed the layout check (in the preflight child: after it).
    ///
    /// # Errors
    /// When the library's own initialisation fails.
    pub fn trust(self, header: &'static LibHeader) -> Result<Library, String> {
        // SAFETY: the layout of this very file was compared with ours before, see the module's documentation.
        let root = unsafe { header.unchecked_layout::<PluginRootRef>() }.map_err(|error| error.to_string())?;
        Ok(Library { mapped: Mapped(Some(self.raw)), root })
    }
}

// === impl Library ===

impl Library {
    /// Opens a staged file that has passed preflight, on the thread that its plugin will live on.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(path: &Path) -> Result<Library, String> {
        let library = Unchecked::open(path)?;
        let header = library.header().map_err(|error| error.to_string())?;
        library.trust(header)
    }

    /// The manifest as the library gives it: JSON, one hopes.
    pub fn manifest(&self) -> String {
        // Copied: the text is freed by the library.
        self.root.manifest()().as_str().to_owned()
    }

    /// Makes the plugin. It has to be dropped, on this thread, before the library is closed.
    ///
    /// # Errors
    /// The plugin's own words.
    pub fn create(&self, host: HostObj) -> Result<PluginObj, String> {
        self.root.create()(host).into_result().map_err(|error| error.as_str().to_owned())
    }

    /// What does the jobs that the plugin hands out ([`BLOCKING`](crate::abi::ask::BLOCKING)); none in a plugin of the first
    /// version. To be called only while the library is open: until it returns, it must not be closed.
    pub fn run(&self) -> Option<extern "C" fn(u64)> {
        self.root.run()
    }

    /// Forgets the interface.
    pub fn retire(self) -> Mapped {
        self.mapped
    }
}

// === impl Mapped ===

impl Mapped {
    /// Lets the loader unmap the library, if nothing else keeps it; whether it did is to be looked up.
    ///
    /// To be called once the plugin is dropped, its thread has ended, and no other thread is inside.
    ///
    /// # Errors
    /// The loader's text.
    pub fn close(mut self) -> Result<(), String> {
        self.0.take().map_or(Ok(()), |raw| raw.close().map_err(|error| text_of(&error)))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // An unmap under code that runs is the one thing that must not happen: closing takes a decision.
        std::mem::forget(self.0.take());
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("mapped", &self.mapped).finish_non_exhaustive()
    }
}

/// What the loader says; libloading only says which of its functions failed.
fn text_of(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Whether the loader still has this file in its list.
pub fn is_loaded(path: &Path) -> bool {
    // SAFETY: `RTLD_NOLOAD` runs no constructor, it only takes a reference to what is there already. The handle is
    // dropped at once, which gives the reference back.
    unsafe { RawLibrary::open(Some(path), RTLD_NOW | RTLD_NOLOAD) }.is_ok()
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::NoSymbol => f.write_str("it has no root module symbol"),
            HeaderError::Foreign(text) => f.write_str(text),
        }
    }
}
