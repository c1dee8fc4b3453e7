//! What a process has said so far, as a published state that tests can wait on.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

use crate::deadline::soon;

/// How much of the output a failure shows: a busy master writes hundreds of thousands of lines.
const LINES_SHOWN: usize = 500;

/// Growing text of one stream of a process. Clones show the same text.
#[derive(Clone, Debug)]
pub struct Output {
    name: String,
    text: watch::Sender<String>,
    /// Whether the stream has ended, so that nothing will be added.
    ended: watch::Sender<bool>,
}

impl Output {
    /// Empty output; `name` says in failures whose it is.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), text: watch::Sender::new(String::new()), ended: watch::Sender::new(false) }
    }

    /// Collects all of `stream` in a task that ends with the stream.
    pub fn collect(name: impl Into<String>, mut stream: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let output = Self::new(name);
        let sink = output.clone();
        tokio::spawn(async move {
            let mut pending = Vec::new();
            let mut chunk = [0_u8; 8192];
            while let Ok(count @ 1..) = stream.read(&mut chunk).await {
                pending.extend_from_slice(&chunk[..count]);
                sink.push(&mut pending);
            }
            sink.ended.send_replace(true);
        });
        output
    }

    /// Appends the valid UTF-8 at the start of `bytes` and leaves an unfinished character in it.
    pub fn push(&self, bytes: &mut Vec<u8>) {
        let whole = match std::str::from_utf8(bytes) {
            Ok(_) => bytes.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => bytes.len(),
        };
        let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
        bytes.drain(..whole);
        self.text.send_modify(|all| all.push_str(&text));
    }

    /// Everything said so far.
    pub fn text(&self) -> String {
        self.text.borrow().clone()
    }

    /// Waits until the stream that is collected has ended, and returns all of it.
    pub async fn whole(&self) -> String {
        let mut ended = self.ended.subscribe();
        let end = ended.wait_for(|ended| *ended);
        soon(&format!("{}: end of the stream", self.name), end).await.expect("the sender lives in self");
        self.text()
    }

    /// Waits for the first text in which `find` finds something.
    ///
    /// # Panics
    /// With everything said so far if that does not happen within `limit`.
    pub async fn find<T>(&self, what: &str, limit: Duration, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let mut seen = self.text.subscribe();
        let search = async {
            loop {
                if let Some(found) = find(&seen.borrow_and_update()) {
                    return found;
                }
                seen.changed().await.expect("the sender lives in self");
            }
        };
        match tokio::time::timeout(limit, search).await {
            Ok(found) => found,
            Err(_) => panic!("{}: {what} not seen within {limit:?}; all it said:\n{}", self.name, self.text()),
        }
    }

    /// Waits until `needle` has been said.
    pub async fn wait_for(&self, needle: &str, limit: Duration) {
        self.find(&format!("`{needle}`"), limit, |text| text.contains(needle).then_some(())).await;
    }

    /// Shows what was said last, if the calling thread is panicking: for use in `drop`.
    pub(crate) fn show_if_panicking(&self) {
        if std::thread::panicking() {
            let text = self.text();
            let from = text.rmatch_indices('\n').nth(LINES_SHOWN).map_or(0, |(newline, _)| newline + 1);
            let (before, shown) = text.split_at(from);
            eprintln!("---- {} (after {} lines that are not shown) ----\n{shown}", self.name, before.lines().count());
        }
    }
}
