//! The one binary.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use muster::cli::{self, Cli};

fn main() -> ExitCode {
    // Answers a shell that completes a line, and ends.
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    match Cli::try_parse() {
        Ok(cli) => cli::run(cli),
        Err(usage) => cli::usage(&usage),
    }
}
