//! How generations end that are not routed to any more.

use std::{sync::Arc, time::Duration};

use super::{Input, Task, log_refusal};
use crate::{
    ids::Generation,
    plugin::{generation::Running, history::By, preflight::Refused, refusal::Refusal},
};

impl Task {
    /// No further worker is started for this generation.
    pub(super) fn condemned(&mut self, file: &Arc<str>, generation: Generation, reason: String) {
        let running = self.slots.get(file).and_then(|slot| slot.running.as_ref());
        if running.is_some_and(|running| running.actor.generation == generation) {
            self.displace(file, Refusal::Quarantined(reason).into());
        }
    }

    pub(super) fn displace(&mut self, file: &Arc<str>, refused: Refused) {
        log_refusal(file, &refused, false);
        if let Some(slot) = self.slots.get_mut(file) {
            slot.life.displaced(refused);
        }
        self.unload(file, "its ids belong to another file");
    }

    /// Takes a file's modules out of service.
    pub(super) fn unload(&mut self, file: &Arc<str>, why: &str) {
        self.shared.modules.retire(file);
        self.end_probation(file, why);
        let Some(slot) = self.slots.get_mut(file) else { return };
        if let Some(heir) = slot.heir.take() {
            slot.life.abandoned();
            self.end(file, heir, Duration::ZERO, why);
        }
        let Some(slot) = self.slots.get_mut(file) else { return };
        let Some(running) = slot.running.take() else { return };
        slot.last = Some(running.status());
        slot.history.add(By::File, Some(running.actor.generation), None, why.to_owned());
        self.end(file, running, self.shared.config.drain, why);
        self.reconsider_rivals(file);
    }

    /// Lets a generation end that is not routed to any more.
    pub(super) fn end(&mut self, file: &Arc<str>, running: Running, drain: Duration, why: &str) {
        // At once, so that whoever still holds the old route is sent to the new one.
        running.actor.mailbox.drain();
        let generation = running.actor.generation;
        if let Some(slot) = self.slots.get_mut(file) {
            slot.draining.insert(generation);
        }
        let (shared, file, why) = (self.shared.clone(), file.clone(), why.to_owned());
        self.steps.spawn(async move {
            let outcome = running.retire(drain, &why).await;
            shared.report(Input::Retired { file, generation, outcome }).await;
        });
    }
}
