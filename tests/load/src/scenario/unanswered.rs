//! S9: requests that nobody answers.

use super::*;

pub(crate) async fn s9(e: &Env, arg: &str, out: &mut Out, unknown: bool) -> Result<()> {
    let total = ints(arg)?[0];
    let sh = Shared::new(true);
    let cr = crowd(&e.o, &e.m, 1, 1, sh.clone(), 0).await?;
    cr.must(1)?;
    let mut c = Caller::open(&e.o, "load-ctl").await?;
    if let Some(w) = c.probe(&e.m.echo, json!({"pad": "x"})).await? {
        out.skipped = Some(w);
        return Ok(());
    }
    let to = if unknown { "nobody-server-1".to_string() } else { monitor_id(&e.o, 0) };
    let p = pad(e.pad);
    let batch = 500;
    let step = 100_000.min(total);
    // warm-up: 20,000 echoes, so that code and buffers are there before the first reading
    for _ in 0..40 {
        let mut last = 0;
        for _ in 0..batch {
            last = c.put(&e.m.echo, json!({"pad": p}));
        }
        c.wait_raw(last, Duration::from_secs(30)).await?;
    }
    sleep(Duration::from_millis(1500)).await;
    let mut series = vec![mb(proc::rss(e.pid).unwrap_or(0))];
    let w = win(e.pid);
    let mut cpu = 0.0;
    let mut wd = Some(w);
    for i in 0..total / batch {
        for _ in 0..batch {
            c.put(&e.m.relay, json!({"serverId": to, "pad": p}));
        }
        let id = c.put(&e.m.echo, json!({}));
        c.wait_raw(id, Duration::from_secs(60)).await?;
        if ((i + 1) * batch) % step == 0 {
            let (_, tc) = wd.take().unwrap().end(e.pid, &mut out.metrics);
            cpu += tc;
            sleep(Duration::from_millis(1500)).await;
            series.push(mb(proc::rss(e.pid).unwrap_or(0)));
            wd = Some(win(e.pid));
        }
    }
    let m = &mut out.metrics;
    let k = series.len();
    m.insert("rss_growth_mb_per_100k".into(), (series[k - 1] - series[0]) / (total as f64 / 1e5));
    m.insert("rss_first_mb".into(), series[0]);
    m.insert("rss_last_mb".into(), series[k - 1]);
    m.insert("cpu_us_per_req".into(), cpu * 1e6 / total as f64);
    m.insert("monitor_got".into(), sh.requests.load(Relaxed) as f64);
    out.notes.push(format!(
        "RSS MiB after each {step}: {}",
        series.iter().map(|x| format!("{x:.0}")).collect::<Vec<_>>().join(" ")
    ));
    if unknown {
        return Ok(());
    }
    // the same monitor comes again: does it get everything that was never answered?
    for t in &cr.tasks {
        t.abort();
    }
    sleep(Duration::from_millis(500)).await;
    settle(e.pid, 5.0).await;
    let w = win(e.pid);
    let t = Instant::now();
    let mut again = Conn::monitor(&e.o, 0).await?;
    let mut got = again.early.len() as u64;
    let mut last = t.elapsed();
    loop {
        let r = tokio::time::timeout(
            Duration::from_secs(3),
            again.turn(&mut |f: &Frame, _: &mut Vec<u8>| {
                if f.topic == b"monitor" {
                    got += 1;
                }
            }),
        )
        .await;
        match r {
            Ok(Ok(())) => last = t.elapsed(),
            _ => break,
        }
    }
    let mut x = BTreeMap::new();
    let (_, tc) = w.end(e.pid, &mut x);
    m.insert("repushed".into(), got as f64);
    m.insert("repush_ms".into(), last.as_secs_f64() * 1e3);
    m.insert("repush_cpu_s".into(), tc);
    m.insert("rss_after_repush_mb".into(), mb(proc::rss(e.pid).unwrap_or(0)));
    Ok(())
}
