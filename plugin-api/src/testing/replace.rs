//! What a replacement of the file does to a plugin.

use std::time::Duration;

use super::{
    DRAIN, Fleet, Setup,
    calls::{Outcome, Waiter},
    daemon::{Daemon, Source},
    record::Deed,
    run::Mail,
};
use crate::{
    abi::kind,
    event::Event,
    manifest::{Manifest, Role},
    message::{Body, ModuleError},
};

impl Fleet {
    /// Replaces the plugin in every daemon by a new generation of the same code: what `muster plugin reload` does.
    ///
    /// # Errors
    /// As for [`Fleet::replace_by`].
    pub fn replace(&mut self) -> Result<(), ModuleError> {
        self.change_to(self.source.clone())
    }

    /// Replaces the plugin in every daemon by another one (of which only the source counts), such as its next version:
    /// the new one starts beside the old one, which ends what it has begun and hands over its state; then the old one is
    /// stopped and dropped. What modules have stored stays. A state that is not exported or not taken is a line of the
    /// transcript.
    ///
    /// # Errors
    /// When the new one does not start, or fails to import a state. The old one serves on, in those daemons that the new one
    /// has not reached.
    pub fn replace_by(&mut self, new: Setup) -> Result<(), ModuleError> {
        self.change_to(new.source)
    }

    fn change_to(&mut self, source: Source) -> Result<(), ModuleError> {
        let before = std::mem::replace(&mut self.source, source);
        let changed = (0..self.daemons.len()).try_for_each(|index| self.change(index));
        if changed.is_err() {
            self.source = before;
        }
        changed
    }

    fn change(&mut self, index: usize) -> Result<(), ModuleError> {
        self.settle();
        self.drain(index);
        let modules = self.world().rooms[index].modules.clone();
        let (new, count) = self.created(index)?;
        let states = self.exported(index);
        let old = std::mem::replace(&mut self.daemons[index], new);
        let handed_over = self.start_instances(index, count).and_then(|()| self.imported(index, states));
        if let Err(error) = handed_over {
            self.put_back(index, old, modules);
            return Err(error);
        }
        self.retire(index, old);
        self.begin_schedules(index);
        let greeted = {
            let world = self.world();
            world.rooms[index].role == Role::Monitor && world.rooms[index].linked
        };
        if greeted {
            self.tell(index, &Event::MasterConnected { again: false });
        }
        self.settle();
        Ok(())
    }

    /// Lets the calls end that a daemon works on, and cuts off what does not.
    fn drain(&mut self, index: usize) {
        let until = self.now() + DRAIN;
        let busy = |fleet: &Fleet| fleet.calls.waiting.values().any(|call| call.index == index);
        self.timers.forget_ticks(index);
        while busy(self) && self.now() < until {
            let next = self.timers.next().unwrap_or(until).min(until);
            self.pass_until(next.max(self.now() + Duration::from_millis(1)));
        }
    }

    /// What the instances of a daemon export: by module, the schema and the state.
    fn exported(&mut self, index: usize) -> Vec<(String, u32, Body)> {
        let mut states = Vec::new();
        for (manifest, number) in self.daemons[index].instances.clone().into_iter().zip(1..) {
            let Some(schema) = manifest.state else { continue };
            let mail = Mail { kind: kind::EXPORT, ..Mail::of(Body::ABSENT) };
            match self.life(index, number, mail) {
                Outcome::Answered { body, .. } if body.is_absent() => {}
                Outcome::Answered { body, .. } => states.push((manifest.id, schema, body)),
                other => self.note(index, number, format!("its state cannot be had: {}", other.reason())),
            }
        }
        states
    }

    /// Gives the new instances of a daemon what those before them have exported.
    fn imported(&mut self, index: usize, states: Vec<(String, u32, Body)>) -> Result<(), ModuleError> {
        for (id, schema, body) in states {
            let takes = |manifest: &Manifest| manifest.id == id && manifest.state.is_some();
            let Some(place) = self.daemons[index].instances.iter().position(takes) else { continue };
            let number = u32::try_from(place + 1).unwrap_or(u32::MAX);
            let mail = Mail { kind: kind::IMPORT, status: schema, ..Mail::of(body) };
            match self.life(index, number, mail) {
                Outcome::Answered { error, .. } if error.is_absent() => {
                    self.note(index, number, "it starts without the state".to_owned());
                }
                Outcome::Answered { .. } => {}
                other => return Err(format!("module {id} did not take over the state: {}", other.reason()).into()),
            }
        }
        Ok(())
    }

    fn note(&self, index: usize, instance: u32, reason: String) {
        self.world().record(index, instance, Deed::Fail { reason });
    }

    fn put_back(&mut self, index: usize, old: Daemon, modules: Vec<String>) {
        self.world().rooms[index].modules = modules;
        self.daemons[index] = old;
        self.begin_schedules(index);
    }

    /// Stops and drops the generation that was replaced; what it still waits for has no one to come back to.
    fn retire(&mut self, index: usize, old: Daemon) {
        let new = std::mem::replace(&mut self.daemons[index], old);
        self.end(index);
        self.timers.forget(index);
        self.calls.waiting.retain(|_, call| match &call.waiter {
            Waiter::Ask { index: asker, .. } => *asker != index && call.index != index,
            _ => call.index != index,
        });
        self.calls.gathers.retain(|_, gather| gather.index != index);
        self.ticking.retain(|(daemon, _)| *daemon != index);
        self.daemons[index] = new;
    }
}
