//! What the daemon looks at every now and then, it looks at at the same moments: an idle one is woken as rarely as can be.

use std::{sync::OnceLock, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Ticks at the multiples of `period` since the first call of this function. One that was missed is left out.
pub(crate) fn every(period: Duration) -> Interval {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
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
        const PERIOD: Duration = Duration::from_millis(250);
        let mut first = every(PERIOD);
        tokio::time::advance(Duration::from_millis(70)).await;
        let mut second = every(PERIOD);
        for _ in 0..4 {
            assert_eq!(first.tick().await, second.tick().await);
        }
    }
}
