//! What a library exports, behind [`export_modules!`](crate::export_modules).

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RErr, ROk, RResult, RString},
};

use crate::{
    abi::{HostObj, PluginObj, RawPlugin_TO},
    manifest::PluginManifest,
    runtime::{Export, Runtime, fence, log_panics_to},
};

/// The manifest of a library as JSON, or `{"error": …}`.
#[doc(hidden)]
pub fn manifest(name: &str, version: &str, panic: &str, exports: &[Export]) -> RString {
    let described = fence(|| PluginManifest {
        name: name.to_owned(),
        version: version.to_owned(),
        api: crate::VERSION.to_owned(),
        compiler: env!("MUSTER_RUSTC").to_owned(),
        panic: panic.to_owned(),
        modules: exports.iter().map(|export| (export.manifest)()).collect(),
    });
    let json = match described {
        Ok(manifest) => serde_json::to_string(&manifest).map_err(|error| error.to_string()),
        Err(panic) => Err(panic),
    };
    json.unwrap_or_else(|error| serde_json::json!({ "error": error }).to_string()).into()
}

/// Makes the plugin.
#[doc(hidden)]
pub fn create(host: HostObj, exports: &'static [Export]) -> RResult<PluginObj, RString> {
    log_panics_to(&host);
    match fence(|| Runtime::new(host, exports)) {
        Ok(runtime) => ROk(RawPlugin_TO::from_value(runtime, TD_Opaque)),
        Err(panic) => RErr(panic.into()),
    }
}

/// Exports modules from a `cdylib`: once per library, with every type that implements [`Module`](crate::Module).
///
/// ```
/// use muster_plugin_api::{Context, Manifest, Module, ModuleError, export_modules};
///
/// struct Hello;
///
/// impl Module for Hello {
///     fn manifest() -> Manifest {
///         Manifest::new("hello", env!("CARGO_PKG_VERSION"))
///     }
///     fn create(_: Context) -> Result<Hello, ModuleError> {
///         Ok(Hello)
///     }
/// }
///
/// export_modules!(Hello);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_modules {
    ($($module:ty),+ $(,)?) => {
        const _: () = {
            use $crate::__private::{
                CheckTypeLayout, Export, HostObj, LibHeader, PluginObj, PluginRoot, PluginRootRef, PrefixTypeTrait,
                RResult, RString, RootModuleResult, WithMetadata, load_root,
            };

            static EXPORTS: &[Export] = &[$(Export::of::<$module>()),+];

            extern "C" fn manifest() -> RString {
                let panic = if cfg!(panic = "unwind") { "unwind" } else { "abort" };
                $crate::__private::manifest(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), panic, EXPORTS)
            }

            extern "C" fn run(job: u64) {
                $crate::__private::run(job);
            }

            extern "C" fn create(host: HostObj) -> RResult<PluginObj, RString> {
                $crate::__private::create(host, EXPORTS)
            }

            const ROOT: &WithMetadata<PluginRoot> = &WithMetadata::new(PluginRoot { manifest, create, run });

            fn root() -> PluginRootRef {
                PluginRootRef(ROOT.static_as_prefix())
            }

            extern "C" fn loader() -> RootModuleResult {
                load_root(root)
            }

            // The name by which hosts find the header: abi_stable's ROOT_MODULE_LOADER_NAME. Its own attribute macro
            // would make every author depend on abi_stable.
            #[allow(unsafe_code, reason = "a library has to export one symbol by name")]
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            #[used]
            pub static HEADER: LibHeader =
                // SAFETY: `loader` returns the root module of exactly this type.
                unsafe { LibHeader::from_constructor::<PluginRootRef>(loader, CheckTypeLayout::Yes) };
        };
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_exported_symbol_is_the_one_that_hosts_look_for() {
        assert_eq!(abi_stable::library::ROOT_MODULE_LOADER_NAME, "_1as_0lib_1header_0root_bmodule_bloader");
    }
}
