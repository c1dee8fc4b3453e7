//! How long calls take, in a fixed number of counters: logarithmic, four to an octave, so within a fifth of the truth.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// From 1 µs to an hour.
const OCTAVES: usize = 32;
const PER_OCTAVE: usize = 4;

/// Times of calls, from acceptance to the end of the handler.
#[derive(Debug)]
pub(crate) struct Latency([AtomicU64; OCTAVES * PER_OCTAVE]);

impl Default for Latency {
    fn default() -> Latency {
        Latency(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Latency {
    /// Notes one call.
    pub(super) fn record(&self, took: Duration) {
        self.0[slot(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// The time within which this part of all calls (0 to 1) has ended; `None` if there was none.
    pub(crate) fn quantile(&self, part: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return None;
        }
        let wanted = (part * all as f64).ceil() as u64;
        let mut seen = 0;
        let at = counts.iter().position(|count| {
            seen += count;
            seen >= wanted.max(1)
        });
        at.map(upper_end)
    }
}

fn slot(took: Duration) -> usize {
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let octave = us.ilog2() as usize;
    let within = if octave >= 2 { (us >> (octave - 2)) & 3 } else { (us << (2 - octave)) & 3 };
    (octave * PER_OCTAVE + within as usize).min(OCTAVES * PER_OCTAVE - 1)
}

fn upper_end(slot: usize) -> Duration {
    let (octave, within) = (slot / PER_OCTAVE, slot % PER_OCTAVE);
    let us = (1_u64 << octave) as f64 * (1.0 + (within + 1) as f64 / PER_OCTAVE as f64);
    Duration::from_secs_f64(us / 1e6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_calls_there_is_no_quantile() {
        assert_eq!(Latency::default().quantile(0.5), None);
    }

    #[test]
    fn quantiles_tell_the_many_from_the_few() {
        let latency = Latency::default();
        (0..98).for_each(|_| latency.record(Duration::from_millis(1)));
        (0..2).for_each(|_| latency.record(Duration::from_millis(80)));
        let of = |part| latency.quantile(part).unwrap().as_secs_f64() * 1e3;
        assert!((1.0..1.3).contains(&of(0.5)), "{}", of(0.5));
        assert!((80.0..100.0).contains(&of(0.99)), "{}", of(0.99));
    }

    proptest! {
        #[test]
        fn a_time_is_within_a_quarter_of_what_is_told(us in 4_u64..1_000_000_000) {
            let latency = Latency::default();
            latency.record(Duration::from_micros(us));
            let told = latency.quantile(1.0).unwrap().as_secs_f64() * 1e6;
            prop_assert!(told >= us as f64 && told <= us as f64 * 1.26, "{us} as {told}");
        }
    }
}
