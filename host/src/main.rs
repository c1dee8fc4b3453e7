//! The one binary.

use std::process::ExitCode;

use clap::Parser;
use muster::cli::{self, Cli};

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli::run(cli),
        Err(usage) => cli::usage(&usage),
    }
}
