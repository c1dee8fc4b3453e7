//! What became of an order, server by server.

use serde_json::json;

use super::{
    CliError,
    shown::{Listing, Row},
};

/// One server, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) server: String,
    pub(super) end: End,
}

/// How an order ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// It came about.
    Done(String),
    /// The order is on its way, and was not waited for.
    Ordered,
    /// It did not, with the reason.
    Failed(String),
    /// It had not when the time was over.
    TimedOut,
    /// The server was not there to be ordered anything.
    Unreachable,
}

impl Outcome {
    pub(super) fn new(server: &str, end: End) -> Outcome {
        Outcome { server: server.to_owned(), end }
    }
}

impl End {
    fn words(&self) -> (&'static str, String) {
        match self {
            End::Done(how) => ("done", how.clone()),
            End::Ordered => ("ordered", "not waited for".to_owned()),
            End::Failed(reason) => ("failed", reason.clone()),
            End::TimedOut => ("timed out", "not done within the timeout".to_owned()),
            End::Unreachable => ("unreachable", "not registered, or it does not answer".to_owned()),
        }
    }
}

/// 0 if all is done, 7 if something is; else 6 if time was all that was missing, and 1.
pub(super) fn exit_code(outcomes: &[Outcome]) -> u8 {
    let is_good = |outcome: &&Outcome| matches!(outcome.end, End::Done(_) | End::Ordered);
    match outcomes.iter().filter(is_good).count() {
        good if good == outcomes.len() => 0,
        0 if outcomes.iter().all(|outcome| outcome.end == End::TimedOut) => CliError::TIMEOUT,
        0 => CliError::FAILED,
        _ => CliError::PARTIAL,
    }
}

pub(super) fn listing(outcomes: &[Outcome]) -> Listing {
    let row = |Outcome { server, end }: &Outcome| {
        let (outcome, detail) = end.words();
        Row {
            item: json!({ "server": server, "outcome": outcome, "detail": detail }),
            cells: vec![server.clone(), outcome.to_owned(), detail],
        }
    };
    Listing {
        header: vec!["SERVER", "OUTCOME", "DETAIL"],
        rows: outcomes.iter().map(row).collect(),
        ..Listing::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_neither_all_nor_nothing() {
        let done = Outcome::new("a", End::Done("stopped".to_owned()));
        let late = Outcome::new("b", End::TimedOut);
        let gone = Outcome::new("c", End::Unreachable);
        assert_eq!(exit_code(&[]), 0);
        assert_eq!(exit_code(&[done.clone(), done.clone()]), 0);
        assert_eq!(exit_code(&[done.clone(), late.clone()]), 7);
        assert_eq!(exit_code(&[late.clone(), late.clone()]), 6);
        assert_eq!(exit_code(&[late, gone]), 1);
    }
}
