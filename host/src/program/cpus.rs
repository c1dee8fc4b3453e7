//! Which processors a program may use, as `taskset` writes it: `3`, `0,2`, `4-7`.

use std::{fmt, str::FromStr};

use rustix::thread::CpuSet;

/// Some processors, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cpus(Vec<usize>);

/// The text names no processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected processors such as 3, 0,2 or 4-7, each below {most}", most = CpuSet::MAX_CPU)]
pub(crate) struct NotCpus;

impl Cpus {
    pub(super) fn set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        self.0.iter().for_each(|cpu| set.set(*cpu));
        set
    }
}

impl FromStr for Cpus {
    type Err = NotCpus;

    fn from_str(text: &str) -> Result<Cpus, NotCpus> {
        let number = |text: &str| text.trim().parse().ok().filter(|cpu| *cpu < CpuSet::MAX_CPU).ok_or(NotCpus);
        let mut cpus = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => cpus.extend(number(first)?..=number(last)?),
                None => cpus.push(number(part)?),
            }
        }
        if cpus.is_empty() { Err(NotCpus) } else { Ok(Cpus(cpus)) }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_numbers_lists_and_ranges() {
        for (text, expected) in [("3", vec![3]), ("0,2", vec![0, 2]), ("4-6", vec![4, 5, 6]), ("0-1,7", vec![0, 1, 7])]
        {
            assert_eq!(text.parse(), Ok(Cpus(expected)), "{text}");
        }
        for odd in ["", "x", "1;id", "-1", "3-", "9-8", "100000"] {
            assert_eq!(odd.parse::<Cpus>(), Err(NotCpus), "{odd}");
        }
    }
}
