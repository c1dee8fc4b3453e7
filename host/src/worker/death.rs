//! What is left of a worker that is gone: why, whose fault that was, and what it had in its hands.

use std::{collections::HashSet, io, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::process::Signal;

use crate::plugin::preflight::signal_name;

/// What is left of a worker.
#[derive(Debug)]
pub(super) struct Death {
    pub(super) why: String,
    /// It was ended from outside, and not by the plugin.
    pub(super) from_outside: bool,
    /// Calls that it was given and had not ended.
    pub(super) delivered: HashSet<u64>,
    /// The oldest parcel that it had not done with: it may have begun with this one, but with no later one.
    pub(super) in_hand: Option<u64>,
}

impl Death {
    /// `told` is what was known of it before it was gone; `stopped`: it was killed because somebody else had stopped it.
    pub(super) fn of(
        status: io::Result<ExitStatus>,
        told: Option<String>,
        stopped: bool,
        delivered: HashSet<u64>,
        in_hand: Option<u64>,
    ) -> Death {
        let from_outside = stopped || told.is_none() && status.as_ref().is_ok_and(was_sent);
        let why = told.unwrap_or_else(|| match status {
            Ok(status) => last_words(status),
            Err(error) => format!("its worker is gone ({error})"),
        });
        Death { why, from_outside, delivered, in_hand }
    }

    /// Of one that never was.
    pub(super) fn at_birth(error: &io::Error) -> Death {
        let why = format!("its worker cannot be started ({error})");
        Death { why, from_outside: true, delivered: HashSet::new(), in_hand: None }
    }
}

/// Whether it died of a signal that no fault of a program raises.
fn was_sent(status: &ExitStatus) -> bool {
    let sent = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
    status.signal().is_some_and(|signal| sent.iter().any(|sent| sent.as_raw() == signal))
}

fn last_words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("its worker died of {}", signal_name(signal)),
        (None, Some(code)) => format!("its worker ended itself (exit status {code})"),
        (None, None) => "its worker is gone".to_owned(),
    }
}
