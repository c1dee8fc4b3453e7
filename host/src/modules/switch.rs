//! How a call finds the generation that takes it, and how a generation is known to have none left.
//!
//! A generation is replaced in this order: another is named in the table; the old one takes no calls any more; it is
//! closed when no call is open in it. A call is counted as open *before* it is asked whether it is taken, so that whoever
//! sees none open, in a generation that takes none, sees the last of them.
//!
//! Nothing of the host is used in here: `tests/switch_model.rs` compiles this file with the atomics of loom, and tries all
//! orders in which these steps can meet.

use super::sync::{AtomicUsize, Ordering};

/// What a generation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything.
    Open,
    /// No calls, but whatever those inside need in order to end.
    Draining,
    /// Nothing.
    Closed,
}

/// Handlers that have not ended.
#[derive(Debug)]
pub(crate) struct Open(AtomicUsize);

/// What became of a call that was given to the generation in the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attempt<C, R> {
    /// It was taken, or refused for a reason that another generation would have as well.
    Over(R),
    /// The generation takes no calls any more.
    Closed(C),
}

/// Gives a call to the generation that the table names, whichever that is when it arrives.
///
/// # Errors
/// The call comes back if the generation in the table takes no calls: then all is being shut down. A generation is taken
/// from the table before it stops to take calls, so that otherwise the table has changed since it was read.
pub(crate) fn hand_over<T, C, R>(
    mut call: C,
    load: impl Fn() -> T,
    is_same: impl Fn(&T, &T) -> bool,
    attempt: impl Fn(&T, C) -> Attempt<C, R>,
) -> Result<R, C> {
    let mut before: Option<T> = None;
    loop {
        let table = load();
        match attempt(&table, call) {
            Attempt::Over(result) => return Ok(result),
            Attempt::Closed(back) if before.is_some_and(|before| is_same(&before, &table)) => return Err(back),
            Attempt::Closed(back) => call = back,
        }
        before = Some(table);
    }
}

impl Phase {
    /// No new calls from now on.
    pub(crate) fn drain(&mut self) {
        if *self == Phase::Open {
            *self = Phase::Draining;
        }
    }

    /// Takes calls again, unless it was closed.
    pub(crate) fn reopen(&mut self) {
        if *self == Phase::Draining {
            *self = Phase::Open;
        }
    }
}

impl Open {
    /// None.
    pub(crate) fn none() -> Open {
        Open(AtomicUsize::new(0))
    }

    /// One more.
    pub(crate) fn begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// One less; says whether it was the last.
    pub(crate) fn end(&self) -> bool {
        // A plugin that ends a counted call twice must not make the count wrap.
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |open| open.checked_sub(1)) == Ok(1)
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}
