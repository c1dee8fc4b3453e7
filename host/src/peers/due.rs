//! When it is worth while to look for what is overdue: not before the earliest deadline.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// Nothing is waited for.
const NEVER: u64 = u64::MAX;

/// The earliest of some deadlines, or a moment before it: what ends early stays counted until somebody has looked.
#[derive(Debug)]
pub(super) struct Due {
    origin: Instant,
    /// Milliseconds after `origin`.
    at: AtomicU64,
}

impl Due {
    pub(super) fn new() -> Due {
        Due { origin: Instant::now(), at: AtomicU64::new(NEVER) }
    }

    /// Something has this deadline.
    pub(super) fn at(&self, deadline: Instant) {
        let deadline = self.milliseconds(deadline);
        // Mostly it is not the earliest, and nobody else is to wait for a line of memory.
        if deadline < self.at.load(Ordering::Relaxed) {
            self.at.fetch_min(deadline, Ordering::Relaxed);
        }
    }

    /// Whether something may be overdue.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at.load(Ordering::Relaxed) <= self.milliseconds(now)
    }

    /// Whoever looks tells all deadlines again that have not come.
    pub(super) fn forget(&self) {
        self.at.store(NEVER, Ordering::Relaxed);
    }

    fn milliseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(NEVER - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_is_due_at_the_earliest_deadline_and_not_before() {
        let due = Due::new();
        let after = |ms| due.origin + Duration::from_millis(ms);
        assert!(!due.is_due(after(1_000_000)));
        due.at(after(30));
        due.at(after(20));
        due.at(after(40));
        assert_eq!((due.is_due(after(19)), due.is_due(after(20))), (false, true));
        due.forget();
        assert!(!due.is_due(after(40)));
    }
}
