//! What `plugin-api/ABI.md` promises, with files that were built elsewhere: by older versions of the interface, and by other
//! compilers.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use muster_tests::{
    author::{Author, BUILD, tried},
    cli::muster,
    daemon::{Setup, target_dir},
    deadline::{PROCESS, eventually, within},
    debian,
    peer::Peer,
    plugins::{content, put, until, until_version, words},
};
use serde_json::{Value, json};
use tokio::process::Command;

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// A file passes its trial in both isolation modes: it loads, runs, reloads and unloads.
async fn passes(file: &Path) {
    let (code, found) = tried("test", text(file)).await;
    assert_eq!((code, &found["passed"]), (0, &json!(true)), "{}: {found:#}", file.display());
}

#[tokio::test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the file is for x86-64")]
async fn a_plugin_of_the_first_version_does_in_this_host_what_it_always_did() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("abi/veteran-1.0.0.so");
    passes(&file).await;
    for isolation in ["thread", "process"] {
        let setup = Setup::master().plugins(&[]).set("plugins.veteran.isolation", isolation);
        let master = setup.set("modules.veteran.greeting", "good day").start().await;
        let address = master.address().to_string();
        let done = muster(&["plugin", "install", text(&file), "--name", "veteran", "--master", &address]).await;
        assert_eq!(done.code, 0, "{done:?}");
        let peer = tokio::sync::Mutex::new(Peer::admin(master.address(), "observer").await);
        let ask = async |module: &str, what: &str| peer.lock().await.request(module, json!({ "do": what })).await;
        assert_eq!(ask("veteran", "greet").await["body"], "good day", "an option, {isolation}");
        assert_eq!(ask("old", "greet").await["body"], "good day", "an alias, {isolation}");
        let asked = ask("veteran", "ask").await;
        assert_eq!(asked["body"], json!([{ "from": "master-server-1", "pid": true }]), "requests, timers, figures");
        eventually("its schedule ticks and its values are kept", PROCESS, async || {
            (ask("veteran", "values").await["body"]["master-server-1"] == "report").then_some(())
        })
        .await;
        let panic = ask("veteran", "panic").await["error"].to_string();
        assert!(panic.contains("as told"), "{isolation}: {panic}");
        assert_eq!(ask("veteran", "greet").await["body"], "good day", "it goes on, {isolation}");
        master.wait_log("the veteran starts").await;
        let log = master.log();
        let tagged = |line: &str| line.contains("module=\"veteran\"") && line.contains("generation=1");
        assert!(log.lines().any(|line| line.contains("the veteran starts") && tagged(line)), "{log}");
        master.shutdown().await;
    }
}

/// All that comes with this version, in a daemon of the first.
#[tokio::test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the daemon is for x86-64")]
async fn a_plugin_of_this_version_does_in_a_host_of_the_first_what_that_one_has() {
    let first = Path::new(env!("CARGO_MANIFEST_DIR")).join("abi/muster-1.0.0");
    let ours = [
        "console",
        "monitor_log",
        "node_info",
        "profiler",
        "scripts",
        "system_info",
        "time_report",
        "watch_server",
        "watchdog",
    ];
    for isolation in ["thread", "process"] {
        let setup = Setup::master().executable(first.clone()).plugins(&ours).set("plugins.faulty.isolation", isolation);
        let master = setup.set("plugins.keeper.isolation", isolation).start().await;
        let mut peer = Peer::admin(master.address(), "observer").await;
        for name in ours {
            until(&mut peer, name, &format!("{name} runs"), |plugin| plugin["state"] == "running").await;
        }

        put(&master, "faulty.so", &content("faulty"));
        until(&mut peer, "faulty", "faulty runs", |plugin| plugin["state"] == "running").await;
        for act in ["ok", "measure"] {
            let answer = peer.request("faulty", json!({ "do": act })).await;
            assert_eq!(answer["body"], json!({ "ok": true }), "{act}, {isolation}: metrics are not kept, and no fault");
        }
        let job = peer.request("faulty", json!({ "do": "job", "file": master.plugin_dir() })).await;
        assert!(words(&job).contains("this host has no operation"), "{isolation}: a job is refused in words: {job}");

        put(&master, "keeper.so", &content("keeper_v1"));
        until_version(&mut peer, "keeper", "1.").await;
        let held = peer.request("keeper", json!({ "add": 7, "put": "kept" })).await;
        assert_eq!((&held["body"]["count"], &held["body"]["version"]), (&json!(7), &json!("1")), "{isolation}: {held}");
        put(&master, "keeper.so", &content("keeper_v2"));
        until_version(&mut peer, "keeper", "2.").await;
        let after = peer.request("keeper", json!({ "add": 1 })).await;
        let expected = json!({ "version": "2", "count": 1, "kept": "kept" });
        assert_eq!(after["body"], expected, "{isolation}: the host keeps values, and hands over no state");
        master.shutdown().await;
    }
}

/// Somebody who has another compiler.
struct Toolchain {
    name: &'static str,
    cargo: PathBuf,
    variables: &'static [(&'static str, &'static str)],
}

impl Toolchain {
    /// Builds the third-party plugin, once as for a test and once as for production.
    async fn builds(&self) -> [PathBuf; 2] {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("third-party/disk-usage");
        let target = target_dir().join("compilers").join(self.name);
        let author = Author::of(crate_dir, "disk-usage");
        for arguments in [&["build"][..], &["build", "--release"]] {
            let kept = author.cargo(arguments);
            let mut command = Command::new(&self.cargo);
            command.args(arguments).current_dir(&author.directory).stdin(Stdio::null()).kill_on_drop(true);
            for (name, value) in kept.as_std().get_envs() {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            command.env("CARGO_TARGET_DIR", &target).envs(self.variables.iter().copied());
            let output = within(&format!("{} {arguments:?}", self.name), BUILD, command.output()).await;
            let output = output.expect("cargo can be started");
            assert!(output.status.success(), "{}:\n{}", self.name, String::from_utf8_lossy(&output.stderr));
        }
        ["debug", "release"].map(|profile| target.join(profile).join("libdisk_usage.so"))
    }
}

/// The compiler that a loadable file says it was built by.
async fn compiler_of(file: &Path) -> Value {
    let (code, found) = tried("check", text(file)).await;
    assert_eq!(code, 0, "{found:#}");
    found["plugin"]["compiler"].clone()
}

#[tokio::test]
async fn a_plugin_built_by_debians_compiler_passes_its_trial_unoptimised_and_optimised() {
    let is_here = Path::new("/usr/bin/rustc").exists() && Path::new("/usr/bin/cargo").exists();
    if !is_here && let Err(reason) = debian::install(&["rustc-web", "cargo-web"]).await {
        println!("not tried: Debian's rustc-web is not here and cannot be installed ({reason})");
        return;
    }
    let debian =
        Toolchain { name: "debian", cargo: "/usr/bin/cargo".into(), variables: &[("RUSTC", "/usr/bin/rustc")] };
    for file in debian.builds().await {
        let (theirs, ours) = (compiler_of(&file).await, compiler_of(&muster_tests::daemon::plugin_file("echo")).await);
        assert_ne!(theirs, ours, "it is another compiler");
        passes(&file).await;
    }
}

#[tokio::test]
async fn a_plugin_whose_own_types_are_laid_out_at_random_passes_its_trial_unoptimised_and_optimised() {
    let variables = &[("RUSTC_BOOTSTRAP", "1"), ("RUSTFLAGS", "-Zrandomize-layout")];
    let randomized = Toolchain { name: "randomized", cargo: "cargo".into(), variables };
    for file in randomized.builds().await {
        passes(&file).await;
    }
}
