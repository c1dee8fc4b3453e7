//! S6, S7: one message to all monitors, and one answer of all.

use super::*;

pub(crate) async fn s6(e: &Env, arg: &str, out: &mut Out) -> Result<()> {
    let n = ints(arg)?[0];
    let sh = Shared::new(false);
    let cr = crowd(&e.o, &e.m, n, e.inflight, sh.clone(), 0).await?;
    cr.must(n)?;
    let mut caller = Caller::open(&e.o, "load-ctl").await?;
    if let Some(w) = caller.probe(&e.m.fanout, json!({"n": 0})).await? {
        out.skipped = Some(w);
        return Ok(());
    }
    settle(e.pid, 3.0).await;
    let mut h = hist();
    let mut hr = hist();
    let mut total = 0u64;
    // warm-up: at least 5 rounds and --warm seconds; then at least --rounds and --dur seconds
    let start = Instant::now();
    let mut w: Option<Win> = None;
    let mut rounds = 0usize;
    for r in 1u64.. {
        if w.is_none() && r > 5 && start.elapsed().as_secs_f64() >= e.warm {
            w = Some(win(e.pid));
        }
        if let Some(x) = &w {
            if rounds >= e.rounds && x.t.elapsed().as_secs_f64() >= e.dur {
                break;
            }
        }
        sh.fan_arm(r, n);
        let t = sh.t0.elapsed().as_nanos() as u64;
        let id = caller.put(&e.m.fanout, json!({"n": r}));
        caller.c.flush().await?;
        let both = async {
            caller.wait_raw(id, Duration::from_secs(30)).await?;
            Ok::<u64, anyhow::Error>(sh.t0.elapsed().as_nanos() as u64)
        };
        let (_, done) =
            tokio::join!(async { tokio::time::timeout(Duration::from_secs(30), sh.fan_done.notified()).await }, both);
        let left = sh.fan_left.load(Acquire);
        if left > 0 {
            bail!("round {r}: {left} of {n} monitors got nothing in 30 s");
        }
        let last = sh.fan_last.load(Acquire) - t;
        if w.is_some() {
            h.record(last.max(1)).ok();
            hr.record((done? - t).max(1)).ok();
            total += last;
            rounds += 1;
        }
        tokio::task::yield_now().await;
    }
    let (_, tc) = w.unwrap().end(e.pid, &mut out.metrics);
    let m = &mut out.metrics;
    let d = (n * rounds) as f64;
    m.insert("rounds".into(), rounds as f64);
    m.insert("last_p50_ms".into(), q(&h, 0.5) / 1e6);
    m.insert("last_p99_ms".into(), q(&h, 0.99) / 1e6);
    m.insert("deliveries_per_s".into(), d / (total as f64 / 1e9));
    m.insert("cpu_us_per_delivery".into(), tc * 1e6 / d);
    m.insert("answer_p50_ms".into(), q(&hr, 0.5) / 1e6);
    Ok(())
}

pub(crate) async fn s7(e: &Env, arg: &str, out: &mut Out) -> Result<()> {
    let n = ints(arg)?[0];
    let cr = crowd(&e.o, &e.m, n, e.inflight, Shared::new(false), 0).await?;
    cr.must(n)?;
    let mut caller = Caller::open(&e.o, "load-ctl").await?;
    if let Some(w) = caller.probe(&e.m.list, json!({"signal": "list"})).await? {
        out.skipped = Some(w);
        return Ok(());
    }
    let mut h = hist();
    let mut bytes = 0;
    let mut wd: Option<Win> = None;
    let start = Instant::now();
    let mut rounds = 0usize;
    for r in 0.. {
        if wd.is_none() && r >= 3 && start.elapsed().as_secs_f64() >= e.warm {
            wd = Some(win(e.pid));
        }
        let last = wd.as_ref().is_some_and(|x| rounds + 1 >= e.rounds && x.t.elapsed().as_secs_f64() >= e.dur);
        let t = Instant::now();
        let id = caller.put(&e.m.list, json!({"signal": "list"}));
        let raw = caller.wait_raw(id, Duration::from_secs(30)).await?;
        let d = t.elapsed().as_nanos() as u64;
        if wd.is_some() {
            h.record(d.max(1)).ok();
            rounds += 1;
        }
        if r == 0 || last {
            let v = full(&raw).context("list answer is not JSON")?;
            let got = v["body"]["msg"].as_object().map(|o| o.len()).unwrap_or(0);
            if got < n {
                out.notes.push(format!("list answer holds {got} of {n} monitors"));
            }
            bytes = raw.len();
        }
        if last {
            break;
        }
    }
    let (_, tc) = wd.unwrap().end(e.pid, &mut out.metrics);
    let m = &mut out.metrics;
    m.insert("list_p50_ms".into(), q(&h, 0.5) / 1e6);
    m.insert("list_p99_ms".into(), q(&h, 0.99) / 1e6);
    m.insert("cpu_us_per_monitor".into(), tc * 1e6 / (n * rounds) as f64);
    m.insert("answer_bytes".into(), bytes as f64);
    Ok(())
}
