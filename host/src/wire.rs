//! placeholder: the lead writes this

/// The original's text for a module without a handler.
pub(crate) fn no_such_handler(module: &str, handler: &str) -> String {
    format!("module {module} dose not have a method called {handler}")
}
