//! Waiting: everything in these tests ends by itself, and only this file sleeps.

use std::future::Future;
use std::time::Duration;

/// How long one answer may take. Generous, since other programs share the machine; a passing test
/// never waits for it.
pub const ANSWER: Duration = Duration::from_secs(10);

/// How long a process may take to be ready, or to end.
pub const PROCESS: Duration = Duration::from_secs(30);

/// Pause between two looks at a state that cannot be waited for.
const TICK: Duration = Duration::from_millis(20);

/// Result of `future`, which must come within `limit`.
///
/// # Panics
/// With `what` if it does not.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing within {limit:?}"),
    }
}

/// First value that `look` finds, looking again and again for at most `limit`.
///
/// # Panics
/// With `what` if there is none within `limit`.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    within(what, limit, async {
        loop {
            if let Some(value) = look().await {
                return value;
            }
            tokio::time::sleep(TICK).await;
        }
    })
    .await
}

/// Lets time pass, where that it does is what is tested: nothing is waited for.
pub async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Result of `future`, which must come within [`ANSWER`].
///
/// # Panics
/// With `what` if it does not.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(what, ANSWER, future).await
}
