//! Whether a new generation does worse than the one that it replaced: pure policy.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{modules::calls::Figures, worker};

/// The default of `plugins.rollback_calls`: fewer say nothing about a rate.
pub(crate) const CALLS: usize = 20;
/// The default of `plugins.rollback_panics`: one may be a caller's fault, a third one is not.
pub(crate) const PANICS: usize = 3;
/// The default of `plugins.rollback_errors`, in percent of all calls beyond the old rate.
pub(crate) const ERRORS: usize = 20;
/// The default of `plugins.rollback_slower`: how many times slower is too slow.
pub(crate) const SLOWER: usize = 5;

/// One panic within so many calls is enough: that handler was never good.
const FIRST_CALLS: u64 = 10;
/// Faster than this nobody is called slow, whatever the old one took: a busy machine alone does that.
const FAST: Duration = Duration::from_millis(20);
/// Beyond this part of all calls a generation fails, if there is no old rate to compare with.
const ERRORS_WITHOUT_COMPARISON: usize = 50;

/// The limits of a new generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How many calls have to have ended before their rate of errors and their times are judged.
    pub(crate) calls: usize,
    /// So many panics, however many calls there were.
    pub(crate) panics: usize,
    /// So many percent of calls that fail, beyond the old one's.
    pub(crate) errors: usize,
    /// So many times slower, in the median and the 99th percentile.
    pub(crate) slower: usize,
}

/// What a generation has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// Handlers that have ended, or were given up.
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    pub(crate) panics: u64,
    /// The how-manieth call panicked first; 0 for none.
    pub(crate) first_panic: u64,
    /// Workers that died, and not because of something from outside.
    pub(crate) deaths: u64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { calls: CALLS, panics: PANICS, errors: ERRORS, slower: SLOWER }
    }
}

impl Sample {
    /// At this moment.
    pub(crate) fn of(figures: &Figures, worker: Option<&worker::Figures>) -> Sample {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Sample {
            calls: read(&figures.handled) + read(&figures.timeouts),
            errors: read(&figures.errors),
            panics: read(&figures.panics),
            first_panic: read(&figures.first_panic),
            deaths: worker.map(|worker| read(&worker.faults)).unwrap_or_default(),
            p50: figures.latency.quantile(0.5).unwrap_or_default(),
            p99: figures.latency.quantile(0.99).unwrap_or_default(),
        }
    }

    fn percent_failed(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.errors as f64 * 100.0 / self.calls as f64 }
    }
}

impl Limits {
    /// Whether workers of the new generation die as those of the old one did not: the first is one too many then.
    pub(crate) fn dies(&self, old: &Sample, new: &Sample) -> bool {
        new.deaths > 0 && old.deaths == 0 || new.deaths >= self.panics as u64
    }

    /// Why the new generation is not to go on, if so.
    pub(crate) fn verdict(&self, old: &Sample, new: &Sample) -> Option<String> {
        if new.first_panic > 0 && new.first_panic <= FIRST_CALLS {
            return Some(format!("it panicked in its call {}", new.first_panic));
        }
        if new.panics >= self.panics as u64 {
            return Some(format!("it panicked {} times in {} calls", new.panics, new.calls));
        }
        if new.calls < self.calls as u64 {
            return None;
        }
        let comparable = old.calls >= self.calls as u64;
        let (failed, failed_before) = (new.percent_failed(), old.percent_failed());
        let allowed = if comparable { failed_before + self.errors as f64 } else { ERRORS_WITHOUT_COMPARISON as f64 };
        if failed > allowed {
            return Some(if comparable {
                format!("{failed:.0} % of its calls fail, of the old one's {failed_before:.0} %")
            } else {
                format!("{failed:.0} % of its calls fail")
            });
        }
        let slower = |new: Duration, old: Duration| new > old * u32::try_from(self.slower).unwrap_or(u32::MAX);
        if comparable && new.p99 > FAST && slower(new.p50, old.p50) && slower(new.p99, old.p99) {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            return Some(format!(
                "its calls take {:.1} ms (p99 {:.1} ms), the old one's {:.1} ms (p99 {:.1} ms)",
                ms(new.p50),
                ms(new.p99),
                ms(old.p50),
                ms(old.p99)
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(calls: u64, errors: u64, p50_ms: u64) -> Sample {
        let p50 = Duration::from_millis(p50_ms);
        Sample { calls, errors, p50, p99: p50 * 2, ..Sample::default() }
    }

    #[test]
    fn the_first_death_of_a_worker_is_one_too_many_if_the_old_one_had_none() {
        let (limits, deaths) = (Limits::default(), |deaths| Sample { deaths, ..Sample::default() });
        for (old, new, dies) in [(0, 0, false), (0, 1, true), (1, 1, false), (1, 3, true), (3, 0, false)] {
            assert_eq!(limits.dies(&deaths(old), &deaths(new)), dies, "{old}, then {new}");
        }
    }

    fn panics(calls: u64, panics: u64, first_panic: u64) -> Sample {
        Sample { panics, first_panic, errors: panics, ..sample(calls, 0, 1) }
    }

    #[test]
    fn a_generation_that_does_worse_is_told_why_and_one_that_does_not_goes_on() {
        let old = sample(1_000, 20, 10);
        for (new, words) in [
            (sample(0, 0, 0), None),
            (sample(19, 19, 0), None),
            (sample(20, 20, 0), Some("100 % of its calls fail, of the old one's 2 %")),
            (sample(100, 22, 10), None),
            (sample(100, 23, 10), Some("23 % of its calls fail")),
            (sample(100, 2, 50), None),
            (sample(100, 2, 51), Some("its calls take 51.0 ms (p99 102.0 ms), the old one's 10.0 ms")),
            (sample(19, 0, 500), None),
            (panics(1, 1, 1), Some("it panicked in its call 1")),
            (panics(500, 1, 10), Some("it panicked in its call 10")),
            (panics(500, 2, 11), None),
            (panics(500, 3, 11), Some("it panicked 3 times in 500 calls")),
        ] {
            let verdict = Limits::default().verdict(&old, &new);
            match words {
                None => assert_eq!(verdict, None, "{new:?}"),
                Some(words) => assert!(verdict.as_ref().is_some_and(|text| text.starts_with(words)), "{verdict:?}"),
            }
        }
    }

    #[test]
    fn without_calls_of_the_old_one_only_a_generation_that_mostly_fails_goes_back() {
        let old = sample(3, 0, 1);
        let limits = Limits::default();
        assert_eq!(limits.verdict(&old, &sample(100, 50, 900)), None);
        assert_eq!(limits.verdict(&old, &sample(100, 51, 1)), Some("51 % of its calls fail".to_owned()));
    }

    #[test]
    fn what_is_fast_is_not_called_slow() {
        let old = Sample { p99: Duration::from_micros(100), p50: Duration::from_micros(50), ..sample(100, 0, 0) };
        assert_eq!(Limits::default().verdict(&old, &sample(100, 0, 10)), None, "20 ms at the most");
        assert!(Limits::default().verdict(&old, &sample(100, 0, 11)).is_some());
    }
}
