//! Work that blocks: handed to a thread of the host by its number, so that nothing of the plugin's crosses the boundary.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    abi::ask,
    agent::Agent,
    message::{Body, RequestError},
    runtime::fence,
};

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that no thread has begun. They are of all instances of this library: their numbers are unique in it.
static JOBS: Mutex<BTreeMap<u64, Job>> = Mutex::new(BTreeMap::new());

/// A job that is wanted as long as this lives.
struct Ticket(u64);

impl Agent {
    /// Has `work` done on a thread of the host, and waits for its result on the module's own: for what blocks, such as files
    /// on a network or a computation of seconds. The callbacks of the library go on meanwhile.
    ///
    /// At most 16 jobs of a library run at a time; up to 1,024 wait. Dropping the future forgets a job that has not begun.
    /// One that has begun cannot be stopped, and the library stays in memory until it is over: a replacement is not held up
    /// by that, but the old generation is shown as still mapped. So let a job end by itself, within seconds.
    ///
    /// ```
    /// # use muster_plugin_api::{Agent, Answer, HandlerResult, serde_json::json};
    /// # async fn handler(agent: Agent) -> HandlerResult {
    /// let text = agent.spawn_blocking(|| std::fs::read_to_string("/mnt/far/away")).await??;
    /// Ok(Answer::ok(json!(text.len())))
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the job panicked, the module stops, too many wait, or the host offers no such threads (before 1.1).
    pub async fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);

        let slot = Arc::new(Mutex::new(None));
        let ticket = Ticket(NEXT.fetch_add(1, Ordering::Relaxed));
        let filled = slot.clone();
        let job = move || {
            let done = fence(work);
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        };
        jobs().insert(ticket.0, Box::new(job));
        drop(self.ask(ask::BLOCKING, "", "", ticket.0, &Body::ABSENT).await?);
        let done = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        match done {
            Some(Ok(result)) => Ok(result),
            Some(Err(panic)) => Err(RequestError::Refused(format!("panicked: {panic}"))),
            None => Err(RequestError::Refused("the job was not done".to_owned())),
        }
    }
}

/// Does a job, unless it is not wanted any more: [`PluginRoot::run`](crate::abi::PluginRoot::run).
#[doc(hidden)]
pub fn run(number: u64) {
    let job = jobs().remove(&number);
    // What it returns for nobody is dropped in here as well.
    drop(fence(move || job.map(|job| job())));
}

fn jobs() -> MutexGuard<'static, BTreeMap<u64, Job>> {
    JOBS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let unbegun = jobs().remove(&self.0);
        drop(unbegun);
    }
}
