//! Plugins in processes of their own: whatever they do ends their worker, one call with an error, and nothing else.

use std::{
    fs,
    time::{Duration, Instant},
};

use muster_tests::{
    cli::muster,
    daemon::{Daemon, Setup},
    deadline::{PROCESS, eventually},
    peer::Peer,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

/// A worker is back within a second; the machine is shared.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// For calls that end at it.
const DEADLINE: (&str, &str) = ("requests.deadline", "2s");

async fn faulty_in_a_worker(settings: &[(&str, &str)]) -> Daemon {
    let setup = Setup::master().plugins(&["faulty", "echo"]).set("plugins.faulty.isolation", "process");
    settings.iter().fold(setup, |setup, (key, value)| setup.set(key, value)).start().await
}

/// What the master tells of a plugin.
async fn status(peer: &mut Peer, name: &str) -> Value {
    let answer = peer.request("__plugins__", json!({ "action": "list" })).await;
    let plugins = answer["body"]["plugins"].as_array().cloned().unwrap_or_default();
    plugins.into_iter().find(|plugin| plugin["name"] == name).unwrap_or_default()
}

async fn until(what: &str, peer: &mut Peer, name: &str, reached: impl Fn(&Value) -> bool) -> Value {
    let peer = tokio::sync::Mutex::new(peer);
    eventually(what, PROCESS, async || {
        let status = status(*peer.lock().await, name).await;
        reached(&status).then_some(status)
    })
    .await
}

async fn order(peer: &mut Peer, what: &str) -> Value {
    peer.request("faulty", json!({ "do": what })).await
}

/// The words of an answer's error; empty without one.
fn error_of(answer: &Value) -> &str {
    answer["error"]["message"].as_str().or(answer["error"].as_str()).unwrap_or_default()
}

/// Asserts that the module answers again in time.
async fn is_back(peer: &mut Peer, after: &str) {
    let begun = Instant::now();
    let id = peer.send_request("faulty", json!({ "do": "ok" })).await;
    let answer = peer.response_within(id, BACK_WITHIN).await;
    assert_eq!(answer["body"], json!({ "ok": true }), "after {after}: {answer}");
    assert!(begun.elapsed() < BACK_WITHIN, "after {after} it took {:?}", begun.elapsed());
    println!("after {after}: answered again within {:?}", begun.elapsed());
}

/// Tells the module to go wrong; its caller is to be told `expected`, others nothing.
async fn goes_wrong(fault: &str, expected: &str, settings: &[(&str, &str)]) {
    let master = faulty_in_a_worker(settings).await;
    let mut peer = Peer::admin(master.address(), "caller").await;
    let mut other = Peer::admin(master.address(), "other").await;
    is_back(&mut peer, "its start").await;
    let before = status(&mut peer, "faulty").await["worker"]["pid"].clone();
    let answer = order(&mut peer, fault).await;
    assert!(error_of(&answer).contains(expected), "{fault}: {answer}");
    assert_eq!(other.request("echo", json!("x")).await["body"], "x", "others are not disturbed");
    is_back(&mut peer, fault).await;
    let after = status(&mut peer, "faulty").await["worker"].clone();
    assert_ne!(after["pid"], before, "{fault}: another process");
    assert_eq!((&after["deaths"], &after["restarts"]), (&json!(1), &json!(1)), "{fault}");
    peer.expect_silence().await;
    master.shutdown().await;
}

/// Asserts that no process has this number.
async fn is_gone(pid: &Value) {
    let pid = raw(pid);
    eventually("the end of the worker", PROCESS, async || test_kill_process(pid).is_err().then_some(())).await;
}

fn raw(pid: &Value) -> Pid {
    let pid = pid.as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a worker has a number");
    Pid::from_raw(pid).expect("which is not 0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segmentation_fault_ends_the_worker_and_one_call() {
    goes_wrong("segv", "module faulty was restarted: its worker died of SIGSEGV", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_ends_the_worker_and_one_call() {
    goes_wrong("abort", "module faulty was restarted: its worker died of SIGABRT", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_ends_the_worker_and_one_call() {
    goes_wrong("exit", "module faulty was restarted: its worker ended itself (exit status 3)", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_overflow_ends_the_worker_and_one_call() {
    goes_wrong("overflow", "module faulty was restarted: its worker died of SIG", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_times_out_and_its_worker_is_replaced() {
    goes_wrong("spin", "module faulty failed: timed out after 2 s", &[DEADLINE]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_blocks_times_out_and_its_worker_is_replaced() {
    goes_wrong("block", "module faulty failed: timed out after 2 s", &[DEADLINE]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_grows_beyond_its_limit_is_replaced() {
    let master = faulty_in_a_worker(&[("plugins.faulty.limits.memory", "64MiB")]).await;
    let mut peer = Peer::admin(master.address(), "caller").await;
    let mut answers = 0;
    let error = loop {
        let answer = order(&mut peer, "leak").await;
        if !error_of(&answer).is_empty() {
            break error_of(&answer).to_owned();
        }
        answers += 1;
        assert!(answers < 4, "64 MiB have been taken");
    };
    assert!(error.contains("was restarted: its worker died of SIGABRT"), "{error}");
    assert!(answers > 0, "there is room for some");
    is_back(&mut peer, "leak").await;
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn panics_and_threads_left_behind_are_no_reason_to_replace_a_worker_and_go_with_it() {
    let master = faulty_in_a_worker(&[]).await;
    let mut peer = Peer::admin(master.address(), "caller").await;
    let panicked = order(&mut peer, "panic").await;
    assert!(error_of(&panicked).contains("panicked: "), "{panicked}");
    assert_eq!(order(&mut peer, "thread").await["body"], json!({ "ok": true }));
    let worker = status(&mut peer, "faulty").await["worker"].clone();
    assert_eq!(worker["deaths"], 0);
    fs::remove_file(master.plugin_dir().join("faulty.so")).expect("the plugin is removed");
    let left = until("the end of the plugin", &mut peer, "faulty", Value::is_null).await;
    assert_eq!(left, Value::Null, "unloaded, whatever it left");
    is_gone(&worker["pid"]).await;
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_panic_and_the_same_answers_come_from_a_thread_and_from_a_worker() {
    let mut answers = Vec::new();
    for isolation in ["thread", "process"] {
        let setup = Setup::master().plugins(&["faulty"]).set("plugins.faulty.isolation", isolation);
        let master = setup.start().await;
        let mut peer = Peer::admin(master.address(), "caller").await;
        assert_eq!(status(&mut peer, "faulty").await["isolation"], isolation);
        let mut of_this = Vec::new();
        for what in ["ok", "panic", "leak", "fly"] {
            let mut answer = order(&mut peer, what).await;
            answer["respId"].take();
            of_this.push(answer);
        }
        answers.push(of_this);
        master.shutdown().await;
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn row_18_a_worker_that_is_stopped_from_outside_is_replaced() {
    let master = faulty_in_a_worker(&[]).await;
    let mut peer = Peer::admin(master.address(), "caller").await;
    is_back(&mut peer, "its start").await;
    let before = status(&mut peer, "faulty").await["worker"]["pid"].clone();
    kill_process(raw(&before), Signal::STOP).expect("the worker runs");
    let stopped_at = Instant::now();
    let answer = order(&mut peer, "ok").await;
    let stopped = "was restarted: its worker was killed: it had been stopped from outside";
    assert!(error_of(&answer).contains(stopped), "{answer}");
    println!("its caller was told after {:?}", stopped_at.elapsed());
    is_back(&mut peer, "SIGSTOP").await;
    assert_ne!(status(&mut peer, "faulty").await["worker"]["pid"], before);
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_arrive_while_there_is_no_worker_wait_for_the_next_one() {
    let master = faulty_in_a_worker(&[]).await;
    let mut peer = Peer::admin(master.address(), "caller").await;
    for _ in 0..3 {
        let fault = order(&mut peer, "segv").await;
        assert!(error_of(&fault).contains("SIGSEGV"), "{fault}");
        let mut waiting = Vec::new();
        for _ in 0..50 {
            waiting.push(peer.send_request("faulty", json!({ "do": "ok" })).await);
        }
        for id in waiting {
            assert_eq!(peer.response(id).await["body"], json!({ "ok": true }));
        }
    }
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_whose_workers_keep_dying_is_quarantined_until_that_is_lifted() {
    let master = faulty_in_a_worker(&[("requests.deadline", "10s")]).await;
    let mut peer = Peer::admin(master.address(), "caller").await;
    for death in 1..=11 {
        let answer = order(&mut peer, "segv").await;
        assert!(error_of(&answer).contains("SIGSEGV"), "death {death}: {answer}");
    }
    let quarantined = |plugin: &Value| plugin["state"] == "quarantined";
    let plugin = until("quarantine", &mut peer, "faulty", quarantined).await;
    let reason = plugin["reason"].as_str().expect("a reason");
    assert!(reason.contains("died 11 times within 60 s; the last time its worker died of SIGSEGV"), "{reason}");
    assert_eq!(error_of(&order(&mut peer, "ok").await), "unknown moduleId:faulty");

    // Durable: another start does not try it.
    let state = master.shutdown().await;
    let setup = Setup::master().plugins(&["faulty"]).set("plugins.faulty.isolation", "process");
    let master = setup.state(state).start().await;
    let mut peer = Peer::admin(master.address(), "caller").await;
    until("quarantine", &mut peer, "faulty", quarantined).await;

    let address = master.address().to_string();
    let lift = |user: &'static str| {
        let address = address.clone();
        async move {
            let arguments =
                ["plugin", "unquarantine", "faulty", "--master", &address, "--user", user, "--password", user];
            muster(&arguments).await
        }
    };
    let denied = lift("monitor").await;
    assert!(denied.code == 1 && denied.stderr.contains("permission denied"), "{denied:?}");
    let lifted = lift("admin").await;
    assert_eq!(
        (lifted.code, lifted.stdout.trim()),
        (0, "faulty is not quarantined any more; it is tried again"),
        "{lifted:?}"
    );
    until("another run", &mut peer, "faulty", |plugin| plugin["state"] == "running").await;
    is_back(&mut peer, "quarantine").await;
    assert_eq!(lift("admin").await.code, 1, "it is not quarantined");
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugins_that_come_with_the_daemon_work_in_workers() {
    let plugins = ["console", "watchdog", "time_report"];
    let mut setup = Setup::master().plugins(&plugins);
    for plugin in plugins {
        setup = setup.set(&format!("plugins.{plugin}.isolation"), "process");
    }
    let master = setup.set("modules.timeReport.interval", "1").start().await;
    let mut peer = Peer::admin(master.address(), "client").await;
    for plugin in plugins {
        let status = status(&mut peer, plugin).await;
        assert_eq!((&status["state"], &status["isolation"]), (&json!("running"), &json!("process")), "{status}");
        assert!(fs::metadata(format!("/proc/{}", status["worker"]["pid"])).is_ok(), "{status}");
    }
    let order = json!({"clientId": "client", "username": "admin", "signal": "list"});
    let listed = peer.request("__console__", order).await;
    assert!(listed["body"]["msg"].is_object(), "{listed}");
    let monitor = Setup::monitor(master.address(), "chat-server-1", "chat").plugins(&plugins);
    let monitor = monitor.set("plugins.time_report.isolation", "process").start().await;
    monitor.wait_registered().await;
    let asking = tokio::sync::Mutex::new(&mut peer);
    eventually("a report of the monitor", PROCESS, async || {
        let report = asking.lock().await.request("timeReport", json!({})).await;
        report.to_string().contains("chat-server-1").then_some(())
    })
    .await;
    for plugin in plugins {
        assert_eq!(status(&mut peer, plugin).await["worker"]["deaths"], 0, "{plugin}");
    }
    monitor.shutdown().await;
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_worker_outlives_a_master_that_is_killed_even_if_it_is_busy() {
    let master = faulty_in_a_worker(&[("plugins.echo.isolation", "process")]).await;
    let mut peer = Peer::admin(master.address(), "caller").await;
    let idle = status(&mut peer, "echo").await["worker"]["pid"].clone();
    let busy = status(&mut peer, "faulty").await["worker"]["pid"].clone();
    let descriptors = fs::read_dir(format!("/proc/{idle}/fd")).expect("the worker runs");
    let open: Vec<String> = descriptors
        .flatten()
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
        .collect();
    let sockets = open.iter().filter(|open| open.starts_with("socket:")).count();
    assert_eq!(sockets, 1, "its own, none of the daemon's: {open:?}");
    // What the tests themselves were started with may be there, too.
    let harmless = |open: &String| *open == "/dev/null" || open.starts_with("pipe:") || open.starts_with("socket:");
    assert!(open.iter().all(harmless), "no file of the daemon's: {open:?}");
    peer.send_request("faulty", json!({ "do": "spin" })).await;
    assert_eq!(peer.request("echo", json!(1)).await["body"], 1);
    master.kill().await;
    is_gone(&idle).await;
    is_gone(&busy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_isolation_is_a_fault_of_the_configuration() {
    let refused = muster(&["master", "--listen", "127.0.0.1:0", "--set", "plugins.faulty.isolation=jail"]).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("plugins.faulty.isolation"), "{}", refused.stderr);
    assert!(refused.stderr.contains(r#""thread" or "process""#), "{}", refused.stderr);
}

/// What the bridge costs: `cargo test --release -p muster-tests --test it bridge -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn the_bridge_costs_microseconds() {
    const ROUNDS: usize = 4000;
    for isolation in ["thread", "process", "thread", "process"] {
        let setup = Setup::master().plugins(&["echo"]).set("plugins.echo.isolation", isolation);
        let master = setup.start().await;
        let mut peer = Peer::admin(master.address(), "caller").await;
        let mut single = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            assert_eq!(peer.request("echo", json!(1)).await["body"], 1);
            single.push(begun.elapsed());
        }
        let mut full = Vec::new();
        for _ in 0..ROUNDS / 100 {
            let begun = Instant::now();
            let mut ids = Vec::new();
            for _ in 0..512 {
                ids.push(peer.send_request("echo", json!(1)).await);
            }
            for id in ids {
                peer.response(id).await;
            }
            full.push(begun.elapsed());
        }
        single.sort();
        full.sort();
        println!(
            "{isolation}: {:?} at 1 in flight, {:?} each at 512 in flight",
            single[single.len() / 2],
            full[full.len() / 2] / 512
        );
        master.shutdown().await;
    }
}
