//! S1, S2: monitors that connect all at once, and what they cost when they are idle.

use super::*;

pub(crate) async fn s1(e: &Env, arg: &str, out: &mut Out) -> Result<()> {
    let n = ints(arg)?[0];
    // warm-up: 200 connections come and go
    let c = crowd(&e.o, &e.m, 200, e.inflight.min(64), Shared::new(false), 1_000_000).await?;
    c.must(200)?;
    for t in &c.tasks {
        t.abort();
    }
    drop(c);
    sleep(Duration::from_millis(300)).await;
    settle(e.pid, 5.0).await;
    let before = proc::rss(e.pid).unwrap_or(0);
    let m = &mut out.metrics;
    let w = win(e.pid);
    let c = crowd(&e.o, &e.m, n, e.inflight, Shared::new(false), 0).await?;
    let (_, tc) = w.end(e.pid, m);
    settle(e.pid, 3.0).await;
    sleep(Duration::from_millis(500)).await;
    let after = proc::rss(e.pid).unwrap_or(0);
    let mut h = hist();
    for &x in &c.lat {
        h.record(x.max(1)).ok();
    }
    m.insert("reg_per_s".into(), c.n as f64 / c.wall.as_secs_f64());
    m.insert("all_registered_ms".into(), c.wall.as_secs_f64() * 1e3);
    m.insert("conn_p50_us".into(), q(&h, 0.5) / 1e3);
    m.insert("conn_p99_us".into(), q(&h, 0.99) / 1e3);
    m.insert("cpu_us_per_reg".into(), tc * 1e6 / c.n.max(1) as f64);
    m.insert("rss_per_conn_bytes".into(), (after as f64 - before as f64) / c.n.max(1) as f64);
    m.insert("rss_before_mb".into(), mb(before));
    m.insert("rss_after_mb".into(), mb(after));
    m.insert("failed".into(), c.failed as f64);
    m.insert("closed".into(), c.sh.closed.load(Relaxed) as f64);
    if let Some(x) = &c.first_error {
        out.notes.push(format!("{} of {n} failed; first: {x}", c.failed));
    }
    Ok(())
}

pub(crate) async fn s2(e: &Env, arg: &str, out: &mut Out) -> Result<()> {
    let n = ints(arg)?[0];
    let c = crowd(&e.o, &e.m, n, e.inflight, Shared::new(false), 0).await?;
    c.must(n)?;
    sleep(Duration::from_secs(2)).await;
    settle(e.pid, 5.0).await;
    let w = win(e.pid);
    sleep(Duration::from_secs_f64(e.idle_secs)).await;
    let (wall, tc) = w.end(e.pid, &mut out.metrics);
    out.metrics.insert("idle_cpu_pct".into(), 100.0 * tc / wall);
    out.metrics.insert("idle_cpu_us_per_s".into(), 1e6 * tc / wall);
    let p = c.sh.pulls.load(Relaxed);
    if p > 0 {
        out.notes.push(format!("{p} pulls arrived although pull should be off"));
    }
    Ok(())
}
