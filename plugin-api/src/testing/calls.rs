//! Calls that are under way in a fleet, and how they end.

use std::{collections::BTreeMap, time::Duration};

use serde::de::DeserializeOwned;

use crate::message::{Answer, Body, ModuleError, RequestError};

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "what the module answered is what is tested"]
pub enum Outcome {
    /// The module answered, perhaps in the error slot.
    Answered {
        /// The error slot.
        error: Body,
        /// The body.
        body: Body,
    },
    /// The handler returned an error.
    Failed {
        /// Its text.
        error: String,
    },
    /// The module has no such handler, or there is no such module.
    NoHandler,
    /// The handler panicked.
    Panicked {
        /// With this text.
        text: String,
    },
    /// There was no answer before the deadline; the module may have been silent.
    TimedOut,
}

/// Calls that are not over.
#[derive(Default)]
pub(super) struct Calls {
    next: u64,
    pub(super) waiting: BTreeMap<u64, Call>,
    pub(super) outcomes: BTreeMap<u64, Outcome>,
    pub(super) gathers: BTreeMap<u64, Gather>,
}

/// A call that somebody waits for.
pub(super) struct Call {
    pub(super) index: usize,
    pub(super) instance: u32,
    pub(super) module: String,
    pub(super) waiter: Waiter,
}

/// Who waits for a call.
pub(super) enum Waiter {
    /// The test.
    Test(u64),
    /// The test, for a step in the life of an instance, where silence is success.
    Life(u64),
    /// A module, by daemon, instance and the number of its ask.
    Ask { index: usize, instance: u32, ask: u64 },
    /// One of several, by the number of the gathering and the server.
    Gather { gather: u64, server: String },
    /// The schedule.
    Tick { index: usize, number: u32 },
}

/// A module that waits for the answers of all.
pub(super) struct Gather {
    pub(super) index: usize,
    pub(super) instance: u32,
    pub(super) ask: u64,
    pub(super) missing: usize,
    pub(super) found: Vec<serde_json::Value>,
}

type Answering = Box<dyn FnMut(&Body) -> Result<Answer, RequestError>>;

/// Answers requests in the place of a module.
pub(super) struct Script {
    pub(super) id: String,
    pub(super) module: String,
    pub(super) answer: Answering,
}

impl Calls {
    /// A number that nothing else has: for a call, an outcome or a gathering.
    pub(super) fn slot(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Outcome {
    /// The body of an answer without an error.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[track_caller]
    pub fn body(self) -> Body {
        match self {
            Outcome::Answered { error, body } if error.is_null() => body,
            other => panic!("an answer without an error was expected, and this was found: {other:?}"),
        }
    }

    /// The body of an answer without an error, as a `T`.
    ///
    /// # Panics
    /// When it ended otherwise, or has another shape.
    #[track_caller]
    pub fn parse<T: DeserializeOwned>(self) -> T {
        let body = self.body();
        body.parse().unwrap_or_else(|error: ModuleError| panic!("{error} in {body:?}"))
    }

    /// The text of a failure, or of an answer in the error slot.
    ///
    /// # Panics
    /// When it did not fail.
    #[track_caller]
    pub fn error(self) -> String {
        match self {
            Outcome::Answered { error, .. } if error.is_null() => panic!("it was answered without an error"),
            other => other.reason(),
        }
    }

    /// Why it is no success, in words.
    pub(super) fn reason(self) -> String {
        match self {
            Outcome::Answered { error, .. } => error.parse::<String>().unwrap_or_else(|_| error.as_str().to_owned()),
            Outcome::Failed { error } => error,
            Outcome::NoHandler => "the module has no such handler".to_owned(),
            Outcome::Panicked { text } => format!("panicked: {text}"),
            Outcome::TimedOut => "timed out".to_owned(),
        }
    }

    /// As another module sees it that has asked.
    pub(super) fn for_a_module(self, module: &str, limit: Duration) -> Result<(Body, Body), RequestError> {
        match self {
            Outcome::Answered { error, body } => Ok((error, body)),
            Outcome::TimedOut => {
                Err(RequestError::Timeout(format!("module {module} failed: timed out after {} s", limit.as_secs())))
            }
            other => match ModuleError::new(other.reason()).into_answer() {
                Answer::Reply { error, body } => Ok((error, body)),
                Answer::Silence => Ok((Body::ABSENT, Body::ABSENT)),
            },
        }
    }
}
