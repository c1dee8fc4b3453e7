//! A state on its way from one generation to the next, and the way back if it is not taken.

use std::{sync::Arc, time::Duration};

use super::{Input, Task, log_refusal};
use crate::{
    ids::Generation,
    plugin::{
        generation::Running,
        handover::{Handover, Outcome},
        refusal::Refusal,
    },
};

impl Task {
    /// Has the state handed over to what is routed to already. The old generation is not asked for anything else
    /// meanwhile; it stays what the file serves until the new one has the state.
    pub(super) fn hand_over(&mut self, file: &Arc<str>, heir: Running, handover: Handover) {
        let Some(slot) = self.slots.get_mut(file) else { return };
        if let Some(old) = &slot.running {
            old.actor.mailbox.drain();
        }
        let generation = heir.actor.generation;
        slot.heir = Some(heir);
        let (shared, file) = (self.shared.clone(), file.clone());
        self.steps.spawn(async move {
            let outcome = Box::new(handover.run().await);
            shared.report(Input::HandedOver { file, generation, outcome }).await;
        });
    }

    pub(super) fn handed_over(&mut self, file: &Arc<str>, generation: Generation, outcome: Result<Outcome, Refusal>) {
        let Some(slot) = self.slots.get_mut(file) else { return };
        // Another would be a later one: this was unloaded meanwhile.
        let Some(mut heir) = slot.heir.take_if(|heir| heir.actor.generation == generation) else { return };
        // Ordered while it was being handed over.
        let pinned = slot.pinned_to_another(heir.hash);
        match pinned.map_or(outcome, Err) {
            Ok(outcome) => {
                if !outcome.lost().is_empty() {
                    tracing::warn!(file = &**file, %generation, lost = ?outcome.lost(), "state was not handed over");
                }
                heir.actor.mailbox.release();
                heir.handover = Some(outcome);
                self.serve(file, heir);
            }
            Err(refusal) => self.disinherit(file, heir, refusal),
        }
    }

    /// The old generation goes on, first of all with what the new one was to have.
    fn disinherit(&mut self, file: &Arc<str>, heir: Running, refusal: Refusal) {
        let Some(slot) = self.slots.get_mut(file) else { return };
        let hash = heir.hash;
        let Some(old) = &slot.running else { return };
        old.actor.mailbox.hold();
        old.actor.mailbox.reopen();
        if let Err(taken) = self.shared.modules.install(old.offer(file, slot.place)) {
            // An id that only the old one had belongs to another file since a moment ago.
            log_refusal(file, &refusal.into(), false);
            slot.heir = Some(heir);
            return self.displace(file, Refusal::from(taken).into());
        }
        heir.give_back(old);
        self.end(file, heir, Duration::ZERO, "it did not take over the state of the one before");
        self.refuse(file, hash, refusal.into());
    }
}
