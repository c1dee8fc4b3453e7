//! Somebody who asks another module all the time, to see how long its answers take while one goes wrong.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::deadline::{PROCESS, within};
use crate::peer::Peer;

/// Fewer have no 99th percentile worth the name.
const ENOUGH: usize = 1_000;

/// Asks the module `echo`, one question after the other.
#[derive(Debug)]
pub struct Neighbour {
    times: watch::Sender<Vec<Duration>>,
    stop: watch::Sender<bool>,
    asking: JoinHandle<()>,
}

impl Neighbour {
    /// Logs in as `neighbour`, and begins.
    pub async fn move_in(master: SocketAddr) -> Self {
        let mut peer = Peer::admin(master, "neighbour").await;
        let (times, stop) = (watch::Sender::new(Vec::new()), watch::Sender::new(false));
        let (taken, stopped) = (times.clone(), stop.subscribe());
        let asking = tokio::spawn(async move {
            for n in 0_u64.. {
                let begun = Instant::now();
                assert_eq!(peer.request("echo", json!(n)).await["body"], n);
                taken.send_modify(|times| times.push(begun.elapsed()));
                if *stopped.borrow() {
                    return peer.expect_silence().await;
                }
            }
        });
        Self { times, stop, asking }
    }

    /// How many answers it has had.
    pub fn answers(&self) -> usize {
        self.times.borrow().len()
    }

    /// Whether it has had enough since there were so many.
    pub fn has_enough_since(&self, first: usize) -> bool {
        self.answers() >= first + ENOUGH
    }

    /// The 99th percentile of what its answers have taken since there were so many; waits until that are enough.
    pub async fn p99_since(&self, first: usize) -> Duration {
        let mut seen = self.times.subscribe();
        let seen = seen.wait_for(|times| times.len() >= first + ENOUGH);
        let mut times = within("answers for the neighbour", PROCESS, seen).await.expect("the sender lives in self")
            [first..]
            .to_vec();
        times.sort_unstable();
        times[times.len() * 99 / 100]
    }

    /// Ends.
    ///
    /// # Panics
    /// If it did not get each answer, once.
    pub async fn move_out(self) {
        self.stop.send_replace(true);
        within("the neighbour's last answer", PROCESS, self.asking).await.expect("it was answered, once each time");
    }
}
