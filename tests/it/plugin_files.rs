//! Files that come, change and go in the plugin directory, in all the ways in which people and programs do that.

use std::{
    collections::BTreeSet,
    fs::{self, File, FileTimes},
    io::Write,
    time::Duration,
};

use muster_tests::{
    daemon::Daemon,
    peer::Peer,
    plugins::{content, listed, put, until, until_version},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::plugin_life::master;

/// The generation that is served.
async fn generation(peer: &mut Peer) -> u64 {
    let told = until(peer, "versioned", "it runs", |plugin| plugin["state"] == "running").await;
    told["generation"].as_u64().expect("a number")
}

/// Another file runs that came later: what came before has been looked at.
async fn has_been_looked_at(master: &Daemon, peer: &mut Peer, by: &str) {
    put(master, &format!("{by}.so"), &content(by));
    until(peer, by, "a later file runs", |plugin| plugin["state"] == "running").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_7_a_slow_copy_over_the_live_name_is_loaded_when_it_is_whole_and_the_old_one_serves_until_then() {
    const SLOW: usize = 6 << 10;
    let (master, address) = master(&[], &[]).await;
    let mut peer = Peer::admin(address, "client").await;
    put(&master, "versioned.so", &content("versioned_v1"));
    until_version(&mut peer, "versioned", "1.").await;
    let before = generation(&mut peer).await;
    // As `cp` does: the file is emptied, and written from its beginning; the end of it at 1 KiB a second, when all that is
    // mapped of it may be there already.
    let whole = content("versioned_v2");
    let (fast, slow) = whole.split_at(whole.len() - SLOW);
    let mut copy = File::create(master.plugin_dir().join("versioned.so")).expect("an overwrite");
    copy.write_all(fast).expect("room");
    for piece in slow.chunks(1 << 10) {
        // The pace of who writes: nobody waits for anything here.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 1, "no part of it is served");
        let told = listed(&mut peer, "versioned").await;
        assert_eq!(
            (&told["state"], &told["generation"], &told["candidate"]),
            (&json!("running"), &json!(before), &Value::Null)
        );
        // On a busy machine the writer may rest for so long that the file is taken for one that was cut off.
        let reason = told["reason"].as_str().unwrap_or("the file is truncated");
        assert!(reason.contains("the file is truncated"), "{told}");
        let maps = fs::read_to_string(format!("/proc/{}/maps", master.pid())).expect("the master runs");
        let mapped: BTreeSet<&str> = maps.lines().filter_map(|line| line.split("/versioned-").nth(1)).collect();
        assert_eq!(mapped.len(), 1, "what serves, and no part of the other: {mapped:?}");
        copy.write_all(piece).expect("room");
    }
    drop(copy);
    let told = until_version(&mut peer, "versioned", "2.").await;
    assert!(told["generation"].as_u64() > Some(before) && told["reason"] == Value::Null, "{told}");
    let history = told["history"].as_array().expect("a history").iter();
    assert_eq!(history.filter(|entry| entry["to"] != Value::Null).count(), 2, "one switch: {told}");
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_8_every_way_to_change_a_file_is_one_reload_and_a_touch_is_none() {
    let (master, address) = master(&[], &[("plugins.probation", "0s")]).await;
    let mut peer = Peer::admin(address, "client").await;
    let live = master.plugin_dir().join("versioned.so");
    put(&master, "versioned.so", &content("versioned_v1"));
    until_version(&mut peer, "versioned", "1.").await;

    put(&master, "versioned.so", &content("versioned_v2"));
    until_version(&mut peer, "versioned", "2.").await;
    let renamed = generation(&mut peer).await;

    let elsewhere = tempfile::tempdir().expect("a directory");
    let target = elsewhere.path().join("v1.so");
    fs::write(&target, content("versioned_v1")).expect("a target");
    let link = master.plugin_dir().join(".link");
    std::os::unix::fs::symlink(&target, &link).expect("a link");
    fs::rename(&link, &live).expect("a swap");
    until_version(&mut peer, "versioned", "1.").await;
    let swapped = generation(&mut peer).await;

    // New bytes of the same size, in place, with the old time put back. No look at the file alone shows that.
    fs::remove_file(&live).expect("the link");
    let original = content("versioned_v1");
    fs::write(&live, &original).expect("a file");
    has_been_looked_at(&master, &mut peer, "echo").await;
    let time = fs::metadata(&live).and_then(|metadata| metadata.modified()).expect("a time");
    let place = original.windows(7).position(|word| word == b"/rustc/").expect("std was built there");
    let mut other = original.clone();
    other[place + 1] = b'R';
    let file = File::options().write(true).open(&live).expect("it is there");
    (&file).write_all(&other).expect("the same size");
    file.set_times(FileTimes::new().set_modified(time)).expect("its own file");
    drop(file);
    let is_next = |plugin: &Value| plugin["generation"].as_u64() > Some(swapped) && plugin["state"] == "running";
    let rewritten = until(&mut peer, "versioned", "the new bytes are served", is_next).await["generation"].as_u64();

    File::open(&live)
        .and_then(|file| file.set_times(FileTimes::new().set_modified(time + Duration::from_secs(60))))
        .expect("a touch");
    has_been_looked_at(&master, &mut peer, "push_report").await;
    assert_eq!(Some(generation(&mut peer).await), rewritten, "nothing for a touch");
    assert!(renamed < swapped);
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_13_a_file_that_is_deleted_takes_its_module_along_and_a_directory_that_is_made_again_is_watched() {
    let (master, address) = master(&["versioned_v1"], &[("plugins.gone_after", "300ms")]).await;
    let mut peer = Peer::admin(address, "client").await;
    let directory = master.plugin_dir().to_owned();
    fs::remove_file(directory.join("versioned_v1.so")).expect("it is there");
    until(&mut peer, "versioned_v1", "it is gone", Value::is_null).await;
    assert_eq!(peer.request("versioned", json!({})).await["error"], "unknown moduleId:versioned");
    fs::remove_dir_all(&directory).expect("the directory is removed");
    fs::create_dir(&directory).expect("and made again");
    put(&master, "versioned.so", &content("versioned_v2"));
    until_version(&mut peer, "versioned", "2.").await;
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_13_what_was_lost_when_the_queue_of_events_overflowed_is_found_by_a_look() {
    let (master, address) = master(&["echo"], &[]).await;
    let mut peer = Peer::admin(address, "client").await;
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("Linux has it");
    let queue: usize = queue.trim().parse().expect("a number");
    // While it is stopped it takes no events, so that the queue is full before the one that matters.
    master.signal(Signal::STOP);
    let noise = master.plugin_dir().join(".noise");
    for _ in 0..queue / 2 {
        drop(File::create(&noise).expect("a file"));
        fs::remove_file(&noise).expect("which is removed");
    }
    put(&master, "versioned.so", &content("versioned_v1"));
    fs::remove_file(master.plugin_dir().join("echo.so")).expect("it is there");
    master.signal(Signal::CONT);
    until_version(&mut peer, "versioned", "1.").await;
    until(&mut peer, "echo", "it is gone", Value::is_null).await;
    master.shutdown().await;
}
