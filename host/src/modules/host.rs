//! The host, as one generation sees it: what a plugin asks for, wherever it runs, is done here.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use abi_stable::std_types::{RSlice, RStr, RVec};
use muster_plugin_api::{
    RequestError,
    abi::{HostApi, ask, tell},
};
use tokio::runtime::Handle;

use super::{
    actor::Instance,
    jobs::Jobs,
    mailbox::Mailbox,
    metrics::Metrics,
    presence::Step,
    services::{Asker, Operation},
};
use crate::{ids::Generation, plugin::recorder::Up};

/// The host, for one generation.
pub(crate) struct Host {
    pub(crate) generation: Generation,
    pub(crate) instances: Arc<[Instance]>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) runtime: Handle,
    pub(crate) jobs: Arc<Jobs>,
    /// What does the plugin's jobs; none if it has no such thing, or runs in a worker, which does them itself.
    pub(crate) runner: OnceLock<extern "C" fn(u64)>,
    pub(crate) metrics: Arc<Metrics>,
}

/// The host, as a plugin in this process holds it.
#[derive(Clone)]
pub(super) struct HostSide(pub(super) Arc<Host>);

// === impl Host ===

impl Host {
    /// Writes to the log, as `HostApi::log` says.
    pub(crate) fn log(&self, instance: u32, level: u32, message: &str, fields: &str) {
        let module = Instance::of(&self.instances, instance).map_or("*", |instance| instance.module.as_str());
        let generation = self.generation.0;
        macro_rules! write {
            ($level:ident) => {
                if fields.is_empty() {
                    tracing::$level!(target: "module", module, generation, "{message}")
                } else {
                    tracing::$level!(target: "module", module, generation, fields, "{message}")
                }
            };
        }
        match level {
            0 | 1 => write!(error),
            2 => write!(warn),
            3 => write!(info),
            4 => write!(debug),
            _ => write!(trace),
        }
    }

    /// Starts an operation, as `HostApi::ask` says.
    pub(crate) fn ask(&self, instance: u32, id: u64, operation: Operation<'_>) {
        let asker = Asker { mailbox: self.mailbox.clone(), instance, id };
        let Some(described) = self.instance(instance) else {
            return asker.fail(RequestError::Refused("the module is not running".to_owned()));
        };
        if operation.op == ask::SLEEP {
            return self.sleep(asker, Duration::from_millis(operation.n));
        }
        if operation.op == ask::BLOCKING {
            return self.have_done(asker, operation.n);
        }
        described.services.ask(&described.module, asker, operation);
    }

    /// Does an operation at once, as `HostApi::tell` says.
    pub(crate) fn tell(&self, instance: u32, operation: Operation<'_>) -> i64 {
        const REFUSED: i64 = -1;
        self.instance(instance).map_or(REFUSED, |described| {
            if Metrics::concerns(operation.op) {
                return i64::from(self.metrics.note(described, operation));
            }
            described.services.tell(&described.module, operation)
        })
    }

    /// Reads something, as `HostApi::query` says.
    pub(crate) fn query(&self, instance: u32, op: u32, a: &str, b: &str) -> Vec<u8> {
        self.instance(instance)
            .map(|described| described.services.query(&described.module, op, a, b))
            .unwrap_or_default()
    }

    /// The instance, unless this generation is gone: a thread that a plugin left behind may still hold the host.
    fn instance(&self, number: u32) -> Option<&Instance> {
        Instance::of(&self.instances, number).filter(|_| !self.mailbox.is_closed())
    }

    /// Has a job of the plugin done on a thread that may block.
    fn have_done(&self, asker: Asker, job: u64) {
        let Some(run) = self.runner.get().copied() else {
            // The worker tells of what it has done.
            return asker.answer(&[], &[]);
        };
        let waiting = Arc::new(Mutex::new(Some(asker)));
        let asker = waiting.clone();
        let end = |waiting: &Mutex<Option<Asker>>| waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let taken = self.jobs.submit(move || {
            run(job);
            if let Some(asker) = end(&asker) {
                asker.answer(&[], &[]);
            }
        });
        if let Err(reason) = taken
            && let Some(asker) = end(&waiting)
        {
            asker.fail(RequestError::Refused(reason.to_string()));
        }
    }

    /// The same in every role, so it is done here.
    fn sleep(&self, asker: Asker, duration: Duration) {
        let mailbox = self.mailbox.clone();
        self.runtime.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(duration) => asker.answer(&[], &[]),
                // Nobody is left to be told.
                () = mailbox.closed() => {}
            }
        });
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("generation", &self.generation).finish_non_exhaustive()
    }
}

// === impl HostSide ===

/// A panic that reached the boundary would end the process; none of the host's parts should, so it is a fault to be seen.
pub(crate) fn fence<T: Default>(work: impl FnOnce() -> T) -> T {
    // A fault in here is not the plugin's.
    let _host = Up::take_down();
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        tracing::error!("a service of the host panicked; its module got nothing");
        T::default()
    })
}

impl HostApi for HostSide {
    fn log(&self, instance: u32, level: u32, message: RStr<'_>, fields: RStr<'_>) {
        fence(|| self.0.log(instance, level, message.as_str(), fields.as_str()));
    }

    fn reply(&self, call: u64, status: u32, error: RSlice<'_, u8>, body: RSlice<'_, u8>) {
        let now = Instant::now();
        self.0.mailbox.presence().answered(now);
        fence(|| self.0.mailbox.calls().end_at(now, call, status, error.as_slice(), body.as_slice()));
    }

    fn ask(&self, instance: u32, id: u64, op: u32, a: RStr<'_>, b: RStr<'_>, n: u64, body: RSlice<'_, u8>) {
        let operation = Operation { op, a: a.as_str(), b: b.as_str(), n, body: body.as_slice() };
        fence(|| self.0.ask(instance, id, operation));
    }

    fn tell(&self, instance: u32, op: u32, a: RStr<'_>, b: RStr<'_>, n: u64, body: RSlice<'_, u8>) -> i64 {
        const REFUSED: i64 = -1;
        if op == tell::STEP {
            let kind = u32::try_from(n).unwrap_or_default();
            self.0.mailbox.presence().step(Step { instance, kind });
            return 1;
        }
        let operation = Operation { op, a: a.as_str(), b: b.as_str(), n, body: body.as_slice() };
        fence(|| Some(self.0.tell(instance, operation))).unwrap_or(REFUSED)
    }

    fn query(&self, instance: u32, op: u32, a: RStr<'_>, b: RStr<'_>) -> RVec<u8> {
        fence(|| self.0.query(instance, op, a.as_str(), b.as_str())).into()
    }

    fn wake(&self) {
        fence(|| self.0.mailbox.wake());
    }
}
