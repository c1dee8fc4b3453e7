//! What a monitor does for its modules.

use std::{sync::Arc, time::Duration};

use muster_plugin_api::{
    RequestError,
    abi::{ask, tell},
};
use tokio::time::Instant;

use super::Monitor;
use crate::{
    ids::ModuleId,
    modules::services::{Asker, Operation, Services},
    wire::{Topic, envelope},
};

/// The monitor, as its modules see it.
#[derive(Debug)]
pub(crate) struct MonitorServices(pub(crate) Arc<Monitor>);

impl Services for MonitorServices {
    fn ask(&self, _: &ModuleId, asker: Asker, operation: Operation<'_>) {
        let Operation { op, a: _, b, n, body } = operation;
        let monitor = &self.0;
        if op != ask::REQUEST {
            return monitor.app.ask(asker, operation);
        }
        let Some(outbox) = monitor.outbox.lock().clone() else {
            return asker.fail(no_link());
        };
        let timeout = if n > 0 { Duration::from_millis(n) } else { monitor.deadline };
        let id = monitor.asks.begin(asker, Instant::now() + timeout);
        // The link may be lost at any moment: whoever takes the request out ends it.
        if !outbox.push(&envelope::request(Topic::Monitor, id, false, b, body))
            && let Some(asker) = monitor.asks.withdraw(id)
        {
            asker.fail(no_link());
        }
    }

    fn tell(&self, module: &ModuleId, operation: Operation<'_>) -> i64 {
        let Operation { op, a: _, b, n: _, body } = operation;
        let monitor = &self.0;
        if op != tell::NOTIFY {
            return monitor.app.tell(module, operation);
        }
        // Without a link it is dropped, as in the original: a report is outdated when the link is back.
        let outbox = monitor.outbox.lock().clone();
        i64::from(outbox.is_some_and(|outbox| outbox.push(&envelope::notify(Topic::Monitor, b, body))))
    }

    fn query(&self, module: &ModuleId, op: u32, a: &str, _: &str) -> Vec<u8> {
        self.0.app.query(module, op, a)
    }
}

fn no_link() -> RequestError {
    RequestError::Gone("there is no link to the master at the moment".into())
}
