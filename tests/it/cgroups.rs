//! Workers in control groups of their own. For this a group has to be there that the tests may divide: `MUSTER_CGROUP` names
//! one of the unified hierarchy, without processes; as far as it has controllers for those below it, limits are tested.
//!
//! ```text
//! mkdir /sys/fs/cgroup/muster-tests && echo +memory +cpu +pids > /sys/fs/cgroup/muster-tests/cgroup.subtree_control
//! ```

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use muster_tests::{
    cli::muster,
    daemon::Setup,
    deadline::{PROCESS, eventually},
    peer::Peer,
    plugins::{listed, until, words},
};
use serde_json::{Value, json};

/// A group for one daemon, which is removed in the end.
struct Given {
    group: PathBuf,
    controllers: String,
}

impl Given {
    /// `None`, loudly, where there is nothing to divide.
    fn new(name: &str) -> Option<Given> {
        let Some(above) = env::var_os("MUSTER_CGROUP").map(PathBuf::from) else {
            println!("SKIPPED: MUSTER_CGROUP names no control group that could be divided");
            return None;
        };
        let controllers = fs::read_to_string(above.join("cgroup.subtree_control")).expect("it is a control group");
        let group = above.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&group).expect("a group can be made");
        Some(Given { group, controllers })
    }

    fn has(&self, controller: &str) -> bool {
        let there = self.controllers.split_whitespace().any(|word| word == controller);
        if !there {
            println!("SKIPPED: what is done with the controller {controller}, which is not there");
        }
        there
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let leaf = self.group.join("daemon");
        for group in [&leaf, &self.group].into_iter().filter(|group| group.exists()) {
            fs::remove_dir(group).unwrap_or_else(|error| println!("{} stays behind: {error}", group.display()));
        }
    }
}

/// The path of a process's group in the unified hierarchy.
fn group_of(pid: &Value) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    groups.lines().find_map(|line| line.strip_prefix("0::")).expect("the unified hierarchy is there").to_owned()
}

fn group(worker: &Value) -> PathBuf {
    worker["limits"]["group"].as_str().expect("it has a group").into()
}

fn read(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file)).expect("the kernel has it").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_a_control_group_with_its_limits_and_nothing_is_left_of_it() {
    let Some(given) = Given::new("limits") else { return };
    let setup = Setup::master().plugins(&["faulty"]).in_group(&given.group);
    let setup = setup.set("plugins.faulty.isolation", "process").set("plugins.faulty.limits.memory", "256MiB");
    let setup = setup.set("plugins.faulty.limits.cpu_percent", "20").set("plugins.faulty.limits.tasks", "8");
    let master = setup.start().await;
    let mut peer = Peer::admin(master.address(), "caller").await;
    assert!(group_of(&json!(master.pid())).ends_with("/daemon"), "it has made room");
    let worker = listed(&mut peer, "faulty").await["worker"].clone();
    let directory = group(&worker);
    assert_eq!(directory.parent(), Some(given.group.as_path()));
    assert_eq!(directory.file_name().map(Path::new), Path::new(&group_of(&worker["pid"])).file_name().map(Path::new));
    let shown = muster(&["plugin", "show", "faulty", "--master", &master.address().to_string()]).await;
    assert!(shown.stdout.contains("memory 268435456"), "{shown:?}");
    assert!(shown.stdout.contains(&directory.display().to_string()), "{shown:?}");

    if given.has("memory") {
        assert_eq!(["memory.max", "memory.oom.group"].map(|file| read(&directory, file)), ["268435456", "1"]);
    }
    if given.has("pids") {
        assert_eq!(worker["limits"]["tasks"], 8);
        let mut threads = 0;
        let error = loop {
            let answer = peer.request("faulty", json!({ "do": "thread" })).await;
            if !words(&answer).is_empty() {
                break words(&answer);
            }
            threads += 1;
            assert!(threads < 8, "they have all been taken");
        };
        assert!(error.contains("failed to spawn thread"), "{error}");
        assert!(threads > 0, "there is room for some");
    }
    if given.has("cpu") {
        assert_eq!(read(&directory, "cpu.max"), "20000 100000");
        peer.send_request("faulty", json!({ "do": "thread_spin" })).await;
        eventually("it is held back", PROCESS, async || {
            let stat = read(&directory, "cpu.stat");
            stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).filter(|times| *times != "0").map(drop)
        })
        .await;
    }
    master.shutdown().await;
    assert!(!directory.exists(), "it went with its worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_has_started_goes_with_it_and_its_group_as_well() {
    let Some(given) = Given::new("kin") else { return };
    let setup = Setup::master().plugins(&["faulty"]).in_group(&given.group);
    let master = setup.set("plugins.faulty.isolation", "process").start().await;
    let mut peer = Peer::admin(master.address(), "caller").await;
    let worker = listed(&mut peer, "faulty").await["worker"].clone();
    let directory = group(&worker);
    assert_eq!(peer.request("faulty", json!({ "do": "program" })).await["body"], json!({ "ok": true }));
    let inside = read(&directory, "cgroup.procs");
    let itself = worker["pid"].to_string();
    let left: Vec<&str> = inside.lines().filter(|pid| *pid != itself).collect();
    assert_eq!(left.len(), 1, "{inside}");
    let answer = peer.request("faulty", json!({ "do": "abort" })).await;
    assert!(words(&answer).contains("was restarted: its worker died of SIGABRT"), "{answer}");
    let next = until(&mut peer, "faulty", "the next worker runs", |plugin| {
        plugin["worker"]["restarts"] == 1 && plugin["worker"]["limits"]["group"].is_string()
    })
    .await;
    assert_ne!(group(&next["worker"]), directory);
    assert!(!directory.exists(), "it went with its worker");
    let left = Path::new("/proc").join(left[0]);
    eventually("the program that it left is gone", PROCESS, async || (!left.exists()).then_some(())).await;
    master.shutdown().await;
    assert!(!group(&next["worker"]).exists(), "and so in the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_others_in_it_is_not_divided_which_is_told_with_what_to_do() {
    let Some(given) = Given::new("crowded") else { return };
    let mut other = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("coreutils are there");
    fs::write(given.group.join("cgroup.procs"), other.id().to_string()).expect("it moves");
    let setup = Setup::master().plugins(&["faulty"]).in_group(&given.group);
    let setup = setup.set("plugins.faulty.isolation", "process").set("plugins.faulty.limits.tasks", "8");
    let master = setup.start().await;
    master.wait_log("limits.cpu_percent and limits.tasks have no effect").await;
    master.wait_log("start the daemon in a group of its own").await;
    let mut peer = Peer::admin(master.address(), "caller").await;
    let worker = listed(&mut peer, "faulty").await["worker"].clone();
    assert_eq!((&worker["limits"]["group"], &worker["limits"]["tasks"]), (&Value::Null, &Value::Null), "not in force");
    assert_eq!(group_of(&worker["pid"]), group_of(&json!(master.pid())));
    assert_eq!(peer.request("faulty", json!({ "do": "ok" })).await["body"], json!({ "ok": true }));
    master.shutdown().await;
    other.kill().and_then(|()| other.wait()).expect("it ends");
}
