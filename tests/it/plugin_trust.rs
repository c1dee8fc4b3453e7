//! Files that must not be loaded (FAULTS, rows 1, 2 and 32): each is refused for a reason of its own, and what was
//! served before serves on.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    time::{Duration, Instant},
};

use minisign::KeyPair;
use muster_tests::{
    daemon::{Daemon, Setup, plugin_file},
    deadline::{PROCESS, eventually},
    peer::Peer,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A bad file is refused within this time.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// A user that the daemon is not.
const STRANGER: u32 = 4_321;

fn content(name: &str) -> Vec<u8> {
    fs::read(plugin_file(name)).expect("the fixture is built")
}

#[track_caller]
fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode can be set");
}

/// Puts a file into the directory at once, with this mode.
fn put(directory: &Path, name: &str, content: &[u8], with_mode: u32) {
    let beside = directory.join(format!(".{name}.new"));
    fs::write(&beside, content).expect("a file beside it");
    mode(&beside, with_mode);
    fs::rename(beside, directory.join(name)).expect("a rename");
}

/// `content` with the first `old` replaced by `new` of the same length.
#[track_caller]
fn patched(mut content: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    let place = content.windows(old.len()).position(|word| word == old).expect("the fixture has it");
    content[place..place + new.len()].copy_from_slice(new);
    content
}

/// What the master tells of a plugin; null if it does not know it.
async fn plugin(peer: &mut Peer, name: &str) -> Value {
    let answer = peer.request("__plugins__", json!({ "action": "list" })).await;
    let plugins = answer["body"]["plugins"].as_array().expect("a list").clone();
    plugins.into_iter().find(|plugin| plugin["name"] == name).unwrap_or_default()
}

/// Waits for something about a plugin, and returns it.
async fn until<T>(peer: &mut Peer, what: &str, name: &str, look: impl Fn(&Value) -> Option<T>) -> T {
    let peer = tokio::sync::Mutex::new(peer);
    eventually(what, PROCESS, async || look(&plugin(*peer.lock().await, name).await)).await
}

async fn until_refused(peer: &mut Peer, name: &str, words: &str) -> String {
    until(peer, words, name, |plugin| {
        plugin["reason"].as_str().filter(|reason| reason.contains(words)).map(str::to_owned)
    })
    .await
}

async fn until_version(peer: &mut Peer, version: u64) {
    let peer = tokio::sync::Mutex::new(peer);
    eventually("the version serves", PROCESS, async || {
        (peer.lock().await.request("versioned", json!({})).await["body"]["version"] == version).then_some(())
    })
    .await;
}

/// A master with `versioned.so` in its first version.
async fn master(settings: &[(&str, &str)]) -> (Daemon, Peer) {
    let setup = settings.iter().fold(Setup::master().plugins(&[]), |setup, (key, value)| setup.set(key, value));
    let master = setup.start().await;
    let mut peer = Peer::admin(master.address(), "observer").await;
    put(master.plugin_dir(), "versioned.so", &content("versioned_v1"), 0o644);
    until_version(&mut peer, 1).await;
    (master, peer)
}

/// Sizes differ from build to build.
fn without_numbers(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if shown.ends_with('#') => {}
            '0'..='9' => shown.push('#'),
            c => shown.push(c),
        }
    }
    shown
}

#[tokio::test]
async fn row_1_every_bad_file_is_refused_in_time_with_its_own_reason_and_the_old_version_serves() {
    let (master, mut peer) = master(&[]).await;
    let good = content("versioned_v2");
    let mut foreign = good.clone();
    foreign[18] = 183;
    let symbol = b"_1as_0lib_1header_0root_bmodule_bloader";
    let renamed = b"_1as_0lib_1header_0root_bmodule_bloadex";
    let bad: [(&str, Vec<u8>, &str); 14] = [
        ("empty", vec![], "the file is empty: copy the library again, best under another name that is then renamed"),
        (
            "text",
            b"#!/bin/sh\necho hello\n".to_vec(),
            "the file is text and not a shared library: build the plugin as a `cdylib` and copy the .so",
        ),
        (
            "noise",
            vec![0xff; 4096],
            "the file is not an ELF shared library: build the plugin as a `cdylib` and copy the .so",
        ),
        (
            "cut in its header",
            good[..40].to_vec(),
            "the file is truncated: its header ends at byte # and the file has #; copy it again",
        ),
        (
            "cut in its table of segments",
            good[..100].to_vec(),
            "the file is truncated: its table of segments ends at byte # and the file has #; copy it again",
        ),
        (
            "cut in the middle",
            good[..good.len() / 2].to_vec(),
            "the file is truncated: a segment ends at byte # and the file has #; copy it again",
        ),
        (
            "cut at its end",
            good[..good.len() - 8].to_vec(),
            "the file is truncated: its table of sections ends at byte # and the file has #; copy it again",
        ),
        (
            "for another machine",
            foreign,
            "the file is built for aarch# and this machine is x#-#: build it for this machine",
        ),
        (
            "without the symbol",
            content("bad_no_module"),
            "it is a shared library but not a plugin (no module symbol): export modules with `export_modules!`",
        ),
        (
            "in need of what is not there",
            patched(good.clone(), b"libgcc_s.so.1", b"libxyz_s.so.1"),
            "a library that it needs is missing (libxyz_s.so.#): install it, or build the plugin without it",
        ),
        (
            "with another interface",
            content("bad_layout"),
            "its interface differs from the host's at PluginRoot → manifest → its result: type RString expected, RVec \
             found (built with muster-plugin-api #.#.#, the host has #.#.#); build it with the host's version",
        ),
        (
            "with a wrong magic",
            patched(good.clone(), b"abi stable library for Rust", b"abi stable library for Dust"),
            "its header is not one of abi_stable #.#",
        ),
        (
            "with a symbol of another name",
            patched(good.clone(), symbol, renamed),
            "it is a shared library but not a plugin (no module symbol): export modules with `export_modules!`",
        ),
        (
            "that aborts in a panic",
            content("bad_panic_abort"),
            "it is built with panic = \"abort\", so that a panic in it would end the daemon: build it with \"unwind\"",
        ),
    ];
    let mut before = String::new();
    for (what, content, sentence) in bad {
        put(master.plugin_dir(), "versioned.so", &content, 0o644);
        let begin = Instant::now();
        let reason = until(&mut peer, what, "versioned", |plugin| {
            let reason = plugin["reason"].as_str().map(without_numbers)?;
            (reason != before).then_some(reason)
        })
        .await;
        let took = begin.elapsed();
        assert!(reason.starts_with(sentence), "a file {what}: {reason}");
        assert!(took < REFUSED_WITHIN, "a file {what} was refused after {took:?}");
        assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 1, "beside a file {what}");
        before = reason;
    }
    put(master.plugin_dir(), "versioned.so", &good, 0o644);
    until_version(&mut peer, 2).await;
    assert_eq!(plugin(&mut peer, "versioned").await["reason"], Value::Null);
    master.shutdown().await;
}

#[tokio::test]
async fn row_2_a_constructor_that_crashes_or_loops_takes_only_the_child_along() {
    let (master, mut peer) = master(&[]).await;
    let pid = master.pid();
    for (name, words) in [("bad_constructor_segv", "it died of SIGSEGV"), ("bad_constructor_loop", "did not answer")] {
        put(master.plugin_dir(), "versioned.so", &content(name), 0o644);
        until_refused(&mut peer, "versioned", words).await;
        assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 1);
    }
    assert_eq!(master.pid(), pid);
    master.shutdown().await;
}

#[tokio::test]
async fn row_32_nothing_is_loaded_from_a_directory_that_others_may_write_until_they_may_not() {
    let (master, mut peer) = master(&[("plugins.settle", "5ms")]).await;
    let directory = master.plugin_dir().to_owned();
    mode(&directory, 0o777);
    put(&directory, "versioned.so", &content("versioned_v2"), 0o644);
    let reason = until_refused(&mut peer, "versioned", "others may write").await;
    let path = directory.display();
    assert_eq!(
        reason,
        format!("others may write to {path} (mode 0777): `chmod go-w {path}`, or set plugins.strict = false")
    );
    master.wait_log("nothing is loaded from the plugin directory").await;
    assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 1, "what runs goes on");
    mode(&directory, 0o755);
    until_version(&mut peer, 2).await;
    master.shutdown().await;
}

#[tokio::test]
async fn row_32_a_file_of_others_or_one_that_they_may_write_is_refused_until_that_is_put_right() {
    let (master, mut peer) = master(&[]).await;
    let file = master.plugin_dir().join("versioned.so");
    put(master.plugin_dir(), "versioned.so", &content("versioned_v2"), 0o664);
    let reason = until_refused(&mut peer, "versioned", "others may write").await;
    assert!(reason.contains(&format!("(mode 0664): `chmod go-w {}`", file.display())), "{reason}");
    mode(&file, 0o644);
    until_version(&mut peer, 2).await;
    // Only root may give files away.
    if rustix::process::geteuid().is_root() {
        let foreign = master.plugin_dir().join(".foreign");
        fs::write(&foreign, content("versioned_v1")).expect("a file beside it");
        chown(&foreign, Some(STRANGER), None).expect("root may give a file away");
        fs::rename(foreign, &file).expect("a rename");
        let reason = until_refused(&mut peer, "versioned", "belongs to user 4321").await;
        assert!(reason.contains("`chown 0 "), "{reason}");
        chown(&file, Some(0), None).expect("root may take it back");
        until_version(&mut peer, 1).await;
    }
    master.shutdown().await;
}

#[tokio::test]
async fn row_32_what_is_swapped_between_check_and_open_never_runs() {
    const SWAPS: usize = 300;
    let (master, mut peer) = master(&[("plugins.settle", "1ms")]).await;
    let (good, bad) = (content("versioned_v1"), content("versioned_v2"));
    for swap in 0..SWAPS {
        // Others could have written the second version: only the first may ever be served.
        let (content, mode) = if swap % 2 == 0 { (&bad, 0o666) } else { (&good, 0o644) };
        put(master.plugin_dir(), "versioned.so", content, mode);
        let answer = peer.request("versioned", json!({})).await;
        assert_eq!(answer["body"]["version"], 1, "after swap {swap}");
    }
    until(&mut peer, "the good one", "versioned", |plugin| {
        (plugin["state"] == "running" && plugin["reason"].is_null()).then_some(())
    })
    .await;
    master.shutdown().await;
}

#[tokio::test]
async fn row_32_with_signatures_required_only_what_is_signed_as_what_it_is_runs() {
    let pair = KeyPair::generate_unencrypted_keypair().expect("a pair of keys");
    let other = KeyPair::generate_unencrypted_keypair().expect("another pair");
    let sign = |pair: &KeyPair, content: &[u8], comment: &str| {
        let signature = minisign::sign(Some(&pair.pk), &pair.sk, content, Some(comment), None);
        signature.expect("bytes can be signed").to_string().into_bytes()
    };
    let keys = json!([pair.pk.to_base64()]).to_string();
    let settings =
        [("plugins.signature", "require"), ("plugins.public_keys", keys.as_str()), ("plugins.settle", "5ms")];
    let setup = settings.iter().fold(Setup::master().plugins(&[]), |setup, (key, value)| setup.set(key, value));
    let master = setup.start().await;
    let mut peer = Peer::admin(master.address(), "observer").await;
    let library = content("versioned_v1");
    put(master.plugin_dir(), "versioned.so", &library, 0o644);
    until_refused(&mut peer, "versioned", "signatures are required and there is no ").await;
    let good = "id=versioned_v1 version=1.0.0";
    for (signature, words) in [
        (b"hello".to_vec(), "its signature does not hold"),
        (sign(&other, &library, good), "signed by a key that is not in plugins.public_keys"),
        (sign(&pair, b"something else", good), "its signature does not hold (The signature verification failed)"),
        (sign(&pair, &library, "hello"), "its signature does not say what for"),
        (sign(&pair, &library, "id=another version=1.0.0"), "it is signed as id=another version=1.0.0 and says"),
    ] {
        put(master.plugin_dir(), "versioned.so.minisig", &signature, 0o644);
        until_refused(&mut peer, "versioned", words).await;
    }
    // The file itself has not changed all the time.
    let reason = until_refused(&mut peer, "versioned", "says that it is").await;
    let itself = reason.split("says that it is ").nth(1).and_then(|rest| rest.split(": ").next());
    put(
        master.plugin_dir(),
        "versioned.so.minisig",
        &sign(&pair, &library, itself.expect("it says what it is")),
        0o644,
    );
    until_version(&mut peer, 1).await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_signed_version_forbids_older_ones_only_once_it_has_passed_its_probation() {
    const NAME: &str = "muster-fixture-versioned-v1";
    let pair = KeyPair::generate_unencrypted_keypair().expect("a pair of keys");
    let keys = json!([pair.pk.to_base64()]).to_string();
    let start = async |state: Option<TempDir>, probation: &str| {
        let settings = [
            ("plugins.signature", "require"),
            ("plugins.public_keys", keys.as_str()),
            ("plugins.settle", "5ms"),
            ("plugins.probation", probation),
        ];
        let setup = settings.iter().fold(Setup::master().plugins(&[]), |setup, (key, value)| setup.set(key, value));
        state.into_iter().fold(setup, Setup::state).start().await
    };
    let install = |master: &Daemon, library: &[u8], version: &str| {
        let comment = format!("id={NAME} version={version}");
        let signature = minisign::sign(Some(&pair.pk), &pair.sk, library, Some(&comment), None);
        let signature = signature.expect("bytes can be signed").to_string();
        put(master.plugin_dir(), "versioned.so.minisig", signature.as_bytes(), 0o644);
        put(master.plugin_dir(), "versioned.so", library, 0o644);
    };
    let old = content("versioned_v1");
    // A version 2 of the same plugin: the names have the same length.
    let new = patched(content("versioned_v2"), b"muster-fixture-versioned-v2", NAME.as_bytes());

    let master = start(None, "1h").await;
    let mut peer = Peer::admin(master.address(), "observer").await;
    for (library, text, number) in [(&old, "1.0.0", 1), (&new, "2.0.0", 2), (&old, "1.0.0", 1)] {
        install(&master, library, text);
        until_version(&mut peer, number).await;
    }
    let state = master.shutdown().await;

    let master = start(Some(state), "1s").await;
    let mut peer = Peer::admin(master.address(), "observer").await;
    for (library, text, number) in [(&old, "1.0.0", 1), (&new, "2.0.0", 2)] {
        install(&master, library, text);
        until_version(&mut peer, number).await;
    }
    until(&mut peer, "it has passed", "versioned", |plugin| plugin["probation"].is_null().then_some(())).await;
    install(&master, &old, "1.0.0");
    until_refused(&mut peer, "versioned", "it has version 1.0.0 and 2.0.0 ran before").await;
    assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 2);
    master.shutdown().await;
}
