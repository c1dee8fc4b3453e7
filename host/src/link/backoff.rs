//! How long to wait before the next attempt to connect.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The first wait, and the wait after every success: the original's.
pub(crate) const FIRST: Duration = Duration::from_secs(1);

/// The longest wait: the original's. A fleet whose master was away for long finds it again within a minute.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// Waits that double from `first` to `longest`, each with up to a quarter on top, so that a fleet that lost its master
/// at once does not come back at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { first, longest, next: first }
    }

    /// The wait before the next attempt; the one after it is twice as long.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait + wait.mul_f64(fraction() / 4.0)
    }

    /// An attempt succeeded.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Somewhere in 0..1. The standard library's random keys are random enough to keep peers apart.
fn fraction() -> f64 {
    let random = RandomState::new().hash_one(0u8) >> 32;
    random as f64 / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_again_after_success() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let (least, most) = (Duration::from_secs(seconds), Duration::from_millis(seconds * 1250));
            let wait = backoff.wait();
            assert!(least <= wait && wait <= most, "{wait:?} is not between {least:?} and {most:?}");
        }
        backoff.reset();
        assert!(backoff.wait() < Duration::from_secs(2));
    }
}
