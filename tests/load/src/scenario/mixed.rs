//! S8: a fleet in its daily work.

use super::*;

pub(crate) async fn s8(e: &Env, arg: &str, out: &mut Out) -> Result<()> {
    let a = ints(arg)?;
    let n = a[0];
    let rate = *a.get(1).unwrap_or(&50) as f64;
    let sh = Shared::new(false);
    let cr = crowd(&e.o, &e.m, n, e.inflight, sh.clone(), 0).await?;
    cr.must(n)?;
    let mut caller = Caller::open(&e.o, "load-ctl").await?;
    // kinds: 80 % echo, 18 % relay, 2 % snapshot (timeReport of all monitors)
    let mut has = [true; 3];
    let names = ["echo", "relay", "snapshot"];
    for (i, (md, b)) in [
        (&e.m.echo, json!({"pad": "x"})),
        (&e.m.relay, json!({"serverId": monitor_id(&e.o, 0)})),
        (&e.m.time, json!({})),
    ]
    .into_iter()
    .enumerate()
    {
        if let Some(w) = caller.probe(md, b).await? {
            has[i] = false;
            out.notes.push(format!("{} left out: {w}", names[i]));
        }
    }
    if !has[0] && !has[1] && !has[2] {
        out.skipped = Some("none of echo, relay, timeReport is there".into());
        return Ok(());
    }
    let clients = 5usize;
    let measuring = Arc::new(AtomicU8::new(0));
    let hs: Arc<[Mutex<Histogram<u64>>; 3]> = Arc::new([Mutex::new(hist()), Mutex::new(hist()), Mutex::new(hist())]);
    let unanswered = Arc::new(AtomicU64::new(0));
    let mut js = vec![];
    for i in 0..clients {
        let mut c = Caller::open(&e.o, &format!("load-client-{i}")).await?;
        let (md, o, hs, me, un) = (e.m.clone(), e.o.clone(), hs.clone(), measuring.clone(), unanswered.clone());
        let p = pad(e.pad);
        let mean = clients as f64 / rate;
        js.push(tokio::spawn(async move {
            // Poisson arrivals from a fixed seed: an even grid would beat with the pull period
            let mut seed = 0x9E37_79B9_7F4A_7C15u64.wrapping_mul(i as u64 + 1);
            let mut rnd = move || {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                (seed >> 11) as f64 / (1u64 << 53) as f64
            };
            let mut at = tokio::time::Instant::now() + Duration::from_secs_f64(mean * rnd());
            let mut end = None;
            let mut open: BTreeMap<u64, (Instant, usize)> = BTreeMap::new();
            let mut k = i as u64;
            loop {
                let ph = me.load(Relaxed);
                if ph == 2 {
                    // send nothing more, but wait for what is still open
                    let e = *end.get_or_insert(tokio::time::Instant::now() + Duration::from_millis(1500));
                    if open.is_empty() || tokio::time::Instant::now() >= e {
                        un.fetch_add(open.len() as u64, Relaxed);
                        return Ok::<(), anyhow::Error>(());
                    }
                    at = e;
                }
                let due = {
                    let mut on = |f: &Frame, _: &mut Vec<u8>| {
                        if f.topic == b"client" {
                            if let Some(r) = wire::parse_resp(f.payload) {
                                if let Some((t, kind)) = open.remove(&r.id) {
                                    if ph >= 1 {
                                        hs[kind].lock().unwrap().record(t.elapsed().as_nanos() as u64).ok();
                                    }
                                }
                            }
                        }
                    };
                    tokio::select! {
                        biased;
                        r = c.c.turn(&mut on) => { r?; false }
                        _ = tokio::time::sleep_until(at) => true,
                    }
                };
                if due && me.load(Relaxed) != 2 {
                    at += Duration::from_secs_f64(-mean * (1.0 - rnd()).ln());
                    k += 1;
                    let x = rnd();
                    let mut kind = if x < 0.02 {
                        2
                    } else if x < 0.20 {
                        1
                    } else {
                        0
                    };
                    while !has[kind] {
                        kind = (kind + 1) % 3;
                    }
                    let id = match kind {
                        0 => c.put(&md.echo, json!({"pad": p})),
                        1 => c.put(&md.relay, json!({"serverId": monitor_id(&o, k * 37 % n as u64), "pad": p})),
                        _ => c.put(&md.time, json!({})),
                    };
                    open.insert(id, (Instant::now(), kind));
                    c.c.flush().await?;
                }
            }
        }));
    }
    sleep(Duration::from_secs(6)).await; // at least one pull passes
    let rss0 = proc::rss(e.pid).unwrap_or(0);
    let p0 = sh.pulls.load(Relaxed);
    let w = win(e.pid);
    measuring.store(1, Relaxed);
    sleep(Duration::from_secs_f64(e.s8_secs)).await;
    let (wall, tc) = w.end(e.pid, &mut out.metrics);
    measuring.store(2, Relaxed);
    let rss1 = proc::rss(e.pid).unwrap_or(0);
    sleep(Duration::from_millis(2000)).await;
    let m = &mut out.metrics;
    let mut all = hist();
    for (i, h) in hs.iter().enumerate() {
        let h = h.lock().unwrap();
        all.add(&*h).ok();
        m.insert(format!("{}_p99_us", names[i]), q(&h, 0.99) / 1e3);
        m.insert(format!("{}_n", names[i]), h.len() as f64);
    }
    put_us(m, "", &all, QS);
    m.insert("p99_5_us".into(), q(&all, 0.995) / 1e3);
    m.insert("steady_cpu_pct".into(), 100.0 * tc / wall);
    m.insert("rss_mb".into(), mb(rss1));
    m.insert("rss_growth_mb".into(), mb(rss1) - mb(rss0));
    m.insert("answered".into(), all.len() as f64);
    m.insert("unanswered".into(), unanswered.load(Relaxed) as f64);
    let pulls = (sh.pulls.load(Relaxed) - p0) as f64;
    m.insert("pulls_per_s".into(), pulls / wall);
    if pulls < n as f64 * (wall / 5.0 - 1.5) {
        out.notes.push(format!("only {pulls} pulls in {wall:.0} s for {n} monitors"));
    }
    for j in js {
        j.abort();
    }
    Ok(())
}
