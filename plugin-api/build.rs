//! Notes which compiler builds this crate; it is the compiler of the plugin that uses it.

use std::process::Command;

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=MUSTER_RUSTC={}", version.trim());
    println!("cargo::rerun-if-changed=build.rs");
}
