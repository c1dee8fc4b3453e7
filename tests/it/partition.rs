//! Links that go dead without a word: FAULTS.md, rows 15 and 17. What is lost is lost in the kernel, at the sockets of
//! real daemons; neither side is told.

use std::time::{Duration, Instant};

use muster_tests::daemon::{Daemon, Setup};
use muster_tests::deadline::{PROCESS, eventually, pause};
use muster_tests::loss::{Loss, Way, apart};
use muster_tests::operator::Operator;
use muster_tests::peer::Peer;
use serde_json::{Value, json};

use crate::monitor_life::{knows, knows_by};

const CHAT: &str = "chat-server-1";
const GATE: &str = "gate-server-1";
/// `directory` writes what it is asked into the log: that is the effect of an order here.
const PLUGINS: [&str; 4] = ["echo", "watchdog", "console", "directory"];
/// Within this time the kernel finds a dead link.
const FOUND: Duration = Duration::from_secs(30);
/// A timer may be late on a busy machine.
const LATE: Duration = Duration::from_secs(15);

/// A master, a monitor whose packets may be lost, one that is nothing of that, and a client.
struct Fleet {
    master: Daemon,
    chat: Daemon,
    gate: Daemon,
    operator: Operator,
}

impl Fleet {
    async fn start(window: &str) -> Fleet {
        let everywhere = ([0, 0, 0, 0], 0).into();
        let master = Setup::master().listen(everywhere).plugins(&PLUGINS).set("requests.deadline", "20m");
        let master = master.set("requests.repush_window", window).start().await;
        let chat = Setup::monitor(apart(&master), CHAT, "chat").plugins(&PLUGINS).start();
        let gate = Setup::monitor(master.address(), GATE, "gate").plugins(&PLUGINS).start();
        let (chat, gate) = tokio::join!(chat, gate);
        let mut operator = Operator::log_in(master.address()).await;
        for id in [CHAT, GATE] {
            knows(&mut operator, id, &[CHAT, GATE]).await;
        }
        Fleet { master, chat, gate, operator }
    }

    /// How often an order has had its effect.
    fn effects(&self, name: &str) -> usize {
        self.chat.log().matches(&format!("asked: {}", order(name))).count()
    }

    async fn give(&mut self, name: &str) -> u64 {
        self.operator.begin(CHAT, "directory", order(name)).await
    }

    async fn answer(&mut self, request: u64) -> Value {
        self.operator.client().response_within(request, PROCESS + FOUND).await
    }

    /// Waits until the master has let the monitor go.
    async fn is_left(&self) {
        let left = || async { self.master.log().contains("told: left chat-server-1").then_some(()) };
        eventually("the master finds the dead link", FOUND + LATE, left).await;
    }

    async fn end(self) {
        let Fleet { master, chat, gate, operator } = self;
        drop(operator);
        tokio::join!(chat.shutdown(), gate.shutdown());
        master.shutdown().await;
    }
}

fn order(name: &str) -> Value {
    json!({ "effect": name })
}

// === Row 15 ===

/// Nothing is under way: the kernel's probes find it.
async fn an_idle_link_dies() {
    let fleet = Fleet::start("1s").await;
    let mut silent = Peer::monitor(fleet.master.address(), "test-server-1", "test").await;
    let since = Instant::now();
    let loss = Loss::between(&fleet.master, &fleet.chat, Way::Both);
    fleet.is_left().await;
    assert!(since.elapsed() < FOUND + LATE);
    // This one has said nothing at all for as long, and is there: nobody counts its pings.
    silent.settle().await;
    assert!(!fleet.master.log().contains("told: left test-server-1"));
    drop(silent);
    loss.heal();
    fleet.end().await;
}

/// Something was sent and not acknowledged: then there are no probes, and the kernel's patience with it counts.
async fn a_link_dies_with_a_request_under_way() {
    let mut fleet = Fleet::start("1s").await;
    let loss = Loss::between(&fleet.master, &fleet.chat, Way::Both);
    let request = fleet.give("lost").await;
    fleet.is_left().await;
    let response = fleet.answer(request).await;
    let text = response["error"]["message"].as_str().unwrap_or_default();
    assert!(text.contains("chat-server-1 left before it answered"), "{response}");
    fleet.operator.client().expect_silence().await;
    loss.heal();
    assert_eq!(fleet.effects("lost"), 0);
    fleet.end().await;
}

#[tokio::test]
async fn row_15_a_link_that_dies_silently_is_found_by_tcp_within_30_seconds_and_nobody_counts_pings() {
    tokio::join!(an_idle_link_dies(), a_link_dies_with_a_request_under_way());
}

// === Row 17 ===

#[tokio::test]
async fn row_17_a_short_partition_delays_what_is_under_way_and_nobody_leaves() {
    let mut fleet = Fleet::start("10s").await;
    for (name, way) in [("neither", Way::Both), ("to the master", Way::ToMaster), ("to the monitor", Way::ToMonitor)] {
        let loss = Loss::between(&fleet.master, &fleet.chat, way);
        let request = fleet.give(name).await;
        pause(Duration::from_secs(1)).await;
        fleet.operator.client().expect_silence().await;
        loss.heal();
        assert_eq!(fleet.answer(request).await["error"], Value::Null);
        assert_eq!(fleet.effects(name), 1, "{way:?}");
    }
    assert!(!fleet.chat.log().contains("no link to the master"), "TCP makes good for what was lost");
    assert!(!fleet.master.log().contains("told: left"));
    fleet.end().await;
}

/// Longer than any link lives: dropped by the master, at least; rejoined when packets arrive again.
async fn a_long_partition(way: Way, at_least: Duration) {
    let mut fleet = Fleet::start("20m").await;
    let since = Instant::now();
    let loss = Loss::between(&fleet.master, &fleet.chat, way);
    let under_way = fleet.give("under way").await;
    if way == Way::ToMaster {
        // It is carried out; only the answer is lost. When the master repeats it, it must not be again.
        fleet.chat.wait_log("under way").await;
    }
    fleet.is_left().await;
    knows_by(&mut fleet.operator, GATE, &[GATE], "removed").await;
    // Given while nobody is there, it is an error at once, and is never carried out.
    let refused = fleet.give("refused").await;
    assert_eq!(fleet.answer(refused).await["error"]["message"], "unknown server id:chat-server-1");
    // The monitor finds it, too, though nobody has told it.
    let lost = || async { fleet.chat.log().contains("no link to the master").then_some(()) };
    eventually("the monitor finds the dead link", FOUND + LATE, lost).await;
    pause(at_least.saturating_sub(since.elapsed())).await;
    loss.heal();

    // At most a minute and a quarter until it tries again, and it is there.
    let answer = fleet.operator.client().response_within(under_way, Duration::from_secs(120)).await;
    assert_eq!(answer["error"], Value::Null, "{answer}");
    for id in [CHAT, GATE] {
        knows(&mut fleet.operator, id, &[CHAT, GATE]).await;
    }
    let after = fleet.give("after").await;
    assert_eq!(fleet.answer(after).await["error"], Value::Null);
    let effects = ["under way", "refused", "after"].map(|name| fleet.effects(name));
    assert_eq!(effects, [1, 0, 1], "{way:?}: nothing is doubled, and what was answered was done");
    fleet.operator.client().expect_silence().await;
    fleet.end().await;
}

#[tokio::test]
async fn row_17_a_partition_on_either_way_or_both_drops_the_monitor_it_rejoins_and_nothing_is_done_twice() {
    tokio::join!(
        a_long_partition(Way::Both, Duration::ZERO),
        a_long_partition(Way::ToMaster, Duration::ZERO),
        a_long_partition(Way::ToMonitor, Duration::ZERO),
    );
}

#[tokio::test]
#[ignore = "ten minutes"]
async fn row_17_after_a_partition_of_ten_minutes_all_is_as_before() {
    a_long_partition(Way::Both, Duration::from_secs(600)).await;
}

#[tokio::test]
#[ignore = "two minutes and a quarter"]
async fn row_15_who_does_not_ping_for_130_seconds_stays() {
    let fleet = Fleet::start("1s").await;
    let mut silent = Peer::monitor(fleet.master.address(), "test-server-1", "test").await;
    pause(Duration::from_secs(135)).await;
    assert!(silent.settle().await && !fleet.master.log().contains("told: left"));
    fleet.end().await;
}
