//! What a replacement of the file does to a plugin.

use std::time::Duration;

use super::{
    DRAIN, Fleet, Setup,
    calls::Waiter,
    daemon::{Daemon, Source},
};
use crate::{event::Event, manifest::Role, message::ModuleError};

impl Fleet {
    /// Replaces the plugin in every daemon by a new generation of the same code: what `muster plugin reload` does.
    ///
    /// # Errors
    /// As for [`Fleet::replace_by`].
    pub fn replace(&mut self) -> Result<(), ModuleError> {
        self.change_to(self.source.clone())
    }

    /// Replaces the plugin in every daemon by another one (of which only the source counts), such as its next version:
    /// the new one starts beside the old one, then gets all messages; the old one ends what it has begun, and is stopped and
    /// dropped. What modules have stored stays.
    ///
    /// # Errors
    /// When the new one does not start. The old one serves on, in those daemons that the new one has not reached.
    pub fn replace_by(&mut self, new: Setup) -> Result<(), ModuleError> {
        self.change_to(new.source)
    }

    fn change_to(&mut self, source: Source) -> Result<(), ModuleError> {
        self.source = source;
        for index in 0..self.daemons.len() {
            self.change(index)?;
        }
        Ok(())
    }

    fn change(&mut self, index: usize) -> Result<(), ModuleError> {
        self.settle();
        self.drain(index);
        let modules = self.world().rooms[index].modules.clone();
        let (new, count) = self.created(index)?;
        let old = std::mem::replace(&mut self.daemons[index], new);
        if let Err(error) = self.start_instances(index, count) {
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
