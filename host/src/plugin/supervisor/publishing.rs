//! What is told of all files, and when nothing is under way any more.

use std::{sync::Arc, time::SystemTime};

use super::{PATIENCE_AT_START, Task, leftovers::Remains};
use crate::plugin::{
    generation::Running,
    lifecycle::State,
    status::{FileStatus, Pinned},
};

impl Task {
    pub(super) fn publish(&mut self) {
        let now = SystemTime::now();
        let files: Arc<[FileStatus]> = self
            .slots
            .iter_mut()
            .map(|(file, slot)| {
                slot.life.refresh(now);
                let hang = slot.running.as_ref().and_then(|running| running.actor.mailbox.hang());
                let (state, since) = match &hang {
                    Some(hang) if slot.life.state().0 == State::Running => (State::Hung, hang.since),
                    _ => slot.life.state(),
                };
                let of_file = |remains: &&Remains| remains.file == *file;
                FileStatus {
                    file: file.clone(),
                    state,
                    since,
                    refused: slot.life.refusal().cloned(),
                    hang,
                    pinned: slot.pinned.map(|hash| Pinned { hash, ignored: slot.ignored }),
                    probation: slot.probation(),
                    history: slot.history.clone(),
                    serving: slot.running.as_ref().map(Running::status),
                    last: slot.last.clone().filter(|_| matches!(state, State::Draining | State::Retired)),
                    candidate: slot.candidate(),
                    refused_content: slot.life.refused_content(),
                    draining: slot.draining.iter().copied().collect(),
                    still_mapped: self.remains.values().filter(of_file).map(|remains| remains.told.clone()).collect(),
                }
            })
            .collect();
        for (slot, file) in
            self.slots.values_mut().zip(files.iter()).filter(|(slot, _)| slot.is_settled(self.directory_missing))
        {
            for waiting in slot.waiting.drain(..) {
                // Whoever asked may not want to know any more.
                drop(waiting.send(Some(file.clone())));
            }
        }
        // What waits for another is not settled before the other is.
        let others = self.slots.values().any(|slot| slot.awaited && !slot.is_settled(self.directory_missing));
        for slot in self.slots.values_mut().filter(|slot| slot.awaited) {
            let settled = slot.is_settled(self.directory_missing);
            slot.awaited = !settled || (others && slot.wants.is_some());
        }
        self.status.send_replace(files);
        if *self.settled.borrow() {
            return;
        }
        let awaited: Vec<&str> = self.slots.iter().filter(|(_, slot)| slot.awaited).map(|(file, _)| &**file).collect();
        if !awaited.is_empty() {
            if self.started.elapsed() < PATIENCE_AT_START {
                return;
            }
            tracing::warn!(?awaited, "going on without plugins that are not ready");
        }
        for slot in self.slots.values_mut() {
            (slot.awaited, slot.first) = (false, false);
        }
        self.settled.send_replace(true);
    }
}
