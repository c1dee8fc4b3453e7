//! S4, S5: clients that ask as fast as they are answered.

use super::*;

struct LoopCtl {
    phase: AtomicU8, // 0 warm, 1 measure, 2 stop
    done: AtomicU64,
    errors: AtomicU64,
    dead: AtomicU64,
}

/// One client with `w` requests in flight: whenever answers arrive, as many new requests go out in
/// one write.
async fn loop_client(
    mut c: Conn,
    ctl: Arc<LoopCtl>,
    h: Arc<Mutex<Histogram<u64>>>,
    w: usize,
    post: Vec<u8>,
    check: Option<String>,
) -> Result<()> {
    const PRE: &[u8] = b"\"{\\\"reqId\\\":";
    let t0 = Instant::now();
    let mut sent = vec![0u64; w];
    let mut next: Vec<u64> = (0..w as u64).map(|s| s + 1).collect();
    let put = |out: &mut Vec<u8>, id: u64| {
        let mut t = Vec::with_capacity(20);
        wire::put_num(&mut t, id);
        wire::put_publish_parts(out, b"client", &[PRE, &t, &post]);
    };
    for s in 0..w {
        put(&mut c.out, next[s]);
        sent[s] = t0.elapsed().as_nanos() as u64;
    }
    let mut seen = 0u64;
    loop {
        let mut n = 0u64;
        let mut now = 0u64;
        let phase = ctl.phase.load(Relaxed);
        if phase == 2 {
            return Ok(());
        }
        {
            let mut on = |f: &Frame, out: &mut Vec<u8>| {
                if f.topic != b"client" {
                    return;
                }
                let Some(r) = wire::parse_resp(f.payload) else {
                    ctl.errors.fetch_add(1, Relaxed);
                    return;
                };
                if now == 0 {
                    now = t0.elapsed().as_nanos() as u64;
                }
                let s = ((r.id - 1) % w as u64) as usize;
                if r.id != next[s] {
                    ctl.errors.fetch_add(1, Relaxed);
                    return;
                }
                if r.error {
                    ctl.errors.fetch_add(1, Relaxed);
                }
                if seen % 4096 == 0 {
                    if let Some(k) = &check {
                        let ok = full(f.payload)
                            .is_some_and(|v| v["body"]["pad"].as_str() == Some(k) && v["error"].is_null());
                        if !ok {
                            ctl.errors.fetch_add(1, Relaxed);
                        }
                    }
                }
                seen += 1;
                n += 1;
                if phase == 1 {
                    h.lock().unwrap().record((now - sent[s]).max(1)).ok();
                }
                next[s] = r.id + w as u64;
                sent[s] = now;
                put(out, next[s]);
            };
            if let Err(er) = c.turn(&mut on).await {
                ctl.dead.fetch_add(1, Relaxed);
                return Err(er.into());
            }
        }
        if phase == 1 {
            ctl.done.fetch_add(n, Relaxed);
        }
    }
}

async fn closed_loop(
    e: &Env,
    c: usize,
    w: usize,
    body: impl Fn(usize) -> (String, serde_json::Value),
    out: &mut Out,
) -> Result<()> {
    let ctl = Arc::new(LoopCtl {
        phase: AtomicU8::new(0),
        done: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        dead: AtomicU64::new(0),
    });
    let mut hs = vec![];
    let mut js = vec![];
    let mut conns = vec![];
    for i in 0..c {
        conns.push(Conn::client(&e.o, &format!("load-client-{i}")).await?);
    }
    let mut frame_len = 0;
    for (i, conn) in conns.into_iter().enumerate() {
        let (module, mut b) = body(i);
        let pad = b["pad"].as_str().map(|s| s.to_string());
        b["clientId"] = format!("load-client-{i}").into();
        b["username"] = e.o.user.clone().into();
        let tail = format!(",\"moduleId\":{},\"body\":{}}}", json!(module), b);
        let post = format!("{}\"", wire::escape(&tail)).into_bytes();
        frame_len = post.len() + 11 + 7 + 8 + 3;
        let h = Arc::new(Mutex::new(hist()));
        hs.push(h.clone());
        js.push(tokio::spawn(loop_client(conn, ctl.clone(), h, w, post, pad)));
    }
    sleep(Duration::from_secs_f64(e.warm)).await;
    let wd = win(e.pid);
    ctl.phase.store(1, Relaxed);
    let t = Instant::now();
    sleep(Duration::from_secs_f64(e.dur)).await;
    let n = ctl.done.load(Relaxed);
    let d = t.elapsed().as_secs_f64();
    ctl.phase.store(2, Relaxed);
    let (_, tc) = wd.end(e.pid, &mut out.metrics);
    let mut h = hist();
    for x in &hs {
        h.add(&*x.lock().unwrap()).ok();
    }
    for j in js {
        j.abort();
    }
    let m = &mut out.metrics;
    m.insert("req_per_s".into(), n as f64 / d);
    m.insert("cpu_us_per_req".into(), tc * 1e6 / n.max(1) as f64);
    put_us(m, "", &h, QS);
    m.insert("errors".into(), ctl.errors.load(Relaxed) as f64);
    m.insert("req_frame_bytes".into(), frame_len as f64);
    let dead = ctl.dead.load(Relaxed);
    if dead > 0 {
        out.notes.push(format!("{dead} client connections were closed by the target"));
    }
    Ok(())
}

pub(crate) async fn s4(e: &Env, arg: &str, out: &mut Out) -> Result<()> {
    let a = ints(arg)?;
    let mut caller = Caller::open(&e.o, "load-ctl").await?;
    if let Some(w) = caller.probe(&e.m.echo, json!({"pad": "x"})).await? {
        out.skipped = Some(w);
        return Ok(());
    }
    let (p, md) = (pad(e.pad), e.m.echo.clone());
    closed_loop(e, a[0], a[1], |_| (md.clone(), json!({"pad": p})), out).await
}

pub(crate) async fn s5(e: &Env, arg: &str, out: &mut Out) -> Result<()> {
    let a = ints(arg)?;
    let (c, w, k) = (a[0], a[1], *a.get(2).unwrap_or(&a[0]));
    let cr = crowd(&e.o, &e.m, k, e.inflight, Shared::new(false), 0).await?;
    cr.must(k)?;
    let mut caller = Caller::open(&e.o, "load-ctl").await?;
    if let Some(w) = caller.probe(&e.m.relay, json!({"serverId": monitor_id(&e.o, 0), "pad": "x"})).await? {
        out.skipped = Some(w);
        return Ok(());
    }
    let (p, md) = (pad(e.pad), e.m.relay.clone());
    closed_loop(e, c, w, |i| (md.clone(), json!({"serverId": monitor_id(&e.o, (i % k) as u64), "pad": p})), out)
        .await?;
    out.metrics.insert("monitor_bad".into(), cr.sh.bad.load(Relaxed) as f64);
    Ok(())
}
