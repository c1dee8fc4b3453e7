//! The one binary.

use std::path::Path;

fn main() {
    // Hidden: how a daemon starts itself again in order to vet a plugin.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|command| command == "preflight")
        && let Some(path) = arguments.next()
    {
        muster::preflight_child(Path::new(&path));
    }
}
