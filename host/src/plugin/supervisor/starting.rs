//! From a file that calls for it to a generation that is served: vetted, started, and what may stand in the way.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{Input, Task, log_refusal};
use crate::{
    config::StillMappedPolicy,
    plugin::{
        Config,
        generation::{Candidate, NotStarted, Running},
        handover::{Handover, Outcome},
        history::By,
        lifecycle::Verdict,
        needs::{self, Wants},
        preflight::Refused,
        refusal::Refusal,
        settle::ContentHash,
        vet::remove_copy,
    },
};

impl Task {
    pub(super) fn vet(&mut self, file: Arc<str>) {
        let Some(slot) = self.slots.get_mut(&file) else { return };
        let (serving, refused) = (slot.life.take_known(), slot.life.refused_content());
        let shared = self.shared.clone();
        self.steps.spawn(async move {
            let (verdict, candidate) = shared.vetter.vet(&file, serving, refused).await;
            shared.report(Input::Vetted { file, verdict, candidate: candidate.map(Box::new) }).await;
        });
    }

    pub(super) fn vetted(&mut self, file: &Arc<str>, verdict: Verdict, candidate: Option<Box<Candidate>>) {
        let Some(slot) = self.slots.get_mut(file) else { return };
        if let Verdict::Refused(_, _, refused) = &verdict
            && slot.life.refusal() != Some(refused)
        {
            log_refusal(file, refused, slot.running.is_some());
            slot.note_refusal(refused);
        }
        if !matches!(verdict, Verdict::StillRefused(_)) {
            slot.wants = None;
            slot.candidate = candidate.as_ref().map(|candidate| candidate.content());
        }
        slot.life.vetted(verdict);
        let Some(candidate) = candidate else { return };
        if slot.life.is_disabled() {
            slot.life.abandoned();
            return remove_copy(&candidate.path);
        }
        if let Some(refusal) = slot.pinned_to_another(candidate.hash) {
            remove_copy(&candidate.path);
            return self.refuse(file, candidate.hash, refusal.into());
        }
        let roles = self.shared.config.roles.iter().map(|(role, _)| *role);
        // Known before anything runs; at the start, the faster one of two is not always the one that is to have the id.
        if !slot.first
            && let Err(taken) = self.shared.modules.check_ids(file, candidate.served(roles))
        {
            remove_copy(&candidate.path);
            return self.refuse(file, candidate.hash, Refusal::from(taken).into());
        }
        let full = self.too_many_mapped(file);
        let moved = full.is_some() && self.shared.config.still_mapped == StillMappedPolicy::Process;
        if let Some(refusal) = full.filter(|_| !moved).or_else(|| self.unmet_needs(file, &candidate)) {
            remove_copy(&candidate.path);
            return self.refuse(file, candidate.hash, refusal.into());
        }
        let candidate = Candidate { moved, ..*candidate };
        let (shared, file) = (self.shared.clone(), file.clone());
        self.steps.spawn(async move {
            // Should the daemon die in here, its successor will know of what.
            let marker = shared.quarantine.begin(candidate.hash, &file).await;
            let (hash, path) = (candidate.hash, candidate.path.clone());
            let (created, was_created) = oneshot::channel();
            let start = candidate.start(&shared.config, &shared.modules, || {
                // Nobody waits when the supervisor ends.
                created.send(()).unwrap_or(());
            });
            let tell = async {
                if was_created.await.is_ok() {
                    shared.report(Input::Created { file: file.clone() }).await;
                }
            };
            let (outcome, ()) = tokio::join!(start, tell);
            drop(marker);
            if outcome.as_ref().is_err_and(|not_started| not_started.leftover.is_none()) {
                // Nothing is mapped from it; it may never have been opened.
                remove_copy(&path);
            }
            shared.report(Input::Started { file, hash, outcome: Box::new(outcome) }).await;
        });
    }

    pub(super) fn started(&mut self, file: &Arc<str>, hash: ContentHash, outcome: Result<Running, NotStarted>) {
        let mut running = match outcome {
            Ok(running) => running,
            Err(NotStarted { refused, leftover }) => {
                if let Some(leftover) = leftover {
                    self.remember(file, *leftover);
                }
                return self.refuse(file, hash, refused);
            }
        };
        let Some(slot) = self.slots.get_mut(file) else { return };
        let place = slot.place;
        // Ordered while it was being started.
        if let Some(refusal) = slot.pinned_to_another(hash) {
            self.end(file, running, Duration::ZERO, "another content is pinned");
            return self.refuse(file, hash, refusal.into());
        }
        if slot.life.is_disabled() {
            slot.life.abandoned();
            return self.end(file, running, Duration::ZERO, "it was disabled");
        }
        if let Some(rival) = self.slower_rival(file, &running) {
            let reason = Refusal::IdTaken { id: rival.1, owner: file.to_string() };
            self.displace(&rival.0, reason.into());
        }
        let Some(slot) = self.slots.get_mut(file) else { return };
        let Config { handover, state_limit, .. } = self.shared.config;
        let handover = slot.running.as_ref().map(|old| Handover::between(old, &running, handover, state_limit));
        let (handover, nothing) = match handover {
            Some(handover) if handover.is_needed() => (Some(handover), None),
            other => (None, other.and_then(Handover::without)),
        };
        if handover.is_some() {
            // Routed to, and not delivered before it has its state.
            running.actor.mailbox.hold();
        }
        if let Err(taken) = self.shared.modules.install(running.offer(file, place)) {
            self.end(file, running, Duration::ZERO, "it was not served");
            return self.refuse(file, hash, Refusal::from(taken).into());
        }
        match handover {
            Some(handover) => self.hand_over(file, running, handover),
            None => {
                running.handover = nothing;
                self.serve(file, running);
            }
        }
    }

    /// What is routed to serves from now on, and what it replaced does not.
    pub(super) fn serve(&mut self, file: &Arc<str>, running: Running) {
        let Some(slot) = self.slots.get_mut(file) else { return };
        let (hash, generation) = (running.hash, running.actor.generation);
        let handover = running.handover.as_ref().map(Outcome::to_string);
        let moved =
            running.moved.then(|| "in a worker process: too many older generations are still mapped".to_owned());
        let outcome: Vec<String> = std::iter::once("running".to_owned()).chain(moved).chain(handover).collect();
        let outcome = outcome.join(", ");
        slot.life.started(hash);
        (slot.candidate, slot.last) = (None, None);
        self.shared.clone().watch_worker(&mut self.steps, file, &running);
        let old = slot.running.replace(running);
        let from = old.as_ref().map(|old| old.actor.generation);
        tracing::info!(
            file = &**file, %generation, hash = format!("{hash:.12}"), replaced = old.is_some(), outcome, "running"
        );
        slot.history.add(By::File, from, Some(generation), outcome);
        if let Some(old) = old {
            self.keep_warm(file, old);
            self.reconsider_rivals(file);
        }
        if self.slots.get(file).is_some_and(|slot| slot.warm.is_none()) {
            // Nothing to go back to, so that there is no probation.
            self.is_there_to_stay(file);
        }
        self.reconsider_needs();
    }

    /// Why a candidate has to wait, if modules that it needs are not served.
    fn unmet_needs(&mut self, file: &Arc<str>, candidate: &Candidate) -> Option<Refusal> {
        let roles = self.shared.config.roles.iter().map(|(role, _)| *role);
        let wants = Wants::of(candidate.served(roles));
        let missing = wants.missing(|role, id| self.shared.modules.find(role, id).is_some());
        if missing.is_empty() {
            return None;
        }
        self.slots.get_mut(file)?.wants = Some(wants);
        let wants = self.slots.iter().filter_map(|(file, slot)| Some((file, slot.wants.as_ref()?))).collect();
        let Some(needs::Circle { modules, files }) = needs::circle(file, &wants) else {
            return Some(Refusal::Needs(missing));
        };
        // The others in it were refused before it was closed.
        for file in files {
            if let Some(slot) = self.slots.get_mut(&file)
                && slot.life.refusal().is_some_and(|refused| matches!(refused.refusal, Refusal::Needs(_)))
            {
                slot.life.reconsider();
            }
        }
        Some(Refusal::NeedsCircle(modules))
    }

    /// Who was refused for the lack of a module may have it now.
    pub(super) fn reconsider_needs(&mut self) {
        for slot in self.slots.values_mut() {
            if slot.life.refusal().is_some_and(|refused| refused.refusal.is_about_needs()) {
                slot.life.reconsider();
            }
        }
    }

    /// Who was refused because this file had an id may have it now.
    pub(super) fn reconsider_rivals(&mut self, file: &Arc<str>) {
        for slot in self.slots.values_mut() {
            let rival = slot
                .life
                .refusal()
                .is_some_and(|refused| matches!(&refused.refusal, Refusal::IdTaken { owner, .. } if **owner == **file));
            if rival {
                slot.life.reconsider();
            }
        }
    }

    /// At the start, ids go to the first file by name. Its rival may have been faster: who is it, and which id is it?
    fn slower_rival(&self, file: &Arc<str>, running: &Running) -> Option<(Arc<str>, String)> {
        let slot = self.slots.get(file).filter(|slot| slot.first)?;
        let offer = running.offer(file, slot.place);
        let taken = self.shared.modules.check_ids(file, offer.served()).err()?;
        let owner = taken.owner?;
        self.slots.get(&owner).filter(|rival| rival.first && rival.place > slot.place)?;
        Some((owner, taken.id))
    }

    pub(super) fn refuse(&mut self, file: &Arc<str>, hash: ContentHash, refused: Refused) {
        let Some(slot) = self.slots.get_mut(file) else { return };
        log_refusal(file, &refused, slot.running.is_some());
        slot.note_refusal(&refused);
        slot.life.failed(hash, refused);
    }
}
