//! The module in a fleet without a daemon: from its own code, and from the file that is shipped.

use std::{collections::BTreeMap, time::Duration};

use disk_usage::{DiskUsage, MODULE, Usage};
use muster_plugin_api::{
    serde_json::json,
    testing::{Deed, Fleet, MASTER, Outcome, library},
};

const INTERVAL: Duration = Duration::from_secs(30);

fn fleet() -> Fleet {
    Fleet::of::<DiskUsage>().monitor("chat-1", "chat").monitor("gate-1", "gate").start().expect("it starts")
}

fn history(fleet: &mut Fleet, server: &str) -> Vec<f64> {
    fleet.call(MODULE, json!({ "history": server })).parse()
}

#[test]
fn every_server_reports_at_the_interval() {
    let mut fleet = fleet();
    fleet.advance(INTERVAL);
    let all: BTreeMap<String, BTreeMap<String, Usage>> = fleet.call(MODULE, ()).parse();
    assert_eq!(all.keys().collect::<Vec<_>>(), ["chat-1", "gate-1"]);
    assert!(all["chat-1"]["/"].total > 0, "{all:?}");
    assert_eq!(history(&mut fleet, "gate-1").len(), 2, "the first question comes at once");
    assert_eq!(history(&mut fleet, "nobody"), [0.0; 0]);
    fleet.stop();
}

#[test]
fn a_full_disk_is_warned_of_once() {
    let setup = Fleet::of::<DiskUsage>().monitor("chat-1", "chat").options(MODULE, json!({ "warn_percent": 0 }));
    let mut fleet = setup.start().expect("it starts");
    fleet.advance(INTERVAL * 3);
    let warnings = fleet.records().into_iter().filter(|record| matches!(record.deed, Deed::Log { .. })).count();
    assert_eq!(warnings, 1, "{}", fleet.transcript());
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, words) in [
        (json!({ "warn_percent": 101 }), "0 to 100 is expected, 101 was found"),
        (json!({ "paths": "/" }), "invalid type: string"),
    ] {
        let error = Fleet::of::<DiskUsage>().options(MODULE, options).start().expect_err("it is refused");
        assert!(error.message().contains(words), "{error}");
    }
    let setup = Fleet::of::<DiskUsage>().monitor("chat-1", "chat").options(MODULE, json!({ "paths": ["/none"] }));
    let mut fleet = setup.start().expect("a path may come later");
    let asked = fleet.ask_monitor("chat-1", MODULE, ());
    assert!(matches!(&asked, Outcome::Failed { error } if error.starts_with("/none: ")), "{asked:?}");
}

#[test]
fn the_history_is_handed_over_to_the_next_version() {
    let mut fleet = fleet();
    fleet.advance(INTERVAL * 2);
    let before = history(&mut fleet, "chat-1");
    fleet.replace().expect("it takes over");
    assert_eq!(history(&mut fleet, "chat-1"), before);
    fleet.advance(INTERVAL);
    assert!(history(&mut fleet, "chat-1").len() > before.len());
}

#[test]
fn the_file_that_is_shipped_does_the_same() {
    let setup = Fleet::open(library(env!("CARGO_PKG_NAME"))).expect("a daemon would load it");
    let mut fleet = setup.monitor("chat-1", "chat").start().expect("it starts");
    fleet.advance(INTERVAL);
    fleet.replace().expect("it takes over");
    assert_eq!(history(&mut fleet, "chat-1").len(), 2, "{}", fleet.transcript());
    assert!(fleet.values(MASTER, MODULE).contains_key("chat-1"));
    fleet.stop();
}
