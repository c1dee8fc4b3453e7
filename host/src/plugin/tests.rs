//! The supervisor with real libraries: those that `make fixtures` builds.

mod ending;
mod kit;
mod needing;
mod refusing;
mod replacing;
mod soak;

use std::{path::Path, time::Duration};

use kit::{Kit, served};
use muster_plugin_api::Role;
use serde_json::json;

/// The body of the preflight child: tests start this very program again, as the daemon does.
#[test]
#[ignore = "not a test: the body of the child that the others start"]
fn preflight_child() {
    let arguments: Vec<_> = std::env::args_os().collect();
    // Somebody who runs all ignored tests does not mean this one.
    if arguments.iter().any(|argument| argument == kit::CHILD)
        && let Some(path) = arguments.last()
    {
        super::preflight::child_main(Path::new(path));
    }
}

#[tokio::test]
async fn what_is_there_at_the_start_is_served_once_the_supervisor_says_so() {
    let kit = Kit::start(&[("b.so", "echo"), ("a.so", "versioned_v1"), ("c.txt", "faulty"), (".d.so", "faulty")]).await;
    assert_eq!(kit.modules.list(Role::Master), ["versioned", "echo"], "by name of the file, and only plugins");
    assert_eq!(kit.modules.list(Role::Monitor), ["versioned", "echo"]);
    assert_eq!(kit.ask("versioned", json!({ "n": 7 })).await, served(json!({ "version": 1, "n": 7 })));
    kit.end().await;
}

#[tokio::test]
async fn a_file_that_arrives_is_served_after_those_that_were_there() {
    let kit = Kit::start(&[("z.so", "echo")]).await;
    kit.put("a.so", "versioned_v1");
    kit.until_running("a.so").await;
    assert_eq!(kit.modules.list(Role::Master), ["echo", "versioned"], "arrival counts, not the name");
    kit.end().await;
}

#[tokio::test]
async fn a_file_that_stays_away_is_unloaded_and_its_ids_are_free() {
    let kit = Kit::start(&[("a.so", "versioned_v1"), ("b.so", "echo")]).await;
    let staged = kit.staged("a");
    assert!(kit::is_mapped(&staged));
    kit.remove("a.so");
    kit.until("a.so is gone", |files| files.iter().all(|file| &*file.file != "a.so")).await;
    assert!(!kit::is_mapped(&staged), "still mapped: {}", staged.display());
    assert!(!staged.exists(), "the private copy is removed as well");
    assert_eq!(kit.modules.list(Role::Master), ["echo"]);
    kit.put("c.so", "versioned_v2");
    kit.until_running("c.so").await;
    kit.end().await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_waited_for() {
    let kit = Kit::in_a_directory_that_is_missing().await;
    assert!(kit.status().is_empty());
    std::fs::create_dir(kit.directory()).unwrap();
    kit.put("a.so", "versioned_v1");
    kit.until_running("a.so").await;
    kit.end().await;
}

#[tokio::test]
async fn a_directory_that_is_removed_and_made_again_is_watched_again() {
    let kit = Kit::start(&[("a.so", "versioned_v1")]).await;
    std::fs::remove_dir_all(kit.directory()).unwrap();
    std::fs::create_dir(kit.directory()).unwrap();
    kit.put("a.so", "versioned_v2");
    kit.until_version("a.so", "2.").await;
    kit.put("b.so", "echo");
    kit.until_running("b.so").await;
    kit.end().await;
}

#[tokio::test]
async fn plugins_outlive_a_directory_that_vanishes() {
    let kit = Kit::start(&[("a.so", "versioned_v1")]).await;
    std::fs::rename(kit.directory(), kit.directory().with_extension("away")).unwrap();
    // Longer than a file may be away.
    kit.pass(kit.config.gone * 3).await;
    assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": 1 })));
    std::fs::rename(kit.directory().with_extension("away"), kit.directory()).unwrap();
    kit.put("a.so", "versioned_v2");
    kit.until_version("a.so", "2.").await;
    kit.end().await;
}

#[tokio::test]
async fn a_directory_that_vanishes_at_the_start_is_not_waited_for() {
    let kit = Kit::unsettled(&[("a.so", "versioned_v1")], |config| config.settle = Duration::from_millis(300), true);
    kit.until("a.so is seen", |files| kit::file(files, "a.so").is_some()).await;
    std::fs::rename(kit.directory(), kit.directory().with_extension("away")).unwrap();
    let settled = tokio::time::timeout(Duration::from_secs(5), kit.supervisor.settled()).await;
    assert!(settled.is_ok(), "{:?}", kit.status());
    kit.end().await;
}

#[tokio::test]
async fn at_the_start_an_id_goes_to_the_first_file_by_name_however_slow_it_is() {
    for _ in 0..5 {
        let kit = Kit::start(&[("b.so", "versioned_v2"), ("a.so", "versioned_v1")]).await;
        assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": 1 })));
        kit.until("b.so is refused", |files| {
            let b = kit::file(files, "b.so");
            b.is_some_and(|b| kit::reason(b).contains("\"versioned\" belongs to a.so") && b.draining.is_empty())
        })
        .await;
        kit.end().await;
    }
}

#[tokio::test]
async fn an_id_that_another_file_has_is_refused_until_it_is_free() {
    let kit = Kit::start(&[("a.so", "versioned_v1")]).await;
    kit.put("b.so", "versioned_v2");
    kit.until_refused("b.so", "belongs to a.so").await;
    assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": 1 })));
    kit.remove("a.so");
    kit.until_running("b.so").await;
    assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": 2 })));
    kit.end().await;
}

#[tokio::test]
async fn a_disabled_module_stays_disabled_when_its_file_is_replaced() {
    let kit = Kit::start(&[("a.so", "versioned_v1")]).await;
    assert!(kit.modules.set_enabled(Role::Master, "versioned", false));
    assert!(!kit.modules.set_enabled(Role::Master, "unheard-of", false));
    kit.put("a.so", "versioned_v2");
    kit.until_version("a.so", "2.").await;
    assert_eq!(kit.try_ask("versioned", json!({})).await, Err("disabled"));
    assert!(kit.modules.set_enabled(Role::Master, "versioned", true));
    assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": 2 })));
    kit.end().await;
}

#[tokio::test]
async fn a_push_module_ticks_at_the_pace_of_its_options_in_the_monitor_only() {
    let kit = Kit::with_options(&[("p.so", "push_report")], json!({ "type": "push", "interval": 1 })).await;
    let told = kit.services.told_within(Duration::from_secs(5), 3).await;
    assert!(told.iter().all(|(role, module)| *role == Role::Monitor && module == "pushReport"), "{told:?}");
    assert!(kit.modules.set_enabled(Role::Monitor, "pushReport", false));
    kit.services.forget();
    kit.pass(Duration::from_millis(1_500)).await;
    assert!(kit.services.told().is_empty(), "a disabled module does not tick");
    kit.end().await;
}

#[tokio::test]
async fn rescanning_finds_what_no_event_told() {
    let kit = Kit::start(&[]).await;
    kit.put("a.so", "versioned_v1");
    kit.supervisor.rescan().await;
    assert!(kit::file(&kit.status(), "a.so").is_some(), "seen when rescan returns");
    kit.until_running("a.so").await;
    kit.end().await;
}
