//! What only shows after many reloads. To be run alone: `cargo test --release -p muster --lib -- --ignored soak`.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::json;

use super::kit::{self, Kit, served};

const CYCLES: u32 = 1_000;
const WARM: u32 = 100;

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn count(path: &str) -> usize {
    fs::read_dir(path).unwrap().count()
}

#[tokio::test]
#[ignore = "measures the whole process: to be run alone"]
async fn a_thousand_reloads_leave_nothing_behind() {
    let kit = Kit::with(&[("a.so", "versioned_v1")], |config| config.settle = Duration::from_millis(2)).await;
    let mut warm = (0, 0, 0);
    let begun = Instant::now();
    for cycle in 1..=CYCLES {
        let old = kit.staged("a");
        let (content, version) = if cycle % 2 == 1 { ("versioned_v2", 2) } else { ("versioned_v1", 1) };
        kit.put("a.so", content);
        kit.supervisor.rescan().await;
        let status = kit.until_version("a.so", &format!("{version}.")).await;
        assert_eq!(kit::file(&status, "a.so").unwrap().still_mapped, [], "cycle {cycle}");
        assert!(!kit::is_mapped(&old), "cycle {cycle}: {} is still mapped", old.display());
        assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": version })));
        if cycle == WARM {
            warm = (resident_kib(), count("/proc/self/fd"), count("/proc/self/task"));
        }
    }
    let end = (resident_kib(), count("/proc/self/fd"), count("/proc/self/task"));
    println!(
        "{CYCLES} reloads in {:?}: (KiB, descriptors, threads) at {WARM}: {warm:?}, at the end: {end:?}",
        begun.elapsed()
    );
    assert!(end.0 * 100 <= warm.0 * 105, "resident memory grew from {} to {} KiB", warm.0, end.0);
    assert_eq!(end.1, warm.1, "descriptors");
    kit.end().await;
}
