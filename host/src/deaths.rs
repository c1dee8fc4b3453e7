//! When a process that died is started again, and when it has died too often. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How often a process may die, and how long to wait before the next one is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// The first pause.
    pub(crate) first: Duration,
    /// Pauses double up to this.
    pub(crate) longest: Duration,
    /// A process that has lived for so long died of something new: pauses begin with the first again.
    pub(crate) long_life: Duration,
    /// More deaths than this within [`window`](Patience::window) are too many.
    pub(crate) deaths: usize,
    pub(crate) window: Duration,
}

/// The deaths of one process and of those that took over from it.
#[derive(Debug)]
pub(crate) struct Deaths {
    patience: Patience,
    recent: VecDeque<Instant>,
    pause: Option<Duration>,
}

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Start another one, after a pause.
    Again(Duration),
    /// It died this many times within this time: start no other.
    Never { deaths: usize, within: Duration },
}

impl Deaths {
    pub(crate) fn new(patience: Patience) -> Deaths {
        Deaths { patience, recent: VecDeque::new(), pause: None }
    }

    /// Takes note of a death at `now`, after a life of `lived`.
    pub(crate) fn record(&mut self, now: Instant, lived: Duration) -> Next {
        let Patience { first, longest, long_life, deaths, window } = self.patience;
        self.recent.retain(|death| now.saturating_duration_since(*death) < window);
        self.recent.push_back(now);
        if self.recent.len() > deaths {
            return Next::Never { deaths: self.recent.len(), within: window };
        }
        let pause = match self.pause {
            Some(pause) if lived < long_life => (pause * 2).min(longest),
            _ => first,
        };
        self.pause = Some(pause);
        Next::Again(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const FIRST: Duration = Duration::from_millis(100);
    const WINDOW: Duration = Duration::from_secs(60);
    const PATIENCE: Patience =
        Patience { first: FIRST, longest: Duration::from_secs(2), long_life: WINDOW, deaths: 10, window: WINDOW };

    #[test]
    fn pauses_double_until_a_process_has_lived_for_long() {
        let now = Instant::now();
        let mut deaths = Deaths::new(PATIENCE);
        let millis = [100, 200, 400, 800, 1600, 2000, 2000].map(Duration::from_millis);
        assert_eq!(millis.map(|_| deaths.record(now, SHORT)), millis.map(Next::Again));
        assert_eq!(deaths.record(now, WINDOW), Next::Again(FIRST));
    }

    #[test]
    fn the_eleventh_death_within_a_minute_is_the_last() {
        let now = Instant::now();
        let mut deaths = Deaths::new(PATIENCE);
        for death in 0..10 {
            assert!(matches!(deaths.record(now + Duration::from_secs(death), SHORT), Next::Again(_)));
        }
        assert_eq!(deaths.record(now + Duration::from_secs(59), SHORT), Next::Never { deaths: 11, within: WINDOW });
    }

    #[test]
    fn deaths_that_lie_back_do_not_count() {
        let now = Instant::now();
        let mut deaths = Deaths::new(PATIENCE);
        for death in 0..30 {
            let at = now + Duration::from_secs(death * 7);
            assert!(matches!(deaths.record(at, SHORT), Next::Again(_)), "death {death}");
        }
    }
}
