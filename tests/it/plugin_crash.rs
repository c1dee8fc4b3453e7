//! Plugins that end processes, and processes that are stopped: who is blamed, and who goes on.

use std::{
    fs,
    time::{Duration, Instant},
};

use muster_tests::{
    cli::muster,
    daemon::{Daemon, Setup},
    deadline::PROCESS,
    peer::Peer,
    plugins::{content, listed, put, until, until_version},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::plugin_life::master;

/// The processes that the preflight of a master has started, and whatever these have: by the mark that all inherit.
fn being_vetted_by(master: &Daemon) -> Vec<String> {
    let stage = master.state_dir().to_str().expect("a path of letters").to_owned();
    let processes = fs::read_dir("/proc").expect("it is mounted").flatten();
    let environment = |process: &fs::DirEntry| fs::read(process.path().join("environ")).unwrap_or_default();
    let is_marked = |environment: Vec<u8>| {
        let environment = String::from_utf8_lossy(&environment).into_owned();
        environment.split('\0').any(|variable| variable.starts_with("MUSTER_PREFLIGHT=") && variable.contains(&stage))
    };
    let marked = processes.filter(|process| is_marked(environment(process)));
    marked.map(|process| process.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn row_2_a_constructor_that_does_harm_ends_its_child_and_nothing_else() {
    let (master, address) = master(&["echo", "versioned_v1"], &[]).await;
    let mut peer = Peer::admin(address, "observer").await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let asker = tokio::spawn(async move {
        let (mut peer, mut answers) = (Peer::admin(address, "asker").await, 0_u64);
        while !*stopped.borrow() {
            assert_eq!(peer.request("versioned", json!({ "n": answers })).await["body"]["n"], answers);
            answers += 1;
        }
        answers
    });
    let harms = [
        ("segv", "it died of SIGSEGV while it was being loaded"),
        ("abort", "it died of SIGABRT while it was being loaded"),
        ("exit", "it ended the process (status 3) while it was being loaded"),
        ("loop", "it did not answer within 2 s"),
        ("grow", "it died of SIGABRT while it was being loaded"),
        ("fork", "it started 2 processes while it was being loaded"),
    ];
    for (harm, _) in harms {
        put(&master, &format!("{harm}.so"), &content(&format!("bad_constructor_{harm}")));
    }
    for (harm, words) in harms {
        let told = until(&mut peer, harm, "it is refused", |plugin| plugin["state"] == "refused").await;
        let reason = told["reason"].as_str().expect("a reason");
        assert!(reason.contains(words), "{harm}: {reason}");
        assert_eq!(told["stillMapped"], json!([]), "{harm}: never opened here");
    }
    assert_eq!(being_vetted_by(&master), Vec::<String>::new(), "nothing that they started is left");
    // A replacement that is refused leaves the old one serving.
    put(&master, "versioned_v1.so", &content("bad_constructor_fork"));
    let refused = |plugin: &Value| plugin["reason"].as_str().is_some_and(|reason| reason.contains("2 processes"));
    let told = until(&mut peer, "versioned_v1", "the new content is refused", refused).await;
    assert_eq!(told["state"], "running");
    assert_eq!(being_vetted_by(&master), Vec::<String>::new());
    stop.send_replace(true);
    assert!(asker.await.expect("nobody is disturbed") > 0);
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_4_a_plugin_that_ends_the_daemon_while_it_starts_is_quarantined_at_the_next_start() {
    let settings = [("plugins.fickle.fault", "abort")];
    let (mut master, _) = self::master(&["echo"], &settings).await;
    master.install_plugin("fickle");
    let status = master.wait(PROCESS).await;
    assert_eq!(status.code(), None, "a signal ended it");
    let state = master.state_after_end();

    let again = Setup::master().plugins(&["echo", "fickle"]).state(state).start().await;
    let address = again.address();
    let mut peer = Peer::admin(address, "client").await;
    let told = listed(&mut peer, "fickle").await;
    assert_eq!(told["state"], "quarantined", "{told}");
    assert!(
        told["reason"].as_str().is_some_and(|reason| reason.contains("died of SIGABRT in start of module")),
        "{told}"
    );
    assert_eq!(listed(&mut peer, "echo").await["state"], "running");

    // It goes well without the option.
    let lifted = muster(&["plugin", "unquarantine", "fickle", "--master", &address.to_string()]).await;
    assert_eq!(lifted.code, 0, "{lifted:?}");
    until(&mut peer, "fickle", "it is tried again", |plugin| plugin["state"] == "running").await;
    again.shutdown().await;
}

/// A plugin ends the daemon, by a call; the next start is to know which, where and how.
async fn ends_the_daemon(fault: &str, expected: &str) {
    let (mut master, address) = master(&["echo", "faulty"], &[]).await;
    let pid = master.pid();
    let acknowledged = muster(&["plugin", "disable", "echo", "--master", &address.to_string()]).await;
    assert_eq!(acknowledged.code, 0, "{acknowledged:?}");
    let mut peer = Peer::admin(address, "client").await;
    peer.send_request("faulty", json!({ "do": fault })).await;
    // L1: the link breaks, which is the end of the request for whoever waits.
    assert!(peer.expect_closed_within(PROCESS).await.is_empty(), "{fault}: nobody answers");
    master.wait(PROCESS).await;
    let state = master.state_after_end();

    let begun = Instant::now();
    let again = Setup::master().plugins(&["echo", "faulty", "versioned_v1"]).state(state).start().await;
    assert!(begun.elapsed() < PROCESS);
    println!("after {fault}: another master is ready within {:?}", begun.elapsed());
    let address = again.address();
    let mut peer = Peer::admin(address, "client").await;
    let told = listed(&mut peer, "faulty").await;
    assert_eq!(told["state"], "quarantined", "{fault}: {told}");
    let reason = told["reason"].as_str().expect("a reason");
    let whole = format!("the daemon (process {pid}) {expected}");
    assert!(reason.contains(&whole) && reason.contains(" of faulty.so;"), "{fault}: {reason}");
    // L3, and nobody else is blamed.
    assert_eq!(listed(&mut peer, "echo").await["state"], "disabled", "{fault}");
    assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 1, "{fault}");

    let lifted = muster(&["plugin", "unquarantine", "faulty", "--master", &address.to_string()]).await;
    assert_eq!(lifted.code, 0, "{lifted:?}");
    until(&mut peer, "faulty", "it is tried again", |plugin| plugin["state"] == "running").await;
    assert_eq!(peer.request("faulty", json!({ "do": "ok" })).await["body"], json!({ "ok": true }));
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_4_a_plugin_that_crashes_the_daemon_from_a_handler_is_quarantined_at_the_next_start() {
    const HANDLER: &str = "in clientHandler of module faulty, g";
    ends_the_daemon("segv", &format!("died of SIGSEGV {HANDLER}")).await;
    ends_the_daemon("abort", &format!("died of SIGABRT {HANDLER}")).await;
    ends_the_daemon("overflow", &format!("died of a stack overflow (SIGSEGV) {HANDLER}")).await;
    ends_the_daemon("exit", &format!("was ended by exit() {HANDLER}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_4_a_plugin_that_crashes_the_daemon_from_a_thread_of_its_own_is_quarantined_at_the_next_start() {
    const THREAD: &str = "in a thread of its own, g";
    ends_the_daemon("thread_segv", &format!("died of SIGSEGV {THREAD}")).await;
    ends_the_daemon("thread_abort", &format!("died of SIGABRT {THREAD}")).await;
    ends_the_daemon("thread_exit", &format!("was ended by exit() {THREAD}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_4_no_plugin_is_blamed_for_a_daemon_that_others_end() {
    let mut state = None;
    for signal in [Signal::KILL, Signal::SEGV, Signal::ABORT, Signal::TERM] {
        let setup = Setup::master().plugins(&["echo", "versioned_v1"]);
        let mut master = state.take().into_iter().fold(setup, Setup::state).start().await;
        let mut peer = Peer::admin(master.address(), "client").await;
        assert_eq!(listed(&mut peer, "versioned_v1").await["state"], "running", "before {signal:?}");
        // In the middle of calls: some are in their handler, some on their way.
        for n in 0..200 {
            peer.send_request("versioned", json!({ "n": n, "delay_ms": n % 3 * 100 })).await;
            peer.send_request("echo", json!({ "do": "echo" })).await;
        }
        master.signal(signal);
        master.wait(PROCESS).await;
        state = Some(master.state_after_end());
    }
    let again = state.into_iter().fold(Setup::master().plugins(&["echo", "versioned_v1"]), Setup::state).start().await;
    let mut peer = Peer::admin(again.address(), "client").await;
    for name in ["echo", "versioned_v1"] {
        assert_eq!(listed(&mut peer, name).await["state"], "running", "{name}");
    }
    again.shutdown().await;
}

/// Whatever a plugin was doing when its daemon was stopped, it is not blamed for the time.
async fn is_stopped_for_a_while(isolation: &str) {
    const STOPPED: Duration = Duration::from_secs(6);
    let settings = [
        ("requests.deadline", "4s"),
        ("plugins.probation", "60s"),
        ("plugins.faulty.isolation", isolation),
        ("plugins.versioned.isolation", isolation),
    ];
    let (master, address) = master(&["faulty", "echo"], &settings).await;
    let mut peer = Peer::admin(address, "client").await;
    let mut monitor = Peer::monitor(address, "chat-server-1", "chat").await;
    for version in ["1.", "2."] {
        put(&master, "versioned.so", &content(&format!("versioned_v{}", &version[..1])));
        until_version(&mut peer, "versioned", version).await;
    }
    let in_handler = peer.send_request("faulty", json!({ "do": "stall" })).await;
    let mut waiting = Vec::new();
    for n in 0..50 {
        waiting.push(peer.send_request("versioned", json!({ "n": n, "delay_ms": 1_000 })).await);
    }
    assert!(peer.settle().await, "all have arrived");
    master.signal(Signal::STOP);
    // That it is stopped for longer than any of them may take is the fault.
    tokio::time::sleep(STOPPED).await;
    master.signal(Signal::CONT);
    let answer = peer.response(in_handler).await;
    assert_eq!(answer["body"], json!({ "ok": true }), "{isolation}: {answer}");
    for id in waiting {
        let answer = peer.response(id).await;
        assert_eq!(answer["body"]["version"], 2, "{isolation}: {answer}");
    }
    for name in ["faulty", "versioned", "echo"] {
        let told = listed(&mut peer, name).await;
        assert_eq!(
            (&told["state"], &told["errors"], &told["timeouts"]),
            (&json!("running"), &json!(0), &json!(0)),
            "{told}"
        );
        assert!(isolation == "thread" || name == "echo" || told["worker"]["deaths"] == 0, "{told}");
    }
    let told = listed(&mut peer, "versioned").await;
    assert!(told["probation"] != Value::Null, "{isolation}: it is still on probation, and was not rolled back: {told}");
    assert!(monitor.settle().await, "no link was cut");
    let log = master.log();
    assert!(log.contains("this process was stopped"), "{isolation}");
    assert!(!log.contains("hung") && !log.contains("rolled back"), "{isolation}");
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_18_no_plugin_in_the_daemon_is_blamed_for_a_time_in_which_the_master_was_stopped() {
    is_stopped_for_a_while("thread").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_18_no_worker_is_blamed_for_a_time_in_which_the_master_was_stopped() {
    is_stopped_for_a_while("process").await;
}
