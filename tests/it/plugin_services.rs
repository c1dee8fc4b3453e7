//! What the host does for modules beside messages: work that blocks, on threads that a library can be unloaded under, and
//! metrics.

use std::{fs, path::Path};

use muster_tests::{
    cli::muster,
    daemon::Setup,
    deadline::{PROCESS, eventually},
    peer::Peer,
    plugins::listed,
};
use serde_json::json;

/// Has the module do a job that ends when the file is there, and waits until it has begun.
async fn begin_job(peer: &mut Peer, file: &Path) -> u64 {
    let request = peer.send_request("faulty", json!({ "do": "job", "file": file })).await;
    let begun = file.with_extension("begun");
    eventually("the job has begun", PROCESS, async || begun.exists().then_some(())).await;
    request
}

#[tokio::test]
async fn a_job_that_blocks_holds_up_neither_its_module_nor_the_daemon() {
    for isolation in ["thread", "process"] {
        let setup = Setup::master().plugins(&["faulty"]).set("plugins.faulty.isolation", isolation);
        let master = setup.start().await;
        let mut peer = Peer::admin(master.address(), "observer").await;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("gate");
        let job = begin_job(&mut peer, &file).await;
        assert_eq!(peer.request("faulty", json!({ "do": "ok" })).await["body"]["ok"], true, "{isolation}: meanwhile");
        fs::write(&file, "").expect("it can be written");
        assert_eq!(peer.response(job).await["body"]["ok"], true, "{isolation}");
        master.shutdown().await;
    }
}

#[tokio::test]
async fn a_library_stays_mapped_while_a_job_of_it_runs_and_not_a_moment_longer_than_that_is_looked_for() {
    let master = Setup::master().plugins(&["faulty"]).set("plugins.drain", "100ms").start().await;
    let mut peer = Peer::admin(master.address(), "observer").await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("gate");
    let job = begin_job(&mut peer, &file).await;

    let address = master.address().to_string();
    let done = muster(&["plugin", "disable", "faulty", "--master", &address]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let answer = peer.response(job).await;
    assert!(!answer["error"].is_null(), "whoever waits for the module is told: {answer}");
    let left = listed(&mut peer, "faulty").await["stillMapped"].clone();
    let reason = left[0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("a job of it (`spawn_blocking`) is running"), "{left}");

    fs::write(&file, "").expect("it can be written");
    let peer = tokio::sync::Mutex::new(peer);
    eventually("it is unmapped", PROCESS, async || {
        let plugin = listed(&mut *peer.lock().await, "faulty").await;
        (plugin["stillMapped"] == json!([])).then_some(())
    })
    .await;
    master.shutdown().await;
}

#[tokio::test]
async fn what_a_module_measures_is_shown_with_its_plugin_and_begins_anew_with_a_generation() {
    for isolation in ["thread", "process"] {
        let setup = Setup::master().plugins(&["faulty"]).set("plugins.faulty.isolation", isolation);
        let master = setup.start().await;
        let mut peer = Peer::admin(master.address(), "observer").await;
        for _ in 0..2 {
            assert_eq!(peer.request("faulty", json!({ "do": "measure" })).await["body"]["ok"], true);
        }
        let metrics = listed(&mut peer, "faulty").await["metrics"].clone();
        let counter =
            json!({ "module": "faulty", "role": "master", "name": "measured", "kind": "counter", "value": 4 });
        assert!(metrics.as_array().is_some_and(|metrics| metrics.contains(&counter)), "{isolation}: {metrics}");
        let address = master.address().to_string();
        let shown = muster(&["plugin", "show", "faulty", "--master", &address]).await;
        for words in ["metrics of its modules", "depth     gauge      1.5", "2 values, 0.250 on average"] {
            assert!(shown.stdout.contains(words), "{words} is not in\n{}", shown.stdout);
        }
        let done = muster(&["plugin", "reload", "faulty", "--master", &address]).await;
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(listed(&mut peer, "faulty").await["metrics"], json!([]), "{isolation}");
        master.shutdown().await;
    }
}
