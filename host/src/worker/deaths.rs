//! When a worker that died is started again. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The first pause: a worker is back within a second, with time to spare.
const FIRST: Duration = Duration::from_millis(100);
/// Pauses double up to this: a plugin that dies with every call shall not keep the machine busy.
const LONGEST: Duration = Duration::from_secs(2);
/// A worker that has lived for so long died of something new.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// More deaths than [`TOO_MANY`] within this time are too many.
const WINDOW: Duration = Duration::from_secs(60);
const TOO_MANY: usize = 10;

/// The deaths of one generation's workers.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    recent: VecDeque<Instant>,
    pause: Option<Duration>,
}

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Start another worker, after a pause.
    Again(Duration),
    /// It died this many times within [`WINDOW`]: start no other.
    Never { deaths: usize, within: Duration },
}

impl Deaths {
    /// Takes note of a death at `now`, after a life of `lived`.
    pub(super) fn record(&mut self, now: Instant, lived: Duration) -> Next {
        self.recent.retain(|death| now.saturating_duration_since(*death) < WINDOW);
        self.recent.push_back(now);
        if self.recent.len() > TOO_MANY {
            return Next::Never { deaths: self.recent.len(), within: WINDOW };
        }
        let pause = match self.pause {
            Some(pause) if lived < LONG_LIFE => (pause * 2).min(LONGEST),
            _ => FIRST,
        };
        self.pause = Some(pause);
        Next::Again(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_until_a_worker_has_lived_for_long() {
        let now = Instant::now();
        let mut deaths = Deaths::default();
        let millis = [100, 200, 400, 800, 1600, 2000, 2000].map(Duration::from_millis);
        assert_eq!(millis.map(|_| deaths.record(now, SHORT)), millis.map(Next::Again));
        assert_eq!(deaths.record(now, LONG_LIFE), Next::Again(FIRST));
    }

    #[test]
    fn the_eleventh_death_within_a_minute_is_the_last() {
        let now = Instant::now();
        let mut deaths = Deaths::default();
        for death in 0..10 {
            assert!(matches!(deaths.record(now + Duration::from_secs(death), SHORT), Next::Again(_)));
        }
        assert_eq!(deaths.record(now + Duration::from_secs(59), SHORT), Next::Never { deaths: 11, within: WINDOW });
    }

    #[test]
    fn deaths_that_lie_back_do_not_count() {
        let now = Instant::now();
        let mut deaths = Deaths::default();
        for death in 0..30 {
            let at = now + Duration::from_secs(death * 7);
            assert!(matches!(deaths.record(at, SHORT), Next::Again(_)), "death {death}");
        }
    }
}
