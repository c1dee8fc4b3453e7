//! The child that takes a profile: its order comes on standard input, its result goes to standard output.

use std::{
    collections::HashMap,
    io::{self, BufRead, Read, Write},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use muster_plugin_api::ProfileFormat;
use rustix::process::Signal;

use super::{Order, Taken, Verdict, left, pprof, sampler::Sampler, stacks::Stacks, symbols::Symbols};

/// Not a round number, so that what a program does at round times is not seen too often or never.
const SAMPLES_PER_SECOND: u32 = 99;

/// The whole life of the child, for the hidden command `sample`.
pub(crate) fn child_main() -> io::Result<()> {
    // Without its daemon nobody waits for the result.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line)?;
    let (verdict, result): (Verdict, _) = match profile(&order, &end_of_input()) {
        Ok((samples, took, result)) => {
            let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            (Ok(Taken { samples, duration_ms }), result)
        }
        Err(error) => (Err(error.to_string()), Vec::new()),
    };
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, &verdict)?;
    stdout.write_all(b"\n")?;
    stdout.write_all(&result)?;
    stdout.flush()
}

/// Disconnected when standard input ends.
fn end_of_input() -> Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut rest = Vec::new();
        // Whatever comes is ignored; an error is an end, too.
        drop(io::stdin().lock().read_to_end(&mut rest));
        drop(sender);
    });
    receiver
}

fn profile(order: &Order, ended: &Receiver<()>) -> io::Result<(u64, Duration, Vec<u8>)> {
    let mut sampler = Sampler::of(order.pid)?;
    let mut symbols = Symbols::of(order.pid)?;
    let mut seen: HashMap<(String, Vec<_>), u64> = HashMap::new();
    let begin = Instant::now();
    let end = begin + Duration::from_millis(order.duration_ms);
    let period = Duration::from_secs(1) / SAMPLES_PER_SECOND;
    let mut next = begin;
    while Instant::now() < end {
        symbols.forget_misses();
        for sample in sampler.sample(&mut symbols)? {
            *seen.entry((sample.thread, sample.frames)).or_default() += 1;
        }
        // What was missed is not made up for: a late sample says where the threads are now.
        next = (next + period).max(Instant::now());
        match ended.recv_timeout(left(next.min(end))) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let took = begin.elapsed();
    let stacks = Stacks::named(seen, &mut symbols);
    let result = match order.format {
        ProfileFormat::Svg => stacks.flamegraph(order.pid, took)?,
        ProfileFormat::Pprof => pprof::encode(&stacks, took, period)?,
        ProfileFormat::Tree => stacks.trees().to_string().into_bytes(),
    };
    Ok((stacks.samples(), took, result))
}
