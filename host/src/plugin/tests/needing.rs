//! Plugins that need modules of others: they wait, start by themselves, and tell of circles.

use muster_plugin_api::Role;
use serde_json::json;

use super::kit::{self, Kit, served};

#[tokio::test]
async fn a_plugin_waits_for_the_module_it_needs_and_starts_by_itself() {
    let kit = Kit::start(&[("a.so", "dependent")]).await;
    kit.until_refused("a.so", "it needs module versioned, which nobody serves").await;
    kit.put("b.so", "versioned_v1");
    kit.until_running("b.so").await;
    kit.until_running("a.so").await;
    assert_eq!(kit.ask("dependent", json!({ "n": 1 })).await, served(json!({ "n": 1 })));
    kit.end().await;
}

#[tokio::test]
async fn at_the_start_needs_go_before_names_and_all_are_there_when_it_is_over() {
    let kit = Kit::start(&[("a.so", "dependent"), ("z.so", "versioned_v1")]).await;
    assert_eq!(kit.modules.list(Role::Master), ["dependent", "versioned"], "lists go by name all the same");
    kit.end().await;
}

#[tokio::test]
async fn needs_that_go_round_in_a_circle_are_refused_with_their_path_until_one_does_without() {
    let kit = Kit::start(&[("a.so", "dependent"), ("b.so", "dependent_back")]).await;
    kit.until_refused("a.so", "circle (dependent → versioned → dependent)").await;
    kit.until_refused("b.so", "circle (versioned → dependent → versioned)").await;
    kit.put("b.so", "versioned_v2");
    kit.until_version("b.so", "2.").await;
    kit.until_running("a.so").await;
    kit.until("no reason is left", |files| files.iter().all(|file| kit::reason(file).is_empty())).await;
    kit.end().await;
}
