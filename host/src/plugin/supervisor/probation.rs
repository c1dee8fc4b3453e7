//! Generations on probation, and the way back to the one before.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Slot, Task};
use crate::{
    plugin::{generation::Running, history::By, probation::Sample, refusal::Refusal, status::OnProbation},
    worker,
};

/// How often a generation on probation is judged.
pub(super) const JUDGE: Duration = Duration::from_millis(100);

/// The generation that the one on probation replaced: it runs, and gets no calls and no events.
pub(super) struct Warm {
    running: Running,
    /// What it had done when it was replaced.
    before: Sample,
    until: Instant,
    /// When the calls that it had begun are cut off; nothing once they were.
    drained: Option<Instant>,
}

impl Task {
    /// Keeps what was replaced just now, to be able to go back to it. One is enough: the one before it goes.
    pub(super) fn keep_warm(&mut self, file: &Arc<str>, old: Running) {
        self.end_probation(file, "it was replaced twice before it answered");
        let (probation, drain) = (self.shared.config.probation, self.shared.config.drain);
        // A generation that hangs is nothing to go back to; nor is one that has just been in a callback for as long as
        // its export may take.
        let stuck = old.actor.presence.in_step_for().is_some_and(|time| time >= self.shared.config.handover);
        let hangs = stuck || old.actor.mailbox.hang().is_some();
        let Some(slot) = self.slots.get_mut(file).filter(|_| !probation.is_zero() && !hangs) else {
            return self.end(file, old, drain, "it was replaced before it answered");
        };
        // Whoever still holds the old route is sent to the new one.
        old.actor.mailbox.drain();
        let now = Instant::now();
        let before = Sample::of(old.actor.mailbox.calls().figures(), old.actor.worker.as_deref());
        slot.warm = Some(Warm { running: old, before, until: now + probation, drained: Some(now + drain) });
    }

    /// Lets the old generation go, if there is one.
    pub(super) fn end_probation(&mut self, file: &Arc<str>, why: &str) {
        let Some(warm) = self.slots.get_mut(file).and_then(|slot| slot.warm.take()) else { return };
        let left = warm.drained.map(|at| at.saturating_duration_since(Instant::now())).unwrap_or_default();
        self.end(file, warm.running, left, why);
    }

    /// Judges all that are on probation.
    pub(super) fn judge(&mut self) {
        let now = Instant::now();
        let limits = self.shared.config.rollback;
        let mut passed = Vec::new();
        let mut failed = Vec::new();
        for (file, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.heir.is_none()) {
            let (Some(warm), Some(running)) = (&mut slot.warm, &slot.running) else { continue };
            if warm.drained.is_some_and(|at| at <= now) {
                warm.drained = None;
                warm.running.actor.mailbox.calls().end_all("it was replaced before it answered");
            }
            let mailbox = &running.actor.mailbox;
            let hang = mailbox.hang().map(|hang| hang.to_string());
            let worker = running.actor.worker.as_deref();
            let so_far = Sample::of(mailbox.calls().figures(), worker);
            let death = worker.filter(|_| limits.dies(&warm.before, &so_far)).map(worker::Figures::fault);
            let why = hang.or(death).or_else(|| limits.verdict(&warm.before, &so_far));
            match why {
                Some(why) => failed.push((file.clone(), why)),
                None if warm.until <= now => passed.push(file.clone()),
                None => {}
            }
        }
        for file in passed {
            tracing::info!(file = &*file, "probation is over: the old generation is unloaded");
            self.end_probation(&file, "its time was over");
            self.is_there_to_stay(&file);
        }
        for (file, why) in failed {
            if let Err(error) = self.roll_back(&file, &why, By::Probation) {
                tracing::error!(file = &*file, why, error, "cannot be rolled back");
                self.end_probation(&file, "it cannot be gone back to");
            }
        }
    }

    /// What is served has passed its probation, or had none: from now on a signed plugin is not replaced by an older one.
    pub(super) fn is_there_to_stay(&mut self, file: &Arc<str>) {
        let Some(manifest) = self.slots.get(file).and_then(|slot| slot.running.as_ref()).map(Running::manifest) else {
            return;
        };
        let shared = self.shared.clone();
        self.steps.spawn(async move { shared.config.trust.ran(&manifest).await });
    }

    /// Serves the old generation again, and ends the new one; what waited for that goes to the old one. The content of the
    /// new one is not loaded again until the file changes.
    pub(super) fn roll_back(&mut self, file: &Arc<str>, why: &str, by: By) -> Result<(), String> {
        let nothing = || {
            "there is no older generation to go back to: one is kept for plugins.probation after a reload".to_owned()
        };
        let slot = self.slots.get_mut(file).ok_or_else(nothing)?;
        if slot.heir.is_some() {
            return Err("another generation is about to serve: try again when it does".to_owned());
        }
        let warm = slot.warm.take().ok_or_else(nothing)?;
        let mailbox = warm.running.actor.mailbox.clone();
        mailbox.hold();
        mailbox.reopen();
        // Both at once: it is routed to again, and gets the greeting that those get who missed what was before.
        if let Err(taken) = self.shared.modules.install(warm.running.offer(file, slot.place)) {
            mailbox.drain();
            mailbox.release();
            slot.warm = Some(warm);
            return Err(Refusal::from(taken).to_string());
        }
        let (hash, back_to) = (warm.running.hash, warm.running.actor.generation);
        let Some(bad) = slot.running.take() else { return Ok(()) };
        let old = slot.running.insert(warm.running);
        // What it has not begun with is safe to give to another.
        bad.give_back(old);
        let generation = bad.actor.generation;
        let refusal = Refusal::RolledBack { generation: generation.0, version: bad.version(), why: why.to_owned() };
        tracing::error!(file = &**file, %generation, %back_to, by = by.name(), why, "rolled back");
        slot.life.rolled_back(hash, bad.hash, refusal.into());
        // A pin is of what is served.
        slot.pinned = slot.pinned.map(|_| hash);
        slot.history.add(by, Some(generation), Some(back_to), format!("rolled back: {why}"));
        self.end(file, bad, Duration::ZERO, &format!("it was rolled back: {why}"));
        // The two need not serve the same modules.
        self.reconsider_needs();
        let written = self.write_pin(file);
        self.steps.spawn(written);
        Ok(())
    }
}

impl Slot {
    /// What is kept to go back to.
    pub(super) fn probation(&self) -> Option<OnProbation> {
        let warm = self.warm.as_ref()?;
        let left = warm.until.saturating_duration_since(Instant::now());
        Some(OnProbation {
            kept: warm.running.actor.generation,
            hash: warm.running.hash,
            version: warm.running.version(),
            left,
        })
    }
}
