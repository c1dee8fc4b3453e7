//! Files that must not be loaded: each is refused with a reason of its own, and nothing else is disturbed.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use super::kit::{self, Kit, fixture, served};
use crate::plugin::lifecycle::State;

fn bytes_of(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).unwrap()
}

#[tokio::test]
async fn every_bad_file_has_a_reason_of_its_own_and_disturbs_nobody() {
    let kit = Kit::start(&[("good.so", "versioned_v1")]).await;
    let good = bytes_of("versioned_v1");
    let mut foreign = good.clone();
    foreign[18] = 183;
    let mut needs = good.clone();
    let name = needs.windows(13).position(|word| word == b"libgcc_s.so.1").unwrap();
    needs[name..name + 6].copy_from_slice(b"libxyz");
    let bad: BTreeMap<&str, (Vec<u8>, &str)> = [
        ("empty.so", (Vec::new(), "is empty")),
        ("text.so", (b"#!/bin/sh\necho hello\n".to_vec(), "is text")),
        ("noise.so", (vec![0xff; 4096], "not an ELF")),
        ("header_only.so", (good[..40].to_vec(), "truncated: its header")),
        ("half.so", (good[..good.len() / 2].to_vec(), "truncated: a segment")),
        ("no_sections.so", (good[..good.len() - 8].to_vec(), "truncated: its table of sections")),
        ("machine.so", (foreign, "built for aarch64 and this machine is x86-64")),
        ("needs.so", (needs, "is missing (libxyz_s.so.1)")),
        ("no_module.so", (bytes_of("bad_no_module"), "no module symbol")),
        (
            "layout.so",
            (bytes_of("bad_layout"), "PluginRoot → manifest → its result: type RString expected, RVec found"),
        ),
        ("abort.so", (bytes_of("bad_panic_abort"), "panic = \"abort\"")),
        ("segv.so", (bytes_of("bad_constructor_segv"), "died of SIGSEGV")),
        ("loop.so", (bytes_of("bad_constructor_loop"), "did not answer within 2 s")),
    ]
    .into();
    for (name, (bytes, _)) in &bad {
        fs::write(kit.path(name), bytes).unwrap();
    }
    for (name, (_, words)) in &bad {
        kit.until_refused(name, words).await;
    }
    let reasons: Vec<String> = kit.status().iter().map(kit::reason).collect();
    let distinct: std::collections::BTreeSet<&String> = reasons.iter().collect();
    assert_eq!(distinct.len(), bad.len() + 1, "{reasons:#?}");
    assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": 1 })));
    assert_eq!(kit.all_staged().len(), 1, "nothing is kept of what was refused");
    kit.end().await;
}

#[tokio::test]
async fn one_that_loops_delays_no_other() {
    let files = [("a_loop.so", "bad_constructor_loop"), ("b.so", "versioned_v1")];
    let kit = Kit::unsettled(&files, |_| {}, true);
    kit.until_running("b.so").await;
    let status = kit.status();
    assert_eq!(kit::file(&status, "a_loop.so").unwrap().state, State::Seen, "still being vetted");
    kit.supervisor.settled().await;
    kit.until_refused("a_loop.so", "did not answer within 2 s").await;
    kit.end().await;
}

#[tokio::test]
async fn a_refused_replacement_leaves_the_old_generation_serving_until_a_good_one_comes() {
    let kit = Kit::start(&[("a.so", "versioned_v1")]).await;
    kit.put("a.so", "bad_constructor_segv");
    kit.until_refused("a.so", "SIGSEGV").await;
    let status = kit.status();
    assert_eq!(kit::file(&status, "a.so").unwrap().state, State::Running);
    assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": 1 })));

    kit.put("a.so", "versioned_v1");
    kit.until("the reason is gone", |files| kit::file(files, "a.so").is_some_and(|file| file.refused.is_none())).await;
    let again = kit.status();
    let generation =
        |files: &[crate::plugin::FileStatus]| kit::file(files, "a.so").unwrap().serving.clone().unwrap().generation;
    assert_eq!(generation(&again), generation(&status), "what runs is what is there: no reload");

    kit.put("a.so", "bad_layout");
    kit.until_refused("a.so", "differs").await;
    kit.put("a.so", "versioned_v2");
    kit.until_version("a.so", "2.").await;
    kit.until("the reason is gone", |files| kit::file(files, "a.so").is_some_and(|file| file.refused.is_none())).await;
    kit.end().await;
}

#[tokio::test]
async fn a_refused_file_that_is_removed_is_forgotten() {
    let kit = Kit::start(&[]).await;
    kit.put("a.so", "bad_no_module");
    kit.until_refused("a.so", "no module symbol").await;
    kit.remove("a.so");
    kit.until("nothing is listed", <[_]>::is_empty).await;
    kit.end().await;
}

#[tokio::test]
async fn a_refused_file_is_vetted_again_only_for_new_content_or_by_order() {
    let aside = tempfile::tempdir().unwrap();
    let (script, log) = (aside.path().join("check"), aside.path().join("log"));
    let program = kit::checker().program;
    fs::write(&script, format!("#!/bin/sh\necho \"$*\" >> {}\nexec {} \"$@\"\n", log.display(), program.display()))
        .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let kit = Kit::with(&[], |config| config.checker.program = script).await;
    let vetted = || fs::read_to_string(&log).unwrap_or_default().lines().filter(|line| line.contains("/a-")).count();

    kit.put("a.so", "bad_no_module");
    kit.until_refused("a.so", "no module symbol").await;
    let since = kit::file(&kit.status(), "a.so").unwrap().since;
    assert_eq!(vetted(), 1);
    // The same bytes once more: looked at, and left at that.
    kit.put("a.so", "bad_no_module");
    // Another that comes later is vetted, so this one has been looked at.
    kit.put("b.so", "echo");
    kit.until_running("b.so").await;
    assert_eq!(vetted(), 1, "no child was asked");
    kit.supervisor.rescan().await;
    kit.until("it was vetted once more", |_| vetted() == 2).await;
    kit.until_refused("a.so", "no module symbol").await;
    assert_eq!(kit::file(&kit.status(), "a.so").unwrap().since, since, "refused all the time");
    kit.end().await;
}

#[tokio::test]
async fn no_child_is_left_behind_by_a_constructor_that_loops() {
    let kit = Kit::start(&[]).await;
    kit.put("a.so", "bad_constructor_loop");
    kit.until_refused("a.so", "did not answer").await;
    let children = || {
        let me = std::process::id().to_string();
        let tasks = fs::read_dir(format!("/proc/{me}/task")).unwrap();
        let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let children: String = tasks.map(|task| of(task.unwrap())).collect();
        let staged = kit.config.stage_parent.to_str().unwrap().to_owned();
        children
            .split_whitespace()
            .filter(|child| fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default().contains(&staged))
            .count()
    };
    assert_eq!(children(), 0);
    kit.end().await;
}
