//! What the daemon looks at every now and then, it looks at at the same moments: an idle one is woken as rarely as can be.

use std::{sync::OnceLock, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// A few times a second. A timer of tokio's goes off in two steps unless it is due at a multiple of 64 ms since the runtime
/// began, and each step is a wake.
pub(crate) const OFTEN: Duration = Duration::from_millis(256);

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// To be called before a runtime is made: beats count from here.
pub(crate) fn begin() {
    ORIGIN.get_or_init(Instant::now);
}

/// Ticks at the multiples of `period` since the beginning, which is the first call of this function at the latest. One that
/// was missed is left out.
pub(crate) fn every(period: Duration) -> Interval {
    let now = Instant::now();
    let origin = *ORIGIN.get_or_init(|| now);
    let since = now.saturating_duration_since(origin).as_nanos() % period.as_nanos().max(1);
    let mut beat = interval_at(now + period - Duration::from_nanos(u64::try_from(since).unwrap_or_default()), period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    beat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beats_that_began_at_different_times_are_one() {
        let mut first = every(OFTEN);
        tokio::time::advance(Duration::from_millis(70)).await;
        let mut second = every(OFTEN);
        for _ in 0..4 {
            assert_eq!(first.tick().await, second.tick().await);
        }
    }
}
