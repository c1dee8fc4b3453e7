//! Generations that are gone and could not be unmapped: told of, counted, and tried again.

use std::sync::Arc;

use super::{Input, Task, stem};
use crate::{
    ids::Generation,
    plugin::{
        refusal::{Refusal, human},
        status::StillMapped,
        unload::Leftover,
    },
};

/// A library that is still mapped, and whether somebody is trying to unload it.
pub(super) struct Remains {
    pub(super) file: Arc<str>,
    pub(super) told: StillMapped,
    pub(super) leftover: Option<Leftover>,
}

impl Task {
    pub(super) fn retired(&mut self, file: &Arc<str>, generation: Generation, outcome: Result<(), Box<Leftover>>) {
        match outcome {
            Ok(()) => {
                tracing::info!(file = &**file, %generation, "unloaded");
                // The loader unmaps what it could not unmap before when something else is closed.
                self.retry_unloading();
            }
            Err(leftover) => self.remember(file, *leftover),
        }
        let Some(slot) = self.slots.get_mut(file) else { return };
        slot.draining.remove(&generation);
        if slot.running.is_none() && slot.draining.is_empty() {
            slot.life.retired();
        }
    }

    pub(super) fn remember(&mut self, file: &Arc<str>, leftover: Leftover) {
        let Leftover { generation, bytes, ref reason, .. } = leftover;
        tracing::warn!(file = &**file, %generation, bytes, reason, "retired, still mapped");
        let told = StillMapped::of(&leftover);
        self.remains.insert(generation, Remains { file: file.clone(), told, leftover: Some(leftover) });
    }

    pub(super) fn keep(&mut self, generation: Generation, leftover: Leftover) {
        if let Some(remains) = self.remains.get_mut(&generation) {
            remains.told = StillMapped::of(&leftover);
            remains.leftover = Some(leftover);
        }
    }

    pub(super) fn retry_unloading(&mut self) {
        for (generation, remains) in &mut self.remains {
            let Some(leftover) = remains.leftover.take() else { continue };
            let (shared, generation) = (self.shared.clone(), *generation);
            self.steps.spawn(async move {
                let outcome = leftover.retry().await;
                shared.report(Input::Retried { generation, outcome }).await;
            });
        }
    }

    /// The reason why a plugin with so many leftovers is not loaded into the daemon again, if so. One that is to run in a
    /// worker leaves no more.
    pub(super) fn too_many_mapped(&self, file: &str) -> Option<Refusal> {
        let cap = self.shared.config.still_mapped_cap;
        if (self.shared.config.isolation)(stem(file)).is_some() {
            return None;
        }
        let mapped: Vec<u64> =
            self.remains.values().filter(|remains| &*remains.file == file).map(|remains| remains.told.bytes).collect();
        let rescan = human(&self.shared.config.rescan);
        (mapped.len() >= cap).then(|| Refusal::StillMapped {
            generations: mapped.len(),
            bytes: mapped.iter().sum(),
            cap,
            rescan,
        })
    }
}

impl StillMapped {
    fn of(leftover: &Leftover) -> StillMapped {
        let Leftover { generation, reason, bytes, since, .. } = leftover;
        StillMapped { generation: *generation, reason: reason.clone(), bytes: *bytes, since: *since }
    }
}
