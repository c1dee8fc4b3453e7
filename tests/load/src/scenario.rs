//! The scenarios. One call is one measurement of one cell on one target.

mod closed_loop;
mod fan_in;
mod fan_out;
mod mixed;
mod storm;
mod unanswered;

use crate::conn::{Caller, Conn, Opts, monitor_id};
use crate::monitors::{DATE, Modules, Shared, crowd, time_report};
use crate::wire::{self, Frame};
use crate::{proc, wire::full};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::time::sleep;

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub(crate) struct Out {
    pub(crate) cell: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) skipped: Option<String>,
    pub(crate) metrics: BTreeMap<String, f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
}

pub(crate) struct Env {
    pub(crate) o: Opts,
    pub(crate) m: Arc<Modules>,
    pub(crate) pid: i32,
    pub(crate) warm: f64,
    pub(crate) dur: f64,
    pub(crate) pad: usize,
    pub(crate) inflight: usize,
    pub(crate) rounds: usize,
    pub(crate) s8_secs: f64,
    pub(crate) idle_secs: f64,
}

struct Win {
    t: Instant,
    tc: Duration,
    gc: Duration,
    busy: f64,
    steal: f64,
}

fn win(pid: i32) -> Win {
    Win {
        t: Instant::now(),
        tc: proc::cpu(pid).unwrap_or_default(),
        gc: proc::self_cpu(),
        busy: proc::machine_busy(),
        steal: proc::steal_seconds(),
    }
}

impl Win {
    fn end(self, pid: i32, m: &mut BTreeMap<String, f64>) -> (f64, f64) {
        let b = win(pid);
        let w = (b.t - self.t).as_secs_f64();
        let tc = b.tc.saturating_sub(self.tc).as_secs_f64();
        let gc = (b.gc - self.gc).as_secs_f64();
        m.insert("wall_s".into(), w);
        m.insert("target_cpu_s".into(), tc);
        m.insert("target_cpu_pct".into(), 100.0 * tc / w);
        m.insert("gen_cpu_pct".into(), 100.0 * gc / w);
        m.insert("others_cpu_pct".into(), (100.0 * (b.busy - self.busy - tc - gc) / w).max(0.0));
        m.insert("steal_pct".into(), 100.0 * (b.steal - self.steal) / w);
        (w, tc)
    }
}

fn hist() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).unwrap()
}

fn q(h: &Histogram<u64>, p: f64) -> f64 {
    h.value_at_quantile(p) as f64
}

fn put_us(m: &mut BTreeMap<String, f64>, pre: &str, h: &Histogram<u64>, qs: &[(&str, f64)]) {
    for (n, p) in qs {
        m.insert(format!("{pre}{n}_us"), q(h, *p) / 1e3);
    }
    m.insert(format!("{pre}max_us"), h.max() as f64 / 1e3);
}

const QS: &[(&str, f64)] = &[("p50", 0.5), ("p99", 0.99), ("p99_9", 0.999)];

fn mb(x: u64) -> f64 {
    x as f64 / 1048576.0
}

fn ints(s: &str) -> Result<Vec<usize>> {
    s.split('x').map(|x| x.parse().with_context(|| format!("bad number '{x}' in the cell"))).collect()
}

/// Pull seconds with which the target has to be started for a cell.
pub(crate) fn pull_of(cell: &str) -> u64 {
    if cell.starts_with("s8") { 5 } else { 0 }
}

pub(crate) async fn run(e: &Env, cell: &str) -> Result<Out> {
    let (kind, arg) = cell.split_once(':').unwrap_or((cell, ""));
    let mut out = Out { cell: cell.into(), ..Default::default() };
    let r = match kind {
        "s1" => storm::s1(e, arg, &mut out).await,
        "s2" => storm::s2(e, arg, &mut out).await,
        "s3" => fan_in::s3(e, arg, &mut out).await,
        "s4" => closed_loop::s4(e, arg, &mut out).await,
        "s5" => closed_loop::s5(e, arg, &mut out).await,
        "s6" => fan_out::s6(e, arg, &mut out).await,
        "s7" => fan_out::s7(e, arg, &mut out).await,
        "s8" => mixed::s8(e, arg, &mut out).await,
        "s9" => unanswered::s9(e, arg, &mut out, false).await,
        "s9u" => unanswered::s9(e, arg, &mut out, true).await,
        k => bail!("unknown cell kind '{k}'"),
    };
    if let Err(er) = r {
        if !proc::alive(e.pid) && e.pid > 0 {
            out.notes.push("the target is gone".into());
        }
        out.notes.push(format!("FAILED: {er:#}"));
    }
    if let Some(r) = proc::rss(e.pid) {
        out.metrics.insert("rss_end_mb".into(), mb(r));
    }
    if let Some(r) = proc::rss_peak(e.pid) {
        out.metrics.insert("rss_peak_mb".into(), mb(r));
    }
    Ok(out)
}

/// Waits until the target uses next to no CPU (it may still be busy with closes).
async fn settle(pid: i32, max: f64) {
    let end = Instant::now() + Duration::from_secs_f64(max);
    let mut quiet = 0;
    while Instant::now() < end {
        let a = proc::cpu(pid).unwrap_or_default();
        sleep(Duration::from_millis(100)).await;
        let b = proc::cpu(pid).unwrap_or_default();
        quiet = if b.saturating_sub(a) < Duration::from_millis(4) { quiet + 1 } else { 0 };
        if quiet >= 3 {
            return;
        }
    }
}

/// The padding string of a request body.
fn pad(n: usize) -> String {
    "abcdefghijklmnopqrstuvwxyz0123456789".chars().cycle().take(n).collect()
}
