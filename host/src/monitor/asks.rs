//! What modules have asked of the master and is not answered yet.

use std::collections::HashMap;

use muster_plugin_api::RequestError;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::modules::services::Asker;

/// The requests under way to the master. Each ends once: whoever takes it out of here ends it.
#[derive(Debug, Default)]
pub(crate) struct Asks(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    asks: HashMap<u64, (Asker, Instant)>,
}

impl Asks {
    /// Remembers who asks; the id is for the request.
    pub(crate) fn begin(&self, asker: Asker, deadline: Instant) -> u64 {
        let mut waiting = self.0.lock();
        waiting.last += 1;
        let id = waiting.last;
        waiting.asks.insert(id, (asker, deadline));
        id
    }

    /// An answer came; one that nobody waits for is ignored.
    pub(crate) fn end(&self, id: u64, error: &[u8], body: &[u8]) {
        let found = self.0.lock().asks.remove(&id);
        if let Some((asker, _)) = found {
            asker.answer(error, body);
        }
    }

    /// Takes back a request that could not be sent.
    pub(crate) fn withdraw(&self, id: u64) -> Option<Asker> {
        self.0.lock().asks.remove(&id).map(|(asker, _)| asker)
    }

    /// Ends what is overdue.
    pub(crate) fn expire(&self, now: Instant) {
        self.fail(|deadline| deadline <= now, || RequestError::Timeout("the master did not answer in time".into()));
    }

    /// The link is lost: the answers will not come, as the original's master does not repeat them.
    pub(crate) fn lose(&self) {
        self.fail(|_| true, || RequestError::Gone("the link to the master was lost".into()));
    }

    fn fail(&self, which: impl Fn(Instant) -> bool, why: impl Fn() -> RequestError) {
        let ended: Vec<_> = {
            let mut waiting = self.0.lock();
            waiting.asks.extract_if(|_, (_, deadline)| which(*deadline)).collect()
        };
        for (_, (asker, _)) in ended {
            asker.fail(why());
        }
    }
}
