//! S3: many notifies of many monitors.

use super::*;

async fn s3_wave(e: &Env, conns: &mut Vec<Conn>, caller: &mut Caller, m: usize, tag: &str) -> Result<Duration> {
    const BLOCK: usize = 256;
    let t = Instant::now();
    let mut js = vec![];
    for (k, mut c) in conns.drain(..).enumerate() {
        let id = monitor_id(&e.o, k as u64);
        let md = e.m.clone();
        let end = format!("end-{tag}-{k}");
        js.push(tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let mut block = vec![];
            for i in 0..BLOCK {
                let time = DATE.replace("45:06", &format!("{:02}:{:02}", i / 60, i % 60));
                block.extend_from_slice(&time_report(&md, &id, &time));
            }
            let per = block.len() / BLOCK;
            let mut left = m;
            while left > 0 {
                let k = left.min(BLOCK);
                c.s.write_all(&block[..k * per]).await?;
                left -= k;
            }
            c.s.write_all(&time_report(&md, &id, &end)).await?;
            Ok::<Conn, std::io::Error>(c)
        }));
    }
    for j in js {
        conns.push(j.await??);
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let v = caller.call(&e.m.time, json!({}), Duration::from_secs(60)).await?;
        let b = &v["body"];
        let done = (0..conns.len()).all(|k| b[monitor_id(&e.o, k as u64)].as_str() == Some(&format!("end-{tag}-{k}")));
        if done {
            return Ok(t.elapsed());
        }
        if Instant::now() > deadline {
            bail!("barrier not reached in 120 s");
        }
        sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn s3(e: &Env, arg: &str, out: &mut Out) -> Result<()> {
    let a = ints(arg)?;
    let (k, m) = (a[0], a[1]);
    let mut caller = Caller::open(&e.o, "load-ctl").await?;
    let mut conns = vec![];
    for i in 0..k as u64 {
        conns.push(Conn::monitor(&e.o, i).await?);
    }
    if let Some(w) = caller.probe(&e.m.time, json!({})).await? {
        out.skipped = Some(w);
        return Ok(());
    }
    s3_wave(e, &mut conns, &mut caller, (m / 8).max(256), "warm").await?;
    settle(e.pid, 3.0).await;
    // waves until the measured time is reached: one for a slow target, many for a fast one
    let w = win(e.pid);
    let mut d = Duration::ZERO;
    let mut waves = 0;
    while d.as_secs_f64() < e.dur {
        d += s3_wave(e, &mut conns, &mut caller, m, &format!("w{waves}")).await?;
        waves += 1;
    }
    let (_, tc) = w.end(e.pid, &mut out.metrics);
    let n = (waves * k * (m + 1)) as f64;
    out.metrics.insert("waves".into(), waves as f64);
    let x = &mut out.metrics;
    x.insert("msgs_per_s".into(), n / d.as_secs_f64());
    x.insert("cpu_s_per_1m".into(), tc * 1e6 / n);
    let bytes = time_report(&e.m, &monitor_id(&e.o, 0), DATE).len() as f64;
    x.insert("bytes_per_msg".into(), bytes);
    x.insert("mbyte_per_s".into(), n * bytes / d.as_secs_f64() / 1e6);
    Ok(())
}
