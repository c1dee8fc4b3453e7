//! Replacing a plugin while it is used: nothing lost, nothing doubled, nothing left behind.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use muster_tests::{
    daemon::{Daemon, Setup, plugin_file},
    deadline::{eventually, within},
    peer::Peer,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::MissedTickBehavior};

/// Clients, and how often each asks: 200 requests a second in all.
const CLIENTS: u64 = 4;
const EVERY: Duration = Duration::from_millis(20);

/// A reload takes a fraction of a second; a busy machine may need more.
const RELOAD_WITHIN: Duration = Duration::from_secs(20);

/// The file that is replaced, and its two contents.
struct Versioned {
    file: PathBuf,
    contents: [Vec<u8>; 2],
    links: tempfile::TempDir,
    installed: usize,
}

/// How a file comes to have another content.
#[derive(Clone, Copy)]
enum Way {
    Rename,
    InPlace,
    Symlink,
}

impl Versioned {
    fn new(directory: &Path) -> Versioned {
        let content = |name| fs::read(plugin_file(name)).expect("the fixture is built");
        Versioned {
            file: directory.join("versioned.so"),
            contents: [content("versioned_v1"), content("versioned_v2")],
            links: tempfile::tempdir().expect("a temporary directory"),
            installed: 0,
        }
    }

    /// Puts the other version into place; returns its number.
    fn replace(&mut self, way: Way) -> u64 {
        let content = &self.contents[self.installed % 2];
        let version = self.installed as u64 % 2 + 1;
        self.installed += 1;
        let beside = self.file.with_extension("new");
        match way {
            Way::Rename => {
                fs::write(&beside, content).expect("a file beside it");
                fs::rename(&beside, &self.file).expect("a rename");
            }
            Way::InPlace => {
                // What a symlink leads to stays as it is; a plain `cp` would write through it.
                if self.file.is_symlink() {
                    fs::remove_file(&self.file).expect("the link is removed");
                }
                fs::write(&self.file, content).expect("an overwrite");
            }
            Way::Symlink => {
                let target = self.links.path().join(format!("versioned-{}.so", self.installed));
                fs::write(&target, content).expect("a target");
                std::os::unix::fs::symlink(&target, &beside).expect("a link");
                fs::rename(&beside, &self.file).expect("a swap");
            }
        }
        version
    }
}

async fn master(settings: &[(&str, &str)]) -> (Daemon, SocketAddr) {
    let setup = settings.iter().fold(Setup::master().plugins(&[]), |setup, (key, value)| setup.set(key, value));
    let master = setup.start().await;
    let address = master.address();
    (master, address)
}

/// What the master tells of the one plugin.
async fn plugin(peer: &mut Peer) -> Value {
    let answer = peer.request("__plugins__", json!({ "action": "list" })).await;
    answer["body"]["plugins"][0].clone()
}

/// Waits until another generation than `old` serves; returns its number.
async fn next_generation(peer: &mut Peer, old: u64) -> u64 {
    let peer = tokio::sync::Mutex::new(peer);
    eventually("the next generation", RELOAD_WITHIN, || async {
        let plugin = plugin(*peer.lock().await).await;
        plugin["generation"].as_u64().filter(|generation| *generation != old && plugin["state"] == "running")
    })
    .await
}

/// Asks until told to stop, and shows which version answered last; returns all of them, in the order of the questions.
fn ask(
    address: SocketAddr,
    client: u64,
    last: watch::Sender<u64>,
    stop: watch::Receiver<bool>,
) -> JoinHandle<Vec<u64>> {
    tokio::spawn(async move {
        let mut peer = Peer::admin(address, &format!("asker-{client}")).await;
        let mut beat = tokio::time::interval(EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut versions = Vec::new();
        while !*stop.borrow() {
            beat.tick().await;
            let n = versions.len() as u64;
            // Some are under way for longer than a switch takes.
            let answer = peer.request("versioned", json!({ "n": n, "delay_ms": (n + client) % 4 * 10 })).await;
            assert_eq!(answer["error"], Value::Null, "request {n}");
            assert_eq!(answer["body"]["n"], n);
            let version = answer["body"]["version"].as_u64().expect("a version");
            versions.push(version);
            last.send_replace(version);
        }
        assert!(peer.settle().await, "the link lives");
        assert!(peer.inbox().is_empty(), "answered twice: {:?}", peer.inbox());
        versions
    })
}

/// Waits until every asker was answered by this version.
async fn seen_by_all(lasts: &mut [watch::Receiver<u64>], version: u64) {
    for last in lasts {
        let seen = last.wait_for(|last| *last == version);
        within("an answer of the new generation", RELOAD_WITHIN, seen).await.expect("the asker lives");
    }
}

/// What a master holds: resident memory in KiB, threads, open files.
#[derive(Debug, Clone, Copy)]
struct Holds {
    rss_kib: u64,
    threads: usize,
    files: usize,
}

impl Holds {
    fn now(master: &Daemon) -> Holds {
        let count = |what| fs::read_dir(format!("/proc/{}/{what}", master.pid())).expect("the master runs").count();
        Holds { rss_kib: master.rss_kib(), threads: count("task"), files: count("fd") }
    }

    fn most(self, other: Holds) -> Holds {
        Holds {
            rss_kib: self.rss_kib.max(other.rss_kib),
            threads: self.threads.max(other.threads),
            files: self.files.max(other.files),
        }
    }
}

/// Replaces a plugin so often while it is asked 200 times a second, and checks the whole ledger.
async fn replaced_under_traffic(isolation: &str, replacements: usize, warmed_up_after: usize) {
    // Without probation: each old generation is to be unloaded at once.
    let settings =
        [("plugins.settle", "20ms"), ("plugins.probation", "0s"), ("plugins.versioned.isolation", isolation)];
    let (master, address) = master(&settings).await;
    let mut versioned = Versioned::new(master.plugin_dir());
    let version = versioned.replace(Way::Rename);
    let mut observer = Peer::admin(address, "observer").await;
    let mut generation = next_generation(&mut observer, 0).await;
    let (stop, stopped) = watch::channel(false);
    let (lasts, mut seen): (Vec<_>, Vec<_>) = (0..CLIENTS).map(|_| watch::channel(0)).unzip();
    let askers: Vec<_> =
        lasts.into_iter().zip(0..).map(|(last, client)| ask(address, client, last, stopped.clone())).collect();
    seen_by_all(&mut seen, version).await;

    let begun = Instant::now();
    let mut warm = Holds::now(&master);
    for round in 1..=replacements {
        let version = versioned.replace([Way::Rename, Way::InPlace, Way::Symlink][round % 3]);
        generation = next_generation(&mut observer, generation).await;
        // Nobody replaces it now: every answer is the new one's.
        let answer = observer.request("versioned", json!({ "n": round })).await;
        assert_eq!(answer["body"], json!({ "version": version, "n": round }), "in round {round}");
        seen_by_all(&mut seen, version).await;
        if round <= warmed_up_after {
            warm = warm.most(Holds::now(&master));
        }
        if round % 125 == 0 {
            println!("{round} replacements in {:?}: {:?}", begun.elapsed(), Holds::now(&master));
        }
    }
    stop.send_replace(true);
    let mut requests = 0;
    for asker in askers {
        let versions = asker.await.expect("an asker");
        let switches = versions.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(switches, replacements, "one generation after the other: {versions:?}");
        requests += versions.len();
    }
    println!("{replacements} replacements under {requests} requests in {:?}", begun.elapsed());

    // Each of the old ones is unloaded, and nothing of them is left.
    let last = tokio::sync::Mutex::new(observer);
    let last = eventually("the end of the last old generation", RELOAD_WITHIN, || async {
        let plugin = plugin(&mut *last.lock().await).await;
        (plugin["draining"] == json!([])).then_some(plugin)
    })
    .await;
    assert_eq!((&last["stillMapped"], &last["isolation"]), (&json!([]), &json!(isolation)));
    // Only the generation that serves is there.
    match isolation {
        "thread" => assert_eq!((mapped(&master), children(&master).len()), (1, 0)),
        _ => {
            assert_eq!((mapped(&master), &last["worker"]["deaths"]), (0, &json!(0)));
            assert_eq!(json!(children(&master)), json!([last["worker"]["pid"]]));
        }
    }
    // A thread that waits for work of files ends by itself when there has been none for ten seconds.
    let end = eventually("no more threads and open files than in the beginning", RELOAD_WITHIN, async || {
        let now = Holds::now(&master);
        (now.threads <= warm.threads && now.files <= warm.files).then_some(now)
    })
    .await;
    let growth = end.rss_kib as f64 / warm.rss_kib as f64 - 1.0;
    assert!(growth < 0.05, "{warm:?} after {warmed_up_after} replacements, {end:?} after {replacements}");
    master.shutdown().await;
    let worker = format!("/proc/{}", last["worker"]["pid"]);
    eventually("the end of the last worker", RELOAD_WITHIN, async || (!Path::new(&worker).exists()).then_some(()))
        .await;
}

/// How many generations of the plugin a master has mapped.
fn mapped(master: &Daemon) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", master.pid())).expect("the master runs");
    let files = maps.lines().filter_map(|line| line.split_once("/versioned-").map(|(_, file)| file));
    files.collect::<BTreeSet<_>>().len()
}

/// The processes that a master has started and that are there.
fn children(master: &Daemon) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("Linux has it").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parent = |pid: u32| {
        // It may be gone by now. What follows the name, which may contain anything, is the state and the parent.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    numbers.filter(|pid| parent(*pid) == Some(master.pid())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn row_9_a_plugin_is_replaced_500_times_under_200_requests_a_second_and_nothing_is_lost_doubled_or_left_behind() {
    replaced_under_traffic("thread", 500, 250).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_9_a_plugin_in_a_worker_is_replaced_100_times_under_200_requests_a_second_and_nothing_is_lost_or_doubled() {
    replaced_under_traffic("process", 100, 50).await;
}

/// `make soak` runs it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes the better part of an hour"]
async fn row_9_a_plugin_is_replaced_10_000_times_or_as_often_as_asked_for() {
    let asked = std::env::var("MUSTER_SOAK").ok().and_then(|rounds| rounds.parse().ok());
    replaced_under_traffic("thread", asked.unwrap_or(10_000), 200).await;
}
